//! The process that holds the store: the real engine on the simulated disk, on a runtime whose time is the world's.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use swarmkeep::{
    Actor, BlobId, Epoch, Error, ErrorKind, FeedItem, From, Head, NewSession, Reply, Seq, SessionId, SessionName,
    Settings, State, Swarmkeep, Turn, Workers,
    disk::simulated::SimDisk,
    embedded::{EmbeddedLog, Pace},
};
use swarmkeep_core::{
    clock::{Clock, Entropy},
    log::{Log, LogError, Remove},
    testing::Draw,
};
use swarmkeep_mcp::{
    calls::{Limits, Queue},
    class::Trust,
    link::Timing,
    record::Record,
    transport::{Bounds, Opener, Recipe, Site},
    upstream::{self, Handles, Remembered, Terms},
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use crate::{client::Ask, invariant::Evidence, weather::Weather};

/// The session of a tool server's client, and what that calls itself.
const TOOLS: &str = "sim/tools";
const TOOLS_CLIENT: &str = "one";
/// Where the store lies on the disk.
pub const STORE: &str = "/store";
/// The wall clock when a world begins.
pub const BEGAN_MS: u64 = 1_767_225_600_000;
/// Rounds of the runtime for what became ready at the moment up to which it runs.
const DUE_NOW: usize = 4;
/// Items of a feed under way to its reader.
const FEED_WINDOW: usize = 8;
/// Turns that a log gets at most for one thing that is asked of it without a runtime.
const TURNS: usize = 1_000;

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

impl Seeded {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, drawn: AtomicU64::new(0) })
    }
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
    /// A blob.
    Content(Bytes),
    /// A sign of life was taken.
    Beaten,
    /// It was not done, or nobody knows.
    Failed(Error),
    /// A look at everything.
    Shown(Result<Vec<Evidence>, Error>),
    /// What `verify` finds wrong.
    Verified(Result<Vec<String>, Error>),
    /// It is parked.
    Closed(Result<(), Error>),
    /// Old records are removed.
    Trimmed(Result<(), String>),
}

/// The name of a session.
#[must_use]
pub fn name(session: usize) -> String {
    format!("sim/s{session}")
}

/// Its id.
///
/// # Panics
/// Never: these are names.
#[must_use]
pub fn id(session: usize) -> SessionId {
    name(session).parse::<SessionName>().expect("a name").id()
}

/// What is asked for of a session when everything is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which.
    pub session: usize,
    /// The records after this seq.
    pub after: u64,
    /// Blobs.
    pub blobs: Vec<BlobId>,
}

/// A program, as it was set up: another one may open the store next.
#[derive(Debug, Clone)]
pub struct Program {
    settings: Settings,
    segment_bytes: u64,
    retire_bytes: usize,
}

impl Program {
    /// The first of a world.
    #[must_use]
    pub fn of(weather: &Weather) -> Self {
        let mut settings = Settings { readers: 4, ..Settings::default() };
        settings.journal_keep = if weather.kept { 1 << 20 } else { 0 };
        if weather.fat {
            settings.resident_bytes = 1 << 20;
            settings.unapplied_bytes = 4 << 20;
        }
        // What comes in one frame fits into a segment.
        let segment_bytes = if weather.fat || weather.blobs { 1 << 20 } else { weather.segment_bytes };
        Self { settings, segment_bytes, retire_bytes: weather.retire_bytes }
    }

    /// Another one, as after an upgrade.
    #[must_use]
    pub fn another(&self, draw: &mut Draw) -> Self {
        let mut other = self.clone();
        other.segment_bytes <<= draw.below(2);
        other.retire_bytes = [16 * 1024, 64 * 1024, 256 * 1024][draw.below(3)];
        other.settings.readers = 4 + draw.below(4);
        other.settings.pack_after_ms = [100, 500, 5_000][draw.below(3)];
        other.settings.journal_keep = [0, 1 << 20, 1 << 22][draw.below(3)];
        other
    }

    fn pace(&self) -> Pace {
        let mut pace = Pace::of(&self.settings);
        pace.workers = Workers::Caller;
        pace.journal.segment_bytes = self.segment_bytes;
        pace.retire_bytes = self.retire_bytes;
        pace
    }

    fn open(&self, disk: &SimDisk, clock: &Arc<SimClock>, entropy: Arc<Seeded>) -> Result<EmbeddedLog, Error> {
        let (ground, path) = (Arc::new(disk.clone()), Path::new(STORE));
        EmbeddedLog::open_held(ground, path, &self.settings, self.pace(), clock.clone(), entropy)
    }

    /// Opens the store and removes sessions, as a tool would, and ends.
    ///
    /// # Errors
    /// What the store says: each may be removed, or not.
    pub fn remove(&self, disk: &SimDisk, clock: &Arc<SimClock>, seed: u64, sessions: &[usize]) -> Result<(), Error> {
        let log = self.open(disk, clock, Seeded::new(seed))?;
        for session in sessions {
            let mut removal = log.remove(id(*session), Epoch(log.incarnation()), Remove::All);
            by_hand(&log, removal.as_mut())?;
        }
        log.close()
    }
}

/// Carries something out of which a log without threads does its part here.
fn by_hand<T>(
    log: &EmbeddedLog,
    mut work: Pin<&mut (dyn Future<Output = Result<T, LogError>> + Send + '_)>,
) -> Result<T, Error> {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..TURNS {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return done.map_err(said_by_log);
        }
        for turn in [Turn::Take, Turn::Write, Turn::Apply] {
            log.turn(turn);
        }
    }
    Err(Error::new(ErrorKind::Unknown, "it does not come to an end"))
}

fn said_by_log(error: LogError) -> Error {
    let kind = match &error {
        LogError::Corrupt(_) => ErrorKind::Corrupt,
        LogError::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Unknown,
    };
    Error::new(kind, error.to_string())
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
        program: &Program,
        clock: &Arc<SimClock>,
        seed: u64,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let (settings, entropy) = (program.settings.clone(), Seeded::new(seed));
        let log = Arc::new(program.open(disk, clock, entropy.clone())?);
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
        let keep = self.keep.clone();
        self.answered(call, async move {
            match carry_out(&keep, ask).await {
                Ok(answer) => answer,
                Err(error) => Answer::Failed(error),
            }
        });
    }

    /// Asks for everything that there is.
    pub fn show(&self, call: u64, wanted: Vec<Wanted>) {
        let (keep, log) = (self.keep.clone(), self.log.clone());
        self.answered(call, async move {
            let mut all = Vec::new();
            for wanted in wanted {
                match evidence(&keep, &log, wanted).await {
                    Ok(evidence) => all.push(evidence),
                    Err(error) => return Answer::Shown(Err(error)),
                }
            }
            Answer::Shown(Ok(all))
        });
    }

    /// Asks for the removal of a session's records up to a seq, below a checkpoint that is saved for it.
    pub fn trim(&self, call: u64, session: usize, through: u64) {
        let (keep, log) = (self.keep.clone(), self.log.clone());
        self.answered(call, async move {
            let trim = async {
                let session = keep.get_session(&name(session)).await?.ok_or_else(|| said_by_log(LogError::NotFound))?;
                session.checkpoint().await?;
                let what = Remove::RecordsThrough(Seq(through));
                log.remove(session.id(), Epoch(log.incarnation()), what).await.map_err(said_by_log)
            };
            Answer::Trimmed(trim.await.map_err(|error: Error| error.to_string()))
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

    /// A client of a tool server comes to the proxy of this process. `greeting`: what it began with, if that was answered;
    /// `waited`: for how long what it offers again has waited, by number.
    #[must_use]
    pub fn proxy(
        &self,
        opener: Opener,
        greeting: Option<Bytes>,
        waited: BTreeMap<u64, u64>,
        seed: u64,
    ) -> oneshot::Receiver<Handles> {
        let (sender, handles) = oneshot::channel();
        let keep = self.keep.clone();
        self.runtime.spawn(async move {
            let session = keep.open_session(TOOLS).await?;
            let state = session.state().await?;
            let mut trust = Trust::default();
            trust.say(&["look".to_owned()], &[]);
            let queue = Queue { tools: vec!["order".to_owned()], for_ms: 20_000, ..Queue::default() };
            let recipe = Recipe::Http(Site { url: "http://peer/".to_owned(), headers: BTreeMap::new() });
            let terms = Terms {
                upstream: "peer".to_owned(),
                remembered: Remembered::of(&state, TOOLS_CLIENT, "peer", &recipe),
                recipe,
                trust,
                timing: Timing::default(),
                limits: Limits { queue, ..Limits::default() },
                bounds: Bounds::default(),
                client: TOOLS_CLIENT.to_owned(),
                initialize: greeting,
                offered: waited.keys().next_back().copied().unwrap_or_default(),
                waited_ms: waited,
                began_at_ms: 0,
                is_lasting: true,
                closing: None,
            };
            let record = Record::new(keep, session, Actor::new("mcp:sim")?, "peer".to_owned());
            let _ = sender.send(upstream::start_over(opener, terms, record, seed));
            Ok::<(), Error>(())
        });
        handles
    }

    /// A reader connects.
    #[must_use]
    pub fn subscribe(&self, session: usize, from: From) -> Subscription {
        let (sender, items) = mpsc::channel(FEED_WINDOW);
        let keep = self.keep.clone();
        self.runtime.spawn(async move {
            let session = keep.open_session(&name(session)).await?;
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

async fn carry_out(keep: &Swarmkeep, ask: Ask) -> Result<Answer, Error> {
    match ask {
        Ask::Submit { session, what } | Ask::Again { session, what, .. } => {
            let session = keep.open_session(&name(session)).await?;
            let mut request = swarmkeep::Request::all(what.actor, what.commands).id(what.request);
            request.blobs = what.blobs;
            Ok(Answer::Done(session.submit(request).await?))
        }
        Ask::Look { session } => {
            let session = keep.open_session(&name(session)).await?;
            Ok(Answer::State(Box::new(session.state().await?)))
        }
        Ask::Rewind { session, to, request, actor } => {
            let session = keep.open_session(&name(session)).await?;
            Ok(Answer::Done(session.rewind(Seq(to), None, Some(request), actor).await?))
        }
        Ask::Fork { session, at, to, request, actor } => {
            let session = keep.open_session(&name(session)).await?;
            let new = NewSession { request: Some(request), ..NewSession::new(name(to).parse()?) };
            let fork = session.fork(at.map(Seq), new, None, &actor).await?;
            Ok(Answer::State(Box::new(fork.state().await?)))
        }
        Ask::Fetch { session, blob } => {
            let session = keep.open_session(&name(session)).await?;
            Ok(Answer::Content(session.blob(blob).await?))
        }
        Ask::Beat { session, task, lease } => {
            let session = keep.open_session(&name(session)).await?;
            session.heartbeat_task(&task, lease).await?;
            Ok(Answer::Beaten)
        }
    }
}

async fn evidence(keep: &Swarmkeep, log: &EmbeddedLog, wanted: Wanted) -> Result<Evidence, Error> {
    let Wanted { session: nth, after, blobs: asked } = wanted;
    let nothing = Evidence {
        session: nth,
        head: Head::default(),
        canonical: Bytes::new(),
        after,
        records: Bytes::new(),
        saved: None,
        blobs: Vec::new(),
    };
    let Some(session) = keep.get_session(&name(nth)).await? else { return Ok(nothing) };
    let (head, canonical) = session.canonical().await?;
    let records = match head.seq.0 > after {
        true => log.read(session.id(), Seq(after), usize::MAX).await.map_err(said_by_log)?,
        false => Bytes::new(),
    };
    let saved = log
        .load(session.id(), head.seq)
        .await
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("the newest checkpoint cannot be loaded: {error}")))?;
    let mut blobs = Vec::new();
    for blob in asked {
        blobs.push((blob, session.blob(blob).await));
    }
    Ok(Evidence { head, canonical, records, saved, blobs, ..nothing })
}
