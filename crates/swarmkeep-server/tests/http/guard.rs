//! Who may ask: names, pages, tokens.

use serde_json::json;
use swarmkeep_server::Secret;

use crate::daemon::Daemon;

#[tokio::test]
async fn only_our_own_names_and_no_pages() {
    let daemon = Daemon::start_with(|settings, _| {
        settings.hosts = vec!["keep.example".into()];
        settings.origins = vec!["https://ops.example".into()];
    })
    .await;
    let port = daemon.address.port();
    for (host, allowed) in [
        (format!("127.0.0.1:{port}"), true),
        (format!("localhost:{port}"), true),
        ("keep.example".to_owned(), true),
        (format!("evil.example:{port}"), false),
        ("localhost:1".to_owned(), false),
    ] {
        let answer = daemon.send("GET", "/health/live", &[("host", &host)], "").await;
        assert_eq!(answer.status.is_success(), allowed, "{host}");
        if !allowed {
            answer.problem(403, "forbidden");
        }
    }
    let body = json!({ "name": "a/b" }).to_string();
    daemon
        .send("POST", "/v1/sessions", &[("origin", "https://evil.example")], body.clone())
        .await
        .problem(403, "forbidden");
    daemon.get("/v1/sessions/a/b").await.problem(404, "not_found");
    let answer = daemon.send("POST", "/v1/sessions", &[("origin", "https://ops.example")], body).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://ops.example");
    answer.expect(201);
    let preflight = daemon.send("OPTIONS", "/v1/sessions", &[("origin", "https://ops.example")], "").await;
    assert_eq!(
        (preflight.status.as_u16(), preflight.header("access-control-allow-origin")),
        (204, "https://ops.example")
    );
    daemon.send("OPTIONS", "/v1/sessions", &[("origin", "https://evil.example")], "").await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_token_is_wanted_everywhere_but_for_probes() {
    let daemon =
        Daemon::start_with(|settings, _| settings.token = Some(Secret::new("0123456789abcdef").unwrap())).await;
    assert_eq!(daemon.get("/v1/sessions").await.header("www-authenticate"), "Bearer");
    daemon.get("/v1/sessions").await.problem(401, "unauthorized");
    daemon.get("/openapi.json").await.problem(401, "unauthorized");
    daemon
        .send("GET", "/v1/sessions", &[("authorization", "Bearer 0123456789abcdeX")], "")
        .await
        .problem(401, "unauthorized");
    daemon.send("GET", "/v1/sessions", &[("authorization", "Bearer 0123456789abcdef")], "").await.expect(200);
    assert_eq!(daemon.get("/health/live").await.status, 200);
}
