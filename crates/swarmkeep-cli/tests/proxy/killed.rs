//! Daemons, servers and clients that are killed or stopped: every call has one answer, and none is carried out twice.

use std::{fs, io::Write, path::PathBuf, process::Stdio, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    binary::{Small, Store, effects, signal, stop, until},
    client::{Client, asking, last_peer, listening, shop, text, under_way_without_a_program},
};

#[test]
fn a_client_outlives_the_daemons_kill_and_its_calls_are_in_the_log() {
    let store = Store::new();
    // Nobody serves the store: the first client starts the daemon.
    let mut client = Client::start(&store, &["--session", "work/here", "--name", "shop"]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    assert_eq!(text(&client.answer(1)), "pay");

    client.call(2, "pay", &json!({ "slow": true }));
    until("the call reaches the server", || effects(&store) == 2);
    let killed = store.holder().unwrap();
    signal(killed, Signal::KILL);
    let answer = client.answer(2);
    assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}");
    client.call(3, "pay", &json!({}));
    assert_eq!(text(&client.answer(3)), "pay");
    assert_ne!(store.holder().unwrap(), killed, "another daemon");
    assert_eq!(effects(&store), 3, "nothing is carried out twice");
    assert_eq!(client.aside, Vec::<Value>::new(), "each call has one answer");

    let links = store.run(&["mcp", "status", "--json"]).ok().json();
    assert_eq!(
        (&links["links"][0]["session"], &links["links"][0]["link"]["phase"]),
        (&json!("work/here"), &json!("connected"))
    );
    let doubts = store.run(&["mcp", "calls", "work/here", "--unknown", "--json"]).ok().json();
    let doubts = doubts["calls"].as_array().unwrap().clone();
    assert_eq!((doubts.len(), &doubts[0]["request"]["name"]), (1, &json!("pay")));
    let shown = store.run(&["mcp", "calls", "work/here"]).ok().out;
    assert!(shown.contains("shop") && shown.contains("at_most_once") && shown.contains("outcome_unknown"), "{shown}");
    let reason: String = doubts[0]["reason"].as_str().unwrap().chars().take(40).collect();
    let row = shown.lines().find(|line| line.contains("outcome_unknown")).unwrap();
    assert!(row.contains(&doubts[0]["request"]["arguments"].to_string()) && row.contains(&reason), "{shown}");
    let resolve = ["mcp", "resolve", "work/here", doubts[0]["id"].as_str().unwrap(), "--not-done"];
    store.run(&resolve).ok();
    let settled = store.run(&resolve);
    assert!(settled.code == 1 && settled.err.contains(" mcp calls work/here` shows"), "{settled:?}");
    let doubts = store.run(&["mcp", "calls", "work/here", "--unknown", "--json"]).ok().json();
    assert_eq!(doubts["calls"], json!([]));

    client.end();
    until("the link is gone", || store.run(&["mcp", "status", "--json"]).ok().json()["links"] == json!([]));
    store.run(&["stop"]).ok();
    assert!(!store.dir().join("mcp.sock").exists());
}

#[test]
fn a_client_waits_while_the_daemon_is_stopped_and_started() {
    let store = Store::new();
    let (mut daemon, _) = store.serve(&[]);
    let mut client = Client::start(&store, &["--session", "work/here"]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    client.answer(1);
    signal(i32::try_from(daemon.id()).unwrap(), Signal::TERM);
    assert!(daemon.wait().unwrap().success());
    client.call(2, "pay", &json!({}));
    assert_eq!(text(&client.answer(2)), "pay");
    assert_eq!(effects(&store), 2);
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn a_client_of_a_daemon_that_is_stopped_for_good_goes_on_with_the_one_that_took_over() {
    let store = Store::new();
    let (mut stopped, _) = store.serve(&[]);
    let mut client = Client::start(&store, &["--session", "work/here"]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    client.answer(1);
    let pid = i32::try_from(stopped.id()).unwrap();
    stop(pid);
    client.call(2, "pay", &json!({}));
    let asked = store.run(&["mcp", "status"]);
    assert!(
        asked.code == 3 && asked.err.contains("waiting for the daemon") && asked.err.contains("take-over"),
        "{asked:?}"
    );
    store.run(&["take-over"]).ok();
    store.run(&["session", "ls"]).ok();
    assert_eq!(text(&client.answer(2)), "pay");
    signal(pid, Signal::CONT);
    stopped.wait().unwrap();
    client.call(3, "pay", &json!({}));
    assert_eq!(text(&client.answer(3)), "pay");
    assert_eq!(effects(&store), 3, "what the stopped daemon had still to read it carries out no more");
    assert_eq!(client.aside, Vec::<Value>::new());
    client.end();
    store.run(&["stop"]).ok();
}

/// The next daemon finds the server away: what the one before had sent is in doubt, and not undone.
#[test]
fn a_call_that_an_earlier_daemon_had_sent_is_not_said_to_be_undone_while_the_server_is_away() {
    let store = Store::new();
    let (mut client, program, away) = under_way_without_a_program(&store);
    signal(store.holder().unwrap(), Signal::KILL);
    let answer = client.answer(1);
    assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "unknown", "{answer}");
    // One that is new has not been carried out, and that is said.
    client.call(2, "pay", &json!({}));
    let answer = client.answer(2);
    assert_eq!(answer["result"]["_meta"]["swarmkeep/outcome"]["executed"], "no", "{answer}");
    fs::rename(&away, &program).unwrap();
    client.call(3, "pay", &json!({}));
    assert_eq!(text(&client.answer(3)), "pay");
    assert_eq!(effects(&store), 2, "nothing is carried out twice");
    client.end();
    store.run(&["stop"]).ok();
}

/// The disk under the store is full: what cannot be written down is not called, and everything else goes on.
#[test]
fn a_call_that_cannot_be_recorded_on_a_full_disk_is_not_made() {
    let store = Store::new();
    let Some(_mounted) = Small::under(&store, 16) else { return };
    fs::write(store.dir().join("swarmkeep.toml"), "segment_bytes = \"1MiB\"\njournal_keep = \"0\"\n").unwrap();
    let mut client = Client::start(&store, &["--session", "work/here"]);
    client.initialize();
    let mut ballast = fs::File::create(store.dir().join("ballast")).unwrap();
    while ballast.write_all(&[1; 4_096]).is_ok() {}

    let what = json!({ "for": "x".repeat(7_000) });
    let (mut done, mut refused) = (0, 0);
    for id in 1..2_000 {
        client.call(id, "pay", &what);
        let answer = client.answer(id);
        if text(&answer) == "pay" {
            done += 1;
        } else {
            let executed =
                [&answer["error"]["data"]["executed"], &answer["result"]["_meta"]["swarmkeep/outcome"]["executed"]];
            assert!(executed.contains(&&json!("no")), "{answer}");
            refused += 1;
        }
        assert_eq!(effects(&store), done, "what is refused is not called: {answer}");
        if refused == 3 {
            break;
        }
    }
    assert!(done > 0 && refused == 3, "{done} done, {refused} refused");
    client.say(&json!({ "jsonrpc": "2.0", "id": 5_000, "method": "tools/list", "params": {} }));
    assert!(client.answer(5_000)["result"]["tools"].is_array(), "reads need no record");

    drop(ballast);
    fs::remove_file(store.dir().join("ballast")).unwrap();
    let mut id = 10_000;
    until("there is room again", || {
        id += 1;
        client.call(id, "pay", &what);
        text(&client.answer(id)) == "pay"
    });
    assert_eq!(effects(&store), done + 1);
    client.end();
    store.run(&["stop"]).ok();
}

/// A server over HTTP keeps its session over the daemon's kill and its stop: whatever it had of this client is still there.
#[test]
fn a_servers_session_is_gone_on_with_by_the_next_daemon() {
    let store = Store::new();
    let notes = store.path("notes");
    let noted = |what: &str| {
        let notes = fs::read_to_string(&notes).unwrap_or_default();
        notes.lines().filter(|line| *line == what).count()
    };
    let begins = |what: &str| {
        let notes = fs::read_to_string(&notes).unwrap_or_default();
        notes.lines().filter(|line| line.starts_with(what)).count()
    };
    let peer_on = |port: u16| {
        let port = PathBuf::from(port.to_string());
        listening(
            "http_peer.py",
            &[("PEER_PORT", port), ("PEER_NOTES", notes.clone()), ("PEER_GATE", store.path("gate"))],
        )
    };
    let (mut server, port) = peer_on(0);
    let url = format!("http://127.0.0.1:{port}/mcp");
    let mut client = Client::before(&store, &["--session", "work/here", "--http", &url]);
    client.initialize();
    client.call(1, "pay", &json!({}));
    assert_eq!(text(&client.answer(1)), "pay");
    until("the server's own words are listened to", || noted("listening") == 1);

    for (lives, id) in [(2, 2), (3, 3)] {
        let holder = store.holder().unwrap();
        signal(holder, if lives == 2 { Signal::KILL } else { Signal::TERM });
        until("it is gone", || store.holder() != Some(holder));
        client.call(id, "pay", &json!({}));
        assert_eq!(text(&client.answer(id)), "pay");
        until("the server's own words are listened to again", || begins("listening") == lives);
        // What came last is known where the daemon could say it.
        assert_eq!(begins("listening after"), lives - 2);
        assert_eq!((noted("initialize"), noted("deleted")), (1, 0), "the session of before");
        // What it says there still comes.
        client.call(100 + id, "tell", &json!({}));
        client.answer(100 + id);
        client.until_line(|line| line["method"] == "notifications/tools/list_changed");
    }

    // One that has forgotten it: another session is begun, once.
    server.kill().unwrap();
    server.wait().unwrap();
    signal(store.holder().unwrap(), Signal::KILL);
    let (mut server, _) = peer_on(port);
    client.call(4, "pay", &json!({}));
    assert_eq!(text(&client.answer(4)), "pay");
    assert_eq!(noted("initialize"), 2);
    client.end();
    until("it is ended with its client", || noted("deleted") == 1);
    store.run(&["stop"]).ok();
    server.kill().unwrap();
    server.wait().unwrap();
}

/// A server that reads nothing, so that it does not see its input end.
#[cfg(target_os = "linux")]
#[test]
fn a_server_ends_with_a_daemon_that_is_killed() {
    let store = Store::new();
    let pids = store.path("pids");
    let script = format!("echo $$ >> {}; exec sleep 600", pids.display());
    let mut client = store.command(&["mcp", "proxy", "--", "sh", "-c", &script]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(client.stdin.as_mut().unwrap(), r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{}}}}"#)
        .unwrap();
    let started = || -> Vec<i32> {
        fs::read_to_string(&pids).unwrap_or_default().lines().filter_map(|pid| pid.parse().ok()).collect()
    };
    let is_there = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    };
    until("the server is there", || !started().is_empty());
    signal(store.holder().unwrap(), Signal::KILL);
    until("the server is gone", || !is_there(&started()[0]));
    until("the next daemon has started another", || started().len() == 2);
    client.kill().unwrap();
    client.wait().unwrap();
    until("that one goes with its client", || !started().iter().any(is_there));
    store.run(&["stop"]).ok();
}

/// Draws numbers from a seed (splitmix64).
fn draw(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}

/// A hundred calls at once, and the daemon killed in the middle of them, at another moment each time: each has one answer, what
/// may not be repeated is done once at most, and every answer is true.
///
/// `SWARMKEEP_MCP_KILLS=50 SWARMKEEP_MCP_SEED=1 cargo nextest run -p swarmkeep-cli --test mcp a_hundred_calls` is the long form.
#[test]
fn a_hundred_calls_are_settled_once_whenever_the_daemon_is_killed() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let kills = number("SWARMKEEP_MCP_KILLS", 5);
    let mut seed = number("SWARMKEEP_MCP_SEED", 1);
    let (mut done, mut unknown, mut not_done) = (0, 0, 0);
    let store = Store::new();
    let mut client = Client::start(&store, &["--session", "work/here", "--trust-hints"]);
    client.initialize();
    for round in 0..kills {
        let first = 1 + round * 1_000;
        // Right at the beginning as often as when most of it is done.
        let kill_after = draw(&mut seed, 100);
        for id in first..first + 100 {
            let tool = if draw(&mut seed, 4) == 0 { "look" } else { "pay" };
            client.call(id, tool, &json!({ "call": id }));
            if id - first == kill_after {
                let pause = Duration::from_micros(draw(&mut seed, 30_000));
                client.take(pause);
                signal(store.holder().unwrap(), Signal::KILL);
            }
        }
        for id in first..first + 100 {
            let answer = client.answer(id);
            let effects = fs::read_to_string(store.path("effects")).unwrap_or_default();
            let times = |tool: &str| {
                effects.lines().filter(|line| line.starts_with(&format!("{tool} {{\"call\": {id}}}"))).count()
            };
            let context = format!("seed {seed}, round {round}, call {id}: {answer}");
            assert!(times("pay") <= 1, "done twice: {context}");
            match (text(&answer), answer["result"]["_meta"]["swarmkeep/outcome"]["executed"].as_str()) {
                ("pay", None) => assert_eq!(times("pay"), 1, "{context}"),
                ("look", None) => assert!(times("look") >= 1, "{context}"),
                (_, Some("no")) => assert_eq!(times("pay") + times("look"), 0, "{context}"),
                (_, Some("unknown")) => {}
                _ => panic!("{context}"),
            }
            match answer["result"]["_meta"]["swarmkeep/outcome"]["executed"].as_str() {
                None => done += 1,
                Some("no") => not_done += 1,
                Some(_) => unknown += 1,
            }
        }
        assert_eq!(client.aside, Vec::<Value>::new(), "one answer each");
    }
    println!("{kills} kills, {done} done, {unknown} unknown, {not_done} not done");
    assert!(done > 0 && done + unknown + not_done == 100 * kills);
    client.end();
    store.run(&["stop"]).ok();
}

#[test]
fn queued_calls_wait_for_their_server_over_an_open_breaker_and_a_kill_of_the_daemon() {
    let store = Store::new();
    let (program, away) = shop(&store);
    let args = ["--session", "work/here", "--queue", "pa*", "--queue-for", "1h", "--", program.to_str().unwrap()];
    let mut client = Client::before(&store, &args);
    client.initialize();
    client.call(1, "pay", &json!({ "call": 1 }));
    client.answer(1);
    let links = || store.run(&["mcp", "status", "--json"]).ok().json()["links"].clone();
    fs::rename(&program, &away).unwrap();
    signal(last_peer(&store), Signal::KILL);
    // What is asked before the end is seen may have been sent.
    until("its end is seen", || links()[0]["link"]["phase"] != "connected");
    for id in 10..20 {
        client.call(id, "pay", &json!({ "call": id }));
    }
    let mut ask = asking(&mut client);
    until("the breaker is open", || {
        ask();
        links()[0]["link"]["breaker_open"] == true
    });
    drop(ask);
    // What is not queued is answered at once.
    client.call(2, "look", &json!({}));
    assert_eq!(client.answer(2)["result"]["_meta"]["swarmkeep/outcome"]["executed"], "no");
    let shown = store.run(&["mcp", "status"]).ok().out;
    assert_eq!(shown.matches("tools/call pay: queued for").count(), 10, "{shown}");

    let killed = store.holder().unwrap();
    signal(killed, Signal::KILL);
    client.say(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 14 } }));
    until("they wait in the next daemon", || {
        let calls = links()[0]["link"]["calls"].as_array().cloned().unwrap_or_default();
        store.holder().is_some_and(|pid| pid != killed)
            && calls.iter().filter(|call| call["is_queued"] == true).count() == 9
    });
    fs::rename(&away, &program).unwrap();
    for id in (10..20).filter(|id| *id != 14) {
        let answer = client.answer(id);
        assert_eq!(text(&answer), "pay", "{answer}");
    }
    let effects = fs::read_to_string(store.path("effects")).unwrap();
    let order: Vec<&str> =
        effects.lines().filter_map(|line| line.strip_prefix("pay {\"call\": ")?.split('}').next()).collect();
    assert_eq!(order, ["1", "10", "11", "12", "13", "15", "16", "17", "18", "19"], "each once, and in their order");
    client.end();
    store.run(&["stop"]).ok();
}
