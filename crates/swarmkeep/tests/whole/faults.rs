//! An error at every call to the disk, once and for good.

use swarmkeep::disk::simulated::{Failure, Fault, Loss, SimDisk};

use super::{
    check::{Checked, SAID, check},
    figures::{images, now_ms, runtime, seed, spread},
    work::Work,
    world::{Fact, open},
};

const FAILURES: [Failure; 5] =
    [Failure::Eio, Failure::Enospc, Failure::Short, Failure::SyncMarksClean, Failure::SyncDrops];

const OPENS: usize = 2;
const STEPS: usize = 14;

fn work(seed: u64) -> Work {
    Work::new(SimDisk::new(), seed)
}

/// Runs the history with one fault; then the store, still open, gives no wrong answer; and opened again, with the fault gone,
/// it has everything that was acknowledged, from a warm cache and after loss of power.
pub fn with(runtime: &tokio::runtime::Runtime, seed: u64, fault: Fault, looks: usize) -> Result<Checked, String> {
    let mut work = work(seed);
    let nth = fault.nth;
    work.disk.fail(fault);
    work.disk.keep_moments();
    let stopped = runtime.block_on(work.run(OPENS, STEPS));
    let moments = work.disk.moments();
    let owed = work.story.owed(work.story.facts.len());
    let mut checked = Checked::default();
    if let Some(log) = work.take_log() {
        match runtime.block_on(check(&log, &work.story, &owed)) {
            Ok((found, _)) => checked += found,
            Err(error) if error.contains(SAID) => {}
            Err(error) => return Err(format!("after {stopped:?}, still open: {error}")),
        }
    }
    // Loss of power at moments of that life, most of them after the fault.
    for at in (1..=looks).map(|nth| nth * (moments.len() - 1) / looks) {
        let image = moments[at].fork().crash(Loss::Nothing, nth);
        let owed = work.story.owed(usize::try_from(moments[at].noted()).unwrap());
        let log = open(&image, work.kept, seed + nth);
        let log = log.map_err(|error| format!("moment {at}: it does not open: {error:?}"))?;
        let found = runtime.block_on(check(&log, &work.story, &owed));
        let _ = image.kill();
        checked += found.map_err(|error| format!("moment {at}: {error}"))?.0;
    }
    let disk = work.disk.kill();
    let cold = disk.fork().crash(Loss::Nothing, nth);
    for (disk, what) in [(disk, "warm"), (cold, "after loss of power")] {
        let log = open(&disk, work.kept, seed + nth).map_err(|error| format!("{what}: it does not open: {error:?}"))?;
        let found = runtime.block_on(check(&log, &work.story, &owed));
        let _ = disk.kill();
        checked += found.map_err(|error| format!("{what}, after {stopped:?}: {error}"))?.0;
    }
    Ok(checked)
}

#[test]
fn an_error_at_every_call_of_the_whole_store_loses_nothing_acknowledged() {
    let (began, seed) = (now_ms(), seed());
    let mut clean = work(seed);
    runtime().block_on(clean.run(OPENS, STEPS)).unwrap();
    let calls = clean.disk.calls();
    let writes = clean.story.facts.iter().filter(|fact| matches!(fact, Fact::Acknowledged(..))).count() as u64;
    let mut jobs = Vec::new();
    for nth in 1..=calls {
        for failure in FAILURES {
            jobs.extend([false, true].map(|sticky| (nth, failure, sticky)));
        }
    }
    let every = jobs.len().div_ceil(images(160).min(jobs.len()));
    // Prime to the number of kinds, so that every kind has its turn.
    let every = if every.is_multiple_of(2) || every.is_multiple_of(5) { every + 1 } else { every };
    let every = if every.is_multiple_of(5) { every + 2 } else { every };
    let jobs: Vec<_> = jobs.into_iter().step_by(every).collect();
    let tally = spread(&jobs, |runtime, (nth, failure, sticky), tally| {
        let outcome = with(runtime, seed, Fault { call: None, nth: *nth, sticky: *sticky, failure: *failure }, 3);
        tally.take(outcome, || format!("call {nth} of {calls}, {failure:?}, sticky {sticky}"));
    });
    tally.report("an_error_at_every_call_of_the_whole_store_loses_nothing_acknowledged", seed, writes, began);
}
