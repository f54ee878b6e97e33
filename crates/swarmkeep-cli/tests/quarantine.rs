//! Sessions that are damaged beyond what a program may decide, through the binary: cut files and flipped bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

mod binary;
#[path = "quarantine/overwritten.rs"]
mod overwritten;

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::Child,
};

use binary::{Ended, Store};
use serde_json::{Value, json};

/// A store at rest. Its session `work` has rows of records of its own for `first`, `second` and `third`, and nothing in the
/// journal or a kept copy any more.
fn at_rest() -> Store {
    at_rest_with("journal_keep = \"0\"\n")
}

/// As [`at_rest`], with settings of its own.
fn at_rest_with(settings: &str) -> Store {
    let store = Store::new();
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(store.dir().join("swarmkeep.toml"), settings).unwrap();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["session", "create", "well"]).ok();
    for (key, bytes) in [("first", 3_300), ("second", 1_300), ("third", 300)] {
        let value = format!("\"{}\"", format!("{key}-needle-").repeat(bytes / 13));
        store.run(&["memory", "set", "work", key, &value]).ok();
        // What it has is in its tables: rows of several calls would be one.
        store.run(&["verify", "work"]).ok();
    }
    store.run(&["stop"]).ok();
    store
}

/// Flips a byte wherever the store has this text.
fn spoil(store: &Store, text: &str) {
    spoil_in(&[store.dir(), store.dir().join("journal")], text);
}

/// Flips a byte wherever these folders have this text.
fn spoil_in(folders: &[PathBuf], text: &str) {
    let mut spoilt = 0;
    for folder in folders {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(mut bytes) = fs::read(&path) else { continue };
            let places: Vec<usize> = bytes
                .windows(text.len())
                .enumerate()
                .filter(|(_, window)| *window == text.as_bytes())
                .map(|(at, _)| at)
                .collect();
            if !places.is_empty() && !path.to_string_lossy().contains("views.db") {
                places.iter().for_each(|at| bytes[*at] ^= 1);
                fs::write(&path, bytes).unwrap();
                spoilt += 1;
            }
        }
    }
    assert!(spoilt >= 1, "the store has it");
}

/// Writes elsewhere, and waits until no segment of the journal has this text any more.
fn until_the_journal_lets_go_of(store: &Store, text: &str) {
    let journal = store.dir().join("journal");
    let has_it = |path: PathBuf| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    // More than a segment; then it rests, and retires what it can.
    for number in 0..12 {
        let value = format!("\"{}\"", "w".repeat(120_000));
        store.run(&["memory", "set", "well", &format!("key-{}", number % 4), &value]).ok();
    }
    binary::until("the journal lets go of it", || {
        !fs::read_dir(&journal).unwrap().any(|entry| has_it(entry.unwrap().path()))
    });
}

#[track_caller]
fn decided_by_nobody(ended: Ended) -> Ended {
    assert_eq!(ended.code, 4, "{ended:?}");
    ended
}

fn history(store: &Store) -> Value {
    store.run(&["recover", "history", "--json"]).ok().json()
}

/// The reports of one session's recoveries, newest first.
fn recoveries(store: &Store) -> Vec<Value> {
    let all = history(store)["recoveries"].as_array().unwrap().clone();
    all.into_iter().filter(|report| report["recovery"].is_object()).map(|report| report["recovery"].clone()).collect()
}

fn put(address: &str, key: &str) -> (u16, Value) {
    asked(address, &format!("PUT /v1/sessions/default/work/memory/shared/{key}"), "1")
}

fn get(address: &str, path: &str) -> (u16, Value) {
    asked(address, &format!("GET {path}"), "")
}

fn asked(address: &str, what: &str, body: &str) -> (u16, Value) {
    let text = answered(address, what, body);
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap())
}

/// The head of the answer.
fn head_of(address: &str, what: &str) -> String {
    answered(address, what, "").split_once("\r\n\r\n").unwrap().0.to_ascii_lowercase()
}

fn answered(address: &str, what: &str, body: &str) -> String {
    let address = address.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let port = address.rsplit(':').next().unwrap();
    write!(
        stream,
        "{what} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn end(mut daemon: Child) {
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn a_session_that_needs_a_decision_is_read_and_not_written_until_there_is_one() {
    let store = at_rest();
    spoil(&store, "second-needle-");
    // The plan, while nobody holds the store.
    let at_rest = decided_by_nobody(store.run(&["recover", "--dry-run", "--json"])).json();
    let (daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();

    // Read: what is before the damage, marked as not being all.
    let value = decided_by_nobody(store.run(&["memory", "get", "work", "first"]));
    assert!(value.out.contains("first-needle") && value.err.contains("up to seq 2 of 4"), "{value:?}");
    let shown = decided_by_nobody(store.run(&["session", "show", "work"]));
    assert!(shown.out.contains("needs_decision") && shown.err.contains("quarantine discard work"), "{shown:?}");
    let state = decided_by_nobody(store.run(&["session", "state", "work", "--json"])).json();
    assert_eq!(state["head"]["seq"], 2, "{state}");
    let history = decided_by_nobody(store.run(&["session", "history", "work"]));
    assert!(history.out.contains("session_created"), "{history:?}");
    decided_by_nobody(store.run(&["session", "history", "work", "--follow"]));

    // Not written: a typed refusal that says what to do.
    let refused = decided_by_nobody(store.run(&["memory", "set", "work", "fourth", "4", "--json"]));
    assert_eq!(refused.json()["error"]["code"], "needs_decision", "{refused:?}");
    assert!(refused.json()["error"]["next"].as_str().unwrap().contains("quarantine show work"), "{refused:?}");
    let what = refused.json()["error"]["what"].as_str().unwrap().to_owned();
    assert!(what.starts_with("session work needs a decision"), "by its name: {what}");
    let (status, problem) = put(&url, "fourth");
    assert_eq!((status, &problem["code"]), (409, &"needs_decision".into()), "{problem}");
    store.run(&["memory", "set", "well", "key", "1"]).ok();

    // The plan, before anything is touched.
    let ls = store.run(&["quarantine", "ls", "--json"]).ok().json();
    let waiting = &ls["sessions"][0];
    assert_eq!((&waiting["session_name"], &waiting["reaches"]), (&"default/work".into(), &2.into()), "{ls}");
    assert_eq!(waiting["plan"]["known_head"], 4);
    assert_eq!(waiting["data_loss_percent"], 50.0);
    assert_eq!(waiting["lost"][0]["first"], 3);
    assert!(waiting["entities_lost"].to_string().contains("third"), "what can still be read of it: {waiting}");
    let plan = store.run(&["quarantine", "discard", "work", "--dry-run", "--json"]).ok().json();
    let steps: Vec<&str> =
        plan["plan"]["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert!(steps.contains(&"roll_back") && steps.contains(&"validate"), "{plan}");
    assert_eq!(plan["plan"]["recommended"], "review", "{plan}");
    store.run(&["task", "create", "well", "write it up"]).ok();
    let report = decided_by_nobody(store.run(&["report", "--json"])).json();
    let asked = &report["waiting"][0];
    assert_eq!((&asked["session"], &asked["what"]), (&"default/work".into(), &"needs_decision".into()), "{report}");
    assert_eq!(asked["settle"][0], "swarmkeep quarantine show default/work");
    assert_eq!(
        report["next"].as_array().unwrap().iter().filter(|step| step["command"] == asked["settle"][0]).count(),
        1
    );
    let while_open = decided_by_nobody(store.run(&["recover", "--dry-run", "--json"])).json();
    assert_eq!((&at_rest["open"], &while_open["open"]), (&Value::Null, &true.into()));
    assert_eq!((&at_rest["sessions"], &while_open["sessions"]), (&2.into(), &2.into()), "{at_rest}");
    for field in [
        "session_name",
        "strategy",
        "proposed",
        "recommended",
        "reaches",
        "known_head",
        "loss",
        "estimated_ms",
        "steps",
    ] {
        assert!(!at_rest["plans"][0][field].is_null(), "{field}: {at_rest}");
        assert_eq!(at_rest["plans"][0][field], while_open["plans"][0][field], "{field}");
    }
    assert_eq!(at_rest["plans"][0]["proposed"], "CHECKPOINT_ROLLBACK", "{at_rest}");
    let open = decided_by_nobody(store.run(&["recover", "--dry-run"]));
    assert!(open.out.contains("estimated loss: 50.00 %") && open.out.contains("accept_rollback"), "{open:?}");
    let shown = store.run(&["quarantine", "show", "work"]).ok();
    assert!(shown.out.contains("seq 2 of 4") && shown.out.contains("quarantine restore"), "{shown:?}");
    // No copy has come back.
    decided_by_nobody(store.run(&["quarantine", "restore", "work"]));
    end(daemon);

    // Over a restart it waits as before; then somebody decides.
    let (daemon, _) = store.serve(&[]);
    decided_by_nobody(store.run(&["memory", "set", "work", "fourth", "4"]));
    // Every session was looked at, and this one is listed as not back, by everybody.
    decided_by_nobody(store.run(&["recover"]));
    decided_by_nobody(store.run(&["doctor"]));
    assert!(store.run(&["session", "ls"]).ok().out.contains("SET ASIDE"));
    let before = fs::read_dir(store.dir().join("quarantine")).unwrap().count();
    let done = store.run(&["quarantine", "discard", "work", "--json"]).ok().json();
    let recovery = &done["recovery"];
    assert_eq!(recovery["event"], "session_recovered_with_loss", "{done}");
    assert_eq!((&recovery["old_head"]["seq"], &recovery["integrity_score"]), (&4.into(), &100.0.into()), "{done}");
    assert!(recovery["old_head"]["hash"].is_string() && !recovery["accepted_by"].is_null(), "{done}");
    // Accepted is lost all the same, for as long as the report is of that time.
    let report = decided_by_nobody(store.run(&["report", "--json"])).json();
    let lost = &report["lost"][0];
    assert_eq!(
        (&lost["session"], &lost["accepted_by"]),
        (&"default/work".into(), &recovery["accepted_by"]),
        "{report}"
    );
    assert_eq!(lost["what"], "seq 3 to 4: 2 records lost", "{report}");
    assert_eq!((report["lost"].as_array().unwrap().len(), &report["waiting"]), (1, &Value::Array(vec![])), "{report}");
    let nothing = store.run(&["quarantine", "discard", "well", "--json"]).ok().json();
    assert_eq!(nothing, serde_json::json!({ "recovery": null, "plan": null }));
    assert!(fs::read_dir(store.dir().join("quarantine")).unwrap().count() >= before, "nothing is deleted");
    // It is back at once, without a restart.
    let ls = store.run(&["session", "ls"]).ok();
    assert!(!ls.out.contains("SET ASIDE") && !ls.out.contains("damage"), "{ls:?}");
    store.run(&["recover"]).ok();
    let looked = store.run(&["doctor"]);
    assert!(looked.code != 4 && !looked.out.contains("set aside"), "{looked:?}");
    let out_of_reach = fs::read_dir(store.dir().join("quarantine"))
        .unwrap()
        .filter_map(|entry| fs::read(entry.unwrap().path()).ok())
        .any(|bytes| bytes.windows(13).any(|window| window == b"third-needle-"));
    assert!(out_of_reach, "what is whole beyond the gap is kept");
    store.run(&["memory", "set", "work", "fourth", "4"]).ok();
    let after = store.run(&["session", "history", "work", "--json"]).ok();
    assert!(
        after.out.contains("session_recovered_with_loss") && after.out.contains("\"old_head\""),
        "on record: {after:?}"
    );
    assert!(store.run(&["quarantine", "ls"]).ok().out.contains("no session waits"));
    store.run(&["verify"]).ok();
    let reports = recoveries(&store);
    assert_eq!(reports[0]["id"], recovery["id"], "{reports:?}");
    store.run(&["stop"]).ok();
    drop(daemon);
    let (daemon, _) = store.serve(&[]);
    assert_eq!(recoveries(&store)[0]["event"], "session_recovered_with_loss", "over a restart");
    assert!(store.run(&["memory", "get", "work", "fourth"]).ok().out.contains('4'));
    end(daemon);
}

/// Records 1 and 2 stand in one row with the damaged third, and so does the fourth, and nowhere else.
#[test]
fn what_verifies_in_a_damaged_row_is_read_while_the_session_waits() {
    let store = Store::new();
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(store.dir().join("swarmkeep.toml"), "journal_keep = \"0\"\n").unwrap();
    store.run(&["session", "create", "work"]).ok();
    // A row takes up the one before it where that is not much longer.
    for (key, times) in [("first", 10), ("second", 30), ("third", 60)] {
        store.run(&["memory", "set", "work", key, &format!("\"{}\"", format!("{key}-needle-").repeat(times))]).ok();
        store.run(&["verify", "work"]).ok();
    }
    store.run(&["stop"]).ok();
    let tables = rusqlite::Connection::open(store.dir().join("records.db")).unwrap();
    let rows: Vec<(i64, i64)> = tables
        .prepare("SELECT first_seq, last_seq FROM chunks ORDER BY first_seq")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows, [(1, 4)], "one row");
    drop(tables);
    spoil(&store, "second-needle-");

    let (daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    let state = decided_by_nobody(store.run(&["session", "state", "work", "--json"])).json();
    assert_eq!((&state["head"]["seq"], &state["info"]["status"]), (&2.into(), &"needs_decision".into()), "{state}");
    assert!(state["info"]["status_reason"].as_str().unwrap().contains("up to seq 2 of 4"), "{state}");
    let first = decided_by_nobody(store.run(&["session", "state", "work", "--at", "1", "--json"])).json();
    assert_eq!(first["head"]["seq"], 1);
    assert!(decided_by_nobody(store.run(&["memory", "get", "work", "first"])).out.contains("first-needle-"));
    let shown = decided_by_nobody(store.run(&["session", "show", "work"]));
    assert!(shown.out.contains("up to seq 2 of 4") && shown.err.contains("quarantine discard work"), "{shown:?}");
    let history = decided_by_nobody(store.run(&["session", "history", "work", "--json"])).json();
    assert_eq!(history["records"].as_array().unwrap().len(), 2, "{history}");
    assert!(history["damage"].is_string(), "{history}");
    let history = decided_by_nobody(store.run(&["session", "history", "work"]));
    assert!(history.out.contains("session_created") && history.out.contains("first"), "{history:?}");
    let (status, page) = get(&url, "/v1/sessions/default/work/records");
    assert_eq!((status, page["records"].as_array().unwrap().len()), (200, 2), "{page}");
    assert!(page["damage"].as_str().unwrap().contains("up to seq 2 of 4"), "{page}");
    assert_eq!(get(&url, "/v1/sessions/default/work/records?after=1").1["records"][0]["seq"], 2);

    decided_by_nobody(store.run(&["memory", "set", "work", "fourth", "4"]));
    store.run(&["quarantine", "discard", "work"]).ok();
    store.run(&["memory", "set", "work", "fourth", "4"]).ok();
    assert!(store.run(&["memory", "get", "work", "first"]).ok().out.contains("first-needle-"));
    let (_, page) = get(&url, "/v1/sessions/default/work/records");
    assert!(page["damage"].is_null(), "{page}");
    end(daemon);
}

#[test]
fn a_policy_accepts_the_loss_where_somebody_set_it() {
    let store = at_rest();
    spoil(&store, "second-needle-");
    fs::write(store.dir().join("swarmkeep.toml"), "journal_keep = \"0\"\naccept_loss = \"true\"\n").unwrap();
    let (daemon, _) = store.serve(&[]);
    store.run(&["memory", "set", "work", "fourth", "4"]).ok();
    let [recovery] = recoveries(&store).try_into().unwrap();
    assert_eq!(recovery["event"], "session_recovered_with_loss", "{recovery}");
    assert!(recovery["accepted_by"].is_null(), "{recovery}");
    end(daemon);
}

#[test]
fn flipped_bytes_with_a_copy_are_repaired_and_reported_without_loss() {
    let store = at_rest();
    // In the tables only: the journal has it still.
    let path = store.dir().join("records.db");
    let mut bytes = fs::read(&path).unwrap();
    let needle = b"second-needle-";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (daemon, _) = store.serve(&[]);
    let value = store.run(&["memory", "get", "work", "second"]).ok();
    assert!(value.out.contains("second-needle-"), "{value:?}");
    // It is read as soon as it is put right, and reported within moments.
    let reported = (0..500).map(|_| recoveries(&store)).find(|reports| !reports.is_empty());
    let [recovery] = reported.expect("a report").try_into().unwrap();
    assert_eq!(recovery["event"], "session_recovered", "{recovery}");
    assert_eq!((&recovery["data_loss_percent"], &recovery["integrity_score"]), (&0.0.into(), &100.0.into()));
    assert_eq!(recovery["restored"][0]["from"], "journal", "{recovery}");
    assert!(recovery["validation"]["checks"].as_array().unwrap().len() >= 4, "{recovery}");
    let steps = recovery["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["done_at_ms"].is_u64()), "each is recorded as done: {recovery}");
    // Within moments it is in the session's own history.
    let is_told =
        (0..500).any(|_| store.run(&["session", "history", "work", "--json"]).ok().out.contains("session_recovered"));
    let case = fs::read_dir(store.dir().join("recovery")).unwrap().next().unwrap().unwrap().path();
    assert!(is_told, "{}, {:?}", fs::read_to_string(case).unwrap(), store.run(&["session", "ls", "--json"]));
    // Whoever proves the store is told of it once, and it counts once.
    assert!(store.run(&["verify"]).ok().out.contains("REPAIRED"));
    assert!(!store.run(&["verify"]).ok().out.contains("REPAIRED"));
    let report = store.run(&["report", "--json"]).ok().json();
    assert_eq!(report["put_right"], recovery["restored"].as_array().unwrap().len() as u64, "{report}");
    // A death in a quiet moment leaves nothing to settle, and was no clean stop. It is quiet when the journal has its seal.
    std::thread::sleep(std::time::Duration::from_secs(1));
    end(daemon);
    let (daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    store.run(&["verify"]).ok();
    let (_, health) = get(&url, "/api/health");
    let message = health["components"]["recovery"]["message"].as_str().unwrap();
    assert!(message.starts_with("back after a crash"), "{health}");
    let last = &history(&store)["recoveries"][0];
    assert_eq!((&last["crashed"], &last["clean"]), (&true.into(), &true.into()), "{last}");
    end(daemon);
}

/// Nothing says the name of the session that is damaged: what is listed by its id is asked for by its id.
#[test]
fn a_session_without_a_name_goes_by_its_id() {
    let store = at_rest();
    for text in ["default/work", "first-needle-"] {
        spoil(&store, text);
    }
    for name in ["views.db", "views.db-wal", "views.db-shm"] {
        let _ = fs::remove_file(store.dir().join(name));
    }
    let tables = rusqlite::Connection::open(store.dir().join("records.db")).unwrap();
    let sql = "UPDATE chunks SET bytes = zeroblob(length(bytes)) \
               WHERE first_seq = 1 AND session = (SELECT id FROM sessions WHERE name = 'work')";
    assert_eq!(tables.execute(sql, []).unwrap(), 1);
    assert_eq!(tables.execute("UPDATE sessions SET checksum = zeroblob(16) WHERE name = 'work'", []).unwrap(), 1);
    drop(tables);
    let (daemon, _) = store.serve(&[]);
    decided_by_nobody(store.run(&["session", "show", "work"]));
    let ls = store.run(&["quarantine", "ls", "--json"]).ok().json();
    assert!(ls["sessions"][0]["session_name"].is_null(), "{ls}");
    let id = ls["sessions"][0]["session"].as_str().unwrap();
    for args in [&["quarantine", "ls"][..], &["recover", "history"]] {
        let listed = store.run(args).ok();
        assert!(listed.out.contains(id), "{listed:?}");
    }
    let shown = store.run(&["quarantine", "show", id]).ok();
    assert!(
        shown.out.contains("needs_decision") && shown.out.contains(&format!("quarantine discard {id}")),
        "{shown:?}"
    );
    let plan = store.run(&["quarantine", "discard", id, "--dry-run", "--json"]).ok().json();
    assert!(plan["plan"]["steps"].to_string().contains("start_fresh"), "{plan}");
    for args in [
        &["quarantine", "restore", id][..],
        &["session", "show", id],
        &["session", "history", id],
        &["recover", "--session", id],
        &["verify", id],
        &["memory", "set", id, "key", "1"],
    ] {
        let refused = decided_by_nobody(store.run(args));
        assert!(!refused.err.contains("session open") && !refused.err.contains("NAME"), "{args:?}: {refused:?}");
    }
    let unknown = store.run(&["quarantine", "show", &"0".repeat(32)]);
    assert!(unknown.code == 1 && unknown.err.contains("quarantine ls"), "{unknown:?}");
    store.run(&["quarantine", "discard", id]).ok();
    end(daemon);
}

#[test]
fn a_copy_that_is_back_in_its_place_restores_the_session_without_a_restart() {
    let store = at_rest_with("segment_bytes = \"1MiB\"\n");
    let (kept, away) = (store.dir().join("kept"), store.path("away"));
    let copies = || -> Vec<_> {
        let Ok(entries) = fs::read_dir(&kept) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".kept")).collect()
    };
    // Another session's work, until the journal has given up what `work` wrote.
    let (daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    let filler = format!("\"{}\"", "0123456789abcdef".repeat(3_800));
    for nth in 0.. {
        assert!(nth < 2_000, "the journal gives nothing up");
        if copies().len() >= 2 {
            break;
        }
        let what = format!("PUT /v1/sessions/default/well/memory/shared/filler-{}", nth % 8);
        assert_eq!(asked(&url, &what, &filler).0, 200);
    }
    store.run(&["stop"]).ok();
    drop(daemon);
    let copies = copies();
    fs::create_dir_all(&away).unwrap();
    for name in &copies {
        fs::rename(kept.join(name), away.join(name)).unwrap();
    }
    spoil(&store, "second-needle-");
    let (daemon, _) = store.serve(&[]);
    decided_by_nobody(store.run(&["memory", "set", "work", "fourth", "4"]));
    decided_by_nobody(store.run(&["quarantine", "restore", "work"]));

    for name in &copies {
        fs::rename(away.join(name), kept.join(name)).unwrap();
    }
    let plan = store.run(&["quarantine", "restore", "work", "--dry-run", "--json"]).ok().json();
    assert_eq!((&plan["plan"]["reaches"], &plan["plan"]["known_head"]), (&4.into(), &4.into()), "{plan}");
    let done = store.run(&["quarantine", "restore", "work", "--json"]).ok().json();
    let recovery = &done["recovery"];
    assert_eq!(recovery["event"], "session_recovered", "{done}");
    assert_eq!((&recovery["data_loss_percent"], &recovery["integrity_score"]), (&0.0.into(), &100.0.into()), "{done}");
    assert!(!recovery["restored"].as_array().unwrap().is_empty(), "{done}");
    assert!(store.run(&["quarantine", "ls"]).ok().out.contains("no session waits"));
    for key in ["first", "second", "third"] {
        let value = store.run(&["memory", "get", "work", key]).ok().out;
        assert!(value.contains(&format!("{key}-needle-{key}-needle-")), "{value}");
    }
    store.run(&["memory", "set", "work", "fourth", "4"]).ok();
    store.run(&["verify"]).ok();
    end(daemon);
    let (daemon, _) = store.serve(&[]);
    assert!(store.run(&["memory", "get", "work", "fourth"]).ok().out.contains('4'));
    end(daemon);
}

#[test]
fn what_stands_a_second_time_is_read_before_anybody_has_decided() {
    let store = at_rest_with("");
    let (tables, journal) = ([store.dir()], [store.dir().join("journal")]);
    spoil_in(&tables, "second-needle-");
    spoil_in(&tables, "third-needle-");
    spoil_in(&journal, "third-needle-");
    let (daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    let reads = || {
        let value = decided_by_nobody(store.run(&["memory", "get", "work", "second"]));
        assert!(value.out.contains("second-needle-second-needle-"), "{value:?}");
        assert!(value.err.contains("up to seq 3 of 4") && value.err.contains("quarantine show work"), "{value:?}");
        let state = decided_by_nobody(store.run(&["session", "state", "work", "--json"])).json();
        assert_eq!(state["head"]["seq"], 3, "{state}");
        let nothing = decided_by_nobody(store.run(&["memory", "get", "work", "third"]));
        assert!(nothing.err.contains("what can be had of it"), "{nothing:?}");
    };
    reads();
    let shown = decided_by_nobody(store.run(&["session", "show", "work"]));
    assert!(shown.out.contains("up to seq 3 of 4"), "{shown:?}");
    // Whoever speaks HTTP sees it in a header.
    let told = head_of(&url, "GET /v1/sessions/default/work/memory/shared/second");
    assert!(told.contains("swarmkeep-damage: up to seq 3 of 4 that are known"), "{told}");
    assert!(!head_of(&url, "GET /v1/sessions/default/well").contains("swarmkeep-damage"));
    end(daemon);

    let (daemon, _) = store.serve(&[]);
    reads();
    let recovery = store.run(&["quarantine", "discard", "work", "--json"]).ok().json()["recovery"].clone();
    assert_eq!((&recovery["reaches"], &recovery["old_head"]["seq"]), (&3.into(), &4.into()), "{recovery}");
    assert!(store.run(&["memory", "get", "work", "second"]).ok().out.contains("second-needle-"));
    store.run(&["verify"]).ok();
    end(daemon);
}

#[test]
fn a_session_of_which_nothing_can_be_had_is_never_begun_afresh() {
    let store = at_rest();
    for text in ["default/work", "first-needle-", "second-needle-", "third-needle-"] {
        spoil(&store, text);
    }
    let tables = rusqlite::Connection::open(store.dir().join("records.db")).unwrap();
    let sql = "UPDATE chunks SET bytes = zeroblob(length(bytes)) \
               WHERE session = (SELECT id FROM sessions WHERE name = 'work')";
    assert!(tables.execute(sql, []).unwrap() > 0);
    drop(tables);
    let (daemon, _) = store.serve(&[]);
    decided_by_nobody(store.run(&["memory", "get", "work", "first"]));
    decided_by_nobody(store.run(&["memory", "set", "work", "first", "1"]));
    decided_by_nobody(store.run(&["session", "open", "work"]));
    let restored = decided_by_nobody(store.run(&["quarantine", "restore", "work"]));
    assert!(restored.err.contains("needs a decision"), "{restored:?}");
    let plan = store.run(&["quarantine", "show", "work", "--json"]).ok().json();
    assert_eq!(plan["recovery"]["plan"]["recommended"], "restore_from_copy", "{plan}");
    let known = plan["recovery"]["plan"]["known_head"].as_u64().unwrap();
    assert!(known >= 4, "{plan}");
    let dry = store.run(&["quarantine", "discard", "work", "--dry-run", "--json"]).ok().json();
    let steps = dry["plan"]["steps"].to_string();
    assert!(steps.contains("start_fresh") && !steps.contains("load_checkpoint"), "{dry}");

    // By a person's word it is given up, and that is on record; nothing is deleted.
    let before = fs::read_dir(store.dir().join("quarantine")).unwrap().count();
    let given_up = store.run(&["quarantine", "discard", "work", "--json"]).ok().json();
    let recovery = &given_up["recovery"];
    assert_eq!((&recovery["event"], &recovery["reaches"]), (&"session_recovered_with_loss".into(), &0.into()));
    assert_eq!((&recovery["data_loss_percent"], &recovery["lost"][0]["last"]), (&100.0.into(), &known.into()));
    assert!(!recovery["accepted_by"].is_null() && recovery["old_head"]["seq"] == known, "{recovery}");
    assert!(fs::read_dir(store.dir().join("quarantine")).unwrap().count() >= before);
    assert_eq!(store.run(&["memory", "get", "work", "first"]).code, 1, "it is gone");
    assert_eq!(recoveries(&store)[0]["id"], recovery["id"]);
    let shown = store.run(&["quarantine", "show", "work", "--json"]).ok().json();
    assert_eq!(shown["recovery"]["id"], recovery["id"], "{shown}");
    store.run(&["verify"]).ok();
    end(daemon);

    // It does not come back, and the next one of its name begins with what became of it.
    let (daemon, _) = store.serve(&[]);
    assert_eq!(store.run(&["memory", "get", "work", "first"]).code, 1);
    store.run(&["session", "create", "work"]).ok();
    store.run(&["memory", "set", "work", "first", "1"]).ok();
    let history = store.run(&["session", "history", "work", "--json"]).ok();
    assert!(history.out.contains("session_recovered_with_loss") && history.out.contains("\"old_head\""), "{history:?}");
    store.run(&["verify"]).ok();
    store.run(&["memory", "get", "well", "nothing"]);
    end(daemon);
}

/// Cut in the middle, records.db has lost rows of both sessions or does not open at all; either way nobody serves less as if
/// it were all.
#[test]
fn a_cut_file_is_no_shorter_history() {
    let store = at_rest();
    let path = store.dir().join("records.db");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let looked = store.run(&["memory", "get", "work", "third", "--json"]);
    assert!(looked.code == 0 && looked.out.contains("third-needle-") || looked.code == 4, "{looked:?}");
}

/// A session `work` that waits for a decision: the claim of its task `t` is damaged. What `before` did can be had, what `after` did
/// stands whole behind it.
fn a_lost_claim(before: impl FnOnce(&Store), after: impl FnOnce(&Store)) -> Store {
    let store = Store::new();
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(store.dir().join("swarmkeep.toml"), "journal_keep = \"0\"\n").unwrap();
    let in_tables = || store.run(&["verify", "work"]).ok();
    store.run(&["session", "create", "work"]).ok();
    for agent in ["lost", "next"] {
        store.run(&["agent", "spawn", "work", "--id", agent]).ok();
    }
    store.run(&["task", "create", "work", "--id", "t", "write it up"]).ok();
    before(&store);
    in_tables();
    let claimed =
        store.run(&["task", "claim", "work", "t", "--agent", "lost", "--lease-ms", "1234567", "--json"]).ok().json();
    assert_eq!(claimed["outcomes"][0]["claimed"]["lease"], 1, "{claimed}");
    in_tables();
    after(&store);
    in_tables();
    store.run(&["stop"]).ok();
    spoil(&store, "1234567");
    let waiting = decided_by_nobody(store.run(&["session", "show", "work"]));
    assert!(waiting.out.contains("needs_decision"), "{waiting:?}");
    store
}

#[test]
fn what_was_given_out_in_lost_records_is_not_given_out_again_and_their_effects_are_carried_over() {
    let mut set = Value::Null;
    let nothing = |_: &Store| {};
    let store = a_lost_claim(nothing, |store| {
        store.run(&["effect", "begin", "work", "pay", "--agent", "lost", "--class", "at_most_once"]).ok();
        store.run(&["effect", "begin", "work", "mail", "--agent", "lost", "--class", "at_most_once"]).ok();
        store.run(&["effect", "finish", "work", "mail", "--value", "\"sent\""]).ok();
        set = store.run(&["memory", "set", "work", "key", "1", "--json"]).ok().json();
    });
    store.run(&["quarantine", "discard", "work"]).ok();
    let doubt = store.run(&["effect", "show", "work", "pay", "--json"]).ok().json();
    assert_eq!(doubt["status"], "outcome_unknown", "{doubt}");
    let sent = store.run(&["effect", "show", "work", "mail", "--json"]).ok().json();
    assert_eq!((&sent["status"], &sent["outcome"]["value"]), (&json!("finished"), &json!("sent")), "{sent}");
    let claimed = store.run(&["task", "claim", "work", "t", "--agent", "next", "--json"]).ok().json();
    assert!(claimed["outcomes"][0]["claimed"]["lease"].as_u64().unwrap() > 1, "{claimed}");
    let late = store.run(&["task", "complete", "work", "t", "--lease", "1", "--json"]);
    assert_eq!(late.json()["error"]["code"], "lease_lost", "{late:?}");
    let again = store.run(&["memory", "set", "work", "key", "2", "--json"]).ok().json();
    let version =
        |answer: &Value| answer["outcomes"][0]["version"]["version"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    assert!(version(&again) > version(&set), "{set} {again}");
    store.run(&["stop"]).ok();
}

/// What lost records say of effects is carried over in one group of records: what does not fit into it is counted, and an effect
/// that was begun is never taken for one that was not.
#[test]
fn more_effects_than_can_be_carried_over_are_begun_all_the_same_and_counted() {
    let (many, large) = (8, 115_000);
    let key = |nth: usize| format!("pay-{nth}");
    // No checkpoint is due while what came since is shorter than the state.
    let large_state = |store: &Store| {
        for nth in 0..many + 2 {
            let value = format!("\"{}\"", "m".repeat(large));
            store.run(&["memory", "set", "work", &format!("key-{nth}"), &value]).ok();
        }
    };
    let store = a_lost_claim(large_state, |store| {
        for nth in 0..many {
            store.run(&["effect", "begin", "work", &key(nth), "--agent", "lost", "--what", "{\"to\":\"them\"}"]).ok();
            let receipt = format!("\"{nth}{}\"", "z".repeat(large));
            store.run(&["effect", "finish", "work", &key(nth), "--value", &receipt]).ok();
        }
    });
    let waits = store.run(&["quarantine", "show", "work"]).ok();
    assert!(waits.out.contains("too much for that: settle what they began"), "{waits:?}");
    let discarded = store.run(&["quarantine", "discard", "work", "--json"]).ok().json();
    let recovery = &discarded["recovery"];
    let left_out = recovery["effects_left_out"].as_u64().unwrap();
    assert!(left_out > 0, "{}", discarded.to_string().len());
    let (mut finished, mut unknown) = (0, 0);
    for nth in 0..many {
        let effect = store.run(&["effect", "show", "work", &key(nth), "--json"]).ok().json();
        match effect["status"].as_str().unwrap() {
            "finished" => {
                finished += 1;
                let receipt = effect["outcome"]["value"].as_str().unwrap();
                assert!(receipt.len() == large + 1 && receipt.starts_with(&nth.to_string()));
            }
            "outcome_unknown" => unknown += 1,
            other => panic!("{other}"),
        }
        let again = store.run(&["effect", "begin", "work", &key(nth), "--agent", "next", "--json"]).json();
        assert!(!again.to_string().contains("\"run\""), "it is not told to be done again: {again}");
    }
    assert!(finished > 0 && unknown == left_out, "{finished} {unknown} {left_out}");
    store.run(&["verify"]).ok();
    store.run(&["stop"]).ok();
}

/// The state that a rewind went back to is lost, and what comes before it ends in the middle of a row.
#[test]
fn a_session_is_set_back_into_the_middle_of_a_row() {
    let store = Store::new();
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(store.dir().join("swarmkeep.toml"), "journal_keep = \"0\"\n").unwrap();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["session", "create", "well"]).ok();
    for key in ["a", "b", "c", "first-needle-"] {
        store.run(&["memory", "set", "work", key, "1"]).ok();
    }
    store.run(&["session", "rewind", "work", "--to", "3"]).ok();
    store.run(&["memory", "set", "work", "e", "1"]).ok();
    until_the_journal_lets_go_of(&store, "first-needle-");
    store.run(&["stop"]).ok();
    {
        let records = rusqlite::Connection::open(store.dir().join("records.db")).unwrap();
        let work = "SELECT id FROM sessions WHERE name = 'work'";
        for table in ["blobs", "checkpoints"] {
            records.execute(&format!("DELETE FROM {table} WHERE session = ({work})"), []).unwrap();
        }
    }
    decided_by_nobody(store.run(&["memory", "set", "work", "f", "1"]));
    store.run(&["quarantine", "discard", "work"]).ok();
    store.run(&["memory", "set", "work", "f", "1"]).ok();
    store.run(&["memory", "get", "work", "c"]).ok();
    store.run(&["stop"]).ok();
    store.run(&["memory", "get", "work", "f"]).ok();
    store.run(&["verify"]).ok();
    store.run(&["stop"]).ok();
}
