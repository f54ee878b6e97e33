//! A web application's session: metadata, a time-to-live, data by key, a budget for RAM.
//!
//! Many session stores keep such data in memory and spill it to disk when memory runs short, or promise to; what was not
//! spilled is gone with the process. Here every change is durable before it is acknowledged, so that leaving RAM costs
//! nothing and needs nothing. `cargo run -p swarmkeep --example web_session`
#![allow(clippy::unwrap_used, reason = "an example")]

use std::collections::BTreeMap;

use swarmkeep::{Actor, ErrorKind, Json, NewSession, SessionMetadata, SessionName, Settings, Swarmkeep};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().to_str().unwrap();
    // 2 MiB for sessions in RAM: beyond 80 % of it those not used for longest leave.
    let settings = Settings { resident_bytes: 2 << 20, pack_after_ms: 100, ..Settings::default() };
    let keep = Swarmkeep::open_with(store, settings.clone()).await?;

    let metadata = SessionMetadata {
        client_ip: Some("192.168.1.1".into()),
        user_agent: Some("Mozilla/5.0".into()),
        source: Some("web_app".into()),
        attributes: BTreeMap::from([("locale".to_owned(), Json::encode("en")?)]),
    };
    let new = NewSession {
        owner: Some("user123".into()),
        metadata,
        ttl_ms: Some(10 * 60 * 1000), // 10 minutes from its creation
        ..NewSession::new(SessionName::new("web", "visitor-1")?)
    };
    let session = keep.create_session(new, &Actor::new("web_app")?).await?;
    let cart = Json::parse(
        r#"{"items":[{"id":1,"name":"Product A","price":29.99},{"id":2,"name":"Product B","price":49.99}],"total":79.98}"#,
    )?;
    session.set_memory("shopping_cart", &cart).await?;

    // So many others that this one leaves RAM.
    let filler = "x".repeat(16 * 1024);
    for n in 0..300 {
        keep.open_session(&format!("web/other-{n}")).await?.set_memory("page", &filler).await?;
    }
    while keep.health().sessions_dropped == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    // The caller cannot tell where it was, except by time.
    let session = keep.get_session("web/visitor-1").await?.ok_or("it was made above")?;
    println!("owner: {:?}", session.state().await?.info.owner);
    println!("cart:  {}", session.memory("shopping_cart").await?.ok_or("it was set above")?);
    let health = keep.health();
    println!(
        "in RAM: {} sessions, {} bytes of {}",
        health.resident_sessions, health.resident_bytes, health.resident_budget_bytes
    );
    println!("left RAM: {}, came into it: {}", health.sessions_dropped, health.sessions_loaded);
    keep.close().await?;

    // Another process, another day.
    let keep = Swarmkeep::open_with(store, settings).await?;
    let session = keep.get_session("web/visitor-1").await?.ok_or("it survived")?;
    assert_eq!(session.memory("shopping_cart").await?.ok_or("with its cart")?.as_str(), cart.as_str());

    // Ending a session is a record too: history stays readable, writing is refused.
    let close = swarmkeep::Command::Close { reason: Some("checked out".into()) };
    session.submit(swarmkeep::Request::of(Actor::new("web_app")?, close)).await?;
    let refused = session.set_memory("shopping_cart", 0).await.err().map(|error| error.kind);
    assert_eq!(refused, Some(ErrorKind::Refused));
    println!("closed; its {} records stay", session.state().await?.head.seq);
    keep.close().await?;
    Ok(())
}
