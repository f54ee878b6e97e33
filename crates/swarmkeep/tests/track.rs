//! Alerts of how well a store comes back: each fires by what really happens to a store, and ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    fs,
    io::Write,
    path::Path,
    process::Command as Process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use swarmkeep::{ErrorKind, Json, OsEntropy, Session, Settings, Swarmkeep, SystemClock, WINDOW_MS};
use swarmkeep_core::{clock::Clock, health::AlertType};

/// The machine's clocks, ahead by what a test says. The monotonic one jumps once, between the first look at it and the
/// second: the machine took that long for what lies between.
#[derive(Default)]
struct Ahead {
    real: SystemClock,
    wall_ms: AtomicU64,
    monotonic_ms: AtomicU64,
    looks: AtomicU64,
    stall_ms: AtomicU64,
}

impl Ahead {
    fn stall(&self, ms: u64) {
        self.looks.store(0, Ordering::SeqCst);
        self.stall_ms.store(ms, Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn now_ms(&self) -> u64 {
        self.real.now_ms() + self.wall_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        if self.looks.fetch_add(1, Ordering::SeqCst) == 1 {
            self.monotonic_ms.fetch_add(self.stall_ms.swap(0, Ordering::SeqCst), Ordering::SeqCst);
        }
        self.real.monotonic_ms() + self.monotonic_ms.load(Ordering::SeqCst)
    }
}

async fn open(folder: &Path, clock: &Arc<Ahead>) -> Swarmkeep {
    let settings = || Settings { segment_bytes: 1 << 20, ..Settings::default() };
    loop {
        let opened = Swarmkeep::open_folder(folder, settings(), clock.clone(), Arc::new(OsEntropy)).await;
        match opened {
            // Unlike a process that died, a store that was dropped may be held a moment longer by a task that looks at it.
            Err(error) if error.to_string().contains("is held by") => tokio::task::yield_now().await,
            opened => {
                let keep = opened.unwrap();
                keep.wait_ready().await;
                return keep;
            }
        }
    }
}

fn alerts(keep: &Swarmkeep) -> Vec<AlertType> {
    keep.track_record().unwrap().alerts.iter().map(|alert| alert.kind).collect()
}

async fn write(session: &Session, number: u64) -> Result<(), ErrorKind> {
    let value = Json::parse(&format!("\"{number}{}\"", "x".repeat(60_000))).unwrap();
    session.set_memory("key", &value).await.map(|_| ()).map_err(|error| error.kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_return_is_an_alert_until_fast_ones_outweigh_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Ahead::default());
    let keep = open(folder.path(), &clock).await;
    drop(keep.open_session("s").await.unwrap());
    assert_eq!(alerts(&keep), []);
    drop(keep);
    clock.stall(40_000);
    let mut keep = open(folder.path(), &clock).await;
    let slow = keep.track_record().unwrap();
    assert_eq!(alerts(&keep), [AlertType::RecoveryTimeHigh], "{slow:?}");
    assert_eq!((slow.metrics.recoveries, slow.window_ms), (1, WINDOW_MS));
    assert!(slow.metrics.recovery_time_p99_ms >= 40_000, "{slow:?}");
    drop(keep);
    keep = open(folder.path(), &clock).await;
    assert_eq!(keep.track_record().unwrap().metrics.recoveries, 2);
    assert_eq!(alerts(&keep), [], "{:?}", keep.track_record());
    // A day later nothing of it is in the figures.
    clock.wall_ms.fetch_add(WINDOW_MS + 1, Ordering::SeqCst);
    assert_eq!(keep.track_record().unwrap().metrics.recoveries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_room_is_an_alert_until_a_day_has_passed() {
    let mounted = tempfile::tempdir().unwrap();
    let mount = Process::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(mounted.path()).status();
    if !mount.is_ok_and(|status| status.success()) {
        println!("skipped: a tmpfs cannot be mounted, which takes root");
        return;
    }
    let clock = Arc::new(Ahead::default());
    let keep = open(&mounted.path().join("store"), &clock).await;
    let session = keep.open_session("s").await.unwrap();
    let ballast = mounted.path().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4_096]).is_ok() {}
    drop(file);
    let refused = async {
        let mut number = 0;
        while write(&session, number).await.is_ok() {
            number += 1;
        }
    };
    refused.await;
    assert_eq!(alerts(&keep), [], "a moment without room is none");
    clock.wall_ms.fetch_add(90_000, Ordering::SeqCst);
    assert_eq!(alerts(&keep), [AlertType::AvailabilityLow]);
    fs::remove_file(&ballast).unwrap();
    let mut number = 1_000;
    while write(&session, number).await.is_err() {
        number += 1;
        tokio::task::yield_now().await;
    }
    let track = keep.track_record().unwrap();
    assert_eq!(alerts(&keep), [AlertType::AvailabilityLow], "it was long: {track:?}");
    assert!((track.metrics.recovery_success_percent - 100.0).abs() < 1e-9, "{track:?}");
    clock.wall_ms.fetch_add(WINDOW_MS, Ordering::SeqCst);
    assert_eq!(alerts(&keep), []);
    keep.close().await.unwrap();
    drop((session, keep));
    let _ = Process::new("umount").arg("-l").arg(mounted.path()).status();
}
