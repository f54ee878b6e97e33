//! One session in RAM: what is staged, what is durable, and what lies between.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use swarmkeep_core::{
    Epoch, Record, Seq, SessionId, State, checkpoint,
    log::{Commit, Head},
    session::Session as Staging,
};

use crate::level;

/// A session's place in RAM. Whoever finds it `Evicted` has an old one and asks for the place again: there is never more
/// than one place per session from which groups are written.
pub(crate) struct Slot {
    pub(crate) id: SessionId,
    /// Held only for moments; never across an await.
    pub(crate) phase: Mutex<Phase>,
    /// Held by the one caller that brings the session into RAM.
    pub(crate) loading: tokio::sync::Mutex<()>,
    /// Requests that came before the session was in RAM and are not staged yet. They have `loading` one after another, in the
    /// order in which they came; who comes later stands behind them, also when the session is there by then.
    line: AtomicUsize,
    /// When it was last used, on the monotonic clock.
    pub(crate) used_at_ms: AtomicU64,
    /// The highest seq of which this process knows that it is durable: a state below it is not brought in.
    pub(crate) durable_seq: AtomicU64,
}

pub(crate) enum Phase {
    /// Not in RAM; or dropped because a group failed and the truth is in the log.
    Cold,
    /// Not in use: the canonical bytes only.
    Packed(Packed),
    /// In use.
    Live(Box<Live>),
    /// Out of the table.
    Evicted,
}

pub(crate) struct Packed {
    pub(crate) epoch: Epoch,
    pub(crate) head: Head,
    pub(crate) canonical: Bytes,
    pub(crate) tail: Tail,
}

pub(crate) struct Live {
    /// Under which grant groups are written.
    pub(crate) epoch: Epoch,
    /// Tells a group that fails late that this is no longer the session it was staged in.
    pub(crate) generation: u64,
    /// The state with everything in flight: what commands are decided against.
    pub(crate) staging: Staging,
    /// The state as it is durable: what reads and feeds show.
    pub(crate) published: State,
    /// Groups between the two, oldest first.
    in_flight: VecDeque<InFlight>,
    /// Canonical bytes of `published`, once somebody asked.
    canonical: Option<Bytes>,
    /// What a checkpoint taken now would save folding.
    pub(crate) tail: Tail,
    /// The durable head, for feeds; made when the first one asks.
    heads: Option<level::Sender<Seq>>,
}

struct InFlight {
    state: State,
    records: Vec<Arc<Record>>,
    bytes: usize,
}

/// What came after the newest checkpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tail {
    pub(crate) bytes: usize,
    pub(crate) records: u64,
    /// Since when, on the monotonic clock.
    pub(crate) since_ms: u64,
}

impl Tail {
    /// The upper bound on how long a session that changed goes without a checkpoint, whatever its size.
    pub(crate) fn is_due_by_age(&self, now_ms: u64) -> bool {
        checkpoint::is_due(0, usize::MAX, self.records, now_ms.saturating_sub(self.since_ms))
    }
}

impl Slot {
    pub(crate) fn new(id: SessionId) -> Self {
        Self {
            id,
            phase: Mutex::new(Phase::Cold),
            loading: tokio::sync::Mutex::new(()),
            line: AtomicUsize::new(0),
            used_at_ms: AtomicU64::new(0),
            durable_seq: AtomicU64::new(0),
        }
    }

    /// Whether somebody who came earlier is not staged yet.
    pub(crate) fn has_line(&self) -> bool {
        self.line.load(Ordering::Acquire) > 0
    }

    /// A place in the line, until it is dropped.
    pub(crate) fn stand_in_line(&self) -> InLine<'_> {
        self.line.fetch_add(1, Ordering::AcqRel);
        InLine(self)
    }
}

/// A place in a slot's line.
pub(crate) struct InLine<'a>(&'a Slot);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.line.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Live {
    pub(crate) fn new(state: State, epoch: Epoch, generation: u64, tail: Tail) -> Self {
        Self {
            epoch,
            generation,
            staging: Staging::new(state.clone()),
            published: state,
            in_flight: VecDeque::new(),
            canonical: None,
            tail,
            heads: None,
        }
    }

    /// A group left for the log.
    pub(crate) fn sent(&mut self, state: State, records: Vec<Arc<Record>>, bytes: usize) {
        self.in_flight.push_back(InFlight { state, records, bytes });
    }

    /// A group, and with it every earlier one, is durable: it is published. Gives the records, in order.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Vec<Arc<Record>> {
        let mut records = Vec::new();
        while self.in_flight.front().is_some_and(|group| group.state.head.seq <= commit.head.seq) {
            let Some(group) = self.in_flight.pop_front() else { break };
            self.tail.bytes += group.bytes;
            self.tail.records += group.state.head.seq.0 - self.published.head.seq.0;
            self.published = group.state;
            self.canonical = None;
            if records.is_empty() {
                records = group.records;
            } else {
                records.extend(group.records);
            }
        }
        if let Some(heads) = &self.heads {
            heads.set(self.published.head.seq);
        }
        records
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.heads.as_ref().is_none_or(|heads| heads.receivers() == 0)
    }

    pub(crate) fn heads(&mut self) -> level::Receiver<Seq> {
        let durable = self.published.head.seq;
        self.heads.get_or_insert_with(|| level::Sender::new(durable)).subscribe()
    }

    pub(crate) fn canonical(&mut self) -> (Head, Bytes) {
        let published = &self.published;
        // Exactly as long as they are: they may stay for as long as the session does.
        let bytes = self.canonical.get_or_insert_with(|| Bytes::from(published.canonical().into_boxed_slice()));
        (published.head, bytes.clone())
    }

    /// What stays of it while nobody uses it. `scratch` is written over: a buffer for many sessions, so that each leaves
    /// nothing behind but what it keeps.
    pub(crate) fn pack(&self, scratch: &mut Vec<u8>) -> Packed {
        let canonical = self.canonical.clone().unwrap_or_else(|| {
            scratch.clear();
            self.published.canonical_into(scratch);
            Bytes::copy_from_slice(scratch)
        });
        Packed { epoch: self.epoch, head: self.published.head, canonical, tail: self.tail }
    }

    pub(crate) fn checkpoint_due(&self, now_ms: u64) -> bool {
        let since = now_ms.saturating_sub(self.tail.since_ms);
        checkpoint::is_due(self.tail.bytes, self.published.weight(), self.tail.records, since)
    }

    /// About how many bytes this takes in RAM. Entities are shared between the staged and the published state.
    pub(crate) fn weight(&self) -> usize {
        self.published.weight() * 2 + self.in_flight.iter().map(|group| group.bytes).sum::<usize>()
    }
}

impl Packed {
    pub(crate) fn weight(&self) -> usize {
        self.canonical.len()
    }
}
