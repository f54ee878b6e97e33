//! A client, its shim's words, the daemon's end and a real server as a child; killed one by one. The session's log says what
//! was carried out, and the server's own file of effects says whether that is true.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::result_large_err,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod client;
mod daemon;
mod http;
mod upstream;
