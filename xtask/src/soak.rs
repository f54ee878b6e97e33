//! Kills of a loaded daemon, worlds of the simulator, schedules of the log's threads, losses of power of a whole machine: how many there are of each in every
//! run, and their long forms, which go on where the last one ended.

use std::{fs, io, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    ledger::{self, VARIABLE, number},
    repo::{Repo, cargo},
    stage::{self, Count, Ended, Report, now},
    suite,
};

/// One of them.
pub(crate) struct Kind {
    /// In the figures.
    pub(crate) test: &'static str,
    pub(crate) title: &'static str,
    /// How many there are in `cargo xtask test`, and in the long form if nobody says otherwise.
    pub(crate) short: u64,
    long: u64,
}

pub(crate) const MACHINE: Kind =
    Kind { test: "machine", title: "a whole machine loses power: the daemon, its clients, ext4", short: 30, long: 500 };
pub(crate) const KILL: Kind =
    Kind { test: "process-kill", title: "`kill -9` of a loaded daemon", short: 200, long: 5_000 };
/// Optimised, with all checks of a debug build: several times as many worlds for a build that shares its dependencies.
pub(crate) const OPTIMISED: [&str; 4] =
    ["--config", "profile.dev.opt-level=1", "--config", "profile.dev.incremental=false"];
pub(crate) const SIMULATOR: Kind =
    Kind { test: "simulator", title: "seeds of the simulator", short: 2_000, long: 100_000 };
pub(crate) const RACE: Kind =
    Kind { test: "race", title: "schedules of the log's threads", short: 40 * SCHEDULES, long: 1_000_000 };

/// All of them.
pub(crate) const KINDS: [&Kind; 4] = [&MACHINE, &KILL, &SIMULATOR, &RACE];

/// A run of kills, in seconds, and how many come in one.
const KILLS_RUN_S: u64 = 600;
/// Seeds after which figures are kept.
const SEEDS_RUN: u64 = 5_000;
/// Schedules of one seed of the search for races: of the journal, and of a whole store.
const SCHEDULES: u64 = 110;
/// Schedules after which figures are kept.
const SCHEDULES_RUN: u64 = 1_000 * SCHEDULES;
/// Losses of power after which they are.
const LOSSES_RUN: u64 = 100;
/// Trials within which the planted defect must be found.
const TEETH_TRIALS: u64 = 20;

/// The tests of the search for races.
const OF_RACE: [&str; 6] = ["--package", "swarmkeep", "--features", "race", "--test", "race"];

/// How long a long form goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    trials: u64,
    seconds: u64,
    /// Where it begins; else where the last one ended.
    seed: Option<u64>,
}

impl Bounds {
    /// Reads `--trials N`, `--seconds N`, `--seed N`.
    pub(crate) fn parse(kind: &Kind, words: &[&str]) -> Result<Self, String> {
        let mut bounds = Self { trials: kind.long, seconds: u64::MAX, seed: None };
        for pair in words.chunks(2) {
            let [name, number] = pair else { return Err(format!("soak: `{}` wants a number", pair.join(" "))) };
            let number = number.parse().map_err(|_| format!("soak: `{number}` is not a number"))?;
            match *name {
                "--trials" => bounds.trials = number,
                "--seconds" => bounds.seconds = number,
                "--seed" => bounds.seed = Some(number),
                _ => return Err(format!("soak: `{name}` is not `--trials`, `--seconds` or `--seed`")),
            }
        }
        Ok(bounds)
    }

    fn first(&self, repo: &Repo, kind: &Kind) -> u64 {
        self.seed.unwrap_or_else(|| ledger::next_seed(&ledger::lines(repo), kind.test))
    }
}

/// One round of a long form: from which seed, how many, for how many seconds at most. `None`: it cannot be done here.
type Round<'a> = dyn Fn(u64, u64, u64) -> Option<(bool, Value)> + 'a;

/// Round after round until there are enough, the time is over or something fails. Each leaves its figures at once.
fn rounds(repo: &Repo, report: &mut Report, kind: &Kind, bounds: &Bounds, most: u64, round: &Round<'_>) {
    let began = now();
    let mut seed = bounds.first(repo, kind);
    report.stage(&format!("soak: {}", kind.title), || {
        let (mut trials, mut failed) = (0, 0);
        loop {
            let passed_s = now().duration_since(began).as_secs();
            if trials >= bounds.trials || passed_s >= bounds.seconds || failed > 0 {
                break;
            }
            let Some((good, line)) = round(seed, most.min(bounds.trials - trials), bounds.seconds - passed_s) else {
                return Count { passed: 0, failed: 0 };
            };
            trials += number(&line, "trials").max(1);
            seed = line.pointer("/seeds/1").and_then(Value::as_u64).unwrap_or(seed) + 1;
            failed += usize::from(!good);
            println!("   {trials} of {}, next seed {seed}", bounds.trials);
            if let Err(error) = ledger::keep(repo, vec![line]) {
                println!("   the figures could not be kept: {error}");
                failed += 1;
            }
        }
        Count { passed: usize::from(failed == 0), failed }
    });
}

/// The long form of [`machine`], with the release program.
pub(crate) fn soak_machine(repo: &Repo, bounds: &Bounds, report: &mut Report) {
    let build = ["build", "--release", "--package", "swarmkeep-cli", "--package", "swarmkeep-machine", "--bins"];
    report.child("build", &repo.root, Command::new(cargo()).args(build));
    rounds(repo, report, &MACHINE, bounds, LOSSES_RUN, &|seed, trials, seconds| {
        let (ended, lines) = lose_power(repo, "release", trials, seconds, seed, None);
        let line = lines.into_iter().next()?;
        let disks = number(&line, "histories").max(1);
        Some((ended.ok, of_seeds(&line, seed, seed + disks - 1)))
    });
}

/// The long form of [`kills`], with the release program.
pub(crate) fn soak_kill(repo: &Repo, bounds: &Bounds, report: &mut Report) {
    let build = ["build", "--release", "--package", "swarmkeep-cli", "--bins"];
    report.child("build", &repo.root, Command::new(cargo()).args(build));
    rounds(repo, report, &KILL, bounds, u64::MAX, &|seed, trials, seconds| {
        let seconds = (trials.saturating_mul(2) / 3 + 10).min(seconds.max(10)).min(KILLS_RUN_S);
        let began = now();
        let (good, told) = kill(repo, "release", seconds, seed);
        let scenario = told.pointer("/scenarios/0").cloned().unwrap_or_default();
        let acknowledged = number(&told, "acknowledged");
        let line = json!({
            "test": KILL.test, "seeds": [seed, seed], "histories": 1, "trials": number(&scenario, "strikes"),
            "writes": acknowledged, "checks": acknowledged, "failed": u64::from(!good),
            "records": number(&scenario, "records_verified"), "seconds": now().duration_since(began).as_secs(),
        });
        Some((good, line))
    });
}

/// The long form of the simulator: seeds from where the last run ended, on every core.
pub(crate) fn soak_simulator(repo: &Repo, bounds: &Bounds, report: &mut Report) {
    rounds(repo, report, &SIMULATOR, bounds, SEEDS_RUN, &|seed, trials, _| {
        let (ended, lines) = ledger::with_figures(|figures| {
            let mut command = Command::new(cargo());
            command.arg("run").args(OPTIMISED).args(["--quiet", "--package", "swarmkeep-sim", "--", "--seeds"]);
            command.arg(format!("{seed}..{}", seed + trials)).env(VARIABLE, figures);
            stage::run(&repo.root, &mut command)
        });
        let mut line = lines.into_iter().next().unwrap_or_else(|| json!({ "test": SIMULATOR.test, "failed": 1 }));
        let tried = number(&line, "seeds");
        line = of_seeds(&line, seed, seed + trials - 1);
        if let Some(fields) = line.as_object_mut() {
            fields.insert("trials".into(), json!(tried));
        }
        Some((ended.ok, line))
    });
}

/// The long form of [`races`], with an optimised build.
pub(crate) fn soak_race(repo: &Repo, bounds: &Bounds, report: &mut Report) {
    let mut build = Command::new(cargo());
    report.child("build", &repo.root, build.args(["test", "--release", "--no-run"]).args(OF_RACE));
    rounds(repo, report, &RACE, bounds, SCHEDULES_RUN, &|seed, trials, _| {
        let end = seed + trials.div_ceil(SCHEDULES);
        let began = now();
        let (ended, lines) = ledger::with_figures(|figures| {
            let mut command = Command::new(cargo());
            command.args(["test", "--release"]).args(OF_RACE).args(["--", "schedule"]).env(VARIABLE, figures);
            stage::run(&repo.root, command.env("SWARMKEEP_RACE_SEEDS", format!("{seed}..{end}")))
        });
        let line = json!({
            "test": RACE.test, "seeds": [seed, end - 1], "histories": end - seed, "failed": u64::from(!ended.ok),
            "trials": lines.iter().map(|line| number(line, "trials")).sum::<u64>(),
            "seconds": now().duration_since(began).as_secs(),
        });
        Some((ended.ok, line))
    });
}

/// The search for races, which is built with other locks than everything else.
pub(crate) fn races(repo: &Repo, report: &mut Report) {
    let mut clippy = Command::new(cargo());
    clippy.arg("clippy").args(OF_RACE).args(["--", "-D", "warnings"]);
    report.child("clippy of the search for races", &repo.root, &mut clippy);
    let mut search = Command::new(cargo());
    report.child("search for races", &repo.root, search.arg("test").args(OF_RACE).args(["--", "--nocapture"]));
}

/// A test's own line, with its seeds and seconds as they are kept.
fn of_seeds(line: &Value, first: u64, last: u64) -> Value {
    let mut line = line.clone();
    let seconds = number(&line, "ms") / 1000;
    if let Some(fields) = line.as_object_mut() {
        fields.remove("ms");
        fields.remove("seed");
        fields.insert("seeds".into(), json!([first, last]));
        fields.insert("seconds".into(), json!(seconds));
    }
    line
}

/// The daemon killed again and again while agents work: as often as every run has it, and nothing lost or repeated.
pub(crate) fn kills(repo: &Repo) -> Count {
    // Three kills every two seconds; some for the daemon of a machine that is slow.
    let (good, told) = kill(repo, "debug", KILL.short * 2 / 3 + 10, 1);
    let strikes = told.pointer("/scenarios/0/strikes").and_then(Value::as_u64).unwrap_or(0);
    println!("   {strikes} kills, {} writes acknowledged", number(&told, "acknowledged"));
    let good = good && strikes >= KILL.short;
    Count { passed: usize::from(good), failed: usize::from(!good) }
}

fn kill(repo: &Repo, profile: &str, seconds: u64, seed: u64) -> (bool, Value) {
    let (seconds, seed) = (seconds.to_string(), seed.to_string());
    let arguments = ["chaos", "--scenario", "process-kill", "--keep", "--seconds", &seconds, "--seed", &seed];
    suite::ran(repo, profile, "kills", &arguments)
}

/// The whole machine loses power, as often as every run has it.
pub(crate) fn machine(repo: &Repo) -> Count {
    let (ended, _) = lose_power(repo, "debug", MACHINE.short, 900, 1, None);
    match skipped(&ended) {
        true => Count { passed: 0, failed: 0 },
        false => stage::count(&ended),
    }
}

/// The same, of a daemon whose journal leaves out its syncs: it must be found.
pub(crate) fn spoiled_machine(repo: &Repo) -> Count {
    let build = |features: &[&str]| {
        let mut command = Command::new(cargo());
        command.args(["build", "--workspace", "--bins"]).args(features);
        stage::run(&repo.root, &mut command).ok
    };
    let (shipped, planted) = (repo.binary("debug"), repo.binary("debug").with_file_name("swarmkeep-planted"));
    // In the folder of the other one, which is put back.
    let made = build(&["--features", "swarmkeep-cli/planted"]) && copied(fs::copy(&shipped, &planted));
    if !build(&[]) || !made {
        return Count { passed: 0, failed: 1 };
    }
    let (ended, lines) = lose_power(repo, "debug", TEETH_TRIALS, 900, 1, Some("SyncSkipped"));
    drop(fs::remove_file(planted));
    forget(&ended);
    if skipped(&ended) {
        return Count { passed: 0, failed: 0 };
    }
    let good = !ended.ok && lines.iter().any(|line| number(line, "failed") > 0);
    println!("   {}", if good { "it failed, as it must" } else { "syncs that are left out must be found" });
    Count { passed: usize::from(good), failed: usize::from(!good) }
}

/// Removes what a machine left that had to fail: nobody looks at it.
fn forget(ended: &Ended) {
    let folders = ended.lines.iter().filter_map(|line| Path::new(line.split_once("is left in ")?.1).parent());
    for folder in folders.filter(|folder| folder.starts_with(std::env::temp_dir())) {
        if let Err(error) = fs::remove_dir_all(folder) {
            println!("   {}: {error}", folder.display());
        }
    }
}

fn copied(copied: io::Result<u64>) -> bool {
    copied.inspect_err(|error| println!("   the planted program: {error}")).is_ok()
}

fn skipped(ended: &Ended) -> bool {
    ended.lines.iter().any(|line| line.starts_with("skipped:"))
}

/// Runs the program that does it, with a defect in the daemon if one is named.
fn lose_power(
    repo: &Repo,
    profile: &str,
    trials: u64,
    seconds: u64,
    seed: u64,
    defect: Option<&str>,
) -> (Ended, Vec<Value>) {
    let binary = repo.binary(profile);
    let mut command = Command::new(binary.with_file_name("swarmkeep-machine"));
    match defect {
        Some(defect) => {
            command.arg("--binary").arg(binary.with_file_name("swarmkeep-planted")).env("SWARMKEEP_PLANTED", defect)
        }
        None => command.arg("--binary").arg(&binary),
    };
    for (name, number) in [("--trials", trials), ("--seconds", seconds), ("--seed", seed)] {
        command.args([name, &number.to_string()]);
    }
    ledger::with_figures(|figures| stage::run(&repo.root, command.env(VARIABLE, figures)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_and_wrong_ones_named() {
        assert_eq!(Bounds::parse(&KILL, &[]), Ok(Bounds { trials: 5_000, seconds: u64::MAX, seed: None }));
        let bounds = Bounds { trials: 7, seconds: 60, seed: Some(3) };
        assert_eq!(Bounds::parse(&MACHINE, &["--trials", "7", "--seconds", "60", "--seed", "3"]), Ok(bounds));
        assert!(Bounds::parse(&KILL, &["--deaths", "3"]).unwrap_err().contains("--deaths"));
        assert!(Bounds::parse(&KILL, &["--trials", "many"]).unwrap_err().contains("many"));
        assert!(Bounds::parse(&KILL, &["--trials"]).is_err());
    }

    #[test]
    fn a_long_form_goes_on_where_the_last_one_ended() {
        let lines = [
            json!({ "test": "simulator", "seeds": [1, 1000] }),
            json!({ "test": "simulator", "seeds": [1001, 2000] }),
            json!({ "test": "machine", "seeds": [1, 9000] }),
        ];
        let next = |test| ledger::next_seed(&lines, test);
        assert_eq!((next("simulator"), next("process-kill")), (2001, 1));
        let kept = of_seeds(&json!({ "test": "machine", "seed": 4, "ms": 2500, "trials": 3 }), 4, 6);
        assert_eq!(kept, json!({ "test": "machine", "seeds": [4, 6], "seconds": 2, "trials": 3 }));
    }
}
