//! A search for races: commit, spares, retirement and second copies, applier, feeds. The log's own code runs on the locks
//! of a scheduler that lets one thread go on at a time and draws which (by chance, and by priorities that change at a few
//! places); every schedule is a whole life of a journal or a store, with writers, readers, failed syncs and loss of power.
//!
//! `cargo test -p swarmkeep --features race --test race`; `SWARMKEEP_RACE_SEEDS=FIRST..END` runs other seeds, or the one
//! that failed. A seed is [`SCHEDULES`] schedules of the journal, [`SCHEDULES_OF_STORE`] of a whole store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod commit;
mod handover;
#[path = "../journal/kit.rs"]
#[allow(dead_code, reason = "made for other tests too")]
mod kit;
mod yielding;

use std::{io::Write, ops::Range, panic::AssertUnwindSafe, process::Command};

use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    rand::{Rng, thread_rng},
    scheduler::{PctScheduler, RandomScheduler},
};
use swarmkeep::planted::Defect;

/// Schedules of one seed.
const SCHEDULES: usize = 100;
/// Of the whole store, which takes longer: it opens databases.
const SCHEDULES_OF_STORE: usize = 10;
/// Seeds that are run when nothing else is asked for.
const SEEDS: Range<u64> = 1..41;
/// Places at which priorities change, in every other seed.
const CHANGES: usize = 4;
/// A schedule that takes more steps goes round for ever.
const STEPS: usize = 400_000;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("SWARMKEEP_RACE_SEEDS") else { return SEEDS };
    let (first, end) = text.split_once("..").expect("SWARMKEEP_RACE_SEEDS is FIRST..END");
    first.parse().expect("a seed")..end.parse().expect("a seed")
}

/// A number below `end`, drawn with the schedule.
fn drawn(end: usize) -> usize {
    thread_rng().gen_range(0..end)
}

/// Lets the others go on for a while, so many steps at most.
fn wait_a_while(steps: usize) {
    (0..drawn(steps)).for_each(|_| shuttle::thread::yield_now());
}

/// The first words of the search's test over the journal.
const JOURNAL: &str = "no_schedule_of_the_journal";

/// Runs a life under every seed; says which one fails.
fn search(name: &str, schedules: usize, life: fn()) {
    let seeds = seeds();
    for seed in seeds.clone() {
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config.max_steps = MaxSteps::FailAfter(STEPS);
        // It models every access as sequentially consistent, and says so each time.
        config.silence_warnings = true;
        config.failure_persistence = FailurePersistence::None;
        let run = AssertUnwindSafe(|| match seed % 2 {
            0 => Runner::new(RandomScheduler::new_from_seed(seed, schedules), config).run(life),
            _ => Runner::new(PctScheduler::new_from_seed(seed, CHANGES, schedules), config).run(life),
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            let again = seed + 1;
            println!(
                "seed {seed} failed; again: SWARMKEEP_RACE_SEEDS={seed}..{again} cargo test -p swarmkeep --features race --test race {name}"
            );
            std::panic::resume_unwind(panic);
        }
        if seed % 100 == 0 {
            println!("{name}: seed {seed} of {}..{}", seeds.start, seeds.end);
            let _ = std::io::stdout().flush();
        }
    }
    let all = (seeds.end - seeds.start) * schedules as u64;
    if let Some(figures) = std::env::var_os("SWARMKEEP_DISK_FIGURES") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(figures).unwrap();
        writeln!(file, r#"{{"test":"race","trials":{all},"failed":0}}"#).unwrap();
    }
    println!("{name}: {all} schedules, seeds {}..{}, 0 failed", seeds.start, seeds.end);
}

#[test]
fn no_schedule_of_the_journal_loses_what_was_acknowledged_or_forgets_to_wake() {
    search(JOURNAL, SCHEDULES, commit::life);
}

#[test]
fn no_schedule_between_journal_databases_and_readers_shows_a_gap_or_forgets_to_wake() {
    search("no_schedule_between", SCHEDULES_OF_STORE, handover::life);
}

/// The same search, unchanged, over code with a defect in it.
#[test]
fn the_search_finds_defects_that_are_planted() {
    for defect in [Defect::AcknowledgedBeforeSync, Defect::SyncSkipped] {
        let mut search = Command::new(std::env::current_exe().unwrap());
        search
            .arg(JOURNAL)
            .env(Defect::VARIABLE, format!("{defect:?}"))
            .env("SWARMKEEP_RACE_SEEDS", "1..11")
            .env("RUST_BACKTRACE", "0");
        let ended = search.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        let found = said.lines().find(|line| line.contains("failed; again")).unwrap_or("nothing");
        println!("{defect:?}: {found}");
        assert!(!ended.status.success() && said.contains("acknowledged"), "{defect:?} was not found: {said}");
    }
}
