//! A daemon that is stopped for a while (SIGSTOP, a suspended machine) passes no verdict on those who were not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod binary;

use std::time::Duration;

use binary::{Store, signal};
use rustix::process::Signal;

/// Longer than the lease below, and than what the daemon takes for a missed beat.
const STOPPED: Duration = Duration::from_secs(5);

#[test]
#[allow(clippy::disallowed_methods, reason = "it is the time that passes which is tested")]
fn a_lease_outlives_a_stop_of_the_daemon_that_is_longer_than_it() {
    let store = Store::new();
    let (mut daemon, said) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    store.run(&["agent", "spawn", "work", "--id", "worker", "--kind", "worker"]).ok();
    store.run(&["task", "create", "work", "--id", "t", "long"]).ok();
    let claimed = store.run(&["task", "claim", "work", "t", "--agent", "worker", "--lease-ms", "4000", "--json"]).ok();
    let lease = claimed.json();
    let pid = i32::try_from(said["pid"].as_i64().unwrap()).unwrap();
    signal(pid, Signal::STOP);
    std::thread::sleep(STOPPED);
    signal(pid, Signal::CONT);
    let lease = lease["outcomes"][0]["claimed"]["lease"].to_string();
    store.run(&["task", "heartbeat", "work", "t", "--lease", &lease]).ok();
    let task = store.run(&["task", "show", "work", "t", "--json"]).ok().json();
    assert_eq!((&task["status"], &task["retry_count"]), (&"running".into(), &0.into()), "{task}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
