//! records.db made again: cut off at every call, of another time than its log, and live.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use swarmkeep::{
    Actor, DataLoss, ErrorKind, NewSession, Settings, Swarmkeep,
    disk::{
        Disk,
        simulated::{Call, Failure, Fault, Loss, SimDisk},
    },
    embedded::EmbeddedLog,
};
use swarmkeep_core::{log::Log, testing::Draw};

use super::{
    check::{Checked, SAID, check},
    figures::{self, Tally, idle_clock, images, now_ms, over_seeds, runtime, seed, spread},
    power::{History, extent, look},
    work::Work,
    world::{self, Fixed, STORE, driven, open, open_by_hand},
};

fn store(name: &str) -> PathBuf {
    Path::new(STORE).join(name)
}

/// Moments of a history at which nothing stands in records.db alone.
fn standing_twice(history: &History, most: usize) -> Vec<usize> {
    let twice = |at: &usize| {
        let disk = history.moments[*at].fork().crash(Loss::Everything, 0);
        let Ok(log) = open(&disk, true, 99) else { return false };
        runtime().block_on(log.records_settled()).unwrap();
        let once = log.one_copy().unwrap();
        let _ = disk.kill();
        once.once == 0 && once.records > 10
    };
    let last = history.moments.len() - 1;
    let found: Vec<usize> = (1..=most * 4).map(|nth| last - nth * last / (most * 8)).filter(twice).collect();
    assert!(!found.is_empty());
    found.into_iter().take(most).collect()
}

fn rot(disk: &SimDisk, from: usize, to: usize) {
    rot_main(disk, from, to);
    // What the log has of a page is read from there.
    disk.alter(&store("records.db-wal"), Vec::clear);
}

fn rot_main(disk: &SimDisk, from: usize, to: usize) {
    disk.alter(&store("records.db"), |bytes| {
        let length = bytes.len();
        bytes[from.min(length)..to.min(length)].fill(0xab);
    });
}

/// What is harmed, and how.
type Harm = (&'static str, fn(&SimDisk));

/// Ways in which SQLite cannot read a file any more.
fn harms() -> [Harm; 4] {
    [
        ("its header", |disk| rot(disk, 0, 100)),
        ("its schema", |disk| rot(disk, 100, 4_096)),
        ("its first tables", |disk| rot(disk, 4_096, 5 * 4_096)),
        ("it is gone", |disk| {
            for name in ["records.db", "records.db-wal"] {
                let _ = disk.remove(&store(name));
            }
            disk.sync_dir(Path::new(STORE)).unwrap();
        }),
    ]
}

#[test]
fn records_db_is_made_again_whatever_cuts_that_off() {
    let (began, seed) = (now_ms(), seed() | 1);
    let history = History::of(seed, 3, 40);
    assert!(history.kept);
    let mut jobs = Vec::new();
    let mut cuts = 0;
    for at in standing_twice(&history, 2) {
        for (name, harm) in harms() {
            let disk = history.moments[at].fork().crash(Loss::Everything, 0);
            harm(&disk);
            disk.keep_moments();
            let log = open_by_hand(&disk, true, 500).unwrap();
            assert!(log.opening_report().records_rebuilt, "{name}: {:?}", log.opening_report());
            let moments = disk.moments();
            let _ = disk.kill();
            drop(log);
            cuts += moments.len();
            for (cut, moment) in moments.into_iter().enumerate() {
                jobs.extend(Loss::ALL.map(|loss| (at, name, cut, loss, moment.clone())));
            }
        }
    }
    assert!(cuts > 100, "{cuts}");
    let every = jobs.len().div_ceil(images(1_000));
    let jobs: Vec<_> = jobs.into_iter().step_by(every).collect();
    let tally = spread(&jobs, |runtime, (at, name, cut, loss, moment), tally| {
        let image = moment.fork().crash(*loss, *cut as u64);
        let owed = history.owed(&history.moments[*at]);
        let found = look(runtime, &image, &history, &owed, 1_000 + *cut as u64);
        tally.take(found.map(|(checked, _)| checked), || format!("moment {at}, {name}, cut at {cut}, {loss:?}"));
    });
    println!("{cuts} cuts");
    tally.report("records_db_is_made_again_whatever_cuts_that_off", seed, history.writes, began);
}

/// What stood in records.db alone is lost with it; whatever becomes of the start that finds that out, the next one says it too.
#[test]
fn what_is_lost_with_records_db_is_told_wherever_a_start_is_cut_off() {
    let (began, seed) = (now_ms(), seed() | 1);
    let history = History::of(seed, 3, 40);
    let is_told = |log: &EmbeddedLog| log.opening_report().damage.iter().any(|damage| damage.loss != DataLoss::None);
    let last = history.moments.len() - 1;
    let (mut cuts, mut jobs) = (0, Vec::new());
    for (name, harm) in harms() {
        let disk = history.moments[last].fork().crash(Loss::Everything, 0);
        harm(&disk);
        for copy in disk.list(&store("kept")).unwrap_or_default() {
            disk.remove(&store("kept").join(copy)).unwrap();
        }
        disk.sync_dir(&store("kept")).unwrap();
        disk.keep_moments();
        let Ok(log) = open_by_hand(&disk, true, 500) else { continue };
        assert!(is_told(&log), "{name}: {:?}", log.opening_report());
        let moments = disk.moments();
        let _ = disk.kill();
        cuts += moments.len();
        for (cut, moment) in moments.into_iter().enumerate() {
            jobs.extend(Loss::ALL.map(|loss| (name, cut, loss, moment.clone())));
        }
    }
    let every = jobs.len().div_ceil(images(1_000));
    let jobs: Vec<_> = jobs.into_iter().step_by(every).collect();
    let tally = spread(&jobs, |_, (name, cut, loss, moment), tally| {
        let image = moment.fork().crash(*loss, *cut as u64);
        let told = match open_by_hand(&image, true, 1_000 + *cut as u64) {
            Ok(log) if !is_told(&log) => Err(format!("it is silent: {:?}", log.opening_report())),
            Ok(_) => Ok(Checked::default()),
            Err(error) => Err(format!("it does not open: {error}")),
        };
        let _ = image.kill();
        tally.take(told, || format!("{name}, cut at {cut}, {loss:?}"));
    });
    assert!(cuts > 100, "{cuts}");
    tally.report("what_is_lost_with_records_db_is_told_wherever_a_start_is_cut_off", seed, history.writes, began);
}

/// Rows of several moments side by side: of some sessions the own row is gone and records are there, of others it is of an
/// earlier moment than they are.
#[test]
fn what_loss_of_power_left_of_a_copy_is_made_whole() {
    let (began, seed) = (now_ms(), seed() | 1);
    let tally = over_seeds(runtime, seed, images(600) as u64, 150, |runtime, seed, most, tally| {
        let (opens, steps) = extent(seed);
        let history = History::of(seed, opens, steps);
        tally.writes += history.writes;
        let is_copying =
            |at: &usize| history.moments[*at].fork().crash(Loss::Nothing, 0).exists(&store("records.copying")).unwrap();
        let torn = (0..history.moments.len()).filter(is_copying);
        let jobs: Vec<_> = torn
            .flat_map(|at| [Loss::Subset, Loss::Prefix, Loss::Garbage].map(|loss| (at, loss)))
            .flat_map(|(at, loss)| (0..3u64).map(move |n| (at, loss, n)))
            .collect();
        let every = jobs.len().div_ceil(most).max(1);
        for (at, loss, n) in jobs.into_iter().step_by(every) {
            let moment = &history.moments[at];
            let image = moment.fork().crash(loss, at as u64 * 1_000 + n);
            let found = look(runtime, &image, &history, &history.owed(moment), 1_001 + 8 * at as u64);
            tally.take(found.map(|(checked, _)| checked), || format!("seed {seed}, moment {at}, {loss:?}, {n}"));
        }
    });
    tally.report("what_loss_of_power_left_of_a_copy_is_made_whole", seed, 0, began);
}

#[test]
fn records_db_that_is_damaged_under_an_open_store_is_made_again_without_a_restart() {
    let (began, seed) = (now_ms(), seed() | 1);
    let history = History::of(seed, 3, 40);
    let mut tally = Tally::default();
    for at in standing_twice(&history, 3) {
        for (from, to) in [(0, 100), (100, 4_096), (4_096, 5 * 4_096), (3 * 4_096, 40 * 4_096)] {
            let disk = history.moments[at].fork().crash(Loss::Everything, 0);
            let runtime = runtime();
            let log = Arc::new(open(&disk, true, 600).unwrap());
            let owed = history.owed(&history.moments[at]);
            let found = runtime.block_on(async {
                log.records_settled().await.unwrap();
                rot_main(&disk, from, to);
                let (checked, _) = check(&log, &history.story, &owed).await?;
                let fixed = Fixed::new(700);
                let keep = Swarmkeep::over_embedded(log.clone(), Settings::default(), fixed.clone(), fixed).await;
                let keep = keep.map_err(|error| format!("{error:?}"))?;
                let mut repaired = keep.repair(None, |_| {}).await;
                // The database is being opened again: whoever asks is told to ask again.
                while repaired.as_ref().is_err_and(|error| error.kind == ErrorKind::Retry) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    repaired = keep.repair(None, |_| {}).await;
                }
                let report = repaired.map_err(|error| format!("repair: {error:?}"))?;
                let report = match report.findings.is_empty() {
                    true => report,
                    // What somebody met before.
                    false => keep.verify(None, |_| {}).await.map_err(|error| format!("verify: {error:?}"))?,
                };
                if report.findings.is_empty() { Ok(checked) } else { Err(format!("{:?}", report.findings)) }
            });
            let made = log.made_again();
            let found = found.map_err(|error| format!("{error}; made again: {made:?}"));
            tally.take(found, || format!("moment {at}, bytes {from} to {to}"));
            let _ = disk.kill();
        }
    }
    tally.report("records_db_that_is_damaged_under_an_open_store_is_made_again_without_a_restart", seed, 0, began);
}

#[test]
fn a_records_db_put_back_under_a_newer_log_serves_no_removed_session() {
    let (began, seed) = (now_ms(), seed());
    let mut tally = Tally::default();
    let (mut whole, mut said, mut removed) = (0, 0, 0);
    // With second copies, and without.
    for seed in [seed, seed + 1] {
        let history = History::of(seed, 3, 60);
        let main = store("records.db");
        let step = history.moments.len() / 40;
        let times: Vec<usize> = (0..history.moments.len()).step_by(step.max(1)).collect();
        for (nth, &newer) in times.iter().enumerate() {
            let moment = &history.moments[newer];
            let Some(now) = moment.contents(&main) else { continue };
            let mut seen = BTreeSet::from([now]);
            for &older in times[..nth].iter().rev() {
                let Some(then) = history.moments[older].contents(&main) else { continue };
                if then.is_empty() || !seen.insert(then.clone()) || seen.len() > 6 {
                    continue;
                }
                let image = moment.fork().crash(Loss::Everything, 0);
                image.alter(&main, |bytes| bytes.clone_from(&then));
                let owed = history.owed(moment);
                let outcome = match open(&image, history.kept, 900 + newer as u64) {
                    Err(error) if error.kind == ErrorKind::Corrupt => {
                        said += 1;
                        Ok(Checked::default())
                    }
                    Err(error) => Err(format!("it does not open: {error:?}")),
                    Ok(log) => runtime().block_on(async {
                        for (id, _) in owed.iter().filter(|(_, owed)| owed.removed) {
                            removed += 1;
                            if let Ok(Some(head)) = log.head(*id).await {
                                return Err(format!("session {id} was removed, and ends at {}", head.seq));
                            }
                        }
                        match check(&log, &history.story, &owed).await {
                            Ok((checked, _)) => {
                                whole += 1;
                                Ok(checked)
                            }
                            Err(error) if error.contains(SAID) || log.opening_report().records_rebuilt => {
                                said += 1;
                                Ok(Checked::default())
                            }
                            Err(error) => Err(error),
                        }
                    }),
                };
                let _ = image.kill();
                tally.take(outcome, || format!("seed {seed}, moment {newer}, records.db of {older}"));
            }
        }
    }
    println!("{whole} whole, {said} said what they lack; {removed} times a removed session was asked for");
    tally.report("a_records_db_put_back_under_a_newer_log_serves_no_removed_session", seed, 0, began);
    assert!(whole > 20 && removed > 20, "{whole}, {removed}");
}

#[test]
fn after_a_failed_sync_that_drops_pages_the_open_store_has_everything() {
    let (began, seed) = (now_ms(), seed());
    let runtime = idle_clock();
    let mut tally = Tally::default();
    for seed in [seed, seed + 1] {
        let syncs = {
            let mut clean = Work::by_hand(SimDisk::new(), seed);
            runtime.block_on(clean.run(1, 40)).unwrap();
            clean.disk.calls_of(Call::Sync)
        };
        for nth in 1..=syncs {
            if figures::number("SWARMKEEP_DISK_ONLY", nth) != nth {
                continue;
            }
            for failure in [Failure::SyncDrops, Failure::SyncMarksClean] {
                let mut work = Work::by_hand(SimDisk::new(), seed);
                work.persists = true;
                work.disk.fail(Fault { call: Some(Call::Sync), nth, sticky: false, failure });
                let _ = runtime.block_on(work.run(1, 40));
                let Some(log) = work.take_log() else { continue };
                let mut draw = Draw::new(nth);
                world::some_turns(&log, &mut draw);
                let mut last = Err("there is no reading".to_owned());
                for story in work.story.readings(work.story.facts.len()).into_iter().rev() {
                    let owed = story.owed(story.facts.len());
                    last = runtime.block_on(driven(&log, check(&log, &story, &owed))).map(|(checked, _)| checked);
                    if last.is_ok() {
                        break;
                    }
                }
                tally.take(last, || format!("seed {seed}, sync {nth} of {syncs}, {failure:?}"));
                let _ = work.disk.kill();
            }
        }
    }
    tally.report("after_a_failed_sync_that_drops_pages_the_open_store_has_everything", seed, 0, began);
}

/// A disk that damages records.db again and again: it is not made again for ever, the journal keeps what comes in, the end
/// comes, and what waited is applied at the next start, or when the hour is over.
#[test]
fn a_records_db_that_is_damaged_again_and_again_is_left_for_an_hour_and_nothing_is_lost() {
    const ENTRIES: usize = 48;
    let patience = Duration::from_secs(120);
    // Frames that take large entries.
    let open = |disk: &SimDisk, fixed: Arc<Fixed>| {
        let settings = world::settings(true);
        let mut pace = world::pace(&settings);
        pace.journal.segment_bytes = 2 << 20;
        EmbeddedLog::open_at_pace(Arc::new(disk.clone()), Path::new(STORE), &settings, pace, fixed.clone(), fixed)
    };
    let runtime = runtime();
    for waits in [false, true] {
        let (disk, fixed) = (SimDisk::new(), Fixed::new(1));
        let log = Arc::new(open(&disk, fixed.clone()).unwrap());
        let value = "swarm".repeat(80 * 1024);
        runtime.block_on(async {
            let keep = Swarmkeep::over_embedded(log.clone(), Settings::default(), fixed.clone(), fixed.clone()).await;
            let keep = keep.unwrap();
            let session =
                keep.create_session(NewSession::new("demo/again".parse().unwrap()), &Actor::system()).await.unwrap();
            session.set_memory("first", "value").await.unwrap();
            let is_left = || log.standing().trouble.is_some_and(|trouble| trouble.contains("within an hour"));
            for _ in 0..200 {
                // Damage is met when it is read from the file: what is written moves SQLite's log into it.
                session.set_memory("first", &value[..20_000]).await.unwrap();
                log.records_settled().await.unwrap();
                rot_main(&disk, 0, usize::MAX);
                keep.repair(None, |_| {}).await.unwrap_or_default();
                if is_left() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(is_left() && log.made_again().len() == 8, "{:?}", log.made_again());
            // More than is applied in one go.
            for entry in 0..ENTRIES {
                session.set_memory(&format!("entry-{entry}"), &value).await.unwrap();
            }
            if waits {
                fixed.monotonic_ms.fetch_add(60 * 60 * 1000 + 1, Ordering::SeqCst);
                tokio::time::timeout(patience, log.records_settled()).await.expect("it is made again").unwrap();
                assert_eq!(log.made_again().len(), 9);
            }
            let closed = tokio::time::timeout(patience, keep.close()).await.expect("the end comes");
            assert_eq!(closed.is_ok(), waits, "{closed:?}");
        });
        drop(log);
        let log = Arc::new(open(&disk, Fixed::new(2)).unwrap());
        runtime.block_on(async {
            let fixed = Fixed::new(3);
            let keep = Swarmkeep::over_embedded(log.clone(), Settings::default(), fixed.clone(), fixed).await.unwrap();
            let state = keep.get_session("demo/again").await.unwrap().unwrap().state().await.unwrap();
            assert_eq!(state.memory.len(), 1 + ENTRIES, "waits: {waits}");
            keep.close().await.unwrap();
        });
    }
}
