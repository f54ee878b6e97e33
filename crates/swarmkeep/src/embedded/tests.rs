//! What a bug below the applier comes to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use super::EmbeddedLog;
use crate::{
    Actor, OsEntropy, Settings, Swarmkeep, SystemClock,
    disk::{Disk, DiskFile, OpenHow, RealDisk},
};

/// The real disk, with a bug: while it is armed, reading a blob's file panics.
#[derive(Debug, Default)]
struct Buggy {
    armed: AtomicBool,
    panics: AtomicUsize,
}

impl Disk for Buggy {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        let blob = path.components().any(|part| part.as_os_str() == "blobs");
        if blob && how == OpenHow::Read && self.armed.load(Ordering::SeqCst) {
            self.panics.fetch_add(1, Ordering::SeqCst);
            panic!("a planted bug");
        }
        RealDisk.open(path, how)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_while_applying_is_said_and_work_goes_on_when_its_cause_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Buggy::default());
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy));
    let log = EmbeddedLog::open_on(disk.clone(), folder.path(), &Settings::default(), clock.clone(), entropy.clone())
        .unwrap();
    let log = Arc::new(log);
    let keep = Swarmkeep::start(log.clone(), Some(log.clone()), Settings::default(), clock, entropy).await.unwrap();
    keep.wait_ready().await;
    assert!(keep.is_ready());
    let session = keep.open_session("s").await.unwrap();

    disk.armed.store(true, Ordering::SeqCst);
    let large = Bytes::from(vec![7; 100_000]);
    session.put_blob("large", large.clone(), Actor::system(), None).await.unwrap();
    until(|| log.is_stuck()).await;
    assert!(!keep.is_ready(), "a store that applies nothing is not ready");
    let trouble = log.standing().trouble.unwrap();
    assert!(trouble.contains("a planted bug"), "{trouble}");
    // Saves that come in meanwhile do not make it try any sooner.
    let before = disk.panics.load(Ordering::SeqCst);
    for _ in 0..50 {
        log.progress.hurry();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(disk.panics.load(Ordering::SeqCst) <= before + 1, "a failure is not repeated with every call");

    disk.armed.store(false, Ordering::SeqCst);
    until(|| !log.is_stuck()).await;
    session.set_memory("key", "value").await.unwrap();
    assert!(keep.is_ready());
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_applier_nothing_more_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Swarmkeep::open(folder.path().to_str().unwrap()).await.unwrap();
    let session = keep.open_session("s").await.unwrap();
    let log = keep.engine.embedded.clone().unwrap();
    log.progress.end("the applier: a panic: planted");
    let error = session.set_memory("key", "value").await.unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Unavailable);
    assert!(error.to_string().contains("planted"), "{error}");
    assert!(!keep.is_ready());
}
