//! A `Log` that fails on a plan, around any other: for tests of everything that stands on a `Log`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use swarmkeep_core::{
    checkpoint::Checkpoint,
    id::{BlobId, Epoch, Seq, SessionId},
    log::{
        Commit, Durability, Grant, Group, Head, Hints, Log, LogError, LogFuture, Observation, Position, Refused,
        Remove, Take,
    },
    query::{Page, Query},
};

/// What happens to one append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Goes through.
    None,
    /// Not written; the caller learns only that it may have been.
    UnknownLost,
    /// Written; the caller learns only that it may have been.
    UnknownWritten,
    /// Not written, and said so: the disk is full.
    DiskFull,
    /// Not written, and acknowledged: the log breaks its promise.
    AcknowledgedLost,
}

/// Wraps a `Log`; appends take their faults from a queue, then go through.
pub struct Faulty {
    within: Arc<dyn Log>,
    plan: Mutex<VecDeque<Fault>>,
}

impl Faulty {
    /// Nothing planned: behaves like `within`.
    #[must_use]
    pub fn new(within: Arc<dyn Log>) -> Self {
        Self { within, plan: Mutex::default() }
    }

    /// The next appends take these, in order.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }
}

impl Log for Faulty {
    fn take(&self, session: SessionId, how: Take) -> LogFuture<'_, Grant> {
        self.within.take(session, how)
    }

    fn append(&self, group: Group, durability: Durability) -> LogFuture<'static, Commit> {
        let fault = self.plan.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Fault::None);
        let unknown = || Err(LogError::Unknown("planned fault".into()));
        match fault {
            Fault::None => self.within.append(group, durability),
            Fault::UnknownLost => Box::pin(async move { unknown() }),
            Fault::UnknownWritten => {
                let written = self.within.append(group, durability);
                Box::pin(async move {
                    written.await?;
                    unknown()
                })
            }
            Fault::DiskFull => {
                Box::pin(async { Err(LogError::Refused { kind: Refused::DiskFull, detail: "planned fault".into() }) })
            }
            Fault::AcknowledgedLost => {
                Box::pin(async move { Ok(Commit { head: group.head, position: Position(0), durability }) })
            }
        }
    }

    fn room(&self) -> Option<LogFuture<'_, ()>> {
        self.within.room()
    }

    fn observe(&self, session: SessionId, observations: Vec<Observation>) -> LogFuture<'_, ()> {
        self.within.observe(session, observations)
    }

    fn head(&self, session: SessionId) -> LogFuture<'_, Option<Head>> {
        self.within.head(session)
    }

    fn read(&self, session: SessionId, after: Seq, max_bytes: usize) -> LogFuture<'_, Bytes> {
        self.within.read(session, after, max_bytes)
    }

    fn save(&self, session: SessionId, checkpoint: Checkpoint) -> LogFuture<'_, ()> {
        self.within.save(session, checkpoint)
    }

    fn load(&self, session: SessionId, at_or_below: Seq) -> LogFuture<'_, Option<Checkpoint>> {
        self.within.load(session, at_or_below)
    }

    fn blob(&self, session: SessionId, id: BlobId) -> LogFuture<'_, Bytes> {
        self.within.blob(session, id)
    }

    fn find(&self, query: Query, not_before: Option<Position>) -> LogFuture<'_, Page> {
        self.within.find(query, not_before)
    }

    fn remove(&self, session: SessionId, epoch: Epoch, what: Remove) -> LogFuture<'_, ()> {
        self.within.remove(session, epoch, what)
    }

    fn watch(&self) -> Hints {
        self.within.watch()
    }
}
