//! What a test did, said in one line for people and one for the report.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
};

use swarmkeep_core::clock::Clock;

use super::check::Checked;

/// A number from the environment.
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The seed of the history.
pub fn seed() -> u64 {
    number("SWARMKEEP_DISK_SEED", 1)
}

/// How many images, faults or corruptions a test tries.
pub fn images(otherwise: u64) -> usize {
    let images = number("SWARMKEEP_DISK_IMAGES", otherwise);
    usize::try_from(images).unwrap_or(usize::MAX)
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// One whose time passes only when nothing else can happen: for stores without threads.
pub fn idle_clock() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// What came of a number of trials.
#[derive(Debug, Default)]
pub struct Tally {
    /// Histories that the trials were made of.
    pub histories: u64,
    /// Writes that were acknowledged in them, each counted once.
    pub writes: u64,
    pub trials: u64,
    /// Trials that another one had been equal to, byte for byte: not opened again.
    pub repeated: u64,
    pub checked: Checked,
    pub failed: Vec<String>,
    /// The seed that leads to the first of them.
    pub failed_seed: Option<u64>,
    /// Calls that were made to fail, by kind and file.
    pub struck: BTreeMap<String, u64>,
}

impl Tally {
    pub fn take(&mut self, outcome: Result<Checked, String>, name: impl FnOnce() -> String) {
        self.trials += 1;
        match outcome {
            Ok(checked) => self.checked += checked,
            Err(error) => self.failed.push(format!("{}: {error}", name())),
        }
    }

    fn join(&mut self, other: Self) {
        self.histories += other.histories;
        self.writes += other.writes;
        self.trials += other.trials;
        self.repeated += other.repeated;
        self.checked += other.checked;
        self.failed.extend(other.failed);
        self.failed_seed = self.failed_seed.or(other.failed_seed);
        for (kind, count) in other.struck {
            *self.struck.entry(kind).or_default() += count;
        }
    }

    /// Prints it, and fails the test if a trial failed. `writes`: acknowledged in a history that all trials share.
    pub fn report(&self, test: &str, seed: u64, writes: u64, began_ms: u64) {
        self.say(test, seed, writes, began_ms);
        for failed in self.failed.iter().take(10) {
            println!("  {failed}");
        }
        assert!(
            self.failed.is_empty(),
            "{} of {} trials failed; again: SWARMKEEP_DISK_SEED={} cargo test -p swarmkeep --test whole {test} -- --nocapture",
            self.failed.len(),
            self.trials,
            self.failed_seed.unwrap_or(seed)
        );
    }

    pub fn say(&self, test: &str, seed: u64, writes: u64, began_ms: u64) {
        let ms = now_ms().saturating_sub(began_ms);
        let (histories, writes) = (self.histories.max(1), self.writes + writes);
        let Self { trials, repeated, checked, failed, struck, .. } = self;
        println!(
            "{test}: {histories} histories from seed {seed}, {writes} acknowledged writes, {trials} trials ({repeated} more \
             were equal to one of them), {} checks of acknowledged records, {} of states, {} of blobs, {} warm, {} failed, {ms} ms",
            checked.acknowledged,
            checked.states,
            checked.blobs,
            checked.warm,
            failed.len()
        );
        if !struck.is_empty() {
            println!("  calls that failed: {struck:?}");
        }
        let Ok(path) = std::env::var("SWARMKEEP_DISK_FIGURES") else { return };
        let line = serde_json::json!({
            "test": test, "seed": seed, "histories": histories, "writes": writes, "trials": trials, "repeated": repeated,
            "checks": checked.acknowledged, "states": checked.states, "blobs": checked.blobs, "warm": checked.warm,
            "failed": failed.len(), "ms": ms, "struck": struck,
        });
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

pub fn now_ms() -> u64 {
    swarmkeep::SystemClock::new().now_ms()
}

/// Makes `total` trials, and a few more, out of as many histories as that takes, seed after seed. `work` is told its seed and
/// how many trials are wanted of it at most; what it makes fewer, later seeds make up for. Its runtime is of `make`.
pub fn over_seeds(
    make: fn() -> tokio::runtime::Runtime,
    seed: u64,
    total: u64,
    of_one: u64,
    work: impl Fn(&tokio::runtime::Runtime, u64, usize, &mut Tally) + Sync,
) -> Tally {
    let mut all = Tally::default();
    while all.trials < total && all.failed.is_empty() {
        let left = total - all.trials;
        let seeds: Vec<u64> = (seed + all.histories..).take(usize::try_from(left.div_ceil(of_one)).unwrap()).collect();
        let most = usize::try_from(of_one.min(left)).unwrap();
        all.join(spread_on(make, &seeds, |runtime, &seed, tally| {
            if tally.failed.is_empty() {
                tally.histories += 1;
                work(runtime, seed, most, tally);
                if !tally.failed.is_empty() {
                    tally.failed_seed = Some(seed);
                }
            }
        }));
    }
    all
}

/// Does the jobs on every core, each worker with a runtime of its own.
pub fn spread<J: Sync>(jobs: &[J], work: impl Fn(&tokio::runtime::Runtime, &J, &mut Tally) + Sync) -> Tally {
    spread_on(runtime, jobs, work)
}

fn spread_on<J: Sync>(
    make: fn() -> tokio::runtime::Runtime,
    jobs: &[J],
    work: impl Fn(&tokio::runtime::Runtime, &J, &mut Tally) + Sync,
) -> Tally {
    let next = AtomicUsize::new(0);
    // Several for each core: a history waits now and then for a thread of the store, most of all on a disk that fails.
    let workers = 4 * std::thread::available_parallelism().map_or(2, usize::from);
    let mut all = Tally::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let runtime = make();
                    let mut tally = Tally::default();
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        work(&runtime, job, &mut tally);
                    }
                    tally
                })
            })
            .collect();
        for worker in running {
            all.join(worker.join().unwrap());
        }
    });
    all
}
