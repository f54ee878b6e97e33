//! Files of other makers and makes are refused untouched; readers share a few connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)] // a test

mod world;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rusqlite::Connection;
use swarmkeep_core::clock::Clock;
use swarmkeep_sqlite::{
    Found, Mode, Options, RECORDS_SCHEMA, ReaderPool, RecordsDb, RecordsReader, SNAPSHOT_MS_MAX, SqliteError,
    VIEWS_SCHEMA, ViewsDb,
};
use world::{Author, batch, options};

#[test]
fn newer_changed_and_foreign_files_are_refused_untouched() {
    let spoils: [(&str, &str); 6] = [
        ("newer", "PRAGMA user_version = 99"),
        ("newer", "INSERT INTO schema_migrations VALUES (99, 'later', 0, x'00')"),
        ("changed", "UPDATE schema_migrations SET checksum = x'00'"),
        ("changed", "UPDATE schema_migrations SET name = 'other'"),
        ("foreign", "PRAGMA application_id = 7"),
        ("foreign", "DELETE FROM schema_migrations"),
    ];
    for mode in [Mode::RollbackFull, Mode::WalNormal] {
        for (what, sql) in spoils {
            let dir = tempfile::tempdir().unwrap();
            let options = Options { mode, ..options() };
            for kind in ["records", "views"] {
                let path = dir.path().join(kind);
                let open = |path| match kind {
                    "records" => RecordsDb::open(path, options).map(drop),
                    _ => ViewsDb::open(path, options).map(drop),
                };
                open(&path).unwrap();
                Connection::open(&path).unwrap().execute_batch(sql).unwrap();
                let before = std::fs::read(&path).unwrap();
                let refused = open(&path).unwrap_err();
                let right = match what {
                    "newer" => matches!(refused, SqliteError::Newer { .. }),
                    "changed" => matches!(refused, SqliteError::Changed { .. }),
                    _ => matches!(refused, SqliteError::Foreign { .. }),
                };
                assert!(right, "{kind}: {sql}: {refused}");
                assert!(std::fs::read(&path).unwrap() == before, "{kind}: {sql}: the file was touched");
            }
        }
    }
}

#[test]
fn any_other_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    assert!(matches!(RecordsDb::open(&path, options()), Err(SqliteError::Foreign { .. })));
    std::fs::write(&path, "plain text, more than a hundred bytes of it. ".repeat(20)).unwrap();
    assert!(matches!(RecordsDb::open(&path, options()), Err(SqliteError::Damaged(_))));
    let records = dir.path().join("records.db");
    drop(RecordsDb::open(&records, options()).unwrap());
    assert!(matches!(ViewsDb::open(&records, options()), Err(SqliteError::Foreign { .. })), "records are not views");
}

#[test]
fn an_empty_file_and_an_open_file_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    std::fs::write(&path, "").unwrap();
    assert_eq!(RECORDS_SCHEMA.look(&path).unwrap(), Found::Empty);
    drop(RecordsDb::open(&path, options()).unwrap());
    assert_eq!(RECORDS_SCHEMA.look(&path).unwrap(), Found::Version(RECORDS_SCHEMA.known()));
}

#[test]
fn views_go_down_and_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("views.db");
    drop(ViewsDb::open(&path, options()).unwrap());
    let mut connection = Connection::open(&path).unwrap();
    VIEWS_SCHEMA.down(&mut connection, 0).unwrap();
    let left: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name <> 'schema_migrations'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
    drop(connection);
    drop(ViewsDb::open(&path, options()).unwrap());
    let mut records = Connection::open_in_memory().unwrap();
    records.execute_batch("PRAGMA user_version = 1").unwrap();
    assert!(matches!(RECORDS_SCHEMA.down(&mut records, 0), Err(SqliteError::Invalid(_))), "records have no way down");
}

#[test]
fn a_rollback_journal_left_by_a_crash_is_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let options = Options { mode: Mode::RollbackFull, ..options() };
    let mut db = RecordsDb::open(&path, options).unwrap();
    let mut author = Author::new("one");
    db.apply(&batch(1, vec![author.entry(1, 3)])).unwrap();
    drop(db);
    let head = author.head;
    // In the middle of a transaction, with pages of it in the main file, both files are copied: what a crash leaves.
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN IMMEDIATE").unwrap();
    for nth in 0..200 {
        connection.execute("INSERT INTO recoveries VALUES (?1, 1, ?2, x'00')", (nth, "x".repeat(4000))).unwrap();
    }
    let copy = dir.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::copy(dir.path().join("records.db-journal"), dir.path().join("copy.db-journal")).unwrap();
    let db = RecordsDb::open(&copy, options).unwrap();
    assert_eq!(db.reader().head(author.id).unwrap().unwrap().0, head);
    assert!(db.reader().recoveries(10).unwrap().is_empty());
}

#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn readers_share_connections_and_see_one_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    let mut db = RecordsDb::open(&path, options()).unwrap();
    let mut author = Author::new("one");
    db.apply(&batch(1, vec![author.entry(1, 1)])).unwrap();
    let first = author.head;
    let pool = ReaderPool::open(&path, 4, Arc::new(Hand::default())).unwrap();
    pool.read(|connection| {
        let reader = RecordsReader::new(connection);
        assert_eq!(reader.head(author.id)?.unwrap().0, first);
        db.apply(&batch(2, vec![author.entry(2, 1)]))?;
        assert_eq!(reader.head(author.id)?.unwrap().0, first, "one snapshot");
        Ok(())
    })
    .unwrap();
    assert_eq!(pool.read(|connection| RecordsReader::new(connection).head(author.id)).unwrap().unwrap().0, author.head);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let head = pool.read(|connection| RecordsReader::new(connection).head(author.id)).unwrap();
                    assert_eq!(head.unwrap().0, author.head);
                }
            });
        }
    });
    let refused = pool.read(|connection| Ok(connection.execute("DELETE FROM sessions", [])?));
    assert!(matches!(refused, Err(SqliteError::ReadOnly(_))), "{refused:?}");
    let panicked = std::thread::scope(|scope| {
        scope.spawn(|| pool.read(|_| -> swarmkeep_sqlite::Result<()> { panic!("on purpose") })).join()
    });
    assert!(panicked.is_err());
    for _ in 0..8 {
        pool.read(|_| Ok(())).unwrap();
    }
}

#[test]
fn a_snapshot_is_over_after_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.db");
    drop(RecordsDb::open(&path, options()).unwrap());
    let clock = Arc::new(Hand::default());
    let pool = ReaderPool::open(&path, 4, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let endless = "WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
    let outcome = pool.read(|connection| {
        clock.0.store(SNAPSHOT_MS_MAX + 1, Ordering::Relaxed);
        Ok(connection.query_row(endless, [], |row| row.get::<_, i64>(0))?)
    });
    assert!(matches!(outcome, Err(SqliteError::Interrupted)), "{outcome:?}");
    // One that waits for something else is over as well.
    let outcome = pool.read(|_| {
        clock.0.fetch_add(SNAPSHOT_MS_MAX + 1, Ordering::Relaxed);
        assert_eq!(pool.interrupt_overdue(), 1);
        Ok(())
    });
    assert!(matches!(outcome, Err(SqliteError::Interrupted)), "{outcome:?}");
    assert_eq!(pool.interrupt_overdue(), 0);
    pool.read(|connection| RecordsReader::new(connection).anchor()).unwrap();
}
