//! `records.db`: what is applied comes out again, once, verified; what is flipped is found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)] // a test

mod world;

use bytes::Bytes;
use rusqlite::types::Value;
use swarmkeep_core::{
    Hash, Seq,
    checkpoint::Checkpoint,
    log::{Blob, Head, Observation, Position, Remove},
    record,
};
use swarmkeep_sqlite::{ApplyBatch, Mending, Mode, Options, RecordsDb, SqliteError, Vfs, What, Wreck};
use world::{Author, batch, options, records};

#[test]
fn what_is_applied_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let mut authors: Vec<Author> = (0..5).map(|n| Author::new(&format!("s{n}"))).collect();
    for position in 1..=40 {
        let entries = authors.iter_mut().map(|author| author.entry(position, 3)).collect();
        db.apply(&batch(position, entries)).unwrap();
    }
    assert_eq!(db.position(), (Position(40), Hash([40; 32])));
    for author in &authors {
        assert_eq!(db.reader().head(author.id).unwrap().unwrap().0, author.head);
        for (after, max) in [(0, usize::MAX), (0, 1), (17, 1), (17, 3000), (author.head.seq.0 - 1, 10)] {
            let bytes = db.reader().read(author.id, Seq(after), max).unwrap();
            let first = record::iter(&bytes).next().unwrap().unwrap();
            assert_eq!(first.seq().0, after + 1);
            assert!(author.bytes.windows(bytes.len()).any(|window| window == bytes));
        }
        assert_eq!(db.reader().read(author.id, Seq(0), usize::MAX).unwrap(), author.bytes);
        assert!(db.reader().read(author.id, author.head.seq, 1).unwrap().is_empty());
        let report = db.reader().verify(author.id).unwrap();
        assert_eq!((report.records, report.damage.len()), (author.head.seq.0, 0));
        let session = db.reader().session(author.id).unwrap().unwrap();
        assert_eq!(session.name.unwrap(), author.name);
    }
    assert_eq!(db.reader().sessions(None, 10).unwrap().len(), 5);
    let page = db.reader().sessions(None, 2).unwrap();
    assert_eq!(db.reader().sessions(Some(page[1].id), 10).unwrap().len(), 3);
    assert!(db.reader().verify_file().unwrap().is_empty());
    assert_eq!(db.wal_checkpoint().unwrap().unwrap(), db.anchor());
}

#[test]
fn the_same_batch_again_changes_nothing_and_another_history_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let mut author = Author::new("twice");
    let first = batch(1, vec![author.entry(1, 5)]);
    let second = batch(2, vec![author.entry(2, 5)]);
    db.apply(&first).unwrap();
    db.apply(&first).unwrap();
    db.apply(&second).unwrap();
    drop(db);
    let mut db = RecordsDb::open(&path, options()).unwrap();
    db.apply(&first).unwrap();
    assert_eq!(db.position().0, Position(2));
    // The same records under a later position: compared, and skipped.
    let mut later = second.clone();
    later.position = Position(3);
    later.entries[0].position = Position(3);
    db.apply(&later).unwrap();
    assert_eq!(db.reader().read(author.id, Seq(0), usize::MAX).unwrap(), author.bytes);

    let mut other = Author::new("twice");
    other.salt = 9;
    let forged = batch(4, vec![other.entry(4, 5)]);
    assert!(matches!(db.apply(&forged), Err(SqliteError::Damaged(_))));
    // A hole.
    author.entry(5, 2);
    let hole = batch(6, vec![author.entry(6, 2)]);
    let Err(SqliteError::Damaged(damage)) = db.apply(&hole) else { panic!("a hole was applied") };
    assert_eq!(damage[0].seqs, Some(11..=13));
    assert_eq!(db.position().0, Position(3), "a refused batch leaves nothing");
}

#[test]
fn a_file_that_cannot_be_reopened_now_is_reopened_later() {
    let dir = tempfile::tempdir().unwrap();
    let (path, away) = (dir.path().join("records.db"), dir.path().join("away.db"));
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let mut author = Author::new("patient");
    db.apply(&batch(1, vec![author.entry(1, 3)])).unwrap();
    std::fs::rename(&path, &away).unwrap();
    assert!(matches!(db.reopen(), Err(SqliteError::NotFound(_))));
    // What says that it is to be reopened, again and again, until it is.
    let next = batch(2, vec![author.entry(2, 3)]);
    assert!(db.is_poisoned());
    assert!(matches!(db.apply(&next), Err(SqliteError::Io(_))));
    std::fs::rename(&away, &path).unwrap();
    db.reopen().unwrap();
    db.apply(&next).unwrap();
    assert_eq!(db.reader().read(author.id, Seq(0), usize::MAX).unwrap(), author.bytes);
}

#[test]
fn small_chunks_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let mut author = Author::new("slow");
    for position in 1..=500 {
        db.apply(&batch(position, vec![author.entry(position, 1)])).unwrap();
    }
    let chunks: i64 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM chunks", [], |row| row.get(0))
        .unwrap();
    let bytes = author.bytes.len() as i64;
    assert!(chunks <= 2 * bytes / (8 * 1024) + 8, "{chunks} chunks for {bytes} bytes");
    assert_eq!(db.reader().read(author.id, Seq(0), usize::MAX).unwrap(), author.bytes);
}

#[test]
fn a_removed_session_stays_removed_and_may_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let mut author = Author::new("gone");
    let made = batch(1, vec![author.entry(1, 4), author.what(1, What::Observations(vec![beat("a", 5)]))]);
    let gone = batch(2, vec![author.what(2, What::Remove(Remove::All))]);
    db.apply(&made).unwrap();
    db.apply(&gone).unwrap();
    assert!(db.reader().head(author.id).unwrap().is_none());
    db.apply(&made).unwrap();
    // Also the rest of it under a position of its own, as a journal read again from the middle would bring.
    let rest = records(&author.bytes, 2);
    db.apply(&batch(3, vec![author.raw(3, Seq(2), 3, rest)])).unwrap();
    assert!(db.reader().head(author.id).unwrap().is_none());
    assert_eq!(db.reader().removals(Position(0)).unwrap()[0].head.0, Seq(4));
    assert!(db.reader().verify_file().unwrap().is_empty());
    let mut again = Author::new("gone");
    db.apply(&batch(4, vec![again.entry(4, 2)])).unwrap();
    assert_eq!(db.reader().head(again.id).unwrap().unwrap().0, again.head);
}

#[test]
fn checkpoints_are_never_ahead_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let mut author = Author::new("cp");
    db.apply(&batch(1, vec![author.entry(1, 2)])).unwrap();
    let ahead = Checkpoint { head: Head { seq: Seq(3), ..author.head }, ..author.checkpoint() };
    let foreign = Checkpoint { head: Head { hash: Hash([1; 32]), ..author.head }, ..author.checkpoint() };
    for wrong in [ahead, foreign] {
        db.apply(&batch(1, vec![author.what(1, What::Checkpoint(wrong))])).unwrap();
        assert!(db.reader().load(author.id, Seq(9)).unwrap().is_none());
    }
    for position in 2..=140 {
        // The records come after the checkpoint in the batch, and still before it in the file.
        let records = author.entry(position, 1);
        let checkpoint = author.what(position, What::Checkpoint(author.checkpoint()));
        db.apply(&batch(position, vec![checkpoint, records])).unwrap();
    }
    let seqs: Vec<u64> = db.reader().checkpoints(author.id).unwrap().iter().map(|info| info.head.seq.0).collect();
    assert_eq!(seqs, [141, 140, 131, 67, 3]);
    assert_eq!(db.reader().load(author.id, Seq(100)).unwrap().unwrap().head.seq, Seq(67));
    let loaded = db.reader().load(author.id, Seq(u32::MAX.into())).unwrap().unwrap();
    assert_eq!(loaded, author.checkpoint());

    // Records below a checkpoint may go; what the rest is folded from stays.
    db.apply(&batch(200, vec![author.what(200, What::Remove(Remove::RecordsThrough(Seq(130))))])).unwrap();
    assert_eq!(db.reader().read(author.id, Seq(130), usize::MAX).unwrap(), records(&author.bytes, 131));
    assert!(matches!(db.reader().read(author.id, Seq(129), 1), Err(SqliteError::Damaged(_))));
    assert!(db.reader().verify(author.id).unwrap().damage.is_empty());
    db.apply(&batch(201, vec![author.what(201, What::Remove(Remove::Checkpoints { keep: 1 }))])).unwrap();
    let seqs: Vec<u64> = db.reader().checkpoints(author.id).unwrap().iter().map(|info| info.head.seq.0).collect();
    assert_eq!(seqs, [141, 131]);
    // Beyond the newest checkpoint nothing may go.
    db.apply(&batch(202, vec![author.entry(202, 5), author.what(202, What::Remove(Remove::RecordsThrough(Seq(145))))]))
        .unwrap();
    assert_eq!(db.reader().session(author.id).unwrap().unwrap().base.seq, Seq(130));
}

fn beat(agent: &str, at_ms: u64) -> Observation {
    Observation::Heartbeat { agent: agent.parse().unwrap(), at_ms }
}

#[test]
fn blobs_and_observations_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let mut author = Author::new("blobs");
    let small = Blob::new(b"small".to_vec().into());
    let large = Blob::new("large ".repeat(5_000).into_bytes().into());
    let mut entry = author.entry(1, 2);
    if let What::Records { blobs, .. } = &mut entry.what {
        *blobs = vec![small.clone().into(), large.clone().into()];
        blobs.push(swarmkeep_sqlite::NewBlob { id: Blob::new(b"file".to_vec().into()).id, len: 4, bytes: None });
    }
    let beats = What::Observations(vec![beat("a", 5), beat("b", 6), beat("a", 7)]);
    db.apply(&batch(1, vec![entry, author.what(1, beats)])).unwrap();
    for blob in [&small, &large] {
        assert_eq!(db.reader().blob(author.id, blob.id).unwrap().unwrap(), blob.bytes);
    }
    assert_eq!(db.reader().blobs(author.id, true).unwrap().len(), 1);
    assert_eq!(db.reader().blobs(author.id, false).unwrap().len(), 2);
    let stored = db.reader().observations(0, Position(0), 10).unwrap();
    assert_eq!(stored[0].observations, [beat("a", 7), beat("b", 6)]);
    assert!(matches!(db.reader().blob(author.id, Blob::new(b"no".to_vec().into()).id), Err(SqliteError::NotFound(_))));
}

/// Every byte of every blob column, and every number beside it.
#[test]
fn a_file_that_ends_too_soon_still_has_its_other_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, Options { mode: Mode::RollbackFull, ..options() }).unwrap();
    let mut authors: Vec<Author> = (0..60).map(|n| Author::new(&format!("s{n}"))).collect();
    for position in 1..=4 {
        let entries = authors.iter_mut().map(|author| author.entry(position, 3)).collect();
        db.apply(&batch(position, entries)).unwrap();
    }
    drop(db);
    let length = std::fs::metadata(&path).unwrap().len();
    for pages in [1, 3] {
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - pages * 4096).unwrap();
        for alone in [false, true] {
            let wreck = Wreck::open(Vfs::default(), &path, alone).unwrap();
            let salvaged = wreck.survey();
            assert!(salvaged.anchor.is_some(), "{pages} {alone}: {salvaged:?}");
            assert!(salvaged.sessions.len() > 40, "{pages} {alone}: {}", salvaged.sessions.len());
        }
    }
}

#[test]
fn flipped_bytes_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, Options { mode: Mode::RollbackFull, ..options() }).unwrap();
    let mut author = Author::new("flip");
    let mut entry = author.entry(1, 3);
    if let What::Records { blobs, .. } = &mut entry.what {
        *blobs = vec![Blob::new(b"some content".to_vec().into()).into()];
    }
    db.apply(&batch(1, vec![entry, author.what(1, What::Checkpoint(author.checkpoint()))])).unwrap();
    drop(db);
    let columns = [
        ("chunks", "first_seq last_seq codec raw_len checksum bytes"),
        ("sessions", "head_seq head_hash head_time head_epoch base_seq bytes position tail_raw checksum status name"),
        ("checkpoints", "seq number head_hash head_time state_version hash raw_len checksum bytes"),
        ("blobs", "raw_len codec bytes"),
        ("meta", "value"),
    ];
    let original = std::fs::read(&path).unwrap();
    for (table, names) in columns {
        for column in names.split(' ') {
            for at in (0..64usize).step_by(3) {
                std::fs::write(&path, &original).unwrap();
                let connection = rusqlite::Connection::open(&path).unwrap();
                let value: Value = connection
                    .query_row(&format!("SELECT {column} FROM {table} LIMIT 1"), [], |row| row.get(0))
                    .unwrap();

                let flipped = match value {
                    Value::Integer(number) if at < 40 => Value::Integer(number ^ (1 << at)),
                    Value::Blob(mut bytes) if at < bytes.len() => {
                        let step = (bytes.len() / 64).max(1);
                        bytes[at * step] ^= 0x10;
                        Value::Blob(bytes)
                    }
                    Value::Text(mut text) if at == 0 => {
                        text.push('x');
                        Value::Text(text)
                    }
                    _ => continue,
                };
                connection.execute(&format!("UPDATE {table} SET {column} = ?1 WHERE rowid IN (SELECT rowid FROM {table} LIMIT 1)"), [&flipped])
                    .or_else(|_| connection.execute(&format!("UPDATE {table} SET {column} = ?1 WHERE {column} = (SELECT {column} FROM {table} LIMIT 1)"), [&flipped]))
                    .unwrap();
                drop(connection);
                let found =
                    match RecordsDb::open(&path, Options { store_id: None, mode: Mode::RollbackFull, ..options() }) {
                        Err(SqliteError::Damaged(_)) => true,
                        Err(other) => panic!("{table}.{column}: {other}"),
                        Ok(db) => match db.reader().verify(author.id) {
                            Err(SqliteError::Damaged(_)) => true,
                            Err(other) => panic!("{table}.{column}: {other}"),
                            Ok(report) => !report.damage.is_empty(),
                        },
                    };
                assert!(found, "{table}.{column}, bit or byte {at} was not found");
            }
        }
    }
}

/// Every byte of the file itself: nothing panics, and records are either the right ones or an error.
#[test]
fn flipped_bytes_of_the_file_never_give_other_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let options = Options { mode: Mode::RollbackFull, ..options() };
    let mut db = RecordsDb::open(&path, options).unwrap();
    let mut author = Author::new("file");
    db.apply(&batch(1, vec![author.entry(1, 3)])).unwrap();
    drop(db);
    let original = std::fs::read(&path).unwrap();
    for at in (0..original.len()).step_by(97) {
        let mut bytes = original.clone();
        bytes[at] ^= 0x41;
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(db) = RecordsDb::open(&path, options)
            && let Ok(read) = db.reader().read(author.id, Seq(0), usize::MAX)
        {
            assert_eq!(read, author.bytes, "byte {at}");
        }
    }
}

#[test]
fn what_is_left_of_a_damaged_session_is_read_up_to_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let mut author = Author::new("left");
    db.apply(&batch(1, vec![author.entry(1, 8)])).unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    let bytes: Vec<u8> = raw.query_row("SELECT bytes FROM chunks", [], |row| row.get(0)).unwrap();
    assert_eq!(bytes, author.bytes, "one row, not packed");
    let ends: Vec<usize> = record::iter(&author.bytes)
        .scan(0, |end, view| {
            *end += view.unwrap().bytes().len();
            Some(*end)
        })
        .collect();
    // The session's own row too.
    raw.execute("UPDATE sessions SET checksum = zeroblob(16)", []).unwrap();
    let (mut most, mut tried) = (0, 0);
    for at in (0..bytes.len()).step_by(11) {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 0x41;
        raw.execute("UPDATE chunks SET bytes = ?1", [&spoilt]).unwrap();
        // A record in front of the damage is given when the one behind it, or the session's row, says that it is whole.
        let before = ends.iter().filter(|end| **end <= at).count();
        let reader = db.reader();
        let given = match reader.read_left(author.id, Seq::ZERO, usize::MAX) {
            Ok(read) => {
                assert_eq!(read, author.bytes[..read.len()], "byte {at}");
                1 + ends.iter().position(|end| *end == read.len()).unwrap()
            }
            Err(SqliteError::Damaged(_)) => 0,
            Err(error) => panic!("byte {at}: {error}"),
        };
        assert!(given == before || given + 1 == before, "byte {at}: {given} of {before}");
        most += usize::from(given == before);
        if given > 1 {
            assert_eq!(reader.read_left(author.id, Seq(1), 1).unwrap(), author.bytes[ends[0]..ends[1]]);
        }
        let more = reader.read_left(author.id, Seq(given as u64), 1);
        assert!(matches!(more, Err(SqliteError::Damaged(_))), "byte {at}");
        tried += 1;
    }
    assert!(most * 2 > tried, "{most} of {tried}: bodies are longer than headers");
}

#[test]
fn another_store_s_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    drop(RecordsDb::open(&path, options()).unwrap());
    let other = Options { store_id: Some([8; 16]), ..options() };
    assert!(matches!(RecordsDb::open(&path, other), Err(SqliteError::Foreign { .. })));
    let missing = Options { create: false, ..options() };
    assert!(matches!(RecordsDb::open(&dir.path().join("none.db"), missing), Err(SqliteError::NotFound(_))));
}

#[test]
fn a_reader_in_the_way_puts_the_checkpoint_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let mut author = Author::new("wal");
    db.apply(&batch(1, vec![author.entry(1, 1)])).unwrap();
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM sessions;").unwrap();
    db.apply(&ApplyBatch { entries: vec![author.entry(2, 1)], ..batch(2, vec![]) }).unwrap();
    assert_eq!(db.wal_checkpoint().unwrap(), None);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(db.wal_checkpoint().unwrap().unwrap().position, Position(2));
}

#[test]
fn a_session_of_which_nothing_is_left_is_made_of_what_stands_elsewhere_unless_it_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let mut author = Author::new("s");
    let entry = author.entry(1, 5);
    // From the second copies: records.db never had it.
    let mending = || Mending { append: vec![Bytes::from(author.bytes.clone())], ..Mending::default() };
    db.mend(author.id, &mending()).unwrap();
    assert_eq!(db.reader().read(author.id, Seq::ZERO, usize::MAX).unwrap(), author.bytes);
    drop(entry);
    let gone = batch(2, vec![author.what(2, What::Remove(Remove::All))]);
    db.apply(&gone).unwrap();
    let refused = db.mend(author.id, &mending()).unwrap_err();
    assert!(refused.to_string().contains("removed meanwhile"), "{refused}");
    assert_eq!(db.reader().head(author.id).unwrap(), None, "what was removed stays so");
}
