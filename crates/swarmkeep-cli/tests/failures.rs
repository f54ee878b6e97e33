//! Each type of failure, caused by the environment, and read from the history of the store: nothing in the program raises
//! one for a test.

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
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use binary::{Small, Store, signal, until};
use rustix::process::Signal;
use serde_json::Value;

/// Looks at the history so often before a failure that does not come is one of the test. Each look runs the binary.
const LOOKS: usize = 2_000;

fn history(store: &Store, more: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = [&["recover", "history", "--json"], more].concat();
    let answer = store.run(&args).ok().json();
    answer["failures"].as_array().unwrap().clone()
}

fn of_type<'a>(failures: &'a [Value], kind: &str) -> Vec<&'a Value> {
    failures.iter().filter(|failure| failure["type"] == kind).collect()
}

/// Looks until a failure of this type is in the history.
fn noticed(store: &Store, kind: &str, more: &[&str]) -> Value {
    for _ in 0..LOOKS {
        if let [found, ..] = of_type(&history(store, more), kind).as_slice() {
            return (*found).clone();
        }
    }
    panic!("{kind} never came: {:?}", history(store, more));
}

/// Ends a process that this test started.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn settings(store: &Store, text: &str) {
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(store.dir().join("swarmkeep.toml"), text).unwrap();
}

/// Sets a key of session `work`, without the patience that the binary has; the status of the answer.
fn put(url: &str, key: &str, value: &str) -> u16 {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let port = address.rsplit(':').next().unwrap();
    write!(
        stream,
        "PUT /v1/sessions/default/work/memory/shared/{key} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{value}",
        value.len()
    )
    .unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_to_string(&mut answer).unwrap();
    if !answer.starts_with("HTTP/1.1 2") {
        println!("{answer}");
    }
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// A value of about `bytes` bytes that does not pack.
fn large(bytes: usize, salt: u64) -> String {
    let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = String::with_capacity(bytes);
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{:016x}", state ^ (state >> 29)));
    }
    text
}

#[test]
fn process_crash_is_a_kill_and_not_a_stop() {
    let store = Store::new();
    let (daemon, _) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    assert!(history(&store, &[]).is_empty());
    kill(daemon);
    let (daemon, _) = store.serve(&[]);
    let failures = history(&store, &[]);
    let [crash] = of_type(&failures, "process_crash")[..] else { panic!("{failures:?}") };
    assert_eq!((&crash["severity"], &crash["strategy"]), (&"low".into(), &"replay".into()));
    let recoveries = store.run(&["recover", "history", "--json"]).ok().json();
    assert_eq!(recoveries["recoveries"][0]["crashed"], true, "{recoveries}");
    let table = store.run(&["recover", "history"]).ok();
    assert!(table.out.contains("process_crash") && table.out.contains("after a death"), "{table:?}");
    // A clean stop is none, and the crash before it stays in the history.
    store.run(&["stop"]).ok();
    drop(daemon);
    let (daemon, _) = store.serve(&[]);
    assert_eq!(of_type(&history(&store, &[]), "process_crash").len(), 1);
    kill(daemon);
}

#[test]
fn agent_unresponsive_is_an_agent_that_is_stopped() {
    let store = Store::new();
    let (daemon, _) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    for agent in ["stopped", "calling", "quiet", "resting"] {
        store.run(&["agent", "spawn", "work", "--id", agent, "--kind", "worker"]).ok();
    }
    store.run(&["task", "create", "work", "--id", "t", "write it up"]).ok();
    store.run(&["task", "claim", "work", "t", "--agent", "stopped"]).ok();
    // One that sends a heartbeat and then makes a call that takes long; one that never sent any.
    store.run(&["agent", "heartbeat", "work", "calling"]).ok();
    store.run(&["effect", "begin", "work", "model", "--agent", "calling", "--deadline-ms", "90000"]).ok();
    // One that says that it has nothing to do.
    store.run(&["agent", "heartbeat", "work", "resting"]).ok();
    let rests = store.run(&["agent", "heartbeat", "work", "resting", "--last"]).ok();
    assert_eq!(rests.out, "agent resting rests\n");
    // One whose process beats, until it is stopped.
    let beat = r#"while "$0" --no-start agent heartbeat work stopped >/dev/null; do echo beat; done"#;
    let mut agent = Command::new("sh");
    agent.args(["-c", beat, env!("CARGO_BIN_EXE_swarmkeep")]);
    agent.env_clear().env("HOME", store.path("")).env("SWARMKEEP_HOME", store.dir());
    let mut agent = agent
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut beats = BufReader::new(agent.stdout.take().unwrap()).lines();
    beats.next().unwrap().unwrap();
    let pid = i32::try_from(agent.id()).unwrap();
    signal(pid, Signal::STOP);

    // The verdict is a record: whoever follows the session sees it.
    let mut follow = store.command(&["session", "history", "work", "--follow", "--json"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let verdict = BufReader::new(follow.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("\"recovered\""))
        .unwrap();
    assert!(verdict.contains("agent_unresponsive") && verdict.contains("stopped"), "{verdict}");
    let failures = history(&store, &[]);
    let [silent] = of_type(&failures, "agent_unresponsive")[..] else { panic!("{failures:?}") };
    assert_eq!((&silent["agent"], &silent["silent_ms"]), (&"stopped".into(), &15_000.into()));
    assert!(silent["over_at_ms"].is_null(), "{silent}");
    // Its task waits for it, so somebody is told.
    let report = store.run(&["report", "--json"]).ok().json();
    let waiting = &report["waiting"][0];
    assert_eq!((&waiting["kind"], &waiting["id"]), (&"agent".into(), &"stopped".into()), "{report}");
    let looked = store.run(&["doctor"]).out;
    assert!(looked.contains("default/work: no sign of life from agent `stopped`"), "{looked}");
    // Nothing was taken from it, and it comes back.
    let status = store.run(&["agent", "ls", "work", "--json"]).ok().json();
    assert!(!status.to_string().contains("failed"), "{status}");
    signal(pid, Signal::CONT);
    beats.next().unwrap().unwrap();
    beats.next().unwrap().unwrap();
    let silent = noticed(&store, "agent_unresponsive", &[]);
    assert!(silent["over_at_ms"].is_u64(), "{silent}");
    [agent, follow, daemon].into_iter().for_each(kill);
}

/// A store at rest with one session of some records, whose newest checkpoint stands at the last of them.
fn at_rest() -> (Store, rusqlite::Connection) {
    let store = Store::new();
    settings(&store, "journal_keep = \"0\"\n");
    store.run(&["session", "create", "work"]).ok();
    for number in 0..8 {
        store.run(&["memory", "set", "work", &format!("key-{number}"), "\"needle\""]).ok();
        if number == 3 || number == 7 {
            store.run(&["checkpoint", "make", "work"]).ok();
        }
    }
    store.run(&["stop"]).ok();
    let tables = rusqlite::Connection::open(store.dir().join("records.db")).unwrap();
    (store, tables)
}

/// Flips one bit in the middle of what a query finds, behind the back of every checksum.
fn flip(tables: &rusqlite::Connection, table: &str, which: &str) {
    let sql = format!("SELECT rowid, bytes FROM {table} WHERE {which}");
    let (row, mut bytes): (i64, Vec<u8>) = tables.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    tables.execute(&format!("UPDATE {table} SET bytes = ?1 WHERE rowid = ?2"), (bytes, row)).unwrap();
}

#[test]
fn checkpoint_corruption_is_a_flipped_checkpoint_and_costs_nothing() {
    let (store, tables) = at_rest();
    flip(&tables, "checkpoints", "seq = (SELECT max(seq) FROM checkpoints)");
    drop(tables);
    let (daemon, _) = store.serve(&[]);
    let found = noticed(&store, "checkpoint_corruption", &[]);
    assert_eq!((&found["severity"], &found["strategy"]), (&"low".into(), &"CHECKPOINT_ROLLBACK".into()), "{found}");
    assert_eq!(found["session_name"], "default/work", "{found}");
    let last = store.run(&["memory", "get", "work", "key-7"]).ok();
    assert!(last.out.contains("needle"), "{last:?}");
    // It goes by itself, and with it the failure.
    until("it is over", || noticed(&store, "checkpoint_corruption", &[])["over_at_ms"].is_u64());
    store.run(&["verify"]).ok();
    kill(daemon);
}

#[test]
fn state_corruption_is_a_flipped_record() {
    let (store, tables) = at_rest();
    flip(&tables, "chunks", "1 ORDER BY first_seq DESC LIMIT 1");
    tables.execute("DELETE FROM checkpoints", []).unwrap();
    drop(tables);
    let (daemon, _) = store.serve(&[]);
    let found = noticed(&store, "state_corruption", &[]);
    assert_eq!((&found["place"], &found["severity"]), (&"records".into(), &"medium".into()), "{found}");
    assert_eq!(found["strategy"], "repair", "the journal still had it: {found}");
    assert_eq!(found["session_name"], "default/work", "{found}");
    // It is in the history after the daemon is gone, too.
    store.run(&["stop"]).ok();
    drop(daemon);
    let (daemon, _) = store.serve(&[]);
    assert!(!of_type(&history(&store, &[]), "state_corruption").is_empty());
    kill(daemon);
}

#[test]
fn storage_unavailable_is_a_full_disk_and_ends_by_itself() {
    let store = Store::new();
    let Some(_mounted) = Small::under(&store, 16) else { return };
    settings(&store, "segment_bytes = \"1MiB\"\njournal_keep = \"0\"\n");
    let (daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    store.run(&["session", "create", "work"]).ok();
    // Somebody else fills the disk.
    let mut ballast = fs::File::create(store.dir().join("ballast")).unwrap();
    while ballast.write_all(&[1; 4_096]).is_ok() {}
    let refused = (0..1_000).any(|number| put(&url, "key", &format!("\"{}\"", large(100_000, number))) >= 500);
    assert!(refused, "the disk was never full");
    let full = noticed(&store, "storage_unavailable", &[]);
    assert_eq!((&full["cause"], &full["severity"]), (&"disk_full".into(), &"high".into()), "{full}");
    // There is room again, and it is written down: the next life of the store knows it, and that it was over.
    drop(ballast);
    fs::remove_file(store.dir().join("ballast")).unwrap();
    for _ in 0..LOOKS {
        put(&url, "again", "1");
        if noticed(&store, "storage_unavailable", &[])["over_at_ms"].is_u64() {
            break;
        }
    }
    store.run(&["stop"]).ok();
    drop(daemon);
    let (daemon, _) = store.serve(&[]);
    let full = noticed(&store, "storage_unavailable", &[]);
    assert!(full["over_at_ms"].is_u64(), "{full}");
    kill(daemon);
}

#[test]
fn resource_exhaustion_is_more_than_can_be_applied() {
    let store = Store::new();
    settings(&store, "unapplied_bytes = \"4MiB\"\n");
    let (daemon, _) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    // Somebody else has the tables locked.
    let mut tables = rusqlite::Connection::open(store.dir().join("records.db")).unwrap();
    let locked = tables.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let mut writers: Vec<Child> = Vec::new();
    for number in 0..60u64 {
        let value = format!("\"{}\"", large(100_000, number));
        let mut write = store.command(&["memory", "set", "work", &format!("key-{number}"), &value]);
        writers.push(write.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        // As long as there is room they are answered.
        if number < 30 {
            assert!(writers.pop().unwrap().wait().unwrap().success());
        }
    }
    let busy = noticed(&store, "resource_exhaustion", &[]);
    assert_eq!((&busy["cause"], &busy["strategy"]), (&"queue".into(), &"back_pressure".into()), "{busy}");
    let lock = noticed(&store, "storage_unavailable", &[]);
    assert_eq!((&lock["cause"], &lock["severity"]), (&"locked".into(), &"medium".into()), "{lock}");
    locked.rollback().unwrap();
    writers.into_iter().for_each(|mut writer| drop(writer.wait()));
    kill(daemon);
}

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether `mount` did it; says why the test is skipped where it cannot.
fn mount(args: &[&str]) -> bool {
    match Command::new("mount").args(args).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("skipped: mount {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            println!("skipped: `mount` cannot be run: {error}");
            false
        }
    }
}

#[test]
fn storage_unavailable_is_a_file_system_that_takes_no_writes_any_more() {
    let store = Store::new();
    settings(&store, "segment_bytes = \"1MiB\"\njournal_keep = \"0\"\n");
    let (daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    store.run(&["session", "create", "work"]).ok();
    // The journal's folder becomes read-only, as it does when the kernel finds the file system damaged.
    let journal = store.dir().join("journal");
    let path = journal.to_str().unwrap();
    if !mount(&["--bind", path, path]) {
        return kill(daemon);
    }
    let mounted = Mounted(journal.clone());
    assert!(mount(&["-o", "remount,bind,ro", path]));
    let refused = (0..1_000).any(|number| put(&url, "key", &format!("\"{}\"", large(100_000, number))) >= 500);
    assert!(refused, "there was always room in the segments it had");
    let read_only = noticed(&store, "storage_unavailable", &[]);
    assert_eq!((&read_only["cause"], &read_only["severity"]), (&"read_only".into(), &"high".into()), "{read_only}");
    assert_eq!(read_only["strategy"], "wait_for_room", "{read_only}");
    drop(mounted);
    for _ in 0..LOOKS {
        put(&url, "again", "1");
        if noticed(&store, "storage_unavailable", &[])["over_at_ms"].is_u64() {
            break;
        }
    }
    let over = noticed(&store, "storage_unavailable", &[]);
    assert!(over["over_at_ms"].is_u64(), "{over}");
    kill(daemon);
}

#[test]
fn resource_exhaustion_is_more_in_use_than_may_be_in_ram() {
    let store = Store::new();
    settings(&store, "resident_bytes = \"1MiB\"\n");
    let (daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    store.run(&["session", "create", "work"]).ok();
    // Somebody who follows a session keeps it in use.
    let mut follow = store.command(&["session", "history", "work", "--follow", "--json"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    for number in 0..20 {
        assert!(put(&url, &format!("key-{number}"), &format!("\"{}\"", large(100_000, number))) < 300);
    }
    let memory = noticed(&store, "resource_exhaustion", &[]);
    assert_eq!((&memory["cause"], &memory["strategy"]), (&"memory".into(), &"back_pressure".into()), "{memory}");
    assert!(memory.to_string().contains("resident_bytes"), "{memory}");
    assert_eq!(memory["severity"], "medium", "{memory}");
    // Nobody uses it any more: it leaves, and the failure is over.
    kill(follow);
    drop(lines);
    for _ in 0..LOOKS {
        if noticed(&store, "resource_exhaustion", &[])["over_at_ms"].is_u64() {
            break;
        }
    }
    let memory = noticed(&store, "resource_exhaustion", &[]);
    assert!(memory["over_at_ms"].is_u64(), "{memory}");
    kill(daemon);
}

#[test]
fn resource_exhaustion_is_a_service_that_answers_429() {
    let store = Store::new();
    let (daemon, _) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    // The service, and an agent that reports what it was answered.
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = service.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        for status in ["429 Too Many Requests", "200 OK"] {
            let (mut stream, _) = service.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            write!(stream, "HTTP/1.1 {status}\r\nretry-after: 20\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    });
    let ask = || {
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    for effect in ["first", "second"] {
        store.run(&["effect", "begin", "work", effect, "--class", "idempotent"]).ok();
        let value = format!("{{\"status\": {}}}", ask());
        let failed: &[&str] = if effect == "first" { &["--failed"] } else { &[] };
        store.run(&[&["effect", "finish", "work", effect, "--value", &value], failed].concat()).ok();
        if effect == "first" {
            let limited = noticed(&store, "resource_exhaustion", &[]);
            assert_eq!(
                (&limited["severity"], &limited["strategy"]),
                (&"low".into(), &"back_pressure".into()),
                "{limited}"
            );
            assert_eq!(limited["cause"], "rate_limited", "{limited}");
            assert!(limited["session"].is_string(), "{limited}");
            assert!(limited["over_at_ms"].is_null(), "{limited}");
        }
    }
    let over = noticed(&store, "resource_exhaustion", &[]);
    assert!(over["over_at_ms"].is_u64(), "the second call was answered: {over}");
    answers.join().unwrap();
    kill(daemon);
}

#[test]
fn ownership_conflict_is_a_takeover() {
    let store = Store::new();
    let (first, said) = store.serve(&[]);
    let pid = i32::try_from(said["pid"].as_i64().unwrap()).unwrap();
    store.run(&["session", "create", "work"]).ok();
    signal(pid, Signal::STOP);
    store.run(&["take-over"]).ok();
    let (second, _) = store.serve(&[]);
    let fenced = noticed(&store, "ownership_conflict", &[]);
    assert_eq!((&fenced["cause"], &fenced["severity"]), (&"fenced_out".into(), &"high".into()), "{fenced}");
    assert_eq!(fenced["strategy"], "step_back", "{fenced}");
    assert!(fenced["what"].as_str().unwrap().contains(&format!("process {pid}")), "{fenced}");
    store.run(&["session", "show", "work"]).ok();
    [first, second].into_iter().for_each(kill);
}

#[test]
fn a_holder_whose_lock_file_is_taken_away_takes_nothing_any_more_and_ends() {
    let store = Store::new();
    let (mut first, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    store.run(&["session", "create", "work"]).ok();
    // What it has is in its tables: it does not write them by itself any more.
    store.run(&["verify"]).ok();
    fs::remove_file(store.dir().join("lock")).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(3));
    assert!(std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).is_err());
    let (second, _) = store.serve(&[]);
    store.run(&["memory", "set", "work", "key", "2"]).ok();
    kill(second);
}

#[test]
fn ownership_conflict_is_one_folder_in_two_places_with_a_lock_each() {
    let store = Store::new();
    let (first, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["verify"]).ok();
    // The second one sees another file where the lock is, as with a folder that is put together from two volumes.
    let other = store.path("other-lock");
    fs::write(&other, "").unwrap();
    let script = r#"mount --bind "$1" "$2" || { echo no mount; exit 0; }
        rm -f "$3"; exec "$0" --no-start serve --json --listen 127.0.0.1:0"#;
    let mut second = Command::new("unshare");
    second.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_swarmkeep")]);
    second.arg(&other).arg(store.dir().join("lock")).arg(store.dir().join("control.sock"));
    second.env_clear().env("HOME", store.path("")).env("SWARMKEEP_HOME", store.dir());
    let second = second.env("PATH", std::env::var_os("PATH").unwrap()).stdout(Stdio::piped()).spawn();
    let Ok(mut second) = second else {
        println!("skipped: `unshare` cannot be run");
        return kill(first);
    };
    let mut line = String::new();
    BufReader::new(second.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Ok(said) = serde_json::from_str::<Value>(&line) else {
        println!("skipped: no mount namespace: {line}");
        return [first, second].into_iter().for_each(kill);
    };
    let of_second = said["addresses"][0].as_str().unwrap().to_owned();
    assert!(put(&of_second, "theirs", "1") < 300);
    store.run(&["verify", "--url", &of_second]).ok();
    let refused = (0..LOOKS).any(|number| put(&url, "key", &number.to_string()) == 503);
    assert!(refused, "it went on for ever");
    let all = history(&store, &["--url", &url]);
    let split = all.iter().find(|failure| failure["cause"] == "split_brain").unwrap_or_else(|| panic!("{all:?}"));
    assert_eq!((&split["type"], &split["severity"]), (&"ownership_conflict".into(), &"critical".into()), "{split}");
    assert_eq!(split["strategy"], "step_back", "{split}");
    // It may read what the other one wrote by now, and find that it is not its own history.
    assert!(put(&url, "key", "1") >= 500, "it takes nothing any more");
    [first, second].into_iter().for_each(kill);
    // What the first one had taken meanwhile is told by the next start, and its bytes are kept.
    let plan = store.run(&["recover", "--dry-run", "--json"]).json();
    assert!(!plan["possibly_acknowledged"].as_array().unwrap().is_empty(), "{plan}");
    let (third, _) = store.serve(&[]);
    let told = store.run(&["recover", "--json"]).json();
    assert_eq!(told["possibly_acknowledged"], plan["possibly_acknowledged"], "{told}");
    let kept = fs::read_dir(store.dir().join("quarantine")).unwrap();
    assert!(kept.map(|entry| entry.unwrap().file_name()).any(|name| name.to_string_lossy().starts_with("journal-")));
    kill(third);
}

#[test]
fn outcome_unknown_is_a_kill_between_begin_and_finish() {
    let store = Store::new();
    let (daemon, _) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    store.run(&["agent", "spawn", "work", "--id", "payer", "--kind", "worker"]).ok();
    store.run(&["effect", "begin", "work", "pay", "--agent", "payer", "--instance", "before"]).ok();
    kill(daemon);
    let (daemon, _) = store.serve(&[]);
    let asked = store.run(&["effect", "begin", "work", "pay", "--agent", "payer", "--instance", "after"]);
    assert!(asked.code == 5 && asked.err.contains("nobody knows"), "{asked:?}");
    let doubt = noticed(&store, "outcome_unknown", &[]);
    assert_eq!((&doubt["effect"], &doubt["class"]), (&"pay".into(), &"at_most_once".into()), "{doubt}");
    assert_eq!((&doubt["severity"], &doubt["strategy"]), (&"medium".into(), &"resolve".into()), "{doubt}");
    assert!(doubt["over_at_ms"].is_null());
    store.run(&["effect", "resolve", "work", "pay", "--done", "--by", "user:ana"]).ok();
    assert!(noticed(&store, "outcome_unknown", &[])["over_at_ms"].is_u64());
    kill(daemon);
}
