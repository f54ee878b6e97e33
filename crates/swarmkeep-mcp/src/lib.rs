//! MCP that survives: a link that comes back, a ledger in which every call is settled once.
//!
//! | module | holds |
//! |---|---|
//! | [`envelope`] | a message's routing fields, read and rewritten in place; every other byte stays as it came |
//! | [`class`] | what may be done about a call of which nobody knows whether it was carried out |
//! | [`link`] | the one state machine of a connection: tries, back-off, breaker, offline, half-open detection |
//! | [`reply`] | what an answer says about the session and about whether the call was carried out |
//! | [`calls`] | the ledger of one upstream: every request settled exactly once, over all its connections |
//! | [`desired`] | what a client has said ought to be, said again on every connection |
//! | [`transport`] | ways to a server |
//! | [`record`] | a call in the session's log |
//! | [`upstream`] | one client and its server: all of the above, driven by one task |
//! | [`shim`], [`dialled`], [`wire`], [`daemon`] | what a client starts, its way to the daemon, what it says there, and the daemon's end |
//! | [`front`] | the end for clients that speak HTTP |
//! | [`serve`] | the session tools, resources and prompts for any MCP client, over the HTTP API that they are made of |
//!
//! All before `transport` are pure: no I/O, no clock, no randomness. Time and draws are arguments.

pub mod breach;
pub mod calls;
pub mod class;
pub mod daemon;
pub mod desired;
pub mod dialled;
pub mod envelope;
pub mod front;
pub mod link;
mod mirrored;
pub mod record;
pub mod reply;
pub mod serve;
pub mod shim;
pub mod transport;
pub mod upstream;
mod utc;
pub mod wire;
