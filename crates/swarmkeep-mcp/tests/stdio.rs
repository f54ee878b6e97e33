//! A child as a server: started, talked to, ended with everything it started.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use swarmkeep_mcp::{
    envelope::compose,
    reply::Failure,
    transport::{self, Bounds, Connection, Inbound, Outbound, Program, Recipe},
};
use tokio::time::timeout;

/// Generous: a machine that compiles beside the tests is slow.
const PATIENCE: Duration = Duration::from_secs(60);

fn program(program: &str, arguments: &[&str]) -> Recipe {
    Recipe::Stdio(Program {
        program: program.to_owned(),
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        environment: None,
        folder: None,
    })
}

fn peer() -> Recipe {
    program("python3", &["tests/peer/peer.py"])
}

async fn next(connection: &mut Connection) -> Inbound {
    timeout(PATIENCE, connection.inbox.recv()).await.expect("in time").expect("closed is said before the end")
}

async fn line(connection: &mut Connection) -> String {
    match next(connection).await {
        Inbound::Line(line) => String::from_utf8(line.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn send(connection: &Connection, wire: u64, line: impl Into<Bytes>) {
    connection.outbox.send(Outbound { wire: Some(wire), line: line.into() }).await.unwrap();
}

async fn call(connection: &Connection, wire: u64, tool: &str) {
    let params = format!(r#"{{"name":"{tool}","arguments":{{}}}}"#);
    send(connection, wire, compose::request(&wire.to_string(), "tools/call", &params)).await;
}

fn is_there(pid: i32) -> bool {
    // A zombie of somebody else's is gone for our purposes.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
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
async fn lines_go_both_ways_and_noise_is_no_end() {
    let mut connection = transport::open(&peer(), &Bounds::default()).await.unwrap();
    call(&connection, 1, "echo").await;
    assert!(line(&mut connection).await.contains(r#""id": 1"#));
    call(&connection, 2, "noise").await;
    assert_eq!(line(&mut connection).await, "Listening...");
    assert_eq!(line(&mut connection).await, r#"{"half": "#);
    assert_eq!(line(&mut connection).await, "[1]");
    assert!(line(&mut connection).await.contains(r#""id": 2"#));
    connection.ending.close().await;
}

#[tokio::test]
async fn what_it_wrote_before_its_end_arrives_and_then_its_end_is_said() {
    let script = r#"echo '{"id":1,"result":{}}'; echo last; exit 7"#;
    let mut connection = transport::open(&program("sh", &["-c", script]), &Bounds::default()).await.unwrap();
    assert_eq!(line(&mut connection).await, r#"{"id":1,"result":{}}"#);
    assert_eq!(line(&mut connection).await, "last");
    match next(&mut connection).await {
        Inbound::Closed { why } => assert!(why.contains('7'), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_no_longer_reads_is_told_from_what_may_have_read() {
    let mut connection =
        transport::open(&program("sh", &["-c", "exec 0<&-; echo ready; exec sleep 600"]), &Bounds::default())
            .await
            .unwrap();
    assert_eq!(line(&mut connection).await, "ready");
    send(&connection, 5, "{}").await;
    send(&connection, 6, "{}").await;
    for wire in [5, 6] {
        match next(&mut connection).await {
            Inbound::Failed { wire: failed, failure } => {
                assert_eq!((failed, failure), (Some(wire), Failure::NothingWritten))
            }
            other => panic!("{other:?}"),
        }
    }
    connection.ending.close().await;
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_not_connected() {
    // A starter would find it out too late, and die of it without a word.
    let starter = || Some(vec!["sh".to_owned(), "-c".to_owned(), "exit 0".to_owned()]);
    for name in ["/no/such/program", "no-such-program"] {
        for starter in [None, starter()] {
            let opened = transport::open(&program(name, &[]), &Bounds { starter, ..Bounds::default() }).await;
            let why = opened.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(why.contains("No such file"), "{name}: {why}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text");
    std::fs::write(&file, "no program").unwrap();
    let bounds = Bounds { starter: starter(), ..Bounds::default() };
    let opened = transport::open(&program(&file.display().to_string(), &[]), &bounds).await;
    assert_eq!(opened.err().map(|error| error.kind()), Some(std::io::ErrorKind::PermissionDenied));
}

#[tokio::test]
async fn a_line_without_an_end_does_not_fill_the_memory() {
    let bounds = Bounds { line_bytes: 100_000, queue: 4, ..Bounds::default() };
    let mut connection =
        transport::open(&program("sh", &["-c", "echo first; exec cat /dev/zero"]), &bounds).await.unwrap();
    assert_eq!(line(&mut connection).await, "first");
    match next(&mut connection).await {
        Inbound::Breach(breach) => assert_eq!(breach.beginning, r"\x00".repeat(64)),
        other => panic!("{other:?}"),
    }
    match next(&mut connection).await {
        Inbound::Closed { why } => assert!(why.contains("more than 100000 bytes"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_ends_with_everything_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    // Ignores the end of its input and SIGTERM, and so does its child.
    let script = format!(
        "trap '' TERM; (trap '' TERM; exec 0<&- 1>&-; echo $$ >> {0}; while :; do sleep 1; done) & echo $! >> {0}; echo $$ >> {0}; echo ready; while :; do sleep 1; done",
        pids.display()
    );
    let mut connection = transport::open(&program("sh", &["-c", &script]), &Bounds::default()).await.unwrap();
    assert_eq!(line(&mut connection).await, "ready");
    let started: Vec<i32> = read_pids(&pids);
    assert!(started.len() >= 2 && started.iter().all(|pid| is_there(*pid)), "{started:?}");
    timeout(PATIENCE, connection.ending.close()).await.expect("ends in time");
    until("every process is gone", || read_pids(&pids).iter().all(|pid| !is_there(*pid))).await;
}

#[tokio::test]
async fn a_stopped_server_is_ended_too() {
    let mut connection =
        transport::open(&program("sh", &["-c", "echo $$; exec sleep 600"]), &Bounds::default()).await.unwrap();
    let pid: i32 = line(&mut connection).await.parse().unwrap();
    let group = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(group, rustix::process::Signal::STOP).unwrap();
    timeout(PATIENCE, connection.ending.close()).await.expect("ends in time");
    assert!(!is_there(pid));
}

#[tokio::test]
async fn its_environment_is_what_the_caller_says() {
    let environment = BTreeMap::from([("ONLY".to_owned(), "this".to_owned())]);
    let recipe = Recipe::Stdio(Program {
        program: "/bin/sh".to_owned(),
        arguments: vec!["-c".into(), "echo \"$ONLY $HOME $PWD\"".into()],
        environment: Some(environment),
        folder: Some("/".into()),
    });
    let mut connection = transport::open(&recipe, &Bounds::default()).await.unwrap();
    assert_eq!(line(&mut connection).await, "this  /");
    let Recipe::Stdio(written) = recipe.without_secrets() else { panic!("a program") };
    assert_eq!(written.environment, Some(BTreeMap::from([("ONLY".to_owned(), String::new())])));
}

#[tokio::test]
async fn a_reader_that_is_slow_holds_its_server_back() {
    let bounds = Bounds { queue: 2, ..Bounds::default() };
    let mut connection = transport::open(&program("sh", &["-c", "exec yes 0123456789"]), &bounds).await.unwrap();
    // Two lines in the queue, the rest is in the pipe: the inbox holds no more, however long nobody looks.
    until("the queue is full", || connection.inbox.len() == 2).await;
    assert_eq!(line(&mut connection).await, "0123456789");
    timeout(PATIENCE, connection.ending.close()).await.expect("ends in time");
}

fn read_pids(path: &Path) -> Vec<i32> {
    std::fs::read_to_string(path).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
}
