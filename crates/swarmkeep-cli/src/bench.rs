//! Measurements of this machine, each beside its limit or its peer in the same run: one file per figure.
//!
//! Medians of several runs; latencies as p50, p99 and p99.9; the machine's load is printed, because on a loaded machine
//! every synced store shows the scheduler's tick and not the disk.

mod append;
mod bulk;
mod checkpoint;
mod comeback;
mod create;
mod daemon;
mod disk;
mod figure;
mod group_commit;
mod http;
mod mcp;
mod query;
mod ram;
mod read;
mod redis;
mod restart;
mod scratch;
mod sqlite;
mod sustained;
mod wire;

use std::{future::Future, pin::Pin};

pub(crate) use self::{
    figure::{Figure, load, number},
    scratch::Scratch,
};
use crate::failure::Failure;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Runs, of which the median counts.
    pub(crate) runs: usize,
    /// Length of one run, in milliseconds.
    pub(crate) run_ms: u64,
    /// Length of a sustained run, in milliseconds.
    pub(crate) sustained_ms: u64,
    /// How long servers flap, in milliseconds.
    pub(crate) flapping_ms: u64,
    /// Sessions where many are wanted.
    pub(crate) many: usize,
}

impl Plan {
    /// The one whose figures are published.
    pub(crate) const FULL: Self =
        Self { runs: 5, run_ms: 2_000, sustained_ms: 60_000, flapping_ms: 20_000, many: 100_000 };
    /// Whether it works, and about how fast.
    pub(crate) const QUICK: Self = Self { runs: 3, run_ms: 400, sustained_ms: 2_000, flapping_ms: 6_000, many: 2_000 };

    /// The same, with so long for what is measured for long.
    pub(crate) fn lasting(self, seconds: u64) -> Self {
        let long_ms = seconds.saturating_mul(1_000);
        Self { sustained_ms: long_ms, flapping_ms: long_ms, ..self }
    }
}

type Measuring<'a> = Pin<Box<dyn Future<Output = Result<Vec<Figure>, Failure>> + 'a>>;

/// One measurement: its name, what it is about, and how it is taken.
pub(crate) struct Measurement {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) take: for<'a> fn(&'a Plan, &'a Scratch) -> Measuring<'a>,
}

macro_rules! measurements {
    ($($name:literal: $about:literal => $take:path,)+) => {
        /// All of them, in the order in which they are taken.
        pub(crate) const ALL: &[Measurement] = &[
            $(Measurement { name: $name, about: $about, take: |plan, scratch| Box::pin($take(plan, scratch)) },)+
        ];
    };
}

measurements! {
    "ram": "what an idle engine adds to a program; 100,000 resident sessions" => ram::take,
    "append": "durable appends in process, 64 at once and 1 at a time, beside a bare file with group commit" => append::take,
    "read": "hot reads in process" => read::take,
    "create": "sessions made, 64 at once" => create::take,
    "checkpoint": "checkpoints of 20 KiB" => checkpoint::take,
    "query": "typed queries across many sessions" => query::take,
    "disk": "disk after 10,000 turns of one session with a 60 KB transcript" => disk::take,
    "http": "one append a request, 64 connections, beside the same server's no-op route and Redis" => http::take,
    "bulk": "NDJSON appends, beside Redis with pipelines of 16" => bulk::take,
    "restart": "coming back after kill -9 with many sessions, beside SQLite reading the same rows" => restart::take,
    "comeback": "kill -9 with 10,000 sessions at work: first answer, and all ready" => comeback::take,
    "sustained": "appends with everything applied, beside SQLite alone" => sustained::take,
    "mcp": "what the proxy before a tool server costs, beside the same client without it; servers that flap" => mcp::take,
}

/// The payload of one append: 200 bytes of JSON.
pub(crate) fn payload(number: u64) -> String {
    format!("{{\"n\":\"{number:012}\",\"text\":\"{}\"}}", "x".repeat(200 - 30))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_payload_is_200_bytes_of_json() {
        assert_eq!(super::payload(7).len(), 200);
        assert!(swarmkeep::Json::parse(&super::payload(7)).is_ok());
    }
}
