//! Durable sessions for agent swarms: a session is a log, everything else is derived from it.
//!
//! ```no_run
//! use swarmkeep::{Agent, From, Swarmkeep, Task};
//!
//! # async fn ask(_: &str) -> Result<String, std::io::Error> { Ok(String::new()) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keep = Swarmkeep::open("swarm.keep").await?;
//! let session = keep.open_session("nightly-refactor").await?; // resumes it exactly where it stood
//! let planner = session.spawn_agent(Agent::new("planner").capability("plan")).await?;
//! session.create_task(Task::new("split the parser").id("split")?.priority(8).assign(planner.clone())).await?;
//! let reply: String = session
//!     .effect("ask-42")
//!     .agent(&planner)
//!     .at_most_once() // begin is recorded before, finish after;
//!     .run(|| ask("how would you split it?")) // after a crash: the recorded reply, not a second bill
//!     .await?;
//! session.set_memory("plan", &reply).await?;
//! let mut feed = session.subscribe(From::Start).await?; // misses nothing, repeats nothing
//! println!("{:?}", feed.next().await?);
//! keep.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # It is not
//!
//! - a workflow engine: it runs nothing of yours, it remembers what you did;
//! - a queue or a database for everything: one session's state fits in RAM (at most 64 MiB);
//! - a cluster: one process holds a store at a time.
//!
//! # Reading the source
//!
//! `session` (what a caller holds) → `keep` (the open store; `keep/load` is the way of a request) → `slot` (one session in
//! RAM) → [`embedded`] (the log: lanes, applier) → [`journal`] (where an acknowledgement becomes true) → [`disk`].

mod allocator;
pub mod blobs;
mod clock;
mod damage;
pub mod disk;
mod effect;
pub mod embedded;
mod feed;
mod incident;
pub mod journal;
mod keep;
mod level;
pub mod lock;
pub mod log;
pub mod planted;
mod recovery;
mod residency;
mod session;
mod settings;
mod slot;
mod sync;
pub mod upkeep;
mod verify;
mod watch;
mod workers;

pub use swarmkeep_core::{
    self as core, Actor, BlobId, EntityId, Epoch, Error, ErrorKind, Event, Hash, Json, Record, Refusal, RefusalCode,
    RequestId, Seq, SessionId, SessionName, State,
    command::{Command, CreateTask as Task, Outcome, SpawnAgent as Agent},
    diff::Diff,
    log::{Blob, Durability, Head, Observation, Position},
    query::{Of, Order, Page, Query},
    session::NewSession,
    state::{Address, Effect, EffectOutcome, SessionMetadata, SessionStatus},
};

pub use self::{
    clock::{OsEntropy, SystemClock},
    effect::{EffectCall, EffectError, Evidence},
    feed::{Feed, FeedItem, FeedToken, From},
    incident::Incident,
    keep::{
        Health, Swarmkeep,
        track::{TrackRecord, WINDOW_MS},
    },
    lock::{Holder, holder},
    recovery::{Damaged, DataLoss, Ending, OldHead, Problem, RecoveryReport, Repair, SessionRecovery, Span, StepTaken},
    session::{Breach, Claim, Lost, Reply, Request, SavedCheckpoint, Session},
    settings::Settings,
    verify::{Finding, VerifyReport},
    workers::{Turn, Workers},
};
