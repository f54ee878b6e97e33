//! Bulk: line by line, in order, each for itself.

use serde_json::{Value, json};

use crate::daemon::Daemon;

fn lines(body: &[u8]) -> Vec<Value> {
    std::str::from_utf8(body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_bad_line_fails_alone() {
    let daemon = Daemon::start().await;
    daemon.session("a/b").await;
    let good = |session: &str, id: &str| {
        json!({ "session": session, "request_id": id, "actor": "w", "commands": [{"create_task": {"id": id, "title": "x"}}] }).to_string()
    };
    let long = format!(r#"{{"session":"a/b","commands":[],"x":"{}"}}"#, "y".repeat(3 * 1024 * 1024));
    let body = [
        good("a/b", "w:1"),
        "{nope".to_owned(),
        good("no/such", "w:1"),
        String::new(),
        good("a/b", "w:1"),
        long,
        json!({ "session": "a/b", "commands": [{"complete_task": {"task": "none"}}] }).to_string(),
        json!({ "session": "a/b", "commands": [{"expire": {}}] }).to_string(),
        good("a/b", "w:2"),
    ]
    .join("\n");
    let answer = daemon.send("POST", "/v1/bulk", &[], body).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/x-ndjson"));
    let answers = lines(&answer.body);
    let line =
        |n: usize| answers.iter().find(|answer| answer["line"] == n).unwrap_or_else(|| panic!("line {n}: {answers:?}"));
    assert_eq!(
        answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 3, 5, 6, 7, 8, 9]
    );
    assert_eq!((&line(1)["first"], &line(1)["repeated"]), (&json!(2), &json!(false)));
    for (n, code) in [(2, "invalid"), (3, "not_found"), (6, "limit"), (7, "not_found"), (8, "invalid")] {
        assert_eq!(line(n)["error"]["code"], code, "{}", line(n));
    }
    assert_eq!((&line(5)["repeated"], &line(5)["head"]), (&json!(true), &line(1)["head"]));
    assert_eq!(line(9)["first"], 3);
    assert_eq!(daemon.get("/v1/sessions/a/b").await.json()["counts"]["tasks"], 2);
}

#[tokio::test]
async fn many_lines_of_many_sessions_keep_their_order() {
    let daemon = Daemon::start().await;
    for n in 0..5 {
        daemon.session(&format!("bulk/s{n}")).await;
    }
    let mut body = String::new();
    for n in 0..5_000u64 {
        body.push_str(
            &json!({ "session": format!("bulk/s{}", n % 5), "commands": [{"record": {"kind": "n", "payload": n}}] })
                .to_string(),
        );
        body.push('\n');
    }
    let answers = lines(&daemon.send("POST", "/v1/bulk", &[], body).await.body);
    assert_eq!(answers.len(), 5_000);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer["line"], n + 1);
        assert_eq!(answer["first"], n / 5 + 2, "{answer}");
    }
    let mut after = 1u64;
    let mut next = 3u64;
    while next < 5_000 {
        let page = daemon.get(&format!("/v1/sessions/bulk/s3/records?after={after}&limit=1000")).await.json();
        for record in page["records"].as_array().unwrap() {
            assert_eq!(record["data"]["payload"], next);
            after = record["seq"].as_u64().unwrap();
            next += 5;
        }
    }
}

#[tokio::test]
async fn a_request_id_for_all_lines_makes_no_sense() {
    let daemon = Daemon::start().await;
    daemon.send("POST", "/v1/bulk", &[("idempotency-key", "w:1")], "{}").await.problem(400, "invalid");
    assert!(daemon.send("POST", "/v1/bulk", &[], "").await.body.is_empty());
}
