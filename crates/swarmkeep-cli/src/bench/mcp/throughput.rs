//! Calls a second with many under way, with the proxy and without it.

use std::{path::Path, time::Duration};

use super::{
    super::{Figure, Plan, Scratch},
    blocking, both,
    synced::synced,
    talk::{Call, IN_FLIGHT},
};
use crate::{chaos::LATE, failure::Failure};

/// What is called, what it is, and the share of the direct throughput that is wanted.
const ROUNDS: [(Call, &str, f64); 4] = [
    (Call::Read, "class `read`, a server that answers at once", 0.35),
    (Call::ReadLate, "class `read`, a server that takes 5 ms", 0.95),
    (Call::ToolLate, "class `at_most_once`, a server that takes 5 ms", 0.95),
    // The last: what it leaves to be copied into records.db takes its time beside whatever comes after it.
    (Call::Tool, "class `at_most_once`, a server that answers at once", 0.35),
];

pub(super) async fn take(plan: &Plan, scratch: &Scratch, store: &Path) -> Result<Vec<Figure>, Failure> {
    let (store, bare, plan) = (store.to_owned(), scratch.path("bare"), *plan);
    blocking("many calls at once", move || {
        let (mut direct, mut through) = both(&store, "bench/throughput")?;
        let run = Duration::from_millis(plan.run_ms);
        let mut figures = Vec::new();
        for (call, what, share) in ROUNDS {
            through.many_at_once(call, run / 10)?;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..plan.runs {
                theirs.push(direct.many_at_once(call, run)?);
                ours.push(through.many_at_once(call, run)?);
            }
            let mut figure = Figure::new(format!("MCP proxy, {IN_FLIGHT} in flight: {what}"), "/s", ours)
                .beside("direct", &theirs)
                .at_least_of(&[share]);
            if call == Call::ToolLate {
                // A disk that rested takes longer: nobody who syncs before he sends can be quicker than this.
                let mut syncs = synced(&bare, LATE, run)?;
                let left = LATE.as_secs_f64() / (LATE.as_secs_f64() + syncs.at(0.5) / 1e6);
                figure = figure.note(format!(
                    "one fdatasync after a rest of {} ms: {}; with one before each call {left:.2} × is left",
                    LATE.as_millis(),
                    syncs.say()
                ));
            }
            figures.push(figure);
        }
        Ok(figures)
    })
    .await
}
