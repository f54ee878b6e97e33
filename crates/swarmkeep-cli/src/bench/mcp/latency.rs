//! How much later an answer comes: the middle one with the proxy less the middle one without it.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{Figure, Plan, Scratch, figure::Latencies},
    blocking, both,
    talk::Call,
};
use crate::failure::Failure;

/// What the proxy may add, in microseconds.
const ADDED_US: f64 = 150.0;
/// What is synced for comparison: as much as the beginning of a call writes.
const SYNCED_BYTES: usize = 600;
const FILE_BYTES: u64 = 8 << 20;

/// Latencies of all runs, and what was added in each.
#[derive(Default)]
struct Measured {
    direct: Latencies,
    through: Latencies,
    added: Vec<f64>,
}

impl Measured {
    fn add(&mut self, mut direct: Latencies, mut through: Latencies) {
        self.added.push(through.at(0.5) - direct.at(0.5));
        self.direct.join(direct);
        self.through.join(through);
    }

    fn figure(mut self, what: &str, most: f64) -> Figure {
        Figure::new(what, "µs", self.added)
            .at_most(most)
            .note(format!("through the proxy: {}", self.through.say()))
            .note(format!("direct: {}", self.direct.say()))
    }
}

pub(super) async fn take(plan: &Plan, scratch: &Scratch, store: &Path) -> Result<Vec<Figure>, Failure> {
    let (store, bare, plan) = (store.to_owned(), scratch.path("bare"), *plan);
    blocking("calls one by one", move || {
        let (mut direct, mut through) = both(&store, "bench/latency")?;
        let run = Duration::from_millis(plan.run_ms);
        let (mut reads, mut tools, mut syncs) = (Measured::default(), Measured::default(), Latencies::default());
        for call in [Call::Read, Call::Tool] {
            through.one_by_one(call, run / 10)?;
        }
        for _ in 0..plan.runs {
            for (call, measured) in [(Call::Read, &mut reads), (Call::Tool, &mut tools)] {
                measured.add(direct.one_by_one(call, run)?, through.one_by_one(call, run)?);
            }
            syncs.join(synced(&bare, run / 2)?);
        }
        let sync = syncs.at(0.5);
        Ok(vec![
            reads.figure("MCP proxy, echo: what it adds to a call of class `read`, p50", ADDED_US),
            tools
                .figure("MCP proxy, echo: what it adds to a call of class `at_most_once`, p50", ADDED_US + sync)
                .note(format!("one fdatasync of as many bytes: {}", syncs.say())),
        ])
    })
    .await
}

/// One write and one `fdatasync` after another, into blocks that are there already.
fn synced(path: &Path, run: Duration) -> io::Result<Latencies> {
    let mut file = File::create(path)?;
    file.write_all(&vec![0u8; FILE_BYTES as usize])?;
    file.sync_all()?;
    let (mut latencies, mut at) = (Latencies::default(), 0);
    let end = Instant::now() + run;
    while Instant::now() < end {
        let since = Instant::now();
        file.write_all_at(&[b'x'; SYNCED_BYTES], at)?;
        file.sync_data()?;
        latencies.add(since);
        at = (at + SYNCED_BYTES as u64) % (FILE_BYTES - SYNCED_BYTES as u64);
    }
    Ok(latencies)
}
