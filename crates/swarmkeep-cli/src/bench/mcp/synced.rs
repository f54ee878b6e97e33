//! What the disk takes for a call that is recorded before it is sent.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    thread::park_timeout,
    time::Duration,
};

use tokio::time::Instant;

use super::super::figure::Latencies;

/// As much as the beginning of a call writes.
const SYNCED_BYTES: usize = 600;
const FILE_BYTES: u64 = 8 << 20;

/// One write and one `fdatasync` after another for as long as `run`, into blocks that are there already, with a rest before each.
pub(super) fn synced(path: &Path, rest: Duration, run: Duration) -> io::Result<Latencies> {
    let mut file = File::create(path)?;
    file.write_all(&vec![0u8; FILE_BYTES as usize])?;
    file.sync_all()?;
    let (mut latencies, mut at) = (Latencies::default(), 0);
    let end = Instant::now() + run;
    while Instant::now() < end {
        if !rest.is_zero() {
            park_timeout(rest);
        }
        let since = Instant::now();
        file.write_all_at(&[b'x'; SYNCED_BYTES], at)?;
        file.sync_data()?;
        latencies.add(since);
        at = (at + SYNCED_BYTES as u64) % (FILE_BYTES - SYNCED_BYTES as u64);
    }
    Ok(latencies)
}
