//! Alerts, through the binary: a session that does not come back is one, and it ends when somebody sees to the session.

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

use binary::Store;
use serde_json::Value;

fn health(said: &Value) -> Value {
    let address = said["addresses"][0].as_str().unwrap().strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let port = address.rsplit(':').next().unwrap();
    write!(stream, "GET /api/health HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn kinds(health: &Value) -> Vec<&str> {
    health["alerts"].as_array().unwrap().iter().map(|alert| alert["type"].as_str().unwrap()).collect()
}

#[test]
fn a_session_that_does_not_come_back_is_an_alert_until_somebody_sees_to_it() {
    let store = Store::new();
    let (mut daemon, said) = store.serve(&[]);
    for session in ["team/hurt", "well"] {
        store.run(&["session", "create", session]).ok();
    }
    assert_eq!(kinds(&health(&said)), [""; 0]);
    let rows = store.run(&["session", "ls", "--namespace", "team", "--json"]).ok().json();
    let id = rows["rows"][0]["session_id"].as_str().unwrap().to_owned();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // Records beyond a gap: what a lost frame leaves. The session ends at seq 1, so 2 and 3 are lost.
    let beyond = store.dir().join(format!("quarantine/session-{id}-4-5.records"));
    fs::create_dir_all(beyond.parent().unwrap()).unwrap();
    fs::write(&beyond, b"whatever").unwrap();

    let (mut daemon, said) = store.serve(&[]);
    let hurt = health(&said);
    assert_eq!(kinds(&hurt), ["RECOVERY_FAILURE_RATE_HIGH", "DATA_LOSS_HIGH"], "{hurt}");
    let track = &hurt["metrics"]["recovery"];
    assert_eq!((&track["recoveries"], &hurt["status"]), (&2.into(), &"degraded".into()), "{hurt}");
    assert_eq!(track["recovery_success_percent"], 50.0, "{hurt}");
    let by_type = &track["recovery_success_percent_by_type"];
    assert_eq!((&by_type["process_crash"], &by_type["state_corruption"]), (&100.0.into(), &0.0.into()), "{hurt}");
    assert!(track["data_loss_percent"].as_f64().unwrap() > 20.0, "2 of 5, and of what was replayed: {hurt}");
    assert!(track["checksum_failures"].as_u64().unwrap() > 0, "{hurt}");
    let doctor = store.run(&["doctor"]);
    assert!(doctor.out.contains("RECOVERY_FAILURE_RATE_HIGH"), "{doctor:?}");

    // A person decides to go on without: the session is whole from before the gap.
    store.run(&["quarantine", "discard", "team/hurt"]).ok();
    store.run(&["stop"]).ok();
    daemon.wait().unwrap();
    assert!(!beyond.exists(), "it has another name now");
    let (mut daemon, said) = store.serve(&[]);
    let decided = health(&said);
    // It is served again. What was lost is lost, and said for a day.
    assert_eq!(kinds(&decided), ["DATA_LOSS_HIGH"], "{decided}");
    let track = &decided["metrics"]["recovery"];
    assert_eq!((&track["recoveries"], &track["recovery_success_percent"]), (&2.into(), &100.0.into()), "{decided}");
    assert_eq!(track["recovery_success_percent_by_type"]["state_corruption"], 100.0, "{decided}");
    assert_eq!(track["integrity_validation_success_percent"], 100.0, "{decided}");
    let doctor = store.run(&["doctor"]);
    assert!(doctor.out.contains("DATA_LOSS_HIGH"), "{doctor:?}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
