//! RAM while large results pass: it may depend on how large one is, and not on how many there were.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::{Figure, Plan, Scratch, daemon::Daemon, figure::peak_bytes},
    blocking, proxied, server,
    talk::{Call, Talk},
};
use crate::failure::Failure;

/// One result.
const RESULT_BYTES: u64 = 64 << 20;
/// So many pass before the first look, and so many more before the second.
const PASS: u32 = 4;
/// By so much the peak may grow between the two: the allocator's own.
const GROWTH: f64 = 1.15;

pub(super) async fn take(_: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let store = scratch.path("mcp");
    let daemon = Daemon::start(&store).await?;
    let daemon_pid = daemon.pid();
    let figures = blocking("large results", move || {
        let mut direct = Talk::start(server(&[])?)?;
        let direct_per_s = pass(&mut direct)?;
        drop(direct);
        let mut talk = Talk::start(proxied(&store, "bench/large", &[])?)?;
        let looks = [("the daemon", daemon_pid), ("the shim", talk.pid())];
        let per_s = pass(&mut talk)?;
        let first = looks.map(|(_, pid)| peak_bytes(pid));
        for _ in 0..2 {
            pass(&mut talk)?;
        }
        let figures = looks.into_iter().zip(first).map(|((who, pid), first)| {
            let last = peak_bytes(pid);
            let figure = Figure::new(
                format!("MCP proxy: peak RAM of {who} after {} results of 64 MiB", 3 * PASS),
                "MB",
                vec![last as f64 / 1e6],
            );
            let figure = figure.beside(format!("after {PASS} of them"), &[first as f64 / 1e6]);
            let figure = figure.note(format!("{:.1} times one result", last as f64 / RESULT_BYTES as f64));
            if last == 0 {
                figure.note("this system does not say what a process has had")
            } else {
                figure.at_most_of(GROWTH)
            }
        });
        let mut figures: Vec<Figure> = figures.collect();
        figures.push(
            Figure::new("MCP proxy: results of 64 MiB, one after another", "MB/s", vec![per_s])
                .beside("direct", &[direct_per_s]),
        );
        Ok(figures)
    })
    .await?;
    daemon.kill().await?;
    Ok(figures)
}

/// Lets some results pass; megabytes a second.
fn pass(talk: &mut Talk) -> std::io::Result<f64> {
    let since = Instant::now();
    for _ in 0..PASS {
        talk.one(Call::Large(RESULT_BYTES))?;
    }
    let took = since.elapsed().max(Duration::from_millis(1));
    Ok(f64::from(PASS) * RESULT_BYTES as f64 / 1e6 / took.as_secs_f64())
}
