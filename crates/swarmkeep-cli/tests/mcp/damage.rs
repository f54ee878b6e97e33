//! A damaged session, as an MCP client sees it: said, readable, and decided by a person's word.

use std::fs;

use serde_json::{Value, json};

use crate::{LEGACY, binary::Store, peer::Peer};

/// A store at rest whose session `work` has lost a value in the middle: a byte of it is another wherever it stands.
fn damaged() -> Store {
    let store = Store::new();
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(store.dir().join("swarmkeep.toml"), "journal_keep = \"0\"\n").unwrap();
    store.run(&["session", "create", "work"]).ok();
    for (key, bytes) in [("first", 3_300), ("second", 1_300), ("third", 300)] {
        let value = format!("\"{}\"", format!("{key}-needle-").repeat(bytes / 13));
        store.run(&["memory", "set", "work", key, &value]).ok();
        // What it has is in its tables: rows of several calls would be one.
        store.run(&["verify", "work"]).ok();
    }
    store.run(&["stop"]).ok();
    let needle = b"second-needle-";
    for folder in [store.dir(), store.dir().join("journal")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(mut bytes) = fs::read(&path) else { continue };
            let found = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
            let places: Vec<usize> = found.map(|(at, _)| at).collect();
            if !places.is_empty() && !path.to_string_lossy().contains("views.db") {
                places.iter().for_each(|at| bytes[*at] ^= 1);
                fs::write(&path, bytes).unwrap();
            }
        }
    }
    store
}

#[test]
fn a_damaged_session_waits_for_a_word_and_goes_on_after_it() {
    let store = damaged();
    let mut peer = Peer::begun(&store, &[], LEGACY);
    let write = |id: &str| json!({ "session": "work", "key": "new", "value": 1, "request_id": id });
    let (code, result) = peer.refused("memory_set", write("1"));
    assert_eq!(code, "needs_decision", "{result}");
    let waiting = peer.done("recovery_waiting", json!({}));
    assert_eq!(waiting["sessions"].as_array().unwrap().len(), 1, "{waiting}");
    let status = peer.done("recovery_status", json!({ "session": "work" }));
    assert!(status["plan"].is_object() || status["recovery"].is_object(), "{status}");
    let dry = peer.done("recovery_trigger", json!({ "session": "work", "accept_loss": true, "dry_run": true }));
    assert!(dry["plan"].is_object(), "{dry}");
    // A dry run has changed nothing, and nobody decides by trying again.
    peer.done("recovery_trigger", json!({ "session": "work" }));
    assert_eq!(peer.refused("memory_set", write("2")).0, "needs_decision");
    // What stands before the damage is read.
    let history = peer.done("session_history", json!({ "session": "work" }));
    assert!(!history["records"].as_array().unwrap().is_empty(), "{history}");

    let accept = json!({ "session": "work", "accept_loss": true, "actor": "user:anna" });
    let recovered = peer.done("recovery_trigger", accept);
    assert!(recovered["recovery"].is_object(), "{recovered}");
    peer.done("memory_set", write("3"));
    let none: Value = peer.done("recovery_waiting", json!({}));
    assert_eq!(none["sessions"], json!([]));
    let history = peer.done("session_history", json!({ "session": "work", "limit": 1000 }));
    assert!(history.to_string().contains("user:anna"), "who decided is in the history: {history}");
    let found = peer.done("recovery_history", json!({}));
    assert!(!found["failures"].as_array().unwrap().is_empty(), "{found}");
}
