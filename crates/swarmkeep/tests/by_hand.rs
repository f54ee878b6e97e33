//! A store without threads: nothing happens but in its turns.
#![cfg(feature = "simulated")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::{
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use swarmkeep::{
    From, Settings, Swarmkeep, Turn, Workers,
    disk::simulated::{Loss, SimDisk},
    embedded::{EmbeddedLog, Pace},
};
use swarmkeep_core::{
    Actor, Epoch, SessionName,
    clock::{Clock, Entropy},
    log::{Durability, Group, Log},
    session::{self, Circumstances, NewSession},
};

#[derive(Default)]
struct Fixed(AtomicU64);

impl Clock for Fixed {
    fn now_ms(&self) -> u64 {
        1
    }

    fn monotonic_ms(&self) -> u64 {
        1
    }
}

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        let drawn = self.0.fetch_add(1, Ordering::Relaxed);
        blake3::Hasher::new().update(&drawn.to_le_bytes()).finalize_xof().fill(bytes);
    }
}

fn open(disk: &SimDisk) -> EmbeddedLog {
    let settings = Settings::default();
    let mut pace = Pace::of(&settings);
    pace.workers = Workers::Caller;
    pace.journal.segment_bytes = 64 * 1024;
    let fixed = Arc::new(Fixed::default());
    EmbeddedLog::open_at_pace(Arc::new(disk.clone()), Path::new("/store"), &settings, pace, fixed.clone(), fixed)
        .unwrap()
}

fn group(log: &EmbeddedLog, name: &str) -> Group {
    let new = NewSession::new(SessionName::new("test", name).unwrap());
    let epoch = Epoch(log.incarnation());
    let circumstances = Circumstances { epoch, now_ms: 1, salts: &mut || [1; 16] };
    session::create(new, &Actor::system(), circumstances).unwrap().1.log
}

fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_append_is_told_when_its_turn_was_written_and_not_before() {
    let disk = SimDisk::new();
    let log = open(&disk);
    let mut first = log.append(group(&log, "first"), Durability::Durable);
    assert!(!log.turn(Turn::Write), "nothing was taken yet");
    assert!(log.turn(Turn::Take));
    let mut second = log.append(group(&log, "second"), Durability::Durable);
    let changes = disk.changes();
    assert!(poll(&mut first).is_pending() && !log.turn(Turn::Take), "a frame is taken already");
    assert!(log.turn(Turn::Write));
    assert!(disk.changes() > changes);
    assert!(matches!(poll(&mut first), Poll::Ready(Ok(_))) && poll(&mut second).is_pending());
    assert!(log.turn(Turn::Take) && log.turn(Turn::Write) && !log.turn(Turn::Take));
    assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))));
    assert_eq!((log.turn(Turn::Seal), log.turn(Turn::Seal)), (true, false));
}

#[test]
fn the_databases_move_in_their_turns_and_a_close_leaves_nothing_undone() {
    let disk = SimDisk::new();
    let log = open(&disk);
    let taken = log.append(group(&log, "taken"), Durability::Durable);
    log.turn(Turn::Take);
    let queued = log.append(group(&log, "queued"), Durability::Durable);
    log.turn(Turn::Write);
    assert!(log.standing().unapplied_bytes > 0);
    log.turn(Turn::Apply);
    log.turn(Turn::Retire);
    log.turn(Turn::Keep);
    assert_eq!((log.standing().unapplied_bytes, log.stored_sessions().unwrap().len()), (0, 1));
    log.close().unwrap();
    let lost = disk.crash(Loss::Nothing, 1);
    for mut told in [taken, queued] {
        assert!(matches!(poll(&mut told), Poll::Ready(Ok(_))));
    }
    drop(log);
    let again = open(&lost);
    again.turn(Turn::Apply);
    assert_eq!(again.stored_sessions().unwrap().len(), 2);
}

/// Does everything that is to be done until `work` is.
async fn driven<T>(log: &EmbeddedLog, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        if let Poll::Ready(done) = poll(&mut work) {
            return done;
        }
        while log.turn(Turn::Take) && log.turn(Turn::Write) {}
        log.turn(Turn::Apply);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn whoever_is_told_of_a_record_finds_it_in_the_state() {
    let log = Arc::new(open(&SimDisk::new()));
    let fixed = Arc::new(Fixed::default());
    let keep = Box::pin(Swarmkeep::over_embedded(log.clone(), Settings::default(), fixed.clone(), fixed));
    let keep = driven(&log, keep).await.unwrap();
    let new = NewSession::new(SessionName::new("test", "told").unwrap());
    let session = driven(&log, Box::pin(keep.create_session(new, &Actor::system()))).await.unwrap();
    let mut feed = driven(&log, Box::pin(session.subscribe(From::Now))).await.unwrap();
    let mut one = Box::pin(session.set_memory("one", 1));
    let mut two = Box::pin(session.set_memory("two", 2));
    assert!(poll(&mut one).is_pending() && poll(&mut two).is_pending());
    // Both are durable, and the first is published: nobody else was asked meanwhile.
    while log.turn(Turn::Take) && log.turn(Turn::Write) {}
    assert!(matches!(poll(&mut one), Poll::Ready(Ok(_))));
    let mut told = 0;
    loop {
        let next = poll(&mut Box::pin(feed.next()));
        let Poll::Ready(item) = next else { break };
        told = item.unwrap().record.seq.0;
        let Poll::Ready(state) = poll(&mut Box::pin(session.state())) else { panic!("it is in RAM") };
        assert!(state.unwrap().head.seq.0 >= told, "told of seq {told}");
    }
    assert!(told > 0);
    driven(&log, &mut two).await.unwrap();
    assert_eq!(driven(&log, Box::pin(feed.next())).await.unwrap().record.seq.0, told + 1);
}
