//! A frame in the middle of the journal is lost, and records.db lacks it: its session is set aside, every other one goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use swarmkeep::{
    Actor, Command, DataLoss, ErrorKind, Json, NewSession, Of, OsEntropy, Query, Request, Seq, SessionStatus, Settings,
    Swarmkeep, SystemClock, embedded::EmbeddedLog,
};

fn record(text: &str) -> Request {
    let payload = Json::encode(text).unwrap();
    Request::of(
        Actor::system(),
        Command::Record { kind: "step".into(), aggregate: None, payload, blobs: std::collections::BTreeMap::new() },
    )
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &target),
            kind if kind.is_file() && !target.to_string_lossy().ends_with("-shm") => {
                std::fs::copy(entry.path(), target).unwrap();
            }
            _ => {}
        }
    }
}

/// Spoils the frame that carries this text; false: no segment has it.
fn spoil(store: &Path, needle: &str) -> bool {
    let segments: Vec<PathBuf> =
        std::fs::read_dir(store.join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in segments {
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return true;
        }
    }
    false
}

/// A store that crashed while records.db lacked the last records of two sessions; one of them is damaged in the journal.
async fn after_a_loss() -> tempfile::TempDir {
    let live = tempfile::tempdir().unwrap();
    let before = tempfile::tempdir().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    let keep = Swarmkeep::open(live.path().to_str().unwrap()).await.unwrap();
    let hurt = keep.open_session("hurt").await.unwrap();
    let well = keep.open_session("well").await.unwrap();
    hurt.submit(record("first")).await.unwrap();
    let applied = well.submit(record("first")).await.unwrap();
    keep.find(Query::of(Of::Sessions), Some(applied.position)).await.unwrap();
    // The databases as they are now, the journal as it is later: what a crash leaves when the last batches were not applied.
    copy(live.path(), before.path());
    for text in ["still-good", "the-lost-one", "after-the-loss", "and-one-more"] {
        hurt.submit(record(text)).await.unwrap();
        well.submit(record("well")).await.unwrap();
    }
    copy(live.path(), crashed.path());
    keep.close().await.unwrap();
    for file in ["records.db", "records.db-wal", "views.db", "views.db-wal"] {
        let _ = std::fs::remove_file(crashed.path().join(file));
        if before.path().join(file).exists() {
            std::fs::copy(before.path().join(file), crashed.path().join(file)).unwrap();
        }
    }
    assert!(spoil(crashed.path(), "the-lost-one"));
    crashed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sessions_loss_stops_nobody_else() {
    let crashed = after_a_loss().await;
    for again in 0..2 {
        let keep = Swarmkeep::open_with(crashed.path().to_str().unwrap(), Settings::default()).await.unwrap();
        let well = keep.get_session("well").await.unwrap().expect("it is whole");
        let reply = well.submit(record("goes on")).await.unwrap();
        assert_eq!(reply.head.seq, Seq(7 + again), "nothing of it is missing");
        let page = keep.find(Query::of(Of::Sessions), Some(reply.position)).await.unwrap();
        assert_eq!(page.rows.len(), 2, "the views go on too");
        let hurt = keep.get_session("hurt").await.unwrap().expect("it is still known");
        let left = hurt.state().await.unwrap();
        assert_eq!((left.head.seq, left.info.status), (Seq(3), SessionStatus::NeedsDecision), "read, and marked");
        let refused = hurt.submit(record("no")).await.unwrap_err();
        assert_eq!((refused.kind, refused.code()), (ErrorKind::Corrupt, "needs_decision"), "never over a gap");
        assert!(refused.hint.unwrap().contains("quarantine show"));
        assert_eq!(hurt.checkpoint().await.unwrap_err().code(), "needs_decision");
        let waiting = keep.decision(hurt.id()).unwrap();
        assert_eq!((waiting.reaches, waiting.plan.known_head, waiting.lost.count()), (Seq(3), Seq(6), 3));
        assert_eq!(
            hurt.records(Seq(0), 1 << 20).await.unwrap().len(),
            3,
            "what comes before the gap is applied and readable"
        );
        assert_eq!(hurt.records(Seq(3), 1 << 20).await.unwrap_err().kind, ErrorKind::Corrupt);
        keep.wait_ready().await;
        let report = keep.last_recovery().unwrap();
        assert_eq!(report.sessions_failed, 1, "{report:?}");
        if again == 0 {
            assert!(report.damage.iter().any(|damage| damage.loss == DataLoss::Certain), "{report:?}");
        }
        keep.close().await.unwrap();
    }
    let quarantine = crashed.path().join("quarantine");
    let kept: Vec<String> = std::fs::read_dir(crashed.path().join("quarantine"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("session-") && name.ends_with(".records"))
        .collect();
    assert_eq!(kept.len(), 2, "the two records after the loss are kept: {kept:?}");

    // What somebody made of these files is no copy, and keeps nobody from deciding.
    std::fs::write(quarantine.join(&kept[0]), vec![7; 2 << 20]).unwrap();
    std::fs::remove_file(quarantine.join(&kept[1])).unwrap();
    std::fs::create_dir(quarantine.join(&kept[1])).unwrap();
    let taken = quarantine.join(format!("given-up-{}", kept[0]));
    std::fs::write(&taken, "an earlier one").unwrap();
    let keep = Swarmkeep::open_with(crashed.path().to_str().unwrap(), Settings::default()).await.unwrap();
    let hurt = keep.get_session("hurt").await.unwrap().unwrap();
    let made = NewSession::new("hurt".parse().unwrap());
    let refused = keep.create_session(made, &Actor::system()).await.err().unwrap();
    assert_eq!(refused.code(), "needs_decision", "{refused}");
    let restored = keep.recover_session(hurt.id()).await.unwrap().unwrap();
    assert!(restored.waits() && restored.lost.count() == 3, "{restored:?}");
    let decided = keep.accept_loss(hurt.id(), &Actor::new("user:ada").unwrap()).await.unwrap().unwrap();
    assert_eq!(decided.reaches, Seq(3), "{decided:?}");
    hurt.submit(record("goes on")).await.unwrap();
    keep.close().await.unwrap();
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "an earlier one", "nothing in quarantine is written over");
}

/// A start is cut off before its report is in the store, by itself or before it had noted the session: the next one tells what
/// was lost all the same, and lets nobody write over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_found_is_told_by_the_next_one_if_it_was_cut_off() {
    for is_noted in [true, false] {
        let crashed = after_a_loss().await;
        let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy));
        let open = || EmbeddedLog::open(crashed.path(), &Settings::default(), clock.clone(), entropy.clone()).unwrap();
        let cut_off = open();
        let found = cut_off.opening_report();
        assert!(found.damage.iter().any(|damage| damage.loss == DataLoss::Certain), "{found:?}");
        drop(cut_off);
        if !is_noted {
            std::fs::remove_dir_all(crashed.path().join("recovery")).unwrap();
        }
        drop(open());
        let keep = Swarmkeep::open(crashed.path().to_str().unwrap()).await.unwrap();
        let refused = hurt_in(&keep).await.submit(record("no")).await.unwrap_err();
        assert_eq!(refused.code(), "needs_decision", "never over a gap");
        keep.wait_ready().await;
        let told = keep.last_recovery().unwrap();
        assert!(found.damage.iter().all(|damage| told.damage.contains(damage)) && !told.clean, "{told:?}");
        keep.close().await.unwrap();
        assert!(!crashed.path().join("unreported.json").exists());

        let keep = Swarmkeep::open(crashed.path().to_str().unwrap()).await.unwrap();
        keep.wait_ready().await;
        let again = keep.last_recovery().unwrap();
        assert!(again.damage.is_empty(), "told once: {again:?}");
        assert_eq!(hurt_in(&keep).await.submit(record("no")).await.unwrap_err().code(), "needs_decision");
        keep.close().await.unwrap();
    }
}

async fn hurt_in(keep: &Swarmkeep) -> swarmkeep::Session {
    keep.get_session("hurt").await.unwrap().unwrap()
}
