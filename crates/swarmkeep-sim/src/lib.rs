//! A world in one thread: a store with its clients, the network between them, their clocks and the disk under it all, and
//! everything of it fails. One seed decides every bit of it: the same seed gives the same trace, byte for byte.
//!
//! The store is the real engine ([`swarmkeep::Swarmkeep`]) on the simulated disk, with the world's clock and randomness. It
//! runs on a runtime of its own, whose time stands still but for the world, and without threads ([`swarmkeep::Workers`]):
//! the world gives journal, applier and keeper their turns. Ending the runtime is what ends the process.
//!
//! What was acknowledged is written down by an [`oracle`] outside the store, before the client that got the answer does
//! anything more. The [`invariant`]s are functions of what the oracle knows and of what the store shows.
//!
//! # Reading the source
//!
//! [`weather`] (what a seed decides), [`world`] (what happens, in order of time), [`holder`] (the process with the store),
//! [`client`], [`network`], [`outside`] (where effects happen), [`tools`] (a tool server and its client, with the proxy between
//! them), [`oracle`], [`invariant`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a program of tests: a broken expectation is a panic, and a panic is a failed seed"
)]

pub mod client;
pub mod figures;
pub mod holder;
pub mod invariant;
pub mod network;
pub mod oracle;
pub mod outside;
pub mod reader;
pub mod tools;
pub mod trace;
pub mod weather;
pub mod world;

pub use figures::{Figures, Summary};
pub use world::{Ended, run};
