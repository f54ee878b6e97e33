//! A daemon that is stopped with SIGSTOP in the middle of its work, taken over from, and continued: what it acknowledged is
//! in the store, what it is about to acknowledge it does not, and its files and the other one's never meet.
//!
//! Who counts acknowledgements is outside the processes under test, and has each on disk before it asks for the next.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod binary;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use binary::{Store, signal};
use rustix::process::Signal;
use serde_json::Value;

/// Moments at which a daemon is stopped.
const ROUNDS: u64 = 20;
/// Who writes without a pause, meanwhile.
const WRITERS: u64 = 4;

/// One request on a connection of its own: status and body; `None`: nobody took the connection, or it broke.
fn call(address: &str, method: &str, path: &str, headers: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).ok()?;
    let port = address.rsplit(':').next().unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}

fn address(said: &Value) -> String {
    said["addresses"][0].as_str().unwrap().strip_prefix("http://").unwrap().to_owned()
}

fn pid(said: &Value) -> i32 {
    i32::try_from(said["pid"].as_i64().unwrap()).unwrap()
}

/// Acknowledgements, each synced before it counts.
struct Ledger {
    file: Mutex<fs::File>,
    path: PathBuf,
    count: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
}

impl Ledger {
    fn new(store: &Store) -> Arc<Self> {
        let path = store.path("acknowledged");
        let file = Mutex::new(fs::File::create(&path).unwrap());
        let count = || AtomicU64::new(0);
        Arc::new(Self { file, path, count: count(), refused: count(), unknown: count() })
    }

    fn note(&self, key: &str, value: u64) {
        let mut file = self.file.lock().unwrap();
        file.write_all(format!("{key} {value}\n").as_bytes()).unwrap();
        file.sync_data().unwrap();
        drop(file);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn wait_for(&self, count: u64) {
        while self.count.load(Ordering::SeqCst) < count {
            std::thread::yield_now();
        }
    }

    fn all(&self) -> Vec<(String, u64)> {
        let text = fs::read_to_string(&self.path).unwrap();
        let line = |line: &str| line.split_once(' ').map(|(key, value)| (key.to_owned(), value.parse().unwrap()));
        text.lines().filter_map(line).collect()
    }
}

/// Sets one key after another until it is told to end, or nobody answers.
fn writer(address: &str, name: String, ledger: &Arc<Ledger>, end: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (address, ledger, end) = (address.to_owned(), ledger.clone(), end.clone());
    std::thread::spawn(move || {
        for number in 0.. {
            if end.load(Ordering::SeqCst) {
                return;
            }
            let (key, id) = (format!("{name}-{number}"), format!("idempotency-key: {name}-{number}\r\n"));
            let path = format!("/v1/sessions/default/work/memory/shared/{key}");
            match call(&address, "PUT", &path, &id, &number.to_string()) {
                Some((200..=299, _)) => ledger.note(&key, number),
                Some((503, problem)) => match problem["code"].as_str() {
                    Some("fenced_out") => drop(ledger.refused.fetch_add(1, Ordering::SeqCst)),
                    Some("unknown") => drop(ledger.unknown.fetch_add(1, Ordering::SeqCst)),
                    Some("unavailable") => {}
                    _ => panic!("{problem}"),
                },
                Some((status, problem)) => panic!("{status}: {problem}"),
                None => return,
            }
        }
    })
}

fn writers(address: &str, of: &str, ledger: &Arc<Ledger>, end: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    (0..WRITERS).map(|number| writer(address, format!("{of}{number}"), ledger, end)).collect()
}

fn join(writers: Vec<JoinHandle<()>>) {
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

/// Everything that was acknowledged stands in the session as it was acknowledged.
fn all_there(address: &str, ledger: &Ledger) {
    let (status, state) = call(address, "GET", "/v1/sessions/default/work/state", "", "").unwrap();
    assert_eq!(status, 200, "{state}");
    let entries = state["memory"].as_array().unwrap_or_else(|| panic!("{state}"));
    let there: std::collections::BTreeMap<&str, &Value> =
        entries.iter().map(|entry| (entry["key"].as_str().unwrap(), &entry["value"])).collect();
    for (key, value) in ledger.all() {
        assert_eq!(there.get(key.as_str()), Some(&&Value::from(value)), "{key} was acknowledged");
    }
}

/// A daemon with what it says on standard error kept.
fn serve(store: &Store) -> (Child, Value) {
    let mut command = store.command(&["serve", "--json", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    (child, said)
}

fn error_of(mut child: Child) -> (i32, String) {
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (child.wait().unwrap().code().unwrap_or(-1), err)
}

/// Numbers that look random, the same in every run.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// For a while that is not the same twice: a moment anywhere between two acknowledgements.
fn spin(state: &mut u64) {
    for _ in 0..draw(state) % 200_000 {
        std::hint::spin_loop();
    }
}

#[test]
fn a_holder_stopped_at_any_moment_acknowledges_nothing_after_a_takeover() {
    let mut dice = 7;
    let (mut refused, mut unknown, mut acknowledged) = (0, 0, 0);
    for round in 0..ROUNDS {
        let store = Store::new();
        let (old, said) = serve(&store);
        let (old_pid, old_address) = (pid(&said), address(&said));
        store.run(&["session", "create", "work"]).ok();
        let (ledger, end) = (Ledger::new(&store), Arc::new(AtomicBool::new(false)));
        let of_old = writers(&old_address, "old", &ledger, &end);
        ledger.wait_for(draw(&mut dice) % 150);
        spin(&mut dice);
        signal(old_pid, Signal::STOP);

        // Every third time it goes on while it is being taken over from.
        let early = round % 3 == 2;
        let waker = early.then(|| {
            let looks = draw(&mut dice) % 1_000;
            std::thread::spawn({
                let fence = store.dir().join("lock-2");
                move || {
                    while !fence.exists() {
                        std::thread::yield_now();
                    }
                    (0..looks).for_each(|_| std::thread::yield_now());
                    signal(old_pid, Signal::CONT);
                }
            })
        });
        let taken = store.run(&["take-over", "--json"]).ok().json();
        assert_eq!(taken["taken_over"]["from_pid"], old_pid, "{taken}");
        assert_eq!(taken["taken_over"]["term"], 2, "{taken}");
        waker.into_iter().for_each(|waker| waker.join().unwrap());

        let (new, said) = serve(&store);
        let new_address = address(&said);
        all_there(&new_address, &ledger);
        let of_new = writers(&new_address, "new", &ledger, &end);
        ledger.wait_for(ledger.count.load(Ordering::SeqCst) + 20);
        signal(old_pid, Signal::CONT);
        // Nobody is left to answer those who go on asking it.
        join(of_old);
        let (code, err) = error_of(old);
        assert_eq!(code, 3, "{err}");
        assert!(err.contains("taken over") && err.contains("acknowledges nothing any more"), "{err}");
        ledger.wait_for(ledger.count.load(Ordering::SeqCst) + 20);
        end.store(true, Ordering::SeqCst);
        join(of_new);
        all_there(&new_address, &ledger);
        store.run(&["verify"]).ok();

        let history = store.run(&["recover", "history", "--json"]).ok().json();
        let failures = history["failures"].as_array().unwrap();
        let conflict = failures.iter().find(|failure| failure["type"] == "ownership_conflict").unwrap();
        assert_eq!((&conflict["cause"], &conflict["severity"]), (&"fenced_out".into(), &"high".into()), "{conflict}");
        assert!(conflict["what"].as_str().unwrap().contains(&old_pid.to_string()), "{conflict}");
        assert!(history["recoveries"].to_string().contains("\"taken_over\""), "{history}");

        // Stopped and opened again: everything is there, and what the old one had left is gone.
        store.run(&["stop"]).ok();
        drop(error_of(new));
        let (last, said) = serve(&store);
        all_there(&address(&said), &ledger);
        let told = store.run(&["recover", "history", "--json"]).ok().json();
        assert_eq!(told["recoveries"].to_string().matches("\"taken_over\"").count(), 1, "once: {told}");
        let report = store.run(&["report", "--json"]).ok().json();
        assert_eq!(report["interrupted"]["taken_over"], 1, "{report}");
        let own = ["lock", "lock-2", "term-2", "quarantine", "control.sock", "mcp.sock", "served.json"];
        let left: Vec<String> = fs::read_dir(store.dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !own.contains(&name.as_str()))
            .collect();
        assert_eq!(
            left.is_empty(),
            taken["copied"] == true,
            "what a term is made of, copied and then removed: {left:?}"
        );
        kill(last);
        refused += ledger.refused.load(Ordering::SeqCst);
        unknown += ledger.unknown.load(Ordering::SeqCst);
        acknowledged += ledger.count.load(Ordering::SeqCst);
    }
    println!("{ROUNDS} takeovers: {acknowledged} acknowledged, 0 lost; {refused} refused, {unknown} in doubt");
    assert!(refused > 0, "nobody asked the old one while it was shut out");
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_second_takeover_follows_the_first_and_the_first_two_end_when_they_go_on() {
    let store = Store::new();
    let (one, said) = serve(&store);
    let one_pid = pid(&said);
    store.run(&["session", "create", "work"]).ok();
    let (ledger, end) = (Ledger::new(&store), Arc::new(AtomicBool::new(false)));
    let of_one = writers(&address(&said), "one", &ledger, &end);
    ledger.wait_for(30);
    signal(one_pid, Signal::STOP);
    store.run(&["take-over"]).ok();
    let (two, said) = serve(&store);
    let two_pid = pid(&said);
    let of_two = writers(&address(&said), "two", &ledger, &end);
    ledger.wait_for(ledger.count.load(Ordering::SeqCst) + 30);
    signal(two_pid, Signal::STOP);
    let taken = store.run(&["take-over", "--json"]).ok().json();
    assert_eq!(
        (&taken["taken_over"]["term"], &taken["taken_over"]["from_pid"]),
        (&3.into(), &two_pid.into()),
        "{taken}"
    );
    let (three, said) = serve(&store);
    all_there(&address(&said), &ledger);
    for pid in [one_pid, two_pid] {
        signal(pid, Signal::CONT);
    }
    join(of_one);
    join(of_two);
    for child in [one, two] {
        let (code, err) = error_of(child);
        assert!(code == 3 && err.contains("taken over"), "{code}: {err}");
    }
    let of_three = writers(&address(&said), "three", &ledger, &end);
    ledger.wait_for(ledger.count.load(Ordering::SeqCst) + 30);
    end.store(true, Ordering::SeqCst);
    join(of_three);
    all_there(&address(&said), &ledger);
    store.run(&["verify"]).ok();
    kill(three);
}

#[test]
fn nobody_is_taken_over_from_who_answers_or_is_not_there() {
    let store = Store::new();
    assert_eq!(store.run(&["take-over", "--json"]).json()["error"]["code"], "no_store");
    let (daemon, said) = serve(&store);
    let refused = store.run(&["take-over", "--json"]);
    assert!(refused.code == 1 && refused.json()["error"]["code"] == "answers", "{refused:?}");
    let over_tcp = store.run(&["take-over", "--url", said["addresses"][0].as_str().unwrap()]);
    assert_eq!(over_tcp.code, 2, "{over_tcp:?}");
    signal(pid(&said), Signal::STOP);
    let planned = store.run(&["take-over", "--dry-run"]).ok();
    assert!(planned.out.contains(&format!("kill -9 {}", pid(&said))), "{planned:?}");
    assert!(!store.dir().join("lock-2").exists());
    kill(daemon);
    let refused = store.run(&["take-over", "--json"]);
    assert!(refused.code == 1 && refused.json()["error"]["code"] == "not_held", "{refused:?}");
}

/// What a feed from `from` on is answered: its status, and its problem or the token of where it begins.
fn feed(address: &str, from: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let port = address.rsplit(':').next().unwrap();
    write!(
        stream,
        "GET /v1/sessions/default/work/feed?from={from} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let said = lines.find(|line| line.starts_with(if status == 200 { "id:" } else { "{" })).unwrap();
    (status, said.trim_start_matches("id:").trim().to_owned())
}

/// The token of the last record.
fn last_token(address: &str) -> String {
    let (status, token) = feed(address, "now");
    assert_eq!(status, 200, "{token}");
    token
}

fn set(address: &str, key: &str) {
    let path = format!("/v1/sessions/default/work/memory/shared/{key}");
    let (status, said) = call(address, "PUT", &path, "", "1").unwrap();
    assert!(status < 300, "{said}");
}

/// Under which epoch the last record was written.
fn epoch_of(address: &str) -> u64 {
    let (_, page) = call(address, "GET", "/v1/sessions/default/work/records?after=0&limit=1000", "", "").unwrap();
    page["records"].as_array().unwrap().last().unwrap()["epoch"].as_u64().unwrap()
}

#[test]
fn copies_that_both_go_on_have_incarnations_and_histories_of_their_own() {
    let (store, closed, live) = (Store::new(), Store::new(), Store::new());
    let copy = |to: &Store| {
        let copied = std::process::Command::new("cp").arg("-a").arg(store.dir()).arg(to.dir()).status().unwrap();
        assert!(copied.success());
    };
    let (daemon, said) = serve(&store);
    store.run(&["session", "create", "work"]).ok();
    set(&address(&said), "before");
    store.run(&["stop"]).ok();
    drop(error_of(daemon));
    copy(&closed);
    let (first, said) = serve(&store);
    let at = address(&said);
    set(&at, "first");
    let token = last_token(&at);
    // One that is copied while it is open: stopped for as long as that takes, so that all of it is of one moment.
    signal(pid(&said), Signal::STOP);
    copy(&live);
    signal(pid(&said), Signal::CONT);
    fs::remove_file(live.dir().join("control.sock")).unwrap();
    for round in 0..3 {
        set(&at, &format!("first-{round}"));
    }
    let beyond = last_token(&at);
    let epoch = epoch_of(&at);

    for (copy, is_live) in [(&closed, false), (&live, true)] {
        let (daemon, said) = serve(copy);
        let at = address(&said);
        assert_eq!(said["recovery"]["is_a_copy"], true, "{said}");
        // Its end is before that of the first: what was read there is not here.
        let (status, problem) = feed(&at, &beyond);
        assert!(status == 409 && problem.contains("not the log you read"), "{status} {problem}");
        assert_eq!(feed(&at, &token).0, if is_live { 200 } else { 409 });
        for round in 0..4 {
            set(&at, &format!("copy-{round}"));
        }
        // And now it is as long, and another one.
        let (status, problem) = feed(&at, &beyond);
        assert!(status == 409 && problem.contains("diverged"), "{status} {problem}");
        let own = epoch_of(&at);
        assert!(own > epoch, "{own} {epoch}");
        copy.run(&["stop"]).ok();
        drop(error_of(daemon));
    }
    assert_eq!(epoch_of(&at), epoch);
    assert_eq!(feed(&at, &beyond).0, 200, "the first one is what it was");
    let state = store.run(&["session", "state", "work", "--json"]).ok();
    assert!(!state.out.contains("copy-0"), "{state:?}");
    kill(first);
}
