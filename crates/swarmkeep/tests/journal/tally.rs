//! What tests of the journal did, said in one line for people and one for the report.

use std::{
    collections::BTreeMap,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use swarmkeep_core::clock::Clock;

use super::history::said;

/// What came of a number of histories.
#[derive(Debug, Default)]
pub struct Tally {
    pub histories: u64,
    /// Groups that were sent in them, each counted once.
    pub writes: u64,
    pub trials: u64,
    /// How often an acknowledged group was looked for in a journal.
    pub checks: u64,
    /// Stores opened through a cache that a dead process had left warm.
    pub warm: u64,
    /// Calls that were made to fail, by kind.
    pub struck: BTreeMap<String, u64>,
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Makes trials out of one seed after the other, on every core, until there are as many as `SWARMKEEP_DISK_IMAGES` says.
pub fn over_seeds(test: &str, otherwise: u64, work: impl Fn(u64, &mut Tally) + Sync) {
    let clock = swarmkeep::SystemClock::new();
    let began_ms = clock.now_ms();
    let (first, most) = (number("SWARMKEEP_DISK_SEED", 1), number("SWARMKEEP_DISK_IMAGES", otherwise));
    let (next, all, failed) = (AtomicU64::new(first), Mutex::new(Tally::default()), Mutex::new(None));
    let one = || {
        while failed.lock().unwrap().is_none() && all.lock().unwrap().trials < most {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let mut tally = Tally::default();
            if catch_unwind(AssertUnwindSafe(|| work(seed, &mut tally))).is_err() {
                failed.lock().unwrap().get_or_insert(seed);
            }
            let mut all = all.lock().unwrap();
            all.histories += 1;
            all.writes += tally.writes;
            all.trials += tally.trials;
            all.checks += tally.checks;
            all.warm += tally.warm;
            for (kind, count) in tally.struck {
                *all.struck.entry(kind).or_default() += count;
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(one))));
    let (all, failed) = (all.into_inner().unwrap(), failed.into_inner().unwrap());
    let ms = clock.now_ms().saturating_sub(began_ms);
    let Tally { histories, writes, trials, checks, warm, struck } = all;
    println!(
        "{test}: {histories} histories from seed {first}, {writes} acknowledged writes, {trials} trials, {checks} checks of \
         acknowledged groups, {warm} warm, {} failed, {ms} ms",
        u64::from(failed.is_some())
    );
    if !struck.is_empty() {
        println!("calls that failed: {}", said(&struck));
    }
    if let Ok(path) = std::env::var("SWARMKEEP_DISK_FIGURES") {
        let line = serde_json::json!({
            "test": test, "seed": first, "histories": histories, "writes": writes, "trials": trials, "checks": checks,
            "warm": warm, "failed": u64::from(failed.is_some()), "ms": ms, "struck": struck,
        });
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }
    if let Some(seed) = failed {
        panic!("again: SWARMKEEP_DISK_SEED={seed} cargo test -p swarmkeep --test journal {test} -- --nocapture");
    }
}
