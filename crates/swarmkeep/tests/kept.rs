//! The second copy: what the journal gave up is kept, within its budget, and not of what was removed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{path::Path, time::Duration};

use std::sync::Arc;

use swarmkeep::{OsEntropy, SystemClock, embedded::EmbeddedLog};
use swarmkeep_core::log::{Log, Remove, Take};

use swarmkeep::{Actor, Command, Json, Of, Query, Request, Session, Settings, Swarmkeep};
use swarmkeep_core::log::Position;

fn settings(journal_keep: u64) -> Settings {
    Settings { segment_bytes: 1 << 20, journal_keep, ..Settings::default() }
}

/// About 4 KB that do not compress to nothing.
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

async fn write(session: &Session, records: std::ops::Range<u64>) -> Position {
    let mut position = Position(0);
    for n in records {
        position = session.submit(record(n)).await.unwrap().position;
    }
    position
}

/// Waits for something that happens behind the calls.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn kept(keep: &Swarmkeep) -> swarmkeep::embedded::KeptStanding {
    keep.health().store.unwrap().kept
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder.join("kept"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".kept"))
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_journal_gave_up_is_kept_within_its_budget() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path(), 2 << 20).await;
    let session = keep.open_session("s").await.unwrap();
    write(&session, 0..900).await;
    until("copies are made", || kept(&keep).files > 0 && kept(&keep).waiting_segments == 0).await;
    let standing = kept(&keep);
    assert_eq!(standing.not_kept_segments, 0, "{standing:?}");
    assert!(standing.bytes <= 2 << 20, "{standing:?}");
    assert!(standing.records > 0 && standing.lost.is_empty(), "{standing:?}");
    keep.close().await.unwrap();
    drop((session, keep));

    // What a crash leaves half made goes; the others are there again.
    let before = names(folder.path());
    std::fs::write(folder.path().join("kept/0000000000000001-0000000000000002.part"), b"half").unwrap();
    let keep = open(folder.path(), 2 << 20).await;
    assert!(!folder.path().join("kept/0000000000000001-0000000000000002.part").exists());
    assert!(names(folder.path()).iter().all(|name| before.contains(name)) && !before.is_empty());
    assert_eq!(kept(&keep).files, names(folder.path()).len() as u64);
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_budget_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path(), 0).await;
    let session = keep.open_session("s").await.unwrap();
    let position = write(&session, 0..600).await;
    keep.find(Query::of(Of::Sessions), Some(position)).await.unwrap();
    keep.close().await.unwrap();
    assert!(!folder.path().join("kept").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_opened_often_joins_its_small_copies() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let keep = open(folder.path(), 1 << 20).await;
        let session = keep.open_session("s").await.unwrap();
        write(&session, round * 3..round * 3 + 3).await;
        if round > 0 {
            until("the segment of the last open is copied", || kept(&keep).records >= round * 3).await;
        }
        keep.close().await.unwrap();
    }
    assert_eq!(names(folder.path()).len(), 1, "{:?}", names(folder.path()));
}

/// Whether any kept file has records of a session.
fn holds(folder: &Path, session: swarmkeep::SessionId) -> bool {
    use swarmkeep::disk::Disk;
    names(folder).iter().any(|name| {
        let file =
            swarmkeep::disk::RealDisk.open(&folder.join("kept").join(name), swarmkeep::disk::OpenHow::Read).unwrap();
        let mut id = [0; 16];
        file.read_at(&mut id, 16).unwrap();
        let kept = swarmkeep::journal::kept::KeptFile::read(file, swarmkeep::journal::StoreId(id)).unwrap();
        kept.verify().unwrap();
        kept.runs.iter().any(|run| run.session == session)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_session_does_not_live_on_in_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let keep = open(folder.path(), 1 << 30).await;
    let (gone, stays) = (keep.open_session("gone").await.unwrap(), keep.open_session("stays").await.unwrap());
    for n in 0..4 {
        write(&gone, n * 100..n * 100 + 100).await;
        write(&stays, n * 100..n * 100 + 100).await;
    }
    let (gone, stays) = (gone.id(), stays.id());
    keep.close().await.unwrap();
    drop(keep);

    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy));
    let log = Arc::new(EmbeddedLog::open(folder.path(), &settings(1 << 30), clock, entropy).unwrap());
    until("everything is kept", || log.standing().kept.records >= 800).await;
    assert!(holds(folder.path(), gone) && holds(folder.path(), stays));
    let grant = log.take(gone, Take::Resume).await.unwrap();
    log.remove(gone, grant.epoch, Remove::All).await.unwrap();
    until("its copies are gone", || !holds(folder.path(), gone)).await;
    assert!(holds(folder.path(), stays), "and nobody else's");
    log.close().unwrap();
    drop(log);

    // A crash may have come before that: the next start does it.
    std::fs::remove_file(folder.path().join("kept/erased")).unwrap();
    let keep = open(folder.path(), 1 << 30).await;
    assert!(keep.get_session("gone").await.unwrap().is_none());
    until("removals are carried out", || folder.path().join("kept/erased").exists()).await;
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    keep.close().await.unwrap();
    assert!(!holds(folder.path(), gone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_once_is_counted_and_listed() {
    for budget in [0, 64 << 20] {
        let folder = tempfile::tempdir().unwrap();
        let keep = open(folder.path(), budget).await;
        let session = keep.open_session("s").await.unwrap();
        write(&session, 0..600).await;
        let all = session.state().await.unwrap().head.seq.0;
        keep.close().await.unwrap();
        drop((session, keep));

        let keep = open(folder.path(), budget).await;
        if budget > 0 {
            until("everything retired is copied", || kept(&keep).waiting_segments == 0).await;
        }
        let found = keep.one_copy().unwrap();
        assert_eq!((found.records, found.more), (all, false), "{found:?}");
        if budget > 0 {
            assert_eq!((found.once, found.sessions, found.ranges.as_slice()), (0, 0, [].as_slice()), "{found:?}");
        } else {
            assert_eq!((found.ranges.len(), found.sessions, found.ranges[0].first), (1, 1, 1), "{found:?}");
            assert_eq!(found.once, found.ranges[0].last, "{found:?}");
        }
        keep.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_put_back_under_another_name_keeps_no_store_from_opening() {
    let folder = tempfile::tempdir().unwrap();
    let mut earlier = Vec::new();
    for round in 0..4 {
        let keep = open(folder.path(), 1 << 20).await;
        let session = keep.open_session("s").await.unwrap();
        write(&session, round * 3..round * 3 + 3).await;
        if round > 0 {
            until("the segment of the last open is copied", || kept(&keep).records >= round * 3).await;
        }
        keep.close().await.unwrap();
        if round == 1 {
            earlier = std::fs::read(folder.path().join("kept").join(&names(folder.path())[0])).unwrap();
        }
    }
    let own = names(folder.path());
    // One is within what the joined one covers, one has a name that is its own in no way.
    for name in ["0000000000000002-0000000000000004.kept", "0000000000000900-0000000000000999.kept"] {
        std::fs::write(folder.path().join("kept").join(name), &earlier).unwrap();
    }
    std::fs::create_dir(folder.path().join("kept/0000000000000800-0000000000000899.kept")).unwrap();
    std::fs::create_dir(folder.path().join("kept/0000000000000800-0000000000000899.part")).unwrap();
    let keep = open(folder.path(), 1 << 20).await;
    assert_eq!(kept(&keep).files, own.len() as u64 + 2, "{:?}", kept(&keep));
    assert_eq!(kept(&keep).lost.len(), 1, "a folder is no copy: {:?}", kept(&keep));
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    keep.close().await.unwrap();
}
