//! The process that holds the store: the real engine on the simulated disk, on a runtime whose time is the world's.

use std::{
    cell::Cell,
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use swarmkeep::{
    Error, FeedItem, From, Reply, Seq, Settings, State, Swarmkeep, Turn, Workers,
    disk::simulated::SimDisk,
    embedded::{EmbeddedLog, Pace},
};
use swarmkeep_core::{
    Epoch,
    clock::{Clock, Entropy},
    log::Log,
};
use tokio::{runtime::Runtime, sync::mpsc};

use crate::{client::Ask, invariant::Evidence, weather::Weather};

/// Where the store lies on the disk.
pub const STORE: &str = "/store";
/// The wall clock when a world begins.
const BEGAN_MS: u64 = 1_767_225_600_000;
/// Rounds of the runtime for what became ready at the moment up to which it runs.
const DUE_NOW: usize = 4;
/// Items of a feed under way to its reader.
const FEED_WINDOW: usize = 8;

/// The clocks of the world's machine.
#[derive(Debug, Default)]
pub struct SimClock {
    now_ms: AtomicU64,
    skew_ms: AtomicI64,
}

impl SimClock {
    /// The world goes on.
    pub fn set(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The wall clock jumps.
    pub fn jump(&self, by_ms: i64) {
        self.skew_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        (BEGAN_MS + self.now_ms.load(Ordering::Relaxed)).saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }

    fn monotonic_ms(&self) -> u64 {
        1_000 + self.now_ms.load(Ordering::Relaxed)
    }
}

/// Random bytes of one life of a process: from the seed.
#[derive(Debug)]
struct Seeded {
    seed: u64,
    drawn: AtomicU64,
}

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        blake3::Hasher::new().update(&self.seed.to_le_bytes()).update(&drawn.to_le_bytes()).finalize_xof().fill(bytes);
    }
}

/// What a holder says.
#[derive(Debug)]
pub enum Answer {
    /// A request was carried out, now or before.
    Done(Reply),
    /// The state of a session.
    State(Box<State>),
    /// It was not done, or nobody knows.
    Failed(Error),
    /// A look at everything.
    Shown(Result<Vec<Evidence>, Error>),
    /// What `verify` finds wrong.
    Verified(Result<Vec<String>, Error>),
    /// It is parked.
    Closed(Result<(), Error>),
}

/// A subscription, as its reader sees it.
#[derive(Debug)]
pub struct Subscription {
    items: mpsc::Receiver<FeedItem>,
}

impl Subscription {
    /// What has come.
    pub fn take(&mut self) -> Vec<FeedItem> {
        std::iter::from_fn(|| self.items.try_recv().ok()).collect()
    }

    /// Whether the holder has ended it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.items.is_closed() && self.items.is_empty()
    }
}

type Answers = Arc<Mutex<VecDeque<(u64, Answer)>>>;

/// A process that holds the store.
pub struct Holder {
    // Ended first: what it runs must not outlive it.
    runtime: Runtime,
    keep: Swarmkeep,
    log: Arc<EmbeddedLog>,
    disk: SimDisk,
    answers: Answers,
    settings: Settings,
    names: Arc<Vec<String>>,
    /// World time up to which it has run.
    ran_ms: Cell<u64>,
}

impl Holder {
    /// Opens the store.
    ///
    /// # Errors
    /// What the store says.
    pub fn start(
        disk: &SimDisk,
        weather: &Weather,
        clock: &Arc<SimClock>,
        seed: u64,
        now_ms: u64,
        names: &Arc<Vec<String>>,
    ) -> Result<Self, Error> {
        let mut settings = Settings { readers: 4, ..Settings::default() };
        settings.journal_keep = if weather.kept { 1 << 20 } else { 0 };
        if weather.fat {
            settings.resident_bytes = 1 << 20;
            settings.unapplied_bytes = 4 << 20;
        }
        let mut pace = Pace::of(&settings);
        pace.workers = Workers::Caller;
        pace.journal.segment_bytes = if weather.fat { 1 << 20 } else { weather.segment_bytes };
        pace.retire_bytes = weather.retire_bytes;
        let entropy = Arc::new(Seeded { seed, drawn: AtomicU64::new(0) });
        let log = EmbeddedLog::open_at_pace(
            Arc::new(disk.clone()),
            Path::new(STORE),
            &settings,
            pace,
            clock.clone(),
            entropy.clone(),
        )?;
        let log = Arc::new(log);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without threads and sockets");
        let opening = Swarmkeep::over_embedded(log.clone(), settings.clone(), clock.clone(), entropy);
        let keep = runtime.block_on(opening)?;
        Ok(Self {
            runtime,
            keep,
            log,
            disk: disk.clone(),
            answers: Answers::default(),
            settings,
            names: names.clone(),
            ran_ms: Cell::new(now_ms),
        })
    }

    /// Lets it run until this time of the world. Time stood still for it since it last ran.
    pub fn run(&self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.ran_ms.replace(now_ms));
        self.runtime.block_on(async {
            tokio::time::sleep(Duration::from_millis(passed)).await;
            // And what is due now.
            for _ in 0..DUE_NOW {
                tokio::task::yield_now().await;
            }
        });
    }

    /// It was stopped: its time jumps.
    pub fn wake(&self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.ran_ms.replace(now_ms));
        self.runtime.block_on(tokio::time::advance(Duration::from_millis(passed)));
    }

    /// A turn of journal, applier or keeper.
    pub fn turn(&self, turn: Turn) -> bool {
        self.log.turn(turn)
    }

    /// What it has answered since somebody asked last.
    #[must_use]
    pub fn answers(&self) -> Vec<(u64, Answer)> {
        self.answers.lock().unwrap().drain(..).collect()
    }

    /// How the store stands.
    #[must_use]
    pub fn health(&self) -> swarmkeep::Health {
        self.keep.health()
    }

    /// How it is kept.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &EmbeddedLog {
        &self.log
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The grant that it writes under.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.log.incarnation())
    }

    /// Whether every session was looked at since the start.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.keep.is_ready()
    }

    /// A request has arrived.
    pub fn ask(&self, call: u64, ask: Ask) {
        let (keep, names) = (self.keep.clone(), self.names.clone());
        self.answered(call, async move {
            match carry_out(&keep, &names, ask).await {
                Ok(answer) => answer,
                Err(error) => Answer::Failed(error),
            }
        });
    }

    /// Asks for everything that there is.
    pub fn show(&self, call: u64) {
        let (keep, log, names) = (self.keep.clone(), self.log.clone(), self.names.clone());
        self.answered(call, async move {
            let mut all = Vec::new();
            for session in 0..names.len() {
                match evidence(&keep, &log, &names, session).await {
                    Ok(evidence) => all.push(evidence),
                    Err(error) => return Answer::Shown(Err(error)),
                }
            }
            Answer::Shown(Ok(all))
        });
    }

    /// Asks the store to prove itself.
    pub fn verify(&self, call: u64) {
        let keep = self.keep.clone();
        self.answered(call, async move {
            let verified = keep.verify(None, |_| ()).await;
            Answer::Verified(verified.map(|report| {
                let findings = report.findings.iter().map(|finding| format!("{finding:?}"));
                findings.chain(report.behind).collect()
            }))
        });
    }

    fn answered(&self, call: u64, work: impl Future<Output = Answer> + Send + 'static) {
        let answers = self.answers.clone();
        self.runtime.spawn(async move {
            let answer = work.await;
            answers.lock().unwrap().push_back((call, answer));
        });
    }

    /// A reader connects.
    #[must_use]
    pub fn subscribe(&self, session: usize, from: From) -> Subscription {
        let (sender, items) = mpsc::channel(FEED_WINDOW);
        let (keep, names) = (self.keep.clone(), self.names.clone());
        self.runtime.spawn(async move {
            let session = keep.open_session(&names[session]).await?;
            let mut feed = session.subscribe(from).await?;
            while sender.send(feed.next().await?).await.is_ok() {}
            Ok::<(), Error>(())
        });
        Subscription { items }
    }

    /// Parks the store.
    pub fn close(&self, call: u64) {
        let keep = self.keep.clone();
        self.answered(call, async move { Answer::Closed(keep.close().await) });
    }
}

async fn carry_out(keep: &Swarmkeep, names: &[String], ask: Ask) -> Result<Answer, Error> {
    match ask {
        Ask::Submit { session, request, commands, actor } => {
            let session = keep.open_session(&names[session]).await?;
            let request = swarmkeep::Request::all(actor, commands).id(request);
            Ok(Answer::Done(session.submit(request).await?))
        }
        Ask::Look { session } => {
            let session = keep.open_session(&names[session]).await?;
            Ok(Answer::State(Box::new(session.state().await?)))
        }
    }
}

async fn evidence(keep: &Swarmkeep, log: &EmbeddedLog, names: &[String], nth: usize) -> Result<Evidence, Error> {
    let nothing =
        Evidence { session: nth, head: Default::default(), canonical: Vec::new(), records: Vec::new(), saved: None };
    let Some(session) = keep.get_session(&names[nth]).await? else {
        return Ok(Evidence { canonical: State::default().canonical(), ..nothing });
    };
    let (head, canonical) = session.canonical().await?;
    let mut records = session.records(Seq::ZERO, usize::MAX).await?;
    records.truncate(usize::try_from(head.seq.0).unwrap_or(usize::MAX));
    let saved = log.load(session.id(), head.seq).await.map_err(|error| {
        Error::new(swarmkeep::ErrorKind::Corrupt, format!("the newest checkpoint cannot be loaded: {error}"))
    })?;
    Ok(Evidence { head, canonical: canonical.to_vec(), records, saved, ..nothing })
}
