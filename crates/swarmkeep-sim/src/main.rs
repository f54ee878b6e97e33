//! `swarmkeep-sim --seed N [--trace]`, `swarmkeep-sim --seeds A..B [--jobs N]`: worlds, each in one thread, as many at a
//! time as there are cores.

use std::{
    io::Write,
    panic,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use swarmkeep::{SystemClock, core::clock::Clock};
use swarmkeep_sim::{Ended, Summary, run};

const USAGE: &str = "swarmkeep-sim --seed N [--trace] | --seeds A..B [--jobs N]";
/// From one line of progress to the next, in milliseconds.
const PROGRESS_MS: u64 = 5_000;

/// What is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    seeds: std::ops::Range<u64>,
    trace: bool,
    jobs: usize,
}

impl Options {
    fn parse(words: &[String]) -> Option<Self> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Self { seeds: 0..0, trace: false, jobs };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--trace" => options.trace = true,
                "--seed" => {
                    let seed: u64 = words.next()?.parse().ok()?;
                    options.seeds = seed..seed.checked_add(1)?;
                }
                "--seeds" => {
                    let (first, end) = words.next()?.split_once("..")?;
                    options.seeds = first.parse().ok()?..end.parse().ok()?;
                }
                "--jobs" => options.jobs = words.next()?.parse().ok()?,
                _ => return None,
            }
        }
        (!options.seeds.is_empty() && options.jobs > 0).then_some(options)
    }
}

/// A world; one that panics is a broken one.
fn world(seed: u64, trace: bool) -> Result<Ended, String> {
    panic::catch_unwind(|| run(seed, trace)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panic: {}", text.unwrap_or("without a word"))
    })
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = Options::parse(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let clock = SystemClock::new();
    let next = AtomicU64::new(options.seeds.start);
    let summary = Mutex::new((Summary::default(), 0));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= options.seeds.end {
                        return;
                    }
                    let ended = world(seed, options.trace);
                    let mut guard = summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let (summary, said_ms) = &mut *guard;
                    take(summary, seed, ended, options.trace);
                    let now_ms = clock.monotonic_ms();
                    if now_ms >= *said_ms + PROGRESS_MS {
                        *said_ms = now_ms;
                        eprintln!(
                            "{} of {}: {}",
                            summary.seeds,
                            options.seeds.end - options.seeds.start,
                            summary.line(now_ms)
                        );
                    }
                }
            });
        }
    });
    let (summary, _) = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ms = clock.monotonic_ms();
    println!("{}", summary.line(ms));
    if let Ok(path) = std::env::var("SWARMKEEP_DISK_FIGURES") {
        let line = summary.json(options.seeds.start, ms);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("{path}: {error}");
            return ExitCode::from(3);
        }
    }
    if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(4) }
}

fn take(summary: &mut Summary, seed: u64, ended: Result<Ended, String>, trace: bool) {
    summary.seeds += 1;
    let failed = match ended {
        Ok(ended) => {
            summary.figures += ended.figures;
            ended.lines.iter().for_each(|line| println!("{line}"));
            if trace {
                println!("trace {}", ended.trace.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            }
            ended.failed
        }
        Err(panic) => Some(panic),
    };
    if let Some(failed) = failed {
        println!("seed {seed} FAILED: {failed}\n  again: cargo run -p swarmkeep-sim -- --seed {seed} --trace");
        summary.failed.push((seed, failed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let parse = |words: &str| Options::parse(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse("--seed 7 --trace --jobs 1"), Some(Options { seeds: 7..8, trace: true, jobs: 1 }));
        assert_eq!(parse("--seeds 1..2001 --jobs 2"), Some(Options { seeds: 1..2001, trace: false, jobs: 2 }));
        for wrong in ["", "--seed", "--seed x", "--seeds 5..5", "--seeds 5", "--seed 1 --jobs 0", "--what"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
