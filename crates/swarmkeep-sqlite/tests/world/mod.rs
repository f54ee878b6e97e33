//! Sessions that write records of their own, for tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code, unreachable_pub, missing_docs)] // shared by several tests

use bytes::Bytes;
use swarmkeep_core::{
    Actor, EntityId, Epoch, Event, Hash, Json, Seq, SessionId, SessionName,
    checkpoint::Checkpoint,
    log::{Head, Position},
    record::{self, Body},
};
use swarmkeep_sqlite::{ApplyBatch, Entry, Mode, Options, Vfs, What};

pub fn options() -> Options {
    Options { store_id: Some([7; 16]), create: true, mode: Mode::WalNormal, now_ms: 1_000, vfs: Vfs::default() }
}

pub fn batch(position: u64, entries: Vec<Entry>) -> ApplyBatch {
    ApplyBatch { position: Position(position), frame_hash: Hash([position as u8; 32]), incarnation: 1, entries }
}

/// The records from `seq` on.
pub fn records(bytes: &[u8], seq: u64) -> Bytes {
    let mut out = Vec::new();
    for view in record::iter(bytes) {
        let view = view.unwrap();
        if view.seq().0 >= seq {
            out.extend_from_slice(view.bytes());
        }
    }
    out.into()
}

pub struct Author {
    pub name: SessionName,
    pub id: SessionId,
    pub head: Head,
    pub bytes: Vec<u8>,
    pub salt: u8,
    pub now_ms: u64,
}

impl Author {
    pub fn new(name: &str) -> Self {
        let name: SessionName = name.parse().unwrap();
        Self { id: name.id(), name, head: Head::default(), bytes: Vec::new(), salt: 0, now_ms: 1_000 }
    }

    /// Writes one event.
    pub fn write(&mut self, event: Event) -> Bytes {
        self.now_ms += 10;
        let body = Body { actor: Actor::new("tester").unwrap(), request: None, event, answer: None };
        let body = serde_json::to_vec(&body).unwrap();
        let from = self.bytes.len();
        self.head = record::encode(&mut self.bytes, self.id, self.head, Epoch(1), self.now_ms, [self.salt; 16], &body);
        Bytes::copy_from_slice(&self.bytes[from..])
    }

    /// The next event of a dull life: created, then custom ones.
    pub fn next_event(&self) -> Event {
        if self.head.seq == Seq::ZERO {
            return Event::SessionCreated {
                name: self.name.clone(),
                owner: Some("tester".into()),
                metadata: Default::default(),
                ttl_ms: None,
                idle_ttl_ms: None,
            };
        }
        Event::Custom {
            kind: "step".into(),
            aggregate: Some(EntityId::new(format!("thing-{}", self.head.seq.0 % 3)).unwrap()),
            payload: Json::encode(&format!("payload of {} {}", self.head.seq, "x".repeat(60))).unwrap(),
            blobs: Default::default(),
            calls: Vec::new(),
            results: Vec::new(),
        }
    }

    pub fn entry(&mut self, position: u64, count: u32) -> Entry {
        let first = self.head.seq.next();
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.extend_from_slice(&self.write(self.next_event()));
        }
        self.raw(position, first, count, bytes.into())
    }

    pub fn events(&mut self, position: u64, events: Vec<Event>) -> Entry {
        let first = self.head.seq.next();
        let count = events.len() as u32;
        let mut bytes = Vec::new();
        for event in events {
            bytes.extend_from_slice(&self.write(event));
        }
        self.raw(position, first, count, bytes.into())
    }

    pub fn raw(&self, position: u64, first: Seq, count: u32, bytes: Bytes) -> Entry {
        self.what(position, What::Records { first, head: self.head, count, epoch: Epoch(1), bytes, blobs: Vec::new() })
    }

    pub fn what(&self, position: u64, what: What) -> Entry {
        Entry { position: Position(position), session: self.id, what }
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let canonical = Bytes::from(format!("{{\"state at\":{}}}", self.head.seq));
        Checkpoint { session: self.id, head: self.head, hash: Hash(*blake3::hash(&canonical).as_bytes()), canonical }
    }
}

/// The groups of a history, as entries at ascending positions from `from`, with the states that it carries as blobs.
pub fn entries_of(history: &swarmkeep_core::testing::History, from: u64) -> Vec<Entry> {
    let session = history.state().info.id;
    let mut blobs: Vec<swarmkeep_sqlite::NewBlob> = history
        .bases
        .values()
        .map(|base| swarmkeep_core::log::Blob::new(Bytes::from(base.canonical())).into())
        .collect();
    let mut entries = Vec::new();
    let mut after = Seq::ZERO;
    for (nth, state) in history.states.iter().enumerate() {
        let mut bytes = Vec::new();
        let mut count = 0;
        for view in record::iter(&history.bytes) {
            let view = view.unwrap();
            if view.seq() > after && view.seq() <= state.head.seq {
                bytes.extend_from_slice(view.bytes());
                count += 1;
            }
        }
        let what = What::Records {
            first: after.next(),
            head: state.head,
            count,
            epoch: Epoch(1),
            bytes: bytes.into(),
            blobs: std::mem::take(&mut blobs),
        };
        entries.push(Entry { position: Position(from + nth as u64), session, what });
        after = state.head.seq;
    }
    entries
}

/// Everything in a `views.db` that is not a running number, as text.
pub fn dump(connection: &rusqlite::Connection) -> Vec<String> {
    let mut lines = Vec::new();
    let tables = swarmkeep_core::tabulate::TABLES.iter().map(|table| (table.name, table.columns.join(", "))).chain([
        ("metrics", "session_id, agent_id, metric_type, metric_name, value, tags, timestamp".to_owned()),
        ("events", "session_id, sequence_number, aggregate_type, aggregate_id, event_type, timestamp".to_owned()),
    ]);
    for (table, columns) in tables {
        let mut statement = connection.prepare(&format!("SELECT {columns} FROM {table}")).unwrap();
        let count = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> =
                (0..count).map(|n| format!("{:?}", row.get::<_, rusqlite::types::Value>(n).unwrap())).collect();
            lines.push(format!("{table}: {}", values.join(" | ")));
        }
    }
    lines.sort();
    lines
}
