//! A log that fails in the middle of work: what the engine makes of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use swarmkeep::{
    Actor, Command, ErrorKind, From, Json, OsEntropy, Outcome, Request, RequestId, Seq, Session, Settings, State,
    Swarmkeep, SystemClock,
    embedded::EmbeddedLog,
    log::{Ephemeral, Fault, Faulty},
};
use swarmkeep_core::{command::DEFAULT_SCOPE, log::Log};

const SESSIONS: usize = 4;
const WRITERS: usize = 16;
const REQUESTS: u64 = 30;

/// Numbers that differ and repeat with the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

async fn over(log: Arc<dyn Log>) -> Swarmkeep {
    Swarmkeep::over(log, Settings::default(), Arc::new(SystemClock::new()), Arc::new(OsEntropy)).await.unwrap()
}

fn embedded(folder: &Path) -> Arc<EmbeddedLog> {
    Arc::new(
        EmbeddedLog::open(folder, &Settings::default(), Arc::new(SystemClock::new()), Arc::new(OsEntropy)).unwrap(),
    )
}

fn set(writer: usize, n: u64) -> Command {
    Command::SetMemory {
        scope: DEFAULT_SCOPE.parse().unwrap(),
        key: format!("w{writer}").parse().unwrap(),
        value: Json::encode(&n).unwrap(),
        if_version: None,
        ttl_ms: None,
    }
}

fn note(writer: usize, n: u64) -> Command {
    Command::Record {
        kind: "step".into(),
        aggregate: None,
        payload: Json::encode(&(writer, n)).unwrap(),
        blobs: BTreeMap::new(),
    }
}

/// One writer: every request under its own id, repeated until it is answered, as the errors say.
async fn write(session: Session, writer: usize) -> Vec<(RequestId, Seq)> {
    let mut answered = Vec::new();
    for n in 1..=REQUESTS {
        let id: RequestId = format!("w{writer}:{n}").parse().unwrap();
        let request = Request::all(Actor::new(format!("w{writer}")).unwrap(), vec![note(writer, n), set(writer, n)]);
        let reply = loop {
            match session.submit(request.clone().id(id.clone())).await {
                Ok(reply) => break reply,
                Err(error) => {
                    assert!(
                        matches!(error.kind, ErrorKind::Unknown | ErrorKind::Unavailable | ErrorKind::Retry),
                        "an error that does not say to repeat: {error:?}"
                    );
                    tokio::task::yield_now().await;
                }
            }
        };
        assert_eq!(
            reply.outcomes,
            [Outcome::Done { id: None }, Outcome::Version { version: reply.head.seq.0 }],
            "{reply:?}"
        );
        let state = session.state().await.unwrap();
        assert!(state.head.seq >= reply.head.seq, "an acknowledged write is not seen by a read after it");
        answered.push((id, reply.head.seq));
    }
    answered
}

async fn storm(log: Arc<dyn Log>, seed: u64) {
    let faulty = Arc::new(Faulty::new(log));
    let keep = over(faulty.clone()).await;
    let mut sessions = Vec::new();
    let mut feeds = Vec::new();
    for n in 0..SESSIONS {
        let session = keep.open_session(&format!("s{n}")).await.unwrap();
        let mut feed = session.subscribe(From::Start).await.unwrap();
        let last = 1 + 2 * REQUESTS * (WRITERS / SESSIONS) as u64;
        feeds.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.last() != Some(&last) {
                seen.push(feed.next().await.unwrap().record.seq.0);
            }
            assert_eq!(seen, (1..=last).collect::<Vec<_>>(), "a feed misses nothing and repeats nothing");
        }));
        sessions.push(session);
    }
    let mut dice = Dice(seed);
    faulty.plan((0..WRITERS as u64 * REQUESTS).map(|_| match dice.roll(8) {
        0 => Fault::UnknownLost,
        1 => Fault::UnknownWritten,
        2 => Fault::DiskFull,
        _ => Fault::None,
    }));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(sessions[writer % SESSIONS].clone(), writer))).collect();
    let mut answered: Vec<BTreeMap<RequestId, Seq>> = vec![BTreeMap::new(); SESSIONS];
    for (writer, task) in writers.into_iter().enumerate() {
        answered[writer % SESSIONS].extend(task.await.unwrap());
    }
    for feed in feeds {
        feed.await.unwrap();
    }
    for (session, answered) in sessions.iter().zip(answered) {
        let records = session.records(Seq::ZERO, usize::MAX).await.unwrap();
        let mut fold = State::empty();
        let mut carried_out: BTreeMap<RequestId, Vec<Seq>> = BTreeMap::new();
        for record in &records {
            fold.apply(record).unwrap();
            if let Some(id) = record.body.as_ref().and_then(|body| body.request.clone()) {
                carried_out.entry(id).or_default().push(record.seq);
            }
        }
        assert_eq!(fold.hash(), session.state().await.unwrap().hash(), "the state is the fold");
        assert_eq!(carried_out.len(), answered.len());
        for (id, last) in answered {
            assert_eq!(
                carried_out[&id],
                [Seq(last.0 - 1), last],
                "request {id} is one group, once, as it was answered"
            );
        }
    }
    let report = keep.verify(None, |_| {}).await.unwrap();
    assert_eq!(report.findings, vec![]);
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_carried_out_once_over_a_map() {
    for seed in [0x5EED, 0xC0FFEE] {
        storm(Arc::new(Ephemeral::new().unwrap()), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_carried_out_once_over_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let log = embedded(folder.path());
    storm(log.clone(), 0xFEED).await;
    log.close().unwrap();
}

/// What is left to itself after its first poll.
fn polled_once_and_dropped<T>(future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    matches!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_is_published_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let log = embedded(folder.path());
    let keep = over(log.clone()).await;
    let session = keep.open_session("s").await.unwrap();
    let mut feed = session.subscribe(From::Now).await.unwrap();
    let mut dropped = 0;
    for n in 1..=20 {
        // On a busy machine one may be done before it is looked at.
        dropped += u32::from(polled_once_and_dropped(session.submit(Request::of(Actor::system(), set(0, n)))));
        let item = feed.next().await.unwrap();
        assert_eq!(item.record.seq, Seq(n + 1));
        // The next decision stands on it.
        assert_eq!(session.memory("w0").await.unwrap().unwrap().decode::<u64>().unwrap(), n);
    }
    assert!(dropped > 0, "none was not waited for");
    keep.close().await.unwrap();
    log.close().unwrap();
}

/// A program that ends its runtime in the middle of work: what was acknowledged is there, and nothing goes round in circles.
#[test]
fn a_runtime_that_ends_in_the_middle_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let acknowledged = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for _ in 0..10 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let keep = runtime.block_on(async {
            let keep = Swarmkeep::open(folder.path().to_str().unwrap()).await.unwrap();
            let session = keep.open_session("s").await.unwrap();
            let seen = session.state().await.unwrap().head.seq.0;
            assert!(seen >= acknowledged.load(std::sync::atomic::Ordering::SeqCst));
            for writer in 0..16 {
                let (session, acknowledged) = (session.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    for n in 0.. {
                        let reply = session.submit(Request::of(Actor::system(), set(writer, n))).await.unwrap();
                        acknowledged.fetch_max(reply.head.seq.0, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
            let mut feed = session.subscribe(From::Now).await.unwrap();
            for _ in 0..50 {
                feed.next().await.unwrap();
            }
            keep
        });
        drop(runtime);
        drop(keep);
    }
}

/// A group fails while an earlier one of its session is still on its way: the earlier one's answer is true afterwards, and
/// nobody is told of a conflict who did not ask for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_group_takes_nothing_of_its_neighbours_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = embedded(folder.path());
    let faulty = Arc::new(Faulty::new(log.clone()));
    let keep = over(faulty.clone()).await;
    let session = keep.open_session("s").await.unwrap();
    for round in 1..=60u64 {
        faulty.plan([Fault::None, Fault::DiskFull, Fault::None]);
        let task = |writer: usize| {
            let session = session.clone();
            async move {
                let outcome = session.submit(Request::of(Actor::system(), set(writer, round))).await;
                if outcome.is_ok() {
                    let seen = session.memory(&format!("w{writer}")).await.unwrap().unwrap();
                    assert_eq!(seen.decode::<u64>().unwrap(), round, "acknowledged and not seen");
                }
                outcome.map(drop)
            }
        };
        let (first, second, third) = tokio::join!(task(0), task(1), task(2));
        let outcomes = [first, second, third];
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 1, "{outcomes:?}");
        let refused = outcomes.into_iter().find_map(Result::err).unwrap();
        assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused:?}");
        assert!(refused.to_string().contains("disk_full"), "{refused}");
    }
    keep.close().await.unwrap();
    log.close().unwrap();
}

#[tokio::test]
async fn a_feed_of_a_log_that_lost_what_it_acknowledged_says_so_and_does_not_spin() {
    let log = Arc::new(Faulty::new(Arc::new(Ephemeral::new().unwrap())));
    let keep = over(log.clone()).await;
    let session = keep.open_session("short").await.unwrap();
    let mut feed = session.subscribe(From::Start).await.unwrap();
    assert_eq!(feed.next().await.unwrap().record.seq, Seq(1));
    log.plan([Fault::AcknowledgedLost]);
    session.submit(Request::of(Actor::system(), note(0, 1))).await.unwrap();
    let error = feed.next().await.unwrap_err();
    assert_eq!((error.kind, feed.cursor()), (ErrorKind::Corrupt, Seq(1)), "{error}");
    assert!(error.message.contains("published at seq 2") && error.hint.is_some(), "{error}");
}
