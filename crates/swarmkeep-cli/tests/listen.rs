//! `swarmkeep mcp proxy --listen`: clients that speak HTTP, and everything killed around them.

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
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{self, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use binary::{PATIENCE, Store, effects, signal, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The scripted server.
fn peer() -> PathBuf {
    path::absolute("../swarmkeep-mcp/tests/peer/peer.py").unwrap()
}

/// The proxy for clients over HTTP.
struct Front {
    child: Child,
    address: String,
}

impl Front {
    fn start(store: &Store, address: &str) -> Self {
        let mut command =
            store.command(&["mcp", "proxy", "--listen", address, "--session", "work/web", "--name", "shop"]);
        command.args(["--", "python3"]).arg(peer());
        command.env("PEER_EFFECTS", store.path("effects")).env("PEER_GATE", store.path("gate"));
        command.env("PEER_CANCELLED", store.path("cancelled"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix("/mcp"));
        Self { address: address.unwrap_or_else(|| panic!("it says where it listens: {line}")).to_owned(), child }
    }

    /// Killed, and started again at the same address.
    fn again(mut self, store: &Store) -> Self {
        signal(i32::try_from(self.child.id()).unwrap(), Signal::KILL);
        self.child.wait().unwrap();
        let address = self.address.clone();
        Self::start(store, &address)
    }

    /// Ended first: it would start another daemon.
    fn end(self, store: &Store) {
        drop(self);
        store.run(&["stop"]).ok();
    }

    fn ask(&self, method: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // HTTP/1.0: the end of the body is the end of the connection.
        let mut head =
            format!("{method} /mcp HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n", self.address, body.len());
        head.push_str("Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        let mut from = BufReader::new(stream);
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let mut session = None;
        let mut is_stream = false;
        loop {
            line.clear();
            from.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "mcp-session-id" => session = Some(value.trim().to_owned()),
                "content-type" => is_stream = value.contains("event-stream"),
                _ => {}
            }
        }
        Answer { status, session, is_stream, from }
    }

    fn post(&self, session: &str, message: &Value) -> Answer {
        self.ask("POST", &[("Mcp-Session-Id", session)], &message.to_string())
    }

    fn call(&self, session: &str, id: &Value, tool: &str, arguments: &Value) -> Answer {
        let params = json!({ "name": tool, "arguments": arguments });
        self.post(session, &json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
    }

    fn initialize(&self) -> String {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        let message = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let mut answer = self.ask("POST", &[], &message.to_string());
        let session = answer.session.clone().expect("a session");
        assert_eq!(answer.json()["result"]["serverInfo"]["name"], "peer");
        let told = self.post(&session, &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        assert_eq!(told.status, 202);
        session
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

struct Answer {
    status: u16,
    session: Option<String>,
    is_stream: bool,
    from: BufReader<TcpStream>,
}

impl Answer {
    /// The answer, which on a slow machine comes as a stream.
    fn json(&mut self) -> Value {
        if self.is_stream {
            return self.messages().pop().expect("an answer");
        }
        let mut text = String::new();
        self.from.read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next event: its id and its message; `None` at the end.
    fn event(&mut self) -> Option<(String, Option<Value>)> {
        assert!(self.is_stream, "status {}", self.status);
        let (mut id, mut data) = (None, None);
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            match line.trim_end().split_once(':') {
                Some(("id", value)) => id = Some(value.trim().to_owned()),
                Some(("data", value)) => data = Some(serde_json::from_str(value.trim()).ok()),
                None if id.is_some() => return Some((id.unwrap(), data.flatten())),
                _ => {}
            }
        }
    }

    fn messages(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.event()).filter_map(|(_, message)| message).collect()
    }
}

#[test]
fn a_session_over_http_outlives_the_kills_of_front_daemon_and_server() {
    let store = Store::new();
    let front = Front::start(&store, "127.0.0.1:0");
    let session = front.initialize();
    let mut answer = front.call(&session, &json!("1"), "pay", &json!({}));
    assert_eq!((answer.status, answer.session.as_deref()), (200, None));
    let answer = answer.json();
    assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!("1"), &json!("pay")));

    signal(store.holder().unwrap(), Signal::KILL);
    assert_eq!(front.call(&session, &json!(1), "pay", &json!({})).json()["id"], 1);
    let front = front.again(&store);
    assert_eq!(front.call(&session, &json!(2), "pay", &json!({})).json()["result"]["content"][0]["text"], "pay");
    assert_eq!(effects(&store), 3);

    // Two clients never share a session, and ids of one mean nothing to the other.
    let other = front.initialize();
    assert_ne!(other, session);
    assert_eq!(front.call(&other, &json!(2), "echo", &json!({})).json()["id"], 2);

    for (name, status) in [("0123456789abcdef0123456789abcdef", 404), ("../x", 404)] {
        assert_eq!(front.call(name, &json!(3), "pay", &json!({})).status, status, "{name}");
    }
    assert_eq!(front.ask("DELETE", &[("Mcp-Session-Id", &session)], "").status, 204);
    let mut gone = front.call(&session, &json!(3), "pay", &json!({}));
    assert_eq!(gone.status, 404);
    assert!(gone.json()["error"]["message"].as_str().unwrap().contains("Session not found"));
    // Nor after another start.
    let front = front.again(&store);
    assert_eq!(front.call(&session, &json!(4), "pay", &json!({})).status, 404);
    assert_eq!(front.call(&other, &json!(4), "echo", &json!({})).status, 200);
    assert_eq!(effects(&store), 3);
    let calls = store.run(&["mcp", "calls", "work/web", "--json"]).ok().json();
    assert!(calls["calls"].as_array().unwrap().len() >= 4, "{calls}");
    front.end(&store);
}

#[test]
fn a_stream_that_broke_off_is_taken_up_after_a_kill_with_exactly_what_was_missed() {
    let store = Store::new();
    let front = Front::start(&store, "127.0.0.1:0");
    let session = front.initialize();
    let mut listening = front.ask("GET", &[("Mcp-Session-Id", &session)], "");
    let data = |message: &Value| message["params"]["data"].as_u64();

    // What a server says besides comes with the request that is under way.
    let mut answer = front.call(&session, &json!(1), "tell", &json!({ "from": 0, "to": 3 }));
    let messages = answer.messages();
    assert_eq!(messages.iter().filter_map(data).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(messages.last().unwrap()["id"], 1);

    // A call that takes long gets a stream with a name, and the front is killed under it.
    let mut answer = front.call(&session, &json!(2), "slow", &json!({}));
    let (name, first) = answer.event().unwrap();
    assert_eq!(first, None);
    until("the call reaches the server", || effects(&store) == 1);
    let front = front.again(&store);
    assert_eq!(answer.event(), None);
    assert!(listening.event().is_none(), "the other stream broke off, too");
    let headers = [("Mcp-Session-Id", session.as_str()), ("Last-Event-ID", name.as_str())];
    let mut taken_up = front.ask("GET", &headers, "");
    let messages = taken_up.messages();
    let [answer] = messages.as_slice() else { panic!("one answer: {messages:?}") };
    assert_eq!(
        (&answer["id"], &answer["result"]["_meta"]["swarmkeep/outcome"]["executed"]),
        (&json!(2), &json!("unknown"))
    );
    let said = answer.to_string();
    assert!(!said.contains("under way"), "the one that the first front had is waited for: {said}");
    assert_eq!(effects(&store), 1, "nothing is carried out twice");
    let again: Vec<Value> = front.ask("GET", &headers, "").messages();
    assert_eq!(again, messages, "asked once more it says the same");

    // A stream of which some events were read: what comes after the named one, and no other.
    fs::write(store.path("gate"), "").unwrap();
    let mut answer = front.call(&session, &json!(3), "tell", &json!({ "from": 10, "to": 15 }));
    let named: Vec<(String, Option<Value>)> = std::iter::from_fn(|| answer.event()).collect();
    let at = named.iter().position(|(_, message)| message.as_ref().and_then(data) == Some(11)).unwrap();
    let front = front.again(&store);
    let headers = [("Mcp-Session-Id", session.as_str()), ("Last-Event-ID", named[at].0.as_str())];
    let missed = front.ask("GET", &headers, "").messages();
    assert_eq!(missed.iter().filter_map(data).collect::<Vec<_>>(), [12, 13, 14]);
    assert_eq!(missed.last().unwrap()["id"], 3);
    let headers = [("Mcp-Session-Id", session.as_str()), ("Last-Event-ID", "1-2-3")];
    assert_eq!(front.ask("GET", &headers, "").status, 400, "a stream that never was");
    front.end(&store);
}

#[test]
fn clients_without_sessions_share_a_server_and_leaving_cancels() {
    let store = Store::new();
    let front = Front::start(&store, "127.0.0.1:0");
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "m", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let call = |id: u64, tool: &str, name: &str| {
        let params = json!({ "name": tool, "arguments": {}, "_meta": meta });
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string();
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", name)];
        front.ask("POST", &headers, &body)
    };
    // Both are called 7.
    let (mut one, mut two) = (call(7, "slow", "slow"), call(7, "echo", "echo"));
    let mut wrong = call(8, "echo", "pay");
    assert_eq!((wrong.status, &wrong.json()["error"]["code"]), (400, &json!(-32_020)));
    fs::write(store.path("gate"), "").unwrap();
    let (one, two) = (one.json(), two.json());
    assert_eq!((&one["id"], &one["result"]["content"][0]["text"]), (&json!(7), &json!("slow")));
    assert_eq!((&two["id"], &two["result"]["content"][0]["text"]), (&json!(7), &json!("echo")));

    // The server hears of it once it listens again, if the client's end was noticed by then: the next try leaves more time for it.
    let cancelled = || fs::read_to_string(store.path("cancelled")).unwrap_or_default().lines().count();
    let mut tries = 0;
    until("the server is told that nobody waits", || {
        tries += 1;
        fs::remove_file(store.path("gate")).unwrap();
        let (done, left) = (effects(&store), call(9 + tries, "slow", "slow"));
        until("the call reaches the server", || effects(&store) > done);
        drop(left);
        std::thread::sleep(Duration::from_millis(200 * tries));
        fs::write(store.path("gate"), "").unwrap();
        assert_eq!(call(100 + tries, "echo", "echo").json()["id"], 100 + tries);
        cancelled() > 0
    });
    front.end(&store);
}

#[test]
fn what_is_wrong_with_a_request_over_http_is_said() {
    let store = Store::new();
    let front = Front::start(&store, "127.0.0.1:0");
    let session = front.initialize();
    let good = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let with = |name: &'static str, value: &'static str| {
        front.ask("POST", &[("Mcp-Session-Id", &session), (name, value)], &good)
    };
    assert_eq!(with("Origin", "http://localhost:5173").status, 200);
    assert_eq!(with("Origin", "https://evil.example").status, 403);
    assert_eq!(with("MCP-Protocol-Version", "2025-11-25").status, 200);
    assert_eq!(with("MCP-Protocol-Version", "1999-01-01").status, 400);
    assert_eq!(front.ask("POST", &[], &good).status, 400, "no session is named");
    for (body, code) in [("{", -32_700), ("[]", -32_600), ("3", -32_600), (r#"{"id":1}"#, -32_600)] {
        let mut answer = front.ask("POST", &[("Mcp-Session-Id", &session)], body);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!(code)), "{body}");
    }
    assert_eq!(front.ask("PUT", &[("Mcp-Session-Id", &session)], &good).status, 405);

    let refused = store.run(&["mcp", "proxy", "--listen", "0.0.0.0:0", "--", "true"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert!(refused.err.contains("token"), "{}", refused.err);
    let address = front.address.clone();
    let refused = store.run(&["mcp", "proxy", "--listen", &address, "--", "true"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("cannot listen"), "{}", refused.err);
    let same = ["mcp", "proxy", "--listen", "127.0.0.1:0", "--session", "work/web", "--name", "shop", "--", "python3"];
    let peer = peer().display().to_string();
    let refused = store.run(&[&same[..], &[&peer]].concat());
    let who = format!("process {} answers clients of this server already, at http://{address}/mcp", front.child.id());
    assert!(refused.err.contains(&who), "{}", refused.err);
    front.end(&store);
}
