//! Much at once: crossed answers, storms, large results, readers that do not read, servers that come and go.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{ChildStdin, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    binary::{PATIENCE, Store, effects, signal, until},
    client::{Client, last_peer, peer, text},
};

const MIB: u64 = 1 << 20;

/// The most RAM that a process has had, in bytes.
fn most_resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Processes whose parent this is, those that ended and were not waited for among them.
fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(of).flat_map(|all| all.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

#[test]
fn two_hundred_calls_answered_in_reverse_reach_who_asked_over_the_kill_of_their_server() {
    let store = Store::new();
    let mut client = Client::start(&store, &["--session", "work/here"]);
    client.initialize();
    let ask = |client: &mut Client, first: u64, of: u64| {
        for id in first..first + 200 {
            client.call(id, "gather", &json!({ "of": of, "n": id }));
        }
    };
    // It answers when it has more than will ever come, so never; and dies with all of them.
    ask(&mut client, 1_000, 201);
    until("all have reached the server", || effects(&store) == 200);
    signal(last_peer(&store), Signal::KILL);
    for id in 1_000..1_200 {
        let answer = client.answer(id);
        assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}");
    }
    ask(&mut client, 2_000, 200);
    let mut reached = BTreeSet::new();
    for id in 2_000..2_200 {
        let answer = client.answer(id);
        assert_eq!(text(&answer), id.to_string(), "{answer}");
        reached.insert(id);
    }
    assert_eq!((reached.len(), client.aside.len()), (200, 0), "each call has one answer");
    assert_eq!(effects(&store), 400, "and was carried out once");
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn a_storm_of_changed_lists_while_a_server_comes_back_is_bounded_and_no_change_is_lost() {
    let store = Store::new();
    let mut client = Client::start(&store, &["--session", "work/here", "--trust-hints"]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    client.answer(1);
    let before = most_resident(store.holder().unwrap());
    fs::write(store.path("storm"), "5000").unwrap();
    signal(last_peer(&store), Signal::KILL);
    client.call(2, "pay", &json!({}));
    let answer = client.answer(2);
    let executed = &answer["result"]["_meta"]["swarmkeep/outcome"]["executed"];
    assert!(text(&answer) == "pay" || *executed == "unknown", "{answer}");
    client.call(3, "pay", &json!({}));
    assert_eq!(text(&client.answer(3)), "pay");
    let is_change = |line: &Value| line["method"] == "notifications/tools/list_changed";
    until("the client hears of a change", || {
        client.take(Duration::from_millis(50));
        client.aside.iter().any(is_change)
    });
    // The last word is the last: what the client asks after it has the new list.
    client.say(&json!({ "jsonrpc": "2.0", "id": 4, "method": "tools/list" }));
    assert!(client.answer(4)["result"]["tools"].is_array());
    let grown = most_resident(store.holder().unwrap()).saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes more");
    client.aside.retain(|line| !is_change(line));
    assert_eq!(client.aside, Vec::<Value>::new());
    client.end();
    store.run(&["stop"]).ok();
}

/// A client that says what it has to say and reads nothing.
struct Deaf {
    child: std::process::Child,
    to: ChildStdin,
}

impl Deaf {
    fn start(store: &Store) -> Self {
        let mut command = store.command(&["mcp", "proxy", "--session", "work/deaf", "--", "python3", &peer("peer.py")]);
        command.env("PEER_GATE", store.path("gate"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut to = child.stdin.take().unwrap();
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "deaf", "version": "1" } });
        writeln!(to, "{}", json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).unwrap();
        writeln!(to, "{}", json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).unwrap();
        Self { child, to }
    }

    fn call(&mut self, id: u64, tool: &str, arguments: &Value) {
        let params = json!({ "name": tool, "arguments": arguments, "_meta": { "progressToken": "t" } });
        writeln!(self.to, "{}", json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
            .unwrap();
    }
}

#[test]
fn large_results_and_a_reader_that_stalls_cost_bounded_ram_and_nobody_else_waits() {
    let store = Store::new();
    let mut client = Client::start(&store, &["--session", "work/here"]);
    client.initialize();
    let daemon = store.holder().unwrap();
    let mut deaf = Deaf::start(&store);
    for id in 1..=4 {
        deaf.call(id, "progress", &json!({ "times": 100_000 }));
        deaf.call(10 + id, "big", &json!({ "bytes": 64 * MIB }));
    }
    client.call(1, "big", &json!({ "bytes": 64 * MIB }));
    assert_eq!(text(&client.answer(1)).len() as u64, 64 * MIB);
    for id in 2..52 {
        client.call(id, "pay", &json!({}));
        assert_eq!(text(&client.answer(id)), "pay");
    }
    let most = most_resident(daemon);
    println!("the daemon took {} MiB of RAM at most", most / MIB);
    // A result is there whole on its way in and on its way out, and a moment in between, for each of two clients.
    assert!(most < 768 * MIB, "{most}");
    deaf.child.kill().unwrap();
    deaf.child.wait().unwrap();
    client.end();
    store.run(&["stop"]).ok();
}

/// A server that reads nothing while it cannot write, as simple ones are, and a client that reads slowly: what comes must be
/// taken while what goes is stuck.
#[test]
fn a_client_that_says_much_before_its_answers_are_there_and_its_server_do_not_wait_for_each_other() {
    let store = Store::new();
    let program = env!("CARGO_BIN_EXE_swarmkeep");
    let mut command = store.command(&["mcp", "proxy", "--session", "work/here", "--", program, "chaos-tools"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    // More than all that stands in between holds.
    let (much, calls) = ("x".repeat(64 * 1024), 1_000);
    let reading = std::thread::spawn(move || {
        let answers = from.lines().map_while(Result::ok).filter(|line| line.contains("\"result\""));
        answers.inspect(|_| std::thread::sleep(Duration::from_millis(1))).count()
    });
    let params =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    writeln!(to, "{}", json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).unwrap();
    writeln!(to, "{}", json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).unwrap();
    for id in 1..=calls {
        let params = json!({ "uri": format!("a:{much}") });
        writeln!(to, "{}", json!({ "jsonrpc": "2.0", "id": id, "method": "resources/read", "params": params }))
            .unwrap();
    }
    drop(to);
    assert_eq!(reading.join().unwrap(), calls + 1);
    assert!(child.wait().unwrap().success());
    store.run(&["stop"]).ok();
}

/// Node and others share one pipe between programs and set it not to block: that is set for whoever has it.
#[test]
fn a_client_whose_pipes_do_not_block_gets_all_of_a_large_answer() {
    let store = Store::new();
    let ((input, mut to), (from, output)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let flags = rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&input, flags).unwrap();
    rustix::fs::fcntl_setfl(&output, flags).unwrap();
    let mut command = store.command(&["mcp", "proxy", "--session", "work/here", "--", "python3", &peer("peer.py")]);
    let mut child = command.stdin(input).stdout(output).spawn().unwrap();
    // It has the other ends, too.
    drop(command);
    let params =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    writeln!(to, "{}", json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).unwrap();
    writeln!(to, "{}", json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).unwrap();
    for id in 1..=3 {
        let params = json!({ "name": "big", "arguments": { "bytes": 8 * MIB } });
        writeln!(to, "{}", json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })).unwrap();
    }
    drop(to);
    let lines = BufReader::new(from).lines().map_while(Result::ok);
    let large = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok()).map(|line| text(&line).len() as u64);
    assert_eq!(large.collect::<Vec<_>>(), [0, 8 * MIB, 8 * MIB, 8 * MIB]);
    assert!(child.wait().unwrap().success());
    store.run(&["stop"]).ok();
}

#[test]
fn what_a_server_asked_before_it_died_is_taken_back_and_its_answer_goes_nowhere() {
    let store = Store::new();
    let mut client = Client::start(&store, &["--session", "work/here"]);
    client.initialize();
    client.call(1, "ask", &json!({}));
    let asked = client.until_line(|line| line["method"] == "elicitation/create");
    signal(last_peer(&store), Signal::KILL);
    let taken_back = client.until_line(|line| line["method"] == "notifications/cancelled");
    assert_eq!(taken_back["params"]["requestId"], asked["id"]);
    assert_eq!(client.answer(1)["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown");
    client.say(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "accept" } }));
    // The next server asks as well, perhaps under the same id of its own.
    client.call(2, "ask", &json!({}));
    let again = client.until_line(|line| line["method"] == "elicitation/create");
    assert_ne!(again["id"], asked["id"]);
    client.say(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "decline" } }));
    client.say(&json!({ "jsonrpc": "2.0", "id": again["id"], "result": { "action": "cancel" } }));
    assert_eq!(text(&client.answer(2)), "cancel", "the answer to its own question, and no other");
    assert_eq!(client.aside, Vec::<Value>::new());
    client.end();
    store.run(&["stop"]).ok();
}

/// A server that is there while the file `up` is, and notes when it was started.
fn flapping(store: &Store) -> PathBuf {
    let program = store.path("flapping");
    let script = format!(
        "#!/bin/sh\ndate +%s%N >> \"$PEER_STARTS\"\n[ -e \"{}\" ] || exit 1\nexec python3 \"{}\"\n",
        store.path("up").display(),
        peer("peer.py")
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// Servers that are up for 2 s and down for 2 s, with calls meanwhile: nothing is left behind, nobody is tried without pause,
/// and a call finds its server at once when it is back.
///
/// `SWARMKEEP_MCP_FLAPS=75 SWARMKEEP_MCP_SERVERS=50 cargo nextest run -p swarmkeep-cli --test proxy servers_that_come_and_go` is
/// the long form, of 5 minutes.
#[test]
fn servers_that_come_and_go_leave_nothing_behind_and_are_not_besieged() {
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (flaps, servers) = (number("SWARMKEEP_MCP_FLAPS", 3), number("SWARMKEEP_MCP_SERVERS", 4));
    let store = Store::new();
    let program = flapping(&store);
    let up = store.path("up");
    fs::write(&up, "").unwrap();
    let starts = |nth: usize| store.path(&format!("starts-{nth}"));
    let mut clients: Vec<Client> = (0..servers)
        .map(|nth| {
            let (session, name) = (format!("work/{nth}"), format!("shop-{nth}"));
            let args = ["--session", &session, "--name", &name, "--", program.to_str().unwrap()];
            let mut client = Client::with(&store, &args, &[("PEER_STARTS", starts(nth))]);
            client.initialize();
            client
        })
        .collect();
    let daemon = store.holder().unwrap();
    let stands = || (descriptors(daemon), children(daemon).len());
    let rest = stands();
    let mut id = 0;
    let (mut slowest, mut called, mut done) = (Duration::ZERO, 0, 0);
    for _ in 0..flaps {
        fs::remove_file(&up).unwrap();
        children(daemon).into_iter().for_each(|pid| signal(pid, Signal::KILL));
        let mut back = Instant::now();
        for is_up in [false, true] {
            if is_up {
                fs::write(&up, "").unwrap();
            }
            back = Instant::now();
            while back.elapsed() < Duration::from_secs(2) {
                id += 1;
                for client in &mut clients {
                    client.call(1_000 + id, "look", &json!({}));
                }
                called += clients.len();
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        for client in &mut clients {
            let answer = client.answer(1_000 + id);
            slowest = slowest.max(back.elapsed());
            done += usize::from(text(&answer) == "look");
        }
    }
    println!(
        "{servers} servers, {flaps} times away: {called} calls; the last of each time: {done} done, {slowest:?} after the return"
    );
    assert_eq!(done, servers * flaps, "who is back is found");
    let deadline = Instant::now() + PATIENCE;
    // Readers of the databases are opened when they are needed: fewer than what one connection left behind at each time away
    // would come to.
    let readers = servers * flaps;
    while stands().1 != rest.1 || stands().0 > rest.0 + readers {
        assert!(Instant::now() < deadline, "{:?} descriptors and children, and {rest:?} before", stands());
        std::thread::sleep(Duration::from_millis(50));
    }
    for nth in 0..servers {
        let starts = fs::read_to_string(starts(nth)).unwrap().lines().count();
        // Three at once, then ever rarer, and one for a use: in 2 s no more than this.
        assert!(starts <= 1 + flaps * 12, "server {nth} was started {starts} times");
    }
    clients.into_iter().for_each(Client::end);
    store.run(&["stop"]).ok();
}
