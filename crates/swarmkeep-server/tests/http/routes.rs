//! Every route once, as it is meant; and the document says exactly what there is.

use axum::http::Method;
use serde_json::{Value, json};

use crate::daemon::Daemon;

/// Every route there is, written down a second time: one that is lost or added by accident is seen here.
const ROUTES: &[&str] = &[
    "POST /v1/sessions",
    "GET /v1/sessions",
    "GET /v1/sessions/{namespace}/{name}",
    "PATCH /v1/sessions/{namespace}/{name}",
    "POST /v1/sessions/{namespace}/{name}/open",
    "POST /v1/sessions/{namespace}/{name}/pause",
    "POST /v1/sessions/{namespace}/{name}/resume",
    "POST /v1/sessions/{namespace}/{name}/park",
    "POST /v1/sessions/{namespace}/{name}/close",
    "POST /v1/sessions/{namespace}/{name}/rewind",
    "POST /v1/sessions/{namespace}/{name}/fork",
    "POST /v1/sessions/{namespace}/{name}/checkpoints",
    "GET /v1/sessions/{namespace}/{name}/checkpoints",
    "POST /v1/sessions/{namespace}/{name}/commands",
    "GET /v1/sessions/{namespace}/{name}/records",
    "GET /v1/sessions/{namespace}/{name}/state",
    "GET /v1/sessions/{namespace}/{name}/diff",
    "GET /v1/sessions/{namespace}/{name}/agents",
    "POST /v1/sessions/{namespace}/{name}/agents",
    "GET /v1/sessions/{namespace}/{name}/agents/{id}",
    "PATCH /v1/sessions/{namespace}/{name}/agents/{id}",
    "POST /v1/sessions/{namespace}/{name}/agents/{id}/status",
    "POST /v1/sessions/{namespace}/{name}/agents/{id}/heartbeat",
    "POST /v1/sessions/{namespace}/{name}/agents/{id}/return",
    "GET /v1/sessions/{namespace}/{name}/tasks",
    "POST /v1/sessions/{namespace}/{name}/tasks",
    "POST /v1/sessions/{namespace}/{name}/tasks/claim",
    "GET /v1/sessions/{namespace}/{name}/tasks/{id}",
    "PATCH /v1/sessions/{namespace}/{name}/tasks/{id}",
    "POST /v1/sessions/{namespace}/{name}/tasks/{id}/claim",
    "POST /v1/sessions/{namespace}/{name}/tasks/{id}/heartbeat",
    "POST /v1/sessions/{namespace}/{name}/tasks/{id}/complete",
    "POST /v1/sessions/{namespace}/{name}/tasks/{id}/fail",
    "POST /v1/sessions/{namespace}/{name}/tasks/{id}/release",
    "POST /v1/sessions/{namespace}/{name}/tasks/{id}/cancel",
    "POST /v1/sessions/{namespace}/{name}/tasks/{id}/assign",
    "GET /v1/sessions/{namespace}/{name}/messages",
    "POST /v1/sessions/{namespace}/{name}/messages",
    "POST /v1/sessions/{namespace}/{name}/messages/receive",
    "POST /v1/sessions/{namespace}/{name}/messages/{id}/acknowledge",
    "GET /v1/sessions/{namespace}/{name}/memory",
    "GET /v1/sessions/{namespace}/{name}/memory/{scope}/{key}",
    "PUT /v1/sessions/{namespace}/{name}/memory/{scope}/{key}",
    "DELETE /v1/sessions/{namespace}/{name}/memory/{scope}/{key}",
    "GET /v1/sessions/{namespace}/{name}/effects",
    "GET /v1/sessions/{namespace}/{name}/effects/{key}",
    "POST /v1/sessions/{namespace}/{name}/effects/{key}/begin",
    "POST /v1/sessions/{namespace}/{name}/effects/{key}/finish",
    "POST /v1/sessions/{namespace}/{name}/effects/{key}/resolve",
    "GET /v1/sessions/{namespace}/{name}/metrics",
    "POST /v1/sessions/{namespace}/{name}/metrics",
    "POST /v1/sessions/{namespace}/{name}/blobs",
    "GET /v1/sessions/{namespace}/{name}/blobs/{id}",
    "GET /v1/sessions/{namespace}/{name}/feed",
    "GET /v1/sessions/{namespace}/{name}/feed/ws",
    "POST /v1/bulk",
    "GET /v1/query/{table}",
    "GET /v1/store",
    "GET /v1/store/copies",
    "GET /v1/recoveries",
    "GET /v1/report",
    "GET /v1/quarantine",
    "GET /v1/sessions/{namespace}/{name}/recovery",
    "POST /v1/sessions/{namespace}/{name}/recovery",
    "GET /v1/plans",
    "POST /v1/verify",
    "POST /v1/stop",
    "GET /health/live",
    "GET /health/ready",
    "GET /api/health",
    "GET /openapi.json",
];

/// Whether a path is one of this template, of as many parts; literal parts go before parameters.
fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(&path).all(|(part, text)| part.starts_with('{') || part == text)
}

/// Operations of the document: method and path.
pub(crate) fn operations(document: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            found.push((method.to_uppercase(), path.clone()));
        }
    }
    found
}

#[tokio::test]
async fn the_document_lists_every_route_and_the_router_has_each() {
    let daemon = Daemon::start().await;
    let document = daemon.get("/openapi.json").await.expect(200);
    let mut documented: Vec<String> =
        operations(&document).iter().map(|(method, path)| format!("{method} {path}")).collect();
    let mut expected: Vec<String> = ROUTES.iter().map(|route| (*route).to_owned()).collect();
    documented.sort();
    expected.sort();
    assert_eq!(documented, expected);
    // The router answers exactly the documented methods of each path: any other is 405 and says which are allowed.
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path.replace("{namespace}", "none").replace("{name}", "none").replace("{table}", "none");
        let concrete = concrete.replace("{id}", "x").replace("{scope}", "x").replace("{key}", "x");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = daemon.send(method, &concrete, &[], "").await;
            let is_documented = item.get(method.to_lowercase()).is_some();
            assert_eq!(answer.status == 405, !is_documented, "{method} {path}: {}", answer.status);
            if !is_documented {
                answer.problem(405, "method_not_allowed");
                assert!(!answer.header("allow").is_empty());
            }
        }
    }
    // Well-formed, as OpenAPI 3.1 asks: operation ids are there and unique, path parameters are declared.
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()));
            let declared = operation["parameters"]
                .as_array()
                .map_or(0, |all| all.iter().filter(|one| one["in"] == "path").count());
            assert_eq!(declared, path.matches('{').count(), "{path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses["default"]["content"].get("application/problem+json").is_some());
            assert!(responses.len() == 2);
        }
    }
}

#[tokio::test]
async fn every_route_does_what_it_is_for() {
    let daemon = Daemon::start().await;
    let s = &daemon.session("team/work").await;
    let done = |value: &Value| value["outcomes"][0]["done"]["id"].as_str().unwrap().to_owned();

    // Agents.
    let reply =
        daemon.post(&format!("{s}/agents"), json!({ "id": "planner", "kind": "plan", "capabilities": ["plan"] })).await;
    assert_eq!(reply.header("etag"), "\"2\"");
    let reply = reply.expect(200);
    assert_eq!(
        (&reply["first"], &reply["head"]["seq"], &reply["durability"]),
        (&json!(2), &json!(2), &json!("durable"))
    );
    assert_eq!(done(&reply), "planner");
    let worker = done(&daemon.post(&format!("{s}/agents"), json!({})).await.expect(200));
    assert_eq!(daemon.get(&format!("{s}/agents?kind=plan")).await.expect(200)["agents"][0]["id"], "planner");
    let first = daemon.get(&format!("{s}/agents?limit=1")).await.expect(200);
    let next = first["next"].as_str().unwrap();
    let second = daemon.get(&format!("{s}/agents?limit=1&after={next}")).await.expect(200);
    assert_ne!(first["agents"][0]["id"], second["agents"][0]["id"]);
    assert!(second.get("next").is_none());
    daemon.send("PATCH", &format!("{s}/agents/planner"), &[], r#"{"name":"Ada"}"#).await.expect(200);
    daemon.post(&format!("{s}/agents/planner/status"), json!({ "status": "busy" })).await.expect(200);
    daemon.post(&format!("{s}/agents/planner/heartbeat"), json!({})).await.expect(200);
    daemon.post(&format!("{s}/agents/planner/return"), json!({ "instance": "p1" })).await.expect(200);
    daemon.post(&format!("{s}/agents/nobody/return"), json!({ "instance": "p1" })).await.problem(404, "not_found");
    let agent = daemon.get(&format!("{s}/agents/planner")).await.expect(200);
    assert_eq!((&agent["name"], &agent["status"]), (&json!("Ada"), &json!("busy")));

    // Tasks: claimed, kept alive, completed; failed; released; assigned; cancelled.
    for title in ["a", "b", "c", "d"] {
        daemon
            .post(&format!("{s}/tasks"), json!({ "id": title, "title": title, "payload": {"n": 1.0} }))
            .await
            .expect(200);
    }
    let claim = daemon.post(&format!("{s}/tasks/claim"), json!({ "agent": worker })).await.expect(200);
    assert_eq!((&claim["task"]["id"], &claim["task"]["status"]), (&json!("a"), &json!("running")));
    let lease = claim["outcomes"][0]["claimed"]["lease"].as_u64().unwrap();
    daemon.post(&format!("{s}/tasks/a/heartbeat"), json!({ "lease": lease })).await.expect(200);
    daemon.post(&format!("{s}/tasks/a/heartbeat"), json!({ "lease": 99 })).await.problem(409, "lease_lost");
    daemon.post(&format!("{s}/tasks/a/complete"), json!({ "lease": lease, "result": {"ok": true} })).await.expect(200);
    let claim = daemon.post(&format!("{s}/tasks/b/claim"), json!({ "agent": worker })).await.expect(200);
    let lease = claim["outcomes"][0]["claimed"]["lease"].as_u64().unwrap();
    daemon.post(&format!("{s}/tasks/b/fail"), json!({ "lease": lease, "error": "no" })).await.expect(200);
    let claim = daemon.post(&format!("{s}/tasks/b/claim"), json!({ "agent": worker })).await.expect(200);
    let lease = claim["outcomes"][0]["claimed"]["lease"].as_u64().unwrap();
    daemon.post(&format!("{s}/tasks/b/release"), json!({ "lease": lease })).await.expect(200);
    daemon.send("PATCH", &format!("{s}/tasks/c"), &[], r#"{"priority":9}"#).await.expect(200);
    daemon.post(&format!("{s}/tasks/c/assign"), json!({ "agent": worker })).await.expect(200);
    daemon.post(&format!("{s}/tasks/d/cancel"), json!({ "reason": "enough" })).await.expect(200);
    let task = daemon.get(&format!("{s}/tasks/a")).await.expect(200);
    assert_eq!((&task["status"], &task["result"]["ok"]), (&json!("completed"), &json!(true)));
    let tasks = daemon.get(&format!("{s}/tasks?status=assigned")).await.expect(200);
    assert_eq!((tasks["tasks"].as_array().unwrap().len(), &tasks["tasks"][0]["id"]), (1, &json!("c")));

    // Messages.
    let sent = daemon
        .post(&format!("{s}/messages"), json!({ "from": "planner", "to": {"agent": worker}, "content": "hi" }))
        .await;
    let message = done(&sent.expect(200));
    assert_eq!(
        daemon.get(&format!("{s}/messages?agent={worker}")).await.expect(200)["messages"][0]["id"],
        message.as_str()
    );
    let taken = daemon.post(&format!("{s}/messages/receive"), json!({ "agent": worker })).await.expect(200);
    assert_eq!((&taken["messages"][0]["content"], &taken["messages"][0]["id"]), (&json!("hi"), &json!(message)));
    daemon.post(&format!("{s}/messages/{message}/acknowledge"), json!({ "agent": worker })).await.expect(200);
    assert_eq!(daemon.get(&format!("{s}/messages")).await.expect(200)["messages"], json!([]));

    // Memory: the bytes that came, versions, a key with everything in it.
    let path = format!("{s}/memory/shared/a%2Fb%20%C3%BC");
    let put = daemon.send("PUT", &path, &[("if-match", "\"0\"")], r#"{"x":1.0}"#).await.expect(200);
    let version = put["outcomes"][0]["version"]["version"].as_u64().unwrap();
    let entry = daemon.get(&path).await;
    assert_eq!(entry.header("etag"), format!("\"{version}\""));
    assert!(String::from_utf8_lossy(&entry.body).contains(r#""value":{"x":1.0}"#));
    assert_eq!(entry.json()["key"], "a/b ü");
    assert_eq!(daemon.send("GET", &path, &[("if-none-match", entry.header("etag"))], "").await.status, 304);
    let stale = daemon.send("PUT", &path, &[("if-match", "\"0\"")], "2").await.problem(412, "precondition_failed");
    assert_eq!(stale["current"], version);
    assert_eq!(
        daemon.get(&format!("{s}/memory?scope=shared")).await.expect(200)["memory"].as_array().unwrap().len(),
        1
    );
    for (text, count) in [("A%2FB", 1), ("nowhere", 0)] {
        let found = daemon.get(&format!("{s}/memory?text={text}")).await.expect(200);
        assert_eq!(found["memory"].as_array().unwrap().len(), count, "{text}");
    }
    daemon.send("DELETE", &path, &[("if-match", &format!("\"{version}\""))], "").await.expect(200);
    daemon.get(&path).await.problem(404, "not_found");
    daemon.send("PUT", &format!("{s}/memory/shared/soon?ttl_ms=600000"), &[], "1").await.expect(200);

    // Effects: run, recorded, in doubt, settled.
    let begin = json!({ "agent": worker, "instance": "p1", "request": {"cost": 3} });
    let run = daemon.post(&format!("{s}/effects/pay-1/begin"), begin.clone()).await.expect(200);
    assert_eq!(run["outcomes"][0]["run"]["attempt"], 1);
    daemon.post(&format!("{s}/effects/pay-1/begin"), begin.clone()).await.problem(409, "in_progress");
    daemon
        .post(&format!("{s}/effects/pay-1/finish"), json!({ "attempt": 1, "outcome": {"ok": true, "value": "paid"} }))
        .await
        .expect(200);
    let recorded = daemon.post(&format!("{s}/effects/pay-1/begin"), begin.clone()).await.expect(200);
    assert_eq!(recorded["outcomes"][0]["recorded"]["outcome"]["value"], "paid");
    daemon.post(&format!("{s}/effects/pay-2/begin"), begin.clone()).await.expect(200);
    let other = json!({ "agent": worker, "instance": "p2", "request": {"cost": 3} });
    daemon.post(&format!("{s}/effects/pay-2/begin"), other.clone()).await.problem(409, "outcome_unknown");
    assert_eq!(
        daemon.get(&format!("{s}/effects?status=outcome_unknown")).await.expect(200)["effects"][0]["id"],
        "pay-2"
    );
    daemon.post(&format!("{s}/effects/pay-2/resolve"), json!({ "by": "reconciler:ledger" })).await.expect(200);
    assert_eq!(daemon.get(&format!("{s}/effects/pay-2")).await.expect(200)["status"], "not_done");
    assert_eq!(
        daemon.post(&format!("{s}/effects/pay-2/begin"), other).await.expect(200)["outcomes"][0]["run"]["attempt"],
        2
    );

    // Metrics and blobs.
    let metric = json!({ "agent": worker, "name": "tokens", "value": 12.5, "tags": {"model": "m"} });
    assert_eq!(daemon.post(&format!("{s}/metrics"), json!({ "metrics": [metric] })).await.expect(200)["accepted"], 1);
    daemon.get(&format!("{s}/metrics?order=newest")).await.expect(200);
    for size in [10usize, 300_000] {
        let bytes = vec![7u8; size];
        let blob = daemon.send("POST", &format!("{s}/blobs?label=seven"), &[], bytes.clone()).await.expect(200);
        let back = daemon.get(&format!("{s}/blobs/{}", blob["id"].as_str().unwrap())).await;
        assert_eq!((back.status.as_u16(), back.header("x-content-type-options")), (200, "nosniff"));
        assert!(back.body == bytes);
    }

    // The log: commands as one group, history, state now and then, diff.
    let before = daemon.get(s).await.expect(200)["head"]["seq"].as_u64().unwrap();
    let two =
        json!({ "commands": [{"set_config": {"key": "topology", "value": "mesh"}}, {"record": {"kind": "note"}}] });
    let reply = daemon.post(&format!("{s}/commands"), two).await.expect(200);
    assert_eq!((&reply["first"], &reply["head"]["seq"]), (&json!(before + 1), &json!(before + 2)));
    let page = daemon.get(&format!("{s}/records?after={before}")).await.expect(200);
    assert_eq!(page["records"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&page["records"][0]["type"], &page["records"][0]["data"]["value"]),
        (&json!("config_set"), &json!("mesh"))
    );
    assert_eq!(page["records"][1]["hash"], reply["head"]["hash"]);
    let state = daemon.get(&format!("{s}/state")).await;
    assert_eq!(state.header("etag"), format!("\"{}\"", before + 2));
    assert_eq!(state.json()["info"]["name"], "team/work");
    assert_eq!(
        daemon.send("GET", &format!("{s}/state"), &[("if-none-match", state.header("etag"))], "").await.status,
        304
    );
    let then = daemon.get(&format!("{s}/state?at={before}")).await.expect(200);
    assert_eq!((&then["head"]["seq"], &then["config"]), (&json!(before), &json!([])));
    let diff = daemon.get(&format!("{s}/diff?from={before}")).await.expect(200);
    assert!(diff.to_string().contains("topology"), "{diff}");

    // Their life: checkpoint, rewind, fork, pause, resume, park, close.
    let made = daemon.post(&format!("{s}/checkpoints"), json!({})).await.expect(200);
    let kept = daemon.get(&format!("{s}/checkpoints")).await.expect(200);
    assert!(
        kept["checkpoints"]
            .as_array()
            .unwrap()
            .iter()
            .all(|kept| kept["head"]["seq"].as_u64() <= made["head"]["seq"].as_u64())
    );
    let fork = daemon.post(&format!("{s}/fork"), json!({ "name": "team/other", "at": before, "reason": "try" })).await;
    assert_eq!(fork.header("location"), "/v1/sessions/team/other");
    fork.expect(201);
    assert!(daemon.get("/v1/sessions/team/other").await.expect(200)["forked_from"]["seq"] == before);
    daemon.post(&format!("{s}/rewind"), json!({ "to": before })).await.expect(200);
    assert_eq!(daemon.get(&format!("{s}/state")).await.json()["config"], json!([]));
    daemon.send("PATCH", s, &[], r#"{"owner":"ada"}"#).await.expect(200);
    daemon.post(&format!("{s}/pause"), json!({ "reason": "lunch" })).await.expect(200);
    daemon.post(&format!("{s}/tasks"), json!({ "title": "x" })).await.problem(409, "session_not_live");
    daemon.send("POST", &format!("{s}/resume"), &[], "").await.expect(200);
    daemon.post(&format!("{s}/park"), json!({})).await.expect(200);
    let opened = daemon.post(&format!("{s}/open"), json!({})).await.expect(200);
    assert_eq!((&opened["first"], &opened["session"]["owner"]), (&json!(0), &json!("ada")));
    let made = daemon.post("/v1/sessions/team/new/open", json!({ "owner": "eve" })).await.expect(201);
    assert_eq!(made["session"]["owner"], "eve");
    let shown = daemon.get(s).await;
    assert_eq!(shown.json()["counts"]["tasks"], 4);
    assert_eq!(daemon.send("GET", s, &[("if-none-match", shown.header("etag"))], "").await.status, 304);
    let closed = daemon.post(&format!("{s}/close"), json!({})).await.expect(200);

    // Across sessions.
    let position = closed["position"].as_u64().unwrap();
    let rows =
        daemon.get(&format!("/v1/query/tasks?session=team/work&status=assigned&position={position}")).await.expect(200);
    assert_eq!(rows["rows"].as_array().unwrap().len(), 1, "{rows}");
    daemon.get("/v1/query/nothing").await.problem(404, "not_found");
    let refused = daemon.get("/v1/query/events").await.problem(400, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains("give `session`"), "{refused}");
    daemon.get("/v1/query/tasks?limit=0").await.problem(400, "invalid");
    let sessions = daemon.get("/v1/sessions?namespace=team&limit=2").await.expect(200);
    assert_eq!(sessions["rows"].as_array().unwrap().len(), 2);
    let cursor = sessions["next"].as_str().unwrap();
    let rest = daemon.get(&format!("/v1/sessions?namespace=team&limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!(rest["rows"].as_array().unwrap().len(), 1);

    // The store.
    assert!(daemon.get("/v1/store").await.expect(200)["store"]["records_position"].is_u64());
    let copies = daemon.get("/v1/store/copies").await.expect(200);
    assert_eq!((&copies["once"], &copies["ranges"]), (&json!(0), &json!([])), "the journal has it all: {copies}");
    assert!(copies["records"].as_u64().unwrap() > 0 || copies["unapplied_bytes"].as_u64().unwrap() > 0, "{copies}");
    assert!(daemon.get("/v1/recoveries").await.expect(200)["recoveries"].is_array());
    assert_eq!(daemon.get("/v1/report?session=team/work&since_ms=0").await.expect(200)["session"], "team/work");
    daemon.get("/v1/report?session=team/none").await.problem(404, "not_found");
    assert_eq!(daemon.get("/v1/quarantine").await.expect(200), json!({ "sessions": [] }));
    let plans = daemon.get("/v1/plans").await.expect(200);
    assert!(plans["sessions"].as_u64().unwrap() > 0 && plans["plans"] == json!([]), "nothing is wrong: {plans}");
    let nothing = json!({ "recovery": null, "plan": null });
    assert_eq!(daemon.get(&format!("{s}/recovery")).await.expect(200), nothing);
    for body in [json!({ "dry_run": true, "accept_loss": true }), json!({})] {
        assert_eq!(daemon.post(&format!("{s}/recovery"), body).await.expect(200), nothing);
    }
    for body in [json!({}), json!({ "session": "team/work" })] {
        let report = daemon.post("/v1/verify", body).await.expect(200);
        assert_eq!(report["findings"], json!([]), "{report}");
    }
    assert_eq!(daemon.get("/health/live").await.expect(200)["status"], "live");
    daemon.keep.wait_ready().await;
    assert_eq!(daemon.get("/health/ready").await.expect(200)["status"], "ready");
    let health = daemon.get("/api/health").await.expect(200);
    assert_eq!(health["status"], "healthy", "{health}");
    for component in ["persistence", "sync", "recovery", "tasks", "websocket"] {
        assert_eq!(health["components"][component]["status"], "healthy", "{health}");
        assert!(health["components"][component]["message"].is_string());
    }
    let metrics = &health["metrics"];
    // b pending and c assigned in the session, and as many in its fork; a and d ended, twice.
    assert_eq!((&metrics["activeTasks"], &metrics["totalTasks"]), (&json!(4), &json!(8)), "{health}");
    assert!(metrics["uptime"].is_u64() && metrics["memoryUsage"]["rss"].as_u64().unwrap() > 1_000_000);
    daemon.get("/openapi.json").await.expect(200);
    daemon.post("/v1/stop", json!({})).await.problem(403, "forbidden");

    // Which routes were not called above? Streams have tests of their own.
    let calls = daemon.calls.lock().unwrap();
    for route in ROUTES.iter().filter(|route| !route.contains("/feed") && !route.contains("/bulk")) {
        let (method, template) = route.split_once(' ').unwrap();
        let called =
            calls.iter().any(|(called, path)| *called == Method::try_from(method).unwrap() && fits(template, path));
        assert!(called, "{route} was never called");
    }
}
