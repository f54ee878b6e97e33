//! Sessions brought back many at a time: the same states as folding each alone, and no damage taken for a state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)] // a test

mod world;

use std::{collections::BTreeMap, ops::ControlFlow};

use swarmkeep_core::{
    Hash, SessionId, State, checkpoint::Checkpoint, record, recovery::Complexity, state::SessionStatus,
};
use swarmkeep_sqlite::{RecordsDb, RecordsReader, SqliteError, What};
use world::{Author, batch, options};

const LAST: SessionId = SessionId([0xff; 16]);

fn folded(bytes: &[u8]) -> State {
    let mut state = State::empty();
    for view in record::iter(bytes) {
        state.apply(&view.unwrap().decode().unwrap()).unwrap();
    }
    state
}

/// Of every session: the hash of its state and how many records were folded, or what stood in the way.
type Found = BTreeMap<SessionId, Result<(Hash, u64), String>>;

fn restore(
    records: RecordsReader<'_>,
    page: usize,
    wanted: impl Fn(SessionId, SessionStatus, Complexity) -> bool,
) -> Result<Found, SqliteError> {
    let mut all = BTreeMap::new();
    let mut after = None;
    loop {
        let next = records.restore(after, LAST, page, &wanted, |id, restored| {
            let restored =
                restored.map(|found| (found.state.hash(), found.replayed)).map_err(|error| error.to_string());
            assert!(all.insert(id, restored).is_none(), "twice");
            ControlFlow::Continue(())
        })?;
        if next.is_none() {
            return Ok(all);
        }
        after = next;
    }
}

#[test]
fn states_are_those_that_folding_gives() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = RecordsDb::open(&dir.path().join("records.db"), options()).unwrap();
    let mut authors: Vec<Author> = (0..20).map(|n| Author::new(&format!("s{n}"))).collect();
    let mut tails = BTreeMap::new();
    for position in 1..=6 {
        let mut entries = Vec::new();
        for (n, author) in authors.iter_mut().enumerate() {
            entries.push(author.entry(position, 3));
            *tails.entry(author.id).or_insert(0) += 3;
            // Some have a checkpoint at their head, some below it, some none.
            if n % 3 > 0 && position >= 4 && (n % 3 == 1 || position < 6) {
                entries.push(author.what(position, What::Checkpoint(Checkpoint::of(&folded(&author.bytes)))));
                tails.insert(author.id, 0);
            }
        }
        db.apply(&batch(position, entries)).unwrap();
    }
    let expected: Found =
        authors.iter().map(|author| (author.id, Ok((folded(&author.bytes).hash(), tails[&author.id])))).collect();
    assert_eq!(tails.values().filter(|tail| **tail == 3).count(), 6);
    for page in [1, 7, 20, 100] {
        assert_eq!(restore(db.reader(), page, |_, _, _| true).unwrap(), expected, "{page} at a time");
    }
    let one = authors[3].id;
    assert_eq!(restore(db.reader(), 7, |id, _, _| id == one).unwrap().into_keys().collect::<Vec<_>>(), [one]);
    // Whoever stops goes on where he stopped.
    let ids: Vec<SessionId> = expected.into_keys().collect();
    let stopped =
        db.reader().restore(Some(ids[4]), ids[9], 100, |_, _, _| true, |_, _| ControlFlow::Break(())).unwrap();
    assert_eq!(stopped, Some(ids[5]));
    let mut rest = Vec::new();
    let through = db.reader().restore(
        Some(ids[4]),
        ids[9],
        100,
        |_, _, _| true,
        |id, _| {
            rest.push(id);
            ControlFlow::Continue(())
        },
    );
    assert_eq!((through.unwrap(), &rest[..]), (None, &ids[5..=9]));
}

/// Every byte that a state is made from: what comes back is the state, or an error.
#[test]
fn no_changed_byte_becomes_a_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let (mut early, mut late) = (Author::new("early"), Author::new("late"));
    db.apply(&batch(1, vec![early.entry(1, 3), late.entry(1, 2)])).unwrap();
    let saved = late.what(2, What::Checkpoint(Checkpoint::of(&folded(&late.bytes))));
    db.apply(&batch(2, vec![saved, late.entry(2, 2)])).unwrap();
    let whole = restore(db.reader(), 10, |_, _, _| true).unwrap();
    assert!(whole.values().all(Result::is_ok));
    drop(db);
    let (mut found, mut unread) = (0, 0);
    let places = ["SELECT id, bytes FROM chunks", "SELECT id, bytes FROM checkpoints"];
    for (select, table) in places.iter().zip(["chunks", "checkpoints"]) {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.pragma_update(None, "synchronous", 0).unwrap();
        let rows: Vec<(i64, Vec<u8>)> = connection
            .prepare(select)
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (id, bytes) in rows {
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                connection.execute(&format!("UPDATE {table} SET bytes = ?1 WHERE id = ?2"), (&changed, id)).unwrap();
                let now = restore(RecordsReader::new(&connection), 10, |_, _, _| true).unwrap();
                for (session, restored) in &now {
                    match restored {
                        Ok(_) => assert_eq!(restored, &whole[session], "{table} {id}, byte {at}"),
                        Err(_) => found += 1,
                    }
                }
                unread += usize::from(now == whole);
            }
            connection.execute(&format!("UPDATE {table} SET bytes = ?1 WHERE id = ?2"), (&bytes, id)).unwrap();
        }
    }
    assert!(found > 500, "{found}");
    // Of a chunk that begins before the checkpoint no byte is believed, yet none of it is left out of the chain either.
    assert!(unread * 20 < found, "{unread} of {found}");
}
