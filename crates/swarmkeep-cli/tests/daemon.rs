//! The daemon: started once, held by one, stopped cleanly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod binary;

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use binary::{Store, ended, signal};
use rustix::process::Signal;

#[test]
fn twenty_at_once_start_one_daemon() {
    let store = Store::new();
    let children: Vec<_> = (0..20)
        .map(|number| {
            let name = format!("s-{number}");
            store
                .command(&["session", "create", &name, "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let log = fs::read_to_string(store.dir().join("daemon.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.starts_with("swarmkeep ")).count(), 1, "{log}");
    assert_eq!(store.run(&["session", "ls", "--json"]).ok().json()["rows"].as_array().unwrap().len(), 20);
    assert_eq!(fs::metadata(store.dir()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_holder_is_refused_and_told_who_has_it() {
    let store = Store::new();
    let (mut first, said) = store.serve(&[]);
    let second = store.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, 3, "{second:?}");
    assert!(second.err.contains(&format!("process {}", said["pid"])), "{second:?}");
    assert_eq!(store.run(&["session", "ls"]).ok().code, 0, "the first one goes on");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn sigterm_parks_and_exits_0() {
    for end in [Signal::TERM, Signal::INT] {
        let store = Store::new();
        let (mut daemon, _) = store.serve(&[]);
        store.run(&["session", "create", "work"]).ok();
        store.run(&["task", "create", "work", "something"]).ok();
        signal(i32::try_from(daemon.id()).unwrap(), end);
        assert!(daemon.wait().unwrap().success());
        let plan = store.run(&["recover", "--dry-run", "--json"]).ok().json();
        assert_eq!((&plan["clean"], &plan["frames"]), (&true.into(), &0.into()), "{plan}");
        assert!(!store.dir().join("control.sock").exists());
    }
}

#[test]
fn after_kill_9_everything_acknowledged_is_there() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["memory", "set", "work", "plan", "{\"a\":[1,2.0]}"]).ok();
    signal(store.holder().unwrap(), Signal::KILL);
    let value = store.run(&["memory", "get", "work", "plan"]).ok();
    assert_eq!(value.out, "{\"a\":[1,2.0]}\n");
    let history = store.run(&["recover", "history", "--json"]).ok().json();
    assert_eq!(history["recoveries"][0]["clean"], false, "{history}");
    assert_eq!(store.run(&["verify", "--json"]).ok().json()["findings"], serde_json::json!([]));
}

#[test]
fn nothing_is_started_where_that_is_forbidden() {
    let store = Store::new();
    let refused = store.run(&["session", "ls", "--no-start", "--json"]);
    assert_eq!((refused.code, refused.json()["error"]["exit"].as_u64()), (3, Some(3)), "{refused:?}");
    assert!(refused.err.contains("next:") && refused.err.contains("swarmkeep serve"));
    assert!(!store.dir().exists());
    store.run(&["doctor", "--json"]).ok();
    assert!(!store.dir().exists(), "looking makes nothing");
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let store = Store::new();
    fs::create_dir_all(store.dir().join("journal")).unwrap();
    fs::write(store.dir().join("records.db"), b"this is no database, and never was one, whatever its name says")
        .unwrap();
    let refused = store.run(&["session", "ls"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("records.db"), "the end of its log is shown: {refused:?}");
}

#[test]
fn over_tcp_with_a_token() {
    let store = Store::new();
    let token = "0123456789abcdef0123";
    let (mut daemon, said) = store.serve(&["--set", &format!("token={token}")]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    let refused = ended(store.command(&["session", "ls", "--url", &url]).env_remove("SWARMKEEP_HOME"));
    assert_eq!(refused.code, 1, "{refused:?}");
    ended(store.command(&["session", "ls", "--url", &url]).env("SWARMKEEP_TOKEN", token)).ok();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
