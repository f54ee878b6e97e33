//! A client that has `swarmkeep mcp proxy` in its server's place, and scripted servers behind it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{self, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::{Value, json};

use crate::binary::{PATIENCE, Store, effects, until};

/// A client that has the proxy in its server's place.
pub(crate) struct Client {
    pub(crate) child: Child,
    to: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    /// Lines that came and were not waited for.
    pub(crate) aside: Vec<Value>,
}

impl Client {
    pub(crate) fn start(store: &Store, args: &[&str]) -> Self {
        Self::before(store, &[args, &["--", "python3", &peer("peer.py")]].concat())
    }

    /// In front of the server that the arguments name.
    pub(crate) fn before(store: &Store, args: &[&str]) -> Self {
        Self::with(store, args, &[])
    }

    /// The same, with more in its environment, which its server has too.
    pub(crate) fn with(store: &Store, args: &[&str], environment: &[(&str, PathBuf)]) -> Self {
        let mut command = store.command(&[&["mcp", "proxy"], args].concat());
        command.env("PEER_SAYS", store.path("says")).env("PEER_PID", store.path("pid"));
        command.env("PEER_EFFECTS", store.path("effects")).env("PEER_GATE", store.path("gate"));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
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

    pub(crate) fn say(&mut self, line: &Value) {
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn call(&mut self, id: u64, tool: &str, arguments: &Value) {
        let params = json!({ "name": tool, "arguments": arguments });
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }));
    }

    pub(crate) fn answer(&mut self, id: u64) -> Value {
        self.until_line(|line| line["id"] == id && line["method"].is_null())
    }

    /// Waits for a line like this, and takes it.
    pub(crate) fn until_line(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some(at) = self.aside.iter().position(&is) {
                return self.aside.remove(at);
            }
            assert!(self.take(PATIENCE), "a line in time");
        }
    }

    /// Puts the next line aside, if one comes within this time.
    pub(crate) fn take(&mut self, within: Duration) -> bool {
        let Ok(line) = self.lines.recv_timeout(within) else { return false };
        self.aside
            .push(serde_json::from_str(&line).unwrap_or_else(|error| panic!("only messages come: {error}: {line}")));
        true
    }

    pub(crate) fn ask_to_initialize(&mut self) {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        self.say(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }));
    }

    pub(crate) fn initialize(&mut self) {
        self.ask_to_initialize();
        assert_eq!(self.answer(0)["result"]["serverInfo"]["name"], "peer");
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    }

    pub(crate) fn says_no_more(&mut self) {
        self.to = None;
    }

    /// Closes its end, as a client does that is over.
    pub(crate) fn end(mut self) {
        drop(self.to.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// A scripted server.
pub(crate) fn peer(file: &str) -> String {
    let path = path::absolute(format!("../swarmkeep-mcp/tests/peer/{file}")).unwrap();
    path.display().to_string()
}

/// A client whose first call is under way, at a server whose program is moved away meanwhile: it cannot be started again.
pub(crate) fn under_way_without_a_program(store: &Store) -> (Client, PathBuf, PathBuf) {
    let (program, away) = shop(store);
    let mut client = Client::before(store, &["--session", "work/here", "--", program.to_str().unwrap()]);
    client.initialize();
    client.call(1, "pay", &json!({ "slow": true }));
    until("the call reaches the server", || effects(store) == 1);
    fs::rename(&program, &away).unwrap();
    (client, program, away)
}

/// A scripted server that listens, and its port. It ends when its input does, or is killed.
pub(crate) fn listening(file: &str, environment: &[(&str, PathBuf)]) -> (Child, u16) {
    let mut command = Command::new("python3");
    command.arg(peer(file)).envs(environment.iter().map(|(name, value)| (name, value)));
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    (server, port.trim().parse().expect("the server says its port"))
}

pub(crate) fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or("")
}

/// A client that goes on asking while its server is away: each use is a try.
pub(crate) fn asking(client: &mut Client) -> impl FnMut() {
    let mut id = 1_000;
    move || {
        id += 1;
        client.say(&json!({ "jsonrpc": "2.0", "id": id, "method": "resources/list", "params": {} }));
    }
}

pub(crate) fn last_peer(store: &Store) -> i32 {
    let effects = fs::read_to_string(store.path("effects")).unwrap();
    effects.lines().last().unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

/// A server whose program can be moved away.
pub(crate) fn shop(store: &Store) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (program, away) = (store.path("shop.py"), store.path("away"));
    fs::write(&program, format!("#!/usr/bin/env python3\n{}", fs::read_to_string(peer("peer.py")).unwrap())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (program, away)
}
