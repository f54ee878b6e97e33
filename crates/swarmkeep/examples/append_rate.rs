//! Durable appends through the whole engine: `cargo run --release --example append_rate -- [callers] [sessions] [seconds] [MiB in RAM]`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a measurement"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use swarmkeep::{Actor, Command, Json, Request, Settings, Swarmkeep};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).map(|argument| argument.parse().unwrap()).collect();
    let callers = numbers.first().copied().unwrap_or(64);
    let sessions = numbers.get(1).copied().unwrap_or(1_000);
    let seconds = numbers.get(2).copied().unwrap_or(5);
    let resident_bytes = numbers.get(3).map_or(Settings::default().resident_bytes, |mib| mib << 20);
    let folder = tempfile::tempdir_in(".").unwrap();
    let keep =
        Swarmkeep::open_with(folder.path().to_str().unwrap(), Settings { resident_bytes, ..Settings::default() })
            .await
            .unwrap();
    let mut handles = Vec::new();
    for n in 0..sessions {
        handles.push(keep.open_session(&format!("s{n}")).await.unwrap());
    }
    let handles = Arc::new(handles);
    let payload = Json::parse(&format!("\"{}\"", "x".repeat(198))).unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    for caller in 0..callers {
        let (handles, payload, done) = (handles.clone(), payload.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            let actor = Actor::new(format!("c{caller}")).unwrap();
            let mut next = caller;
            let mut latencies = Vec::new();
            while Instant::now() < until {
                let session = &handles[usize::try_from(next % sessions).unwrap()];
                next += callers;
                let command = Command::Record {
                    kind: "step".into(),
                    aggregate: None,
                    payload: payload.clone(),
                    blobs: std::collections::BTreeMap::new(),
                };
                let sent = Instant::now();
                session.submit(Request::of(actor.clone(), command)).await.unwrap();
                latencies.push(sent.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
            }
            latencies
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    let took = begun.elapsed();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "{:.0} appends/s, p50 {} us, p99 {} us, p99.9 {} us",
        done.load(Ordering::Relaxed) as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
    let standing = keep.health().store.unwrap();
    println!("behind: {} bytes; draining", standing.unapplied_bytes);
    let begun = Instant::now();
    keep.close().await.unwrap();
    println!("applied and closed after {:?}", begun.elapsed());
}
