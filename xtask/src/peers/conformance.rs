//! The conformance suites against a server that has everything they ask for, directly and through the proxy. Directly,
//! all of it passes; through the proxy, each check of each scenario comes to the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{Node, Peers, SUITE_1, SUITE_2, quietly, skipped};
use crate::stage::Count;

/// A suite at one revision.
struct Suite {
    title: &'static str,
    package: (&'static str, &'static [&'static str]),
    revision: Option<&'static str>,
}

const SUITES: [Suite; 3] = [
    Suite { title: "2025-11-25 (first suite)", package: SUITE_1, revision: None },
    Suite { title: "2025-11-25", package: SUITE_2, revision: Some("2025-11-25") },
    Suite { title: "2026-07-28", package: SUITE_2, revision: Some("2026-07-28") },
];

/// Checks of what a server may do and need not, which the suites make only where it does it: that the proxy does not is no
/// difference.
const NOT_OWED: &[(&str, &str)] = &[
    ("server-sse-disconnect-resume", "the proxy goes back to its server itself, and its client's stream goes on"),
    ("server-sse-streams-functional", "an answer may be JSON, and no stream"),
];

/// Fewer scenarios than this, and the suite itself is broken.
const LEAST: usize = 20;

/// Longest time until a server says where it is. The proxy may have to start a daemon, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// How a suite gets to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Directly,
    /// Through the proxy, which reaches the server over HTTP.
    ThroughHttp,
    /// Through the proxy, whose children the servers are.
    ThroughStdio,
}

const WAYS: [Way; 3] = [Way::Directly, Way::ThroughHttp, Way::ThroughStdio];

/// What the scenarios came to, by name.
type Outcome = BTreeMap<String, Vec<Check>>;

/// What one check came to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Check {
    id: String,
    status: String,
    why: Option<String>,
}

/// Runs every suite on every way, all at once (they mostly wait), and compares.
pub(super) fn compare(peers: &Peers<'_>, node: &Node) -> Count {
    let mut count = Count::default();
    let mut add = |more: Count| {
        count.passed += more.passed;
        count.failed += more.failed;
    };
    let mut installed = Vec::new();
    for suite in &SUITES {
        match node.install(&peers.cache, suite.package) {
            Err(why) => add(skipped(&why)),
            Ok(folder) => installed.push((suite, folder)),
        }
    }
    thread::scope(|scope| {
        let run =
            |suite: &'static Suite, folder: PathBuf, way| scope.spawn(move || suite.run(peers, node, &folder, way));
        let runs: Vec<_> = installed
            .into_iter()
            .map(|(suite, folder)| (suite, WAYS.map(|way| run(suite, folder.clone(), way))))
            .collect();
        for (suite, runs) in runs {
            add(suite.compare(runs.map(|run| run.join().unwrap_or_else(|_| Err("the run broke off".to_owned())))));
        }
    });
    count
}

impl Suite {
    /// What the ways came to, in the order of [`WAYS`].
    fn compare(&self, outcomes: [Result<Outcome, String>; WAYS.len()]) -> Count {
        let [directly, through @ ..] = outcomes;
        let [direct_way, through_ways @ ..] = WAYS;
        let directly = match directly {
            Ok(directly) => directly,
            Err(why) => return self.broke(direct_way, &why),
        };
        let mut count = self.judge(&directly);
        for (way, through) in through_ways.into_iter().zip(through) {
            let more = match through {
                Ok(through) => self.beside(way, &directly, &through),
                Err(why) => self.broke(way, &why),
            };
            count.passed += more.passed;
            count.failed += more.failed;
        }
        count
    }

    fn broke(&self, way: Way, why: &str) -> Count {
        println!("   {}, {way}: {why}", self.title);
        Count { passed: 0, failed: 1 }
    }

    /// Everything passes directly.
    fn judge(&self, directly: &Outcome) -> Count {
        let mut count = Count::default();
        for (scenario, checks) in directly {
            let bad: Vec<&Check> = checks.iter().filter(|check| check.is_bad()).collect();
            *(if bad.is_empty() { &mut count.passed } else { &mut count.failed }) += 1;
            for check in bad {
                println!("   {}, {}: FAILED {scenario}: {check}", self.title, Way::Directly);
            }
        }
        println!("   {}, {}: {} scenarios passed, {} failed", self.title, Way::Directly, count.passed, count.failed);
        if directly.len() < LEAST {
            println!("   {}: {} scenarios; the suite did not run as it should", self.title, directly.len());
            count.failed += 1;
        }
        count
    }

    /// The proxy makes no difference.
    fn beside(&self, way: Way, directly: &Outcome, through: &Outcome) -> Count {
        let mut count = Count::default();
        for scenario in directly.keys().chain(through.keys()).collect::<BTreeSet<_>>() {
            let differences = differences(directly.get(scenario), through.get(scenario));
            *(if differences.is_empty() { &mut count.passed } else { &mut count.failed }) += 1;
            for difference in differences {
                println!("   {}, {way}: DIFFERS {scenario}: {difference}", self.title);
            }
        }
        for (id, why) in NOT_OWED.iter().filter(|(id, _)| has(directly, id) && !has(through, id)) {
            println!("   {}, {way}: not checked: {id}: {why}", self.title);
        }
        println!("   {}, {way}: {} scenarios the same as directly, {} not", self.title, count.passed, count.failed);
        count
    }

    /// One run of the suite: against a server of its own, behind a proxy of its own.
    fn run(&self, peers: &Peers<'_>, node: &Node, folder: &Path, way: Way) -> Result<Outcome, String> {
        let name =
            format!("{}-{}-{way:?}", folder.file_name().unwrap_or_default().display(), self.revision.unwrap_or("1"));
        let here = peers.scratch.join("conformance-peer").join(&name);
        let store = here.join("store");
        let program = peers.program().with_file_name("examples").join("conformance_peer");
        fs::create_dir_all(&here).map_err(|error| format!("{}: {error}", here.display()))?;
        let upstream = match way {
            Way::ThroughStdio => None,
            Way::Directly | Way::ThroughHttp => {
                Some(Running::start(Command::new(&program).args(["--http", "127.0.0.1:0"]), &here.join("server.log"))?)
            }
        };
        let proxy = (way != Way::Directly).then(|| {
            let mut command = Command::new(peers.program());
            command.args(["mcp", "proxy", "--listen", "127.0.0.1:0", "--session", &format!("conformance/{name}")]);
            command.arg("--store").arg(&store);
            match &upstream {
                Some(upstream) => command.args(["--http", &upstream.url]),
                None => command.arg("--").arg(&program),
            };
            Running::start(peers.at_home(&mut command), &here.join("proxy.log"))
        });
        let outcome = proxy.transpose().and_then(|proxy| {
            let url = proxy.as_ref().or(upstream.as_ref()).map_or("", |server| server.url.as_str());
            self.ask(node, folder, url, &here.join("results"))
        });
        if store.exists() {
            peers.stop(&store);
        }
        outcome
    }

    /// Runs the suite against what is there, and reads what it wrote.
    fn ask(&self, node: &Node, folder: &Path, url: &str, results: &Path) -> Result<Outcome, String> {
        fs::create_dir_all(results).map_err(|error| format!("{}: {error}", results.display()))?;
        let mut command = node.run(folder);
        command.arg("node_modules/@modelcontextprotocol/conformance/dist/index.js").arg("server");
        command.args(["--url", url]).arg("-o").arg(results);
        match self.revision {
            // What the revision requires, and its extensions and what came later, too.
            Some(revision) => command.args(["--requirements", revision]),
            None => command.args(["--suite", "all"]),
        };
        // Whether it passed is in what it wrote.
        drop(quietly(&mut command));
        read(results)
    }
}

/// A server that says on its first line where it is, ended when this is dropped.
struct Running {
    child: Child,
    url: String,
}

impl Running {
    /// What it says of errors goes to `log`.
    fn start(command: &mut Command, log: &Path) -> Result<Self, String> {
        let shown = command.get_program().display().to_string();
        let errors = fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = spawned.map_err(|error| format!("{shown}: {error}"))?;
        let (sender, receiver) = mpsc::channel();
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || {
                let mut out = BufReader::new(out);
                let mut line = String::new();
                // The pipe is read to its end, that nobody is ended for writing to it.
                while out.read_line(&mut line).is_ok_and(|read| read > 0) {
                    drop(sender.send(std::mem::take(&mut line)));
                }
            });
        }
        let said = receiver.recv_timeout(START).unwrap_or_default();
        let running = Self { child, url: said.trim().to_owned() };
        if running.url.starts_with("http://") {
            Ok(running)
        } else {
            Err(format!("{shown} did not say where it is, but `{}`; see {}", running.url, log.display()))
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            println!("   process {}: {error}", self.child.id());
        }
    }
}

impl Check {
    fn is_bad(&self) -> bool {
        self.status != "SUCCESS" && self.status != "SKIPPED"
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.status)?;
        self.why.iter().try_for_each(|why| write!(f, " ({why})"))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directly => "directly",
            Self::ThroughHttp => "through the proxy, over HTTP",
            Self::ThroughStdio => "through the proxy, over stdio",
        })
    }
}

/// What a suite wrote: a folder for each scenario, `server-NAME-TIME`, with its checks.
fn read(results: &Path) -> Result<Outcome, String> {
    let told = |path: &Path, why: &dyn fmt::Display| format!("{}: {why}", path.display());
    let mut outcome = Outcome::new();
    for entry in fs::read_dir(results).map_err(|error| told(results, &error))? {
        let folder: PathBuf = entry.map_err(|error| told(results, &error))?.path();
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(scenario) = scenario(name) else { continue };
        let checks = match fs::read_to_string(folder.join("checks.json")) {
            Ok(text) => checks(&text).ok_or_else(|| told(&folder, &"these are no checks"))?,
            Err(error) => {
                let why = Some(format!("it did not come to its end: {error}"));
                vec![Check { id: scenario.to_owned(), status: "FAILURE".to_owned(), why }]
            }
        };
        outcome.insert(scenario.to_owned(), checks);
    }
    Ok(outcome)
}

/// The scenario that a folder is of: between `server-` and the time, as in `2026-11-29T18-00-00-000Z`.
fn scenario(folder: &str) -> Option<&str> {
    const TIME: usize = "-2026-11-29T18-00-00-000Z".len();
    let rest = folder.strip_prefix("server-")?;
    rest.get(..rest.len().checked_sub(TIME)?)
}

/// The checks of a scenario, in order of their names. What is only for information is left out.
fn checks(text: &str) -> Option<Vec<Check>> {
    let Ok(Value::Array(all)) = serde_json::from_str(text) else { return None };
    let word = |check: &Value, name: &str| check.get(name).and_then(Value::as_str).map(str::to_owned);
    let read = |check: Value| {
        Some(Check { id: word(&check, "id")?, status: word(&check, "status")?, why: word(&check, "errorMessage") })
    };
    let mut checks = all.into_iter().map(read).collect::<Option<Vec<_>>>()?;
    checks.retain(|check| check.status != "INFO");
    checks.sort();
    Some(checks)
}

/// Whether any scenario made a check.
fn has(outcome: &Outcome, id: &str) -> bool {
    outcome.values().flatten().any(|check| check.id == id)
}

/// Checks that came to something else, or that are on one side only: both sides.
fn differences(directly: Option<&Vec<Check>>, through: Option<&Vec<Check>>) -> Vec<String> {
    let (Some(directly), Some(through)) = (directly, through) else {
        let side = if directly.is_some() { "directly" } else { "through the proxy" };
        return vec![format!("it was run {side} only")];
    };
    let ids: BTreeSet<&str> = directly.iter().chain(through).map(|check| check.id.as_str()).collect();
    let of = |side: &[Check], id: &str| side.iter().filter(|check| check.id == id).cloned().collect::<Vec<_>>();
    let came_to = |side: &[Check]| side.iter().map(|check| check.status.clone()).collect::<Vec<_>>();
    let shown = |side: &[Check]| match side {
        [] => "nothing".to_owned(),
        side => side.iter().map(Check::to_string).collect::<Vec<_>>().join(", "),
    };
    let pairs = ids.into_iter().map(|id| (of(directly, id), of(through, id)));
    let owed = |directly: &[Check]| directly.iter().all(|check| NOT_OWED.iter().all(|(id, _)| *id != check.id));
    let differing = pairs
        .filter(|(directly, through)| came_to(directly) != came_to(through) && (owed(directly) || !through.is_empty()));
    differing.map(|(directly, through)| format!("directly {}; now {}", shown(&directly), shown(&through))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = r#"[{"id":"b","status":"SUCCESS"},{"id":"a","status":"INFO"},{"id":"b","status":"SUCCESS"}]"#;

    #[test]
    fn folders_and_checks_are_read_as_the_suites_write_them() {
        assert_eq!(scenario("server-tools-call-image-2026-11-29T18-00-00-000Z"), Some("tools-call-image"));
        assert_eq!(scenario("client-initialize-2026-11-29T18-00-00-000Z"), None);
        let read = checks(PASSED).unwrap();
        assert_eq!(read.iter().map(Check::to_string).collect::<Vec<_>>(), ["b SUCCESS", "b SUCCESS"]);
        assert_eq!(checks("{}"), None);
    }

    #[test]
    fn a_difference_is_a_check_that_came_to_something_else_or_is_not_there() {
        let same = checks(PASSED).unwrap();
        assert_eq!(differences(Some(&same), Some(&same)), Vec::<String>::new());
        let failed = checks(r#"[{"id":"b","status":"SUCCESS"},{"id":"b","status":"FAILURE","errorMessage":"no"}]"#);
        let found = differences(Some(&same), failed.as_ref());
        assert_eq!(found, ["directly b SUCCESS, b SUCCESS; now b FAILURE (no), b SUCCESS"]);
        let fewer = checks(r#"[{"id":"b","status":"SUCCESS"}]"#);
        assert_eq!(differences(Some(&same), fewer.as_ref()).len(), 1);
        assert_eq!(differences(Some(&same), Some(&Vec::new())), ["directly b SUCCESS, b SUCCESS; now nothing"]);
        assert_eq!(differences(Some(&same), None), ["it was run directly only"]);
        let resumed =
            |status: &str| checks(&format!(r#"[{{"id":"server-sse-disconnect-resume","status":"{status}"}}]"#));
        assert_eq!(differences(resumed("SUCCESS").as_ref(), resumed("INFO").as_ref()), Vec::<String>::new());
        assert_eq!(differences(resumed("SUCCESS").as_ref(), resumed("WARNING").as_ref()).len(), 1);
    }
}
