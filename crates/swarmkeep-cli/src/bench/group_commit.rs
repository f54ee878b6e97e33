//! The limit: a bare file that is written and synced once for all who wait. No state, no index, no rotation, no second
//! copy; the blocks are already written. An upper bound for any store on this disk.

use std::{fs::File, io::Write, os::unix::fs::FileExt, path::Path};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{
    figure::Latencies,
    scratch::{broke_off, system},
};
use crate::failure::Failure;

const FILE_BYTES: u64 = 64 << 20;
/// What one append writes: 200 bytes of payload and the header of a record.
const APPEND_BYTES: usize = 344;

type Waiting = (Vec<u8>, oneshot::Sender<()>);

/// Appends per second, `at_once` callers, for `run_ms`.
pub(super) async fn measure(path: &Path, at_once: usize, run_ms: u64) -> Result<(f64, Latencies), Failure> {
    let mut file = File::create(path).map_err(system("bare file"))?;
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..FILE_BYTES >> 20 {
        file.write_all(&zeros).map_err(system("bare file"))?;
    }
    file.sync_all().map_err(system("bare file"))?;
    let (send, mut waiting) = mpsc::channel::<Waiting>(4096);
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut at, mut buffer, mut done) = (0, Vec::new(), Vec::new());
        while let Some(first) = waiting.blocking_recv() {
            let mut next = Some(first);
            while let Some((bytes, answer)) = next {
                buffer.extend_from_slice(&bytes);
                done.push(answer);
                next = waiting.try_recv().ok();
            }
            if at + buffer.len() as u64 > FILE_BYTES {
                at = 0;
            }
            file.write_all_at(&buffer, at)?;
            file.sync_data()?;
            at += buffer.len() as u64;
            buffer.clear();
            for answer in done.drain(..) {
                // A caller whose time is over no longer waits.
                let _ = answer.send(());
            }
        }
        Ok(())
    });
    let began = Instant::now();
    let end = began + std::time::Duration::from_millis(run_ms);
    let mut callers = JoinSet::new();
    for _ in 0..at_once {
        let send = send.clone();
        callers.spawn(async move {
            let mut latencies = Latencies::default();
            while Instant::now() < end {
                let since = Instant::now();
                let (answer, synced) = oneshot::channel();
                if send.send((vec![b'x'; APPEND_BYTES], answer)).await.is_err() || synced.await.is_err() {
                    break;
                }
                latencies.add(since);
            }
            latencies
        });
    }
    drop(send);
    let mut all = Latencies::default();
    while let Some(latencies) = callers.join_next().await {
        all.join(latencies.map_err(broke_off)?);
    }
    let seconds = began.elapsed().as_secs_f64();
    match tokio::task::spawn_blocking(move || writer.join()).await.map_err(broke_off)? {
        Ok(written) => written.map_err(system("bare file"))?,
        Err(_) => return Err(Failure::refused("broke_off", "the bare file's writer broke off", "please report it")),
    }
    Ok((all.len() as f64 / seconds, all))
}
