//! `swarmkeep mcp`: a client with the proxy in its server's place, and everything killed around it.

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

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use binary::{PATIENCE, Store, effects, signal, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A client that has the proxy in its server's place.
struct Client {
    child: Child,
    to: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    aside: Vec<Value>,
}

impl Client {
    fn start(store: &Store, args: &[&str]) -> Self {
        Self::before(store, &[args, &["--", "python3", &peer("peer.py")]].concat())
    }

    /// In front of the server that the arguments name.
    fn before(store: &Store, args: &[&str]) -> Self {
        let mut command = store.command(&[&["mcp", "proxy"], args].concat());
        command.env("PEER_SAYS", store.path("says")).env("PEER_PID", store.path("pid"));
        command.env("PEER_EFFECTS", store.path("effects")).env("PEER_GATE", store.path("gate"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Self { to: child.stdin.take(), child, lines, aside: Vec::new() }
    }

    fn say(&mut self, line: &Value) {
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
    }

    fn call(&mut self, id: u64, tool: &str, arguments: &Value) {
        let params = json!({ "name": tool, "arguments": arguments });
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }));
    }

    fn answer(&mut self, id: u64) -> Value {
        loop {
            if let Some(at) = self.aside.iter().position(|line| line["id"] == id) {
                return self.aside.remove(at);
            }
            let line = self.lines.recv_timeout(PATIENCE).expect("an answer in time");
            self.aside.push(
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("only messages come: {error}: {line}")),
            );
        }
    }

    fn ask_to_initialize(&mut self) {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        self.say(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }));
    }

    fn initialize(&mut self) {
        self.ask_to_initialize();
        assert_eq!(self.answer(0)["result"]["serverInfo"]["name"], "peer");
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    }

    /// Closes its end, as a client does that is over.
    fn end(mut self) {
        drop(self.to.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// A scripted server.
fn peer(file: &str) -> String {
    format!("{}/../swarmkeep-mcp/tests/peer/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or("")
}

#[test]
fn a_client_outlives_the_daemons_kill_and_its_calls_are_in_the_log() {
    let store = Store::new();
    // Nobody serves the store: the first client starts the daemon.
    let mut client = Client::start(&store, &["--session", "work/here", "--name", "shop"]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    assert_eq!(text(&client.answer(1)), "pay");

    client.call(2, "pay", &json!({ "slow": true }));
    until("the call reaches the server", || effects(&store) == 2);
    let killed = store.holder().unwrap();
    signal(killed, Signal::KILL);
    let answer = client.answer(2);
    assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}");
    client.call(3, "pay", &json!({}));
    assert_eq!(text(&client.answer(3)), "pay");
    assert_ne!(store.holder().unwrap(), killed, "another daemon");
    assert_eq!(effects(&store), 3, "nothing is carried out twice");
    assert_eq!(client.aside, Vec::<Value>::new(), "each call has one answer");

    let links = store.run(&["mcp", "status", "--json"]).ok().json();
    assert_eq!(
        (&links["links"][0]["session"], &links["links"][0]["link"]["phase"]),
        (&json!("work/here"), &json!("connected"))
    );
    let doubts = store.run(&["mcp", "calls", "work/here", "--unknown", "--json"]).ok().json();
    let doubts = doubts["calls"].as_array().unwrap().clone();
    assert_eq!((doubts.len(), &doubts[0]["request"]["name"]), (1, &json!("pay")));
    let shown = store.run(&["mcp", "calls", "work/here"]).ok().out;
    assert!(shown.contains("shop") && shown.contains("at_most_once") && shown.contains("outcome_unknown"), "{shown}");
    store.run(&["mcp", "resolve", "work/here", doubts[0]["id"].as_str().unwrap(), "--not-done"]).ok();
    let doubts = store.run(&["mcp", "calls", "work/here", "--unknown", "--json"]).ok().json();
    assert_eq!(doubts["calls"], json!([]));

    client.end();
    until("the link is gone", || store.run(&["mcp", "status", "--json"]).ok().json()["links"] == json!([]));
    store.run(&["stop"]).ok();
    assert!(!store.dir().join("mcp.sock").exists());
}

#[test]
fn a_client_waits_while_the_daemon_is_stopped_and_started() {
    let store = Store::new();
    let (mut daemon, _) = store.serve(&[]);
    let mut client = Client::start(&store, &["--session", "work/here"]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    client.answer(1);
    signal(i32::try_from(daemon.id()).unwrap(), Signal::TERM);
    assert!(daemon.wait().unwrap().success());
    client.call(2, "pay", &json!({}));
    assert_eq!(text(&client.answer(2)), "pay");
    assert_eq!(effects(&store), 2);
    client.end();
    store.run(&["stop"]).ok();
}

/// A server that reads nothing, so that it does not see its input end.
#[cfg(target_os = "linux")]
#[test]
fn a_server_ends_with_a_daemon_that_is_killed() {
    let store = Store::new();
    let pids = store.path("pids");
    let script = format!("echo $$ >> {}; exec sleep 600", pids.display());
    let mut client = store.command(&["mcp", "proxy", "--", "sh", "-c", &script]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(client.stdin.as_mut().unwrap(), r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{}}}}"#)
        .unwrap();
    let started = || -> Vec<i32> {
        fs::read_to_string(&pids).unwrap_or_default().lines().filter_map(|pid| pid.parse().ok()).collect()
    };
    let is_there = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    };
    until("the server is there", || !started().is_empty());
    signal(store.holder().unwrap(), Signal::KILL);
    until("the server is gone", || !is_there(&started()[0]));
    until("the next daemon has started another", || started().len() == 2);
    client.kill().unwrap();
    client.wait().unwrap();
    until("that one goes with its client", || !started().iter().any(is_there));
    store.run(&["stop"]).ok();
}

/// Draws numbers from a seed (splitmix64).
fn draw(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}

/// A hundred calls at once, and the daemon killed in the middle of them, at another moment each time: each has one answer, what
/// may not be repeated is done once at most, and every answer is true.
///
/// `SWARMKEEP_MCP_KILLS=50 SWARMKEEP_MCP_SEED=1 cargo nextest run -p swarmkeep-cli --test mcp a_hundred_calls` is the long form.
#[test]
fn a_hundred_calls_are_settled_once_whenever_the_daemon_is_killed() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let kills = number("SWARMKEEP_MCP_KILLS", 5);
    let mut seed = number("SWARMKEEP_MCP_SEED", 1);
    let (mut done, mut unknown, mut not_done) = (0, 0, 0);
    let store = Store::new();
    let mut client = Client::start(&store, &["--session", "work/here", "--trust-hints"]);
    client.initialize();
    for round in 0..kills {
        let first = 1 + round * 1_000;
        // Right at the beginning as often as when most of it is done.
        let kill_after = draw(&mut seed, 100);
        for id in first..first + 100 {
            let tool = if draw(&mut seed, 4) == 0 { "look" } else { "pay" };
            client.call(id, tool, &json!({ "call": id }));
            if id - first == kill_after {
                let pause = Duration::from_micros(draw(&mut seed, 30_000));
                let _ = client
                    .lines
                    .recv_timeout(pause)
                    .map(|line| client.aside.push(serde_json::from_str(&line).unwrap()));
                signal(store.holder().unwrap(), Signal::KILL);
            }
        }
        for id in first..first + 100 {
            let answer = client.answer(id);
            let effects = fs::read_to_string(store.path("effects")).unwrap_or_default();
            let times = |tool: &str| {
                effects.lines().filter(|line| line.starts_with(&format!("{tool} {{\"call\": {id}}}"))).count()
            };
            let context = format!("seed {seed}, round {round}, call {id}: {answer}");
            assert!(times("pay") <= 1, "done twice: {context}");
            match (text(&answer), answer["result"]["_meta"]["swarmkeep/outcome"]["executed"].as_str()) {
                ("pay", None) => assert_eq!(times("pay"), 1, "{context}"),
                ("look", None) => assert!(times("look") >= 1, "{context}"),
                (_, Some("no")) => assert_eq!(times("pay") + times("look"), 0, "{context}"),
                (_, Some("unknown")) => {}
                _ => panic!("{context}"),
            }
            match answer["result"]["_meta"]["swarmkeep/outcome"]["executed"].as_str() {
                None => done += 1,
                Some("no") => not_done += 1,
                Some(_) => unknown += 1,
            }
        }
        assert_eq!(client.aside, Vec::<Value>::new(), "one answer each");
    }
    println!("{kills} kills, {done} done, {unknown} unknown, {not_done} not done");
    assert!(done > 0 && done + unknown + not_done == 100 * kills);
    client.end();
    store.run(&["stop"]).ok();
}

/// The failures of a type in the history.
fn failures(store: &Store, kind: &str) -> Vec<Value> {
    let history = store.run(&["recover", "history", "--json"]).ok().json();
    let all = history["failures"].as_array().unwrap();
    all.iter().filter(|failure| failure["type"] == kind).cloned().collect()
}

/// Asks the history until the one failure of this type is as it should be; `each` is done before each look.
fn noticed(store: &Store, kind: &str, mut each: impl FnMut(), is: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        each();
        let found = failures(store, kind);
        assert!(found.len() <= 1, "once: {found:?}");
        match found.first() {
            Some(failure) if is(failure) => return failure.clone(),
            _ => assert!(Instant::now() < deadline, "{kind} is not what it should be: {found:?}"),
        }
    }
}

fn is_open(failure: &Value) -> bool {
    failure["over_at_ms"].is_null()
}

/// A client that goes on asking while its server is away: each use is a try.
fn asking(client: &mut Client) -> impl FnMut() {
    let mut id = 1_000;
    move || {
        id += 1;
        client.say(&json!({ "jsonrpc": "2.0", "id": id, "method": "resources/list", "params": {} }));
    }
}

fn last_peer(store: &Store) -> i32 {
    let effects = fs::read_to_string(store.path("effects")).unwrap();
    effects.lines().last().unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

/// A server whose program can be moved away.
fn shop(store: &Store) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (program, away) = (store.path("shop.py"), store.path("away"));
    fs::write(&program, format!("#!/usr/bin/env python3\n{}", fs::read_to_string(peer("peer.py")).unwrap())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (program, away)
}

#[test]
fn connection_lost_is_a_server_that_is_killed_and_cannot_start_again() {
    let store = Store::new();
    let (program, away) = shop(&store);
    let mut client = Client::before(&store, &["--session", "work/here", "--", program.to_str().unwrap()]);
    client.initialize();
    client.call(1, "pay", &json!({ "slow": true }));
    until("the call reaches the server", || effects(&store) == 1);
    fs::rename(&program, &away).unwrap();
    signal(last_peer(&store), Signal::KILL);
    let answer = client.answer(1);
    assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}");

    let lost = noticed(&store, "connection_lost", asking(&mut client), |_| true);
    assert_eq!((&lost["session_name"], &lost["strategy"]), (&json!("work/here"), &json!("reconnect")), "{lost}");
    assert_eq!((&lost["in_flight"], &lost["in_doubt"], &lost["count"]), (&json!(1), &json!(1), &json!(1)), "{lost}");
    assert_eq!(lost["severity"], "medium", "a call is in doubt: {lost}");
    assert!(lost["connection"].as_str().unwrap().starts_with("mcp-") && is_open(&lost), "{lost}");
    assert!(lost["what"].as_str().unwrap().starts_with("`shop.py` cannot be reached"), "{lost}");
    let silent_ms = lost["silent_ms"].as_u64().unwrap();
    assert_eq!(lost["since_ms"], lost["first_at_ms"].as_u64().unwrap() - silent_ms, "{lost}");
    let connection = lost["connection"].as_str().unwrap();
    // Its session says so, too, once that is written down.
    until("it is offline in the session", || {
        let state = store.run(&["session", "state", "work/here", "--json"]).ok().json().to_string();
        state.contains(connection) && state.contains("\"offline\"")
    });
    // Somebody has to start it, and is told so.
    let report = store.run(&["report", "--json"]).ok().json();
    let waits = report["waiting"].as_array().unwrap();
    assert!(waits.iter().any(|one| one["kind"] == "connection" && one["id"] == connection), "{report}");
    assert!(store.run(&["doctor"]).ok().out.contains("work/here: `shop.py` cannot be reached"));

    fs::rename(&away, &program).unwrap();
    let back = noticed(&store, "connection_lost", asking(&mut client), |failure| !is_open(failure));
    assert!(back["took_ms"].as_u64().unwrap() >= silent_ms, "{back}");
    assert_eq!((&back["id"], &back["count"]), (&lost["id"], &json!(1)), "{back}");
    client.call(2, "pay", &json!({}));
    assert_eq!((text(&client.answer(2)), effects(&store)), ("pay", 2), "and the first one was not made again");
    // It is a recovery in the figures, and raises no alert.
    let doctor = store.run(&["doctor"]).ok().out;
    assert!(doctor.contains("1 recovery in the last day: 100.0 % came back"), "{doctor}");

    // Another outage is counted; one that ends with its client is over, and was not put right.
    fs::rename(&program, &away).unwrap();
    signal(last_peer(&store), Signal::KILL);
    let again = noticed(&store, "connection_lost", asking(&mut client), is_open);
    // A question that was asked in the moment of the kill may be under way, and is in no doubt.
    assert_eq!((&again["id"], &again["count"], &again["in_doubt"]), (&lost["id"], &json!(2), &json!(0)), "{again}");
    assert!(again["took_ms"].is_null(), "{again}");
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    let gone = noticed(&store, "connection_lost", || (), |failure| !is_open(failure));
    assert!(gone["took_ms"].is_null(), "{gone}");
    store.run(&["stop"]).ok();
}

#[test]
fn the_next_daemon_goes_on_with_what_failed_before() {
    let store = Store::new();
    let (program, away) = shop(&store);
    let mut client = Client::before(&store, &["--session", "work/here", "--", program.to_str().unwrap()]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    client.answer(1);
    fs::rename(&program, &away).unwrap();
    signal(last_peer(&store), Signal::KILL);
    let before = noticed(&store, "connection_lost", asking(&mut client), |_| true);
    let killed = store.holder().unwrap();
    signal(killed, Signal::KILL);
    let links = || store.run(&["mcp", "status", "--json"]).ok().json()["links"].clone();
    let mut ask = asking(&mut client);
    until("the client has another daemon", || {
        // A client that says nothing needs no link.
        ask();
        store.holder().is_some_and(|pid| pid != killed) && links() != json!([])
    });
    drop(ask);
    let link = &links()[0]["link"];
    assert!(link["failures"].as_u64().unwrap() >= 9 && link["breaker_open"] == true, "{link}");
    // Its first try has failed by then, or will: that is an outage of its own, told at once and not after nine.
    until("it is told", || failures(&store, "connection_lost").iter().any(|failure| failure["id"] != before["id"]));
    fs::rename(&away, &program).unwrap();
    client.call(2, "pay", &json!({}));
    let answer = client.answer(2);
    assert!(text(&answer) == "pay" || answer["result"]["isError"] == true, "{answer}");
    let mut ask = asking(&mut client);
    until("it is back", || {
        ask();
        links()[0]["link"]["phase"] == "connected"
    });
    drop(ask);
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn queued_calls_wait_for_their_server_over_an_open_breaker_and_a_kill_of_the_daemon() {
    let store = Store::new();
    let (program, away) = shop(&store);
    let args = ["--session", "work/here", "--queue", "pa*", "--queue-for", "1h", "--", program.to_str().unwrap()];
    let mut client = Client::before(&store, &args);
    client.initialize();
    client.call(1, "pay", &json!({ "call": 1 }));
    client.answer(1);
    let links = || store.run(&["mcp", "status", "--json"]).ok().json()["links"].clone();
    fs::rename(&program, &away).unwrap();
    signal(last_peer(&store), Signal::KILL);
    // What is asked before the end is seen may have been sent.
    until("its end is seen", || links()[0]["link"]["phase"] != "connected");
    for id in 10..20 {
        client.call(id, "pay", &json!({ "call": id }));
    }
    let mut ask = asking(&mut client);
    until("the breaker is open", || {
        ask();
        links()[0]["link"]["breaker_open"] == true
    });
    drop(ask);
    // What is not queued is answered at once.
    client.call(2, "look", &json!({}));
    assert_eq!(client.answer(2)["result"]["_meta"]["swarmkeep/outcome"]["executed"], "no");
    let shown = store.run(&["mcp", "status"]).ok().out;
    assert_eq!(shown.matches("tools/call pay: queued for").count(), 10, "{shown}");

    let killed = store.holder().unwrap();
    signal(killed, Signal::KILL);
    client.say(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 14 } }));
    until("they wait in the next daemon", || {
        let calls = links()[0]["link"]["calls"].as_array().cloned().unwrap_or_default();
        store.holder().is_some_and(|pid| pid != killed)
            && calls.iter().filter(|call| call["is_queued"] == true).count() == 9
    });
    fs::rename(&away, &program).unwrap();
    for id in (10..20).filter(|id| *id != 14) {
        let answer = client.answer(id);
        assert_eq!(text(&answer), "pay", "{answer}");
    }
    let effects = fs::read_to_string(store.path("effects")).unwrap();
    let order: Vec<&str> =
        effects.lines().filter_map(|line| line.strip_prefix("pay {\"call\": ")?.split('}').next()).collect();
    assert_eq!(order, ["1", "10", "11", "12", "13", "15", "16", "17", "18", "19"], "each once, and in their order");
    client.end();
    store.run(&["stop"]).ok();
}

/// The scripted server over HTTP, as a process; it ends when its input does.
fn http_server(store: &Store, port: &str) -> (Child, String) {
    let mut server = Command::new("python3");
    server.arg(peer("http_peer.py")).env("PEER_PORT", port);
    server.env("PEER_NOTES", store.path("notes")).env("PEER_GATE", store.path("gate"));
    let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    (server, port.trim().to_owned())
}

#[test]
fn connection_lost_and_protocol_error_are_an_http_server_that_is_stopped_and_one_that_answers_with_a_page() {
    let store = Store::new();
    let (mut server, port) = http_server(&store, "0");
    let url = format!("http://127.0.0.1:{port}/mcp");
    let mut client = Client::before(&store, &["--session", "work/here", "--name", "shop", "--http", &url]);
    client.initialize();
    client.call(1, "garble", &json!({}));
    assert!(client.answer(1)["error"].is_object());
    let page = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&page["cause"], &page["strategy"]), (&json!("not_a_message"), &json!("reconnect")), "{page}");
    assert_eq!((&page["beginning"], &page["severity"]), (&json!("<html>a page</html>"), &json!("low")), "{page}");

    client.call(2, "slow", &json!({}));
    until("the call reaches the server", || {
        fs::read_to_string(store.path("notes")).unwrap_or_default().contains("call slow")
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let answer = client.answer(2);
    assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}");
    let lost = noticed(&store, "connection_lost", asking(&mut client), |_| true);
    assert_eq!(
        (&lost["in_doubt"], &lost["count"], &lost["severity"]),
        (&json!(1), &json!(1), &json!("medium")),
        "{lost}"
    );
    assert!(lost["what"].as_str().unwrap().starts_with("`shop` cannot be reached") && is_open(&lost), "{lost}");

    let (mut server, _) = http_server(&store, &port);
    let back = noticed(&store, "connection_lost", asking(&mut client), |failure| !is_open(failure));
    assert!(back["took_ms"].is_u64(), "{back}");
    let page = noticed(&store, "protocol_error", || (), |failure| !is_open(failure));
    assert!(page["took_ms"].is_u64(), "a handshake was carried out on another connection: {page}");
    client.call(3, "pay", &json!({}));
    assert_eq!(text(&client.answer(3)), "pay");
    client.end();
    store.run(&["stop"]).ok();
    server.kill().unwrap();
    server.wait().unwrap();
}

/// A store, and a client that begins with a server that says this.
fn with_garbage(says: &Value) -> (Store, Client) {
    let store = Store::new();
    fs::write(store.path("says"), says.to_string()).unwrap();
    let args = ["--session", "work/here", "--name", "shop", "--", "python3", &peer("garbage.py")];
    let mut client = Client::before(&store, &args);
    client.ask_to_initialize();
    // It starts the daemon; who asks about a store that is not there is told so.
    until("the server is there", || store.path("pid").exists());
    (store, client)
}

fn pid(of: &Path) -> i32 {
    fs::read_to_string(of).unwrap().parse().unwrap()
}

#[test]
fn protocol_error_is_a_server_that_prints_what_is_no_json_and_is_counted() {
    let (store, mut client) = with_garbage(&json!({ "initialize": "{\"half\": \u{1b}[1m\n".repeat(30) + "Listening" }));
    let noise = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&noise["cause"], &noise["session_name"]), (&json!("not_a_message"), &json!("work/here")), "{noise}");
    assert_eq!((&noise["beginning"], &noise["count"]), (&json!(r#"{\"half\": \x1b[1m"#), &json!(1)), "{noise}");
    assert!(noise["what"].as_str().unwrap().starts_with("`shop`: not JSON") && is_open(&noise), "{noise}");

    // Another server is started in its place, and does as it should: the others of this minute are told with the end.
    fs::remove_file(store.path("says")).unwrap();
    signal(pid(&store.path("pid")), Signal::KILL);
    assert_eq!(client.answer(0)["result"]["serverInfo"]["name"], "peer");
    let over = noticed(&store, "protocol_error", || (), |failure| !is_open(failure));
    assert_eq!((&over["id"], &over["count"], &over["beginning"]), (&noise["id"], &json!(31), &json!("Listening")));
    assert!(over["took_ms"].is_u64(), "{over}");
    let doctor = store.run(&["doctor"]).ok().out;
    assert!(doctor.contains("1 recovery in the last day: 100.0 % came back"), "{doctor}");
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn protocol_error_is_a_server_that_answers_what_nobody_asked_again_and_again() {
    let answer = r#"{"jsonrpc":"2.0","id":987654,"result":{}}"#;
    let (store, mut client) = with_garbage(&json!({ "ask": answer, "twice": format!("{answer}\n{answer}") }));
    client.answer(0);
    client.say(&json!({ "jsonrpc": "2.0", "id": 1, "method": "twice" }));
    client.say(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" }));
    client.answer(2);
    assert_eq!(failures(&store, "protocol_error"), [json!(null); 0], "twice is an accident");
    client.say(&json!({ "jsonrpc": "2.0", "id": 3, "method": "ask" }));
    let foreign = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&foreign["cause"], &foreign["count"]), (&json!("unknown_id"), &json!(1)), "{foreign}");
    assert!(foreign["what"].as_str().unwrap().contains("with id 987654"), "{foreign}");
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    let gone = noticed(&store, "protocol_error", || (), |failure| !is_open(failure));
    assert!(gone["took_ms"].is_null(), "it ended with its client: {gone}");
    store.run(&["stop"]).ok();
}

#[test]
fn protocol_error_is_a_line_without_an_end() {
    let (store, mut client) = with_garbage(&json!({ "tools/list": (128 << 20) + 1 }));
    client.answer(0);
    client.say(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
    let long = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&long["cause"], &long["beginning"]), (&json!("too_long"), &json!("x".repeat(64))), "{long}");
    // The server is started again, and asked again: what it says then is taken.
    fs::remove_file(store.path("says")).unwrap();
    assert!(client.answer(1)["result"].is_object());
    let over = noticed(&store, "protocol_error", || (), |failure| !is_open(failure));
    assert!(over["took_ms"].is_u64(), "{over}");
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn protocol_error_is_a_server_that_names_no_revision_or_another_one_than_before() {
    let named = |version: &str| {
        let result = format!(r#"{{"protocolVersion":{version},"capabilities":{{}},"serverInfo":{{"name":"peer"}}}}"#);
        json!({ "initialize": format!(r#"{{"jsonrpc":"2.0","id":{{id}},"result":{result}}}"#) })
    };
    let (store, mut client) = with_garbage(&named("7"));
    client.answer(0);
    let none = noticed(&store, "protocol_error", || (), |_| true);
    assert_eq!((&none["cause"], &none["severity"]), (&json!("revision"), &json!("low")), "{none}");
    assert!(none["what"].as_str().unwrap().ends_with("names no revision of the protocol: 7"), "{none}");
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    store.run(&["stop"]).ok();

    let (store, mut client) = with_garbage(&named("\"2025-06-18\""));
    client.answer(0);
    client.say(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
    client.answer(1);
    assert_eq!(failures(&store, "protocol_error"), [json!(null); 0]);
    fs::write(store.path("says"), named("\"2024-11-05\"").to_string()).unwrap();
    signal(pid(&store.path("pid")), Signal::KILL);
    let other = noticed(&store, "protocol_error", || (), |_| true);
    assert!(
        other["what"].as_str().unwrap().contains(r#"revision "2024-11-05" now, and spoke "2025-06-18""#),
        "{other}"
    );
    // A server that is refused cannot be used: that is an outage.
    let lost = noticed(&store, "connection_lost", || (), |_| true);
    assert!(lost["what"].as_str().unwrap().contains("another revision"), "{lost}");
    fs::write(store.path("says"), named("\"2025-06-18\"").to_string()).unwrap();
    let back = noticed(&store, "connection_lost", asking(&mut client), |failure| !is_open(failure));
    assert!(back["took_ms"].is_u64(), "{back}");
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn what_is_wrong_with_a_call_is_said() {
    let store = Store::new();
    let ended = store.run(&["mcp", "proxy"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    let ended = store.run(&["mcp", "proxy", "--http", "http://127.0.0.1:1/mcp", "--header", "no colon"]);
    assert!(ended.code == 2 && ended.err.contains("no colon"), "{ended:?}");
    let ended = store.run(&["mcp", "status", "--json"]).ok();
    assert_eq!(ended.json()["links"], json!([]));
    assert!(!store.dir().exists(), "asking makes no store");
}

#[test]
fn servers_are_named_in_a_file_as_clients_have_it() {
    let store = Store::new();
    let file = store.path("servers.json");
    let shop = json!({ "command": "python3", "args": ["${PEER_SCRIPT:-NONE}"],
        "swarmkeep": { "session": "work/from-file", "idempotent": ["pay"] } });
    let servers = json!({ "mcpServers": { "shop": shop, "far": { "url": "http://127.0.0.1:1/mcp" } } });
    fs::write(&file, servers.to_string().replace("NONE", &peer("peer.py"))).unwrap();
    let from = file.to_str().unwrap();
    let mut client = Client::before(&store, &["--from", from, "--name", "shop"]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    assert_eq!(text(&client.answer(1)), "pay");
    client.end();
    let shown = store.run(&["mcp", "calls", "work/from-file"]).ok().out;
    assert!(shown.contains("shop") && shown.contains("idempotent"), "{shown}");
    let refused = store.run(&["mcp", "proxy", "--from", from]);
    assert!(refused.err.contains("--name is one of: far, shop"), "{}", refused.err);
    store.run(&["stop"]).ok();
}
