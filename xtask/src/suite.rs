//! `cargo xtask test`: everything that must hold, stage by stage; and the soak.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    disk, fuzz, peers as mcp,
    repo::{Repo, cargo},
    setup, soak,
    stage::{self, Count, Report},
    tidy,
};

/// How much to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Full,
    /// Without documentation, Rust examples and demo, and with few kills.
    Quick,
}

/// Options of the soak.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SoakOptions {
    kills: u32,
    seed: u32,
}

impl SoakOptions {
    /// Reads `--kills N --seed N`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { kills: 300, seed: 1 };
        for pair in words.chunks(2) {
            let place = match pair {
                ["--kills", _] => &mut options.kills,
                ["--seed", _] => &mut options.seed,
                _ => return Err(format!("soak replay: `{}` is not `--kills N` or `--seed N`", pair.join(" "))),
            };
            let number = pair.last().copied().unwrap_or_default();
            *place = number.parse().map_err(|_| format!("soak replay: `{number}` is not a number"))?;
        }
        Ok(options)
    }
}

/// Runs every stage; a failed one does not stop the others.
pub(crate) fn run(repo: &Repo, extent: Extent, report: &mut Report) {
    let root = repo.root.as_path();
    let full = extent == Extent::Full;
    report.stage("set-up", || setup::run(root));
    report.child("format", root, Command::new(cargo()).args(["fmt", "--all", "--", "--check", "-l"]));
    tidy::run(repo, report);
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    report.child("clippy", root, Command::new(cargo()).args(clippy));
    report.child("build", root, Command::new(cargo()).args(BUILD));
    if setup::has_nextest() {
        report.child("tests", root, Command::new(cargo()).args(["nextest", "run", "--workspace", "--no-fail-fast"]));
    } else {
        report.child(
            "tests",
            root,
            Command::new(cargo()).args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]),
        );
    }
    if full {
        disk::run(repo, report);
        soak::races(repo, report);
        report.child("doctests", root, Command::new(cargo()).args(["test", "--workspace", "--doc"]));
        let mut doc = Command::new(cargo());
        doc.args(["doc", "--workspace", "--no-deps", "--lib"]).env("RUSTDOCFLAGS", "-D warnings");
        report.child("documentation", root, &mut doc);
        rust_examples(repo, report);
    }
    let seeds = format!("1..{}", if full { soak::SIMULATOR.short + 1 } else { 201 });
    let worlds = ["--quiet", "--package", "swarmkeep-sim", "--", "--seeds", &seeds];
    let mut simulator = Command::new(cargo());
    simulator.arg("run").args(soak::OPTIMISED).args(worlds);
    report.child(&format!("simulator, seeds {seeds}"), root, &mut simulator);
    let python = ["-m", "unittest", "discover", "--start-directory", "examples", "--pattern", "test_*.py"];
    report.child("Python examples", root, Command::new("python3").args(python));
    replay(repo, report, "debug", if full { 30 } else { 5 }, 1);
    if full {
        report.stage(PEERS, || mcp::run(repo));
        report.stage("replay, spoiled: must fail", || spoiled_replay(repo));
        report.stage("demo", || demo(repo));
        report.stage(&format!("{} kills of a loaded daemon", soak::KILL.short), || soak::kills(repo));
        report.stage(&format!("{} times, {}", soak::MACHINE.short, soak::MACHINE.title), || soak::machine(repo));
        report.stage("a whole machine without the journal's syncs: must fail", || soak::spoiled_machine(repo));
        fuzz::run(repo, &fuzz::Options::default(), report);
    }
}

const PEERS: &str = "MCP with its peers";

/// The programs, and the server that the conformance suites ask: with an example, crates are built as they are for tests,
/// once for both.
const BUILD: &[&str] = &["build", "--workspace", "--bins", "--example", "conformance_peer"];

/// The MCP server with its peers, alone.
pub(crate) fn peers(repo: &Repo, report: &mut Report) {
    report.child("build", &repo.root, Command::new(cargo()).args(BUILD));
    report.stage(PEERS, || mcp::run(repo));
}

/// The proxy beside other proxies, whose server is killed and comes back.
pub(crate) fn compare(repo: &Repo, report: &mut Report) {
    report.child("build", &repo.root, Command::new(cargo()).args(["build", "--package", "swarmkeep-cli", "--bins"]));
    report.stage("MCP proxies whose server is killed and comes back", || mcp::compare(repo));
}

/// The conformance suites against a server that has everything they ask for, directly and through the proxy.
pub(crate) fn conform(repo: &Repo, report: &mut Report) {
    report.child("build", &repo.root, Command::new(cargo()).args(BUILD));
    report.stage("conformance suites, directly and through the proxy", || mcp::conform(repo));
}

/// The replay with many kills, on the release program.
pub(crate) fn soak(repo: &Repo, options: &SoakOptions, report: &mut Report) {
    let build = ["build", "--release", "--package", "swarmkeep-cli", "--bins"];
    report.child("build", &repo.root, Command::new(cargo()).args(build));
    replay(repo, report, "release", options.kills, options.seed);
}

fn replay(repo: &Repo, report: &mut Report, profile: &str, kills: u32, seed: u32) {
    let mut command = Command::new("python3");
    command.arg("examples/replay/run.py").arg("--binary").arg(repo.binary(profile)).arg("--teeth");
    command.args(["--kills", &kills.to_string(), "--seed", &seed.to_string()]);
    report.child(&format!("replay, {kills} kills"), &repo.root, &mut command);
}

/// A short replay whose evidence is spoiled before it is checked: it fails, and says why.
fn spoiled_replay(repo: &Repo) -> Count {
    let folder = std::env::temp_dir().join(format!("swarmkeep-spoiled-{}", std::process::id()));
    let mut command = Command::new("python3");
    command.arg("examples/replay/run.py").arg("--binary").arg(repo.binary("debug")).arg("--folder").arg(&folder);
    command.args(["--kills", "1", "--loops", "1", "--tamper", "side-effect-twice"]);
    let ended = stage::run(&repo.root, &mut command);
    let told = ended.lines.iter().any(|line| line.contains("REPEATED") && line.contains("was done 2 times"));
    let alone = ended.lines.iter().filter(|line| line.contains("VIOLATION")).count() == 1;
    clear(&folder);
    let good = !ended.ok && told && alone;
    println!("   {}", if good { "it failed, as it must" } else { "spoiled evidence must be found, and nothing else" });
    Count { passed: usize::from(good), failed: usize::from(!good) }
}

fn clear(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        println!("   {}: {error}", folder.display());
    }
}

/// Runs every Rust example of the engine. Names that end in `_rate` are measurements, names that begin with
/// `record_` are tools: they are built (by clippy), not run.
fn rust_examples(repo: &Repo, report: &mut Report) {
    let mut names: Vec<String> = fs::read_dir(repo.root.join("crates/swarmkeep/examples"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.path().file_name()?.to_str()?.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| !name.ends_with("_rate") && !name.starts_with("record_"))
        .collect();
    names.sort();
    for name in names {
        let mut command = Command::new(cargo());
        command.args(["run", "--quiet", "--package", "swarmkeep", "--example", &name]);
        report.child(&format!("example {name}"), &repo.root, &mut command);
    }
}

/// The demo, short: something acknowledged, nothing lost, nothing repeated.
fn demo(repo: &Repo) -> Count {
    let (good, _) = ran(repo, "debug", "demo", &["demo", "--seconds", "8"]);
    Count { passed: usize::from(good), failed: usize::from(!good) }
}

/// Runs a verb that says in JSON what was acknowledged, lost and repeated. Its store is left where something is wrong.
pub(crate) fn ran(repo: &Repo, profile: &str, name: &str, arguments: &[&str]) -> (bool, Value) {
    let store = std::env::temp_dir().join(format!("swarmkeep-{name}-{}", std::process::id()));
    let mut command = Command::new(repo.binary(profile));
    command.args(arguments).args(["--json", "--store"]).arg(&store);
    let ended = stage::run(&repo.root, &mut command);
    let told =
        ended.lines.iter().rev().find_map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object));
    let whole = || serde_json::from_str::<Value>(&ended.lines.join("\n")).ok();
    let told = told.or_else(whole).unwrap_or_default();
    let number = |name: &str| told.get(name).and_then(Value::as_u64);
    let good = ended.ok
        && number("acknowledged").is_some_and(|acknowledged| acknowledged > 0)
        && number("lost") == Some(0)
        && number("repeated") == Some(0);
    if good {
        clear(&store);
    } else {
        println!("   the store is left in {}", store.display());
    }
    (good, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soak_options_are_read_and_wrong_ones_named() {
        assert_eq!(SoakOptions::parse(&[]), Ok(SoakOptions { kills: 300, seed: 1 }));
        assert_eq!(SoakOptions::parse(&["--seed", "7", "--kills", "12"]), Ok(SoakOptions { kills: 12, seed: 7 }));
        assert!(SoakOptions::parse(&["--kills", "many"]).unwrap_err().contains("many"));
        assert!(SoakOptions::parse(&["--deaths", "3"]).unwrap_err().contains("--deaths"));
        assert!(SoakOptions::parse(&["--kills"]).is_err());
    }
}
