//! Queued calls of clients that know tasks: told as tasks once nobody can be reached, and asked for until they are done.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    binary::{Store, signal, until},
    client::{Client, asking, last_peer, shop, text},
};

/// A request of the stateless revisions, by a client that knows tasks or does not.
fn ask(client: &mut Client, id: u64, method: &str, knows_tasks: bool, mut params: Value) {
    let extensions = if knows_tasks { json!({ "io.modelcontextprotocol/tasks": {} }) } else { json!({}) };
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "t", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": { "extensions": extensions },
    });
    client.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
}

fn pay(client: &mut Client, id: u64, knows_tasks: bool) {
    ask(client, id, "tools/call", knows_tasks, json!({ "name": "pay", "arguments": { "call": id } }));
}

/// Asks for a task: its result.
fn task(client: &mut Client, next: &mut u64, method: &str, task: &Value) -> Value {
    *next += 1;
    ask(client, *next, method, true, json!({ "taskId": task }));
    client.answer(*next)
}

fn phase(store: &Store) -> Value {
    store.run(&["mcp", "status", "--json"]).ok().json()["links"][0]["link"]["phase"].clone()
}

/// The server's program is moved away, and the server killed.
fn lose(store: &Store, program: &Path, away: &Path) {
    fs::rename(program, away).unwrap();
    signal(last_peer(store), Signal::KILL);
    until("its end is seen", || phase(store) != "connected");
}

fn give_up(store: &Store, client: &mut Client) {
    let mut use_it = asking(client);
    until("the server is given up for now", || {
        use_it();
        phase(store) == "offline"
    });
}

/// Which calls the server has carried out, in their order.
fn paid(store: &Store) -> Vec<u64> {
    let effects = fs::read_to_string(store.path("effects")).unwrap();
    let call = |line: &str| line.strip_prefix("pay {\"call\": ")?.split('}').next()?.parse().ok();
    effects.lines().filter_map(call).collect()
}

/// The task that a call is answered with.
fn told(client: &mut Client, id: u64) -> Value {
    let told = client.answer(id)["result"].clone();
    assert_eq!((&told["resultType"], &told["status"]), (&json!("task"), &json!("working")), "{told}");
    told["taskId"].clone()
}

#[test]
fn a_task_whose_tool_has_another_schema_when_its_server_is_back_is_not_carried_out() {
    let store = Store::new();
    let (program, away) = shop(&store);
    let args = ["--session", "work/here", "--queue", "pa*", "--queue-for", "1h", "--", program.to_str().unwrap()];
    let mut client = Client::before(&store, &args);
    ask(&mut client, 1, "tools/list", true, json!({}));
    client.answer(1);
    pay(&mut client, 2, true);
    client.answer(2);
    lose(&store, &program, &away);
    pay(&mut client, 3, true);
    give_up(&store, &mut client);
    let id = told(&mut client, 3);
    // The next daemon has it from the log what the tool was when the call was made.
    signal(store.holder().unwrap(), Signal::KILL);
    let mut next = 100_000;
    assert_eq!(task(&mut client, &mut next, "tasks/get", &id)["result"]["status"], "working");
    let other =
        fs::read_to_string(&away).unwrap().replace(r#"{"type": "object"}"#, r#"{"type": "object", "title": "x"}"#);
    fs::write(&away, other).unwrap();
    fs::rename(&away, &program).unwrap();
    until("the task is over", || {
        let shown = task(&mut client, &mut next, "tasks/get", &id)["result"].clone();
        assert_ne!(shown["status"], "completed", "{shown}");
        let is_over = shown["status"] == "failed";
        assert!(!is_over || shown["error"]["data"]["executed"] == "no", "{shown}");
        is_over
    });
    let effects = fs::read_to_string(store.path("effects")).unwrap();
    assert_eq!(effects.lines().filter(|line| line.starts_with("pay ")).count(), 1, "{effects}");
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn queued_calls_that_a_stopped_daemon_had_begun_are_carried_out_by_the_next_one_in_order() {
    let store = Store::new();
    let (program, away) = shop(&store);
    let mut client =
        Client::before(&store, &["--session", "work/here", "--queue", "pay", "--", program.to_str().unwrap()]);
    client.initialize();
    client.call(1, "pay", &json!({ "call": 1 }));
    client.answer(1);
    // They come while nobody has noticed yet that the server is gone.
    fs::rename(&program, &away).unwrap();
    signal(last_peer(&store), Signal::KILL);
    for id in 2..8 {
        client.call(id, "pay", &json!({ "call": id }));
    }
    until("its end is seen", || phase(&store) != "connected");
    for _ in 0..2 {
        store.run(&["stop"]).ok();
        until("the next daemon is there", || store.holder().is_some());
    }
    client.call(8, "pay", &json!({ "call": 8 }));
    fs::rename(&away, &program).unwrap();
    let mut done = vec![1];
    for id in 2..=8 {
        let answer = client.answer(id);
        match text(&answer) {
            "pay" => done.push(id),
            // It was on its way when the server went.
            _ => assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}"),
        }
    }
    assert!(done.contains(&8), "{done:?}");
    assert_eq!(paid(&store), done, "each once, in their order");
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn a_queued_call_is_a_task_for_a_client_that_knows_them_over_a_kill_of_the_daemon() {
    let store = Store::new();
    let (program, away) = shop(&store);
    let args = ["--session", "work/here", "--queue", "pa*", "--queue-for", "1h", "--", program.to_str().unwrap()];
    let mut client = Client::before(&store, &args);
    pay(&mut client, 1, true);
    let answer = client.answer(1);
    assert_eq!(answer["result"]["content"][0]["text"], "pay", "a server that is there is asked: {answer}");

    lose(&store, &program, &away);
    for id in 10..14 {
        pay(&mut client, id, true);
    }
    pay(&mut client, 14, false);
    give_up(&store, &mut client);
    let tasks: Vec<Value> = (10..14).map(|id| told(&mut client, id)).collect();
    let mut next = 100_000;
    let shown = task(&mut client, &mut next, "tasks/get", &tasks[0])["result"].clone();
    assert_eq!((&shown["resultType"], &shown["status"]), (&json!("complete"), &json!("working")), "{shown}");
    assert!(shown["statusMessage"].as_str().unwrap().contains("queued"), "{shown}");
    // What was not sent is not sent any more.
    assert!(task(&mut client, &mut next, "tasks/cancel", &tasks[2])["error"].is_null());
    let shown = task(&mut client, &mut next, "tasks/get", &tasks[2])["result"].clone();
    assert_eq!(shown["status"], "cancelled", "{shown}");
    let shown = task(&mut client, &mut next, "tasks/update", &tasks[0]);
    assert_eq!(shown["error"]["code"], -32_602, "{shown}");
    let shown = task(&mut client, &mut next, "tasks/get", &json!(format!("px_{}", "0".repeat(32))));
    assert_eq!(shown["error"]["code"], -32_602, "{shown}");

    // What was not sent is not begun by being taken up: the second daemon's end changes as little as the first one's.
    for _ in 0..2 {
        let killed = store.holder().unwrap();
        signal(killed, Signal::KILL);
        let shown = task(&mut client, &mut next, "tasks/get", &tasks[0])["result"].clone();
        assert_eq!(shown["status"], "working", "the next daemon has it: {shown}");
        assert_ne!(store.holder().unwrap(), killed);
    }
    let stopped = store.run(&["stop"]).ok();
    assert!(stopped.out.contains("1 MCP client is still there"), "{stopped:?}");
    fs::rename(&away, &program).unwrap();
    for id in [&tasks[0], &tasks[1], &tasks[3]] {
        until("the task is done", || {
            let shown = task(&mut client, &mut next, "tasks/get", id);
            let status = &shown["result"]["status"];
            assert!(["working", "completed"].map(Value::from).contains(status), "{shown}");
            shown["result"]["result"]["content"][0]["text"] == "pay"
        });
    }
    assert_eq!(client.answer(14)["result"]["content"][0]["text"], "pay", "who knows no tasks waits");
    assert_eq!(paid(&store), [1, 10, 11, 13, 14], "each once, in their order, and not what was cancelled");

    // Another client of the session may ask; and the daemon's clean end takes nothing with it.
    client.end();
    store.run(&["stop"]).ok();
    let mut other = Client::before(&store, &args);
    let shown = task(&mut other, &mut next, "tasks/get", &tasks[0])["result"].clone();
    assert_eq!(shown["result"]["content"][0]["text"], "pay", "{shown}");
    // One that asks, and has nothing else to say.
    next += 1;
    ask(&mut other, next, "tasks/get", true, json!({ "taskId": tasks[2] }));
    other.says_no_more();
    let shown = other.answer(next)["result"].clone();
    assert_eq!(shown["status"], "cancelled", "{shown}");
    other.end();
    store.run(&["stop"]).ok();
}
