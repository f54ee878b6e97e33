//! One byte of a store changes while nobody looks: wherever it lies, nothing wrong is ever served in silence.
//!
//! Bytes are taken at even distances from every file; `SWARMKEEP_DAMAGE=every` takes every byte (an hour), a number takes
//! so many.
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
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use small_store::{Image, NAMES, Reading, blobs, crashed_and_parked, dump, fast_folder, open};
use swarmkeep::{Error, ErrorKind, Event, Of, Query, Seq, SessionStatus, Swarmkeep};
use swarmkeep_core::log::Position;

/// Long enough for a busy machine; a store that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

struct Subject {
    image: Image,
    reading: Reading,
    views: BTreeMap<String, Vec<String>>,
    /// Where the journal ends.
    position: Position,
}

/// What a changed byte came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// The store was refused, untouched.
    Refused,
    /// Something cannot be read any more, and that is said.
    Found,
    /// Everything reads as before, and the damage was reported or put right.
    Mended,
    /// Everything reads as before: the byte means nothing.
    Unread,
}

async fn subject(image: Image) -> Subject {
    let folder = fast_folder();
    image.put(folder.path());
    let keep = open(folder.path(), &Arc::default()).await.unwrap();
    keep.wait_ready().await;
    let position = keep.health().store.unwrap().records_position;
    let report = keep.verify(None, |_| {}).await.unwrap();
    assert_eq!(report.findings, vec![]);
    let reading = Reading::of(&keep).await;
    assert_eq!(reading.states.len(), NAMES.len());
    let views = dump(&folder.path().join("views.db"));
    Subject { image, reading, views, position }
}

fn says_so(error: &Error) -> Result<(), String> {
    match error.kind {
        ErrorKind::Corrupt | ErrorKind::Unavailable => Ok(()),
        _ => Err(format!("damage, but the error is {error:?}")),
    }
}

/// Reads everything. `Ok(true)`: as before.
async fn read(keep: &Swarmkeep, subject: &Subject, around: u64) -> Result<bool, String> {
    let report = keep.last_recovery().unwrap();
    let reported = !report.damage.is_empty() || !report.possibly_acknowledged.is_empty();
    let mut whole = true;
    for name in NAMES {
        let (states, records) = (&subject.reading.states[name], &subject.reading.records[name]);
        let session = match keep.get_session(name).await {
            Ok(Some(session)) => session,
            Ok(None) if reported => {
                whole = false;
                continue;
            }
            Ok(None) => return Err(format!("{name} is gone, and nothing says so: {report:?}")),
            Err(error) => {
                says_so(&error)?;
                whole = false;
                continue;
            }
        };
        match session.state().await {
            // It says of itself that it is not all.
            Ok(state) if state.info.status == SessionStatus::NeedsDecision => {
                whole = false;
                if records.get(state.head.seq.0 as usize - 1) != Some(&state.head.hash) {
                    return Err(format!("{name}: what is left ends with another record"));
                }
            }
            Ok(now) => {
                // That it was recovered is a record, too.
                let seq = (now.head.seq.0 as usize).min(states.len());
                let state = match session.state_at(Seq(seq as u64)).await {
                    Ok(state) => state,
                    Err(error) => {
                        says_so(&error)?;
                        whole = false;
                        continue;
                    }
                };
                if state.hash() != states[seq - 1] {
                    return Err(format!("{name}: another state at seq {seq}"));
                }
                if seq < states.len() {
                    whole = false;
                    if !reported {
                        return Err(format!(
                            "{name} ends at {seq} of {}, and nothing says so: {report:?}",
                            states.len()
                        ));
                    }
                }
                // The present, and somewhere in the past.
                let past = around as usize % seq + 1;
                match session.state_at(Seq(past as u64)).await {
                    Ok(state) if state.hash() == states[past - 1] => {}
                    Ok(_) => return Err(format!("{name}: another state at seq {past} in the past")),
                    Err(error) => {
                        says_so(&error)?;
                        whole = false;
                    }
                }
            }
            Err(error) => {
                says_so(&error)?;
                whole = false;
            }
        }
        match session.records(Seq::ZERO, usize::MAX).await {
            Ok(mut found) => {
                found.retain(|record| {
                    !record.body.as_ref().is_some_and(|body| matches!(body.event, Event::Recovered { .. }))
                });
                let same = found.iter().zip(records).all(|(found, expected)| found.hash == *expected);
                if !same || found.len() > records.len() || (found.len() < records.len() && !reported) {
                    return Err(format!("{name}: other records"));
                }
                whole &= found.len() == records.len();
            }
            Err(error) => {
                says_so(&error)?;
                whole = false;
            }
        }
        if name == NAMES[0] {
            for blob in blobs() {
                match session.blob(blob.id).await {
                    Ok(bytes) if bytes == blob.bytes => {}
                    Ok(_) => return Err(format!("{name}: another blob")),
                    // Its row has lost its key: an answer, if not the best one.
                    Err(error) if error.kind == ErrorKind::NotFound => whole = false,
                    Err(error) => {
                        says_so(&error)?;
                        whole = false;
                    }
                }
            }
        }
    }
    Ok(whole)
}

/// Whether the views show what they should, and if not, whether that is found.
async fn look_at_views(keep: &Swarmkeep, folder: &Path, subject: &Subject) -> Result<Option<Verdict>, String> {
    let query = || Query::of(Of::Sessions);
    if keep.find(query(), Some(subject.position)).await.is_err() {
        return Ok(Some(Verdict::Found));
    }
    let path = folder.join("views.db");
    let shown = std::panic::catch_unwind(|| dump(&path));
    if shown.as_ref().is_ok_and(|shown| *shown == subject.views) {
        let rebuilt = keep.last_recovery().unwrap().views_rebuilt;
        return Ok(rebuilt.then_some(Verdict::Mended));
    }
    match keep.verify(None, |_| {}).await {
        Err(_) => Ok(Some(Verdict::Found)),
        Ok(report) if !report.findings.is_empty() => Ok(Some(Verdict::Found)),
        Ok(_) => {
            let shown = shown.map_err(|_| "the views cannot be read, and verify finds nothing".to_owned())?;
            let other: BTreeMap<_, _> = shown
                .iter()
                .filter(|(table, rows)| subject.views.get(*table) != Some(rows))
                .map(|(table, rows)| {
                    let expected = subject.views.get(table).cloned().unwrap_or_default();
                    (table, rows.iter().find(|row| !expected.contains(row)).cloned())
                })
                .collect();
            Err(format!("the views show something else, and verify finds nothing: {other:?}"))
        }
    }
}

async fn trial(folder: &Path, image: &Image, subject: &Subject, file: &Path, at: usize) -> Result<Verdict, String> {
    let keep = match open(folder, &Arc::default()).await {
        Ok(keep) => keep,
        Err(error) => {
            says_so(&error)?;
            let left = Image::take(folder);
            if left.lasting() != image.lasting() {
                let differs: Vec<_> = left
                    .lasting()
                    .into_iter()
                    .filter(|(path, bytes)| image.0.get(*path) != Some(bytes))
                    .map(|(path, bytes)| (path.clone(), bytes.len()))
                    .collect();
                return Err(format!("refused ({error}), and changed {differs:?}"));
            }
            return Ok(Verdict::Refused);
        }
    };
    let whole = read(&keep, subject, at as u64).await?;
    let report = keep.last_recovery().unwrap();
    let mut verdict = match (whole, report.damage.is_empty()) {
        (false, _) => Verdict::Found,
        (true, false) => Verdict::Mended,
        (true, true) => Verdict::Unread,
    };
    if file.starts_with("blobs") && keep.verify(None, |_| {}).await.is_ok_and(|report| report.findings.is_empty()) {
        return Err("verify does not read blobs that are files".into());
    }
    if file.to_string_lossy().starts_with("views.db")
        && let Some(found) = look_at_views(&keep, folder, subject).await?
    {
        verdict = found;
    }
    Ok(verdict)
}

/// The bytes to be tried: of every file evenly, its beginning in any case.
fn places(image: &Image) -> Vec<(PathBuf, usize)> {
    let wish = std::env::var("SWARMKEEP_DAMAGE").unwrap_or_default();
    let all: usize = wish.parse().unwrap_or(200);
    let mut places = Vec::new();
    for (path, bytes) in image.0.iter().filter(|(path, bytes)| !bytes.is_empty() && path.to_str() != Some("lock")) {
        // Beyond the last byte that is not zero, what was never written is taken for a page more.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let used = bytes.len().min(used + 4_096);
        let most = if wish == "every" { used } else { (all / image.0.len()).max(10).min(used) };
        places.extend((0..most).map(|n| (path.clone(), n * used / most)));
        places.extend((0..used.min(100)).step_by(if wish == "every" { 1 } else { 17 }).map(|at| (path.clone(), at)));
    }
    places
}

fn every_place(subject: &Subject) {
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = panics.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Not the test's own.
        if !info.location().is_some_and(|location| location.file().contains("tests/")) {
            counted.fetch_add(1, Ordering::SeqCst);
            eprintln!("{info}");
        }
    }));
    let places = places(&subject.image);
    let (next, wrong, counts) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((path, at)) = places.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let folder = fast_folder();
                    let mut image = subject.image.clone();
                    let mask = 1u8 << (at % 8);
                    image.0.get_mut(path).unwrap()[*at] ^= mask;
                    image.put(folder.path());
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let outcome = runtime.block_on(async {
                        let trial = trial(folder.path(), &image, subject, path, *at);
                        tokio::time::timeout(PATIENCE, trial).await.unwrap_or_else(|_| Err("it hangs".into()))
                    });
                    runtime.shutdown_background();
                    match outcome {
                        Ok(verdict) => {
                            let kind = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
                            *counts.lock().unwrap().entry((kind, verdict)).or_insert(0) += 1;
                        }
                        Err(what) => {
                            wrong.lock().unwrap().push(format!("{} byte {at} ^ {mask:#04x}: {what}", path.display()))
                        }
                    }
                }
            });
        }
    });
    std::panic::set_hook(before);
    for ((kind, verdict), count) in counts.into_inner().unwrap() {
        println!("{kind:16} {verdict:?}: {count}");
    }
    let wrong = wrong.into_inner().unwrap();
    println!("{} places, {} wrong", places.len(), wrong.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert_eq!(panics.load(Ordering::SeqCst), 0, "something panicked");
}

fn subjects() -> (Subject, Subject) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (crashed, parked) = crashed_and_parked().await;
        (subject(crashed).await, subject(parked).await)
    })
}

#[test]
fn no_changed_byte_of_a_crashed_store_is_served() {
    every_place(&subjects().0);
}

#[test]
fn no_changed_byte_of_a_parked_store_is_served() {
    every_place(&subjects().1);
}
