//! The demo, and whether its check would notice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod binary;

use std::{fs, path::Path};

use binary::{Ended, Store, append};

fn check(store: &Store, dir: &Path) -> Ended {
    store.run(&["demo", "--check", "--json", "--store", dir.to_str().unwrap()])
}

#[test]
fn nothing_is_lost_and_the_check_would_notice() {
    let store = Store::new();
    let dir = store.dir();
    let ran = store.run(&["demo", "--seconds", "6", "--json", "--store", dir.to_str().unwrap()]).ok().json();
    assert_eq!((&ran["lost"], &ran["repeated"], &ran["missing"]), (&0.into(), &0.into(), &0.into()), "{ran}");
    assert!(ran["kills"].as_u64().unwrap() >= 5, "{ran}");
    assert!(ran["agent_kills"].as_u64().unwrap() >= 1, "{ran}");
    assert!(ran["acknowledged"].as_u64().unwrap() > 50, "{ran}");
    assert!(ran["doubts_settled"].as_u64().unwrap() >= 1, "an agent died between begin and finish: {ran}");
    assert!(ran["back_ms_median"].as_f64().unwrap() > 0.0);

    let again = check(&store, &dir).ok().json();
    assert_eq!((&again["lost"], &again["acknowledged"]), (&0.into(), &ran["acknowledged"]), "{again}");

    let forged = dir.join("demo/acknowledged/forged.ndjson");
    let hash = "ab".repeat(32);
    append(&forged, &format!("{{\"request\":\"x:1\",\"first\":99999999,\"seq\":99999999,\"hash\":\"{hash}\"}}\n"));
    let lost = check(&store, &dir);
    assert_eq!((lost.code, lost.json()["lost"].as_u64()), (1, Some(1)), "beyond the log's end: {lost:?}");

    fs::write(&forged, format!("{{\"request\":\"x:1\",\"first\":3,\"seq\":3,\"hash\":\"{hash}\"}}\n")).unwrap();
    let lost = check(&store, &dir);
    assert_eq!((lost.code, lost.json()["lost"].as_u64()), (1, Some(1)), "another hash at its seq: {lost:?}");
    fs::remove_file(&forged).unwrap();

    let outside = dir.join("demo/outside.log");
    let done = fs::read_to_string(&outside).unwrap();
    let first = done.lines().next().unwrap().to_owned();
    append(&outside, &format!("{first}\n"));
    let repeated = check(&store, &dir);
    assert_eq!((repeated.code, repeated.json()["repeated"].as_u64()), (1, Some(1)), "{repeated:?}");

    fs::write(&outside, done.replacen(&format!("{first}\n"), "", 1)).unwrap();
    let missing = check(&store, &dir);
    assert_eq!((missing.code, missing.json()["missing"].as_u64()), (1, Some(1)), "{missing:?}");
}

#[test]
fn a_store_with_a_demo_in_it_is_not_used_again() {
    let store = Store::new();
    fs::create_dir_all(store.dir().join("demo/acknowledged")).unwrap();
    let refused = store.run(&["demo", "--seconds", "4", "--store", store.dir().to_str().unwrap()]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let nameless = store.run(&["demo", "--check"]);
    assert_eq!(nameless.code, 2, "{nameless:?}");
}

#[test]
fn somebodys_store_is_not_used_and_its_daemon_goes_on() {
    let store = Store::new();
    store.run(&["session", "create", "nightly"]).ok();
    let daemon = store.holder().unwrap();
    let dir = store.dir();
    let demo = ["demo", "--seconds", "4", "--store", dir.to_str().unwrap()];
    let refused = store.run(&demo);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("is a store already"), "{refused:?}");
    assert_eq!(store.holder(), Some(daemon));
    store.run(&["stop"]).ok();
    assert_eq!(store.run(&demo).code, 1, "nobody holds it, and it is somebody's all the same");
    assert!(!dir.join("demo").exists());
}
