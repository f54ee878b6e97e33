//! The pure heart of swarmkeep: *a session is a log, everything else is derived*.
//!
//! No I/O, no clock, no randomness, no threads, no runtime: every function here is a function of its arguments, so the
//! same bytes give the same state on a server, in a simulator and in a browser.
//!
//! # Layout, in the way of the data
//!
//! | module | holds |
//! |---|---|
//! | [`command`] | what a caller may ask for |
//! | [`decide`] | a command checked against the state: events, or a typed refusal |
//! | [`event`] | the closed vocabulary of what can happen to a session |
//! | [`record`] | an event as stored: bytes, and the hash chain |
//! | [`state`] | the only reducer: `fold(records)` |
//! | [`requests`] | which requests were already carried out (part of the state) |
//! | [`session`] | sans-I/O session: command → staged group → committed, or unknown |
//! | [`log`] | the storage seam: the contract every back end keeps, and its conformance suite |
//! | [`checkpoint`] | the fold, saved: its bytes and when one is due |
//! | [`turn`] | a call and its result, an answer and what it answers: how one that was left half-written is named |
//! | [`tabulate`] | events and state → rows of the views: the only place that knows columns |
//! | [`query`] | typed questions across sessions |
//! | [`diff`] | two states compared, entity by entity |
//! | [`failure`] | what can go wrong, by ten names: how bad it is, and what is done |
//! | [`health`] | how well a store comes back: figures over its history, and alerts |
//! | [`recovery`] | what is seen of a session → a plan, before anything is touched; whether a state's entities fit together |
//! | [`limits`] | every bound, by name |
//! | [`error`] | what a caller is told to do |
//! | `testing` | random, mostly valid histories (feature `testing`) |

pub mod checkpoint;
pub mod clock;
pub mod command;
pub mod decide;
pub mod diff;
pub mod error;
pub mod event;
pub mod failure;
pub mod health;
pub mod id;
pub mod json;
pub mod limits;
pub mod log;
pub mod query;
pub mod record;
pub mod recovery;
pub mod requests;
pub mod session;
pub mod state;
pub mod tabulate;
#[cfg(feature = "testing")]
pub mod testing;
pub mod turn;

pub use error::{Error, ErrorKind, Refusal, RefusalCode};
pub use event::Event;
pub use failure::{Failure, FailureType, Severity, Strategy};
pub use id::{Actor, BlobId, EntityId, Epoch, Hash, RequestId, Seq, SessionId, SessionName};
pub use json::Json;
pub use record::Record;
pub use state::State;
