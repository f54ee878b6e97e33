//! The morning report, after a night with a kill -9, through the binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod binary;

use binary::{Store, until};
use serde_json::Value;

/// A night: one task done, one failed, one to go; one payment made, one in doubt; a call without a result; a kill -9.
fn night(store: &Store) {
    let (mut daemon, _) = store.serve(&[]);
    let run = |args: &[&str]| store.run(args).ok();
    run(&["session", "create", "night"]);
    run(&["session", "create", "other"]);
    for agent in ["worker", "lost"] {
        run(&["agent", "spawn", "night", agent, "--id", agent]);
    }
    for (task, title) in [("t1", "split the parser"), ("t2", "sign the release"), ("t3", "write it up")] {
        run(&["task", "create", "night", "--id", task, title, "--max-retries", "0"]);
    }
    for task in ["t1", "t2"] {
        run(&["task", "claim", "night", task, "--agent", "worker"]);
    }
    run(&["task", "complete", "night", "t1", "--lease", "1"]);
    run(&["task", "fail", "night", "t2", "no key", "--lease", "1"]);
    let begin = |effect: &str, class: &str, agent: &str| {
        let args = ["effect", "begin", "night", effect, "--class", class, "--agent", agent, "--instance", "p1"];
        run(&args);
    };
    begin("mail", "at_most_once", "worker");
    run(&["effect", "finish", "night", "mail"]);
    begin("pay 17", "ask", "lost");
    begin("look", "read", "worker");
    let call = r#"{"role":"assistant","tool_calls":[{"id":"call_1"}]}"#;
    run(&["message", "send", "night", "--from", "lost", "--to", "worker", call]);
    run(&["agent", "status", "night", "lost", "failed"]);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn the_morning_after_a_kill() {
    let store = Store::new();
    night(&store);
    let (mut daemon, _) = store.serve(&[]);
    // Closed at the start: what the failed agent had open. What the worker does is its own.
    until("the start is through", || store.run(&["report", "--json"]).json()["interrupted"]["turns"] == 2);
    let report = store.run(&["report", "--json"]).ok().json();
    let done = &report["done"];
    assert_eq!((&done["tasks"], &done["failed"], &done["open"]), (&1.into(), &1.into(), &1.into()), "{report}");
    assert_eq!(done["newest"][0]["what"], "split the parser");
    let broke = &report["interrupted"];
    assert_eq!((&broke["deaths"], &broke["turns"]), (&1.into(), &2.into()), "{report}");
    let waiting = report["waiting"].as_array().unwrap();
    assert_eq!(waiting.len(), 1, "{report}");
    assert_eq!((&waiting[0]["id"], &waiting[0]["session"]), (&"pay 17".into(), &"default/night".into()));
    let paid = &report["not_paid_twice"];
    assert_eq!((&paid["once"], &paid["held"], &paid["again"]), (&1.into(), &1.into(), &0.into()), "{report}");
    assert_eq!((&report["lost"], &report["is_whole"]), (&Value::Array(vec![]), &true.into()));

    // For people: what is proposed works when it is pasted.
    let screen = store.run(&["report"]).ok().out;
    for said in ["split the parser", "pay 17", "half-written turns closed", "how to continue"] {
        assert!(screen.contains(said), "{said}: {screen}");
    }
    assert!(screen.lines().count() <= 30, "one screen: {screen}");
    assert!(screen.contains("effect resolve default/night 'pay 17' --done --value 'JSON'"), "{screen}");
    // It had not been done, and is then: a doubt that was settled, whatever became of it since.
    store.run(&["effect", "resolve", "default/night", "pay 17", "--not-done", "--by", "user:anna"]).ok();
    store.run(&["effect", "begin", "night", "pay 17", "--class", "ask", "--agent", "worker", "--instance", "p2"]).ok();
    store.run(&["effect", "finish", "night", "pay 17", "--attempt", "2"]).ok();
    let report = store.run(&["report", "night", "--since", "1h", "--json"]).ok().json();
    assert_eq!((&report["waiting"], &report["session"]), (&Value::Array(vec![]), &"default/night".into()));
    let paid = &report["not_paid_twice"];
    assert_eq!((&paid["once"], &paid["held"], &paid["settled"]), (&2.into(), &0.into(), &1.into()), "{report}");

    let other = store.run(&["report", "other", "--json"]).ok().json();
    assert_eq!((&other["done"]["tasks"], &other["interrupted"]["turns"]), (&0.into(), &0.into()), "{other}");
    let markdown = store.run(&["report", "--markdown"]).ok().out;
    assert!(markdown.starts_with("# Report: 2 sessions") && markdown.contains("**not paid twice**"), "{markdown}");
    let later = store.run(&["report", "--since", "2999-01-01", "--json"]).ok().json();
    assert_eq!((&later["done"]["tasks"], &later["interrupted"]["deaths"]), (&0.into(), &0.into()), "{later}");
    assert_eq!(store.run(&["report", "--since", "yesterday"]).code, 2);
    assert_eq!(store.run(&["report", "nobody"]).code, 1);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn what_is_lost_is_an_exit_code_and_stands_first_among_what_to_do() {
    let store = Store::new();
    store.run(&["session", "create", "team/hurt"]).ok();
    store.run(&["session", "create", "well"]).ok();
    let rows = store.run(&["session", "ls", "--namespace", "team", "--json"]).ok().json();
    let id = rows["rows"][0]["session_id"].as_str().unwrap().to_owned();
    store.run(&["stop"]).ok();
    // Records beyond a gap: what a lost frame leaves.
    std::fs::create_dir_all(store.dir().join("quarantine")).unwrap();
    std::fs::write(store.dir().join(format!("quarantine/session-{id}-4-5.records")), b"whatever").unwrap();
    let (mut daemon, _) = store.serve(&[]);
    let ended = store.run(&["report", "--json"]);
    let report = ended.json();
    assert_eq!((ended.code, &report["lost"][0]["session"]), (4, &"team/hurt".into()), "{ended:?}");
    assert_eq!(report["lost"].as_array().unwrap().len(), 1, "once: {report}");
    assert_eq!(report["next"][0]["command"], "swarmkeep quarantine show team/hurt", "{report}");
    assert!(report["lost"][0]["may_be"].is_null(), "{report}");
    assert_eq!(store.run(&["report", "well"]).code, 0);
    let screen = store.run(&["report"]).out;
    assert!(screen.contains("2 sessions (1 live, 1 set aside)"), "{screen}");
    assert!(screen.contains("✗ lost") && screen.contains("team/hurt  records"), "{screen}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
