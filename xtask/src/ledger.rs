//! What the long forms of tests leave behind: one line for each run, with the commit and the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{reliability, repo::Repo};

/// Where they are kept, by path from the root.
pub(crate) const FIGURES: &str = "docs/soak/figures.jsonl";
/// Names the file that a test adds its figures to, one line of JSON each.
pub(crate) const VARIABLE: &str = "SWARMKEEP_DISK_FIGURES";

/// A number of a line; 0 where there is none.
pub(crate) fn number(line: &Value, name: &str) -> u64 {
    line.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Which test a line is of.
pub(crate) fn is_of(line: &Value, test: &str) -> bool {
    line.get("test").and_then(Value::as_str) == Some(test)
}

/// All that were kept.
pub(crate) fn lines(repo: &Repo) -> Vec<Value> {
    let text = repo.read(Path::new(FIGURES)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The seed after the last one that was tried.
pub(crate) fn next_seed(lines: &[Value], test: &str) -> u64 {
    let last = |line: &Value| line.pointer("/seeds/1").and_then(Value::as_u64);
    lines.iter().filter(|line| is_of(line, test)).filter_map(last).max().map_or(1, |last| last + 1)
}

/// Adds lines, each with what was tried and where, and makes the page anew. A line that goes on where the last one of its
/// test ended, on the same day, becomes a part of that one; one without seeds goes on with the last one of its target.
pub(crate) fn keep(repo: &Repo, new: Vec<Value>) -> io::Result<()> {
    let (commit, machine, date) = (commit(&repo.root), machine(), said(&repo.root, "date", &["-u", "+%Y-%m-%d"]));
    let mut kept = lines(repo);
    for mut line in new {
        if let Some(fields) = line.as_object_mut() {
            fields.insert("commit".into(), json!(commit));
            fields.insert("machine".into(), json!(machine));
            fields.insert("date".into(), json!(date));
        }
        let is_like = |last: &Value| ["test", "target"].iter().all(|name| last.get(name) == line.get(name));
        match kept.iter_mut().rfind(|last| is_like(last)) {
            Some(last) if goes_on(last, &line) => join(last, &line),
            _ => kept.push(line),
        }
    }
    let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
    fs::write(repo.root.join(FIGURES), text)?;
    reliability::write(repo)
}

fn goes_on(last: &Value, line: &Value) -> bool {
    let same = ["commit", "machine", "date"].iter().all(|name| last.get(name) == line.get(name));
    let (end, begin) =
        (last.pointer("/seeds/1").and_then(Value::as_u64), line.pointer("/seeds/0").and_then(Value::as_u64));
    same && (end.is_none() && begin.is_none() || end.is_some_and(|end| Some(end + 1) == begin))
}

/// Adds up what can be added up.
fn join(last: &mut Value, line: &Value) {
    let sums = last.as_object_mut().into_iter().flat_map(|fields| fields.iter_mut());
    for (name, value) in sums.filter(|(_, value)| value.is_u64()) {
        *value = json!(value.as_u64().unwrap_or(0) + number(line, name));
    }
    if let (Some(end), Some(new)) = (last.pointer_mut("/seeds/1"), line.pointer("/seeds/1")) {
        end.clone_from(new);
    }
}

/// Runs something with a file for its figures, and gives what it came to with the lines there.
pub(crate) fn with_figures<T>(run: impl FnOnce(&Path) -> T) -> (T, Vec<Value>) {
    let figures = std::env::temp_dir().join(format!("swarmkeep-figures-{}", std::process::id()));
    let ended = run(&figures);
    let text = fs::read_to_string(&figures).unwrap_or_default();
    // Gone before the next one: it only ever has the lines of one run.
    drop(fs::remove_file(&figures));
    (ended, text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_on_is_one_line() {
        let line = |first: u64, last: u64, commit: &str| json!({ "test": "simulator", "seeds": [first, last], "trials": 10, "accuracy": 0.5, "commit": commit });
        let mut last = line(1, 10, "abc");
        assert!(goes_on(&last, &line(11, 20, "abc")));
        assert!(!goes_on(&last, &line(12, 20, "abc")) && !goes_on(&last, &line(11, 20, "def")));
        let without = |seconds: u64| json!({ "test": "fuzz", "seconds": seconds, "commit": "abc" });
        assert!(goes_on(&without(600), &without(600)));
        join(&mut last, &line(11, 20, "abc"));
        let whole = json!({ "test": "simulator", "seeds": [1, 20], "trials": 20, "accuracy": 0.5, "commit": "abc" });
        assert_eq!(last, whole);
    }
}
