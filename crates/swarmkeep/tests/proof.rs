//! `verify` while the store is at work: it proves all that was acknowledged before it began, and finds nothing that is not so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use swarmkeep::{Actor, Command, Json, Request, Swarmkeep};
use tokio::sync::Semaphore;

fn record(n: u64) -> Request {
    let payload = Json::encode(&n).unwrap();
    let record =
        Command::Record { kind: "step".into(), aggregate: None, payload, blobs: std::collections::BTreeMap::new() };
    Request::of(Actor::system(), record)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_journal_only_is_proved_too() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Swarmkeep::open(folder.path().join("store").to_str().unwrap()).await.unwrap();
    for round in 1..=20 {
        // Asked the moment it is acknowledged.
        let session = keep.open_session(&format!("s{round}")).await.unwrap();
        let written = session.submit(record(round)).await.unwrap().head.seq;
        let report = keep.verify(None, |_| {}).await.unwrap();
        assert_eq!(report.findings, vec![]);
        assert_eq!((report.sessions, report.behind), (round, None));
        assert_eq!(report.records, round * written.0);
    }
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_at_work_is_not_taken_for_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Swarmkeep::open(folder.path().join("store").to_str().unwrap()).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    // What is written while one look lasts: bounded, for the next look has to read all of it.
    let turn = Arc::new(Semaphore::new(0));
    let mut writers = Vec::new();
    for writer in 0..8 {
        let session = keep.open_session(&format!("s{}", writer % 2)).await.unwrap();
        let (is_over, turn) = (is_over.clone(), turn.clone());
        writers.push(tokio::spawn(async move {
            let mut n = 0;
            loop {
                turn.acquire().await.unwrap().forget();
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                n += 1;
                session.submit(record(n)).await.unwrap();
            }
        }));
    }
    for _ in 0..20 {
        turn.add_permits(200);
        let report = keep.verify(None, |_| {}).await.unwrap();
        assert_eq!(report.findings, vec![]);
    }
    is_over.store(true, Ordering::Relaxed);
    turn.add_permits(8 * 200);
    for writer in writers {
        writer.await.unwrap();
    }
    let report = keep.verify(None, |_| {}).await.unwrap();
    assert_eq!((report.findings, report.views_not_compared), (vec![], 0));
    keep.close().await.unwrap();
}
