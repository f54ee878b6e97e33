//! `cargo xtask fuzz`: bytes from nowhere for everything that reads bytes, with the nightly compiler.
//!
//! The targets are a workspace of their own (`fuzz/`), which nothing else builds. They are ordinary programs with libFuzzer
//! in them, instrumented by the compiler's own pass: no other tool is needed. What they find is in
//! `target/fuzz/artifacts/TARGET`, what they have learned in `target/fuzz/corpus/TARGET`. The long form goes on from what
//! they learned, and keeps figures of what it tried.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    ledger,
    repo::Repo,
    stage::{self, Count, Report, now},
};

/// In the figures.
pub(crate) const TEST: &str = "fuzz";
/// What is fuzzed: the programs of `fuzz/`.
pub(crate) const TARGETS: [&str; 7] = ["frame", "record", "checkpoint", "segment", "kept", "http", "ndjson"];
/// Counts the edges of the program's flow, and shows libFuzzer what is compared with what.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// A target runs so long at a time, in seconds: a child must not be silent for longer than a stage allows.
const ROUND: u32 = 600;
/// How long each target runs in every run, and in the long form if nobody says otherwise.
pub(crate) const SHORT_S: u32 = 30;
const LONG_S: u32 = 1_800;

/// Options of the command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    seconds: u32,
    targets: Vec<String>,
    /// Whether its figures are kept.
    keeps: bool,
}

impl Default for Options {
    /// Every target, as in every run.
    fn default() -> Self {
        Self { seconds: SHORT_S, targets: TARGETS.map(str::to_owned).to_vec(), keeps: false }
    }
}

impl Options {
    /// Reads `[TARGET…] [--seconds N]`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { targets: Vec::new(), ..Self::default() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--seconds" => {
                    let number = words.next().copied().unwrap_or_default();
                    options.seconds = number.parse().map_err(|_| format!("fuzz: `{number}` is not a number"))?;
                }
                target if TARGETS.contains(&target) => options.targets.push(target.to_owned()),
                other => return Err(format!("fuzz: `{other}` is none of {}", TARGETS.join(", "))),
            }
        }
        if options.targets.is_empty() {
            options.targets = Self::default().targets;
        }
        Ok(options)
    }

    /// The long form, of the same words.
    pub(crate) fn parse_long(words: &[&str]) -> Result<Self, String> {
        let options = Self::parse(words)?;
        let seconds = if words.contains(&"--seconds") { options.seconds } else { LONG_S };
        Ok(Self { seconds, keeps: true, ..options })
    }
}

/// Builds the targets and runs each. Without a nightly compiler it says so, and nothing fails.
pub(crate) fn run(repo: &Repo, options: &Options, report: &mut Report) {
    let Some(host) = nightly() else {
        println!("── fuzz: skipped, no nightly compiler is installed (rustup toolchain install nightly)");
        return;
    };
    let folder = repo.root.join("fuzz");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.root.join("target"), Into::into).join("fuzz");
    // With a target named, programs that run while building are not instrumented.
    let mut build = Command::new("cargo");
    build.args(["+nightly", "build", "--release", "--target", &host]).env("RUSTFLAGS", INSTRUMENTED);
    build.env("CARGO_TARGET_DIR", &target).env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    let mut built = false;
    report.stage("fuzz: build", || {
        built = stage::run(&folder, &mut build).ok;
        Count { passed: usize::from(built), failed: usize::from(!built) }
    });
    if !built {
        return;
    }
    for name in &options.targets {
        let program = target.join(&host).join("release").join(name);
        report.stage(&format!("fuzz: {name}, {} s", options.seconds), || {
            let mut rounds = vec![ROUND; (options.seconds / ROUND) as usize];
            let rest = options.seconds % ROUND;
            rounds.extend((rest > 0).then_some(rest));
            let ended = rounds.iter().all(|seconds| {
                let (mut good, line) = one(&target, &program, name, *seconds);
                if options.keeps
                    && let Err(error) = ledger::keep(repo, vec![line])
                {
                    println!("   the figures could not be kept: {error}");
                    good = false;
                }
                good
            });
            Count { passed: usize::from(ended), failed: usize::from(!ended) }
        });
    }
}

/// One round; whether nothing was found, and its figures.
fn one(folder: &Path, program: &Path, name: &str, seconds: u32) -> (bool, Value) {
    let began = now();
    let (ok, tried) = tried(folder, program, name, seconds);
    let took = now().duration_since(began).as_secs();
    let line = json!({ "test": TEST, "target": name, "trials": tried, "failed": u64::from(!ok), "seconds": took });
    (ok, line)
}

fn tried(folder: &Path, program: &Path, name: &str, seconds: u32) -> (bool, u64) {
    let (corpus, artifacts) = (folder.join("corpus").join(name), folder.join("artifacts").join(name));
    for path in [&corpus, &artifacts] {
        if let Err(error) = fs::create_dir_all(path) {
            println!("   {}: {error}", path.display());
            return (false, 0);
        }
    }
    let mut command = Command::new(program);
    command.args(["-verbosity=0", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    let ended = stage::run(folder, command.arg(&corpus));
    (ended.ok, ended.lines.iter().find_map(|line| executed(line)).unwrap_or(0))
}

/// How many inputs were tried, of libFuzzer's own line.
fn executed(line: &str) -> Option<u64> {
    line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok()
}

/// What the nightly compiler compiles for, if there is one.
fn nightly() -> Option<String> {
    let asked =
        Command::new("rustc").args(["+nightly", "--version", "--verbose"]).env_remove("RUSTUP_TOOLCHAIN").output();
    let told = asked.ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let all = Options::parse(&[]).unwrap();
        assert_eq!((all.seconds, all.targets.len()), (30, TARGETS.len()));
        let some = Options::parse(&["frame", "--seconds", "5", "http"]).unwrap();
        assert_eq!(some, Options { seconds: 5, targets: vec!["frame".into(), "http".into()], keeps: false });
        let long = Options::parse_long(&["kept"]).unwrap();
        assert_eq!(long, Options { seconds: LONG_S, targets: vec!["kept".into()], keeps: true });
        assert_eq!(Options::parse_long(&["--seconds", "5"]).unwrap().seconds, 5);
        assert!(Options::parse(&["--seconds", "many"]).unwrap_err().contains("many"));
        assert!(Options::parse(&["frames"]).unwrap_err().contains("ndjson"));
    }

    #[test]
    fn what_was_tried_is_read_from_what_the_program_says() {
        assert_eq!(executed("stat::number_of_executed_units: 48213"), Some(48_213));
        assert_eq!(executed("stat::average_exec_per_sec:     1555"), None);
    }

    #[test]
    fn every_target_is_a_program_of_the_workspace() {
        let root = Path::new("../fuzz");
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        for target in TARGETS {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
            assert!(root.join(format!("targets/{target}.rs")).is_file(), "{target}");
        }
    }
}
