//! What is agreed upon with an upstream's task, what is said to it, and what it says.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use swarmkeep::EntityId;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    calls::{CallId, Limits, Standing, Stray},
    class::{Class, Trust},
    link::{Generation, Phase, Timing},
    transport::{Bounds, Recipe},
};

/// What a client and its server agree upon with the proxy.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The server's name, for people and in what clients are told.
    pub upstream: String,
    /// How to reach it.
    pub recipe: Recipe,
    /// What its hints are worth.
    pub trust: Trust,
    /// The link's times.
    pub timing: Timing,
    /// The calls' bounds.
    pub limits: Limits,
    /// The connection's bounds.
    pub bounds: Bounds,
    /// Begins the keys of its calls: the same for the same client process.
    pub client: String,
    /// What it said to begin with, and was answered: known when it comes back to another daemon.
    pub initialize: Option<Bytes>,
    /// The client's lines up to this one may have been offered to an earlier daemon.
    pub offered: u64,
    /// For how long lines that are offered again had waited in the queue when their shim came to this daemon, by number.
    pub waited_ms: BTreeMap<u64, u64>,
    /// What the session's log has from before this daemon.
    pub remembered: super::Remembered,
    /// The wall clock, when it began.
    pub began_at_ms: u64,
    /// The client may come back until it has said all.
    pub is_lasting: bool,
    /// Says that the daemon ends, not the client, and until when calls that are under way are waited for.
    pub closing: Option<watch::Receiver<Option<Instant>>>,
}

/// What a client says.
#[derive(Debug)]
pub enum FromClient {
    /// A line, numbered from 1. The same number again is the same line, offered again because nothing is known of it.
    Line {
        /// Its number.
        number: u64,
        /// The line.
        line: Bytes,
    },
    /// It has said all it has to say: what is under way is finished, and then it is over. Dropping the sender means: now.
    SaidAll,
}

/// What a client is given.
#[derive(Debug, PartialEq, Eq)]
pub enum ToClient {
    /// A line; the answer to the client's line of that number, if it is one.
    Line {
        /// Answers this one.
        answers: Option<u64>,
        /// The line.
        line: Bytes,
    },
    /// This line of the client needs no answer, and need not be offered again.
    Taken(u64),
}

/// How it stands, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The server's name.
    pub upstream: String,
    /// Where the link stands.
    pub phase: Phase,
    /// Its connections so far.
    pub generation: Generation,
    /// What failed in a row.
    pub failures: u32,
    /// Whether the breaker is open.
    pub breaker_open: bool,
    /// Not reachable for so long.
    pub down_ms: Option<u64>,
    /// Calls that the server has.
    pub in_flight: usize,
    /// What came and belonged to nothing.
    pub strays: BTreeMap<Stray, u64>,
    /// Why the last connection ended.
    pub last_loss: Option<String>,
    /// Calls that are not over.
    pub calls: Vec<OpenCall>,
}

/// A call that is not over, for people.
#[derive(Debug, Clone, Serialize)]
pub struct OpenCall {
    /// Its number.
    pub call: CallId,
    /// Its method.
    pub method: String,
    /// Its tool.
    pub name: Option<String>,
    /// Its class.
    pub class: Class,
    /// How it stands.
    pub standing: Standing,
    /// Since it came.
    pub for_ms: u64,
    /// Its effect in the session's log.
    pub effect: Option<EntityId>,
    /// It waits in the queue for its server.
    pub is_queued: bool,
}

/// The task's two ends.
#[derive(Debug)]
pub struct Handles {
    /// What the client says.
    pub client: mpsc::Sender<FromClient>,
    /// What the client is given.
    pub answers: mpsc::Receiver<ToClient>,
    /// Asks how it stands.
    pub status: mpsc::Sender<oneshot::Sender<Status>>,
    /// Over when nothing of it is left: no process, and the log is written.
    pub over: tokio::task::JoinHandle<()>,
}
