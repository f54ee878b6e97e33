//! The tests of the disk: how many images they try in every run, and the long form that goes on for as long as it is told.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    ledger::{self, VARIABLE, number},
    repo::{Repo, cargo},
    stage::{self, Count, Report, now},
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
pub(crate) const TRIALS: [Trial; 10] = [
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
        test: "loss_of_power_while_the_journal_comes_back_three_deep",
        file: "journal",
        module: "nested",
        title: "power lost again while the journal alone comes back, up to three times",
        short: 100_000,
        round: 50_000,
    },
    Trial {
        test: "loss_of_power_while_coming_back_three_deep",
        file: "whole",
        module: "power",
        title: "power lost again while coming back, up to three times",
        short: 10_000,
        round: 10_000,
    },
    Trial {
        test: "an_error_at_every_call_of_the_whole_store_loses_nothing_acknowledged",
        file: "whole",
        module: "faults",
        title: "an error at a call, once or for good",
        short: 3_500,
        round: 1_800,
    },
    Trial {
        test: "an_error_at_every_call_once_and_for_good_loses_nothing_acknowledged",
        file: "journal",
        module: "faults",
        title: "an error at a call of the journal alone, once or for good",
        short: 20_000,
        round: 10_000,
    },
    Trial {
        test: "a_disk_full_at_every_size_loses_nothing_acknowledged_and_takes_writes_again",
        file: "whole",
        module: "full",
        title: "a disk that is full, then has room",
        short: 1_000,
        round: 500,
    },
    Trial {
        test: "a_journal_on_a_disk_full_at_every_size_loses_nothing_and_takes_writes_again",
        file: "journal",
        module: "full",
        title: "a disk that is full under the journal alone, then has room",
        short: 2_000,
        round: 1_000,
    },
    Trial {
        test: "no_corruption_of_any_file_is_served_or_loses_anything_in_silence",
        file: "whole",
        module: "rot",
        title: "corruption of any file",
        short: 600,
        round: 600,
    },
    Trial {
        test: "no_corruption_of_a_journal_is_believed_or_passed_over",
        file: "journal",
        module: "rot",
        title: "corruption of a journal's segments",
        short: 200_000,
        round: 200_000,
    },
];

/// The first seed of the long form: those below are for every run.
const SEED: u64 = 1_000;

/// Options of the long form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    limit: Limit,
    /// Where each test begins; else where its last run ended.
    seed: Option<u64>,
    /// Only the tests whose title has these words.
    only: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Minutes(u64),
    Images(u64),
}

impl Options {
    /// Reads `--minutes N | --images N`, `--seed N`, `--only WORDS`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { limit: Limit::Minutes(60), seed: None, only: String::new() };
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                return Err(format!("soak disk: `{}` wants a value", pair.join(" ")));
            };
            let number = || value.parse().map_err(|_| format!("soak disk: `{value}` is not a number"));
            match *name {
                "--minutes" => options.limit = Limit::Minutes(number()?),
                "--images" => options.limit = Limit::Images(number()?),
                "--seed" => options.seed = Some(number()?),
                "--only" if TRIALS.iter().any(|trial| trial.title.contains(value)) => options.only = (*value).into(),
                "--only" => {
                    let titles = TRIALS.map(|trial| format!("`{}`", trial.title)).join(", ");
                    return Err(format!("soak disk: no test has `{value}` in its title; they are {titles}"));
                }
                _ => {
                    return Err(format!("soak disk: `{name}` is not `--minutes`, `--images`, `--seed` or `--only`"));
                }
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
    let lines = ledger::lines(repo);
    let first = |trial: &Trial| options.seed.unwrap_or_else(|| ledger::next_seed(&lines, trial.test).max(SEED));
    let wanted = TRIALS.iter().filter(|trial| trial.title.contains(&options.only));
    let mut runs: Vec<Run> = wanted.map(|trial| Run::new(trial, first(trial))).collect();
    report.stage("soak disk", || {
        let mut failed = 0;
        while failed == 0 && !reached(options.limit, began, &runs) {
            for run in &mut runs {
                let ended = run.round(repo);
                failed += usize::from(!ended.ok);
                if !ended.ok {
                    let again = ended.lines.iter().find_map(|line| line.split_once("again: ")).map(|(_, again)| again);
                    println!("   FAILED. {}", again.unwrap_or("see above"));
                }
            }
            say(&runs, now().duration_since(began));
        }
        if let Err(error) = ledger::keep(repo, runs.iter().map(Run::line).collect()) {
            println!("   the figures could not be kept: {error}");
            failed += 1;
        }
        Count { passed: usize::from(failed == 0), failed }
    });
}

/// One test in the long form.
struct Run {
    trial: &'static Trial,
    first: u64,
    next: u64,
    sum: Sum,
}

impl Run {
    fn new(trial: &'static Trial, first: u64) -> Self {
        Self { trial, first, next: first, sum: Sum::default() }
    }

    fn round(&mut self, repo: &Repo) -> stage::Ended {
        let (ended, figures) = once(repo, self.trial, self.next, self.trial.round);
        self.sum.add(&figures);
        self.next += figures.iter().map(|line| number(line, "histories")).sum::<u64>().max(1);
        ended
    }

    fn line(&self) -> Value {
        let Sum { trials, repeated, histories, writes, checks, states, blobs, warm, failed, ms } = &self.sum;
        json!({
            "test": self.trial.test, "seeds": [self.first, self.next.saturating_sub(1)], "histories": histories,
            "writes": writes, "trials": trials, "repeated": repeated, "checks": checks, "states": states,
            "blobs": blobs, "warm": warm, "failed": failed, "seconds": ms / 1000,
        })
    }
}

fn reached(limit: Limit, began: Instant, runs: &[Run]) -> bool {
    match limit {
        Limit::Minutes(minutes) => now().duration_since(began) >= Duration::from_secs(60 * minutes),
        Limit::Images(images) => runs.iter().map(|run| run.sum.trials).sum::<u64>() >= images,
    }
}

fn say(runs: &[Run], took: Duration) {
    println!("   after {} min:", took.as_secs() / 60);
    for Run { trial, sum, .. } in runs {
        println!(
            "   {:>10} trials, {:>9} acknowledged writes, {:>11} checks of them, {} failed: {}",
            sum.trials, sum.writes, sum.checks, sum.failed, trial.title
        );
    }
}

/// One run of a test, and the lines of figures it wrote.
fn once(repo: &Repo, trial: &Trial, seed: u64, trials: u64) -> (stage::Ended, Vec<Value>) {
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
    ledger::with_figures(|figures| stage::run(&repo.root, command.env(VARIABLE, figures)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let options = Options { limit: Limit::Minutes(60), seed: None, only: String::new() };
        assert_eq!(Options::parse(&[]), Ok(options));
        let options = Options { limit: Limit::Images(500), seed: Some(7), only: "segments".into() };
        assert_eq!(Options::parse(&["--images", "500", "--seed", "7", "--only", "segments"]), Ok(options));
        assert!(Options::parse(&["--only", "segmints"]).unwrap_err().contains("segments"));
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
