//! The tests of the disk: how many images they try in every run, and the long form that goes on for as long as it is told.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    reliability,
    repo::{Repo, cargo},
    stage::{self, Count, Report},
};

/// One test of the disk.
pub(crate) struct Trial {
    /// The test's name, without its module.
    pub(crate) test: &'static str,
    /// Its module, and the file under `crates/swarmkeep/tests` it stands in.
    file: &'static str,
    module: &'static str,
    /// What it does, in the figures.
    pub(crate) title: &'static str,
    /// How many trials there are of it in `cargo xtask test`.
    pub(crate) short: u64,
    /// And in one round of the long form.
    round: u64,
}

/// All of them.
pub(crate) const TRIALS: [Trial; 6] = [
    Trial {
        test: "acknowledged_survives_loss_of_power_at_every_moment_of_the_whole_store",
        file: "whole",
        module: "power",
        title: "power lost, whole store",
        short: 20_000,
        round: 10_000,
    },
    Trial {
        test: "acknowledged_survives_loss_of_power_at_every_boundary",
        file: "journal",
        module: "power",
        title: "power lost, the journal alone",
        short: 200_000,
        round: 100_000,
    },
    Trial {
        test: "loss_of_power_while_coming_back_three_deep",
        file: "whole",
        module: "power",
        title: "power lost again while coming back, up to three times",
        short: 3_000,
        round: 3_000,
    },
    Trial {
        test: "an_error_at_every_call_of_the_whole_store_loses_nothing_acknowledged",
        file: "whole",
        module: "faults",
        title: "an error at a call, once or for good",
        short: 1_500,
        round: 900,
    },
    Trial {
        test: "a_disk_full_at_every_size_loses_nothing_acknowledged_and_takes_writes_again",
        file: "whole",
        module: "full",
        title: "a disk that is full, then has room",
        short: 300,
        round: 100,
    },
    Trial {
        test: "no_corruption_of_any_file_is_served_or_loses_anything_in_silence",
        file: "whole",
        module: "rot",
        title: "corruption of any file",
        short: 600,
        round: 600,
    },
];

/// Where the figures of the long form are kept, by path from the root.
pub(crate) const FIGURES: &str = "docs/soak/figures.jsonl";

/// Options of the long form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    limit: Limit,
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Minutes(u64),
    Images(u64),
}

impl Options {
    /// Reads `--minutes N | --images N`, `--seed N`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { limit: Limit::Minutes(60), seed: 1_000 };
        for pair in words.chunks(2) {
            let [name, number] = pair else {
                return Err(format!("soak disk: `{}` wants a number", pair.join(" ")));
            };
            let number = number.parse().map_err(|_| format!("soak disk: `{number}` is not a number"))?;
            match *name {
                "--minutes" => options.limit = Limit::Minutes(number),
                "--images" => options.limit = Limit::Images(number),
                "--seed" => options.seed = number,
                _ => return Err(format!("soak disk: `{name}` is not `--minutes`, `--images` or `--seed`")),
            }
        }
        Ok(options)
    }
}

/// The tests of the disk as `cargo xtask test` runs them: each is a stage, and its figures are said.
pub(crate) fn run(repo: &Repo, report: &mut Report) {
    for trial in &TRIALS {
        report.stage(&format!("disk: {}", trial.title), || {
            let (ended, _) = once(repo, trial, 1, trial.short);
            stage::count(&ended)
        });
    }
}

/// The long form: round after round with seeds that no round had before, until the limit is reached or something fails. What
/// came of it is added to the figures, and the page made of them again.
pub(crate) fn soak(repo: &Repo, options: &Options, report: &mut Report) {
    let began = now();
    let mut seeds = [options.seed; TRIALS.len()];
    let mut sums: Vec<Sum> = TRIALS.iter().map(|_| Sum::default()).collect();
    report.stage("soak disk", || {
        let mut failed = 0;
        while failed == 0 && !reached(options.limit, began, &sums) {
            for (index, trial) in TRIALS.iter().enumerate() {
                let (Some(seed), Some(sum)) = (seeds.get_mut(index), sums.get_mut(index)) else { continue };
                let (ended, figures) = once(repo, trial, *seed, trial.round);
                sum.add(&figures);
                *seed += figures.iter().map(|line| number(line, "histories")).sum::<u64>().max(1);
                failed += usize::from(!ended.ok);
                if !ended.ok {
                    let again = ended.lines.iter().find_map(|line| line.split_once("again: ")).map(|(_, again)| again);
                    println!("   FAILED. {}", again.unwrap_or("see above"));
                }
            }
            say(&sums, now().duration_since(began));
        }
        if let Err(error) = keep(repo, options.seed, &seeds, &sums) {
            println!("   the figures could not be kept: {error}");
            failed += 1;
        }
        Count { passed: usize::from(failed == 0), failed }
    });
}

fn reached(limit: Limit, began: Instant, sums: &[Sum]) -> bool {
    match limit {
        Limit::Minutes(minutes) => now().duration_since(began) >= Duration::from_secs(60 * minutes),
        Limit::Images(images) => sums.iter().map(|sum| sum.trials).sum::<u64>() >= images,
    }
}

fn say(sums: &[Sum], took: Duration) {
    println!("   after {} min:", took.as_secs() / 60);
    for (trial, sum) in TRIALS.iter().zip(sums) {
        println!(
            "   {:>10} trials, {:>9} acknowledged writes, {:>11} checks of them, {} failed: {}",
            sum.trials, sum.writes, sum.checks, sum.failed, trial.title
        );
    }
}

/// One run of a test, and the lines of figures it wrote.
fn once(repo: &Repo, trial: &Trial, seed: u64, trials: u64) -> (stage::Ended, Vec<Value>) {
    let figures = std::env::temp_dir().join(format!("swarmkeep-figures-{}", std::process::id()));
    let mut command = Command::new(cargo());
    // Optimised, with all checks of a debug build: ten times the images for a build that shares every dependency with it.
    command.args([
        "test",
        "--config",
        "profile.dev.opt-level=1",
        "--config",
        "profile.dev.incremental=false",
        "--quiet",
    ]);
    command.args(["--package", "swarmkeep", "--test", trial.file]);
    command.arg(format!("{}::{}", trial.module, trial.test)).args(["--", "--exact", "--nocapture"]);
    command.env("SWARMKEEP_DISK_SEED", seed.to_string()).env("SWARMKEEP_DISK_IMAGES", trials.to_string());
    command.env("SWARMKEEP_DISK_FIGURES", &figures);
    let ended = stage::run(&repo.root, &mut command);
    let text = fs::read_to_string(&figures).unwrap_or_default();
    // Gone before the next one: it only ever has the lines of one run.
    drop(fs::remove_file(&figures));
    (ended, text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// What the rounds of one test came to.
#[derive(Default)]
struct Sum {
    trials: u64,
    repeated: u64,
    histories: u64,
    writes: u64,
    checks: u64,
    states: u64,
    blobs: u64,
    warm: u64,
    failed: u64,
    ms: u64,
}

impl Sum {
    fn add(&mut self, figures: &[Value]) {
        for line in figures {
            self.trials += number(line, "trials");
            self.repeated += number(line, "repeated");
            self.histories += number(line, "histories");
            self.writes += number(line, "writes");
            self.checks += number(line, "checks");
            self.states += number(line, "states");
            self.blobs += number(line, "blobs");
            self.warm += number(line, "warm");
            self.failed += number(line, "failed");
            self.ms += number(line, "ms");
        }
    }
}

pub(crate) fn number(line: &Value, name: &str) -> u64 {
    line.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn keep(repo: &Repo, first: u64, next: &[u64], sums: &[Sum]) -> io::Result<()> {
    let path = repo.root.join(FIGURES);
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let (commit, machine, date) = (commit(&repo.root), machine(), said(&repo.root, "date", &["-u", "+%Y-%m-%d"]));
    for ((trial, sum), next) in TRIALS.iter().zip(sums).zip(next) {
        let Sum { trials, repeated, histories, writes, checks, states, blobs, warm, failed, ms } = sum;
        let line = json!({
            "test": trial.test, "seeds": [first, next.saturating_sub(1)], "histories": histories, "writes": writes,
            "trials": trials, "repeated": repeated, "checks": checks, "states": states, "blobs": blobs, "warm": warm,
            "failed": failed, "seconds": ms / 1000, "commit": commit, "machine": machine, "date": date,
        });
        writeln!(file, "{line}")?;
    }
    reliability::write(repo)
}

/// The commit that was tried, marked when the checkout differs from it.
fn commit(root: &Path) -> String {
    let mut commit = said(root, "git", &["rev-parse", "--short=10", "HEAD"]);
    let changed = said(root, "git", &["status", "--porcelain", "--untracked-files=no", "--", "crates", "Cargo.lock"]);
    if !changed.is_empty() {
        commit.push_str(" with changes");
    }
    commit
}

fn machine() -> String {
    let cpus = fs::read_to_string(PathBuf::from("/proc/cpuinfo")).unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} × {model}, {}", std::env::consts::OS)
}

fn said(root: &Path, program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).current_dir(root).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "this program only tells how long something took")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        assert_eq!(Options::parse(&[]), Ok(Options { limit: Limit::Minutes(60), seed: 1_000 }));
        let options = Options { limit: Limit::Images(500), seed: 7 };
        assert_eq!(Options::parse(&["--images", "500", "--seed", "7"]), Ok(options));
        assert!(Options::parse(&["--hours", "3"]).unwrap_err().contains("--hours"));
        assert!(Options::parse(&["--minutes", "few"]).unwrap_err().contains("few"));
        assert!(Options::parse(&["--minutes"]).is_err());
    }

    #[test]
    fn figures_of_rounds_are_added_up() {
        let line = json!({ "trials": 3, "writes": 5, "checks": 70, "failed": 1, "ms": 2000 });
        let mut sum = Sum::default();
        sum.add(&[line.clone(), line]);
        assert_eq!((sum.trials, sum.writes, sum.checks, sum.failed, sum.ms), (6, 10, 140, 2, 4000));
    }
}
