//! Damage is seen: in exit codes, in lists, by name, and with what to do.

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
    io::{Read, Write},
};

use binary::{Ended, Store, signal};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A store with two sessions, the first of which has records beyond a gap: what a lost frame leaves.
fn hurt() -> (Store, String) {
    let store = Store::new();
    store.run(&["session", "create", "team/hurt"]).ok();
    store.run(&["session", "create", "well"]).ok();
    store.run(&["session", "fork", "team/hurt", "child"]).ok();
    let rows = store.run(&["session", "ls", "--namespace", "team", "--json"]).ok().json();
    let id = rows["rows"][0]["session_id"].as_str().unwrap().to_owned();
    store.run(&["stop"]).ok();
    fs::create_dir_all(store.dir().join("quarantine")).unwrap();
    fs::write(store.dir().join(format!("quarantine/session-{id}-4-5.records")), b"whatever").unwrap();
    (store, id)
}

#[track_caller]
fn damaged(ended: Ended) -> Ended {
    assert_eq!(ended.code, 4, "{ended:?}");
    ended
}

fn http(address: &str, path: &str) -> Value {
    let mut stream = std::net::TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost:{}\r\nconnection: close\r\n\r\n",
        address.rsplit(':').next().unwrap()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn a_session_that_is_set_aside_is_seen_everywhere() {
    let (store, id) = hurt();
    let looked = damaged(store.run(&["doctor"]));
    assert!(looked.out.contains("session team/hurt"), "by name, at rest: {looked:?}");
    assert!(looked.out.contains("quarantine show team/hurt"), "what to do: {looked:?}");

    let (mut daemon, said) = store.serve(&[]);
    let list = store.run(&["session", "ls"]).ok();
    assert!(list.out.contains("SET ASIDE") && list.out.contains("session show NAME"), "{list:?}");
    let rows = store.run(&["session", "ls", "--json"]).ok().json();
    let marked: Vec<&str> = rows["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["damage"].is_string())
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(marked, ["hurt"], "{rows}");

    let shown = damaged(store.run(&["session", "show", "team/hurt"]));
    assert!(shown.err.contains("quarantine discard team/hurt"), "an action: {shown:?}");
    assert!(shown.out.contains("team/hurt") && shown.out.contains("needs_decision"), "{shown:?}");
    let history = damaged(store.run(&["session", "history", "team/hurt"]));
    assert!(history.out.contains("session_created"), "what is before it: {history:?}");
    // It ends and says why, instead of asking for ever.
    damaged(store.run(&["session", "history", "team/hurt", "--follow"]));
    let child = store.run(&["session", "show", "child"]).ok();
    assert!(child.out.contains("team/hurt at seq 1"), "{child:?}");

    let doctor = damaged(store.run(&["doctor"]));
    assert!(doctor.out.contains("session team/hurt"), "{doctor:?}");
    assert!(doctor.out.contains("quarantine show team/hurt"), "{doctor:?}");
    assert!(damaged(store.run(&["recover"])).err.contains("quarantine show"), "no way round in a circle");
    for args in [vec!["recover"], vec!["verify"]] {
        let found = damaged(store.run(&args));
        assert!(found.out.contains("team/hurt") && !found.out.contains(&format!("session {id}")), "{found:?}");
        assert!(!found.err.contains("0 damaged") && !found.out.contains("session NAME"), "{found:?}");
    }
    let report = damaged(store.run(&["verify", "--json"]));
    assert_eq!(report.json()["findings"][0]["session_name"], "team/hurt", "{report:?}");
    let history = store.run(&["recover", "history"]).ok();
    assert!(history.out.contains("1 lost session"), "{history:?}");

    let health = http(said["addresses"][0].as_str().unwrap(), "/api/health");
    assert_eq!((&health["status"], &health["metrics"]["damagedSessions"]), (&"degraded".into(), &1.into()), "{health}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn damage_of_the_journal_is_an_exit_code() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    for number in 0..4 {
        store.run(&["memory", "set", "work", "key", &format!("\"needle-{number}\"")]).ok();
    }
    signal(store.holder().unwrap(), Signal::KILL);
    let mut spoiled = false;
    for entry in fs::read_dir(store.dir().join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(8).position(|window| window == b"needle-1") {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            spoiled = true;
        }
    }
    assert!(spoiled);
    // The kernel gives the lock back when the process is gone; until then the plan says that the store is open.
    let plan = loop {
        let plan = store.run(&["recover", "--dry-run", "--json"]);
        if plan.json()["open"].is_null() {
            break damaged(plan);
        }
    };
    assert_eq!(plan.json()["damage"].as_array().unwrap().len(), 1, "{plan:?}");
    damaged(store.run(&["doctor"]));
    store.run(&["session", "ls"]).ok();
    damaged(store.run(&["recover"]));
    damaged(store.run(&["doctor"]));
    let history = store.run(&["recover", "history"]).ok();
    assert!(history.out.contains("1 damaged range"), "{history:?}");
}

/// Bytes of a write that was torn: whether it had been acknowledged, and of whom it was, nobody can tell.
#[test]
fn an_end_of_the_journal_of_which_nothing_can_be_told_is_in_the_report() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["stop"]).ok();
    let path = fs::read_dir(store.dir().join("journal")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512);
    bytes[end..end + 600].iter_mut().zip((1..=250).cycle()).for_each(|(byte, torn)| *byte = torn);
    fs::write(&path, bytes).unwrap();
    let (mut daemon, _) = store.serve(&[]);
    let report = damaged(store.run(&["report", "--json"])).json();
    assert_eq!((&report["lost"][0]["may_be"], report["lost"].as_array().unwrap().len()), (&true.into(), 1), "{report}");
    assert_eq!(report["next"][0]["command"], "swarmkeep recover", "{report}");
    // It may have been any session's.
    let of_one = damaged(store.run(&["report", "work"]));
    assert!(of_one.out.contains("? lost             1 thing may be"), "{of_one:?}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn half_a_store_is_an_exit_code_and_the_hint_is_no_circle() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["stop"]).ok();
    fs::remove_dir_all(store.dir().join("journal")).unwrap();
    let looked = damaged(store.run(&["doctor"]));
    assert!(looked.out.contains("half of a store") && !looked.out.contains("doctor` says"), "{looked:?}");
    damaged(store.run(&["session", "ls"]));
}

#[test]
fn a_folder_where_a_file_must_be_is_said() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["stop"]).ok();
    for name in ["records.db", "views.db"] {
        let (path, away) = (store.dir().join(name), store.path(name));
        fs::rename(&path, &away).unwrap();
        fs::create_dir(&path).unwrap();
        let looked = store.run(&["doctor"]);
        assert_eq!(looked.code, 1, "{looked:?}");
        assert!(looked.out.contains(&format!("{name} is no file")), "{looked:?}");
        fs::remove_dir(&path).unwrap();
        fs::rename(&away, &path).unwrap();
    }
    store.run(&["doctor"]).ok();
}

#[test]
fn a_records_db_that_is_gone_is_made_again_and_both_are_said() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["memory", "set", "work", "plan", "1"]).ok();
    store.run(&["stop"]).ok();
    for name in ["records.db", "records.db-wal", "records.db-shm"] {
        let _ = fs::remove_file(store.dir().join(name));
    }
    let looked = damaged(store.run(&["doctor"]));
    assert!(looked.out.contains("records.db is not there") && looked.out.contains("recover --dry-run"), "{looked:?}");
    let plan = damaged(store.run(&["recover", "--dry-run"]));
    assert!(plan.out.contains("make it again") && plan.out.contains("known when it is made again"), "{plan:?}");
    assert!(!store.dir().join("records.db").exists(), "a look changes nothing");
    assert_eq!(store.run(&["memory", "get", "work", "plan"]).ok().out, "1\n");
    // Nothing is missing: that is a notice, and nobody has to do anything.
    let report = store.run(&["recover"]).ok();
    assert!(report.out.contains("made again") && report.out.contains("nothing is missing"), "{report:?}");
    let report = store.run(&["recover", "--json"]).ok().json();
    assert_eq!((&report["damage"][0]["loss"], &report["records_rebuilt"]), (&json!("none"), &true.into()), "{report}");
    let looked = store.run(&["doctor"]).ok();
    assert!(looked.out.contains("put right without loss"), "{looked:?}");
    let history = store.run(&["recover", "history"]).ok();
    assert!(history.out.contains("1 notice") && !history.out.contains("1 damaged range"), "{history:?}");
    store.run(&["verify"]).ok();
}
