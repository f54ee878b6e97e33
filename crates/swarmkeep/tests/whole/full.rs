//! A disk that is full, at every size in steps of 4 KiB.

use swarmkeep::disk::simulated::SimDisk;
use tokio::runtime::Runtime;

use super::{
    check::{Checked, SAID, check},
    faults::aftermath,
    figures::{idle_clock, images, now_ms, over_seeds, seed},
    work::Work,
    world::driven,
};

const STEP_BYTES: u64 = 4096;
const OPENS: usize = 2;
const STEPS: usize = 30;
/// Every history is gone through in so many turns, of one seed each: after all of them every size was tried.
const TURNS: u64 = 16;
/// About the sizes of one turn.
const SIZES_OF_ONE: u64 = 16;

/// A history on a disk of so many bytes, then room: nothing acknowledged is lost, no answer is wrong while the disk is full,
/// and the store takes writes again by itself.
fn with(runtime: &Runtime, seed: u64, bytes: u64) -> Result<Checked, String> {
    let mut work = Work::by_hand(SimDisk::new(), seed);
    work.persists = true;
    work.disk.set_capacity(Some(bytes));
    let stopped = runtime.block_on(work.run(OPENS, STEPS));
    let said = |error: String| format!("after {stopped:?}: {error}");
    let mut checked = Checked::default();
    if let Some(log) = work.log() {
        let owed = work.story.owed(work.story.facts.len());
        match runtime.block_on(driven(log, check(log, &work.story, &owed))) {
            Ok((found, _)) => checked += found,
            Err(error) if error.contains(SAID) => {}
            Err(error) => return Err(said(format!("full: {error}"))),
        }
    }
    work.disk.set_capacity(None);
    if work.log().is_none() {
        runtime.block_on(work.open()).map_err(|error| said(format!("with room it does not open: {error}")))?;
    }
    if !runtime.block_on(work.takes_writes()) {
        return Err(said("it takes no writes, though there is room".into()));
    }
    checked += aftermath(runtime, work, bytes / STEP_BYTES % 2 == 1, seed).map_err(said)?;
    Ok(checked)
}

#[test]
fn a_disk_full_at_every_size_loses_nothing_acknowledged_and_takes_writes_again() {
    let (began, seed) = (now_ms(), seed());
    let tally = over_seeds(idle_clock, seed, images(60) as u64, SIZES_OF_ONE, |runtime, turn, most, tally| {
        let seed = turn / TURNS;
        let mut clean = Work::by_hand(SimDisk::new(), seed);
        clean.persists = true;
        runtime.block_on(clean.run(OPENS, STEPS)).unwrap();
        tally.writes += clean.writes;
        let sizes = clean.most_bytes / STEP_BYTES;
        for size in (1..=sizes).filter(|size| size % TURNS == turn % TURNS).take(most) {
            let outcome = with(runtime, seed, size * STEP_BYTES);
            tally.take(outcome, || format!("history {seed}, {size} of {sizes} times 4 KiB"));
        }
    });
    tally.report("a_disk_full_at_every_size_loses_nothing_acknowledged_and_takes_writes_again", seed, 0, began);
}
