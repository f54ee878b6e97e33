//! What the store holds in RAM of sessions whose newest records are in the journal only.
//!
//! A lane begins with a session's first append and ends when nothing of it is in flight or unapplied (a bounded number of
//! empty lanes stays, so that a session that is written often need not ask records.db for its head each time).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::BuildHasherDefault,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use swarmkeep_core::{
    BlobId, Seq, SessionId,
    log::{Blob, Damage, Group, Head, Remove},
    record,
};

use crate::{
    journal::{Entry, Frame},
    residency::IdHasher,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

const SHARDS: usize = 64;
/// Empty lanes kept per shard: about 150 bytes each.
const EMPTY_LANES: usize = 1024;
/// So many of them keep the room of their tail (700 bytes each) for the next group: those of a store with few sessions,
/// which are written again at once.
const ROOMY_LANES: usize = 64;

/// A session with records on their way.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// What the next group has to follow: everything that was sent.
    pub(super) sent: Head,
    /// What is durable.
    pub(super) durable: Head,
    /// Of the journal, when `durable` was read: groups sent under an older one are refused.
    pub(super) generation: u64,
    /// Groups sent and not yet settled.
    pub(super) in_flight: usize,
    /// Durable groups that records.db may not have yet.
    tail: VecDeque<Group>,
}

pub(super) type Shard = HashMap<SessionId, Lane, BuildHasherDefault<IdHasher>>;

pub(super) struct Lanes {
    shards: Vec<Mutex<Shard>>,
    /// Sessions that cannot go on: records of theirs are missing in the middle. Whether there is any is asked at every
    /// append, which is rarely true.
    any_aside: AtomicBool,
    aside: Mutex<HashMap<SessionId, Damage>>,
    /// Sessions whose removal is durable and not yet carried out in records.db: what it has of them is not there any more.
    any_leaving: AtomicBool,
    leaving: Mutex<HashMap<SessionId, usize>>,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            any_aside: AtomicBool::new(false),
            aside: Mutex::default(),
            any_leaving: AtomicBool::new(false),
            leaving: Mutex::default(),
        }
    }

    /// Takes nothing more of this session from where the damage begins, and says why to whoever asks. Of several places the
    /// first counts.
    pub(super) fn set_aside(&self, damage: Damage) {
        let Some(session) = damage.session else { return };
        let mut aside = self.aside.lock();
        if aside.get(&session).is_none_or(|known| begins(&damage) < begins(known)) {
            aside.insert(session, damage);
        }
        self.any_aside.store(true, Ordering::Release);
    }

    /// A session is whole again.
    pub(super) fn take_back(&self, session: SessionId) {
        self.aside.lock().remove(&session);
    }

    /// The session ends elsewhere now: what is known of its end is void. It is set aside, so nothing of it is in flight.
    pub(super) fn forget(&self, session: SessionId) {
        self.shard(session).remove(&session);
    }

    /// The sessions set aside, and why.
    pub(super) fn all_aside(&self) -> Vec<Damage> {
        let mut all: Vec<Damage> = self.aside.lock().values().cloned().collect();
        all.sort_by_key(|damage| damage.session);
        all
    }

    /// Why a session takes nothing.
    pub(super) fn aside(&self, session: SessionId) -> Option<Damage> {
        if !self.any_aside.load(Ordering::Acquire) {
            return None;
        }
        self.aside.lock().get(&session).cloned()
    }

    /// The part of the table that has this session. Held for moments; while it is held no group of its sessions is sent.
    pub(super) fn shard(&self, session: SessionId) -> MutexGuard<'_, Shard> {
        let [.., last] = session.0;
        let at = usize::from(last) % SHARDS;
        match self.shards.get(at) {
            Some(shard) => shard.lock(),
            // `at` is below the number of shards; this arm keeps the indexing honest.
            None => self.shard(SessionId::default()),
        }
    }

    /// A synced group: readable from now on.
    pub(super) fn durable(&self, group: &Group) {
        let mut shard = self.shard(group.session);
        let lane = shard.entry(group.session).or_default();
        lane.durable = group.head;
        if lane.sent.seq < group.head.seq {
            lane.sent = group.head;
        }
        lane.tail.push_back(group.clone());
    }

    /// records.db has everything of this session up to `head`, visible to new readers.
    pub(super) fn applied(&self, session: SessionId, head: Head) {
        let mut shard = self.shard(session);
        let lanes = shard.len();
        if let Some(lane) = shard.get_mut(&session) {
            // By hash: after a removal another session of this id may be waiting here, which records.db does not have.
            if let Some(last) = lane.tail.iter().position(|group| group.head == head) {
                lane.tail.drain(..=last);
            }
            if lane.tail.is_empty() && lanes > ROOMY_LANES {
                lane.tail = VecDeque::new();
            }
            if lane.is_empty() && lanes > EMPTY_LANES {
                shard.remove(&session);
            }
        }
    }

    /// What records.db had and has not any more, to be applied again: it is read from here until then. In the order of
    /// positions, all of it before whatever is yet to be applied for the first time.
    pub(super) fn again(&self, frames: &[Arc<Frame>]) {
        // A removal that waits to be carried out takes all of it.
        let mut removed: HashSet<SessionId> = self.leaving.lock().keys().copied().collect();
        for entry in frames.iter().rev().flat_map(|frame| frame.entries.iter().rev()) {
            match entry {
                Entry::Records(group) if !removed.contains(&group.session) => {
                    let mut shard = self.shard(group.session);
                    let lane = shard.entry(group.session).or_default();
                    if lane.durable.seq < group.head.seq {
                        (lane.durable, lane.sent) = (group.head, group.head);
                    }
                    if lane.tail.iter().all(|known| known.head != group.head) {
                        lane.tail.push_front(group.clone());
                    }
                }
                Entry::Remove { session, what: Remove::All, .. } => {
                    removed.insert(*session);
                    *self.leaving.lock().entry(*session).or_default() += 1;
                    self.any_leaving.store(true, Ordering::Release);
                }
                _ => {}
            }
        }
    }

    /// Sessions with durable records that records.db may not have yet.
    pub(super) fn ahead(&self) -> Vec<SessionId> {
        let of = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            shard.iter().filter(|(_, lane)| !lane.tail.is_empty()).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of).collect()
    }

    /// The removal of this session is durable: it is gone from here on, whatever records.db still has of it.
    pub(super) fn leaves(&self, session: SessionId) {
        *self.leaving.lock().entry(session).or_default() += 1;
        self.any_leaving.store(true, Ordering::Release);
        self.shard(session).remove(&session);
    }

    /// records.db has carried the removal out. The blobs of a session of the same id that was made since.
    pub(super) fn left(&self, session: SessionId) -> Vec<BlobId> {
        let mut leaving = self.leaving.lock();
        if let Some(times) = leaving.get_mut(&session) {
            *times -= 1;
            if *times == 0 {
                leaving.remove(&session);
            }
        }
        self.any_leaving.store(!leaving.is_empty(), Ordering::Release);
        drop(leaving);
        let shard = self.shard(session);
        let tail = shard.get(&session).into_iter().flat_map(|lane| &lane.tail);
        tail.flat_map(|group| &group.blobs).map(|blob| blob.id).collect()
    }

    /// Whether what records.db has of this session is no longer to be shown.
    pub(super) fn is_leaving(&self, session: SessionId) -> bool {
        self.any_leaving.load(Ordering::Acquire) && self.leaving.lock().contains_key(&session)
    }

    /// The durable head, if the session has a lane.
    pub(super) fn head(&self, session: SessionId) -> Option<Head> {
        self.shard(session).get(&session).map(|lane| lane.durable).filter(|head| head.seq > Seq::ZERO)
    }

    /// The durable records after `after` that are here: where they begin, and their bytes up to about `max_bytes`.
    /// To be taken *before* records.db is read: whatever has left the lane by then is visible there.
    pub(super) fn tail(&self, session: SessionId, after: Seq, max_bytes: usize) -> Option<Tail> {
        let shard = self.shard(session);
        let lane = shard.get(&session)?;
        let groups: Vec<&Group> = lane.tail.iter().filter(|group| group.head.seq > after).collect();
        let first = groups.first()?.after.seq;
        let mut bytes = BytesMut::new();
        if let [only] = groups.as_slice()
            && first >= after
        {
            return Some(Tail { after: first, bytes: only.records.clone() });
        }
        let mut reached = first;
        for group in groups {
            // Where a frame was lost, what follows it begins beyond what was reached.
            if group.after.seq > reached || (!bytes.is_empty() && bytes.len() >= max_bytes) {
                break;
            }
            reached = group.head.seq;
            for view in record::iter(&group.records).map_while(Result::ok) {
                if view.seq() > after {
                    bytes.extend_from_slice(view.bytes());
                }
            }
        }
        Some(Tail { after: first.max(after), bytes: bytes.freeze() })
    }

    /// A blob that came with a group still here.
    pub(super) fn blob(&self, session: SessionId, id: BlobId) -> Option<Blob> {
        let shard = self.shard(session);
        let lane = shard.get(&session)?;
        lane.tail.iter().flat_map(|group| &group.blobs).find(|blob| blob.id == id).cloned()
    }
}

/// The first seq that a damage leaves unusable.
pub(super) fn begins(damage: &Damage) -> u64 {
    damage.seqs.as_ref().map_or(0, |seqs| *seqs.start())
}

/// Records that only the journal and RAM have.
pub(super) struct Tail {
    /// The seq before the first of them.
    pub(super) after: Seq,
    pub(super) bytes: Bytes,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.in_flight == 0 && self.tail.is_empty()
    }
}
