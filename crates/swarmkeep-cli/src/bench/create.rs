//! Sessions made, 64 at once.

use swarmkeep::{NewSession, Settings};
use tokio::{task::JoinSet, time::Instant};

use super::{
    Figure, Plan, Scratch,
    figure::Latencies,
    scratch::{actor, broke_off, name},
};
use crate::{failure::Failure, verb::serve::refused};

const EACH: usize = 100;

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let keep = scratch.store(Settings::default()).await?;
    let (mut p99, mut rates, mut latencies) = (Vec::new(), Vec::new(), Latencies::default());
    for run in 0..plan.runs {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..64 {
            let keep = keep.clone();
            callers.spawn(async move {
                let mut latencies = Latencies::default();
                for number in 0..EACH {
                    let name = name((run * 64 + caller) * EACH + number)?;
                    let since = Instant::now();
                    keep.create_session(NewSession::new(name), &actor()).await.map_err(refused)?;
                    latencies.add(since);
                }
                Ok::<_, Failure>(latencies)
            });
        }
        let mut all = Latencies::default();
        while let Some(ended) = callers.join_next().await {
            all.join(ended.map_err(broke_off)??);
        }
        rates.push(all.len() as f64 / began.elapsed().as_secs_f64());
        p99.push(all.at(0.99) / 1000.0);
        latencies.join(all);
    }
    keep.close().await.map_err(refused)?;
    let rate = super::figure::number(super::figure::median(&rates));
    Ok(vec![
        Figure::new("session create, 64 at once, p99", "ms", p99)
            .at_most(5.0)
            .note(latencies.say())
            .note(format!("{rate} a second")),
    ])
}
