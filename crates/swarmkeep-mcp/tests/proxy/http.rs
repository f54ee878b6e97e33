//! Servers over HTTP and WebSocket: killed and started again, sessions forgotten in every way, streams that break off.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use swarmkeep::core::state::EffectStatus;
use swarmkeep_mcp::{
    link::Phase,
    transport::{Recipe, Site},
};

use crate::client::{Client, Outside, Setup, executed, store, text, trusting};

/// The scripted server, as a process.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(outside: &Outside, port: u16, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new("python3")
            .arg("tests/peer/http_peer.py")
            .env("PEER_PORT", port.to_string())
            .env("PEER_NOTES", outside.path().join("notes"))
            .env("PEER_GATE", outside.path().join("gate"))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().expect("the server says its port") }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn site(&self, path: &str) -> Site {
        Site { url: format!("http://127.0.0.1:{}{path}", self.port), headers: [("X-Key".into(), "1".into())].into() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed by the test, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn notes(outside: &Outside, which: &str) -> usize {
    let notes = std::fs::read_to_string(outside.path().join("notes")).unwrap_or_default();
    notes.lines().filter(|line| *line == which).count()
}

async fn client(outside: Outside, recipe: Recipe, setup: Setup) -> Client {
    let (keep, session) = store().await;
    Client::of(Setup { recipe: Some(recipe), ..setup }, outside, &keep, session, "one").await
}

#[tokio::test]
async fn calls_over_streamable_http_answered_whole_or_as_streams() {
    for stream in ["", "1"] {
        let outside = Outside::new();
        let server = Server::start(&outside, 0, &[("PEER_STREAM", stream)]);
        let mut client = client(outside, Recipe::Http(server.site("/mcp")), Setup::default()).await;
        assert_eq!(client.initialize().await["result"]["serverInfo"]["name"], "peer");
        for id in 1..20 {
            client.call(id, "pay").await;
        }
        for id in 1..20 {
            assert_eq!(text(&client.answer(id).await), "pay");
        }
        assert_eq!(client.settled().await.len(), 19);
        client.until("the server's own stream is open", |client, _| notes(&client.outside, "listening") == 1).await;
        client.call(20, "tell").await;
        client.answer(20).await;
        client.until_line(|line| line["method"] == "notifications/tools/list_changed").await;
        let outside = client.end().await;
        assert_eq!((notes(&outside, "call pay"), notes(&outside, "deleted")), (19, 1));
    }
}

#[tokio::test]
async fn a_forgotten_session_is_begun_again_once_in_every_shape() {
    for shape in ["404", "400", "400plain", "200", "401", "503"] {
        let outside = Outside::new();
        let mut server = Server::start(&outside, 0, &[]);
        let mut client = client(outside, Recipe::Http(server.site("/mcp")), Setup::default()).await;
        client.initialize().await;
        client.call(1, "pay").await;
        client.answer(1).await;
        server.kill();
        let again = Server::start(&client.outside, server.port, &[("PEER_LOST", shape)]);
        for id in 100..150 {
            client.call(id, "pay").await;
        }
        for id in 100..150 {
            assert_eq!(text(&client.answer(id).await), "pay", "{shape}");
        }
        let outside = client.end().await;
        assert_eq!(notes(&outside, "call pay"), 51, "{shape}: each call is carried out once");
        assert_eq!(notes(&outside, "initialize"), 2, "{shape}: one handshake for fifty calls");
        drop(again);
    }
}

#[tokio::test]
async fn a_server_that_is_killed_is_back_at_the_next_call() {
    let outside = Outside::new();
    let mut server = Server::start(&outside, 0, &[]);
    let mut client = client(outside, Recipe::Http(server.site("/mcp")), Setup::default()).await;
    client.initialize().await;
    client.call(1, "slow").await;
    client.until("the call is there", |client, _| notes(&client.outside, "call slow") == 1).await;
    server.kill();
    assert_eq!(executed(&client.answer(1).await), "unknown");
    client.until("the loss is seen", |_, status| status.phase != Phase::Connected || status.generation.0 > 1).await;
    let _again = Server::start(&client.outside, server.port, &[]);
    client.call(2, "pay").await;
    let answer = client.answer(2).await;
    assert_eq!(text(&answer), "pay", "{answer}");
    let outside = client.end().await;
    assert_eq!((notes(&outside, "call slow"), notes(&outside, "call pay")), (1, 1));
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_taken_up_where_it_ended_or_its_outcome_is_unknown() {
    let outside = Outside::new();
    let server = Server::start(&outside, 0, &[]);
    let setup = Setup { trust: trusting(), ..Setup::default() };
    let mut client = client(outside, Recipe::Http(server.site("/mcp")), setup).await;
    client.initialize().await;
    client.ask(1, "tools/list", json!({})).await;
    client.answer(1).await;
    client.call(2, "cut").await;
    assert_eq!(text(&client.answer(2).await), "cut");
    client.call(3, "tear").await;
    assert_eq!(executed(&client.answer(3).await), "unknown");
    // One that may be repeated is, on the same connection.
    client.call(4, "tear_look").await;
    client.until("it is there again", |client, _| notes(&client.outside, "call tear_look") >= 2).await;
    client.outside.open_gate();
    let answer = client.answer(4).await;
    assert!(text(&answer) == "tear_look" || executed(&answer) == "unknown", "{answer}");
    assert_eq!((notes(&client.outside, "call cut"), notes(&client.outside, "resumed")), (1, 1));
    assert_eq!(notes(&client.outside, "call tear"), 1);
    assert!(notes(&client.outside, "call tear_look") <= 4);
    client.end().await;
}

#[tokio::test]
async fn failures_are_told_apart_and_a_login_is_not_ours() {
    let outside = Outside::new();
    let server = Server::start(&outside, 0, &[]);
    let mut client = client(outside, Recipe::Http(server.site("/mcp")), Setup::default()).await;
    client.initialize().await;
    client.call(1, "fail").await;
    assert_eq!(executed(&client.answer(1).await), "unknown");
    client.call(2, "login").await;
    let answer = client.answer(2).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("401"), "{answer}");
    let statuses: Vec<EffectStatus> = client.settled().await.iter().map(|effect| effect.status).collect();
    assert_eq!(statuses, [EffectStatus::OutcomeUnknown, EffectStatus::Finished]);
    client.call(3, "echo").await;
    assert_eq!(text(&client.answer(3).await), "echo");
    let outside = client.end().await;
    assert_eq!((notes(&outside, "initialize"), notes(&outside, "call fail")), (1, 1));
}

#[tokio::test]
async fn the_stateless_revision_has_no_session_and_its_headers_say_what_the_body_says() {
    let outside = Outside::new();
    let mut server = Server::start(&outside, 0, &[]);
    let mut client = client(outside, Recipe::Http(server.site("/mcp")), Setup::default()).await;
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    client.ask(1, "server/discover", json!({ "_meta": meta })).await;
    assert_eq!(client.answer(1).await["result"]["resultType"], "complete");
    client.ask(2, "tools/call", json!({ "name": "pay", "arguments": {}, "_meta": meta })).await;
    assert_eq!(text(&client.answer(2).await), "pay");
    server.kill();
    let _again = Server::start(&client.outside, server.port, &[]);
    client.ask(3, "tools/call", json!({ "name": "pay", "arguments": {}, "_meta": meta })).await;
    let answer = client.answer(3).await;
    assert!(text(&answer) == "pay" || executed(&answer) == "unknown", "{answer}");
    let outside = client.end().await;
    assert_eq!((notes(&outside, "initialize"), notes(&outside, "deleted")), (0, 0));
}

#[tokio::test]
async fn the_old_transport_with_a_stream_of_its_own_comes_back_too() {
    let outside = Outside::new();
    let mut server = Server::start(&outside, 0, &[]);
    let mut client = client(outside, Recipe::Sse(server.site("/sse")), Setup::default()).await;
    client.initialize().await;
    client.call(1, "pay").await;
    assert_eq!(text(&client.answer(1).await), "pay");
    client.call(2, "slow").await;
    client.until("the call is there", |client, _| notes(&client.outside, "call slow") == 1).await;
    server.kill();
    assert_eq!(executed(&client.answer(2).await), "unknown");
    let _again = Server::start(&client.outside, server.port, &[]);
    client.until("it is back", |_, status| status.phase == Phase::Connected && status.generation.0 > 1).await;
    client.call(3, "pay").await;
    assert_eq!(text(&client.answer(3).await), "pay");
    let outside = client.end().await;
    assert_eq!((notes(&outside, "call slow"), notes(&outside, "call pay"), notes(&outside, "initialize")), (1, 2, 2));
}

#[tokio::test]
async fn a_websocket_carries_calls_and_comes_back() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::{
        Message,
        handshake::server::{Request, Response},
    };

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Answers everything; hangs up after `die`.
    let server = tokio::spawn(async move {
        let mut connections = 0u32;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections += 1;
            let agree = |_: &Request, mut response: Response| {
                response.headers_mut().insert("sec-websocket-protocol", "mcp".parse().unwrap());
                Ok(response)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, agree).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                let Message::Text(line) = message else { continue };
                let said: serde_json::Value = serde_json::from_str(&line).unwrap();
                if said["params"]["name"] == "die" {
                    break;
                }
                if !said["id"].is_null() {
                    let result = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "content": [{ "type": "text", "text": format!("{connections}") }] });
                    let answer = json!({ "jsonrpc": "2.0", "id": said["id"], "result": result });
                    socket.send(Message::text(answer.to_string())).await.unwrap();
                }
            }
        }
    });
    let site = Site { url: format!("ws://{address}/"), headers: Default::default() };
    let mut client = client(Outside::new(), Recipe::WebSocket(site), Setup::default()).await;
    client.initialize().await;
    client.call(1, "pay").await;
    assert_eq!(text(&client.answer(1).await), "1");
    client.call(2, "die").await;
    assert_eq!(executed(&client.answer(2).await), "unknown");
    client.call(3, "pay").await;
    assert_eq!(text(&client.answer(3).await), "2");
    client.end().await;
    server.abort();
}
