//! One client and its server.

use serde_json::json;
use swarmkeep::core::state::{EffectClass, EffectStatus};
use swarmkeep_mcp::{
    calls::Limits,
    link::{Phase, Timing},
    transport::{Program, Recipe},
    upstream::{FromClient, ToClient},
};

use crate::client::{Client, Setup, executed, kill, text, trusting};

#[tokio::test]
async fn a_client_talks_to_its_server_and_the_call_is_in_the_log() {
    let mut client = Client::start(Setup::default()).await;
    let hello = client.initialize().await;
    assert_eq!(hello["result"]["serverInfo"]["name"], "peer");
    assert_eq!(hello["result"]["xUnknown"].to_string(), "1.0", "what nobody knows is passed on");
    client.ask(2, "tools/list", json!({})).await;
    assert_eq!(client.answer(2).await["result"]["tools"].as_array().unwrap().len(), 15);
    client.call(3, "pay").await;
    assert_eq!(text(&client.answer(3).await), "pay");
    let effects = client.settled().await;
    assert_eq!(effects.len(), 1, "reading is not recorded");
    assert_eq!((effects[0].class, effects[0].status), (EffectClass::AtMostOnce, EffectStatus::Finished));
    assert!(effects[0].outcome.as_ref().unwrap().ok);
    assert!(effects[0].request.as_str().contains(r#""name":"pay""#));
    client.end().await;
}

#[tokio::test]
async fn a_server_that_is_killed_mid_call_is_back_and_the_call_is_not_made_twice() {
    let mut client = Client::start(Setup::default()).await;
    client.initialize().await;
    client.ask(2, "tools/call", json!({ "name": "pay", "arguments": { "slow": true } })).await;
    let pid = client.reached("pay", 1).await;
    kill(pid);
    let answer = client.answer(2).await;
    assert_eq!(executed(&answer), "unknown");
    assert_eq!(answer["result"]["isError"], true);
    // The next call finds the server back, with the same handshake and no word of the client's.
    client.call(3, "echo").await;
    assert_eq!(text(&client.answer(3).await), "echo");
    let effects = client.settled().await;
    let pay = effects.iter().find(|effect| effect.request.as_str().contains("pay")).unwrap();
    assert_eq!(pay.status, EffectStatus::OutcomeUnknown);
    assert_eq!(client.outside.effects().len(), 1);
    assert!(client.status().await.generation.0 >= 2);
    client.end().await;
}

#[tokio::test]
async fn a_read_of_a_trusted_server_is_made_again_unless_its_hint_is_lost() {
    for keeps_hint in [true, false] {
        let mut client = Client::start(Setup { trust: trusting(), ..Setup::default() }).await;
        client.initialize().await;
        client.ask(2, "tools/list", json!({})).await;
        client.answer(2).await;
        client.ask(3, "tools/call", json!({ "name": "look", "arguments": { "slow": true } })).await;
        let pid = client.reached("look", 1).await;
        if !keeps_hint {
            client.outside.set("PEER_HINTS", "none");
        }
        kill(pid);
        client.outside.open_gate();
        let answer = client.answer(3).await;
        if keeps_hint {
            assert_eq!(text(&answer), "look");
            assert_eq!(client.outside.effects().len(), 2);
        } else {
            assert_eq!(executed(&answer), "unknown");
            assert!(text(&answer).contains("no longer says"), "{answer}");
            assert_eq!(client.outside.effects().len(), 1, "not sent again");
        }
        client.end().await;
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_said_to_be_and_found_at_the_next_use() {
    let timing =
        Timing { immediate_ms: vec![0, 1, 1], backoff_ms: 1, backoff_most_ms: 2, use_gap_ms: 1, ..Timing::default() };
    let mut client = Client::start(Setup { timing, ..Setup::default() }).await;
    client.initialize().await;
    client.call(2, "pay").await;
    client.answer(2).await;
    let pid = client.outside.effects()[0].1;
    std::fs::write(client.outside.down(), "").unwrap();
    kill(pid);
    client.until("it is offline", |_, status| status.phase == Phase::Offline).await;
    client.call(3, "pay").await;
    let answer = client.answer(3).await;
    assert_eq!(executed(&answer), "no");
    assert!(text(&answer).contains("may be made again"));
    client.ask(4, "resources/list", json!({})).await;
    assert_eq!(client.answer(4).await["error"]["code"], -32010);
    std::fs::remove_file(client.outside.down()).unwrap();
    client.call(5, "pay").await;
    assert_eq!(text(&client.answer(5).await), "pay");
    assert_eq!(client.outside.effects().len(), 2);
    client.end().await;
}

#[tokio::test]
async fn a_call_is_held_while_its_server_comes_back_and_the_client_hears_of_it() {
    let limits = Limits { hold_progress_ms: 1, ..Limits::default() };
    let mut client = Client::start(Setup { limits, ..Setup::default() }).await;
    client.initialize().await;
    client.call(2, "pay").await;
    client.answer(2).await;
    client.outside.set("PEER_LATE", "1");
    kill(client.outside.effects()[0].1);
    client.until("the loss is seen", |_, status| status.generation.0 >= 2).await;
    client.ask(3, "tools/call", json!({ "name": "pay", "arguments": {}, "_meta": { "progressToken": "mine" } })).await;
    client.until("the call is held", |_, status| status.calls.len() == 1).await;
    client.outside.open_gate();
    assert_eq!(text(&client.answer(3).await), "pay");
    let told: Vec<f64> = client
        .aside()
        .iter()
        .filter(|line| line["params"]["progressToken"] == "mine")
        .map(|line| line["params"]["progress"].as_f64().unwrap())
        .collect();
    assert!(told.windows(2).all(|pair| pair[0] < pair[1]), "{told:?}");
    assert_eq!(client.outside.effects().len(), 2);
    client.end().await;
}

#[tokio::test]
async fn answers_twice_never_and_anothers_and_noise_settle_nothing_wrongly() {
    let limits = Limits { call_ms: 300, ..Limits::default() };
    let mut client = Client::start(Setup { limits, ..Setup::default() }).await;
    client.initialize().await;
    for (id, tool) in [(2, "twice"), (3, "wrong"), (4, "noise"), (5, "never"), (6, "echo")] {
        client.call(id, tool).await;
    }
    for (id, tool) in [(2, "twice"), (3, "wrong"), (4, "noise"), (6, "echo")] {
        assert_eq!(text(&client.answer(id).await), tool);
    }
    assert_eq!(executed(&client.answer(5).await), "unknown");
    let strays = client.status().await.strays;
    assert_eq!(strays.values().sum::<u64>(), 2, "{strays:?}");
    assert_eq!(client.aside().len(), 0, "nothing else came");
    client.end().await;
}

#[tokio::test]
async fn a_server_that_dies_at_every_call_is_not_called_again_for_it() {
    let mut client = Client::start(Setup::default()).await;
    client.initialize().await;
    for id in 2..8 {
        client.call(id, "die").await;
        let answer = client.answer(id).await;
        assert!(matches!(executed(&answer), "unknown" | "no"), "{answer}");
    }
    let sent = client.outside.effects().len();
    let effects = client.settled().await;
    let unknown = effects.iter().filter(|effect| effect.status == EffectStatus::OutcomeUnknown).count();
    assert_eq!(unknown, sent, "each that was carried out is in doubt, and no other");
    client.end().await;
}

#[tokio::test]
async fn large_answers_pass_whole_and_are_stored_cut() {
    let mut client = Client::start(Setup::default()).await;
    client.initialize().await;
    client.ask(2, "tools/call", json!({ "name": "big", "arguments": { "bytes": 4_000_000 } })).await;
    assert_eq!(text(&client.answer(2).await).len(), 4_000_000);
    let effects = client.settled().await;
    let stored = effects[0].outcome.as_ref().unwrap().value.as_str();
    assert!(stored.len() < 4_096 && stored.contains("\"cut\""), "{stored}");
    client.end().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_gets_its_answers_and_then_the_end() {
    let mut client = Client::start(Setup::default()).await;
    client.initialize().await;
    client.call(2, "echo").await;
    client.handles.client.send(FromClient::SaidAll).await.unwrap();
    assert_eq!(text(&client.answer(2).await), "echo");
    while let Some(line) = client.next().await {
        assert!(matches!(line, ToClient::Taken(_)), "{line:?}");
    }
    client.end().await;
}

#[tokio::test]
async fn what_is_under_way_when_the_client_goes_is_unknown_and_the_server_ends() {
    let mut client = Client::start(Setup::default()).await;
    client.initialize().await;
    client.ask(2, "tools/call", json!({ "name": "pay", "arguments": { "slow": true } })).await;
    let pid = client.reached("pay", 1).await;
    let session = client.session.clone();
    client.end().await;
    let state = session.state().await.unwrap();
    let statuses: Vec<EffectStatus> = state.effects.iter().map(|effect| effect.status).collect();
    assert_eq!(statuses, [EffectStatus::OutcomeUnknown]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_call_that_is_offered_again_after_a_crash_is_not_made_again_and_answered_as_it_was() {
    for tool in ["pay", "refuse"] {
        let mut client = Client::start(Setup::default()).await;
        client.initialize().await;
        let number = client.call(2, tool).await;
        let answer = client.answer(2).await;
        assert_eq!(answer["error"]["code"] == -32_050, tool == "refuse", "{answer}");
        client.settled().await;
        // Another daemon, the same client: it knows nothing of its call's answer, and offers the line again.
        let Client { handles, outside, keep, session, .. } = client;
        drop(handles);
        let mut again = Client::of(Setup::default(), outside, &keep, session, "one").await;
        for _ in 1..number {
            again.say(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#).await;
        }
        assert_eq!(again.call(2, tool).await, number);
        assert_eq!(again.answer(2).await, answer, "the recorded answer");
        assert_eq!(again.outside.effects().len(), 1);
        again.end().await;
    }
}

#[tokio::test]
async fn lines_that_are_no_messages_are_answered_and_the_next_one_is_taken() {
    let mut client = Client::start(Setup::default()).await;
    for (line, code) in [("{\"half\":", -32700), ("[]", -32600), ("[{\"method\":\"a\"}]", -32600), ("5", -32600)] {
        client.say(line).await;
        let said = loop {
            if let Some(ToClient::Line { line, .. }) = client.next().await {
                break serde_json::from_slice::<serde_json::Value>(&line).unwrap();
            }
        };
        assert_eq!((&said["id"], &said["error"]["code"]), (&json!(null), &json!(code)), "{line}");
    }
    client.initialize().await;
    client.ask(1, "ping", json!({})).await;
    assert_eq!(client.answer(1).await["result"], json!({}));
    client.end().await;
}

/// Times so short that silence is seen while one waits for it.
fn impatient() -> Timing {
    Timing { probe_after_ms: 100, suspect_after_ms: 400, second_ms: 2_000, ..Timing::default() }
}

#[tokio::test]
async fn a_server_that_is_stopped_with_nothing_to_do_is_replaced() {
    let mut client = Client::start(Setup { timing: impatient(), ..Setup::default() }).await;
    client.initialize().await;
    client.call(2, "pay").await;
    client.answer(2).await;
    let pid = rustix::process::Pid::from_raw(client.outside.effects()[0].1.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    client.until("the silence is noticed", |_, status| status.generation.0 >= 2).await;
    client.call(3, "pay").await;
    assert_eq!(text(&client.answer(3).await), "pay");
    let effects = client.outside.effects();
    assert_ne!(effects[0].1, effects[1].1, "another process");
    client.end().await;
}

#[tokio::test]
async fn a_server_that_is_busy_and_answers_no_ping_is_left_alone() {
    let mut client = Client::start(Setup { timing: impatient(), ..Setup::default() }).await;
    client.initialize().await;
    client.ask(2, "tools/call", json!({ "name": "pay", "arguments": { "slow": true } })).await;
    let pid = client.reached("pay", 1).await;
    client.until("it is suspect", |_, status| status.phase == Phase::Suspect).await;
    // New calls wait meanwhile, and go when it is heard again.
    client.call(3, "echo").await;
    client.outside.open_gate();
    assert_eq!(text(&client.answer(2).await), "pay");
    assert_eq!(text(&client.answer(3).await), "echo");
    client.call(4, "pay").await;
    client.answer(4).await;
    assert_eq!(client.outside.effects()[1].1, pid, "the same process");
    assert_eq!(client.status().await.generation.0, 1);
    client.end().await;
}

#[tokio::test]
async fn calls_go_on_in_another_session_when_one_is_nearly_full() {
    let mut client = Client::start(Setup::default()).await;
    client.initialize().await;
    client.call(2, "pay").await;
    client.answer(2).await;
    client.ask(3, "tools/call", json!({ "name": "pay", "arguments": { "slow": true } })).await;
    client.reached("pay", 2).await;
    let large = "x".repeat(500_000);
    for key in 0..110 {
        client.session.set_memory(&format!("k{key}"), &large).await.unwrap();
    }
    client.call(4, "pay").await;
    client.until("both are sent", |_, status| status.in_flight == 2).await;
    client.outside.open_gate();
    assert_eq!(text(&client.answer(3).await), "pay");
    assert_eq!(text(&client.answer(4).await), "pay");
    // What was begun in the first one is finished there.
    let before = client.settled().await;
    assert!(before.len() == 2 && before.iter().all(|effect| effect.status == EffectStatus::Finished));
    let next = client.keep.get_session("mcp/test.2").await.unwrap().expect("the session that goes on");
    assert_eq!(next.state().await.unwrap().effects.len(), 1);
    client.end().await;
}

#[tokio::test]
async fn a_client_that_starts_while_its_server_is_away_is_answered_from_what_was_seen() {
    let timing = || Timing {
        immediate_ms: vec![0, 1, 1],
        backoff_ms: 1,
        backoff_most_ms: 2,
        use_gap_ms: 1,
        ..Timing::default()
    };
    let mut first = Client::start(Setup { timing: timing(), ..Setup::default() }).await;
    let hello = first.initialize().await;
    first.ask(2, "tools/list", json!({})).await;
    let tools = first.answer(2).await;
    let (keep, session) = (first.keep.clone(), first.session.clone());
    let outside = first.end().await;

    std::fs::write(outside.down(), "").unwrap();
    let mut second =
        Client::of(Setup { timing: timing(), ..Setup::default() }, outside, &keep, session.clone(), "two").await;
    assert_eq!(second.initialize().await["result"], hello["result"]);
    second.until("it is offline", |_, status| status.phase == Phase::Offline).await;
    second.ask(2, "tools/list", json!({})).await;
    let stale = second.answer(2).await;
    assert_eq!(
        (&stale["result"]["tools"], &stale["result"]["_meta"]["swarmkeep/stale"]),
        (&tools["result"]["tools"], &json!(true))
    );
    second.call(3, "pay").await;
    assert_eq!(executed(&second.answer(3).await), "no");

    std::fs::remove_file(second.outside.down()).unwrap();
    second.call(4, "pay").await;
    assert_eq!(text(&second.answer(4).await), "pay");
    // It may be another one than the client was told of.
    second.until_line(|line| line["method"] == "notifications/tools/list_changed").await;
    assert_eq!(second.outside.effects().len(), 1);
    let outside = second.end().await;

    // Another server of the same name said nothing yet.
    std::fs::write(outside.down(), "").unwrap();
    let Recipe::Stdio(program) = outside.recipe() else { panic!("a program") };
    let other = Program { arguments: [program.arguments, vec!["other".to_owned()]].concat(), ..program };
    let setup = Setup { timing: timing(), recipe: Some(Recipe::Stdio(other)), ..Setup::default() };
    let mut third = Client::of(setup, outside, &keep, session, "three").await;
    let error = third.initialize().await["error"].clone();
    assert_eq!((&error["code"], &error["data"]["executed"]), (&json!(-32010), &json!("no")), "{error}");
    assert!(error["data"]["retryAfterMs"].is_u64(), "{error}");
    third.end().await;
}

#[tokio::test]
async fn a_hint_counts_for_a_call_that_comes_before_the_client_has_asked_for_the_tools() {
    let mut client = Client::start(Setup { trust: trusting(), ..Setup::default() }).await;
    client.initialize().await;
    client.ask(2, "tools/call", json!({ "name": "look", "arguments": { "slow": true } })).await;
    kill(client.reached("look", 1).await);
    client.outside.open_gate();
    assert_eq!(text(&client.answer(2).await), "look", "it says that it only reads");
    assert_eq!(client.outside.effects().len(), 2);
    client.end().await;
}

/// A request of a client of the stateless revisions.
async fn pay_statelessly(client: &mut Client, id: u64) {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "t", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    client.ask(id, "tools/call", json!({ "name": "pay", "arguments": {}, "_meta": meta })).await;
}

/// Revisions without a handshake: a process that ends before it has read a word must not have been sent a call.
#[tokio::test]
async fn a_call_goes_to_a_server_that_has_said_something() {
    let mut client = Client::start(Setup::default()).await;
    pay_statelessly(&mut client, 1).await;
    assert_eq!(text(&client.answer(1).await), "pay");
    let pid = client.reached("pay", 1).await;
    // From now on each one that is started ends after a moment.
    std::fs::write(client.outside.path().join("falls"), "").unwrap();
    kill(pid);
    client.until("the next one is there", |_, status| status.generation.0 > 1).await;
    pay_statelessly(&mut client, 2).await;
    client.until("it has fallen as well", |_, status| status.generation.0 > 2).await;
    std::fs::remove_file(client.outside.path().join("falls")).unwrap();
    assert_eq!(text(&client.answer(2).await), "pay", "it waited");
    assert_eq!(client.outside.effects().len(), 2);
    client.end().await;
}
