//! Feeds: each record once, in order, across reconnections; a clean end with a token.

use std::time::Duration;

use axum::http::Request;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tokio_tungstenite::tungstenite::Message;

use crate::daemon::Daemon;

/// A reader of server-sent events.
struct Events {
    body: Incoming,
    text: String,
    /// The id that came before the first event.
    start: String,
}

#[derive(Debug)]
struct Event {
    id: String,
    kind: String,
    data: Value,
}

impl Events {
    async fn open(daemon: &Daemon, path: &str, last: Option<&str>) -> Self {
        let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let mut request = Request::builder().uri(format!("http://{}{path}", daemon.address));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = client.request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new(), start: String::new() }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                let field = |name: &str| {
                    let prefix = format!("{name}: ");
                    let lines: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
                    assert!(lines.len() <= 1, "one line for each field: {block}");
                    lines.first().map(|text| (*text).to_owned())
                };
                if let (None, Some(id)) = (field("data"), field("id")) {
                    self.start = id;
                }
                if let Some(data) = field("data") {
                    return Some(Event {
                        id: field("id").unwrap_or_default(),
                        kind: field("event").unwrap(),
                        data: serde_json::from_str(&data).unwrap(),
                    });
                }
            }
            let frame = self.body.frame().await?.ok()?;
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

async fn note(daemon: &Daemon, s: &str, n: u64) {
    // White space that would break a line-based framing, if it were passed on as it came.
    let body = format!("{{\"commands\":[{{\"record\":{{\"kind\":\"note\",\"payload\":{{\n\r\n\"n\": {n}}}}}}}]}}");
    daemon.send("POST", &format!("{s}/commands"), &[], body).await.expect(200);
}

#[tokio::test]
async fn each_record_comes_once_and_in_order_across_reconnections() {
    let daemon = Daemon::start().await;
    let s = &daemon.session("a/b").await;
    let mut last: Option<String> = None;
    let mut seqs = Vec::new();
    for round in 0..5u64 {
        for n in 0..4 {
            note(&daemon, s, round * 4 + n).await;
        }
        // Breaks off in the middle each time; the next one resumes from what was seen last.
        let mut events = Events::open(&daemon, &format!("{s}/feed?from=start"), last.as_deref()).await;
        for _ in 0..3 {
            let event = events.next().await.unwrap();
            seqs.push(event.data["seq"].as_u64().unwrap());
            last = Some(event.id);
        }
    }
    let mut events = Events::open(&daemon, &format!("{s}/feed"), last.as_deref()).await;
    while seqs.len() < 21 {
        let event = events.next().await.unwrap();
        seqs.push(event.data["seq"].as_u64().unwrap());
        assert_eq!(event.kind, "custom");
        assert_eq!(event.data["data"]["payload"]["n"].as_u64().unwrap() + 2, *seqs.last().unwrap());
    }
    assert_eq!(seqs, (1..=21).collect::<Vec<_>>());
    // Live: what comes after the subscription.
    let (_, event) = tokio::join!(note(&daemon, s, 20), events.next());
    assert_eq!(event.unwrap().data["seq"], 22);
    // From a seq, by the query; a token there as well.
    let mut events = Events::open(&daemon, &format!("{s}/feed?from=21"), None).await;
    let event = events.next().await.unwrap();
    assert_eq!(event.data["seq"], 22);
    note(&daemon, s, 21).await;
    let mut events = Events::open(&daemon, &format!("{s}/feed?from={}", event.id), None).await;
    assert_eq!(events.next().await.unwrap().data["seq"], 23);
}

#[tokio::test]
async fn a_token_of_another_history_has_diverged() {
    let daemon = Daemon::start().await;
    let s = &daemon.session("a/b").await;
    note(&daemon, s, 0).await;
    let mut events = Events::open(&daemon, &format!("{s}/feed?from=1"), None).await;
    let token = events.next().await.unwrap().id;
    let forged = format!("{}{}", &token[..token.len() - 4], if token.ends_with("0000") { "ffff" } else { "0000" });
    let problem = daemon.get(&format!("{s}/feed?from={forged}")).await.problem(409, "diverged");
    assert_eq!(problem["common"], 1);
    let beyond = token.replacen("-2-", "-9-", 1);
    assert_eq!(daemon.get(&format!("{s}/feed?from={beyond}")).await.problem(409, "diverged")["common"], 2);
    daemon.session("a/c").await;
    for bad in
        [format!("/v1/sessions/a/c/feed?from={token}"), format!("{s}/feed?from=never"), format!("{s}/feed?from=-1")]
    {
        daemon.get(&bad).await.problem(400, "invalid");
    }
    daemon.get(&format!("{s}/feed/ws")).await.problem(400, "invalid");
}

async fn connect(daemon: &Daemon, path: &str) -> tokio_tungstenite::WebSocketStream<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::connect(daemon.address).await.unwrap();
    let url = format!("ws://{}{path}", daemon.address);
    tokio_tungstenite::client_async(url, stream).await.unwrap().0
}

/// The first frame: where the feed starts.
async fn started(socket: &mut tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>) -> Value {
    let frame = socket.next().await.unwrap().unwrap();
    let start: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
    assert_eq!(start["event"], "start", "{start}");
    start
}

#[tokio::test]
async fn a_websocket_gives_the_same_items() {
    let daemon = Daemon::start().await;
    let s = &daemon.session("a/b").await;
    for n in 0..3 {
        note(&daemon, s, n).await;
    }
    let mut socket = connect(&daemon, &format!("{s}/feed/ws?from=start")).await;
    // What a client says means nothing and breaks nothing.
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(started(&mut socket).await["data"]["seq"], 0);
    let mut last = Value::Null;
    for seq in 1..=3 {
        let frame = socket.next().await.unwrap().unwrap();
        last = serde_json::from_str(frame.to_text().unwrap()).unwrap();
        assert_eq!(last["data"]["seq"], seq);
    }
    assert_eq!(
        daemon.get("/api/health").await.json()["components"]["websocket"]["message"],
        "1 active connections, 0 event streams"
    );
    drop(socket);
    let mut socket = connect(&daemon, &format!("{s}/feed/ws?from={}", last["id"].as_str().unwrap())).await;
    assert_eq!(started(&mut socket).await["id"], last["id"]);
    let frame = socket.next().await.unwrap().unwrap();
    let item: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
    assert_eq!((&item["data"]["seq"], &item["event"]), (&json!(4), &json!("custom")));
}

#[tokio::test]
async fn a_shutdown_ends_feeds_with_their_token() {
    let mut daemon = Daemon::start().await;
    let s = daemon.session("a/b").await;
    note(&daemon, &s, 0).await;
    let mut events = Events::open(&daemon, &format!("{s}/feed?from=start"), None).await;
    let mut socket = connect(&daemon, &format!("{s}/feed/ws?from=start")).await;
    events.next().await.unwrap();
    let token = events.next().await.unwrap().id;
    started(&mut socket).await;
    for _ in 0..2 {
        socket.next().await.unwrap().unwrap();
    }
    let reading = tokio::spawn(async move { socket.next().await.unwrap().unwrap() });
    daemon.stop().await;
    let closing = events.next().await.unwrap();
    assert_eq!((closing.kind.as_str(), &closing.data["reason"]), ("closing", &json!("shutting_down")));
    assert_eq!((closing.id.as_str(), closing.data["token"].as_str().unwrap()), (token.as_str(), token.as_str()));
    assert!(events.next().await.is_none());
    match reading.await.unwrap() {
        Message::Close(Some(frame)) => {
            assert_eq!(u16::from(frame.code), 1001);
            assert_eq!(frame.reason.as_str(), token);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn too_many_feeds_are_refused() {
    let daemon = Daemon::start_with(|settings, _| settings.feeds = 1).await;
    let s = daemon.session("a/b").await;
    let events = Events::open(&daemon, &format!("{s}/feed"), None).await;
    daemon.get(&format!("{s}/feed")).await.problem(413, "limit");
    drop(events);
}

#[tokio::test]
async fn a_reader_that_never_reads_gives_its_place_back() {
    let daemon = Daemon::start_with(|settings, _| {
        settings.feeds = 1;
        settings.write_stall = Duration::from_millis(50);
    })
    .await;
    let s = daemon.session("a/b").await;
    // More than two sockets hold between them.
    for _ in 0..60 {
        daemon
            .post(
                &format!("{s}/commands"),
                json!({ "commands": [{"set_memory": {"key": "k", "value": "x".repeat(250_000)}}] }),
            )
            .await
            .expect(200);
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut silent = socket.connect(daemon.address).await.unwrap();
    let request = format!("GET {s}/feed?from=start HTTP/1.1\r\nhost: {}\r\n\r\n", daemon.address);
    silent.write_all(request.as_bytes()).await.unwrap();
    // It has been let in; from here on it reads nothing.
    silent.read_exact(&mut [0; 12]).await.unwrap();
    let given_back = async {
        while daemon.get("/v1/store").await.json()["server"]["feeds"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), given_back).await.expect("the place comes back");
    drop(silent);
}

#[tokio::test]
async fn a_feed_that_gave_nothing_yet_has_said_where_it_starts() {
    let mut daemon = Daemon::start().await;
    let s = daemon.session("a/b").await;
    note(&daemon, &s, 0).await;
    for (from, seq) in [("now", 2), ("start", 0), ("1", 1)] {
        let (mut events, mut socket) = (
            Events::open(&daemon, &format!("{s}/feed?from={from}"), None).await,
            connect(&daemon, &format!("{s}/feed/ws?from={from}")).await,
        );
        let start = started(&mut socket).await;
        assert_eq!(start["data"]["seq"], seq, "{start}");
        let begun = start["id"].as_str().unwrap().to_owned();
        drop(socket);
        if from == "now" {
            // Cut off before an item came, and only then something happens: the token goes on from before it.
            let mut waiting = connect(&daemon, &format!("{s}/feed/ws?from=now")).await;
            assert_eq!(started(&mut waiting).await["id"], begun);
            drop(waiting);
            note(&daemon, &s, 1).await;
        }
        let first = events.next().await.unwrap();
        assert_eq!((&events.start, &first.data["seq"]), (&begun, &json!(seq + 1)));
        let mut again = Events::open(&daemon, &format!("{s}/feed"), Some(&begun)).await;
        assert_eq!(again.next().await.unwrap().id, first.id, "the same first item");
    }
    let mut quiet = Events::open(&daemon, &format!("{s}/feed"), None).await;
    daemon.stop().await;
    let closing = quiet.next().await.unwrap();
    assert_eq!((closing.kind.as_str(), &closing.id), ("closing", &quiet.start));
    assert!(!quiet.start.is_empty());
}
