//! How fast records are applied: `cargo run --release -p swarmkeep-sqlite --example apply_rate [SESSIONS] [RECORDS] [BATCH]`.
//!
//! Records of custom events with 200 bytes of payload, spread evenly, made beforehand; one thread.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a measurement: it reads the clock

use std::time::{Duration, Instant};

use swarmkeep_core::{
    Actor, Epoch, Event, Hash, Json, SessionName,
    log::{Head, Position},
    record::{self, Body},
};
use swarmkeep_sqlite::{ApplyBatch, Entry, Mode, Options, RecordsDb, Source, Vfs, ViewsDb, What};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let sessions = arguments.next().unwrap_or(1_000);
    let records = arguments.next().unwrap_or(600_000);
    let batch = arguments.next().unwrap_or(20_000);
    let dir = tempfile::tempdir_in(".").unwrap();
    let options = Options { store_id: None, create: true, mode: Mode::WalNormal, now_ms: 0, vfs: Vfs::default() };
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options).unwrap();
    let mut views = ViewsDb::open(&dir.path().join("views.db"), options).unwrap();
    let names: Vec<SessionName> = (0..sessions).map(|n| format!("session-{n}").parse().unwrap()).collect();
    let mut heads = vec![Head::default(); sessions];
    let (mut made, mut position, mut raw) = (0usize, 0u64, 0usize);
    let (mut in_records, mut in_views, mut in_wal) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut draw = 1u64;
    while made < records {
        position += 1;
        let mut entries = Vec::with_capacity(batch);
        for _ in 0..batch.min(records - made) {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let nth = (draw >> 33) as usize % sessions;
            let (Some(name), Some(head)) = (names.get(nth), heads.get_mut(nth)) else { continue };
            let event = if head.seq.0 == 0 {
                Event::SessionCreated {
                    name: name.clone(),
                    owner: None,
                    metadata: Default::default(),
                    ttl_ms: None,
                    idle_ttl_ms: None,
                }
            } else {
                let payload: String = (0..25).map(|n| format!("{:08x}", draw.rotate_left(n * 7) as u32)).collect();
                Event::Custom {
                    kind: "step".into(),
                    aggregate: None,
                    payload: Json::encode(&payload).unwrap(),
                    blobs: Default::default(),
                    calls: Vec::new(),
                    results: Vec::new(),
                }
            };
            let body = Body { actor: Actor::system(), request: None, event, answer: None };
            let mut bytes = Vec::new();
            let salt = draw.to_le_bytes().repeat(2).try_into().unwrap();
            *head = record::encode(
                &mut bytes,
                name.id(),
                *head,
                Epoch(1),
                position,
                salt,
                &serde_json::to_vec(&body).unwrap(),
            );
            raw += bytes.len();
            let what = What::Records {
                first: head.seq,
                head: *head,
                count: 1,
                epoch: Epoch(1),
                bytes: bytes.into(),
                blobs: Vec::new(),
            };
            entries.push(Entry { position: Position(position), session: name.id(), what });
        }
        made += entries.len();
        let batch = ApplyBatch { position: Position(position), frame_hash: Hash::default(), incarnation: 1, entries };
        let start = Instant::now();
        db.apply(&batch).unwrap();
        in_records += start.elapsed();
        let start = Instant::now();
        views.apply(&batch, &Source::new(db.reader())).unwrap();
        in_views += start.elapsed();
        if position % 16 == 0 {
            let start = Instant::now();
            db.wal_checkpoint().unwrap().unwrap();
            views.wal_checkpoint().unwrap();
            in_wal += start.elapsed();
        }
    }
    let start = Instant::now();
    db.wal_checkpoint().unwrap().unwrap();
    views.wal_checkpoint().unwrap();
    in_wal += start.elapsed();
    let rate = |time: Duration| (made as f64 / time.as_secs_f64()) as u64;
    let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len() as f64 / raw as f64;
    println!("{made} records of {} bytes, {sessions} sessions, {batch} a batch, one thread", raw / made);
    println!("records.db {:>9}/s   {:.2} of the records' bytes", rate(in_records), size("records.db"));
    println!("views.db   {:>9}/s   {:.2} of the records' bytes", rate(in_views), size("views.db"));
    println!("write-ahead logs copied back: {:.2} s", in_wal.as_secs_f64());
    println!("everything {:>9}/s", rate(in_records + in_views + in_wal));
    let start = Instant::now();
    let mut read = 0;
    for name in &names {
        read += db.reader().verify(name.id()).unwrap().records;
    }
    println!("verified   {:>9}/s", (read as f64 / start.elapsed().as_secs_f64()) as u64);
}
