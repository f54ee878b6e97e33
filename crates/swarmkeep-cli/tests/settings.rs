//! Settings: who says what, and what is said about a wrong one.

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

use binary::{Store, ended};
use serde_json::Value;

fn setting(printed: &Value, name: &str) -> (String, String) {
    let all = printed["settings"].as_array().unwrap();
    let found = all.iter().find(|setting| setting["name"] == name).unwrap();
    (found["value"].as_str().unwrap().into(), found["from"].as_str().unwrap().into())
}

#[test]
fn flag_before_environment_before_file() {
    let store = Store::new();
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(store.dir().join("swarmkeep.toml"), "listen = \"127.0.0.1:1001\"\nreaders = 5\nfeeds = 7\n").unwrap();
    let mut command = store.command(&["serve", "--print-settings", "--json", "--listen", "127.0.0.1:1003"]);
    let printed = ended(command.env("SWARMKEEP_LISTEN", "127.0.0.1:1002").env("SWARMKEEP_READERS", "6")).ok().json();
    assert_eq!(setting(&printed, "listen"), ("127.0.0.1:1003".into(), "flag".into()));
    assert_eq!(setting(&printed, "readers"), ("6".into(), "environment, SWARMKEEP_READERS".into()));
    assert_eq!(setting(&printed, "feeds"), ("7".into(), "file".into()));
    assert_eq!(setting(&printed, "connections").1, "default");
}

#[test]
fn wrong_ones_are_named_with_what_is_allowed() {
    let store = Store::new();
    for (args, name, allowed) in [
        (vec!["serve", "--set", "readers=99"], "readers", "4 to 8"),
        (vec!["serve", "--set", "raeders=4"], "`readers`", "resident_bytes"),
        (vec!["serve", "--listen", "everywhere"], "listen", "ADDRESS:PORT"),
        (vec!["serve", "--set", "readers"], "readers", "NAME=VALUE"),
        (vec!["serve", "--config", "/no/such/file.toml"], "/no/such/file.toml", "--config"),
    ] {
        let refused = store.run(&args);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.err.contains(name) && refused.err.contains(allowed), "{refused:?}");
    }
    assert!(!store.dir().exists(), "refused before anything was made");
}

#[test]
fn an_open_address_needs_tls_and_a_token() {
    let store = Store::new();
    let refused = store.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("TLS and a token"), "{refused:?}");
}

#[test]
fn the_store_is_where_it_is_said_to_be() {
    let store = Store::new();
    let place = |command: &mut std::process::Command| ended(command).ok().json()["store"].as_str().unwrap().to_owned();
    let print = ["serve", "--print-settings", "--json"];
    let flag = store.path("flag");
    let mut command = store.command(&print);
    assert_eq!(place(command.arg("--store").arg(&flag)), flag.display().to_string());
    assert_eq!(place(&mut store.command(&print)), store.dir().display().to_string());
    let old = store.path("old");
    let said = ended(store.command(&print).env_remove("SWARMKEEP_HOME").env("PERSISTENT_STATE_DIR", &old)).ok();
    assert_eq!(said.json()["store"], old.display().to_string());
    assert!(said.err.contains("PERSISTENT_STATE_DIR"), "said when it takes effect: {said:?}");
    if cfg!(target_os = "linux") {
        let data = store.path("data");
        let mut command = store.command(&print);
        let place = place(command.env_remove("SWARMKEEP_HOME").env("XDG_DATA_HOME", &data));
        assert_eq!(place, data.join("swarmkeep").display().to_string());
    }
}

#[test]
fn names_of_old_are_explained() {
    let store = Store::new();
    let mut command = store.command(&["serve", "--print-settings", "--json"]);
    let printed = ended(command.env("SYNC_INTERVAL", "5000").env("MAX_LOG_SIZE", "1048576")).ok().json();
    assert_eq!(setting(&printed, "max_log_size").0, "1048576");
    assert!(printed["notes"].to_string().contains("SYNC_INTERVAL=5000"), "{printed}");
}
