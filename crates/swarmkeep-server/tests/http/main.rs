//! The HTTP surface, by behaviour: a real server on a port of its own, a real client, a store in a folder of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod bulk;
mod daemon;
mod feeds;
mod guard;
mod hostile;
mod idempotency;
mod listening;
mod routes;
mod schemas;
