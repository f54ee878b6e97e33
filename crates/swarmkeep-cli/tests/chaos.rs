//! Chaos through the binary: that it holds, and that it would not if something were wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod binary;

use std::fs;

use binary::Store;

#[test]
fn every_scenario_holds_or_says_why_it_cannot_be_tried() {
    let store = Store::new();
    let dir = store.path("chaos");
    let dir = dir.to_str().unwrap();
    let ran = store.run(&["chaos", "--seconds", "5", "--seed", "1", "--json", "--keep", "--store", dir]).ok().json();
    assert_eq!((&ran["verdict"], &ran["lost"], &ran["repeated"]), (&"held".into(), &0.into(), &0.into()), "{ran}");
    let scenarios = ran["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 8);
    for scenario in scenarios {
        if scenario["verdict"] == "skipped" {
            println!("skipped: {} ({})", scenario["scenario"], scenario["why"]);
            continue;
        }
        assert_eq!(scenario["verdict"], "held", "{scenario}");
        assert!(scenario["acknowledged"].as_u64().unwrap() > 20, "{scenario}");
        assert!(scenario["strikes"].as_u64().unwrap() >= 3, "{scenario}");
        assert!(scenario["records_verified"].as_u64().unwrap() > 20, "{scenario}");
    }
    let killed = &scenarios[0];
    assert!(killed["noticed"].as_array().unwrap().contains(&"process_crash".into()), "{killed}");
    let full = &scenarios[4];
    let noticed = full["noticed"].as_array().unwrap();
    assert!(full["verdict"] == "skipped" || noticed.contains(&"storage_unavailable".into()), "{full}");
    let detection = &scenarios[7]["detection"];
    assert!(detection["damaged"].as_u64().unwrap() >= 9 && detection["clean"].as_u64().unwrap() >= 3, "{detection}");
    assert_eq!((&detection["missed"], &detection["false_alarms"]), (&0.into(), &0.into()), "{detection}");
}

#[test]
fn a_named_store_is_only_read_and_one_at_work_is_refused() {
    let store = Store::new();
    store.run(&["session", "create", "nightly"]).ok();
    let dir = store.dir();
    let chaos = ["chaos", "--scenario", "client-kill", "--seconds", "4", "--json", "--store", dir.to_str().unwrap()];
    let held = store.run(&chaos);
    assert_eq!(held.code, 1, "{held:?}");
    assert!(held.err.contains("stop") || held.out.contains("stop"), "{held:?}");

    store.run(&["stop"]).ok();
    let before = fs::read(dir.join("records.db")).unwrap();
    let ran = store.run(&chaos).ok().json();
    assert_eq!(ran["verdict"], "held", "{ran}");
    assert_eq!(fs::read(dir.join("records.db")).unwrap(), before);
    let left: Vec<_> = fs::read_dir(dir.parent().unwrap())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("chaos-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let session = store.run(&["session", "ls", "--json"]).ok();
    assert!(session.out.contains("nightly") && !session.out.contains("demo/swarm"), "{session:?}");
}

#[test]
fn a_dry_run_does_nothing() {
    let store = Store::new();
    let dir = store.dir();
    let plan = store.run(&["chaos", "--dry-run", "--json", "--store", dir.to_str().unwrap()]).ok().json();
    assert_eq!(plan["scenarios"].as_array().unwrap().len(), 8);
    assert!(!dir.exists());
}
