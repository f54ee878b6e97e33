//! Calls a second with many under way, with the proxy and without it.

use std::{path::Path, time::Duration};

use super::{
    super::{Figure, Plan},
    blocking, both,
    talk::{Call, IN_FLIGHT},
};
use crate::failure::Failure;

/// What is called, what it is, and the share of the direct throughput that is wanted.
const ROUNDS: [(Call, &str, f64); 4] = [
    (Call::Read, "class `read`, a server that answers at once", 0.35),
    (Call::ReadLate, "class `read`, a server that takes 5 ms", 0.95),
    (Call::ToolLate, "class `at_most_once`, a server that takes 5 ms", 0.95),
    // The last: what it leaves to be copied into records.db takes its time beside whatever comes after it.
    (Call::Tool, "class `at_most_once`, a server that answers at once", 0.35),
];

pub(super) async fn take(plan: &Plan, store: &Path) -> Result<Vec<Figure>, Failure> {
    let (store, plan) = (store.to_owned(), *plan);
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
            figures.push(
                Figure::new(format!("MCP proxy, {IN_FLIGHT} in flight: {what}"), "/s", ours)
                    .beside("direct", &theirs)
                    .at_least_of(&[share]),
            );
        }
        Ok(figures)
    })
    .await
}
