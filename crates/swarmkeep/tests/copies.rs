//! Folders that people put together by hand: parts of a store, of several stores, of one store at several times, of a newer
//! program. Each is mended, or refused with advice and left as it was.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod small_store;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command as Child, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use small_store::{Fixed, Image, Reading, dump, everything, fast_folder, more, open, set, settings, settle};
use swarmkeep::{Actor, DataLoss, Error, ErrorKind, Request, Swarmkeep};

/// A store in which something happened, parked; after each round of work again.
async fn generations(rounds: u64) -> Vec<Image> {
    let folder = fast_folder();
    let fixed = Arc::new(Fixed::default());
    let keep = open(folder.path(), &fixed).await.unwrap();
    everything(&keep, &fixed).await;
    keep.close().await.unwrap();
    let mut images = vec![Image::take(folder.path())];
    for round in 1..=rounds {
        let keep = open(folder.path(), &fixed).await.unwrap();
        more(&keep, &fixed, round).await;
        keep.close().await.unwrap();
        images.push(Image::take(folder.path()));
    }
    images
}

fn records(image: &Image) -> Image {
    image.only(&["records.db"])
}

fn views(image: &Image) -> Image {
    image.only(&["views.db"])
}

fn journal(image: &Image) -> Image {
    image.only(&["journal/"])
}

fn blob_files(image: &Image) -> Image {
    image.only(&["blobs/"])
}

/// Opening this is refused, says what to do, and changes nothing.
async fn refused(image: &Image) -> Error {
    let folder = fast_folder();
    image.put(folder.path());
    let before = Image::take(folder.path());
    let error = match open(folder.path(), &Arc::default()).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    };
    assert!(matches!(error.kind, ErrorKind::Corrupt | ErrorKind::Unavailable), "{error:?}");
    assert!(error.hint.is_some(), "no advice: {error:?}");
    let after = Image::take(folder.path());
    let changed: Vec<_> = after
        .lasting()
        .into_iter()
        .filter(|(path, bytes)| before.0.get(*path) != Some(bytes))
        .map(|(path, _)| path.clone())
        .collect();
    assert_eq!(changed, Vec::<std::path::PathBuf>::new(), "refused ({error}), and changed");
    assert_eq!(after.lasting().len(), before.lasting().len(), "refused ({error}), and removed something");
    error
}

/// What this reads as once it is open, with nothing that verification finds.
async fn opened(image: &Image) -> (Reading, swarmkeep::RecoveryReport) {
    let folder = fast_folder();
    image.put(folder.path());
    let keep = open(folder.path(), &Arc::default()).await.unwrap();
    keep.wait_ready().await;
    let report = keep.verify(None, |_| {}).await.unwrap();
    assert_eq!(report.findings, vec![]);
    let reading = Reading::of(&keep).await;
    let recovery = keep.last_recovery().unwrap();
    keep.close().await.unwrap();
    (reading, recovery)
}

/// records.db is made again, and what it lacks is said: at the start, and by whoever looks.
async fn made_again_with_loss(image: &Image) {
    let folder = fast_folder();
    image.put(folder.path());
    let keep = open(folder.path(), &Arc::default()).await.unwrap();
    keep.wait_ready().await;
    let recovery = keep.last_recovery().unwrap();
    let said = |words: &str| recovery.damage.iter().any(|damage| damage.what.contains(words));
    assert!(said("made again") && !said("nothing is missing"), "{:?}", recovery.damage);
    let report = keep.verify(None, |_| {}).await.unwrap();
    assert_ne!(report.findings, vec![], "{:?}", recovery.damage);
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_a_store_is_refused_or_made_again_as_far_as_it_goes() {
    let images = generations(1).await;
    let whole = &images[1];
    for half in [records(whole), records(whole).with(views(whole)).with(blob_files(whole))] {
        let error = refused(&half).await;
        assert!(error.to_string().contains("no journal"), "{error}");
    }
    // The journal alone does not reach back to the first frame, and does not say which sessions there were.
    let error = refused(&journal(whole)).await;
    assert!(error.to_string().contains("cannot be told"), "{error}");
    // The views say that.
    made_again_with_loss(&journal(whole).with(views(whole)).with(blob_files(whole))).await;
    // An empty file of that name is not a records.db either.
    let mut emptied = whole.clone();
    emptied.0.insert("records.db".into(), Vec::new());
    assert_eq!(opened(&emptied).await.0, opened(whole).await.0, "its kept copies have what the journal gave up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_records_db_that_is_older_is_caught_up_while_the_journal_holds_what_it_lacks() {
    let images = generations(2).await;
    let (expected, _) = opened(&images[2]).await;
    // One generation older: the newest segment begins where it stands.
    let older = journal(&images[2]).with(blob_files(&images[2])).with(records(&images[1])).with(views(&images[1]));
    let (reading, report) = opened(&older).await;
    assert_eq!(reading, expected);
    assert!(report.frames_replayed > 0, "{report:?}");
    // Older than anything the journal holds, unless it was slow to give its segments up: how far back it reaches is in the
    // header of the oldest.
    let too_old = journal(&images[2]).with(blob_files(&images[2])).with(records(&images[0])).with(views(&images[0]));
    let reaches = |(path, bytes): (&std::path::PathBuf, &Vec<u8>)| {
        let segment = path.to_string_lossy().ends_with(".segment");
        segment.then(|| swarmkeep::journal::segment::Header::decode(&bytes[..4096]).unwrap().data_position)
    };
    let reaches = journal(&images[2]).0.iter().filter_map(reaches).min().unwrap();
    if reaches > end_of_records(&images[0]).await {
        made_again_with_loss(&too_old).await;
    } else {
        assert_eq!(opened(&too_old).await.0, expected);
    }
}

/// How far an image's records.db has come.
async fn end_of_records(image: &Image) -> swarmkeep::Position {
    let folder = fast_folder();
    image.put(folder.path());
    swarmkeep::Position(swarmkeep::upkeep::plan(folder.path()).unwrap().records_position)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_older_is_refused() {
    let images = generations(2).await;
    let older = images[2].only(&["records.db", "views.db", "blobs/"]).with(journal(&images[1]));
    let error = refused(&older).await;
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error:?}");
    assert!(error.to_string().contains("journal is older"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_that_went_separate_ways_do_not_mix() {
    let base = generations(0).await.remove(0);
    let mut ways = Vec::new();
    for round in [1, 2] {
        let folder = fast_folder();
        base.put(folder.path());
        let fixed = Arc::new(Fixed::default());
        let keep = open(folder.path(), &fixed).await.unwrap();
        more(&keep, &fixed, round).await;
        keep.close().await.unwrap();
        ways.push(Image::take(folder.path()));
    }
    for (one, other) in [(0, 1), (1, 0)] {
        let mixed = ways[one].only(&["records.db", "views.db", "blobs/"]).with(journal(&ways[other]));
        let error = refused(&mixed).await;
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error:?}");
    }
    // Two stores altogether.
    let folder = fast_folder();
    // Each open takes a number: enough of them that one of its segments has a number the first store has not.
    for _ in 0..6 {
        let keep = Swarmkeep::open_with(folder.path().to_str().unwrap(), settings()).await.unwrap();
        keep.open_session("another").await.unwrap();
        keep.close().await.unwrap();
    }
    let another = Image::take(folder.path());
    let error = refused(&ways[0].only(&["records.db", "views.db"]).with(journal(&another))).await;
    assert!(error.to_string().contains("belongs to store"), "{error}");
    let mut both = journal(&another);
    both.0.retain(|path, _| path.to_string_lossy().ends_with(".segment") && !ways[0].0.contains_key(path));
    assert!(!both.0.is_empty(), "the other store's segment has a number of its own");
    refused(&ways[0].clone().with(both)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_that_are_missing_or_anothers_are_made_again() {
    let images = generations(1).await;
    let shown = async |image: &Image| {
        let folder = fast_folder();
        image.put(folder.path());
        let keep = open(folder.path(), &Arc::default()).await.unwrap();
        keep.wait_ready().await;
        assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
        let rebuilt = keep.last_recovery().unwrap().views_rebuilt;
        keep.close().await.unwrap();
        (dump(&folder.path().join("views.db")), rebuilt)
    };
    let (expected, rebuilt) = shown(&images[1]).await;
    assert!(!rebuilt);
    assert!(expected["incomplete_sessions"].is_empty(), "everything could be read: {expected:?}");
    let has_rows = |(table, rows): (&String, &Vec<String>)| !rows.is_empty() || table == "incomplete_sessions";
    assert!(expected.iter().all(has_rows), "every table has something to lose: {expected:?}");
    let without = images[1].only(&["records.db", "journal/", "blobs/"]);
    assert_eq!(shown(&without).await, (expected.clone(), true));

    let folder = fast_folder();
    let keep = Swarmkeep::open_with(folder.path().to_str().unwrap(), settings()).await.unwrap();
    let session = keep.open_session("another").await.unwrap();
    session.submit(Request::of(Actor::system(), set("k", "v"))).await.unwrap();
    keep.close().await.unwrap();
    let anothers = without.clone().with(views(&Image::take(folder.path())));
    assert_eq!(shown(&anothers).await, (expected.clone(), true));

    let ahead = images[0].only(&["records.db", "journal/", "blobs/"]).with(views(&images[1]));
    let (_, rebuilt) = shown(&ahead).await;
    assert!(rebuilt, "views of a later moment are not taken for these");
    let no_database = without.with(Image([("views.db".into(), b"no database at all".repeat(500))].into()));
    assert_eq!(shown(&no_database).await, (expected, true));
}

/// A file in the middle of what was not yet applied is gone: what it held is named, everybody else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_missing_in_the_middle_is_reported() {
    let folder = fast_folder();
    let fixed = Arc::new(Fixed::default());
    let keep = open(folder.path(), &fixed).await.unwrap();
    everything(&keep, &fixed).await;
    keep.close().await.unwrap();
    let before = Image::take(folder.path());
    let keep = open(folder.path(), &fixed).await.unwrap();
    let (first, second) = (keep.open_session("first").await.unwrap(), keep.open_session("second").await.unwrap());
    let blob = |n: u8| Bytes::from((0..60_000u32).flat_map(|at| [n, at as u8 ^ n]).take(60_000).collect::<Vec<_>>());
    for n in 0..60 {
        // The first session is in the first segment only.
        let session = if n < 4 { &first } else { &second };
        session.put_blob("b", blob(n), Actor::system(), None).await.unwrap();
    }
    let heads = (first.state().await.unwrap().hash(), second.state().await.unwrap().head.seq);
    let mut image =
        Image::take(folder.path()).only(&["journal/", "blobs/"]).with(before.only(&["records.db", "views.db"]));
    drop((first, second, keep));
    let segments: Vec<_> =
        journal(&image).0.into_keys().filter(|path| path.to_string_lossy().ends_with(".segment")).collect();
    assert!(segments.len() >= 4, "{segments:?}");
    image.0.remove(&segments[segments.len() - 2]);

    let folder = fast_folder();
    image.put(folder.path());
    let keep = open(folder.path(), &fixed).await.unwrap();
    let report = keep.last_recovery().unwrap();
    assert!(!report.clean && report.damage.iter().any(|damage| damage.loss == DataLoss::Certain), "{report:?}");
    let session = keep.get_session("small/everything").await.unwrap().unwrap();
    assert!(!session.state().await.unwrap().memory.is_empty());
    let first = keep.get_session("first").await.unwrap().unwrap();
    assert_eq!(first.state().await.unwrap().hash(), heads.0);
    let second = keep.get_session("second").await.unwrap().unwrap();
    let error = second.state().await.map(|state| assert!(state.head.seq < heads.1)).err();
    assert!(error.as_ref().is_none_or(|error| error.kind == ErrorKind::Corrupt), "{error:?}");
}

const HOLD: &str = "SWARMKEEP_TEST_HOLD";

/// Not a test: what the child process of the next one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_holds_the_store() {
    let Ok(folder) = std::env::var(HOLD) else { return };
    let keep = Swarmkeep::open(&folder).await.unwrap();
    let session = keep.open_session("held").await.unwrap();
    session.set_memory("k", 1).await.unwrap();
    println!("\nheld by {}", std::process::id());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_has_one_holder_and_death_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let mut child = Child::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_holds_the_store", "--nocapture"])
        .env(HOLD, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("held by")), "the child did not get that far");
    let error = Swarmkeep::open(url).await.err().expect("held by the child");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains(&format!("process {}", child.id())), "the holder is named: {error}");
    assert!(error.hint.is_some());
    child.kill().unwrap();
    child.wait().unwrap();

    let keep = Swarmkeep::open(url).await.unwrap();
    let session = keep.get_session("held").await.unwrap().unwrap();
    assert_eq!(session.memory("k").await.unwrap().unwrap().as_str(), "1");
    // The same process twice is two holders as well.
    let error = Swarmkeep::open(url).await.err().expect("held by this process");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    keep.close().await.unwrap();
    Swarmkeep::open(url).await.unwrap();
}

/// Raises the schema version in a database's header; its write-ahead log is empty.
fn newer_database(image: &Image, name: &str) -> Image {
    let mut image = image.clone();
    assert!(image.0.get(Path::new(&format!("{name}-wal"))).is_none_or(Vec::is_empty));
    let bytes = image.0.get_mut(Path::new(name)).unwrap();
    let version = u32::from_be_bytes(*bytes[60..].first_chunk().unwrap());
    bytes[60..64].copy_from_slice(&(version + 1).to_be_bytes());
    image
}

/// Changes a segment's header as a newer program would have written it.
fn newer_segment(image: &Image, change: impl Fn(&mut [u8])) -> Image {
    let mut image = image.clone();
    let last = image.0.keys().rfind(|path| path.to_string_lossy().ends_with(".segment")).unwrap().clone();
    for block in image.0.get_mut(&last).unwrap().chunks_mut(4096).take(2) {
        change(block);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..40]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    image
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_program_wrote_is_refused_untouched() {
    let image = generations(1).await.remove(1);
    let newer = [
        newer_database(&image, "records.db"),
        newer_database(&image, "views.db"),
        newer_segment(&image, |block| block[8] += 1),
        newer_segment(&image, |block| block[16] |= 4),
        newer_segment(&image, |block| block[24] |= 1),
    ];
    for image in newer {
        let error = refused(&image).await;
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains("newer"), "{error}");
    }
    // Not even the write-ahead log of a crash is put in its place.
    let folder = fast_folder();
    let fixed = Arc::new(Fixed::default());
    image.put(folder.path());
    let keep = open(folder.path(), &fixed).await.unwrap();
    keep.wait_ready().await;
    let position = more(&keep, &fixed, 2).await;
    settle(&keep, position).await;
    let crashed = Image::take(folder.path());
    assert!(!crashed.0[Path::new("records.db-wal")].is_empty());
    keep.close().await.unwrap();
    refused(&newer_segment(&crashed, |block| block[8] += 1)).await;
}

/// A row that the views lost, or that belongs to nobody, is found although the views are where sessions are listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_does_not_believe_the_views_about_which_sessions_there_are() {
    let image = generations(1).await.remove(1);
    let nobody = "UPDATE sessions SET session_id = 'ffffffffffffffffffffffffffffffff' WHERE name = 'more-1'";
    for change in ["DELETE FROM sessions WHERE name = 'more-1'", nobody] {
        let folder = fast_folder();
        image.put(folder.path());
        let views = rusqlite::Connection::open(folder.path().join("views.db")).unwrap();
        assert_eq!(views.execute(change, []).unwrap(), 1);
        drop(views);
        let keep = open(folder.path(), &Arc::default()).await.unwrap();
        let session = keep.get_session("small/more-1").await.unwrap().unwrap();
        let report = keep.verify(None, |_| {}).await.unwrap();
        assert!(report.findings.iter().any(|finding| finding.session == Some(session.id())), "{report:?}");
        assert_eq!(report.findings.iter().any(|finding| finding.what.contains("does not exist")), change == nobody);
        keep.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_events_that_is_not_the_records_is_found() {
    let image = generations(1).await.remove(1);
    for change in [
        "UPDATE event_groups SET aggregate_id = 'another' WHERE aggregate_id = 'team'",
        "UPDATE event_groups SET first_time = first_time + 1 WHERE aggregate_id = 'coder'",
        "DELETE FROM event_groups WHERE aggregate_id = 'tools'",
        "UPDATE event_groups SET events = replace(events, 'task_created', 'task_deleted') WHERE aggregate_id = 'test'",
    ] {
        let folder = fast_folder();
        image.put(folder.path());
        let views = rusqlite::Connection::open(folder.path().join("views.db")).unwrap();
        assert!(views.execute(change, []).unwrap() > 0, "{change}");
        drop(views);
        let keep = open(folder.path(), &Arc::default()).await.unwrap();
        let report = keep.verify(None, |_| {}).await.unwrap();
        assert!(report.findings.iter().any(|finding| finding.what.contains("list of events")), "{change}: {report:?}");
        keep.close().await.unwrap();
    }
}

/// A session whose row is lost is not one that never was: nobody begins it again over its records, which make the row anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_its_row_gets_it_back_from_its_records_and_is_not_made_again() {
    let image = generations(1).await.remove(1);
    let folder = fast_folder();
    image.put(folder.path());
    let records = rusqlite::Connection::open(folder.path().join("records.db")).unwrap();
    let id: swarmkeep::SessionName = "small/more-1".parse().unwrap();
    assert_eq!(records.execute("DELETE FROM sessions WHERE id = ?1", [id.id().0]).unwrap(), 1);
    drop(records);
    let keep = open(folder.path(), &Arc::default()).await.unwrap();
    let found = keep.get_session("small/more-1").await.unwrap().expect("it is there");
    let opened = keep.open_session("small/more-1").await.unwrap();
    assert!(found.state().await.unwrap().head.seq.0 >= 5);
    opened.set_memory("again", 1).await.unwrap();
    let mut feed = found.subscribe(swarmkeep::From::Seq(swarmkeep::Seq(5))).await.unwrap();
    for _ in 0..2 {
        // Whoever brought it back notes that, perhaps after somebody wrote.
        feed.next().await.unwrap();
    }
    let records = found.records(swarmkeep::Seq(5), usize::MAX).await.unwrap();
    let noted = |record: &&swarmkeep::Record| {
        record.body.as_ref().is_some_and(|body| matches!(body.event, swarmkeep::Event::Recovered { .. }))
    };
    assert_eq!(records.iter().filter(noted).count(), 1, "that it was recovered is a record, once");
    assert_eq!(records.len(), 2, "it goes on where it ended");
    assert!(keep.last_recovery().unwrap().repaired.iter().any(|repair| repair.session == id.id()));
    assert!(keep.get_session("small/everything").await.unwrap().unwrap().state().await.is_ok());
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    keep.close().await.unwrap();
}
