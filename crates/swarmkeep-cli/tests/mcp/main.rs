//! The MCP server through the binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod behind;
#[path = "../binary/mod.rs"]
mod binary;
mod damage;
mod lives;
mod peer;
mod ruv_swarm;
mod tasks;
mod tools;

/// The newest revision in which clients begin with `initialize`.
const LEGACY: &str = "2025-11-25";
