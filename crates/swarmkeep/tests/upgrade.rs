//! Stores that earlier releases wrote: each opens, and reads as it was recorded.
//!
//! `fixtures/vN/store/` holds a store's files, each packed with zstd; `fixtures/vN/reading.json` what it read as when it was
//! recorded (`cargo run -p swarmkeep --example record_fixture -- fixtures/vN`). A fixture is never recorded again: it is
//! what users have on their disks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod small_store;

use std::{fs, path::PathBuf, sync::Arc};

use small_store::{Image, NAMES, Reading, blobs, more, open};
use swarmkeep::{Seq, Swarmkeep};

fn fixtures() -> PathBuf {
    PathBuf::from("../../fixtures")
}

fn unpacked(version: &str) -> (Image, Reading) {
    let folder = fixtures().join(version);
    let mut image = Image::default();
    for (path, packed) in Image::take(&folder.join("store")).0 {
        let bytes = zstd::bulk::decompress(&packed, 64 << 20).unwrap();
        image.0.insert(path.with_extension(""), bytes);
    }
    let reading = serde_json::from_slice(&fs::read(folder.join("reading.json")).unwrap()).unwrap();
    (image, reading)
}

async fn reads_as_recorded(keep: &Swarmkeep, expected: &Reading) {
    let reading = Reading::of(keep).await;
    for name in NAMES {
        assert_eq!(reading.records[name], expected.records[name], "{name}: its records");
        for (seq, (found, expected)) in reading.states[name].iter().zip(&expected.states[name]).enumerate() {
            assert_eq!(found, expected, "{name}: its state at seq {}", seq + 1);
        }
    }
    assert_eq!(&reading, expected);
    let session = keep.get_session(NAMES[0]).await.unwrap().unwrap();
    for blob in blobs() {
        assert_eq!(session.blob(blob.id).await.unwrap(), blob.bytes);
    }
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
}

async fn opens_and_goes_on(version: &str) {
    let (image, expected) = unpacked(version);
    let folder = tempfile::tempdir().unwrap();
    image.put(folder.path());
    let keep = Swarmkeep::open(folder.path().to_str().unwrap()).await.unwrap();
    keep.wait_ready().await;
    let report = keep.last_recovery().unwrap();
    assert_eq!((report.damage, report.sessions_failed), (Vec::new(), 0));
    assert!(report.frames_replayed > 0, "part of it was in the journal only");
    reads_as_recorded(&keep, &expected).await;
    keep.close().await.unwrap();
    drop(keep);

    // It can be written, and what was there stays as it was.
    let fixed = Arc::default();
    let keep = open(folder.path(), &fixed).await.unwrap();
    more(&keep, &fixed, 9).await;
    let session = keep.get_session(NAMES[0]).await.unwrap().unwrap();
    let (head, states) = (session.state().await.unwrap().head.seq.0, &expected.states[NAMES[0]]);
    assert_eq!(head, states.len() as u64 + 1);
    assert_eq!(session.state_at(Seq(head - 1)).await.unwrap().hash(), *states.last().unwrap());
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_of_every_release_open_and_go_on() {
    let mut versions = Vec::new();
    for entry in fs::read_dir(fixtures()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with('v') {
            opens_and_goes_on(&name).await;
            versions.push(name);
        }
    }
    assert!(versions.contains(&"v0.1".to_owned()), "{versions:?}");
}
