//! Shims and the daemon's end over a local socket; the daemon goes and another one comes.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use swarmkeep::{Swarmkeep, core::state::EffectStatus};
use swarmkeep_mcp::{
    calls::Queue,
    class::Trust,
    daemon::{Daemon, Threads},
    shim::{self, Ended},
    wire::{Ask, Hello, VERSION, Wants},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::client::{Outside, PATIENCE, executed, text};

/// A daemon on a store of its own folder.
struct Running {
    keep: Swarmkeep,
    stop: watch::Sender<Option<Instant>>,
    over: JoinHandle<Threads>,
}

impl Running {
    async fn start(store: &std::path::Path) -> Self {
        let keep = Swarmkeep::open(store.to_string_lossy()).await.unwrap();
        let (stop, stopped) = watch::channel(None);
        let daemon = Daemon::bind(keep.clone(), &store.join("mcp.sock"), None, stopped).unwrap();
        let over = tokio::spawn(daemon.run());
        Self { keep, stop, over }
    }

    async fn stop(self) {
        self.stop_within(Duration::ZERO).await;
    }

    async fn stop_within(self, wait: Duration) {
        self.stop.send_replace(Some(Instant::now() + wait));
        let _threads = timeout(PATIENCE, self.over).await.expect("ends in time").unwrap();
        self.keep.close().await.unwrap();
    }
}

struct Shim {
    to: WriteHalf<DuplexStream>,
    from: Lines<BufReader<ReadHalf<DuplexStream>>>,
    over: JoinHandle<Result<(), Ended>>,
    aside: Vec<Value>,
}

impl Shim {
    fn start(outside: &Outside, session: Option<&str>, socket: PathBuf) -> Self {
        Self::queueing(outside, session, socket, Queue::default())
    }

    fn queueing(outside: &Outside, session: Option<&str>, socket: PathBuf, queue: Queue) -> Self {
        let ask = Ask {
            client: "0123456789abcdef".into(),
            session: session.map(str::to_owned),
            folder: outside.path().display().to_string(),
            upstream: None,
            recipe: outside.recipe(),
            trust: Trust::default(),
            initialize: None,
            queue,
            offered: None,
            waited_ms: BTreeMap::new(),
            is_lasting: false,
        };
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (input, output) = tokio::io::split(theirs);
        let over = tokio::spawn(shim::run(ask, (BufReader::new(input), false), output, move || {
            let socket = socket.clone();
            async move { UnixStream::connect(&socket).await }
        }));
        let (from, to) = tokio::io::split(ours);
        Self { to, from: BufReader::new(from).lines(), over, aside: Vec::new() }
    }

    async fn say(&mut self, line: Value) {
        self.to.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn call(&mut self, id: u64, tool: &str, arguments: Value) {
        let params = json!({ "name": tool, "arguments": arguments });
        self.say(json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })).await;
    }

    async fn answer(&mut self, id: u64) -> Value {
        loop {
            if let Some(at) = self.aside.iter().position(|line| line["id"] == id) {
                return self.aside.remove(at);
            }
            let line = timeout(PATIENCE, self.from.next_line()).await.expect("in time").unwrap().expect("not over");
            self.aside.push(serde_json::from_str(&line).unwrap());
        }
    }

    async fn initialize(&mut self) -> Value {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "A client", "version": "1" } });
        self.say(json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).await;
        let answer = self.answer(0).await;
        self.say(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        answer
    }
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    timeout(PATIENCE, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"));
}

#[tokio::test]
async fn a_client_outlives_the_daemon_and_no_call_is_made_twice() {
    let outside = Outside::new();
    let store = tempfile::tempdir().unwrap();
    let daemon = Running::start(store.path()).await;
    let mut shim = Shim::start(&outside, None, store.path().join("mcp.sock"));
    shim.initialize().await;
    shim.call(1, "pay", json!({})).await;
    assert_eq!(text(&shim.answer(1).await), "pay");
    shim.say(json!({ "jsonrpc": "2.0", "id": 90, "method": "resources/subscribe", "params": { "uri": "a:b" } })).await;
    shim.answer(90).await;
    shim.call(2, "pay", json!({ "slow": true })).await;
    until("the call reaches the server", || outside.effects().iter().filter(|(what, _)| what == "pay").count() == 2)
        .await;
    // The daemon ends under the call: the client is not told, and its line is offered to the next one.
    daemon.stop().await;
    let daemon = Running::start(store.path()).await;
    let answer = shim.answer(2).await;
    assert_eq!(executed(&answer), "unknown", "{answer}");
    shim.call(3, "pay", json!({})).await;
    assert_eq!(text(&shim.answer(3).await), "pay");
    assert_eq!(outside.effects().iter().filter(|(what, _)| what == "pay").count(), 3);
    assert_eq!(shim.aside, Vec::<Value>::new(), "each call has one answer");

    let hash = blake3::hash(outside.path().display().to_string().as_bytes()).to_hex();
    let folder = outside.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
    let name = format!("mcp/{folder}-{}-A-client", &hash[..8]);
    let session = daemon.keep.get_session(&name).await.unwrap().unwrap_or_else(|| panic!("session {name}"));
    let state = session.state().await.unwrap();
    let of_client = |connection: &&std::sync::Arc<swarmkeep::core::state::Connection>| connection.status == "connected";
    let connection = state.connections.iter().find(of_client).expect("the connection is in the log");
    assert_eq!(connection.status, "connected");
    assert!(connection.state.as_str().contains("resources/subscribe"), "{connection:?}");
    assert!(!connection.recipe.as_str().contains(&outside.path().join("effects").display().to_string()), "no values");
    assert_eq!(outside.effects().iter().filter(|(what, _)| what == "subscribe").count(), 2, "said again");
    let of = |status| state.effects.iter().filter(|effect| effect.status == status).count();
    assert_eq!((of(EffectStatus::OutcomeUnknown), state.effects.len()), (1, 3));
    shim.to.shutdown().await.unwrap();
    timeout(PATIENCE, shim.over).await.expect("ends in time").unwrap().unwrap();
    let session = daemon.keep.get_session(&name).await.unwrap().unwrap();
    timeout(PATIENCE, async {
        while session.state().await.unwrap().connections.iter().any(|connection| connection.status != "seen") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a client that is gone has no connection");
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_is_stopped_waits_for_calls_under_way_and_not_for_longer() {
    let (outside, store) = (Outside::new(), tempfile::tempdir().unwrap());
    let pays = |outside: &Outside| outside.effects().iter().filter(|(what, _)| what == "pay").count();
    let daemon = Running::start(store.path()).await;
    let mut shim = Shim::start(&outside, Some("work/here"), store.path().join("mcp.sock"));
    shim.initialize().await;
    shim.call(1, "pay", json!({ "slow": true })).await;
    until("the call reaches the server", || pays(&outside) == 1).await;
    let (answer, ()) = tokio::join!(shim.answer(1), async {
        let opens = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            outside.open_gate();
        };
        tokio::join!(daemon.stop_within(PATIENCE), opens);
    });
    assert_eq!(text(&answer), "pay", "{answer}");
    std::fs::remove_file(outside.path().join("gate")).unwrap();

    let daemon = Running::start(store.path()).await;
    shim.call(2, "pay", json!({ "slow": true })).await;
    until("the call reaches the server", || pays(&outside) == 2).await;
    daemon.stop_within(Duration::from_millis(100)).await;
    let daemon = Running::start(store.path()).await;
    let answer = shim.answer(2).await;
    assert_eq!(executed(&answer), "unknown", "{answer}");
    assert!(text(&answer).contains("swarmkeep was stopped before an answer came"), "{answer}");
    let key = answer["result"]["_meta"]["swarmkeep/outcome"]["call"].as_str().unwrap().to_owned();
    let session = daemon.keep.get_session("work/here").await.unwrap().unwrap();
    let state = session.state().await.unwrap();
    let doubt = state.effects.iter().find(|effect| effect.id.as_str() == key).expect("what a person settles it by");
    assert_eq!(doubt.status, EffectStatus::OutcomeUnknown);
    drop(session);
    assert_eq!(pays(&outside), 2);
    daemon.stop().await;
}

/// Nobody is to wait for real: the client's streams are in this process, and there is no daemon.
#[tokio::test(start_paused = true)]
async fn a_client_without_a_daemon_is_answered_and_served_when_there_is_one() {
    let outside = Outside::new();
    let mut shim = Shim::start(&outside, Some("work/here"), outside.path().join("nobody.sock"));
    let params =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    shim.say(json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).await;
    let error = shim.answer(0).await["error"].clone();
    assert_eq!((&error["code"], &error["data"]["executed"]), (&json!(-32010), &json!("no")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("swarmkeep doctor"), "{error}");
    shim.call(1, "pay", json!({})).await;
    assert_eq!(executed(&shim.answer(1).await), "no");
    assert!(!shim.over.is_finished());

    // What a daemon was offered may have been carried out.
    let listener = UnixListener::bind(outside.path().join("nobody.sock")).unwrap();
    shim.call(2, "pay", json!({})).await;
    shim.say(json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/list" })).await;
    let (stream, _) = listener.accept().await.unwrap();
    let mut offered = BufReader::new(stream).lines();
    while !offered.next_line().await.unwrap().expect("it says what it has").contains("tools/list") {}
    drop((offered, listener));
    std::fs::remove_file(outside.path().join("nobody.sock")).unwrap();
    let answer = shim.answer(2).await;
    assert_eq!(executed(&answer), "unknown", "{answer}");
    assert_eq!(shim.answer(3).await["error"]["data"]["retryable"], true);
    // One that takes nothing for now was not offered anything.
    let listener = UnixListener::bind(outside.path().join("nobody.sock")).unwrap();
    let full = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"? the disk is full\n").await.unwrap();
        }
    });
    shim.call(5, "pay", json!({})).await;
    let answer = shim.answer(5).await;
    assert_eq!(executed(&answer), "no", "{answer}");
    assert!(text(&answer).contains("the disk is full"), "{answer}");
    full.abort();
    // A client that has said all is not kept.
    shim.call(4, "pay", json!({})).await;
    shim.to.shutdown().await.unwrap();
    assert_eq!(executed(&shim.answer(4).await), "no");
    let ended = timeout(PATIENCE, shim.over).await.expect("ends in time").unwrap();
    assert!(matches!(ended, Err(Ended::NoDaemon(_))), "{ended:?}");
}

/// What a daemon was writing when it was killed is half of an answer, and none.
#[tokio::test]
async fn an_answer_that_breaks_off_is_none_and_the_next_daemon_gives_it_whole() {
    let outside = Outside::new();
    let socket = outside.path().join("torn.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut shim = Shim::start(&outside, Some("work/here"), socket);
    for id in 1..=13 {
        shim.call(id, "pay", json!({})).await;
    }
    let answer = r#"13 {"jsonrpc":"2.0","id":13,"result":{"whole":true}}"#;
    for cut in [1, 2, 3, 20, answer.len() - 1, answer.len()] {
        let (stream, _) = listener.accept().await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        while !lines.next_line().await.unwrap().expect("it offers all").starts_with("13 ") {}
        lines.into_inner().write_all(&answer.as_bytes()[..cut]).await.unwrap();
    }
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
    assert_eq!(shim.answer(13).await["result"]["whole"], true);
    assert_eq!(shim.aside, Vec::<Value>::new(), "nothing else was said, and nothing settled");
}

#[tokio::test]
async fn a_client_that_says_no_more_than_initialize_is_answered_and_let_go() {
    let (outside, store) = (Outside::new(), tempfile::tempdir().unwrap());
    let daemon = Running::start(store.path()).await;
    let mut shim = Shim::start(&outside, Some("work/here"), store.path().join("mcp.sock"));
    let params =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    shim.say(json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).await;
    shim.to.shutdown().await.unwrap();
    assert_eq!(shim.answer(0).await["result"]["serverInfo"]["name"], "peer");
    timeout(PATIENCE, shim.over).await.expect("ends in time").unwrap().unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn clients_that_say_nothing_or_read_nothing_do_not_keep_a_daemon_that_is_stopped() {
    let (outside, store) = (Outside::new(), tempfile::tempdir().unwrap());
    let daemon = Running::start(store.path()).await;
    let socket = store.path().join("mcp.sock");
    let _bare = UnixStream::connect(&socket).await.unwrap();
    let _silent = Shim::start(&outside, Some("work/silent"), socket.clone());
    let mut deaf = Shim::start(&outside, Some("work/deaf"), socket);
    deaf.initialize().await;
    for id in 1..=100 {
        deaf.call(id, "big", json!({ "bytes": 100_000 })).await;
    }
    // More than what stands in between holds.
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.stop().await;
    let daemon = Running::start(store.path()).await;
    let mut answered = 0;
    for id in 1..=100 {
        answered += usize::from(!deaf.answer(id).await["result"].is_null());
    }
    assert_eq!((answered, deaf.aside.len()), (100, 0), "each once");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_queued_call_that_is_cancelled_while_there_is_no_daemon_stays_cancelled() {
    let outside = Outside::new();
    let socket = outside.path().join("nobody.sock");
    let queue = Queue { tools: vec!["pay".to_owned()], ..Queue::default() };
    let mut shim = Shim::queueing(&outside, Some("work/here"), socket.clone(), queue);
    shim.call(1, "pay", json!({})).await;
    shim.say(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } })).await;
    shim.call(2, "echo", json!({})).await;
    assert_eq!(executed(&shim.answer(2).await), "no");
    let listener = UnixListener::bind(&socket).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut offered = Vec::new();
    for _ in 0..3 {
        offered.push(lines.next_line().await.unwrap().expect("it says what it has"));
    }
    assert!(offered[1].contains("pay") && offered[2].contains("notifications/cancelled"), "{offered:?}");
    drop((lines, listener));
    // Who has said all waits for no queue.
    shim.to.shutdown().await.unwrap();
    assert_eq!(executed(&shim.answer(1).await), "unknown");
    assert!(timeout(PATIENCE, shim.over).await.expect("ends in time").unwrap().is_err());
}

#[tokio::test]
async fn a_batch_of_the_one_revision_that_has_them_is_answered_part_by_part() {
    let outside = Outside::new();
    let store = tempfile::tempdir().unwrap();
    let daemon = Running::start(store.path()).await;
    let mut shim = Shim::start(&outside, Some("work/here"), store.path().join("mcp.sock"));
    let params = json!({ "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": { "name": "A client", "version": "1" } });
    shim.say(json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).await;
    shim.answer(0).await;
    let call = |id: u64| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "pay", "arguments": {} } });
    shim.say(json!([{ "jsonrpc": "2.0", "method": "notifications/initialized" }, call(1), call(2), 5, call(3)])).await;
    for id in 1..=3 {
        assert_eq!(text(&shim.answer(id).await), "pay");
    }
    shim.call(4, "pay", json!({})).await;
    assert_eq!(text(&shim.answer(4).await), "pay");
    assert_eq!(shim.aside.len(), 1, "what is no message is refused: {:?}", shim.aside);
    let session = daemon.keep.get_session("work/here").await.unwrap().unwrap();
    assert_eq!(session.state().await.unwrap().effects.len(), 4);
    shim.to.shutdown().await.unwrap();
    timeout(PATIENCE, shim.over).await.expect("ends in time").unwrap().unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_input_gets_its_answers() {
    let outside = Outside::new();
    let store = tempfile::tempdir().unwrap();
    let daemon = Running::start(store.path()).await;
    let mut shim = Shim::start(&outside, Some("work/here"), store.path().join("mcp.sock"));
    shim.initialize().await;
    shim.call(1, "pay", json!({})).await;
    shim.to.shutdown().await.unwrap();
    assert_eq!(text(&shim.answer(1).await), "pay");
    timeout(PATIENCE, shim.over).await.expect("ends in time").unwrap().unwrap();
    let session = daemon.keep.get_session("work/here").await.unwrap().expect("the session that was named");
    assert_eq!(session.state().await.unwrap().effects.len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_listened_and_is_gone_is_not_waited_for() {
    let (home, outside) = (tempfile::tempdir().unwrap(), Outside::new());
    let daemon = Running::start(home.path()).await;
    let mut client = Shim::start(&outside, Some("work/here"), home.path().join("mcp.sock"));
    client.initialize().await;
    client.say(json!({ "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {} })).await;
    client.call(2, "echo", json!({})).await;
    assert_eq!(text(&client.answer(2).await), "echo");
    client.to.shutdown().await.unwrap();
    timeout(PATIENCE, client.over).await.expect("ends in time").unwrap().unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn what_the_daemon_refuses_the_client_is_told_by_the_shims_end() {
    let outside = Outside::new();
    let store = tempfile::tempdir().unwrap();
    let daemon = Running::start(store.path()).await;
    let mut shim = Shim::start(&outside, Some("work/na me"), store.path().join("mcp.sock"));
    shim.say(json!({ "jsonrpc": "2.0", "id": 0, "method": "ping" })).await;
    let ended = timeout(PATIENCE, shim.over).await.expect("ends in time").unwrap();
    assert!(matches!(&ended, Err(Ended::Refused(why)) if why.contains("na me")), "{ended:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn links_are_listed_while_they_last() {
    let outside = Outside::new();
    let store = tempfile::tempdir().unwrap();
    let socket = store.path().join("mcp.sock");
    let daemon = Running::start(store.path()).await;
    let mut shim = Shim::start(&outside, Some("work/here"), socket.clone());
    shim.initialize().await;
    let status = async || {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let hello = serde_json::to_string(&Hello { version: VERSION, wants: Wants::Status }).unwrap();
        stream.write_all(format!("{hello}\n").as_bytes()).await.unwrap();
        let line = BufReader::new(stream).lines().next_line().await.unwrap().unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let links = status().await;
    assert_eq!(links["links"][0]["session"], "work/here");
    assert_eq!(links["links"][0]["client"], "A-client");
    assert_eq!(links["links"][0]["link"]["phase"], "connected");
    shim.to.shutdown().await.unwrap();
    timeout(PATIENCE, shim.over).await.expect("ends in time").unwrap().unwrap();
    timeout(PATIENCE, async {
        while status().await["links"] != json!([]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the link is gone from the list");
    daemon.stop().await;
}
