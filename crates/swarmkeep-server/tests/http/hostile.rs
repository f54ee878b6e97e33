//! What no caller should send: always a 4xx with a reason, never a fault, and no session is touched.

use serde_json::{Value, json};
use swarmkeep_server::Secret;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{daemon::Daemon, routes::operations};

fn concrete(path: &str, session: &str, id: &str) -> String {
    path.replace("{namespace}/{name}", session)
        .replace("{table}", id)
        .replace("{id}", id)
        .replace("{scope}", id)
        .replace("{key}", id)
}

fn is_stream(path: &str) -> bool {
    path.contains("/feed") || path.ends_with("/bulk")
}

#[tokio::test]
async fn hostile_bodies_on_every_route_are_refused_with_a_reason() {
    let daemon = Daemon::start().await;
    let mine = daemon.session("mine/session").await;
    daemon.session("other/session").await;
    daemon.post("/v1/sessions/other/session/tasks", json!({ "title": "untouched" })).await.expect(200);
    let untouched = daemon.get("/v1/sessions/other/session/state").await.body;
    let document = daemon.get("/openapi.json").await.expect(200);
    let head = daemon.get(&mine).await.json()["head"].clone();

    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let deep_field = format!(r#"{{"commands":[{{"record":{{"kind":"k","payload":{deep}}}}}]}}"#);
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("not JSON", b"{nope".to_vec()),
        ("cut off", br#"{"title":"x"#.to_vec()),
        ("another shape", b"[]".to_vec()),
        ("a number", b"7".to_vec()),
        ("an unknown field", br#"{"surprise":1}"#.to_vec()),
        ("bad UTF-8", b"{\"reason\":\"\xff\xfe\"}".to_vec()),
        ("bad UTF-8 throughout", vec![0xff; 1000]),
        ("nothing but zeros", vec![0; 1000]),
        ("deep", deep.into_bytes()),
        ("deep inside a field", deep_field.into_bytes()),
        ("two values", b"{} {}".to_vec()),
        (
            "wrong types",
            br#"{"commands":5,"title":[],"agent":{},"lease":"x","name":7,"to":1,"metrics":{},"attempt":-1}"#.to_vec(),
        ),
    ];
    for (method, path) in operations(&document) {
        if method == "GET" || method == "DELETE" || is_stream(&path) || path.ends_with("/blobs") {
            continue;
        }
        // A memory value may be any JSON: an object with a surprise in it is a fine value.
        let any_json = path.contains("/memory/");
        for (what, body) in &bodies {
            if any_json && serde_json::from_slice::<Value>(body).is_ok() {
                continue;
            }
            let answer = daemon.send(&method, &concrete(&path, "mine/session", "x"), &[], body.clone()).await;
            assert!(
                answer.status.is_client_error(),
                "{method} {path} with {what}: {} {:?}",
                answer.status,
                answer.body
            );
            let problem = answer.json();
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert!(problem["detail"].as_str().unwrap().len() > 10, "{problem}");
        }
    }
    assert_eq!(daemon.get(&mine).await.json()["head"], head, "nothing was written");
    assert_eq!(daemon.get("/v1/sessions/other/session/state").await.body, untouched, "no other session was touched");
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused_and_the_answer_is_read() {
    let daemon = Daemon::start().await;
    let s = daemon.session("a/b").await;
    let large = vec![b' '; 10 * 1024 * 1024];
    for path in
        ["/v1/sessions".to_owned(), format!("{s}/commands"), format!("{s}/tasks"), format!("{s}/messages/receive")]
    {
        daemon.send("POST", &path, &[], large.clone()).await.problem(413, "limit");
    }
    daemon.send("PUT", &format!("{s}/memory/shared/k"), &[], large).await.problem(413, "limit");
    let value = format!("\"{}\"", "x".repeat(1024 * 1024));
    let answer = daemon.send("PUT", &format!("{s}/memory/shared/k"), &[], value).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
    let many: Vec<Value> = (0..2000).map(|_| json!({"record": {"kind": "k"}})).collect();
    daemon.post(&format!("{s}/commands"), json!({ "commands": many })).await.problem(413, "limit");
    daemon.post(&format!("{s}/commands"), json!({ "commands": [] })).await.problem(400, "invalid");
    assert_eq!(daemon.get(&s).await.json()["head"]["seq"], 1);
}

/// Reads one answer off a connection: its head, and its body by its length.
async fn read_answer(connection: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    loop {
        if connection.read_buf(&mut seen).await.unwrap() == 0 {
            panic!("the connection ended: {}", String::from_utf8_lossy(&seen));
        }
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return text;
        }
    }
}

#[tokio::test]
async fn a_refusal_is_read_and_the_next_request_answered_whatever_body_came_with_the_first() {
    const TOKEN: &str = "0123456789abcdef";
    let daemon = Daemon::start_with(|settings, _| settings.token = Some(Secret::new(TOKEN).unwrap())).await;
    let ours = format!("host: {}\r\nauthorization: Bearer {TOKEN}", daemon.address);
    let stranger = format!("host: {}", daemon.address);
    let elsewhere = format!("host: example.org\r\nauthorization: Bearer {TOKEN}");
    for (path, headers, status) in [
        ("/v1/sessions/a/none/commands", &ours, 413),
        ("/v1/sessions/a/none/blobs", &ours, 404),
        ("/v1/sessions/a/none/blobs?surprise=1", &ours, 400),
        ("/v1/nothing", &ours, 404),
        ("/v1/sessions", &stranger, 401),
        ("/v1/sessions", &elsewhere, 403),
        ("/v1/sessions", &ours, 413),
    ] {
        for size in [1_000, 4_000_000, 20 << 20] {
            let status = if size == 1_000 && status == 413 { 400 } else { status };
            let what = format!("{path} with {size} bytes");
            let mut connection = TcpStream::connect(daemon.address).await.unwrap();
            let head = format!("POST {path} HTTP/1.1\r\n{headers}\r\ncontent-length: {size}\r\n\r\n");
            connection.write_all(head.as_bytes()).await.unwrap();
            // All of it, before a byte of the answer is read.
            connection.write_all(&vec![b'x'; size]).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let answer = read_answer(&mut connection).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
            let next = format!("GET /health/live HTTP/1.1\r\n{ours}\r\n\r\n");
            connection.write_all(next.as_bytes()).await.unwrap();
            assert!(read_answer(&mut connection).await.starts_with("HTTP/1.1 200 "), "{what}");
        }
    }
    // More than anybody throws away, and a body that waits to be asked for: the answer does not wait, the connection ends.
    for more in ["content-length: 99000000000", "content-length: 5\r\nexpect: 100-continue"] {
        let mut connection = TcpStream::connect(daemon.address).await.unwrap();
        let head = format!("POST /v1/sessions/a/none/blobs HTTP/1.1\r\n{ours}\r\n{more}\r\n\r\n");
        connection.write_all(head.as_bytes()).await.unwrap();
        let answer = read_answer(&mut connection).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn wrong_ids_names_queries_and_headers_are_refused_on_every_route() {
    let daemon = Daemon::start().await;
    daemon.session("a/b").await;
    let document = daemon.get("/openapi.json").await.expect(200);
    let long = "x".repeat(300);
    for (method, path) in operations(&document) {
        for session in ["no/such", "..%2F../etc", "a/%00", "a/b%2Fc", "-a/b", "a/%ff", "%20/b"] {
            if path.contains("{name}") {
                // `open` makes what is not there.
                if path.ends_with("/open") && session == "no/such" {
                    continue;
                }
                let answer = daemon.send(&method, &concrete(&path, session, "x"), &[], "{}").await;
                assert!(answer.status.is_client_error(), "{method} {path} of {session}: {}", answer.status);
                assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path} of {session}");
            }
        }
        for id in ["%00", "%0a", "%ff%fe", long.as_str()] {
            if path.contains("{id}") || path.contains("{key}") || path.contains("{table}") {
                let answer = daemon.send(&method, &concrete(&path, "a/b", id), &[], r#"{"agent":"x"}"#).await;
                assert!(answer.status.is_client_error(), "{method} {path} with id {id}: {}", answer.status);
                assert!(answer.json()["detail"].is_string());
            }
        }
    }
    for query in ["surprise=1", "limit=0", "limit=99999", "limit=x", "after=%ff", "status=flying"] {
        let answer = daemon.get(&format!("/v1/sessions/a/b/tasks?{query}")).await;
        // `after` is a place in the order, not an entity that must exist.
        if query.starts_with("after") {
            assert!(answer.status.is_success() || answer.status.is_client_error());
        } else {
            answer.problem(400, "invalid");
        }
    }
    for (name, value) in [
        ("idempotency-key", ""),
        ("idempotency-key", long.as_str()),
        ("swarmkeep-actor", "system"),
        ("swarmkeep-actor", ""),
        ("swarmkeep-durability", "maybe"),
        ("if-match", "x"),
        ("if-match", "\"1"),
        ("if-match", "-1"),
    ] {
        let answer = daemon.send("POST", "/v1/sessions/a/b/tasks", &[(name, value)], r#"{"title":"x"}"#).await;
        answer.problem(400, "invalid");
    }
    let differing = json!({ "commands": [{"create_task": {"title": "x"}}], "request_id": "w:1" }).to_string();
    daemon
        .send("POST", "/v1/sessions/a/b/commands", &[("idempotency-key", "w:2")], differing)
        .await
        .problem(400, "invalid");
    daemon
        .send("POST", "/v1/sessions/a/b/tasks", &[("content-encoding", "gzip")], "x")
        .await
        .problem(415, "unsupported_media_type");
    daemon.get("/v1/nothing").await.problem(404, "not_found");
    daemon.get("/").await.problem(404, "not_found");
    assert_eq!(daemon.get("/v1/sessions/a/b").await.json()["head"]["seq"], 1, "nothing was written");
}

#[tokio::test]
async fn a_problem_says_field_and_place() {
    let daemon = Daemon::start().await;
    let s = daemon.session("a/b").await;
    let body = r#"{"commands":[{"create_task":{"title":"x"}},{"create_task":{"title":5}}]}"#;
    let problem = daemon.send("POST", &format!("{s}/commands"), &[], body).await.problem(400, "invalid");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("commands[1].create_task.title") && detail.contains("line 1 column"), "{detail}");
}

#[tokio::test]
async fn the_engines_own_commands_are_not_for_callers() {
    let daemon = Daemon::start().await;
    let s = daemon.session("a/b").await;
    for command in [
        json!({"expire": {}}),
        json!({"expire_lease": {"task": "t", "lease": 1, "reason": "r"}}),
        json!({"doubt_effect": {"effect": "e", "attempt": 1, "reason": "r"}}),
        json!({"note_recovery": {"recovery": "r", "report": {}}}),
        json!({"interrupt_turns": {"at_start": true}}),
        json!({"interrupt_call": {"call": "c", "reason": "r"}}),
        json!({"rewind": {"to": 1, "base": "00".repeat(32)}}),
    ] {
        daemon.post(&format!("{s}/commands"), json!({ "commands": [command] })).await.problem(400, "invalid");
    }
    let body = json!({ "commands": [{"record": {"kind": "k"}}], "actor": "system" });
    daemon.post(&format!("{s}/commands"), body).await.problem(400, "invalid");
}
