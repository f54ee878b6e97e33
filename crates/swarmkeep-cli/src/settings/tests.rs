use std::path::PathBuf;

use super::*;

fn load(file: Option<&str>, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swarmkeep.toml");
    if let Some(text) = file {
        fs::write(&path, text).unwrap();
    }
    let own =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
    Settings::load((&path, false), own(variables), &own(flags))
}

#[test]
fn every_default_is_allowed() {
    for known in KNOWN {
        assert!(known.kind.accepts(known.default) || known.default.is_empty(), "{}", known.name);
    }
}

#[test]
fn flag_before_environment_before_file() {
    let file = "listen = \"127.0.0.1:1\"\nreaders = 5\nfeeds = 3\n";
    let settings = load(
        Some(file),
        &[("SWARMKEEP_LISTEN", "127.0.0.1:2"), ("SWARMKEEP_READERS", "6"), ("PATH", "/bin")],
        &[("listen", "127.0.0.1:3")],
    )
    .unwrap();
    assert_eq!((settings.text("listen"), settings.said("listen")), ("127.0.0.1:3", &Said::Flag));
    assert_eq!(settings.number("readers"), 6);
    assert_eq!((settings.number("feeds"), settings.said("feeds")), (3, &Said::File));
    assert_eq!(settings.said("drain"), &Said::Default);
}

#[test]
fn sizes_times_and_lists() {
    let settings = load(
        Some("resident_bytes = \"2GiB\"\ndrain = \"2min\"\nhosts = [\"a.example\", \"b.example\"]\n"),
        &[],
        &[("unapplied_bytes", "8388608")],
    )
    .unwrap();
    assert_eq!(settings.number("resident_bytes"), 2 << 30);
    assert_eq!(settings.number("drain"), 120_000);
    assert_eq!(settings.number("unapplied_bytes"), 8 << 20);
    assert_eq!(settings.list("hosts"), ["a.example", "b.example"]);
}

#[test]
fn wrong_values_are_named_with_what_is_allowed() {
    for (flag, value, allowed) in [
        ("readers", "9", "4 to 8"),
        ("resident_bytes", "5s", "1MiB"),
        ("drain", "5MiB", "milliseconds"),
        ("listen", "localhost", "ADDRESS:PORT"),
        ("log", "loud", "error, warn, info, debug, trace"),
        ("token", "short", "16 or more"),
        ("segment_bytes", "99999999999999999999GiB", "64MiB"),
    ] {
        let failure = load(None, &[], &[(flag, value)]).unwrap_err();
        assert!(failure.what.contains(flag), "{failure}");
        assert!(failure.next.contains(allowed), "{}", failure.next);
    }
    assert!(!load(None, &[], &[("token", "short")]).unwrap_err().what.contains("short"), "a token is not shown");
}

#[test]
fn unknown_ones_are_named() {
    let failure = load(Some("lisen = \"127.0.0.1:1\"\n"), &[], &[]).unwrap_err();
    assert!(failure.what.contains("lisen") && failure.what.contains("`listen`"), "{failure}");
    assert!(failure.next.contains("resident_bytes"));
    let settings = load(None, &[("SWARMKEEP_REDERS", "5"), ("SWARMKEEP_HOME", "/x")], &[]).unwrap();
    assert_eq!(settings.notes, ["SWARMKEEP_REDERS is no setting and does nothing (did you mean `readers`?)"]);
}

#[test]
fn a_broken_file_is_said_with_its_line() {
    let failure = load(Some("readers = 5\nlisten = \n"), &[], &[]).unwrap_err();
    assert!(failure.what.contains("line 2"), "{failure}");
    let failure = Settings::load((&PathBuf::from("/no/such.toml"), true), [], &[]).unwrap_err();
    assert!(failure.what.contains("/no/such.toml"));
}

#[test]
fn names_of_old_are_taken_and_explained() {
    let settings =
        load(None, &[("SWARMKEEP_MAX_LOG_SIZE", "2MiB"), ("MAX_LOG_SIZE", "1048576"), ("SYNC_INTERVAL", "5000")], &[])
            .unwrap();
    assert_eq!(settings.number("max_log_size"), 2 << 20, "the program's own name counts more");
    assert!(settings.notes.iter().any(|note| note.contains("SYNC_INTERVAL=5000") && note.contains("without effect")));
}
