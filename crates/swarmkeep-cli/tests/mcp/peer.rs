//! An MCP client made of lines: what it sends and hears is JSON-RPC as it is, so that nothing is smoothed over.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use crate::binary::Store;

/// A client with its relay.
pub(crate) struct Peer {
    pub(crate) relay: Child,
    say: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
    next: u64,
    /// Put into every request, where the client says each time who it is.
    meta: Option<Value>,
}

impl Peer {
    /// The relay, and nothing said yet.
    pub(crate) fn start(store: &Store, args: &[&str]) -> Self {
        let mut all = vec!["mcp", "serve"];
        all.extend(args);
        Self::of(store.command(&all))
    }

    /// The relay that this command is.
    pub(crate) fn of(mut relay: Command) -> Self {
        let mut relay = relay.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let say = relay.stdin.take();
        let hear = BufReader::new(relay.stdout.take().unwrap());
        Self { relay, say, hear, next: 1, meta: None }
    }

    /// One that began as clients up to 2025-11-25 do.
    pub(crate) fn begun(store: &Store, args: &[&str], revision: &str) -> Self {
        let mut peer = Self::start(store, args);
        let answer = peer.initialize(revision);
        assert_eq!(answer["result"]["protocolVersion"], revision, "{answer}");
        peer
    }

    pub(crate) fn initialize(&mut self, revision: &str) -> Value {
        let params = json!({ "protocolVersion": revision, "capabilities": {}, "clientInfo": { "name": "peer", "version": "1" } });
        let answer = self.ask("initialize", params);
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        answer
    }

    /// One of 2026-07-28: no beginning, but who it is in every request.
    pub(crate) fn modern(store: &Store, args: &[&str], capabilities: &Value) -> Self {
        let mut peer = Self::start(store, args);
        peer.speaks_modern(capabilities);
        peer
    }

    pub(crate) fn speaks_modern(&mut self, capabilities: &Value) {
        self.meta = Some(meta(capabilities));
    }

    pub(crate) fn say(&mut self, message: &Value) {
        self.say_line(&message.to_string());
    }

    pub(crate) fn say_line(&mut self, line: &str) {
        let say = self.say.as_mut().unwrap();
        say.write_all(line.as_bytes()).unwrap();
        say.write_all(b"\n").unwrap();
    }

    /// The next message. Everything on stdout is one.
    pub(crate) fn hear(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.hear.read_line(&mut line).unwrap() > 0, "the relay ended");
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(message["jsonrpc"], "2.0", "{message}");
        message
    }

    /// Sends a request, and waits for nothing.
    pub(crate) fn send(&mut self, method: &str, mut params: Value) -> u64 {
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        let id = self.next;
        self.next += 1;
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    pub(crate) fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        loop {
            let message = self.hear();
            if message["id"] == id {
                return message;
            }
        }
    }

    /// Calls a tool; what it answers, well or not.
    pub(crate) fn tool(&mut self, name: &str, arguments: Value) -> Value {
        let answer = self.ask("tools/call", json!({ "name": name, "arguments": arguments }));
        assert!(answer.get("error").is_none(), "{name}: {answer}");
        answer["result"].clone()
    }

    /// Calls a tool that must do it.
    #[track_caller]
    pub(crate) fn done(&mut self, name: &str, arguments: Value) -> Value {
        let result = self.tool(name, arguments);
        assert_eq!(result["isError"], false, "{name}: {result}");
        // The same twice: for models, and for programs.
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"], "{name}");
        text
    }

    /// Calls a tool that must refuse; its code, and all that it says.
    #[track_caller]
    pub(crate) fn refused(&mut self, name: &str, arguments: Value) -> (String, Value) {
        let result = self.tool(name, arguments);
        assert_eq!(result["isError"], true, "{name}: {result}");
        assert!(result.get("structuredContent").is_none(), "{result}");
        (result["_meta"]["swarmkeep/problem"]["code"].as_str().unwrap().to_owned(), result)
    }

    /// The client goes; its relay has to.
    pub(crate) fn end(mut self) -> i32 {
        self.say = None;
        let mut rest = String::new();
        self.hear.read_to_string(&mut rest).unwrap();
        assert!(rest.is_empty(), "{rest}");
        self.relay.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.relay.kill();
        let _ = self.relay.wait();
    }
}

pub(crate) fn meta(capabilities: &Value) -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": { "name": "peer", "version": "1" },
    })
}

/// One request over TCP: status and body.
pub(crate) fn post(url: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).unwrap();
    let mut head = format!("POST {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "host") {
        head.push_str(&format!("host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
