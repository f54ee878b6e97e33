//! The whole store (journal, records.db, views.db, blob files, second copies) on a disk that loses power, fails and rots.
//!
//! `SWARMKEEP_DISK_SEED` chooses the history, `SWARMKEEP_DISK_IMAGES` how many images a test tries at most. The figures go
//! to stdout, and, one line of JSON each, to the file that `SWARMKEEP_DISK_FIGURES` names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod check;
mod faults;
mod figures;
mod full;
#[path = "../journal/kit.rs"]
#[allow(dead_code, reason = "one checker uses a part of it")]
mod kit;
mod named;
mod power;
mod recovering;
mod remaking;
mod rot;
mod teeth;
mod work;
mod world;
