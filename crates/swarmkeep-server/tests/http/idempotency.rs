//! The same request twice is one group; expectations are kept to.

use serde_json::json;

use crate::daemon::Daemon;

#[tokio::test]
async fn the_same_key_twice_is_one_group_with_one_answer() {
    let daemon = Daemon::start().await;
    let s = &daemon.session("a/b").await;
    for key in ["w:1", "free form key", "\"quoted\""] {
        let headers = [("idempotency-key", key), ("swarmkeep-actor", "w")];
        let first = daemon.send("POST", &format!("{s}/tasks"), &headers, r#"{"title":"x"}"#).await.expect(200);
        let again = daemon.send("POST", &format!("{s}/tasks"), &headers, r#"{"title":"x"}"#).await.expect(200);
        assert_eq!((&first["repeated"], &again["repeated"]), (&json!(false), &json!(true)));
        for field in ["first", "head", "outcomes"] {
            assert_eq!(first[field], again[field]);
        }
        daemon.send("POST", &format!("{s}/tasks"), &headers, r#"{"title":"y"}"#).await.problem(422, "request_mismatch");
    }
    assert_eq!(daemon.get(s).await.json()["counts"]["tasks"], 3);
    // By field as by header.
    let body = json!({ "commands": [{"create_task": {"title": "z"}}], "request_id": "w:2" });
    let first = daemon.post(&format!("{s}/commands"), body.clone()).await.expect(200);
    let again = daemon
        .send("POST", &format!("{s}/commands"), &[("idempotency-key", "w:2")], body.to_string())
        .await
        .expect(200);
    assert_eq!((&again["repeated"], &again["head"]), (&json!(true), &first["head"]));
    let page = daemon.get(&format!("{s}/records?after=1&limit=1")).await.expect(200);
    assert_eq!((&page["records"][0]["request"], &page["records"][0]["actor"]), (&json!("w:1"), &json!("w")));
}

#[tokio::test]
async fn making_a_session_twice() {
    let daemon = Daemon::start().await;
    daemon.session("a/b").await;
    daemon.post("/v1/sessions", json!({ "name": "a/b" })).await.problem(409, "already_exists");
    let headers = [("idempotency-key", "maker:1")];
    let body = json!({ "name": "a/c", "owner": "ada" }).to_string();
    let first = daemon.send("POST", "/v1/sessions", &headers, body.clone()).await.expect(201);
    let again = daemon.send("POST", "/v1/sessions", &headers, body).await.expect(201);
    assert_eq!((&first["head"], &again["repeated"]), (&again["head"], &json!(true)));
}

#[tokio::test]
async fn an_answer_repeated_after_its_messages_were_consumed_still_has_them() {
    let daemon = Daemon::start().await;
    let s = &daemon.session("a/b").await;
    for agent in ["x", "y"] {
        daemon.post(&format!("{s}/agents"), json!({ "id": agent })).await.expect(200);
    }
    daemon
        .post(&format!("{s}/messages"), json!({ "id": "m", "from": "x", "to": {"agent": "y"}, "content": 5 }))
        .await
        .expect(200);
    let headers = [("idempotency-key", "y:1")];
    let first = daemon.send("POST", &format!("{s}/messages/receive"), &headers, r#"{"agent":"y"}"#).await.expect(200);
    daemon.post(&format!("{s}/messages/m/acknowledge"), json!({ "agent": "y" })).await.expect(200);
    let again = daemon.send("POST", &format!("{s}/messages/receive"), &headers, r#"{"agent":"y"}"#).await.expect(200);
    assert_eq!(first["messages"][0]["id"], "m");
    assert_eq!(again["messages"][0]["id"], "m", "{again}");
}

#[tokio::test]
async fn an_expectation_that_fails_says_what_is_current() {
    let daemon = Daemon::start().await;
    let s = &daemon.session("a/b").await;
    let body = r#"{"title":"x"}"#;
    let reply = daemon.send("POST", &format!("{s}/tasks"), &[("if-match", "\"1\"")], body).await.expect(200);
    assert_eq!(reply["head"]["seq"], 2);
    let stale = daemon
        .send("POST", &format!("{s}/tasks"), &[("if-match", "\"1\"")], body)
        .await
        .problem(412, "precondition_failed");
    assert_eq!(stale["current"], 2);
    let commands = json!({ "commands": [{"create_task": {"title": "x"}}], "expected_seq": 1 });
    assert_eq!(daemon.post(&format!("{s}/commands"), commands).await.problem(409, "conflict")["current"], 2);
    assert_eq!(daemon.get(s).await.json()["counts"]["tasks"], 1);
}

#[tokio::test]
async fn relaxed_is_never_given_unasked() {
    let daemon = Daemon::start().await;
    let s = &daemon.session("a/b").await;
    let asked =
        daemon.send("POST", &format!("{s}/tasks"), &[("swarmkeep-durability", "relaxed")], r#"{"title":"x"}"#).await;
    asked.expect(200);
    let unasked = daemon.post(&format!("{s}/tasks"), json!({ "title": "x" })).await.expect(200);
    assert_eq!(unasked["durability"], "durable");
}
