//! Which requests were already carried out. Part of the folded state, so it survives dropping, checkpoints, rewinds and
//! forks on every back end.
//!
//! A remembered request keeps its whole answer: a repeat is answered from the state alone, also in a fork that has none of
//! the original's records, and also after old records were removed.
//!
//! # The window
//!
//! - A client that counts (`client:counter`): its newest counter and the [`limits::REQUESTS_PER_CLIENT`] before it, as long
//!   as their answers stay below [`limits::REQUEST_ANSWER_BYTES`] together (the newest is always kept). A counter within
//!   reach that was never seen is new; one behind the window is `TooOld`, and is never carried out.
//! - [`limits::REQUEST_CLIENTS`] clients. A client beyond them takes the place of the one silent longest, if that has been
//!   silent for [`limits::REQUEST_KEY_AGE_MS`]; else it is refused (`Full`).
//! - A free-form key: the newest [`limits::REQUEST_KEYS`] of a session, for [`limits::REQUEST_KEY_AGE_MS`] by record time.
//!   A key that has left the window is new again.
//!
//! The request's hash is kept to 64 bits: it finds mistakes, it is no defence.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    command::Outcome,
    id::{EntityId, Hash, RequestId, Seq},
    limits,
    record::Answer,
};

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Not carried out: go on.
    New,
    /// Carried out: this is the answer.
    Done(Done),
    /// Behind the client's window: it cannot be told whether it was carried out, so it is not carried out now.
    TooOld,
    /// Carried out with another body.
    Mismatch,
    /// Too many clients count in this session at once.
    Full,
}

/// A request that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Seq of its group's first record.
    pub first: Seq,
    /// Seq of the last.
    pub last: Seq,
    /// One per command.
    pub outcomes: Arc<[Outcome]>,
    time_ms: u64,
    fingerprint: u64,
    bytes: u32,
}

impl Done {
    fn of(answer: &Answer, last: Seq, time_ms: u64) -> Self {
        let outcomes: Arc<[Outcome]> = answer.outcomes.clone().into();
        Self {
            first: answer.first,
            last,
            time_ms,
            fingerprint: fingerprint(answer.request_hash),
            bytes: bytes(&outcomes),
            outcomes,
        }
    }
}

fn fingerprint(hash: Hash) -> u64 {
    u64::from_le_bytes(hash.0.first_chunk().copied().unwrap_or_default())
}

/// About the canonical bytes of an answer.
fn bytes(outcomes: &[Outcome]) -> u32 {
    let id = |id: &Option<EntityId>| id.as_ref().map_or(0, |id| id.as_str().len() + 8);
    let bytes: usize = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Done { id: done } => 12 + id(done),
            Outcome::Claimed { task, .. } => 60 + id(task),
            Outcome::Received { messages } => {
                30 + messages.iter().map(|message| message.as_str().len() + 3).sum::<usize>()
            }
            Outcome::Version { .. } | Outcome::Run { .. } => 32,
            Outcome::Recorded { outcome } => 50 + outcome.value.as_str().len(),
            Outcome::Unknown { reason } => 30 + reason.len(),
        })
        .sum();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// On the wire a list, to stay short: `[first, last, time_ms, fingerprint, outcomes]`.
type DoneRow = (Seq, Seq, u64, u64, Arc<[Outcome]>);

impl Serialize for Done {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.first, self.last, self.time_ms, self.fingerprint, &self.outcomes).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Done {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (first, last, time_ms, fingerprint, outcomes) = DoneRow::deserialize(deserializer)?;
        Ok(Self { first, last, time_ms, fingerprint, bytes: bytes(&outcomes), outcomes })
    }
}

/// A client that counts.
#[derive(Debug, Clone, Default, PartialEq)]
struct Client {
    /// Counters up to this one, if not in `done`, are behind the window.
    forgotten: u64,
    done: OrdMap<u64, Done>,
    bytes: usize,
}

impl Client {
    fn silent_since_ms(&self) -> u64 {
        self.done.values().map(|done| done.time_ms).max().unwrap_or(0)
    }

    fn remember(&mut self, counter: u64, done: Done) {
        self.bytes += done.bytes as usize;
        if let Some(old) = self.done.insert(counter, done) {
            self.bytes -= old.bytes as usize;
        }
        let newest = self.done.get_max().map_or(0, |newest| newest.0);
        let reach = newest.saturating_sub(limits::REQUESTS_PER_CLIENT);
        self.forgotten = self.forgotten.max(reach);
        while let Some((oldest, done)) = self.done.get_min().map(|oldest| (oldest.0, &oldest.1))
            && self.done.len() > 1
            && (oldest <= self.forgotten || self.bytes > limits::REQUEST_ANSWER_BYTES)
        {
            self.bytes -= done.bytes as usize;
            self.forgotten = self.forgotten.max(oldest);
            self.done.remove(&oldest);
        }
    }
}

/// Requests already carried out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requests {
    clients: OrdMap<EntityId, Arc<Client>>,
    keys: OrdMap<EntityId, Done>,
    key_bytes: usize,
    weight: usize,
}

const CLIENT_BYTES: usize = 48;
const DONE_BYTES: usize = 56;

impl Client {
    fn weight(&self) -> usize {
        CLIENT_BYTES + self.bytes + DONE_BYTES * self.done.len()
    }
}

impl Requests {
    /// What is known of a request at `now_ms`. `request_hash` is of what the caller asks for now.
    #[must_use]
    pub fn lookup(&self, request: &RequestId, request_hash: Hash, now_ms: u64) -> Lookup {
        let known = |done: &Done| {
            if done.fingerprint == fingerprint(request_hash) { Lookup::Done(done.clone()) } else { Lookup::Mismatch }
        };
        match request {
            RequestId::Counted { client, counter } => match self.clients.get(client) {
                Some(client) => match client.done.get(counter) {
                    Some(done) => known(done),
                    None if *counter <= client.forgotten => Lookup::TooOld,
                    None => Lookup::New,
                },
                None if self.clients.len() >= limits::REQUEST_CLIENTS && self.silent(now_ms).is_none() => Lookup::Full,
                None => Lookup::New,
            },
            RequestId::Key(key) => match self.keys.get(key) {
                Some(done) if !is_old(done, now_ms) => known(done),
                _ => Lookup::New,
            },
        }
    }

    /// Remembers a request that was carried out by the record at `last`.
    pub(crate) fn remember(&mut self, request: &RequestId, answer: &Answer, last: Seq, time_ms: u64) {
        let done = Done::of(answer, last, time_ms);
        match request {
            RequestId::Counted { client, counter } => {
                if !self.clients.contains_key(client) {
                    while self.clients.len() >= limits::REQUEST_CLIENTS {
                        let Some(silent) = self.silent(u64::MAX) else { break };
                        self.forget_client(&silent);
                    }
                    self.clients.insert(client.clone(), Arc::default());
                    self.weight += client.as_str().len() + CLIENT_BYTES;
                }
                if let Some(row) = self.clients.get_mut(client) {
                    self.weight -= row.weight();
                    let row = Arc::make_mut(row);
                    row.remember(*counter, done);
                    self.weight += row.weight();
                }
            }
            RequestId::Key(key) => {
                self.forget_key(key);
                self.key_bytes += done.bytes as usize;
                self.weight += key_weight(key, &done);
                self.keys.insert(key.clone(), done);
                let old: Vec<EntityId> =
                    self.keys.iter().filter(|(_, done)| is_old(done, time_ms)).map(|(key, _)| key.clone()).collect();
                old.iter().for_each(|key| self.forget_key(key));
                while self.keys.len() > 1
                    && (self.keys.len() > limits::REQUEST_KEYS || self.key_bytes > limits::REQUEST_ANSWER_BYTES)
                {
                    let Some(oldest) =
                        self.keys.iter().min_by_key(|(_, done)| done.last_order()).map(|(key, _)| key.clone())
                    else {
                        break;
                    };
                    self.forget_key(&oldest);
                }
            }
        }
    }

    /// The client silent longest, if long enough by `now_ms`.
    fn silent(&self, now_ms: u64) -> Option<EntityId> {
        self.clients
            .iter()
            .map(|(id, client)| (client.silent_since_ms(), id))
            .min()
            .filter(|(since_ms, _)| since_ms.saturating_add(limits::REQUEST_KEY_AGE_MS) <= now_ms)
            .map(|(_, id)| id.clone())
    }

    fn forget_client(&mut self, id: &EntityId) {
        if let Some(client) = self.clients.remove(id) {
            self.weight -= client.weight() + id.as_str().len();
        }
    }

    fn forget_key(&mut self, key: &EntityId) {
        if let Some(done) = self.keys.remove(key) {
            self.key_bytes -= done.bytes as usize;
            self.weight -= key_weight(key, &done);
        }
    }

    /// About how many bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }
}

impl Done {
    /// In a fork the original's seqs are higher than the fork's own first ones; time comes first.
    fn last_order(&self) -> (u64, Seq) {
        (self.time_ms, self.last)
    }
}

fn key_weight(key: &EntityId, done: &Done) -> usize {
    DONE_BYTES + key.as_str().len() + done.bytes as usize
}

fn is_old(done: &Done, now_ms: u64) -> bool {
    done.time_ms.saturating_add(limits::REQUEST_KEY_AGE_MS) <= now_ms
}

/// A client, what is behind its window, and its counters.
type ClientRow = (EntityId, u64, Vec<(u64, Done)>);

#[derive(Serialize, Deserialize)]
struct Wire {
    clients: Vec<ClientRow>,
    keys: Vec<(EntityId, Done)>,
}

impl Serialize for Requests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counted = |client: &Client| client.done.iter().map(|(counter, done)| (*counter, done.clone())).collect();
        Wire {
            clients: self.clients.iter().map(|(id, client)| (id.clone(), client.forgotten, counted(client))).collect(),
            keys: self.keys.iter().map(|(key, done)| (key.clone(), done.clone())).collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Requests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let mut requests = Self::default();
        for (id, forgotten, done) in wire.clients {
            let bytes = done.iter().map(|(_, done)| done.bytes as usize).sum();
            let client = Client { forgotten, done: done.into_iter().collect(), bytes };
            requests.weight += client.weight() + id.as_str().len();
            requests.clients.insert(id, Arc::new(client));
        }
        for (key, done) in wire.keys {
            requests.key_bytes += done.bytes as usize;
            requests.weight += key_weight(&key, &done);
            requests.keys.insert(key, done);
        }
        Ok(requests)
    }
}
