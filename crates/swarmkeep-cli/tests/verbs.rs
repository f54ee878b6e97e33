//! Every verb once, against a real daemon.

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
    io::{BufRead, BufReader},
    process::Stdio,
};

use binary::{Store, ended, signal};
use rustix::process::Signal;
use serde_json::{Value, json};

fn json_of(store: &Store, args: &[&str]) -> Value {
    let mut args = args.to_vec();
    args.push("--json");
    store.run(&args).ok().json()
}

/// JSON text may say what strings and numbers cannot hold; it is kept, and no verb fails over it.
#[test]
fn values_that_nothing_can_hold_are_shown_by_every_verb() {
    let store = Store::new();
    let run = |args: &[&str]| store.run(args).ok();
    run(&["session", "create", "s"]);
    for agent in ["a", "b"] {
        run(&["agent", "spawn", "s", agent, "--id", agent]);
    }
    for (nth, value) in [r#""cut \ud83d""#, "1e400", r#"{"\udc00":[-1e999]}"#].into_iter().enumerate() {
        let id = nth.to_string();
        run(&["memory", "set", "s", &id, value]);
        assert_eq!(run(&["memory", "get", "s", &id]).out, format!("{value}\n"), "as it was stored");
        run(&["message", "send", "s", "--from", "a", "--to", "b", value]);
        run(&["task", "create", "s", "--id", &id, "t", "--payload", value]);
        run(&["effect", "begin", "s", &id, "--class", "at_most_once", "--instance", "p", "--what", value]);
        run(&["effect", "finish", "s", &id, "--value", value]);
        let again = run(&["effect", "begin", "s", &id, "--class", "at_most_once", "--instance", "p2", "--what", value]);
        assert!(again.out.contains("was done before"), "{again:?}");
    }
    assert!(run(&["memory", "ls", "s"]).out.contains("cut \u{fffd}"));
    let received = run(&["message", "receive", "s", "--agent", "b"]);
    assert!(received.out.contains("1e400"), "{received:?}");
    for verb in [
        &["report"][..],
        &["report", "s"],
        &["session", "state", "s"],
        &["session", "history", "s"],
        &["session", "diff", "s", "1", "5"],
        &["session", "ls"],
        &["session", "show", "s"],
        &["task", "ls", "s"],
        &["effect", "ls", "s"],
        &["effect", "show", "s", "0"],
        &["message", "ls", "s"],
    ] {
        run(verb);
    }
    let report = json_of(&store, &["report"]);
    assert_eq!(report["not_paid_twice"]["once"], 3, "{report}");
}

#[test]
fn a_session_and_its_life() {
    let store = Store::new();
    let created = json_of(&store, &["session", "create", "team/work", "--owner", "ada", "--request", "make-1"]);
    assert_eq!(created["head"]["seq"], 1);
    assert_eq!(
        json_of(&store, &["session", "create", "team/work", "--owner", "ada", "--request", "make-1"])["head"],
        created["head"]
    );
    let refused = store.run(&["session", "create", "team/work"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("next:"), "{refused:?}");
    json_of(&store, &["session", "open", "team/work"]);
    assert_eq!(
        json_of(&store, &["session", "ls", "--namespace", "team", "--owner", "ada", "--newest"])["rows"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(json_of(&store, &["session", "show", "team/work"])["owner"], "ada");

    json_of(&store, &["memory", "set", "team/work", "k", "1"]);
    json_of(&store, &["memory", "set", "team/work", "k", "2"]);
    assert_eq!(json_of(&store, &["session", "state", "team/work", "--at", "2"])["memory"][0]["value"], 1);
    assert!(store.run(&["session", "state", "team/work"]).ok().out.contains("\"value\": 2"));
    let diff = store.run(&["session", "diff", "team/work", "2", "3"]).ok();
    assert!(diff.out.contains("memory"), "{diff:?}");
    let history = json_of(&store, &["session", "history", "team/work", "--from", "1"]);
    assert_eq!(history["records"].as_array().unwrap().len(), 2);
    assert!(store.run(&["session", "history", "team/work", "--last", "1"]).ok().out.contains("memory_set"));
    assert!(json_of(&store, &["session", "checkpoint", "team/work"])["head"]["seq"].as_u64().unwrap() >= 3);
    assert!(json_of(&store, &["checkpoint", "make", "team/work"])["head"]["seq"].as_u64().unwrap() >= 3);

    assert!(!json_of(&store, &["checkpoint", "ls", "team/work"])["checkpoints"].as_array().unwrap().is_empty());
    json_of(&store, &["session", "fork", "team/work", "team/other", "--at", "2"]);
    assert_eq!(store.run(&["memory", "get", "team/other", "k"]).ok().out, "1\n");
    let dry = store.run(&["session", "rewind", "team/work", "--to", "2", "--dry-run"]).ok();
    assert!(dry.out.contains("did not") && dry.out.contains("value: 2 → 1"), "{dry:?}");
    assert_eq!(store.run(&["memory", "get", "team/work", "k"]).ok().out, "2\n");
    json_of(&store, &["session", "rewind", "team/work", "--to", "2"]);
    assert_eq!(store.run(&["memory", "get", "team/work", "k"]).ok().out, "1\n");

    json_of(&store, &["session", "pause", "team/work", "--reason", "lunch"]);
    assert_eq!(store.run(&["memory", "set", "team/work", "k", "3"]).code, 1, "paused");
    json_of(&store, &["session", "resume", "team/work"]);
    json_of(&store, &["session", "park", "team/work"]);
    json_of(&store, &["memory", "set", "team/work", "k", "3"]);
    store.run(&["session", "close", "team/work", "--dry-run"]).ok();
    json_of(&store, &["session", "close", "team/work"]);
    assert_eq!(json_of(&store, &["session", "show", "team/work"])["status"], "closed");
    assert_eq!(store.run(&["session", "show", "team/none"]).code, 1);
    assert_eq!(store.run(&["session", "show", "no name"]).code, 2);
}

#[test]
fn agents_tasks_messages_memory_effects_metrics() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    for name in ["ada", "grace"] {
        store.run(&["agent", "spawn", "work", name, "--id", name, "--capabilities", "plan,code"]).ok();
    }
    assert_eq!(json_of(&store, &["agent", "ls", "work"])["agents"].as_array().unwrap().len(), 2);
    json_of(&store, &["agent", "status", "work", "ada", "busy", "--reason", "thinking"]);
    assert_eq!(json_of(&store, &["agent", "show", "work", "ada"])["status"], "busy");
    json_of(&store, &["agent", "heartbeat", "work", "ada"]);

    let dry = json_of(&store, &["task", "create", "work", "split", "--dry-run"]);
    assert_eq!(dry["dry_run"], true);
    assert_eq!(json_of(&store, &["task", "ls", "work"])["tasks"], json!([]));
    for id in ["t1", "t2", "t3", "t4"] {
        store.run(&["task", "create", "work", "split", "--id", id, "--payload", "{\"n\":1}", "--priority", "7"]).ok();
    }
    let claim = json_of(&store, &["task", "claim", "work", "t1", "--agent", "ada"]);
    assert_eq!(claim["outcomes"][0]["claimed"]["lease"], 1, "{claim}");
    json_of(&store, &["task", "heartbeat", "work", "t1", "--lease", "1"]);
    assert_eq!(store.run(&["task", "complete", "work", "t1", "--lease", "9"]).code, 1, "another's lease");
    json_of(&store, &["task", "complete", "work", "t1", "--lease", "1", "--result", "done"]);
    assert_eq!(json_of(&store, &["task", "show", "work", "t1"])["result"], "done");
    json_of(&store, &["task", "claim", "work", "t2", "--agent", "ada"]);
    json_of(&store, &["task", "fail", "work", "t2", "broken", "--lease", "1", "--permanent"]);
    json_of(&store, &["task", "claim", "work", "t3", "--agent", "grace"]);
    json_of(&store, &["task", "release", "work", "t3", "--lease", "1"]);
    json_of(&store, &["task", "cancel", "work", "t4"]);
    assert_eq!(json_of(&store, &["task", "ls", "work", "--status", "failed"])["tasks"][0]["id"], "t2");
    assert!(store.run(&["task", "ls", "work"]).ok().out.contains("cancelled"));

    let sent = json_of(&store, &["message", "send", "work", "--from", "ada", "--to", "grace", "hello there"]);
    let message = sent["outcomes"][0]["done"]["id"].as_str().unwrap().to_owned();
    json_of(&store, &["message", "send", "work", "--from", "ada", "--broadcast", "{\"all\":true}"]);
    assert!(store.run(&["message", "ls", "work"]).ok().out.contains("hello there"));
    let received = json_of(&store, &["message", "receive", "work", "--agent", "grace"]);
    assert!(received.to_string().contains("hello there"), "{received}");
    json_of(&store, &["message", "ack", "work", &message, "--agent", "grace"]);
    assert_eq!(store.run(&["message", "send", "work", "--from", "ada", "lost"]).code, 2, "to whom?");

    let set = json_of(&store, &["memory", "set", "work", "plan", "first", "--if-version", "0"]);
    let version = set["outcomes"][0]["version"]["version"].as_u64().unwrap().to_string();
    let conflict = store.run(&["memory", "set", "work", "plan", "x", "--if-version", "0", "--json"]);
    assert_eq!((conflict.code, conflict.json()["error"]["code"].as_str()), (1, Some("conflict")), "{conflict:?}");
    assert_eq!(store.run(&["memory", "get", "work", "plan"]).ok().out, "first\n");
    assert_eq!(json_of(&store, &["memory", "ls", "work", "--scope", "shared"])["memory"].as_array().unwrap().len(), 1);
    json_of(&store, &["memory", "rm", "work", "plan", "--if-version", &version]);
    for (input, stored) in [("{\"a\": [1,\n2.0]}\n", "{\"a\": [1,\n2.0]}\n"), ("two\nlines\n", "two\nlines\n")] {
        let mut set = store.command(&["memory", "set", "work", "read", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut set.stdin.take().unwrap(), input.as_bytes()).unwrap();
        assert!(set.wait().unwrap().success());
        assert_eq!(store.run(&["memory", "get", "work", "read"]).ok().out, stored);
    }
    assert_eq!(store.run(&["memory", "get", "work", "plan"]).code, 1);

    let begin = |instance: &str| {
        store.run(&["effect", "begin", "work", "pay-1", "--agent", "ada", "--instance", instance, "--json"])
    };
    assert_eq!(begin("p1").ok().json()["outcomes"][0]["run"]["attempt"], 1);
    let doubt = begin("p2");
    assert_eq!(doubt.code, 5, "its process is gone, nobody knows: {doubt:?}");
    assert_eq!(json_of(&store, &["effect", "ls", "work", "--status", "outcome_unknown"])["effects"][0]["id"], "pay-1");
    json_of(&store, &["effect", "resolve", "work", "pay-1", "--not-done", "--by", "user:ada"]);
    assert_eq!(begin("p2").ok().json()["outcomes"][0]["run"]["attempt"], 2);
    json_of(&store, &["effect", "finish", "work", "pay-1", "--attempt", "2", "--value", "{\"id\":7}"]);
    assert!(begin("p3").ok().out.contains("recorded"));
    assert_eq!(json_of(&store, &["effect", "show", "work", "pay-1"])["status"], "finished");

    json_of(&store, &["metric", "add", "work", "--agent", "ada", "latency_ms", "12.5", "--tag", "model=x"]);
    assert!(json_of(&store, &["metric", "ls", "work", "--agent", "ada"])["rows"].is_array());
    assert_eq!(store.run(&["metric", "add", "work", "--agent", "ada", "x", "1", "--tag", "model"]).code, 2);
}

#[test]
fn agents_go_by_their_names_and_are_heard_of() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    let spawned = store.run(&["agent", "spawn", "work", "planner"]).ok();
    let id = json_of(&store, &["agent", "ls", "work"])["agents"][0]["id"].as_str().unwrap().to_owned();
    assert!(id != "planner" && spawned.out.contains(&format!("its id is {id}")), "{spawned:?}");
    store.run(&["agent", "spawn", "work", "coder", "--id", "c"]).ok();

    assert_eq!(json_of(&store, &["agent", "show", "work", "planner"])["id"], id.as_str());
    json_of(&store, &["task", "create", "work", "think", "--id", "t", "--assign", "planner"]);
    assert_eq!(json_of(&store, &["task", "show", "work", "t"])["agent_id"], id.as_str());
    json_of(&store, &["task", "claim", "work", "t", "--agent", "planner"]);
    json_of(&store, &["message", "send", "work", "--from", "planner", "--to", "coder", "hello"]);
    let received = json_of(&store, &["message", "receive", "work", "--agent", "coder"]);
    assert_eq!(
        (&received["messages"][0]["from_agent"], &received["messages"][0]["content"]),
        (&id.as_str().into(), &"hello".into())
    );
    let nobody = store.run(&["message", "send", "work", "--from", "planner", "--to", "codre", "hello", "--json"]);
    assert_eq!((nobody.code, nobody.json()["error"]["code"].as_str()), (1, Some("not_found")), "{nobody:?}");
    assert!(nobody.err.contains("`c` (coder)"), "who is there: {nobody:?}");

    json_of(&store, &["message", "subscribe", "work", "news", "--agent", "coder"]);
    json_of(&store, &["message", "send", "work", "--from", "planner", "--topic", "news", "extra"]);
    assert_eq!(json_of(&store, &["message", "receive", "work", "--agent", "c"])["messages"][0]["content"], "extra");
    json_of(&store, &["message", "unsubscribe", "work", "news", "--agent", "coder"]);
    json_of(&store, &["message", "send", "work", "--from", "planner", "--topic", "news", "nobody listens"]);
    assert_eq!(json_of(&store, &["message", "receive", "work", "--agent", "c"])["messages"], json!([]));

    // Heartbeats reach the views within about a second.
    json_of(&store, &["agent", "heartbeat", "work", "planner"]);
    let heard = || json_of(&store, &["agent", "show", "work", "planner"]);
    while heard()["last_heartbeat_ms"].as_u64().is_none_or(|at| at <= heard()["created_at_ms"].as_u64().unwrap()) {}
    assert!(store.run(&["agent", "ls", "work"]).ok().out.contains("last heard of"));
    assert_eq!(json_of(&store, &["agent", "ls", "work", "--overdue"])["agents"], json!([]));
    json_of(&store, &["agent", "status", "work", "planner", "terminated"]);
    let overdue = json_of(&store, &["agent", "ls", "work", "--overdue", "0"]);
    assert_eq!(
        (overdue["agents"].as_array().unwrap().len(), &overdue["agents"][0]["id"]),
        (1, &"c".into()),
        "{overdue}"
    );
    let dead = store.run(&["agent", "heartbeat", "work", &id, "--json"]);
    assert_eq!((dead.code, dead.json()["error"]["code"].as_str()), (1, Some("wrong_state")), "{dead:?}");
}

#[test]
fn the_record_says_who_typed() {
    let store = Store::new();
    let actor = || json_of(&store, &["session", "history", "work", "--last", "1"])["records"][0]["actor"].clone();
    store.run(&["session", "create", "work"]).ok();
    assert_eq!(actor(), "cli", "nobody says who is logged in");
    ended(store.command(&["memory", "set", "work", "k", "1"]).env("USER", "ada")).ok();
    assert_eq!(actor(), "user:ada");
    ended(store.command(&["memory", "set", "work", "k", "2", "--actor", "grüße"]).env("USER", "ada")).ok();
    assert_eq!(actor(), "grüße");
}

#[test]
fn history_follows_and_comes_back_after_a_kill() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    let mut following = store
        .command(&["session", "history", "work", "--follow", "--limit", "4", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["seq"].as_u64().unwrap();
    assert_eq!(next(), 1);
    store.run(&["memory", "set", "work", "a", "1"]).ok();
    assert_eq!(next(), 2);
    signal(store.holder().unwrap(), Signal::KILL);
    store.run(&["memory", "set", "work", "a", "2"]).ok();
    store.run(&["memory", "set", "work", "a", "3"]).ok();
    assert_eq!((next(), next()), (3, 4), "nothing missed, nothing twice");
    assert!(following.wait().unwrap().success());
}

#[test]
fn following_waits_for_a_daemon_and_starts_none() {
    let store = Store::new();
    let (mut daemon, said) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    let mut following = store
        .command(&["session", "history", "work", "--follow", "--limit", "2", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut said_aside = BufReader::new(following.stderr.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["seq"].as_u64().unwrap();
    assert_eq!(next(), 1);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(said_aside.next().unwrap().unwrap().contains("waiting"));
    assert_eq!(store.run(&["session", "ls", "--no-start"]).code, 3, "it started one");
    let at = said["addresses"][0].as_str().unwrap().strip_prefix("http://").unwrap();
    let (mut again, _) = store.serve(&["--listen", at]);
    store.run(&["memory", "set", "work", "a", "1"]).ok();
    assert_eq!(next(), 2);
    assert!(following.wait().unwrap().success());
    assert!(said_aside.next().is_none(), "said once");
    again.kill().unwrap();
    again.wait().unwrap();
}

#[test]
fn looking_after_a_store() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    assert_eq!(
        json_of(&store, &["doctor"])["findings"].as_array().unwrap().iter().filter(|one| one["grade"] == "bad").count(),
        0
    );
    while json_of(&store, &["verify"])["sessions"] == 0 {
        // It lists sessions from the views, which follow within moments.
    }
    assert!(store.run(&["verify", "work"]).ok().out.contains("everything that is there is what was acknowledged"));
    json_of(&store, &["recover"]);
    json_of(&store, &["recover", "--session", "work"]);
    assert_eq!(json_of(&store, &["recover", "--dry-run"])["open"], true);
    assert_eq!(json_of(&store, &["migrate", "status"])["databases"].as_array().unwrap().len(), 2);
    assert_eq!(json_of(&store, &["migrate", "up"])["to_come"], json!([]));
    let held = store.run(&["migrate", "views", "down"]);
    assert_eq!(held.code, 3, "a daemon has it: {held:?}");
    assert_eq!(store.run(&["recover", "--full"]).code, 3);

    signal(store.holder().unwrap(), Signal::KILL);
    // The kernel gives the lock back when the process is gone: until then the verbs below say that it is held.
    let until_free = |args: &[&str]| loop {
        let ended = store.run(args);
        if ended.code != 3 {
            return ended.ok();
        }
    };
    until_free(&["migrate", "views", "down", "--dry-run"]);
    let plan = loop {
        let plan = json_of(&store, &["recover", "--dry-run"]);
        if plan["open"].is_null() {
            break plan;
        }
    };
    assert!(plan["steps"].as_array().unwrap().len() >= 3 && plan["damage"] == json!([]), "{plan}");
    until_free(&["migrate", "views", "down"]);
    assert_eq!(json_of(&store, &["session", "ls"])["rows"].as_array().unwrap().len(), 1, "built again");
    signal(store.holder().unwrap(), Signal::KILL);
    let full = until_free(&["recover", "--full", "--json"]).json();
    assert_eq!(full["verify"]["findings"], json!([]), "{full}");
    assert!(store.run(&["bench", "--list"]).ok().out.contains("append"));
    assert_eq!(store.run(&["bench", "nothing"]).code, 2);
}

/// The commands in a text, as they stand between backquotes.
fn commands(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).filter(|part| part.contains("swarmkeep")).map(str::to_owned).collect()
}

#[test]
fn hints_work_when_they_are_pasted() {
    let store = Store::new();
    let folder = store.path("a store with blanks");
    let folder = folder.to_str().unwrap();
    let run = |args: &[&str]| {
        let mut all = vec!["--store", folder];
        all.extend(args);
        store.run(&all)
    };
    // Through a shell, in another folder and another environment, where the PATH does not lead to the program.
    let paste = |command: &str| {
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", command])
            .env_clear()
            .env("HOME", store.path(""))
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/");
        ended(&mut shell)
    };
    run(&["session", "create", "team/work"]).ok();
    let refused = run(&["session", "create", "team/work"]);
    let hint = commands(&refused.err);
    assert_eq!(hint.len(), 1, "how to go on with it: {refused:?}");
    assert!(paste(&hint[0]).ok().out.contains("session team/work is live"), "{hint:?}");

    run(&["session", "pause", "team/work"]).ok();
    let paused = run(&["task", "create", "team/work", "x"]);
    assert!(paste(&commands(&paused.err)[0]).ok().out.contains("live"), "{paused:?}");

    let unknown = run(&["session", "show", "nobody"]);
    for command in commands(&unknown.err) {
        paste(&command).ok();
    }
    run(&["session", "show", "nobody"]).ok();
    let beyond = run(&["session", "rewind", "team/work", "--to", "99", "--dry-run"]);
    assert!(paste(&commands(&beyond.err)[0]).ok().out.contains("session_created"), "{beyond:?}");
    for verb in
        [&["session", "state", "team/work", "--at", "99"][..], &["session", "rewind", "team/work", "--to", "99"]]
    {
        let beyond = run(verb);
        assert!(beyond.err.contains("team/work ends at seq "), "{beyond:?}");
    }
    let taken = run(&["session", "fork", "team/work", "team/work"]);
    assert!(taken.err.contains("another name"), "{taken:?}");
    let spaced = run(&["session", "create", "spaced name"]);
    assert!(!spaced.err.contains("column"), "{spaced:?}");
    let started = {
        run(&["stop"]).ok();
        run(&["session", "ls"]).ok()
    };
    assert!(paste(&commands(&started.err)[0]).ok().out.contains("the store is free"), "{started:?}");
    let nobody = run(&["session", "ls", "--no-start"]);
    assert!(nobody.err.contains("no daemon answers"), "{nobody:?}");
}

#[test]
fn verify_reads_what_was_acknowledged_just_now() {
    let store = Store::new();
    for count in 1..=3 {
        store.run(&["session", "create", &format!("s{count}")]).ok();
        let report = json_of(&store, &["verify"]);
        assert_eq!((&report["sessions"], &report["records"]), (&count.into(), &count.into()), "{report}");
    }
}
