//! Order, grouping, back-pressure, files.

use std::{process::Command, sync::Arc};

use bytes::Bytes;
use swarmkeep::{
    disk::{RealDisk, simulated::Call},
    journal::{AppendError, AppendRefused, Entry, Journal, Settings},
    lock::{self, Holder, StoreLock},
    planted::Defect,
};
use swarmkeep_core::{
    Epoch, SessionId,
    log::{Blob, Durability, Head, Remove},
};

use super::kit::{Fixed, World, group, mark, marks, settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_frames_and_keep_their_order() {
    let mut world = World::new();
    world.settings = Settings { segment_bytes: 256 * 1024, ..settings() };
    let opened = world.open().unwrap();
    let writer = world.start(opened);
    let (journal, seen) = (Arc::new(writer.journal), writer.seen);
    let tasks: Vec<_> = (0..64u8)
        .map(|session| {
            let (journal, seen) = (Arc::clone(&journal), Arc::clone(&seen));
            tokio::spawn(async move {
                let mut head = Head::default();
                let mut last = 0;
                for step in 0..50 {
                    let group = group(session, head, 1, 100, step);
                    head = group.head;
                    let position =
                        journal.append(Entry::Records(group), 0, Durability::Durable).unwrap().await.unwrap();
                    assert!(position.0 > last);
                    last = position.0;
                    let given = seen.lock().iter().any(|frame| frame.position == position);
                    assert!(given, "the sink has it before the caller is told");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    journal.close();
    let frames = seen.lock().clone();
    assert!(frames.windows(2).all(|pair| pair[0].position < pair[1].position));
    assert_eq!(marks(&frames).len(), 64 * 50);
    let syncs = world.disk.calls_of(Call::Sync);
    assert!(frames.len() < 64 * 50, "{} frames, {syncs} syncs", frames.len());
    let opened = world.open().unwrap();
    assert_eq!(marks(&opened.unapplied), marks(&frames));
}

#[tokio::test]
async fn a_full_queue_says_busy_and_room_comes() {
    let mut world = World::new();
    world.settings = Settings { queue_bytes: 4096, relaxed_delay_ms: 3_600_000, ..settings() };
    let writer = world.start(world.open().unwrap());
    let journal = Arc::new(writer.journal);
    let mut head = Head::default();
    let mut append = |durability| {
        let group = group(1, head, 1, 1000, 1);
        let after = group.head;
        journal.append(Entry::Records(group), 0, durability).inspect(|_| head = after)
    };
    // Relaxed entries wait for company, so these fill the queue.
    let receipts: Vec<_> = std::iter::from_fn(|| append(Durability::Relaxed).ok()).collect();
    assert_eq!(receipts.len(), 3);
    assert!(matches!(append(Durability::Durable), Err(AppendRefused::Busy)));
    let waiting = tokio::spawn({
        let journal = Arc::clone(&journal);
        async move { journal.room(1200).await }
    });
    let tail = group(2, Head::default(), 1, 10, 1);
    journal.append(Entry::Records(tail), 0, Durability::Durable).unwrap().await.unwrap();
    waiting.await.unwrap();
    for receipt in receipts {
        assert_eq!(receipt.await.unwrap().0, 1, "one frame for all four");
    }
    append(Durability::Durable).unwrap().await.unwrap();
}

#[test]
fn relaxed_entries_are_written_without_company_in_the_end() {
    let mut world = World::new();
    world.settings = Settings { relaxed_delay_ms: 1, seal_after_ms: 1, ..settings() };
    let writer = world.start(world.open().unwrap());
    let entry = Entry::Observations { session: SessionId([1; 16]), payload: Bytes::from_static(b"[]") };
    writer.journal.append(entry, 0, Durability::Relaxed).unwrap().wait().unwrap();
}

#[test]
fn every_kind_of_entry_comes_back() {
    let world = World::new();
    let writer = world.start(world.open().unwrap());
    let session = SessionId([3; 16]);
    let mut with_blobs = group(3, Head::default(), 4, 20, 9);
    with_blobs.blobs =
        vec![Blob::new(Bytes::from_static(b"one")), Blob::new(Bytes::new()), Blob::new(Bytes::from(vec![7; 700]))];
    let entries = vec![
        Entry::Records(with_blobs),
        Entry::Observations { session, payload: Bytes::from_static(b"[{\"heartbeat\":1}]") },
        Entry::Remove { session, epoch: Epoch(4), what: Remove::All },
        Entry::Remove { session, epoch: Epoch(4), what: Remove::RecordsThrough(swarmkeep_core::Seq(77)) },
        Entry::Remove { session, epoch: Epoch(5), what: Remove::Checkpoints { keep: 2 } },
    ];
    let receipts: Vec<_> =
        entries.iter().map(|entry| writer.journal.append(entry.clone(), 0, Durability::Durable).unwrap()).collect();
    for receipt in receipts {
        receipt.wait().unwrap();
    }
    drop(writer);
    let opened = world.open().unwrap();
    let back: Vec<_> = opened.unapplied.iter().flat_map(|frame| frame.entries.clone()).collect();
    assert_eq!(format!("{back:?}"), format!("{entries:?}"));
}

#[test]
fn segments_are_reused_and_bounded() {
    let mut world = World::new();
    world.settings = Settings { spares_max: 2, ..settings() };
    let mut writer = world.start(world.open().unwrap());
    for round in 0..200u8 {
        writer.write(round % 5, 1000).unwrap();
        if round % 10 == 9 {
            let last = writer.seen.lock().last().map(|frame| (frame.position, frame.hash)).unwrap();
            writer.journal.retire(last.0, last.1).unwrap();
            assert!(world.disk.files().len() <= 4, "{:?}", world.disk.files());
        }
    }
    assert!(world.disk.files().iter().any(|file| file.to_string_lossy().contains("spare-")));
}

#[test]
fn retired_segments_are_kept_as_a_second_copy_up_to_the_bound() {
    let mut world = World::new();
    world.settings = Settings { keep_bytes: 3 * 16 * 1024, ..settings() };
    let mut writer = world.start(world.open().unwrap());
    for _ in 0..60 {
        writer.write(1, 1500).unwrap();
    }
    let frames = writer.seen.lock().clone();
    world.apply(writer.store, writer.incarnation, &frames);
    let vouch = world.vouch.unwrap();
    writer.journal.retire(vouch.position, vouch.frame_hash).unwrap();
    let segments = world.disk.files().iter().filter(|file| file.to_string_lossy().ends_with(".segment")).count();
    assert_eq!(segments, 4, "three kept, one being written");
    drop(writer);
    let opened = world.open().unwrap();
    assert!(opened.unapplied.is_empty());
}

#[test]
fn a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = |vouch| {
        let fixed = Arc::new(Fixed::default());
        let settings = Settings { segment_bytes: 64 * 1024, seal_after_ms: 1, ..Settings::default() };
        Journal::open(Arc::new(RealDisk), dir.path(), settings, vouch, fixed.clone(), fixed).unwrap()
    };
    let mut wanted = Vec::new();
    let mut head = Head::default();
    for _ in 0..3 {
        let opened = open(None);
        assert_eq!(marks(&opened.unapplied), wanted);
        let journal = opened.start(Box::new(|_| ())).unwrap();
        for size in [10, 3000, 40_000] {
            let entry = Entry::Records(group(1, head, 1, size, 3));
            wanted.push(mark(&entry));
            let Entry::Records(group) = &entry else { unreachable!() };
            head = group.head;
            journal.append(entry, journal.generation(), Durability::Durable).unwrap().wait().unwrap();
        }
    }
}

#[test]
fn a_sink_that_panics_leaves_nobody_waiting() {
    let world = World::new();
    let journal = world.open().unwrap().start(Box::new(|_| panic!("planted"))).unwrap();
    let receipt = journal.append(Entry::Records(group(1, Head::default(), 1, 10, 1)), 0, Durability::Durable).unwrap();
    assert!(receipt.wait().is_err());
    let closed = journal.append(Entry::Records(group(1, Head::default(), 1, 10, 1)), 0, Durability::Durable);
    assert!(matches!(closed, Err(AppendRefused::Closing | AppendRefused::Stale)));
}

#[test]
fn what_is_written_after_a_takeover_is_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let lock = StoreLock::take(folder.path(), &Holder::default()).unwrap();
    let world = World::new();
    let seen = Arc::new(parking_lot::Mutex::new(0));
    let count = Arc::clone(&seen);
    let journal = world.open().unwrap().fenced_by(lock.fence()).start(Box::new(move |_| *count.lock() += 1)).unwrap();
    let append = |session| {
        let entry = Entry::Records(group(session, Head::default(), 1, 10, 1));
        journal.append(entry, journal.generation(), Durability::Durable)
    };
    append(1).unwrap().wait().unwrap();
    assert_eq!(journal.look_at_fence(), None);
    let _next = lock::take_over(folder.path(), 1).unwrap();
    // It may have been in time for the copy: nobody here can tell, and the same request id finds out.
    let in_flight = append(2).unwrap().wait();
    assert!(matches!(in_flight, Err(AppendError::Unknown(_))), "{in_flight:?}");
    assert_eq!(*seen.lock(), 1, "readers are shown nothing of it");
    let refused = append(3).map(drop);
    assert!(matches!(refused, Err(AppendRefused::FencedOut { .. })), "{refused:?}");
    assert_eq!(journal.look_at_fence(), Some(2));
}

#[test]
fn a_holder_that_compares_no_epoch_is_found() {
    let found = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "order::what_is_written_after_a_takeover_is_not_acknowledged"])
        .env(Defect::VARIABLE, format!("{:?}", Defect::EpochNotCompared))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&found.stdout);
    assert!(!found.status.success() && said.contains("Ok(Position"), "{said}");
}
