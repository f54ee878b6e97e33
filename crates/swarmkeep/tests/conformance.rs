//! One suite, every log of this crate, each plain and behind the faulty wrapper with nothing planned.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use swarmkeep::{
    OsEntropy, Settings, SystemClock,
    embedded::EmbeddedLog,
    log::{Ephemeral, Faulty},
};
use swarmkeep_core::log::{
    Log, LogFuture,
    conformance::{self, Fixture},
};

/// Embedded logs need their folder for the next open: the wrapper remembers which log lies where.
#[derive(Default)]
struct Embedded {
    faulty: bool,
    open: Mutex<Vec<(usize, Arc<EmbeddedLog>, PathBuf)>>,
    folders: Mutex<Vec<tempfile::TempDir>>,
}

fn address(log: &Arc<dyn Log>) -> usize {
    Arc::as_ptr(log).cast::<()>() as usize
}

impl Embedded {
    fn at(&self, folder: PathBuf) -> Arc<dyn Log> {
        let embedded =
            EmbeddedLog::open(&folder, &Settings::default(), Arc::new(SystemClock::new()), Arc::new(OsEntropy))
                .unwrap();
        let embedded = Arc::new(embedded);
        let log: Arc<dyn Log> = if self.faulty { Arc::new(Faulty::new(embedded.clone())) } else { embedded.clone() };
        self.open.lock().unwrap().push((address(&log), embedded, folder));
        log
    }
}

impl Fixture for Embedded {
    fn open(&self) -> LogFuture<'_, Arc<dyn Log>> {
        let folder = tempfile::tempdir().unwrap();
        let log = self.at(folder.path().to_owned());
        self.folders.lock().unwrap().push(folder);
        Box::pin(std::future::ready(Ok(log)))
    }

    fn reopen(&self, log: Arc<dyn Log>) -> LogFuture<'_, Arc<dyn Log>> {
        let (embedded, folder) = {
            let mut open = self.open.lock().unwrap();
            let at = open.iter().position(|(known, ..)| *known == address(&log)).unwrap();
            let (_, embedded, folder) = open.remove(at);
            (embedded, folder)
        };
        drop(log);
        embedded.close().unwrap();
        drop(embedded);
        Box::pin(std::future::ready(Ok(self.at(folder))))
    }
}

struct Gone;

impl Fixture for Gone {
    fn open(&self) -> LogFuture<'_, Arc<dyn Log>> {
        let log: Arc<dyn Log> = Arc::new(Ephemeral::new().unwrap());
        Box::pin(std::future::ready(Ok(log)))
    }

    fn reopen(&self, log: Arc<dyn Log>) -> LogFuture<'_, Arc<dyn Log>> {
        Box::pin(std::future::ready(Ok(log)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_log_keeps_the_contract() {
    conformance::all(&Embedded::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_the_faulty_wrapper_too() {
    conformance::all(&Embedded { faulty: true, ..Embedded::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ephemeral_log_keeps_the_contract() {
    conformance::all(&Gone).await;
}
