//! records.db of a running daemon: overwritten, replaced, taken away.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::{
    at_rest,
    binary::{Store, signal, until},
    end, until_the_journal_lets_go_of,
};

/// records.db is overwritten under a daemon, and nothing of it stands anywhere else: what the daemon has in RAM is a copy too. It
/// saves that by itself, before anybody asks, and says what is lost as history.
#[test]
fn what_a_daemon_has_in_ram_stands_for_a_records_db_that_is_lost() {
    let store = at_rest();
    let (daemon, _) = store.serve(&[]);
    until_the_journal_lets_go_of(&store, "first-needle-");
    // All of it is in the main file from then on.
    end(daemon);
    let (daemon, _) = store.serve(&[]);
    store.run(&["memory", "get", "work", "first"]).ok();
    let path = store.dir().join("records.db");
    let zeros = vec![0; usize::try_from(fs::metadata(&path).unwrap().len()).unwrap()];
    fs::write(&path, zeros).unwrap();
    store.run(&["memory", "set", "work", "fourth", "4"]);
    let recovered = || {
        let shown = store.run(&["quarantine", "show", "work", "--json"]);
        (shown.code == 0)
            .then(|| shown.json()["recovery"].clone())
            .filter(|recovery| !recovery["ended_at_ms"].is_null())
    };
    let mut recovery = None;
    until("it is recovered by itself", || {
        recovery = recovered();
        recovery.is_some()
    });
    let recovery = recovery.unwrap();
    assert_eq!(
        (&recovery["event"], recovery["data_loss_percent"].as_f64()),
        (&json!("session_recovered_with_loss"), Some(0.0)),
        "{recovery}"
    );
    assert!(!recovery["history_lost"].as_array().unwrap().is_empty(), "{recovery}");
    assert!(recovery["restored"].to_string().contains("\"ram\""), "{recovery}");
    store.run(&["memory", "set", "work", "fifth", "5"]).ok();
    end(daemon);

    let (daemon, _) = store.serve(&[]);
    for (key, value) in [("first", "first-needle-"), ("third", "third-needle-"), ("fourth", "4"), ("fifth", "5")] {
        let had = store.run(&["memory", "get", "work", key]).ok();
        assert!(had.out.contains(value), "{key}: {had:?}");
    }
    store.run(&["memory", "set", "work", "sixth", "6"]).ok();
    // What is missing of its history is said, and of nothing else that anything is wrong.
    let verified = store.run(&["verify", "work"]);
    assert!(verified.code == 4 && verified.out.contains("records are missing"), "{verified:?}");
    assert!(!verified.out.contains("DAMAGED  views"), "{verified:?}");
    end(daemon);
}

/// Somebody copies an older records.db over the one that a daemon has open: SQLite would make one file of both.
#[test]
fn an_older_file_that_is_copied_over_the_open_one_takes_nothing_with_it() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["agent", "spawn", "work", "--id", "worker"]).ok();
    store.run(&["task", "create", "work", "--id", "t", "write it up"]).ok();
    store.run(&["stop"]).ok();
    let path = store.dir().join("records.db");
    let older = fs::read(&path).unwrap();
    for text in ["first", "second"] {
        // In two lives: what the first of them did is in the main file, and in no segment that the second has open.
        store.run(&["memory", "set", "work", text, "1"]).ok();
        store.run(&["effect", "begin", "work", text, "--agent", "worker", "--instance", text]).ok();
        store.run(&["stop"]).ok();
    }
    let claim = ["task", "claim", "work", "t", "--agent", "worker", "--json"];
    assert_eq!(store.run(&claim).ok().json()["outcomes"][0]["claimed"]["lease"], 1);
    store.run(&["stop"]).ok();
    store.run(&["memory", "get", "work", "first"]).ok();
    fs::write(&path, older).unwrap();
    store.run(&["memory", "set", "work", "third", "1"]).ok();
    until("it is made again", || {
        let history = store.run(&["recover", "history", "--json"]);
        history.code == 0 && history.out.contains("made again")
    });
    signal(store.holder().unwrap(), Signal::KILL);

    for key in ["first", "second", "third"] {
        store.run(&["memory", "get", "work", key]).ok();
    }
    for effect in ["first", "second"] {
        let again = store.run(&["effect", "begin", "work", effect, "--agent", "worker", "--instance", "next"]);
        assert_eq!(again.code, 5, "it was begun before: {again:?}");
    }
    assert_ne!(store.run(&claim).code, 0, "the lease is out");
    store.run(&["verify"]).ok();
    store.run(&["stop"]).ok();
}

/// Its name is gone, and the file is still open: all of it is there.
#[test]
fn a_file_that_is_taken_away_from_a_daemon_is_written_down_again() {
    let store = at_rest();
    let (daemon, _) = store.serve(&[]);
    until_the_journal_lets_go_of(&store, "first-needle-");
    let path = store.dir().join("records.db");
    for name in ["records.db", "records.db-wal", "records.db-shm"] {
        fs::remove_file(store.dir().join(name)).unwrap();
    }
    until("it is there again", || path.exists());
    store.run(&["memory", "set", "work", "fourth", "4"]).ok();
    end(daemon);
    let (daemon, _) = store.serve(&[]);
    for key in ["first", "second", "third", "fourth"] {
        store.run(&["memory", "get", "work", key]).ok();
    }
    store.run(&["verify"]).ok();
    end(daemon);
}
