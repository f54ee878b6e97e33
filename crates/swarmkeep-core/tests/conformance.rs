//! The conformance suite against the smallest log there is: a map. It checks the suite as much as the map.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    collections::{BTreeMap, HashMap},
    future::{Future, ready},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use swarmkeep_core::{
    BlobId, Epoch, Seq, SessionId, State,
    checkpoint::Checkpoint,
    log::{
        Commit, Durability, Grant, Group, Head, Hints, Log, LogError, LogFuture, Observation, Position, Refused,
        Remove, Take, Watchers,
        conformance::{self, Fixture},
    },
    query::{Of, Page, Query},
    record, session,
    tabulate::{self, RowChange, Value},
};

#[derive(Default)]
struct Kept {
    head: Head,
    records: BTreeMap<u64, Bytes>,
    checkpoints: BTreeMap<u64, Checkpoint>,
    blobs: HashMap<BlobId, Bytes>,
}

#[derive(Default)]
struct Map {
    sessions: Mutex<HashMap<SessionId, Kept>>,
    position: Mutex<u64>,
    watchers: Watchers,
}

const EPOCH: Epoch = Epoch(1);

fn now<T: Send + 'static>(result: Result<T, LogError>) -> LogFuture<'static, T> {
    Box::pin(ready(result))
}

impl Map {
    fn of<T>(&self, session: SessionId, get: impl FnOnce(&mut Kept) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut sessions = self.sessions.lock().unwrap();
        let kept = sessions.get_mut(&session).filter(|kept| kept.head.seq != Seq::ZERO);
        get(kept.ok_or(LogError::NotFound)?)
    }

    fn add(&self, group: Group) -> Result<Commit, LogError> {
        if group.epoch != EPOCH {
            return Err(LogError::Fenced(EPOCH));
        }
        let mut sessions = self.sessions.lock().unwrap();
        let kept = sessions.get_mut(&group.session).ok_or(LogError::NotFound)?;
        if kept.head != group.after {
            return Err(LogError::Conflict(kept.head));
        }
        for view in record::iter(&group.records) {
            let view = view.unwrap();
            kept.head = view.follows(group.session, kept.head).unwrap();
            kept.records.insert(view.seq().0, Bytes::copy_from_slice(view.bytes()));
        }
        kept.blobs.extend(group.blobs.into_iter().map(|blob| (blob.id, blob.bytes)));
        let mut position = self.position.lock().unwrap();
        *position += 1;
        Ok(Commit { head: kept.head, position: Position(*position), durability: Durability::Durable })
    }

    fn cut(&self, session: SessionId, epoch: Epoch, what: Remove) -> Result<(), LogError> {
        if epoch != EPOCH {
            return Err(LogError::Fenced(EPOCH));
        }
        if what == Remove::All {
            self.sessions.lock().unwrap().remove(&session);
            return Ok(());
        }
        self.of(session, |kept| {
            match what {
                Remove::RecordsThrough(seq) => {
                    if kept.checkpoints.range(seq.0..).next().is_none() {
                        let detail = "no checkpoint covers them".into();
                        return Err(LogError::Refused { kind: Refused::Needed, detail });
                    }
                    kept.records.retain(|at, _| *at > seq.0);
                }
                _ => {
                    let newest = kept.checkpoints.keys().next_back().copied();
                    kept.checkpoints.retain(|at, _| Some(*at) == newest);
                }
            }
            Ok(())
        })
    }

    fn page(&self, query: &Query) -> Page {
        let table = match query.of {
            Of::Sessions => &tabulate::SESSIONS,
            Of::Tasks => &tabulate::TASKS,
            other => panic!("not asked for here: {other:?}"),
        };
        let sessions = self.sessions.lock().unwrap();
        let mut rows = Vec::new();
        for (id, kept) in sessions.iter().filter(|(id, _)| query.session.is_none_or(|session| session == **id)) {
            assert!(query.session.is_some() || !id.to_string().is_empty());
            let mut state = State::empty();
            let records: Vec<u8> = kept.records.values().flatten().copied().collect();
            session::fold(&mut state, &records, &mut |_| Err("no forks here".into())).unwrap();
            for row in tabulate::rows(&state) {
                let RowChange::Put { table: of, values } = row else { continue };
                if of == table {
                    let Value::Text(session) = &values[0] else { panic!("a session id") };
                    rows.push(swarmkeep_core::Json::encode(&[("session_id", session)]).unwrap());
                }
            }
        }
        Page { rows, next: None, position: Position(*self.position.lock().unwrap()) }
    }
}

impl Log for Map {
    fn take(&self, session: SessionId, how: Take) -> LogFuture<'_, Grant> {
        let mut sessions = self.sessions.lock().unwrap();
        let kept = sessions.get(&session).map(|kept| kept.head).filter(|head| head.seq != Seq::ZERO);
        now(match (how, kept) {
            (Take::Create, Some(_)) => Err(LogError::Exists),
            (Take::Create, None) => {
                sessions.insert(session, Kept::default());
                Ok(Grant { epoch: EPOCH, head: Head::default() })
            }
            (_, Some(head)) => Ok(Grant { epoch: EPOCH, head }),
            (_, None) => Err(LogError::NotFound),
        })
    }

    fn append(&self, group: Group, _: Durability) -> LogFuture<'static, Commit> {
        let session = group.session;
        let done = self.add(group);
        self.watchers.moved(session);
        now(done)
    }

    fn observe(&self, _: SessionId, _: Vec<Observation>) -> LogFuture<'_, ()> {
        now(Ok(()))
    }

    fn head(&self, session: SessionId) -> LogFuture<'_, Option<Head>> {
        now(Ok(self.of(session, |kept| Ok(kept.head)).ok()))
    }

    fn read(&self, session: SessionId, after: Seq, max_bytes: usize) -> LogFuture<'_, Bytes> {
        now(self.of(session, |kept| {
            let mut bytes = Vec::new();
            for record in kept.records.range(after.next().0..).map(|(_, record)| record) {
                if !bytes.is_empty() && bytes.len() + record.len() > max_bytes {
                    break;
                }
                bytes.extend_from_slice(record);
            }
            Ok(Bytes::from(bytes))
        }))
    }

    fn save(&self, session: SessionId, checkpoint: Checkpoint) -> LogFuture<'_, ()> {
        now(self.of(session, |kept| {
            if checkpoint.head.seq <= kept.head.seq {
                kept.checkpoints.insert(checkpoint.head.seq.0, checkpoint);
            }
            Ok(())
        }))
    }

    fn load(&self, session: SessionId, at_or_below: Seq) -> LogFuture<'_, Option<Checkpoint>> {
        now(self.of(session, |kept| {
            Ok(kept.checkpoints.range(..=at_or_below.0).next_back().map(|(_, checkpoint)| checkpoint.clone()))
        }))
    }

    fn blob(&self, session: SessionId, id: BlobId) -> LogFuture<'_, Bytes> {
        now(self.of(session, |kept| kept.blobs.get(&id).cloned().ok_or(LogError::NotFound)))
    }

    fn find(&self, query: Query, _: Option<Position>) -> LogFuture<'_, Page> {
        now(Ok(self.page(&query)))
    }

    fn remove(&self, session: SessionId, epoch: Epoch, what: Remove) -> LogFuture<'_, ()> {
        let done = self.cut(session, epoch, what);
        self.watchers.moved(session);
        now(done)
    }

    fn watch(&self) -> Hints {
        self.watchers.watch()
    }
}

struct Maps;

impl Fixture for Maps {
    fn open(&self) -> LogFuture<'_, Arc<dyn Log>> {
        Box::pin(ready(Ok(Arc::new(Map::default()) as Arc<dyn Log>)))
    }

    fn reopen(&self, log: Arc<dyn Log>) -> LogFuture<'_, Arc<dyn Log>> {
        // What was only taken is not kept; the suite looks at it through `head` and `take`, which hide it too.
        Box::pin(ready(Ok(log)))
    }
}

#[test]
fn a_map_conforms() {
    let mut suite = pin!(conformance::all(&Maps));
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(suite.as_mut().poll(&mut context), Poll::Ready(())), "a map never has to wait");
}
