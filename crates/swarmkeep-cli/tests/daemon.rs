//! The daemon: started once, held by one, stopped cleanly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod binary;

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use binary::{Store, ended, signal};
use rustix::process::Signal;

#[test]
fn twenty_at_once_start_one_daemon() {
    let store = Store::new();
    let children: Vec<_> = (0..20)
        .map(|number| {
            let name = format!("s-{number}");
            store
                .command(&["session", "create", &name, "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let log = fs::read_to_string(store.dir().join("daemon.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.starts_with("swarmkeep ")).count(), 1, "{log}");
    assert_eq!(store.run(&["session", "ls", "--json"]).ok().json()["rows"].as_array().unwrap().len(), 20);
    assert_eq!(fs::metadata(store.dir()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_holder_is_refused_and_told_who_has_it() {
    let store = Store::new();
    let (mut first, said) = store.serve(&[]);
    let second = store.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, 3, "{second:?}");
    assert!(second.err.contains(&format!("process {}", said["pid"])), "{second:?}");
    assert_eq!(store.run(&["session", "ls"]).ok().code, 0, "the first one goes on");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn sigterm_parks_and_exits_0() {
    for end in [Signal::TERM, Signal::INT] {
        let store = Store::new();
        let (mut daemon, _) = store.serve(&[]);
        store.run(&["session", "create", "work"]).ok();
        store.run(&["task", "create", "work", "something"]).ok();
        signal(i32::try_from(daemon.id()).unwrap(), end);
        assert!(daemon.wait().unwrap().success());
        let plan = store.run(&["recover", "--dry-run", "--json"]).ok().json();
        assert_eq!((&plan["clean"], &plan["frames"]), (&true.into(), &0.into()), "{plan}");
        assert!(!store.dir().join("control.sock").exists());
    }
}

/// `nohup` has SIGHUP ignored; on other systems it is left as it is.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_closes_parks_unless_hangups_are_ignored() {
    let store = Store::new();
    let (mut daemon, _) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    let pid = i32::try_from(daemon.id()).unwrap();
    // Two of them, as from a shell and the kernel: no hurry.
    signal(pid, Signal::HUP);
    signal(pid, Signal::HUP);
    assert!(daemon.wait().unwrap().success());
    let plan = store.run(&["recover", "--dry-run", "--json"]).ok().json();
    assert_eq!((&plan["clean"], &plan["frames"]), (&true.into(), &0.into()), "{plan}");

    let serve = store.command(&["serve", "--listen", "127.0.0.1:0"]);
    let mut nohup = std::process::Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(serve.get_program()).args(serve.get_args());
    nohup.env_clear().envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut daemon = nohup.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    // It says that it is there.
    std::io::Read::read_exact(daemon.stdout.as_mut().unwrap(), &mut [0u8; 1]).unwrap();
    store.run(&["memory", "set", "work", "key", "1"]).ok();
    let pid = i32::try_from(daemon.id()).unwrap();
    signal(pid, Signal::HUP);
    assert_eq!(store.run(&["memory", "get", "work", "key", "--no-start"]).ok().out, "1\n");
    assert!(daemon.try_wait().unwrap().is_none());
    signal(pid, Signal::TERM);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn after_kill_9_everything_acknowledged_is_there() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    store.run(&["memory", "set", "work", "plan", "{\"a\":[1,2.0]}"]).ok();
    signal(store.holder().unwrap(), Signal::KILL);
    let value = store.run(&["memory", "get", "work", "plan"]).ok();
    assert_eq!(value.out, "{\"a\":[1,2.0]}\n");
    let history = store.run(&["recover", "history", "--json"]).ok().json();
    assert_eq!(history["recoveries"][0]["clean"], false, "{history}");
    assert_eq!(store.run(&["verify", "--json"]).ok().json()["findings"], serde_json::json!([]));
}

#[test]
fn nothing_is_started_where_that_is_forbidden() {
    let store = Store::new();
    let refused = store.run(&["session", "ls", "--no-start", "--json"]);
    assert_eq!((refused.code, refused.json()["error"]["code"].as_str()), (1, Some("no_store")), "{refused:?}");
    assert!(!store.dir().exists());
    let refused = store.run(&["session", "create", "work", "--no-start", "--json"]);
    assert_eq!((refused.code, refused.json()["error"]["exit"].as_u64()), (3, Some(3)), "{refused:?}");
    assert!(refused.err.contains("next:") && refused.err.contains("swarmkeep serve"));
    assert!(!store.dir().exists());
    store.run(&["doctor", "--json"]).ok();
    assert!(!store.dir().exists(), "looking makes nothing");
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let store = Store::new();
    fs::create_dir_all(store.dir().join("journal")).unwrap();
    fs::write(store.dir().join("records.db"), b"this is no database, and never was one, whatever its name says")
        .unwrap();
    let refused = store.run(&["session", "ls"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("records.db"), "the end of its log is shown: {refused:?}");
}

#[test]
fn a_daemon_that_gave_up_is_not_waited_for() {
    let store = Store::new();
    // It cannot listen there: `unavailable`, as when another one has the store.
    fs::create_dir_all(store.dir().join("control.sock")).unwrap();
    let refused = store.run(&["session", "open", "x"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.err.contains("is not a socket") && refused.err.contains("ended at once"), "{refused:?}");
}

#[test]
fn output_that_cannot_be_written_does_not_change_what_was_done() {
    let store = Store::new();
    store.run(&["session", "open", "x"]).ok();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    // A reader that has gone: the verb's own exit code.
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let code = |command: &mut std::process::Command| command.status().unwrap().code();
    assert_eq!(code(store.command(&["session", "ls"]).stdout(gone())), Some(0));
    assert_eq!(code(store.command(&["--json", "session", "show", "none"]).stdout(gone())), Some(1));
    assert_eq!(code(store.command(&["session", "history", "x"]).stdout(gone())), Some(0));
    // No room for the answer: it is said, and is no success.
    let told = store.command(&["session", "ls"]).stdout(full()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stderr).contains("standard output cannot be written"), "{told:?}");
    // Nowhere to complain either: no panic (101).
    assert_eq!(code(store.command(&["session", "ls"]).stdout(full()).stderr(full())), Some(1));
    assert_eq!(code(store.command(&["--json", "session", "show", "none"]).stdout(full()).stderr(full())), Some(1));
    store.run(&["stop"]).ok();
    // A daemon that cannot say where it listens serves all the same.
    let mut serving =
        store.command(&["serve", "--listen", "127.0.0.1:0"]).stdout(full()).stderr(full()).spawn().unwrap();
    while store.run(&["--no-start", "session", "show", "x"]).code != 0 {
        assert_eq!(serving.try_wait().unwrap(), None, "it ended");
    }
    store.run(&["stop"]).ok();
    assert_eq!(serving.wait().unwrap().code(), Some(1));
}

#[test]
fn over_tcp_with_a_token() {
    let store = Store::new();
    let token = "0123456789abcdef0123";
    let (mut daemon, said) = store.serve(&["--set", &format!("token={token}")]);
    let url = said["addresses"][0].as_str().unwrap().to_owned();
    let refused = ended(store.command(&["session", "ls", "--url", &url]).env_remove("SWARMKEEP_HOME"));
    assert_eq!(refused.code, 1, "{refused:?}");
    ended(store.command(&["session", "ls", "--url", &url]).env("SWARMKEEP_TOKEN", token)).ok();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

fn address(said: &serde_json::Value) -> std::net::SocketAddr {
    said["addresses"][0].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap()
}

#[test]
fn the_next_daemon_answers_where_the_last_one_did() {
    let store = Store::new();
    let (mut first, said) = store.serve(&[]);
    let at = address(&said);
    first.kill().unwrap();
    first.wait().unwrap();
    // A verb that only reads starts one in the background: clients that know the address find it.
    let started = store.run(&["session", "ls"]).ok();
    assert!(started.err.contains(&at.to_string()) && started.err.contains("swarmkeep stop"), "{started:?}");
    std::net::TcpStream::connect(at).unwrap();
    // Whoever supervises the store starts his own again: told what is in the way, or let in.
    let listen = at.to_string();
    let refused = store.run(&["serve", "--listen", &listen]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.err.contains("in the background") && refused.err.contains("--take-over"), "{refused:?}");
    let (mut taken_over, said) = store.serve(&["--listen", &listen, "--take-over"]);
    assert_eq!((address(&said), &said["recovery"]["clean"]), (at, &true.into()), "the other one parked: {said}");
    let refused = store.run(&["serve", "--listen", "127.0.0.1:0", "--take-over"]);
    assert_eq!(refused.code, 3, "nobody takes over from one that somebody runs: {refused:?}");
    store.run(&["stop"]).ok();
    assert!(taken_over.wait().unwrap().success());
}

#[test]
fn stop_parks_and_waits_for_the_end() {
    let store = Store::new();
    assert_eq!(store.run(&["stop", "--json"]).json()["error"]["code"], "no_store");
    let (mut daemon, said) = store.serve(&[]);
    store.run(&["session", "create", "work"]).ok();
    let over_tcp = store.run(&["stop", "--url", said["addresses"][0].as_str().unwrap()]);
    assert_eq!(over_tcp.code, 2, "{over_tcp:?}");
    let stopped = store.run(&["stop", "--json"]).ok().json();
    assert_eq!((&stopped["stopped"], &stopped["pid"]), (&true.into(), &said["pid"]), "{stopped}");
    // Nobody holds the store any more: what needs it for itself gets it at once.
    assert_eq!(store.run(&["recover", "--dry-run", "--json"]).ok().json()["clean"], true);
    assert!(daemon.wait().unwrap().success());
    assert_eq!(store.run(&["stop", "--json"]).ok().json()["stopped"], false);
}

#[test]
fn a_background_daemon_does_not_go_on_without_the_token() {
    let store = Store::new();
    let (mut daemon, said) = store.serve(&["--set", "token=0123456789abcdef0123"]);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    for _ in 0..2 {
        store.run(&["session", "ls"]).ok();
        assert!(std::net::TcpStream::connect(address(&said)).is_err());
        let lock: serde_json::Value = serde_json::from_slice(&fs::read(store.dir().join("lock")).unwrap()).unwrap();
        assert!(lock["address"].as_str().is_none_or(str::is_empty), "{lock}");
        store.run(&["stop"]).ok();
    }
}

#[test]
fn a_folder_that_was_mistyped_does_not_become_a_store() {
    let store = Store::new();
    let wrong = store.path("wrnog");
    let wrong = wrong.to_str().unwrap();
    for args in [
        vec!["session", "ls"],
        vec!["task", "create", "work", "x"],
        vec!["verify"],
        vec!["recover", "--full"],
        vec!["recover", "--dry-run"],
        vec!["migrate", "up"],
        vec!["migrate", "views", "down"],
        vec!["demo", "--check"],
    ] {
        let mut args = args.clone();
        args.extend(["--json", "--store", wrong]);
        let refused = store.run(&args);
        assert_eq!((refused.code, refused.json()["error"]["code"].as_str()), (1, Some("no_store")), "{refused:?}");
        assert!(refused.err.contains("swarmkeep --store ~/wrnog serve`"), "{refused:?}");
        assert!(!std::path::Path::new(wrong).exists(), "{args:?}");
    }
    let made = store.run(&["session", "create", "work"]).ok();
    assert!(made.err.contains("made a new store in"), "{made:?}");
    assert!(!store.run(&["session", "open", "work"]).ok().err.contains("new store"));
    let other = Store::new();
    let mut serve = other.command(&["serve", "--listen", "127.0.0.1:0", "--while-input"]);
    let served = ended(&mut serve).ok();
    assert!(served.err.contains("made a new store in"), "{served:?}");
}

#[test]
fn a_daemon_that_works_is_not_ended_for_one_that_cannot_start() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    let daemon = store.holder().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, garbage) = (taken.local_addr().unwrap().to_string(), store.path("garbage.pem"));
    fs::write(&garbage, "nothing").unwrap();
    let (certificate, key) =
        (format!("tls_certificate={}", garbage.display()), format!("tls_key={}", garbage.display()));
    for (args, code) in [
        (vec!["--listen", &taken], 3),
        (vec!["--listen", "192.0.2.1:7420"], 2),
        (vec!["--listen", "127.0.0.1:0", "--set", &certificate], 2),
        (vec!["--listen", "127.0.0.1:0", "--set", &certificate, "--set", &key], 2),
        (vec!["--listen", "127.0.0.1:0", "--set", "segment_bytes=1048577"], 2),
    ] {
        let all = [vec!["serve", "--take-over"], args].concat();
        let refused = store.run(&all);
        assert_eq!(refused.code, code, "{all:?}: {refused:?}");
        assert_eq!(store.holder(), Some(daemon), "{all:?}: {refused:?}");
    }
    store.run(&["session", "show", "work", "--no-start"]).ok();
}

#[test]
fn wrong_settings_are_the_next_starts_trouble() {
    let store = Store::new();
    store.run(&["session", "create", "work"]).ok();
    let file = store.dir().join("swarmkeep.toml");
    fs::write(&file, "listen = 127.0.0.1:7421\n").unwrap();
    store.run(&["session", "ls"]).ok();
    let doctor = store.run(&["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(doctor.out.contains("put text in quotes: listen = \"127.0.0.1:7421\""), "{doctor:?}");
    fs::write(&file, "tls_certificate = \"cert.pem\"\ntls_key = \"key.pem\"\n").unwrap();
    let doctor = store.run(&["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor:?}");
    let seen_from_the_file = store.dir().join("cert.pem").display().to_string();
    assert!(doctor.out.contains(&seen_from_the_file), "{doctor:?}");
}

/// What it says of itself, and what is said to plain HTTP.
#[test]
fn tls_is_said_as_https_and_to_who_speaks_plain() {
    let store = Store::new();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(store.dir().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(store.dir().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(store.dir().join("swarmkeep.toml"), "tls_certificate = \"cert.pem\"\ntls_key = \"key.pem\"\n").unwrap();
    let (mut daemon, said) = store.serve(&[]);
    let url = said["addresses"][0].as_str().unwrap();
    assert!(url.starts_with("https://127.0.0.1:"), "{said}");
    let doctor = store.run(&["doctor"]);
    assert!(doctor.out.contains(url), "{doctor:?}");
    let plain = store.run(&["session", "ls", "--url", &url.replace("https", "http")]);
    assert_eq!(plain.code, 2, "{plain:?}");
    assert!(plain.err.contains("speaks TLS"), "{plain:?}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
