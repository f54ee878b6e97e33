//! How fast the journal acknowledges, beside a bare file with the same kind of group commit, in one run.
//!
//! `cargo run --release --example journal_rate [FOLDER] [SECONDS]` — the folder must be on the disk that is meant (not tmpfs).
//! An append is a record with a 200-byte payload. Rounds alternate; medians and the best are printed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a measurement: it reads the clock, and stops when something is wrong"
)]

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use swarmkeep::{
    disk::RealDisk,
    journal::{Entry, Journal, Settings},
};
use swarmkeep_core::{
    Epoch, SessionId,
    clock::{Clock, Entropy},
    log::{Durability, Group, Head},
    record,
};
use tokio::sync::oneshot;

#[derive(Debug)]
struct System;

impl Clock for System {
    fn now_ms(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
    }
    fn monotonic_ms(&self) -> u64 {
        self.now_ms()
    }
}

impl Entropy for System {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).unwrap();
    }
}

fn group(session: u8) -> Group {
    let mut records = Vec::new();
    let session = SessionId([session; 16]);
    let after = Head::default();
    let head = record::encode(&mut records, session, after, Epoch(1), 1, [0; 16], &[b'x'; 200]);
    Group { session, epoch: Epoch(1), after, head, count: 1, records: Bytes::from(records), blobs: Vec::new() }
}

type Waiting = (Mutex<Vec<(Bytes, oneshot::Sender<()>)>>, Condvar);

/// A bare file: preallocated and written, one thread that writes what is queued and syncs, a channel per append.
struct Bare {
    state: Arc<Waiting>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bare {
    fn open(path: &Path) -> Self {
        const SIZE: u64 = 8 << 20;
        let file: File = OpenOptions::new().create(true).read(true).write(true).truncate(true).open(path).unwrap();
        file.write_all_at(&vec![0; SIZE as usize], 0).unwrap();
        file.sync_all().unwrap();
        let state: Arc<Waiting> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopping) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut offset, mut buffer) = (0, Vec::new());
            loop {
                let mut queue = shared.0.lock().unwrap();
                while queue.is_empty() {
                    if stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    queue = shared.1.wait(queue).unwrap();
                }
                let batch = std::mem::take(&mut *queue);
                drop(queue);
                buffer.clear();
                for (bytes, _) in &batch {
                    let crc = crc32c::crc32c(bytes);
                    buffer.extend_from_slice(&crc.to_le_bytes());
                    buffer.extend_from_slice(bytes);
                }
                if offset + buffer.len() as u64 > SIZE {
                    offset = 0;
                }
                file.write_all_at(&buffer, offset).unwrap();
                file.sync_data().unwrap();
                offset += buffer.len() as u64;
                for (_, told) in batch {
                    let _ = told.send(());
                }
            }
        });
        Self { state, stop, thread: Some(thread) }
    }

    async fn append(&self, bytes: Bytes) {
        let (tell, told) = oneshot::channel();
        let first = {
            let mut queue = self.state.0.lock().unwrap();
            queue.push((bytes, tell));
            queue.len() == 1
        };
        if first {
            self.state.1.notify_one();
        }
        told.await.unwrap();
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.state.1.notify_all();
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Round {
    rate: f64,
    p50: f64,
    p99: f64,
    p999: f64,
}

async fn callers<F, Fut>(count: usize, length: Duration, append: F) -> Round
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let start = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let append = append.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < length {
                    let begun = Instant::now();
                    append().await;
                    times.push(begun.elapsed().as_nanos() as u32);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| f64::from(times[((times.len() - 1) as f64 * share) as usize]) / 1000.0;
    Round { rate, p50: at(0.5), p99: at(0.99), p999: at(0.999) }
}

fn print(name: &str, count: usize, mut rounds: Vec<Round>) -> (f64, f64) {
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let middle = &rounds[rounds.len() / 2];
    let best = rounds.last().unwrap();
    println!(
        "{count:>3} at once  {name:<8} {:>9.0}/s (best {:>9.0})   p50 {:>7.1} µs  p99 {:>8.1} µs  p99.9 {:>8.1} µs",
        middle.rate, best.rate, middle.p50, middle.p99, middle.p999
    );
    (middle.rate, middle.p50)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "target".into());
    let length = Duration::from_secs_f64(arguments.next().map_or(1.0, |text| text.parse().unwrap()));
    let dir = tempfile::tempdir_in(folder).unwrap();
    let system = Arc::new(System);
    let opened =
        Journal::open(Arc::new(RealDisk), dir.path(), Settings::default(), None, system.clone(), system).unwrap();
    let (applied, frames) = std::sync::mpsc::sync_channel::<Arc<swarmkeep::journal::Frame>>(100_000);
    let journal = Arc::new(opened.start(Box::new(move |frame| drop(applied.try_send(frame)))).unwrap());
    let retiring = Arc::clone(&journal);
    // Stands in for the applier: gives segments back once a few MiB have gone by.
    let applier = std::thread::spawn(move || {
        let mut bytes = 0;
        for frame in frames {
            bytes += frame.bytes;
            if bytes > 4 << 20 {
                bytes = 0;
                retiring.retire(frame.position, frame.hash).unwrap();
            }
        }
    });
    let bare = Arc::new(Bare::open(&dir.path().join("bare")));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load {}", load.trim());
    for count in [1, 16, 64] {
        let (mut ours, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let (file, entry) = (Arc::clone(&bare), group(1).records);
            bares.push(
                callers(count, length, move || {
                    let (file, entry) = (Arc::clone(&file), entry.clone());
                    async move { file.append(entry).await }
                })
                .await,
            );
            let (log, entry) = (Arc::clone(&journal), group(1));
            ours.push(
                callers(count, length, move || {
                    let (log, entry) = (Arc::clone(&log), Entry::Records(entry.clone()));
                    async move { log.append(entry, 0, Durability::Durable).unwrap().await.map(|_| ()).unwrap() }
                })
                .await,
            );
        }
        let bare = print("bare", count, bares);
        let ours = print("journal", count, ours);
        println!("            journal / bare: rate {:.2}, p50 {:.2}", ours.0 / bare.0, ours.1 / bare.1);
    }
    journal.close();
    drop(journal);
    drop(applier);
}
