//! A log on SQLite alone keeps the contract, in each of its modes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)] // a test

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use swarmkeep_core::{
    Actor,
    command::Command,
    log::{Durability, Log, LogError, LogFuture, Refused, Take, conformance},
    query::{Of, Query},
    session::{self, Circumstances, NewSession, Request, Staged},
};
use swarmkeep_sqlite::{Mode, Options, SqliteLog, Vfs};

struct Files {
    dir: tempfile::TempDir,
    mode: Mode,
    stores: AtomicU64,
}

fn open(dir: &Path, mode: Mode) -> Result<Arc<dyn Log>, LogError> {
    let options = Options { store_id: None, create: true, mode, now_ms: 1, vfs: Vfs::default() };
    std::fs::create_dir_all(dir).unwrap();
    Ok(Arc::new(SqliteLog::open(&dir.join("records.db"), &dir.join("views.db"), options)?))
}

impl conformance::Fixture for Files {
    fn open(&self) -> LogFuture<'_, Arc<dyn Log>> {
        let store = self.stores.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(std::future::ready(open(&self.dir.path().join(store.to_string()), self.mode)))
    }

    fn reopen(&self, log: Arc<dyn Log>) -> LogFuture<'_, Arc<dyn Log>> {
        drop(log);
        let store = self.stores.load(Ordering::Relaxed);
        Box::pin(std::future::ready(open(&self.dir.path().join(store.to_string()), self.mode)))
    }
}

fn conforms(mode: Mode) {
    let files = Files { dir: tempfile::tempdir().unwrap(), mode, stores: AtomicU64::new(0) };
    pollster::block_on(conformance::all(&files));
}

#[test]
fn the_contract_with_a_rollback_journal() {
    conforms(Mode::RollbackFull);
}

#[test]
fn the_contract_with_a_write_ahead_log() {
    conforms(Mode::WalFull);
}

/// A session and its first group.
fn first(log: &dyn Log, name: &str) -> (session::Session, swarmkeep_core::log::Group) {
    let name: swarmkeep_core::SessionName = name.parse().unwrap();
    let grant = pollster::block_on(log.take(name.id(), Take::Create)).unwrap();
    let mut salts = || [3; 16];
    let circumstances = Circumstances { epoch: grant.epoch, now_ms: 1_000, salts: &mut salts };
    let (session, group) = session::create(NewSession::new(name), &Actor::system(), circumstances).unwrap();
    (session, group.log)
}

#[test]
fn whoever_opened_the_store_last_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = open(dir.path(), Mode::RollbackFull).unwrap();
    let (_, group) = first(&*earlier, "one");
    let later = open(dir.path(), Mode::RollbackFull).unwrap();
    let refused = pollster::block_on(earlier.append(group, Durability::Durable));
    assert!(matches!(refused, Err(LogError::Fenced(_))), "{refused:?}");
    let (_, group) = first(&*later, "one");
    pollster::block_on(later.append(group, Durability::Durable)).unwrap();
}

#[test]
fn lost_or_broken_views_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Mode::RollbackFull).unwrap();
    let (session, group) = first(&*log, "one");
    let id = session.staged().info.id;
    pollster::block_on(log.append(group, Durability::Durable)).unwrap();
    drop(log);
    let views = dir.path().join("views.db");
    let spoils: [&dyn Fn(); 3] = [
        &|| std::fs::remove_file(&views).unwrap(),
        &|| {
            std::fs::write(&views, "not a database, and long enough to be looked at as if it were one".repeat(9))
                .unwrap()
        },
        &|| {
            let mut bytes = std::fs::read(&views).unwrap();
            bytes.truncate(bytes.len() / 2);
            std::fs::write(&views, bytes).unwrap();
        },
    ];
    for (nth, spoil) in spoils.iter().enumerate() {
        spoil();
        let log = open(dir.path(), Mode::RollbackFull).unwrap();
        let page = pollster::block_on(log.find(Query { session: Some(id), ..Query::of(Of::Sessions) }, None)).unwrap();
        assert_eq!(page.rows.len(), 1, "spoilt in way {nth}");
    }
}

#[test]
fn a_wrong_query_and_a_wrong_group_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Mode::RollbackFull).unwrap();
    let (mut session, group) = first(&*log, "one");
    let invalid = |error: LogError| matches!(error, LogError::Refused { kind: Refused::Invalid, .. });
    for wrong in [
        Query { status: Some("x".into()), ..Query::of(Of::Memory) },
        Query { limit: Some(0), ..Query::of(Of::Tasks) },
        Query { cursor: Some("zz".into()), ..Query::of(Of::Tasks) },
        Query::of(Of::Events),
    ] {
        assert!(invalid(pollster::block_on(log.find(wrong, None)).unwrap_err()));
    }
    let mut wrong = group.clone();
    wrong.count = 2;
    assert!(invalid(pollster::block_on(log.append(wrong, Durability::Durable)).unwrap_err()));
    let mut wrong = group.clone();
    let mut bytes = wrong.records.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    wrong.records = bytes.into();
    assert!(invalid(pollster::block_on(log.append(wrong, Durability::Durable)).unwrap_err()));
    let epoch = group.epoch;
    pollster::block_on(log.append(group, Durability::Durable)).unwrap();
    let mut salts = || [3; 16];
    let circumstances = Circumstances { epoch, now_ms: 1_000, salts: &mut salts };
    let command = Command::Record {
        kind: "x".into(),
        aggregate: None,
        payload: swarmkeep_core::Json::null(),
        blobs: Default::default(),
    };
    let staged = session.stage(Request::new(Actor::system(), vec![command]), circumstances).unwrap();
    let Staged::Group(group) = staged else { panic!("a group") };
    pollster::block_on(log.append(group.log, Durability::Durable)).unwrap();
}
