//! A recovery that is cut off at every call that changes the disk: it is taken up again, and ends where it would have ended.

use std::{path::Path, sync::Mutex};

use swarmkeep::{
    Ending,
    disk::simulated::{Loss, SimDisk},
    embedded::EmbeddedLog,
};
use swarmkeep_core::{
    Epoch, Hash, Seq, SessionId, SessionName,
    command::Command,
    json::Json,
    log::{Durability, Log, LogError},
    record,
    recovery::ATTEMPTS,
    session::{self, Circumstances, NewSession, Request, Staged},
    testing::{self, Draw},
};
use tokio::runtime::Runtime;

use super::{
    check::Checked,
    figures::{images, now_ms, runtime, seed, spread},
    world::{STORE, driven, open, open_by_hand},
};

/// Where the session's rows end: each of these is a row of its own, stored as it came.
const SIZES: [usize; 4] = [3_300, 1_300, 450, 120];
/// In which of them the damage is.
const HURT: usize = 1;

struct Subject {
    disk: SimDisk,
    session: SessionId,
    records: Vec<Hash>,
}

fn needle(number: usize) -> String {
    format!("needle-{number}-")
}

/// A store that was parked, whose session has four rows of records.
fn subject(runtime: &Runtime, kept: bool) -> Subject {
    let disk = SimDisk::new();
    swarmkeep::disk::Disk::create_dir(&disk, Path::new(STORE)).unwrap();
    let log = open(&disk, kept, 1).unwrap();
    let mut salt = 0u128;
    let mut salts = || {
        salt += 1;
        salt.to_le_bytes()
    };
    let epoch = Epoch(log.incarnation());
    let name = NewSession::new(SessionName::new("test", "s").unwrap());
    let circumstances = Circumstances { epoch, now_ms: 1_000, salts: &mut salts };
    let (mut session, group) = session::create(name, &testing::actor(), circumstances).unwrap();
    let mut records: Vec<Hash> = group.records.iter().map(|record| record.hash).collect();
    let id = group.log.session;
    runtime.block_on(log.append(group.log, Durability::Durable)).unwrap();
    for (number, size) in SIZES.into_iter().enumerate() {
        let text = needle(number).repeat(size / 9);
        let command = Command::Record {
            kind: "step".into(),
            aggregate: None,
            payload: Json::encode(&text).unwrap(),
            blobs: std::collections::BTreeMap::new(),
        };
        let circumstances = Circumstances { epoch, now_ms: 2_000 + number as u64, salts: &mut salts };
        let staged = session.stage(Request::new(testing::actor(), vec![command]), circumstances).unwrap();
        let Staged::Group(group) = staged else { panic!("nothing to write") };
        records.extend(group.records.iter().map(|record| record.hash));
        runtime.block_on(log.append(group.log, Durability::Durable)).unwrap();
        runtime.block_on(log.records_settled()).unwrap();
    }
    log.close().unwrap();
    Subject { disk, session: id, records }
}

/// Flips bytes of one record wherever a file of this kind has it.
fn spoil(disk: &SimDisk, what: &[u8], is_concerned: impl Fn(&str) -> bool) -> usize {
    let mut spoilt = 0;
    for path in disk.files() {
        if !is_concerned(&path.to_string_lossy()) {
            continue;
        }
        disk.alter(&path, |bytes| {
            let places: Vec<usize> =
                bytes.windows(what.len()).enumerate().filter(|(_, window)| *window == what).map(|(at, _)| at).collect();
            places.iter().for_each(|at| bytes[*at] ^= 1);
            spoilt += places.len();
        });
    }
    spoilt
}

/// All records that are served, by their hashes, and why not more.
fn read(runtime: &Runtime, log: &EmbeddedLog, id: SessionId) -> (Vec<Hash>, Option<LogError>) {
    let mut hashes = Vec::new();
    let mut piece = 1 << 20;
    loop {
        match runtime.block_on(log.read(id, Seq(hashes.len() as u64), piece)) {
            Ok(bytes) if bytes.is_empty() => return (hashes, None),
            Ok(bytes) => hashes.extend(record::iter(&bytes).map(|view| view.unwrap().hash())),
            // One by one up to where the damage is.
            Err(_) if piece > 1 => piece = 1,
            Err(error) => return (hashes, Some(error)),
        }
    }
}

/// The disk as it was at each moment of some work, after each kind of end.
fn ends(moments: &[SimDisk], most: usize) -> Vec<(usize, Option<Loss>, u64)> {
    let mut all: Vec<(usize, Option<Loss>, u64)> = Vec::new();
    for at in 0..moments.len() {
        all.push((at, None, 0));
        all.extend(Loss::ALL.map(|loss| (at, Some(loss), at as u64)));
    }
    let every = all.len().div_ceil(most).max(1);
    all.into_iter().skip(usize::try_from(seed()).unwrap() % every).step_by(every).collect()
}

fn cut_off(moment: &SimDisk, loss: Option<Loss>, n: u64) -> SimDisk {
    match loss {
        // The process dies, the cache stays warm.
        None => moment.fork().kill(),
        Some(loss) => moment.fork().crash(loss, n),
    }
}

#[test]
fn a_repair_that_is_cut_off_anywhere_is_taken_up_and_loses_nothing() {
    let (began, runtime) = (now_ms(), runtime());
    let subject = subject(&runtime, true);
    let hurt = spoil(&subject.disk, needle(HURT).as_bytes(), |path| path.contains("records.db"));
    assert!(hurt > 0, "the row is stored as it came");
    subject.disk.keep_moments();
    let log = open(&subject.disk, true, 2).unwrap();
    let (served, error) = read(&runtime, &log, subject.session);
    assert!(served == subject.records && error.is_none(), "{error:?}");
    let [done] = log.session_recoveries().try_into().unwrap();
    assert_eq!((done.event, done.attempts, done.data_loss_percent), (Ending::SessionRecovered, 1, 0.0));
    assert!(done.steps.iter().all(|step| step.done_at_ms.is_some()), "{:?}", done.steps);
    assert!(
        done.restored.iter().any(|repair| ["journal", "kept"].contains(&repair.from.as_str())),
        "{:?}",
        done.restored
    );
    drop(log);
    let moments = subject.disk.moments();
    let jobs = ends(&moments, images(600));
    let interrupted = Mutex::new(0);
    let tally = spread(&jobs, |runtime, (at, loss, n), tally| {
        let mut disk = cut_off(&moments[*at], *loss, *n);
        let mut draw = Draw::new(*at as u64);
        let mut outcome = Ok(Checked::default());
        // Once more in the middle of taking it up, while attempts are left.
        for again in 0..2 {
            disk.keep_moments();
            let log = open(&disk, true, 100 + again).unwrap();
            let (served, error) = read(runtime, &log, subject.session);
            if served != subject.records {
                outcome = Err(format!("{} of {} records: {error:?}", served.len(), subject.records.len()));
            }
            for known in log.session_recoveries() {
                if known.attempts > 1 {
                    *interrupted.lock().unwrap() += 1;
                }
                if known.event != Ending::SessionRecovered {
                    outcome = Err(format!("{known:?}"));
                }
            }
            drop(log);
            if outcome.is_err() {
                break;
            }
            let moments = disk.moments();
            disk = cut_off(&moments[draw.below(moments.len())], *loss, draw.number());
        }
        tally.take(
            outcome.map(|_| Checked { acknowledged: subject.records.len() as u64, ..Checked::default() }),
            || format!("moment {at}, {loss:?}"),
        );
    });
    assert!(*interrupted.lock().unwrap() > 0, "no cut came in the middle of an attempt");
    println!("{} moments, {} cuts within an attempt", moments.len(), interrupted.lock().unwrap());
    tally.report("a_repair_that_is_cut_off_anywhere_is_taken_up_and_loses_nothing", seed(), 5, began);
}

#[test]
fn a_roll_back_that_was_accepted_and_is_cut_off_anywhere_comes_to_its_end() {
    let (began, runtime) = (now_ms(), runtime());
    let subject = subject(&runtime, false);
    // In every copy: nothing can be repaired.
    let hurt = spoil(&subject.disk, needle(HURT).as_bytes(), |_| true);
    assert!(hurt > 1, "row and journal");
    let left = subject.records[..=HURT].to_vec();
    let log = open(&subject.disk, false, 2).unwrap();
    let (served, error) = read(&runtime, &log, subject.session);
    assert_eq!(served, left, "what is before the damage is read");
    assert!(matches!(error, Some(LogError::Corrupt(_))), "{error:?}");
    let waiting = log.decision(subject.session).expect("nobody decides for a person");
    assert_eq!((waiting.reaches.0, waiting.plan.known_head.0), (left.len() as u64, subject.records.len() as u64));
    drop(log);

    subject.disk.keep_moments();
    let log = open(&subject.disk, false, 3).unwrap();
    assert!(log.needs_decision(subject.session), "over a restart");
    let done = runtime.block_on(log.accept_loss(subject.session, "user:ana")).unwrap().unwrap();
    let check = |log: &EmbeddedLog, runtime: &Runtime, disk: &SimDisk| -> Result<(), String> {
        let (served, error) = read(runtime, log, subject.session);
        if served != left || error.is_some() {
            return Err(format!("{} of {} records, then {error:?}", served.len(), left.len()));
        }
        let known = log.session_recoveries().into_iter().find(|known| known.session == subject.session);
        let known = known.ok_or("no report")?;
        let old = known.old_head.ok_or("no old head")?;
        if known.event != Ending::SessionRecoveredWithLoss
            || old.seq.0 != subject.records.len() as u64
            || old.hash != subject.records.last().copied()
            || known.lost.count() != (subject.records.len() - left.len()) as u64
            || known.accepted_by.as_deref() != Some("user:ana")
        {
            return Err(format!("{known:?}"));
        }
        // What is out of reach is whole, and kept.
        let kept = disk.files().into_iter().filter(|path| path.to_string_lossy().contains("/quarantine/"));
        let whole = needle(HURT + 1);
        let is_kept = kept
            .filter_map(|path| disk.contents(&path))
            .any(|bytes| bytes.windows(whole.len()).any(|window| window == whole.as_bytes()));
        if is_kept { Ok(()) } else { Err("the records after the gap are nowhere".into()) }
    };
    assert_eq!(done.event, Ending::SessionRecoveredWithLoss);
    check(&log, &runtime, &subject.disk).unwrap();
    drop(log);
    let moments = subject.disk.moments();
    let jobs = ends(&moments, images(600));
    let tally = spread(&jobs, |runtime, (at, loss, n), tally| {
        let disk = cut_off(&moments[*at], *loss, *n);
        let log = open(&disk, false, 200).unwrap();
        // Whoever asks first takes it up.
        let head = runtime.block_on(log.head(subject.session));
        let mut outcome = Ok(());
        if log.needs_decision(subject.session) {
            // The word was not durable: it waits as before.
            let (served, _) = read(runtime, &log, subject.session);
            if served != left || head.is_ok() {
                outcome = Err(format!("it waits, and serves {} records, {head:?}", served.len()));
            }
            let accepted = runtime.block_on(log.accept_loss(subject.session, "user:ana"));
            if let Err(error) = accepted {
                outcome = Err(error.to_string());
            }
        }
        let outcome = outcome.and_then(|()| check(&log, runtime, &disk));
        tally.take(outcome.map(|()| Checked { acknowledged: left.len() as u64, ..Checked::default() }), || {
            format!("moment {at}, {loss:?}")
        });
    });
    println!("{} moments", moments.len());
    tally.report("a_roll_back_that_was_accepted_and_is_cut_off_anywhere_comes_to_its_end", seed(), 5, began);
}

/// Nobody but the caller works: whoever waits for the applier lets it have its turns, and the same store recovers the same
/// way every time.
#[test]
fn a_store_without_threads_recovers_in_its_callers_turns() {
    let runtime = runtime();
    let tried = || {
        let subject = subject(&runtime, true);
        assert!(spoil(&subject.disk, needle(HURT).as_bytes(), |path| path.contains("records.db")) > 0);
        let log = open_by_hand(&subject.disk, true, 2).unwrap();
        let bytes = runtime.block_on(driven(&log, log.read(subject.session, Seq::ZERO, 1 << 20))).unwrap();
        let served: Vec<Hash> = record::iter(&bytes).map(|view| view.unwrap().hash()).collect();
        assert_eq!(served, subject.records);
        let [done] = log.session_recoveries().try_into().unwrap();
        assert_eq!((done.event, done.attempts), (Ending::SessionRecovered, 1));
        let reports = log.reports(10).unwrap();
        assert!(reports.iter().any(|report| report.id == done.id), "it is in the history: {reports:?}");
        runtime.block_on(driven(&log, log.end_recoveries()));
        log.close().unwrap();
        let files = subject.disk.files();
        files.iter().map(|path| (path.clone(), subject.disk.contents(path))).collect::<Vec<_>>()
    };
    let (once, again) = (tried(), tried());
    for ((path, one), (_, other)) in once.iter().zip(&again) {
        assert!(one == other, "{} differs", path.display());
    }
    assert_eq!(once.len(), again.len());
}

#[test]
fn attempts_that_end_the_process_are_counted_and_end() {
    let runtime = runtime();
    let subject = subject(&runtime, true);
    assert!(spoil(&subject.disk, needle(HURT).as_bytes(), |path| path.contains("records.db")) > 0);
    let mut disk = subject.disk;
    for attempt in 0..=ATTEMPTS {
        disk.keep_moments();
        let log = open(&disk, true, 10 + u64::from(attempt)).unwrap();
        let (served, error) = read(&runtime, &log, subject.session);
        if attempt == ATTEMPTS {
            assert!(log.needs_decision(subject.session), "{error:?}");
            // A person has it tried again, and it is there.
            let done = runtime.block_on(log.recover(subject.session)).unwrap().unwrap();
            assert_eq!((done.event, done.attempts), (Ending::SessionRecovered, ATTEMPTS + 1));
            assert_eq!(read(&runtime, &log, subject.session).0, subject.records);
            return;
        }
        assert_eq!(served, subject.records);
        drop(log);
        // Back to where this attempt was counted, and no more was done.
        let moments = disk.moments();
        let counted = moments.iter().position(|moment| {
            let case = moment.files().into_iter().find(|path| path.to_string_lossy().ends_with(".json"));
            let text = case.and_then(|path| moment.contents(&path)).unwrap_or_default();
            String::from_utf8_lossy(&text).contains(&format!("\"attempts\":{},\"known_head\"", attempt + 1))
        });
        disk = moments[counted.expect("it is counted before its first step")].fork().crash(Loss::Everything, 1);
    }
    panic!("it never ended");
}
