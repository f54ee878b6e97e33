//! Cases with a name: each is a way in which stores of this kind have lost something.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use swarmkeep::{
    ErrorKind,
    disk::{
        Disk,
        simulated::{Call, Failure, Fault, Loss, SimDisk},
    },
    embedded::EmbeddedLog,
    journal::{StoreId, Vouch, inspect},
};
use swarmkeep_core::{
    BlobId, Epoch, Hash, SessionId, SessionName,
    command::Command,
    json::Json,
    log::{Blob, Durability, Log, LogError, Remove},
    session::{self, Circumstances, NewSession, Request, Session, Staged},
    testing,
};
use swarmkeep_sqlite::{ReaderPool, RecordsReader};

use super::{
    check::{Checked, SAID, check},
    figures::{Tally, images, now_ms, runtime, seed, spread},
    power::{History, look},
    work::Work,
    world::{Fixed, STORE, open, open_by},
};

fn store(name: &str) -> PathBuf {
    Path::new(STORE).join(name)
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|file| file.to_string_lossy().ends_with(".segment")).collect()
}

/// What one disk has under these names, on another.
fn bring(to: &SimDisk, from: &SimDisk, wanted: impl Fn(&Path) -> bool) {
    for path in to.files().into_iter().filter(|path| wanted(path)) {
        if from.contents(&path).is_none() {
            to.remove(&path).unwrap();
        }
    }
    for path in from.files().into_iter().filter(|path| wanted(path)) {
        if to.contents(&path).is_none() {
            to.open(&path, swarmkeep::disk::OpenHow::Create).unwrap();
        }
        let bytes = from.contents(&path).unwrap();
        to.alter(&path, |old| old.clone_from(&bytes));
    }
}

fn of_records(path: &Path) -> bool {
    path.to_string_lossy().contains("/records.")
}

fn of_the_journal(path: &Path) -> bool {
    path.to_string_lossy().contains("/journal/")
}

/// Every file, but for the empty write-ahead logs that whoever reads a database leaves.
fn lasting(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.files().into_iter().filter_map(|path| Some((path.clone(), disk.contents(&path)?)));
    files.filter(|(path, bytes)| !(bytes.is_empty() && path.to_string_lossy().ends_with("-wal"))).collect()
}

/// How far records.db had come, and where the journal ended, in positions.
fn positions(disk: &SimDisk) -> Option<(u64, u64)> {
    let clock = Fixed::new(1);
    let records = ReaderPool::open_on(disk.vfs(), &store("records.db"), 1, clock).ok()?;
    let anchor = records.read(|connection| RecordsReader::new(connection).anchor()).ok()?;
    let vouch = Vouch {
        store: StoreId(anchor.store_id),
        position: anchor.position,
        frame_hash: anchor.frame_hash,
        incarnation: anchor.incarnation,
    };
    let journal = inspect(disk, Path::new(STORE), Some(vouch)).ok()?;
    Some((anchor.position.0, if journal.carried { journal.next.0 } else { journal.next.0 - 1 }))
}

/// What became of a store with records.db and a journal of different times.
#[derive(Debug, PartialEq)]
enum Mixed {
    Whole,
    /// Not opened: it says that they do not belong together, and changed nothing.
    Refused,
    /// The journal ends earlier, and records.db had not come further: nothing in the store knows of more.
    Earlier,
    /// records.db was made again of what there was, and sessions that lack something say so; the others are whole.
    Said,
}

fn mixed(history: &History, newer: &SimDisk, older: &SimDisk, journal: bool, seed: u64) -> Result<Mixed, String> {
    let disk = newer.fork().crash(Loss::Everything, 0);
    let (Some((applied, _)), Some((_, ended))) =
        (positions(&disk), positions(&older.fork().crash(Loss::Everything, 0)))
    else {
        return Err("it has no positions".into());
    };
    bring(&disk, &older.fork().crash(Loss::Everything, 0), if journal { of_the_journal } else { of_records });
    let before = lasting(&disk);
    match open(&disk, history.kept, seed) {
        Err(error) if error.kind == ErrorKind::Corrupt => {
            let changed: Vec<_> =
                lasting(&disk).into_iter().filter(|(path, bytes)| before.get(path) != Some(bytes)).collect();
            let names: Vec<_> = changed.into_iter().map(|(path, _)| path).collect();
            if names.is_empty() {
                Ok(Mixed::Refused)
            } else {
                Err(format!("refused ({error}), and changed: {names:?}"))
            }
        }
        Err(error) => Err(format!("{error:?}")),
        Ok(log) => {
            let mut owed = history.owed(newer);
            let aside: Vec<_> = log.standing().set_aside.iter().filter_map(|aside| aside.session).collect();
            let is_said = log.opening_report().records_rebuilt && !aside.is_empty();
            owed.retain(|session, _| !aside.contains(session));
            let found = runtime().block_on(check(&log, &history.story, &owed));
            let _ = disk.kill();
            match found {
                Ok(_) if is_said => Ok(Mixed::Said),
                Ok(_) => Ok(Mixed::Whole),
                Err(_) if journal && applied <= ended => Ok(Mixed::Earlier),
                Err(error) => Err(format!("records.db at {applied}, the older journal to {ended}: {error}")),
            }
        }
    }
}

#[test]
fn records_db_of_another_time_than_the_journal_is_noticed_or_caught_up() {
    let (began, seed) = (now_ms(), seed());
    let mut tally = Tally::default();
    let mut counts = [[0; 4]; 2];
    for seed in [seed, seed + 1] {
        let history = History::of(seed, 3, 40);
        // Each some way into its life, so that there is a journal and a records.db.
        let times: Vec<usize> = (1..=9).map(|nth| nth * (history.moments.len() - 1) / 9).collect();
        for (nth, &newer) in times.iter().enumerate() {
            for &older in &times[..nth] {
                // SQLite ahead of the journal, then behind it.
                for journal in [true, false] {
                    let (newer, older) = (&history.moments[newer], &history.moments[older]);
                    let outcome = mixed(&history, newer, older, journal, seed + nth as u64);
                    if let Ok(mixed) = &outcome {
                        counts[usize::from(journal)][match mixed {
                            Mixed::Whole => 0,
                            Mixed::Refused => 1,
                            Mixed::Earlier => 2,
                            Mixed::Said => 3,
                        }] += 1;
                    }
                    tally.take(outcome.map(|_| Checked::default()), || format!("journal {journal}"));
                }
            }
        }
    }
    for (what, [whole, refused, earlier, said]) in [("records.db", counts[0]), ("the journal", counts[1])] {
        println!(
            "{what} older: {whole} whole, {refused} refused, {earlier} that nothing could know of, {said} that say what they lack"
        );
    }
    tally.report("records_db_of_another_time_than_the_journal_is_noticed_or_caught_up", seed, 0, began);
    assert!(counts[0][0] > 0 && counts[0][3] > 0 && counts[1][1] > 0, "{counts:?}");
}

#[test]
fn a_flip_in_the_write_ahead_log_of_records_db_costs_nothing() {
    let (began, seed) = (now_ms(), seed());
    let history = History::of(seed, 3, 40);
    let wal = store("records.db-wal");
    // Segments were retired by then, and the write-ahead log has something again.
    let first = |disk: &SimDisk| segments(disk).first().cloned();
    let (mut between, mut copying, mut main) = (Vec::new(), Vec::new(), None);
    for (at, moment) in history.moments.iter().enumerate() {
        let now = moment.contents(&store("records.db"));
        if moment.contents(&wal).is_none_or(|bytes| bytes.is_empty()) {
            main = now;
            continue;
        }
        let retired = first(moment).is_some_and(|file| !file.ends_with("0000000000000001.segment"));
        if moment.contents(&wal).is_some_and(|bytes| bytes.len() > 8_000) && retired {
            // While the log is being copied the main file is half of what it was and half of what it will be, and only the
            // log can say which half: then such a flip may cost something, but not in silence.
            let marked = moment.contents(&store("records.copying")).is_some_and(|mark| mark.get(8) == Some(&1));
            if now == main && !marked { &mut between } else { &mut copying }.push(at);
        }
    }
    assert!(between.len() > 20 && copying.len() > 20, "{} and {} moments", between.len(), copying.len());
    let at: Vec<usize> = between.iter().copied().step_by(between.len() / 6).collect();
    let most = images(600) / at.len();
    let mut jobs: Vec<(usize, usize)> = at.iter().flat_map(|at| (0..most).map(|n| (*at, n))).collect();
    jobs.extend((0..3 * most).map(|n| (copying[n * 7 % copying.len()], n)));
    let told = AtomicUsize::new(0);
    let tally = spread(&jobs, |runtime, (at, n), tally| {
        let moment = &history.moments[*at];
        let image = moment.fork().crash(Loss::Everything, 0);
        let length = image.contents(&wal).unwrap().len();
        image.rot(&wal, n * length / most % length, |byte| *byte ^= 1 << (n % 8));
        let found = look(runtime, &image, &history, &history.owed(moment), 5_000 + *n as u64);
        let found = match found {
            Err(error) if copying.contains(at) && (error.contains(SAID) || error.contains("does not open")) => {
                told.fetch_add(1, Ordering::SeqCst);
                Ok(Checked::default())
            }
            found => found.map(|(checked, _)| checked),
        };
        tally.take(found, || format!("moment {at}, byte {}", n * length / most));
    });
    println!("{} moments while it was being copied; {} flips then were said", copying.len(), told.into_inner());
    tally.report("a_flip_in_the_write_ahead_log_of_records_db_costs_nothing", seed, history.writes, began);
}

fn is_blob_file(path: &Path) -> bool {
    path.to_string_lossy().contains("/blobs/")
}

#[test]
fn a_blob_file_without_its_record_and_a_record_without_its_file() {
    let seed = seed();
    let history = History::of(seed, 3, 40);
    let known = |moment: &SimDisk| -> Vec<BlobId> {
        let owed = history.owed(moment);
        let introduced = |id: &SessionId| history.story.lives[id].blobs.clone();
        let there = owed.iter().flat_map(|(id, owed)| {
            introduced(id).into_iter().filter(|(seq, _)| *seq <= owed.acknowledged && !owed.removing)
        });
        there.map(|(_, blob)| blob).collect()
    };
    let (mut without_record, mut without_file) = (0, 0);
    for at in (0..history.moments.len()).step_by(3) {
        let moment = &history.moments[at];
        let files: Vec<PathBuf> = moment.files().into_iter().filter(|path| is_blob_file(path)).collect();
        let acknowledged = known(moment);
        let id = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<BlobId>().ok());
        if files.iter().filter_map(id).any(|id| !acknowledged.contains(&id)) && without_record < 12 {
            // The file is there, its record is not, or not yet acknowledged.
            let image = moment.fork().crash(Loss::Nothing, 0);
            let found = look(&runtime(), &image, &history, &history.owed(moment), at as u64);
            found.unwrap_or_else(|error| panic!("moment {at}: {error}"));
            without_record += 1;
        }
        if let Some(path) = files.iter().find(|path| id(path).is_some_and(|id| acknowledged.contains(&id)))
            && without_file < 12
        {
            let image = moment.fork().crash(Loss::Everything, 0);
            image.remove(path).unwrap();
            let session: SessionId = path.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
            let log = open(&image, history.kept, at as u64).unwrap();
            runtime().block_on(async {
                let missing = log.blob(session, id(path).unwrap()).await;
                assert!(matches!(missing, Err(LogError::NotFound | LogError::Corrupt(_))), "{missing:?}");
                // The others are as they were.
                let mut owed = history.owed(moment);
                owed.remove(&session);
                check(&log, &history.story, &owed).await.unwrap_or_else(|error| panic!("moment {at}: {error}"));
                let head = log.head(session).await.unwrap().unwrap();
                assert!(head.seq.0 >= history.owed(moment)[&session].acknowledged);
            });
            let log = Arc::new(log);
            let keep = swarmkeep::Swarmkeep::over_embedded(
                log,
                swarmkeep::Settings::default(),
                Fixed::new(at as u64),
                Fixed::new(at as u64),
            );
            runtime().block_on(async {
                let report = keep.await.unwrap().verify(Some(session), |_| {}).await.unwrap();
                assert!(report.findings.iter().any(|finding| finding.place == "blob"), "{:?}", report.findings);
            });
            without_file += 1;
        }
    }
    println!(
        "{without_record} moments with a file that no record names, {without_file} with a record without its file"
    );
    assert!(without_record > 3 && without_file > 3);
}

#[test]
fn power_lost_between_the_reuse_of_a_segment_and_the_sync_of_its_header() {
    let (began, seed) = (now_ms(), seed());
    // Without second copies segments are reused at once.
    let history = History::of(seed / 2 * 2 + 2, 4, 60);
    assert!(!history.kept);
    let spare = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with("spare-");
    let names =
        |disk: &SimDisk| -> Vec<PathBuf> { disk.files().into_iter().filter(|path| of_the_journal(path)).collect() };
    let spares = |disk: &SimDisk| -> Vec<Option<Vec<u8>>> {
        names(disk).iter().filter(|path| spare(path)).map(|path| disk.contents(path)).collect()
    };
    let mut jobs = Vec::new();
    let mut reused = 0;
    for at in 1..history.moments.len() {
        let (before, now) = (&history.moments[at - 1], &history.moments[at]);
        // A segment was renamed to a spare, or a spare got its header, or its new name: and nothing of it may be durable.
        let turns = names(before) != names(now) || spares(before) != spares(now);
        if turns {
            reused += 1;
            jobs.extend(Loss::ALL.iter().flat_map(|loss| (0..2).map(move |n| (at, *loss, n))));
        }
    }
    assert!(reused > 10, "{reused} moments");
    let every = jobs.len().div_ceil(images(800));
    let jobs: Vec<_> = jobs.into_iter().step_by(every).collect();
    let tally = spread(&jobs, |runtime, (at, loss, n), tally| {
        let moment = &history.moments[*at];
        let image = moment.fork().crash(*loss, *at as u64 * 10 + n);
        let found = look(runtime, &image, &history, &history.owed(moment), 2_000 + *at as u64);
        tally.take(found.map(|(checked, _)| checked), || format!("moment {at}, {loss:?}, {n}"));
    });
    println!("{reused} moments with a segment on its way to be used again");
    tally.report("power_lost_between_the_reuse_of_a_segment_and_the_sync_of_its_header", seed, history.writes, began);
}

/// A session that is made, gets a large blob, and is removed; and again under the same name.
struct Namesake {
    session: Option<Session>,
    id: SessionId,
    fixed: Arc<Fixed>,
}

/// What stands of the newest session of that name.
#[derive(Debug, Clone)]
struct Stands {
    hash: Hash,
    seq: u64,
    blob: Option<BlobId>,
}

impl Namesake {
    fn new(fixed: Arc<Fixed>) -> Self {
        let name = SessionName::new("test", "again").unwrap();
        Self { session: None, id: name.id(), fixed }
    }

    async fn make(&mut self, log: &EmbeddedLog) -> Stands {
        let now_ms = self.fixed.now_ms.fetch_add(1_000, Ordering::SeqCst);
        let mut salts = || u128::from(now_ms).to_le_bytes();
        let circumstances = Circumstances { epoch: Epoch(log.incarnation()), now_ms, salts: &mut salts };
        let new = NewSession::new(SessionName::new("test", "again").unwrap());
        let (session, group) = session::create(new, &testing::actor(), circumstances).unwrap();
        self.session = Some(session);
        log.append(group.log.clone(), Durability::Durable).await.unwrap();
        Stands { hash: group.state.head.hash, seq: group.state.head.seq.0, blob: None }
    }

    async fn blob(&mut self, log: &EmbeddedLog) -> Stands {
        let now_ms = self.fixed.now_ms.fetch_add(1_000, Ordering::SeqCst);
        let mut content = vec![0; 66_000];
        blake3::Hasher::new().update(&now_ms.to_le_bytes()).finalize_xof().fill(&mut content);
        let blob = Blob::new(Bytes::from(content));
        let command = Command::Record {
            kind: "blob".into(),
            aggregate: None,
            payload: Json::null(),
            blobs: BTreeMap::from([("it".to_owned(), blob.id)]),
        };
        let mut request = Request::new(testing::actor(), vec![command]);
        let id = blob.id;
        request.blobs.push(blob);
        let mut salts = || u128::from(now_ms).to_le_bytes();
        let circumstances = Circumstances { epoch: Epoch(log.incarnation()), now_ms, salts: &mut salts };
        let Ok(Staged::Group(group)) = self.session.as_mut().unwrap().stage(request, circumstances) else { panic!() };
        log.append(group.log.clone(), Durability::Durable).await.unwrap();
        Stands { hash: group.state.head.hash, seq: group.state.head.seq.0, blob: Some(id) }
    }
}

/// What was acknowledged of the newest session of the name stands.
async fn stands(log: &EmbeddedLog, id: SessionId, stands: &Stands) -> Result<Checked, String> {
    let head = log.head(id).await.map_err(|error| format!("head: {error:?}"))?.ok_or("it is gone")?;
    if head.seq.0 < stands.seq {
        return Err(format!("LOST: it ends at {}", head.seq));
    }
    if head.seq.0 == stands.seq && head.hash != stands.hash {
        return Err("it is another session".into());
    }
    if let Some(blob) = stands.blob {
        let bytes = log.blob(id, blob).await.map_err(|error| format!("its blob: {error:?}"))?;
        if blake3::hash(&bytes).as_bytes() != &blob.0 {
            return Err("its blob is another one".into());
        }
    }
    Ok(Checked { acknowledged: 1, blobs: u64::from(stands.blob.is_some()), ..Checked::default() })
}

#[test]
fn the_blobs_of_a_name_made_again_stay_through_every_crash_of_the_replay() {
    let began = now_ms();
    let disk = SimDisk::new();
    disk.create_dir(Path::new(STORE)).unwrap();
    disk.keep_moments();
    let fixed = Fixed::new(3);
    let mut namesake = Namesake::new(fixed.clone());
    let (id, mut facts): (SessionId, Vec<Option<Stands>>) = (namesake.id, vec![None]);
    runtime().block_on(async {
        let log = open_by(&disk, false, fixed.clone()).unwrap();
        let mut note = |stands: Option<Stands>| {
            facts.push(stands);
            disk.note(facts.len() as u64 - 1);
        };
        for round in 0..3 {
            note(Some(namesake.make(&log).await));
            note(Some(namesake.blob(&log).await));
            if round < 2 {
                // From the moment that the removal is asked for, either may be found.
                note(None);
                log.remove(id, Epoch(log.incarnation()), Remove::All).await.unwrap();
            }
        }
    });
    let moments = disk.moments();
    // What was asked for and not acknowledged may be there: the next fact of the same life is no loss.
    let jobs: Vec<(usize, Loss)> = (0..moments.len()).flat_map(|at| Loss::ALL.map(|loss| (at, loss))).collect();
    let every = jobs.len().div_ceil(images(600)).max(1);
    let jobs: Vec<_> = jobs.into_iter().step_by(every).collect();
    let tally = spread(&jobs, |runtime, (at, loss), tally| {
        let Some(Some(wanted)) = facts.get(usize::try_from(moments[*at].noted()).unwrap()) else { return };
        let image = moments[*at].fork().crash(*loss, *at as u64);
        image.keep_moments();
        let name = format!("moment {at}, {loss:?}");
        let opened = open(&image, false, 40 + *at as u64).map_err(|error| format!("{error:?}"));
        let found = match &opened {
            Ok(log) => runtime.block_on(async {
                log.replayed().await;
                stands(log, id, wanted).await
            }),
            Err(error) => Err(error.clone()),
        };
        tally.take(found, || name.clone());
        let replay = image.moments();
        let _ = image.kill();
        drop(opened);
        // And the replay crashed in between.
        for nth in 1..=4 {
            let then = nth * (replay.len() - 1) / 4;
            let again = replay[then].fork().crash(*loss, nth as u64);
            let found = open(&again, false, 900 + nth as u64).map_err(|error| format!("{error:?}")).and_then(|log| {
                let found = runtime.block_on(async {
                    log.replayed().await;
                    stands(&log, id, wanted).await
                });
                let _ = again.kill();
                found
            });
            tally.take(found, || format!("{name}, then moment {then} of the replay"));
        }
    });
    tally.report("the_blobs_of_a_name_made_again_stay_through_every_crash_of_the_replay", 3, facts.len() as u64, began);
    assert!(tally.trials >= jobs.len() as u64, "{}", tally.trials);
}

#[test]
fn what_a_stale_page_cache_shows_after_a_failed_sync_is_not_served_and_then_lost() {
    let (began, seed) = (now_ms(), seed());
    let most = images(120) as u64;
    let syncs = {
        let mut clean = Work::new(SimDisk::new(), seed);
        runtime().block_on(clean.run(2, 14)).unwrap();
        clean.disk.calls_of(Call::Sync)
    };
    let failures = [Failure::SyncMarksClean, Failure::SyncDrops, Failure::Eio];
    let mut jobs: Vec<(u64, Failure)> = (1..=syncs).flat_map(|nth| failures.map(|failure| (nth, failure))).collect();
    let every = (jobs.len() as u64).div_ceil(most).max(1);
    // Prime to the number of kinds.
    let every = if every.is_multiple_of(3) { every + 1 } else { every };
    jobs = jobs.into_iter().step_by(usize::try_from(every).unwrap()).collect();
    let tally = spread(&jobs, |runtime, (nth, failure), tally| {
        let mut work = Work::new(SimDisk::new(), seed);
        let (disk, kept) = (work.disk.clone(), work.kept);
        disk.fail(Fault { call: Some(Call::Sync), nth: *nth, sticky: false, failure: *failure });
        let _ = runtime.block_on(work.run(2, 14));
        drop(work.take_log());
        // The process dies, the cache stays warm: what it shows may never have been written.
        let warm = disk.kill();
        let mut owed = work.story.owed(work.story.facts.len());
        let outcome = (|| {
            let log = open(&warm, kept, seed + nth).map_err(|error| format!("warm: {error:?}"))?;
            let (mut checked, served) =
                runtime.block_on(check(&log, &work.story, &owed)).map_err(|error| format!("warm: {error}"))?;
            for (id, seq) in served {
                let owed = owed.get_mut(&id).unwrap();
                owed.acknowledged = owed.acknowledged.max(seq);
            }
            // What was served is owed from now on, and then the power goes.
            let cold = warm.crash(Loss::Nothing, *nth);
            drop(log);
            let log = open(&cold, kept, seed + nth + 1).map_err(|error| format!("cold: {error:?}"))?;
            let found = runtime.block_on(check(&log, &work.story, &owed)).map_err(|error| format!("cold: {error}"));
            let _ = cold.kill();
            checked += found?.0;
            Ok(checked)
        })();
        tally.take(outcome, || format!("sync {nth}, {failure:?}"));
    });
    tally.report("what_a_stale_page_cache_shows_after_a_failed_sync_is_not_served_and_then_lost", seed, 0, began);
}
