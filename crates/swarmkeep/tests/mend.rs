//! Damage in records.db is put right from a second copy; without one it is listed, exactly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use swarmkeep::{
    Actor, Blob, Command, EntityId, Error, ErrorKind, Event, Hash, Json, NewSession, Of, Query, Record, Request, Seq,
    Session, SessionStatus, Settings, Swarmkeep,
};

fn settings(journal_keep: u64) -> Settings {
    Settings { segment_bytes: 1 << 20, journal_keep, ..Settings::default() }
}

/// About 4 KB that pack to half.
fn record(n: u64) -> Request {
    let mut raw = vec![0; 2_000];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut raw);
    let text: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let payload = Json::encode(&text).unwrap();
    Request::of(
        Actor::system(),
        Command::Record { kind: "step".into(), aggregate: None, payload, blobs: std::collections::BTreeMap::new() },
    )
}

async fn open(folder: &Path, keep: u64) -> Swarmkeep {
    Swarmkeep::open_with(folder.to_str().unwrap(), settings(keep)).await.unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &target),
            kind if kind.is_file() && !target.to_string_lossy().ends_with("-shm") => {
                std::fs::copy(entry.path(), target).unwrap();
            }
            _ => {}
        }
    }
}

const RECORDS: u64 = 500;

/// A store whose records are all in kept files and in no segment any more, and what it reads as.
struct Subject {
    folder: tempfile::TempDir,
    state: Hash,
    records: Vec<Hash>,
    /// One in a row, and one in a file.
    blobs: [Blob; 2],
}

/// Everything that was written by somebody: that it was recovered is a record, too.
async fn read(session: &Session) -> Result<(Hash, Vec<Hash>), Error> {
    session.state().await?;
    let mut records = Vec::new();
    loop {
        let piece = session.records(Seq(records.len() as u64), 1 << 20).await?;
        let noted =
            |record: &Record| record.body.as_ref().is_some_and(|body| matches!(body.event, Event::Recovered { .. }));
        let is_end = piece.is_empty() || piece.iter().any(noted);
        records.extend(piece.iter().take_while(|record| !noted(record)).map(|record| record.hash));
        if is_end {
            return Ok((session.state_at(Seq(records.len() as u64)).await?.hash(), records));
        }
    }
}

async fn subject(keep_bytes: u64) -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path(), keep_bytes).await;
    let session = keep.open_session("s").await.unwrap();
    let other = keep.open_session("other").await.unwrap();
    let text: String = (0..3_000u32).map(|n| format!("{n:x}")).collect();
    let blobs = [Blob::new(text.clone().into_bytes().into()), Blob::new(text.repeat(10).into_bytes().into())];
    for blob in &blobs {
        session.put_blob("content", blob.bytes.clone(), Actor::system(), None).await.unwrap();
    }
    for n in 0..RECORDS {
        session.submit(record(n)).await.unwrap();
        if n % 10 == 0 {
            other.submit(record(n)).await.unwrap();
        }
    }
    session.checkpoint().await.unwrap();
    let (state, records) = read(&session).await.unwrap();
    keep.close().await.unwrap();
    drop((session, other, keep));
    if keep_bytes > 0 {
        // The last segment of an open is given up in the next one.
        let keep = open(folder.path(), keep_bytes).await;
        let all = RECORDS + RECORDS / 10;
        until("everything is kept", || keep.health().store.unwrap().kept.records >= all).await;
        keep.close().await.unwrap();
    } else {
        // What the journal still has would be a second copy.
        let keep = open(folder.path(), 0).await;
        let other = keep.open_session("other").await.unwrap();
        for n in 0..RECORDS {
            other.submit(record(n)).await.unwrap();
        }
        keep.close().await.unwrap();
    }
    Subject { folder, state, records, blobs }
}

fn within(folder: &Path, work: impl FnOnce(&Connection)) {
    let connection = Connection::open(folder.join("records.db")).unwrap();
    work(&connection);
}

fn id() -> Vec<u8> {
    "default/s".parse::<swarmkeep::SessionName>().unwrap().id().0.to_vec()
}

fn quarantined(folder: &Path) -> Vec<String> {
    let Ok(list) = std::fs::read_dir(folder.join("quarantine")) else { return Vec::new() };
    list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Damages a copy of the store, opens it, and expects everything to be as before.
async fn comes_back(subject: &Subject, what: &str, damage: impl FnOnce(&Connection)) {
    let folder = tempfile::tempdir().unwrap();
    copy(subject.folder.path(), folder.path());
    within(folder.path(), damage);
    let keep = open(folder.path(), 1 << 30).await;
    let session = keep.get_session("s").await.unwrap_or_else(|error| panic!("{what}: {error}")).expect(what);
    let (state, records) = read(&session).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(state, subject.state, "{what}");
    assert_eq!(records, subject.records, "{what}");
    for blob in &subject.blobs {
        let bytes = session.blob(blob.id).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(bytes, blob.bytes, "{what}");
    }
    keep.wait_ready().await;
    // What nobody met (a checkpoint, a row nobody asked for) is put right when it is asked for.
    let report = keep.repair(None, |_| {}).await.unwrap();
    assert_eq!(report.findings, vec![], "{what}");
    let again = keep.verify(None, |_| {}).await.unwrap();
    assert_eq!((again.findings, again.repaired), (vec![], vec![]), "{what}: what was told once is not told again");
    assert!(!report.repaired.is_empty(), "{what}: it says what it did");
    assert_eq!(keep.last_recovery().unwrap().repaired, report.repaired, "{what}");
    let kept_in_history = || keep.recoveries(10).unwrap().iter().any(|report| !report.repaired.is_empty());
    until("the repair is in the history", kept_in_history).await;
    session.submit(record(9_999)).await.unwrap_or_else(|error| panic!("{what}: it goes on: {error}"));
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damaged_column_of_a_row_of_records_is_put_right() {
    let subject = subject(1 << 30).await;
    let rows: Vec<i64> = {
        let connection = Connection::open(subject.folder.path().join("records.db")).unwrap();
        let mut statement = connection.prepare("SELECT id FROM chunks WHERE session = ?1 ORDER BY first_seq").unwrap();
        let rows = statement.query_map([id()], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert!(rows.len() >= 3, "{rows:?}");
    for (place, row) in [("first", rows[0]), ("middle", rows[rows.len() / 2]), ("last", rows[rows.len() - 1])] {
        for (column, sql) in [
            ("session", "UPDATE chunks SET session = zeroblob(16) WHERE id = ?1"),
            ("first_seq", "UPDATE chunks SET first_seq = first_seq + 1024 WHERE id = ?1"),
            ("last_seq", "UPDATE chunks SET last_seq = last_seq + 1 WHERE id = ?1"),
            ("codec", "UPDATE chunks SET codec = 1 - codec WHERE id = ?1"),
            ("raw_len", "UPDATE chunks SET raw_len = raw_len + 1 WHERE id = ?1"),
            ("checksum", "UPDATE chunks SET checksum = zeroblob(16) WHERE id = ?1"),
            ("bytes cut", "UPDATE chunks SET bytes = substr(bytes, 1, length(bytes) / 2) WHERE id = ?1"),
            ("bytes gone", "UPDATE chunks SET bytes = zeroblob(length(bytes)) WHERE id = ?1"),
            ("row gone", "DELETE FROM chunks WHERE id = ?1"),
        ] {
            comes_back(&subject, &format!("{place} row, {column}"), |connection| {
                assert_eq!(connection.execute(sql, [row]).unwrap(), 1);
            })
            .await;
        }
    }
    comes_back(&subject, "all rows of records", |connection| {
        connection.execute("DELETE FROM chunks WHERE session = ?1", [id()]).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bytes_in_the_file_are_put_right() {
    let subject = subject(1 << 30).await;
    let stored: Vec<Vec<u8>> = {
        let connection = Connection::open(subject.folder.path().join("records.db")).unwrap();
        let mut statement = connection.prepare("SELECT bytes FROM chunks WHERE session = ?1").unwrap();
        let rows = statement.query_map([id()], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let file = std::fs::read(subject.folder.path().join("records.db")).unwrap();
    for (n, bytes) in stored.iter().enumerate().filter(|(n, _)| n % 3 == 0) {
        // Also where the row lay before it grew: nobody knows which is in use.
        let places: Vec<usize> =
            file.windows(64).enumerate().filter(|(_, window)| *window == &bytes[..64]).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "the row is in the main file");
        let folder = tempfile::tempdir().unwrap();
        copy(subject.folder.path(), folder.path());
        let mut file = file.clone();
        places.iter().for_each(|at| file[at + n * 7 % 64] ^= 1 << (n % 8));
        std::fs::write(folder.path().join("records.db"), file).unwrap();
        let keep = open(folder.path(), 1 << 30).await;
        let session = keep.get_session("s").await.unwrap().unwrap();
        let (state, records) = read(&session).await.unwrap();
        assert!(state == subject.state && records == subject.records, "chunk {n}");
        assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![], "chunk {n}");
        assert!(quarantined(folder.path()).iter().any(|name| name.contains("-chunk-")), "the bad bytes are kept");
        keep.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_session_row_checkpoint_or_blob_is_put_right() {
    let subject = subject(1 << 30).await;
    for (what, sql) in [
        ("id", "UPDATE sessions SET id = zeroblob(16) WHERE id = ?1"),
        ("name", "UPDATE sessions SET name = 't' WHERE id = ?1"),
        ("status", "UPDATE sessions SET status = 'closed' WHERE id = ?1"),
        ("head", "UPDATE sessions SET head_seq = head_seq - 1 WHERE id = ?1"),
        ("hash", "UPDATE sessions SET head_hash = zeroblob(32) WHERE id = ?1"),
        ("base", "UPDATE sessions SET base_seq = 3 WHERE id = ?1"),
        ("checksum", "UPDATE sessions SET checksum = zeroblob(16) WHERE id = ?1"),
        ("row", "DELETE FROM sessions WHERE id = ?1"),
        ("checkpoint", "UPDATE checkpoints SET bytes = zeroblob(length(bytes)) WHERE session = ?1"),
        ("checkpoint's hash", "UPDATE checkpoints SET hash = zeroblob(32) WHERE session = ?1"),
        ("blob", "UPDATE blobs SET bytes = zeroblob(length(bytes)) WHERE session = ?1"),
        ("blob's row", "DELETE FROM blobs WHERE session = ?1"),
        ("blob's length", "UPDATE blobs SET raw_len = raw_len + 1 WHERE session = ?1"),
    ] {
        comes_back(&subject, what, |connection| {
            assert!(connection.execute(sql, [id()]).unwrap() > 0, "{what}");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_copy_the_loss_is_listed_exactly() {
    let subject = subject(0).await;
    let (mut first, mut last) = (0u64, 0u64);
    within(subject.folder.path(), |connection| {
        let sql = "SELECT id, first_seq, last_seq FROM chunks WHERE session = ?1 ORDER BY first_seq LIMIT 1 OFFSET 1";
        let row: (i64, i64, i64) =
            connection.query_row(sql, [id()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        (first, last) = (row.1 as u64, row.2 as u64);
        connection.execute("UPDATE chunks SET bytes = zeroblob(length(bytes)) WHERE id = ?1", [row.0]).unwrap();
    });
    let keep = open(subject.folder.path(), 0).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    let error = read(&session).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.to_string().contains(&format!("seqs {first} to {last}")), "{error}");
    let report = keep.repair(None, |_| {}).await.unwrap();
    assert_eq!(report.repaired, vec![]);
    let exactly = format!("seqs {first} to {last}");
    assert!(report.findings.iter().any(|finding| finding.what.contains(&exactly)), "{:?}", report.findings);
    let before = session.records(Seq(0), 1).await.unwrap();
    assert_eq!(before[0].hash, subject.records[0], "what stands before it is read as ever");
    keep.close().await.unwrap();
}

/// On one thread the caller is there before the start's own look at the session.
#[tokio::test]
async fn whoever_meets_the_damage_first_reads_what_is_before_it() {
    let subject = subject(0).await;
    let mut first = 0;
    within(subject.folder.path(), |connection| {
        let sql = "SELECT id, first_seq FROM chunks WHERE session = ?1 ORDER BY first_seq LIMIT 1 OFFSET 1";
        let row: (i64, i64) = connection.query_row(sql, [id()], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        first = row.1 as u64;
        connection.execute("UPDATE chunks SET bytes = zeroblob(length(bytes)) WHERE id = ?1", [row.0]).unwrap();
        connection.execute("DELETE FROM checkpoints WHERE session = ?1", [id()]).unwrap();
    });
    let keep = open(subject.folder.path(), 0).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    let state = session.state().await.unwrap();
    assert_eq!((state.head.seq, state.head.hash), (Seq(first - 1), subject.records[first as usize - 2]));
    assert_eq!(state.info.status, SessionStatus::NeedsDecision);
    let records = session.records(Seq::ZERO, usize::MAX).await.unwrap();
    assert_eq!(records.last().unwrap().seq, Seq(first - 1), "as far as it goes, in one piece");
    assert_eq!(session.records(Seq(first - 1), 1).await.unwrap_err().kind, ErrorKind::Corrupt);
    let refused = session.submit(record(0)).await.unwrap_err();
    assert_eq!(refused.code(), "needs_decision", "{refused}");
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_copy_is_found_and_not_used() {
    let subject = subject(1 << 30).await;
    let kept: Vec<PathBuf> = std::fs::read_dir(subject.folder.path().join("kept"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "kept"))
        .collect();
    // Header, a block, the directory.
    for (part, at) in [("header", 40), ("block", 2_000), ("directory", usize::MAX)] {
        let folder = tempfile::tempdir().unwrap();
        copy(subject.folder.path(), folder.path());
        for path in &kept {
            let path = folder.path().join("kept").join(path.file_name().unwrap());
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.min(bytes.len() - 10);
            bytes[at] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
        }
        within(folder.path(), |connection| {
            connection.execute("UPDATE chunks SET bytes = zeroblob(length(bytes)) WHERE session = ?1", [id()]).unwrap();
        });
        let keep = open(folder.path(), 1 << 30).await;
        let session = keep.get_session("s").await.unwrap().unwrap();
        match read(&session).await {
            Err(error) => assert_eq!(error.kind, ErrorKind::Corrupt, "{part}"),
            Ok(_) => panic!("{part}: a damaged copy was used"),
        }
        let findings = keep.verify(None, |_| {}).await.unwrap().findings;
        assert!(!findings.is_empty(), "{part}");
        let lost = keep.health().store.unwrap().kept.lost;
        assert_eq!(lost.len(), kept.len(), "{part}: every one of them is named: {lost:?}");
        assert!(quarantined(folder.path()).iter().any(|name| name.starts_with("kept-")), "{part}");
        keep.close().await.unwrap();
    }
}

/// Its row says that it is a file, and the file is gone: it is damaged, and not a name that never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_whose_file_is_gone_is_damage() {
    let subject = subject(1 << 30).await;
    let name = id().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let file = subject.folder.path().join("blobs").join(name).join(subject.blobs[1].id.to_string());
    let away = subject.folder.path().join("away");
    std::fs::rename(&file, &away).unwrap();
    let keep = open(subject.folder.path(), 1 << 30).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    for _ in 0..2 {
        let error = session.blob(subject.blobs[1].id).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("is not there"), "{error}");
    }
    let never = Blob::new(b"never put".to_vec().into());
    assert_eq!(session.blob(never.id).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(session.blob(subject.blobs[0].id).await.unwrap(), subject.blobs[0].bytes);
    std::fs::rename(&away, &file).unwrap();
    assert_eq!(session.blob(subject.blobs[1].id).await.unwrap(), subject.blobs[1].bytes, "it is back");
    keep.close().await.unwrap();
}

/// An error that passes is no sign that there is no copy, also where everybody accepts every loss.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_up_while_a_copy_cannot_be_read() {
    let subject = subject(1 << 30).await;
    let folder = subject.folder.path();
    within(folder, |connection| {
        let sql = "UPDATE chunks SET bytes = zeroblob(length(bytes)) WHERE session = ?1";
        assert!(connection.execute(sql, [id()]).unwrap() > 0);
        connection.execute("DELETE FROM checkpoints WHERE session = ?1", [id()]).unwrap();
    });
    // At a name that leads to itself the system says an error that is neither "not there" nor damage.
    let (kept, away) = (folder.join("kept"), folder.join("away"));
    std::fs::rename(&kept, &away).unwrap();
    std::fs::create_dir(&kept).unwrap();
    for entry in std::fs::read_dir(&away).unwrap() {
        let name = entry.unwrap().file_name();
        std::os::unix::fs::symlink(&name, kept.join(&name)).unwrap();
    }
    let settings = Settings { accept_loss: true, ..settings(1 << 30) };
    let keep = Swarmkeep::open_with(folder.to_str().unwrap(), settings).await.unwrap();
    keep.wait_ready().await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    assert_eq!(read(&session).await.unwrap_err().kind, ErrorKind::Corrupt, "not all of it can be read");
    let refused = keep.accept_loss(session.id(), &Actor::system()).await.unwrap_err();
    assert!(refused.kind == ErrorKind::Retry && refused.to_string().contains("kept/"), "{refused}");
    assert!(keep.decision(session.id()).is_none());
    // It passed.
    std::fs::remove_dir_all(&kept).unwrap();
    std::fs::rename(&away, &kept).unwrap();
    let (state, records) = read(&session).await.unwrap();
    assert_eq!((state, records), (subject.state, subject.records));
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_set_aside_comes_back_when_its_rows_are_mended() {
    let live = tempfile::tempdir().unwrap();
    let keep = open(live.path(), 1 << 30).await;
    let session = keep.open_session("s").await.unwrap();
    for n in 0..20 {
        session.submit(record(n)).await.unwrap();
    }
    keep.close().await.unwrap();
    drop((session, keep));
    let before = tempfile::tempdir().unwrap();
    copy(live.path(), before.path());

    let keep = open(live.path(), 1 << 30).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    for n in 20..30 {
        session.submit(record(n)).await.unwrap();
    }
    let expected = read(&session).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(&live.path().join("journal"), &crashed.path().join("journal"));
    keep.close().await.unwrap();
    // The databases from before, the journal as it is now: what a crash leaves that came before anything was applied.
    for name in ["records.db", "views.db", "lock"] {
        std::fs::copy(before.path().join(name), crashed.path().join(name)).unwrap();
    }
    within(crashed.path(), |connection| {
        connection.execute("UPDATE sessions SET checksum = zeroblob(16)", []).unwrap();
    });
    let keep = open(crashed.path(), 1 << 30).await;
    keep.wait_ready().await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    assert_eq!(read(&session).await.unwrap(), expected);
    assert_eq!(keep.health().store.unwrap().set_aside, vec![]);
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    session.submit(record(99)).await.unwrap();
    keep.close().await.unwrap();
    drop((session, keep));
    let keep = open(crashed.path(), 1 << 30).await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    assert_eq!(read(&session).await.unwrap().1, expected.1);
    assert!(session.state().await.unwrap().head.seq.0 > expected.1.len() as u64, "it went on");
    keep.close().await.unwrap();
}

/// What the views could not be made of in one life they are made of in the next, or as soon as somebody can read the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_follow_when_a_lost_base_is_back() {
    const KEYS: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path(), 0).await;
    let session = keep.open_session("s").await.unwrap();
    let set = |n: u64| {
        let Command::Record { payload, .. } = record(n).commands.remove(0) else { panic!() };
        let (scope, key) = (EntityId::new("shared").unwrap(), EntityId::new(format!("k{n}")).unwrap());
        Command::SetMemory { scope, key, value: payload, if_version: None, ttl_ms: None }
    };
    session.submit(Request::all(Actor::system(), (0..KEYS).map(set).collect())).await.unwrap();
    // Large enough to be a file of its own: nothing else has it.
    let new = NewSession::new("fork".parse().unwrap());
    let fork = session.fork(None, new, None, &Actor::system()).await.unwrap().id();
    drop(session);
    keep.close().await.unwrap();
    drop(keep);
    within(folder.path(), |connection| {
        assert_eq!(connection.execute("DELETE FROM checkpoints WHERE session = ?1", [fork.0]).unwrap(), 1);
    });
    let blobs = folder.path().join("blobs").join(fork.to_string());
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 1);
    let away = folder.path().join("away");
    let rows = async |keep: &Swarmkeep| {
        let query = Query { session: Some(fork), limit: Some(1_000), ..Query::of(Of::Memory) };
        keep.find(query, None).await.unwrap().rows.len() as u64
    };
    for is_live in [false, true] {
        std::fs::rename(&blobs, &away).unwrap();
        for file in ["views.db", "views.db-wal", "views.db-shm"] {
            let _ = std::fs::remove_file(folder.path().join(file));
        }
        let mut keep = open(folder.path(), 0).await;
        keep.wait_ready().await;
        assert_eq!(rows(&keep).await, 0, "not known now");
        assert!(keep.decision(fork).is_some(), "without its base it cannot be read");
        if is_live {
            std::fs::rename(&away, &blobs).unwrap();
        } else {
            keep.close().await.unwrap();
            drop(keep);
            std::fs::rename(&away, &blobs).unwrap();
            keep = open(folder.path(), 0).await;
        }
        let back = keep.recover_session(fork).await.unwrap().unwrap();
        assert!(back.lost.is_empty() && !back.waits(), "{back:?}");
        let mut found = 0;
        for _ in 0..1_000 {
            found = rows(&keep).await;
            if found == KEYS {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(found, KEYS, "live: {is_live}");
        keep.close().await.unwrap();
    }
}
