//! The journal and the blob files under a disk that loses power, lies, rots and runs out of room.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod blobs;
mod faults;
mod full;
mod history;
mod kit;
mod mixed;
mod nested;
mod order;
mod power;
mod rot;
mod tally;
