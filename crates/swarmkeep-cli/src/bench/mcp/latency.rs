//! How much later an answer comes: the middle one with the proxy less the middle one without it.

use std::{path::Path, time::Duration};

use super::{
    super::{Figure, Plan, Scratch, figure::Latencies},
    blocking, both,
    synced::synced,
    talk::Call,
};
use crate::failure::Failure;

/// What the proxy may add, in microseconds.
const ADDED_US: f64 = 150.0;

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
            syncs.join(synced(&bare, Duration::ZERO, run / 2)?);
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
