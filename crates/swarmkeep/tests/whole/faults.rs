//! An error at every call to the disk, once and for good.

use std::{collections::BTreeMap, ffi::OsStr, path::Path};

use swarmkeep::disk::simulated::{Failure, Fault, Loss, SimDisk};
use tokio::runtime::Runtime;

use super::{
    check::{Checked, SAID, Served, check},
    figures::{idle_clock, images, now_ms, over_seeds, seed},
    work::Work,
    world::{Story, driven, open_by_hand},
};

const FAILURES: [Failure; 5] =
    [Failure::Eio, Failure::Enospc, Failure::Short, Failure::SyncMarksClean, Failure::SyncDrops];

const OPENS: usize = 2;
const STEPS: usize = 14;
/// Every history is gone through in so many turns, of one seed each: after all of them every call had every failure.
const TURNS: u64 = 9;
/// About the trials of one turn.
const TRIALS_OF_ONE: u64 = 1_800;

/// Opens the store on a disk whose faults are gone, and looks for what is owed when so many facts were written down. Gives
/// the reading of the story that it bears out.
fn look(
    runtime: &Runtime,
    disk: &SimDisk,
    kept: bool,
    readings: Vec<Story>,
    seed: u64,
) -> Result<(Checked, Served, Story), String> {
    let log = open_by_hand(disk, kept, seed).map_err(|error| format!("it does not open: {error:?}"))?;
    let mut last = Err("there is no reading".to_owned());
    for story in readings.into_iter().rev() {
        last = runtime.block_on(driven(&log, check(&log, &story, &story.owed(story.facts.len()))));
        if let Ok((checked, served)) = last {
            let _ = disk.kill();
            return Ok((checked, served, story));
        }
    }
    let _ = disk.kill();
    last.map(|(checked, served)| (checked, served, Story::default()))
}

/// What must hold of a store that met errors and is still open: no wrong answer, though it may say that it has none; and of
/// the same store opened through the cache that it leaves, of that one after loss of power, and after loss of power at once.
pub fn aftermath(runtime: &Runtime, mut work: Work, killed: bool, seed: u64) -> Result<Checked, String> {
    if let Some(wrong) = work.wrong.take() {
        return Err(wrong);
    }
    let facts = work.story.facts.len();
    let mut checked = Checked::default();
    if let Some(log) = work.take_log() {
        match runtime.block_on(driven(&log, check(&log, &work.story, &work.story.owed(facts)))) {
            Ok((found, _)) => checked += found,
            Err(error) if error.contains(SAID) => {}
            Err(error) => return Err(format!("still open: {error}")),
        }
        if killed {
            let _ = work.disk.kill();
        }
    }
    let disk = work.disk.kill();
    disk.set_capacity(None);
    let cold = disk.fork().crash(Loss::Nothing, seed);
    let found = look(runtime, &cold, work.kept, work.story.readings(facts), seed);
    checked += found.map_err(|error| format!("after loss of power: {error}"))?.0;
    let found = look(runtime, &disk, work.kept, work.story.readings(facts), seed);
    let (found, served, mut story) = found.map_err(|error| format!("warm: {error}"))?;
    checked += found;
    // What was served out of a warm cache is owed.
    story.serve(&served);
    let cold = disk.crash(Loss::Nothing, seed);
    let (found, ..) = look(runtime, &cold, work.kept, vec![story], seed + 1)
        .map_err(|error| format!("served from a warm cache, then loss of power: {error}"))?;
    checked += Checked { warm: 1, ..found };
    Ok(checked)
}

/// Runs a history with one fault, and looks at the store then: see [`aftermath`]; and at `looks` moments of that life, most
/// of them after the fault, as power lost there leaves it.
pub fn with(
    runtime: &Runtime,
    seed: u64,
    fault: Fault,
    looks: usize,
    struck: &mut BTreeMap<String, u64>,
) -> Result<Checked, String> {
    let mut work = Work::by_hand(SimDisk::new(), seed);
    let nth = fault.nth;
    work.persists = true;
    work.disk.fail(fault);
    work.disk.keep_moments();
    let stopped = runtime.block_on(work.run(OPENS, STEPS));
    let moments = work.disk.moments();
    for ((call, path), count) in work.disk.struck() {
        *struck.entry(format!("{call:?} {}", kind(&path))).or_default() += count;
    }
    let mut checked = Checked::default();
    for at in (1..=looks).map(|nth| nth * (moments.len() - 1) / looks) {
        let image = moments[at].fork().crash(Loss::Nothing, nth);
        let facts = usize::try_from(moments[at].noted()).unwrap();
        let found = look(runtime, &image, work.kept, work.story.readings(facts), seed + nth);
        checked += found.map_err(|error| format!("moment {at}: {error}"))?.0;
    }
    let found = aftermath(runtime, work, nth % 2 == 1, seed + nth);
    checked += found.map_err(|error| format!("after {stopped:?}: {error}"))?;
    Ok(checked)
}

/// What a file of a store is, without its number.
fn kind(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    match (folder, path.extension().and_then(OsStr::to_str)) {
        ("store", _) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        (folder, Some(extension)) => format!("{folder}/*.{extension}"),
        (folder, None) => format!("{folder}/*"),
    }
}

#[test]
fn an_error_at_every_call_of_the_whole_store_loses_nothing_acknowledged() {
    let (began, seed) = (now_ms(), seed());
    let tally = over_seeds(idle_clock, seed, images(160) as u64, TRIALS_OF_ONE, |runtime, turn, most, tally| {
        let seed = turn / TURNS;
        let mut clean = Work::by_hand(SimDisk::new(), seed);
        runtime.block_on(clean.run(OPENS, STEPS)).unwrap();
        tally.writes += clean.writes;
        let calls = clean.disk.calls();
        let mut jobs = Vec::new();
        for nth in 1..=calls {
            for failure in FAILURES {
                jobs.extend([false, true].map(|sticky| (nth, failure, sticky)));
            }
        }
        // Prime to the number of kinds, so that every kind has its turn.
        let mut every = TURNS as usize;
        while jobs.len() / every > 2 * most {
            every += 10;
        }
        let first = usize::try_from(turn % TURNS).unwrap();
        for (nth, failure, sticky) in jobs.into_iter().skip(first).step_by(every) {
            let fault = Fault { call: None, nth, sticky, failure };
            let outcome = with(runtime, seed, fault, 1, &mut tally.struck);
            tally.take(outcome, || format!("history {seed}, call {nth} of {calls}, {failure:?}, sticky {sticky}"));
        }
    });
    tally.report("an_error_at_every_call_of_the_whole_store_loses_nothing_acknowledged", seed, 0, began);
}
