//! How a session is made: from nothing, or from another one's state.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use swarmkeep_core::{
    Actor, Error, ErrorKind, Hash, Refusal, RequestId, Seq, SessionId, State,
    log::{Blob, Durability, LogError, Take},
    requests::Lookup,
    session::{self as pure, Circumstances, NewSession},
    state::forked_base,
};

use super::{Engine, submit::Turn};
use crate::{
    damage,
    planted::{self, Defect},
    slot::{Phase, Tail},
};

/// How often a creation is tried again while somebody else's is on its way, and how long that one is given to settle.
const TRIES: u32 = 100;
const SETTLE: Duration = Duration::from_millis(5);
/// zstd level of a base state in a blob: it is written once and read rarely.
const BASE_LEVEL: i32 = 3;

impl Engine {
    pub(crate) async fn create(self: &Arc<Self>, new: NewSession, actor: &Actor) -> Result<(), Error> {
        let (id, hash, request) = (new.name.id(), new.hash(), new.request.clone());
        self.begin(id, request, hash, |circumstances| pure::create(new.clone(), actor, circumstances)).await
    }

    pub(crate) async fn fork(
        self: &Arc<Self>,
        from: SessionId,
        at: Option<Seq>,
        new: NewSession,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<(), Error> {
        let origin = match at {
            Some(seq) => self.state_at(from, seq).await?,
            None => self.live(from, |live| live.published.clone()).await?,
        };
        let (id, request) = (new.name.id(), new.request.clone());
        let hash = pure::fork_hash(&new, from, at);
        let mut base = forked_base(&origin);
        if planted::is(Defect::ForkForgets) {
            base.requests = Default::default();
        }
        let blob = Blob::new(pack_base(&base)?);
        self.begin(id, request, hash, |circumstances| {
            pure::fork(new.clone(), &base, blob.clone(), reason.clone(), at, actor, circumstances)
        })
        .await?;
        // Its own full checkpoint: from here on it needs nothing of the original.
        self.checkpoint(id).await.map(drop)
    }

    /// Makes a session with its first group, unless the same request did so before.
    async fn begin(
        self: &Arc<Self>,
        id: SessionId,
        request: Option<RequestId>,
        hash: Hash,
        first: impl Fn(Circumstances<'_>) -> Result<(pure::Session, pure::Group), Refusal>,
    ) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            self.check_open()?;
            if let Some(error) = self.needs_decision(id) {
                return Err(error);
            }
            self.wait_for_room().await?;
            let slot = self.residency.place(id);
            let loading = slot.loading.lock().await;
            if matches!(*slot.phase.lock(), Phase::Evicted) {
                continue;
            }
            let there = !matches!(*slot.phase.lock(), Phase::Cold);
            let grant = if there { Err(LogError::Exists) } else { self.log.take(id, Take::Create).await };
            let grant = match grant {
                Ok(grant) => grant,
                Err(LogError::Exists) => {
                    drop(loading);
                    return self.made_before(id, request, hash).await;
                }
                Err(error) => {
                    self.residency.forget(&slot);
                    // It may have been met just now that what has this name is damaged.
                    return Err(self.needs_decision(id).unwrap_or_else(|| damage::log(error)));
                }
            };
            let staged = first(Circumstances {
                epoch: grant.epoch,
                now_ms: self.clock.now_ms(),
                salts: &mut || self.salts.draw(),
            });
            let group = match staged {
                Ok((_, group)) => group,
                Err(refusal) => {
                    self.residency.forget(&slot);
                    return Err(refusal.into());
                }
            };
            match self.log.append(group.log, Durability::Durable).await {
                Ok(_) => {}
                // Somebody else's creation was on its way: once it has settled, the session exists or it does not.
                Err(LogError::Conflict(_)) if tries < TRIES => {
                    tries += 1;
                    self.residency.forget(&slot);
                    drop(loading);
                    tokio::time::sleep(SETTLE).await;
                    continue;
                }
                Err(error) => {
                    self.residency.forget(&slot);
                    return Err(damage::log(error));
                }
            }
            let tail = Tail { bytes: 0, records: 1, since_ms: self.clock.monotonic_ms() };
            self.arrive(&slot, group.state, grant.epoch, tail);
            drop(loading);
            // One of this name that was given up: its successor says so, with the old head.
            self.note_recovery(id, Turn::InLine).await;
            return Ok(());
        }
    }

    async fn made_before(self: &Arc<Self>, id: SessionId, request: Option<RequestId>, hash: Hash) -> Result<(), Error> {
        let now_ms = self.clock.now_ms();
        let lookup = match &request {
            None => Lookup::New,
            Some(request) => self.live(id, |live| live.published.requests.lookup(request, hash, now_ms)).await?,
        };
        match lookup {
            Lookup::Done(_) => Ok(()),
            _ => Err(damage::log(LogError::Exists)),
        }
    }
}

pub(super) fn pack_base(state: &State) -> Result<Bytes, Error> {
    zstd::bulk::compress(&state.canonical(), BASE_LEVEL)
        .map(Bytes::from)
        .map_err(|error| Error::new(ErrorKind::Unavailable, "the state could not be compressed").caused_by(error))
}
