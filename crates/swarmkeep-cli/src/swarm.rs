//! A small swarm at work through the real daemon, and what is done to it: by the demo, and by chaos.
//!
//! Nobody is believed. Each agent is a process of its own ([`worker`]) that writes down every acknowledgement it gets
//! ([`ledger`]), synced, before its next request, and does one thing outside the session: it appends a line to a file.
//! When the work is over the daemon is killed once more, started, and asked for its log; [`check`] compares that with what
//! the agents wrote down and with the lines in the file.

pub(crate) mod check;
pub(crate) mod dice;
pub(crate) mod folder;
mod ledger;
mod link;
pub(crate) mod outside;
pub(crate) mod process;
mod reconciler;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod steward;
pub(crate) mod strike;
pub(crate) mod worker;
