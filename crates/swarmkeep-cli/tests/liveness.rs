//! Who counts as alive, through the binary: an agent that is stopped is overdue and loses its lease; nobody healthy does,
//! whatever the clocks say, however long its call takes, and when the machine was away.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod binary;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use binary::{Store, signal};
use rustix::process::Signal;
use serde_json::Value;

/// A lease that an agent with a beat keeps easily, also on a busy machine, and loses soon when it is silent.
const LEASE_MS: &str = "6000";
/// Longer than the lease, and than what the daemon takes for a missed beat.
const LONGER: Duration = Duration::from_secs(9);
const HOUR_S: i64 = 3_600;

#[allow(clippy::disallowed_methods, reason = "it is the time that passes which is tested")]
fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// A store with session `work`, agent `worker`, and task `t` claimed by it.
struct Swarm {
    store: Store,
    daemon: Child,
    pid: i32,
    lease: String,
}

impl Swarm {
    fn new() -> Self {
        let store = Store::new();
        fs::create_dir_all(store.dir().parent().unwrap()).unwrap();
        ahead(&store, 0);
        let (daemon, pid) = serve(&store);
        store.run(&["session", "create", "work"]).ok();
        store.run(&["agent", "spawn", "work", "--id", "worker"]).ok();
        store.run(&["task", "create", "work", "--id", "t", "long"]).ok();
        let claimed =
            store.run(&["task", "claim", "work", "t", "--agent", "worker", "--lease-ms", LEASE_MS, "--json"]).ok();
        let lease = claimed.json()["outcomes"][0]["claimed"]["lease"].to_string();
        Self { store, daemon, pid, lease }
    }

    fn task(&self) -> Value {
        self.store.run(&["task", "show", "work", "t", "--json"]).ok().json()
    }

    fn records(&self) -> Vec<Value> {
        let history = self.store.run(&["session", "history", "work", "--json"]).ok().json();
        history["records"].as_array().unwrap().clone()
    }

    /// A process that says twice a second that the worker lives, and writes down what it is answered.
    fn agent(&self) -> Agent {
        let said = self.store.path("said");
        let line = format!(
            "while :; do '{bin}' --no-start task heartbeat work t --lease {lease} --json >>'{said}' 2>&1; sleep 0.5; done",
            bin = env!("CARGO_BIN_EXE_swarmkeep"),
            lease = self.lease,
            said = said.display(),
        );
        let mut command = Command::new("sh");
        command.env_clear().env("HOME", self.store.path("")).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // A daemon of its own making would hide that ours is away.
        command.env("SWARMKEEP_HOME", self.store.dir()).args(["-c", &line]).stdin(Stdio::null()).process_group(0);
        let child = command.spawn().unwrap();
        Agent { child, said }
    }

    /// Nobody took anything from the worker, and it can go on.
    #[track_caller]
    fn is_untouched(&self) {
        let task = self.task();
        assert_eq!((&task["status"], &task["retry_count"]), (&"running".into(), &0.into()), "{task}");
        self.store.run(&["task", "heartbeat", "work", "t", "--lease", &self.lease]).ok();
        let history = self.store.run(&["recover", "history", "--json"]).ok().json();
        let silent = |failure: &&Value| failure["type"] == "agent_unresponsive";
        let failures = history["failures"].as_array().cloned().unwrap_or_default();
        assert_eq!(failures.iter().find(silent), None);
        let times: Vec<u64> = self.records().iter().map(|record| record["time_ms"].as_u64().unwrap()).collect();
        assert!(times.len() > 3 && times.is_sorted(), "{times:?}");
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The process of an agent, with its children.
struct Agent {
    child: Child,
    said: PathBuf,
}

impl Agent {
    fn signal(&self, what: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process_group(group, what).unwrap();
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Looks until it is so; for minutes, if the machine is that busy.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        pass(Duration::from_millis(200));
    }
    panic!("never: {what}");
}

/// The daemon's wall clock is ahead by so much, from now on.
fn ahead(store: &Store, seconds: i64) {
    let (file, next) = (store.path("shift"), store.path("shift.next"));
    fs::write(&next, seconds.to_string()).unwrap();
    fs::rename(next, file).unwrap();
}

/// A daemon whose wall clock [`ahead`] moves.
fn serve(store: &Store) -> (Child, i32) {
    let (source, library) = ("tests/binary/shift.c", store.path("shift.so"));
    if !library.exists() {
        let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let made = Command::new(cc).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(made.expect("the C compiler that SQLite was built with").success());
    }
    let mut command = store.command(&["serve", "--json", "--listen", "127.0.0.1:0"]);
    command.env("LD_PRELOAD", library).env("SHIFT_FILE", store.path("shift"));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    (child, i32::try_from(said["pid"].as_i64().unwrap()).unwrap())
}

#[test]
fn an_agent_that_is_stopped_is_overdue_and_its_old_lease_is_lost_when_it_goes_on() {
    let swarm = Swarm::new();
    let agent = swarm.agent();
    until("the agent's first sign of life", || !agent.said().is_empty());
    pass(LONGER);
    swarm.is_untouched();
    agent.signal(Signal::STOP);
    until("the lease is over", || swarm.task()["status"] == "pending");
    assert_eq!(swarm.task()["retry_count"], 1);
    let overdue = swarm.store.run(&["agent", "ls", "work", "--overdue", "5", "--json"]).ok().json();
    assert_eq!(overdue["agents"][0]["id"], "worker", "{overdue}");
    assert!(!agent.said().contains("lease_lost"));
    // Somebody else has the task when it wakes.
    swarm.store.run(&["agent", "spawn", "work", "--id", "second"]).ok();
    swarm.store.run(&["task", "claim", "work", "t", "--agent", "second", "--lease-ms", "600000"]).ok();
    agent.signal(Signal::CONT);
    until("its old lease is refused", || agent.said().contains("lease_lost"));
    let done = swarm.store.run(&["task", "complete", "work", "t", "--lease", &swarm.lease, "--json"]);
    assert!(done.code == 1 && done.out.contains("lease_lost"), "{done:?}");
    let task = swarm.task();
    assert_eq!((&task["status"], &task["agent_id"]), (&"running".into(), &"second".into()), "{task}");
}

#[test]
fn a_wall_clock_that_jumps_an_hour_takes_nothing_from_anybody() {
    let mut swarm = Swarm::new();
    let agent = swarm.agent();
    until("the agent's first sign of life", || !agent.said().is_empty());
    for shift_s in [HOUR_S, -HOUR_S] {
        ahead(&swarm.store, shift_s);
        swarm.store.run(&["memory", "set", "work", &format!("at {shift_s}"), "1"]).ok();
        pass(LONGER);
        swarm.is_untouched();
    }
    // The daemon sees the shifted clock, or this test says nothing.
    let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let ahead_ms = swarm.records().last().unwrap()["time_ms"].as_u64().unwrap().abs_diff(now_ms);
    assert!(ahead_ms.abs_diff(3_600_000) < 600_000, "{ahead_ms}");
    // And over a start: what was written by a clock that was ahead is read by one that is behind.
    for shift_s in [0, HOUR_S, -HOUR_S] {
        swarm.daemon.kill().unwrap();
        swarm.daemon.wait().unwrap();
        ahead(&swarm.store, shift_s);
        (swarm.daemon, swarm.pid) = serve(&swarm.store);
        pass(LONGER);
        swarm.is_untouched();
    }
}

#[test]
fn a_machine_that_was_suspended_comes_back_with_everybody_s_lease() {
    let swarm = Swarm::new();
    let agent = swarm.agent();
    until("the agent's first sign of life", || !agent.said().is_empty());
    swarm.is_untouched();
    // All stand still; the wall clock goes on for an hour.
    agent.signal(Signal::STOP);
    signal(swarm.pid, Signal::STOP);
    pass(LONGER);
    ahead(&swarm.store, HOUR_S);
    signal(swarm.pid, Signal::CONT);
    // The daemon is awake for a while before the agent is.
    pass(Duration::from_secs(2));
    agent.signal(Signal::CONT);
    pass(LONGER);
    swarm.is_untouched();
    assert!(!agent.said().contains("lease_lost"));
}

/// As a model call of 90 seconds is six times the time after which an agent is overdue, so is this one three times the
/// lease and longer than the time after which an agent that sent heartbeats is overdue.
#[test]
fn an_agent_in_a_long_call_is_alive_for_as_long_as_the_call_may_take() {
    let swarm = Swarm::new();
    swarm.store.run(&["agent", "heartbeat", "work", "worker"]).ok();
    let begin = ["effect", "begin", "work", "ask", "--agent", "worker", "--instance", "p", "--deadline-ms", "90000"];
    swarm.store.run(&begin).ok();
    pass(Duration::from_secs(20));
    swarm.is_untouched();
    swarm.store.run(&["effect", "finish", "work", "ask", "--attempt", "1", "--value", "42"]).ok();
    swarm.store.run(&["task", "complete", "work", "t", "--lease", &swarm.lease]).ok();
}
