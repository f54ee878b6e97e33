//! A small store with one of everything, made by the same steps every time; what it must read as; and its folder as bytes.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmkeep::{
    Actor, Address, Agent, Blob, Command, EntityId, Error, Hash, Json, NewSession, Of, Query, Request, Seq, Session,
    Settings, Swarmkeep, Task,
};
use swarmkeep_core::{
    clock::{Clock, Entropy},
    command::{BeginEffect, DEFAULT_SCOPE},
    log::{Observation, Position},
    state::EffectClass,
};

/// Time that stands still between two steps, and randomness that is none: the same steps give the same records.
#[derive(Debug, Default)]
pub struct Fixed {
    steps: AtomicU64,
    pools: AtomicU64,
    nonces: AtomicU64,
}

impl Clock for Fixed {
    fn now_ms(&self) -> u64 {
        1_767_225_600_000 + 1_000 * self.steps.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }
}

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        // The journal draws its nonces on a thread of its own; the salts of records must not depend on when.
        let count = if bytes.len() > 64 { &self.pools } else { &self.nonces }.fetch_add(1, Ordering::SeqCst);
        let mut stream = blake3::Hasher::new().update(&[bytes.len() as u8]).update(&count.to_le_bytes()).finalize_xof();
        stream.fill(bytes);
    }
}

/// Segments as small as a store takes them.
pub fn settings() -> Settings {
    Settings { segment_bytes: 1 << 20, ..Settings::default() }
}

pub async fn open(folder: &Path, fixed: &Arc<Fixed>) -> Result<Swarmkeep, Error> {
    Swarmkeep::open_folder(folder, settings(), fixed.clone(), fixed.clone()).await
}

pub fn id(text: &str) -> EntityId {
    EntityId::new(text).unwrap()
}

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

pub fn set(key: &str, value: &str) -> Command {
    let (scope, value) = (id(DEFAULT_SCOPE), Json::encode(value).unwrap());
    Command::SetMemory { scope, key: id(key), value, if_version: None, ttl_ms: None }
}

async fn ask(session: &Session, fixed: &Fixed, command: Command) -> Position {
    fixed.steps.fetch_add(1, Ordering::SeqCst);
    session.submit(Request::of(Actor::new("user:someone").unwrap(), command)).await.unwrap().position
}

/// Text that does not compress to nothing.
fn text(bytes: usize) -> String {
    let mut raw = vec![0; bytes / 2];
    blake3::Hasher::new().update(b"text").finalize_xof().fill(&mut raw);
    raw.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Blobs: one that travels in a frame, one that is a file.
pub fn blobs() -> [Blob; 2] {
    [Blob::new(Bytes::from(text(900))), Blob::new(Bytes::from(text(70_000)))]
}

/// Part 1: one of everything, and a fork and a rewind.
pub async fn everything(keep: &Swarmkeep, fixed: &Fixed) {
    let new = NewSession {
        owner: Some("team".into()),
        ttl_ms: Some(u64::MAX / 4),
        request: Some("maker:1".parse().unwrap()),
        ..NewSession::new("small/everything".parse().unwrap())
    };
    let session = keep.create_session(new, &Actor::system()).await.unwrap();
    for (name, capability) in [("planner", "plan"), ("coder", "code")] {
        session.spawn_agent(Agent::new(name).id(name).unwrap().capability(capability)).await.unwrap();
    }
    for (n, title) in ["split", "write", "test"].into_iter().enumerate() {
        session
            .create_task(Task::new(title).id(title).unwrap().priority(n as i64).payload(json("{\"n\":1.0}")))
            .await
            .unwrap();
    }
    let (planner, coder) = (id("planner"), id("coder"));
    for command in [
        Command::CreateGroup {
            id: Some(id("team")),
            name: "team".into(),
            kind: "team".into(),
            configuration: json("{}"),
        },
        Command::JoinGroup { group: id("team"), agent: coder.clone(), role: Some("lead".into()) },
        Command::Subscribe { agent: coder.clone(), topic: id("news") },
        Command::ClaimTask { agent: coder.clone(), task: Some(id("split")), kinds: None, lease_ms: None },
        Command::CompleteTask { task: id("split"), lease: Some(1), result: json("[1,2]") },
        Command::ClaimTask { agent: coder.clone(), task: Some(id("write")), kinds: None, lease_ms: None },
        Command::SendMessage {
            id: Some(id("m1")),
            from: planner.clone(),
            to: Address::Agent(coder.clone()),
            topic: None,
            content: json("\"begin\""),
            correlation_id: Some("c1".into()),
        },
        Command::ReceiveMessages { agent: coder.clone(), limit: None },
        set("plan", "three steps"),
        Command::SetConfig { key: id("limit"), value: json("3") },
        Command::SetConnection {
            connection: id("tools"),
            recipe: json("{\"command\":\"x\"}"),
            state: json("null"),
            status: "connected".into(),
        },
        effect("ask"),
        Command::FinishEffect {
            effect: id("ask"),
            attempt: 1,
            outcome: serde_json::from_str("{\"ok\":true,\"value\":42}").unwrap(),
        },
        effect("pay"),
    ] {
        ask(&session, fixed, command).await;
    }
    for (n, blob) in blobs().into_iter().enumerate() {
        session.put_blob(&format!("b{n}"), blob.bytes, Actor::system(), None).await.unwrap();
    }
    session.checkpoint().await.unwrap();
    let at = session.state().await.unwrap().head.seq;
    ask(&session, fixed, set("plan", "four steps")).await;
    ask(&session, fixed, set("detour", &text(2_000))).await;
    let new = NewSession::new("small/fork".parse().unwrap());
    let fork = session.fork(Some(at), new, Some("what if".into()), &Actor::system()).await.unwrap();
    ask(&fork, fixed, set("only here", "1")).await;
    session.rewind(at, Some("no".into()), Some("maker:2".parse().unwrap()), Actor::system()).await.unwrap();
    let metric = Observation::Metric {
        agent: coder,
        kind: "usage".into(),
        name: "tokens".into(),
        value: 12.5,
        tags: json("{}"),
        at_ms: 0,
    };
    session.observe(vec![metric]).await.unwrap();
}

fn effect(key: &str) -> Command {
    Command::BeginEffect(BeginEffect {
        effect: id(key),
        class: EffectClass::AtMostOnce,
        agent: Some(id("planner")),
        task: None,
        instance: id("worker-1"),
        request: json("{\"ask\":1}"),
        deadline_ms: None,
    })
}

/// Part 2, and again: work goes on, with a session of its own.
pub async fn more(keep: &Swarmkeep, fixed: &Fixed, round: u64) -> Position {
    let everything = keep.open_session("small/everything").await.unwrap();
    ask(&everything, fixed, set("round", &round.to_string())).await;
    let session = keep.open_session(&format!("small/more-{round}")).await.unwrap();
    for n in 0..3 {
        ask(&session, fixed, set(&format!("k{n}"), &text(300 + 100 * n))).await;
    }
    session.checkpoint().await.unwrap();
    ask(&session, fixed, set("k0", "last")).await
}

/// Waits until both databases have everything.
pub async fn settle(keep: &Swarmkeep, position: Position) {
    keep.find(Query::of(Of::Sessions), Some(position)).await.unwrap();
}

/// What a store must read as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// By name: the hash of the state at each seq, from 1.
    pub states: BTreeMap<String, Vec<Hash>>,
    /// By name: the hash of each record.
    pub records: BTreeMap<String, Vec<Hash>>,
}

pub const NAMES: [&str; 5] = ["small/everything", "small/fork", "small/more-1", "small/more-2", "small/more-3"];

impl Reading {
    pub async fn of(keep: &Swarmkeep) -> Self {
        let mut reading = Self { states: BTreeMap::new(), records: BTreeMap::new() };
        for name in NAMES {
            let Some(session) = keep.get_session(name).await.unwrap() else { continue };
            let head = session.state().await.unwrap().head.seq.0;
            let mut states = Vec::new();
            for seq in 1..=head {
                states.push(session.state_at(Seq(seq)).await.unwrap().hash());
            }
            let records = session.records(Seq::ZERO, usize::MAX).await.unwrap();
            reading.states.insert(name.into(), states);
            reading.records.insert(name.into(), records.iter().map(|record| record.hash).collect());
        }
        reading
    }
}

/// A folder, in RAM. Without `-shm` files: they are made anew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image(pub BTreeMap<PathBuf, Vec<u8>>);

impl Image {
    pub fn take(folder: &Path) -> Self {
        let mut image = Self::default();
        image.walk(folder, Path::new(""));
        image
    }

    fn walk(&mut self, folder: &Path, under: &Path) {
        for entry in fs::read_dir(folder.join(under)).unwrap() {
            let entry = entry.unwrap();
            let path = under.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.walk(folder, &path);
            } else if !path.to_string_lossy().ends_with("-shm") && entry.file_type().unwrap().is_file() {
                self.0.insert(path.clone(), fs::read(folder.join(path)).unwrap());
            }
        }
    }

    pub fn put(&self, folder: &Path) {
        for (path, bytes) in &self.0 {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Segments end in zeros, most of them.
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            fs::write(&path, &bytes[..end]).unwrap();
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64).unwrap();
        }
    }

    /// The files whose path begins so.
    pub fn only(&self, prefixes: &[&str]) -> Self {
        let named = |path: &Path| prefixes.iter().any(|prefix| path.to_string_lossy().starts_with(prefix));
        Self(self.0.iter().filter(|(path, _)| named(path)).map(|(path, bytes)| (path.clone(), bytes.clone())).collect())
    }

    pub fn with(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Without what every open leaves: the lock, an empty write-ahead log.
    pub fn lasting(&self) -> BTreeMap<&PathBuf, &Vec<u8>> {
        let passing = |path: &Path, bytes: &[u8]| {
            let name = path.to_string_lossy();
            name == "lock" || (name.ends_with("-wal") && bytes.is_empty())
        };
        self.0.iter().filter(|(path, bytes)| !passing(path, bytes)).collect()
    }
}

/// A folder in RAM, where the system has one: thousands of stores are opened here.
pub fn fast_folder() -> tempfile::TempDir {
    match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm").unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// The folder of a store, taken as a crash would have left it: part of it in the databases' main files, part in their
/// write-ahead logs, part in the journal only. And the same, parked.
pub async fn crashed_and_parked() -> (Image, Image) {
    let folder = fast_folder();
    let fixed = Arc::new(Fixed::default());
    let keep = open(folder.path(), &fixed).await.unwrap();
    everything(&keep, &fixed).await;
    keep.close().await.unwrap();
    drop(keep);
    let keep = open(folder.path(), &fixed).await.unwrap();
    keep.wait_ready().await;
    let position = more(&keep, &fixed, 1).await;
    settle(&keep, position).await;
    let databases = Image::take(folder.path()).only(&["records.db", "views.db"]);
    more(&keep, &fixed, 2).await;
    more(&keep, &fixed, 3).await;
    let rest = Image::take(folder.path()).only(&["journal/", "blobs/"]);
    keep.close().await.unwrap();
    let wal = |name: &str| databases.0.get(Path::new(name)).map_or(0, Vec::len);
    assert!(wal("records.db-wal") > 0 && wal("views.db-wal") > 0, "the write-ahead logs were copied too early");
    (databases.with(rest), Image::take(folder.path()))
}

/// What is in a database, as text; without what says when it was opened, or in which batches it was made.
pub fn dump(path: &Path) -> BTreeMap<String, Vec<String>> {
    let connection = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut tables = connection
        .prepare(
            "SELECT name FROM sqlite_schema WHERE name = 'events' OR (type = 'table' AND name NOT LIKE 'sqlite_%' \
             AND name NOT IN ('schema_migrations', 'event_groups', 'meta'))",
        )
        .unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut dump = BTreeMap::new();
    for name in names {
        let mut statement = connection.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns)
                .map(|n| row.get::<_, rusqlite::types::Value>(n).map(|value| format!("{value:?}")))
                .collect::<Result<Vec<_>, _>>()
        });
        let mut rows: Vec<String> = rows.unwrap().map(|row| row.unwrap().join(" | ")).collect();
        rows.sort_unstable();
        dump.insert(name, rows);
    }
    dump
}
