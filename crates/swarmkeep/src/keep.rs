//! [`Swarmkeep`]: a store that is open.

mod begin;
mod comeback;
mod failures;
mod load;
mod observe;
mod rate;
mod recover;
mod submit;
mod tend;
pub(crate) mod track;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use swarmkeep_core::{
    Actor, EntityId, Error, ErrorKind, Refusal, RefusalCode, Seq, SessionId, SessionName,
    clock::{Clock, Entropy},
    decide::HOLDER,
    log::{Log, LogError, Position, Refused},
    query::{Page, Query},
    session::NewSession,
};

use crate::{
    allocator::Freed,
    clock::{OsEntropy, SystemClock},
    damage,
    embedded::{EmbeddedLog, OneCopy},
    incident::{self, Incident, Incidents},
    level,
    log::Ephemeral,
    recovery::RecoveryReport,
    residency::Residency,
    session::Session,
    settings::Settings,
    watch::Watch,
    workers::Workers,
};

/// A store that is open: the way to its sessions. Cheap to clone; every clone is the same store.
///
/// It needs a Tokio runtime. Dropping it is like a crash: nothing acknowledged is lost. [`Swarmkeep::close`] parks.
#[derive(Clone)]
pub struct Swarmkeep {
    pub(crate) engine: Arc<Engine>,
}

/// How an open store stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Health {
    /// Every session that was live has been looked at after the start, and the store applies what it takes.
    pub ready: bool,
    /// It is being closed.
    pub closing: bool,
    /// Sessions in RAM.
    pub resident_sessions: u64,
    /// About how many bytes they take.
    pub resident_bytes: u64,
    /// How many they may take.
    pub resident_budget_bytes: u64,
    /// Sessions that came into RAM since the start.
    pub sessions_loaded: u64,
    /// Sessions that left RAM since the start.
    pub sessions_dropped: u64,
    /// Leases, effects and ends of life that are waited for.
    pub deadlines: u64,
    /// With a store in a folder: the store.
    pub store: Option<crate::embedded::Standing>,
}

pub(crate) struct Engine {
    pub(crate) log: Arc<dyn Log>,
    /// The same log, where it is the embedded one: for its health, its blobs and its end.
    pub(crate) embedded: Option<Arc<EmbeddedLog>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) salts: Salts,
    pub(crate) settings: Settings,
    pub(crate) residency: Residency,
    pub(crate) watch: Watch,
    /// Names this process among those that carry out effects.
    pub(crate) instance: EntityId,
    pub(crate) generation: AtomicU64,
    pub(crate) recovery: Mutex<Option<RecoveryReport>>,
    pub(crate) freed: Mutex<Freed>,
    /// Which of the repairs since the start a proof has told of, by their numbers.
    pub(crate) told: Mutex<BTreeSet<usize>>,
    pub(crate) incidents: Incidents,
    /// Incidents are being written down.
    pub(crate) keeping: AtomicBool,
    /// Somebody else holds the store now.
    fenced: level::Sender<bool>,
    pub(crate) ready: level::Sender<bool>,
    pub(crate) checkpoints: tokio::sync::mpsc::Sender<SessionId>,
    closing: level::Sender<bool>,
    tending: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

/// Random salts, drawn from the system a few at a time: a system call each would cost more than the record's hash.
pub(crate) struct Salts {
    entropy: Arc<dyn Entropy>,
    pool: Mutex<(usize, [u8; 4096])>,
}

impl Salts {
    fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, pool: Mutex::new((4096, [0; 4096])) }
    }

    pub(crate) fn draw(&self) -> [u8; 16] {
        let mut pool = self.pool.lock();
        if pool.0 + 16 > pool.1.len() {
            self.entropy.fill(&mut pool.1);
            pool.0 = 0;
        }
        let at = pool.0;
        pool.0 += 16;
        pool.1.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default()
    }
}

impl Swarmkeep {
    /// Opens a store with default settings: a folder (made if it is not there), or `ephemeral:` for one that is gone with
    /// the process.
    ///
    /// Coming back from a crash is part of it: the journal's tail is settled before this returns, sessions follow in the
    /// background ([`Swarmkeep::wait_ready`]) while those asked for come first.
    ///
    /// # Errors
    /// `unavailable` when another process holds the store, or it is newer than this program, or its folder cannot be used;
    /// `corrupt` when its files do not belong together. Nothing is changed then.
    pub async fn open(url: impl AsRef<str>) -> Result<Self, Error> {
        Self::open_with(url, Settings::default()).await
    }

    /// [`Swarmkeep::open`], with settings.
    ///
    /// # Errors
    /// As [`Swarmkeep::open`], and `invalid` for settings out of bounds.
    pub async fn open_with(url: impl AsRef<str>, settings: Settings) -> Result<Self, Error> {
        settings.check()?;
        let url = url.as_ref();
        if url == "ephemeral:" {
            return Self::over(
                Arc::new(Ephemeral::new()?),
                settings,
                Arc::new(SystemClock::new()),
                Arc::new(OsEntropy),
            )
            .await;
        }
        if let Some((scheme, _)) = url.split_once("://").filter(|(scheme, _)| *scheme != "file") {
            return Err(Error::new(ErrorKind::Invalid, format!("`{scheme}://` is not a store this program can open"))
                .hint("use a folder, or `ephemeral:`"));
        }
        let folder = PathBuf::from(url.strip_prefix("file://").unwrap_or(url));
        Self::open_folder(&folder, settings, Arc::new(SystemClock::new()), Arc::new(OsEntropy)).await
    }

    /// Opens a folder with a clock and entropy of one's own.
    ///
    /// # Errors
    /// As [`Swarmkeep::open`].
    pub async fn open_folder(
        folder: &Path,
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        settings.check()?;
        let (folder, opening, at) = (folder.to_owned(), settings.clone(), clock.clone());
        let drawing = entropy.clone();
        let embedded =
            tokio::task::spawn_blocking(move || EmbeddedLog::open(&folder, &opening, at, drawing)).await.map_err(
                |error| Error::new(ErrorKind::Unavailable, "opening the store was interrupted").caused_by(error),
            )??;
        let embedded = Arc::new(embedded);
        Self::over_embedded(embedded, settings, clock, entropy).await
    }

    /// A store over a log of one's own.
    ///
    /// # Errors
    /// `invalid` for settings out of bounds.
    pub async fn over(
        log: Arc<dyn Log>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        settings.check()?;
        Self::start(log, None, settings, clock, entropy).await
    }

    /// A store over an embedded log that is open already: one on a disk of one's own
    /// ([`EmbeddedLog::open_on`]).
    ///
    /// # Errors
    /// `invalid` for settings out of bounds.
    pub async fn over_embedded(
        log: Arc<EmbeddedLog>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        settings.check()?;
        Self::start(log.clone(), Some(log), settings, clock, entropy).await
    }

    pub(crate) async fn start(
        log: Arc<dyn Log>,
        embedded: Option<Arc<EmbeddedLog>>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        let salts = Salts::new(entropy);
        let instance = match &embedded {
            Some(embedded) => EntityId::new(format!("{HOLDER}{}", embedded.incarnation()))?,
            None => EntityId::new(format!("{HOLDER}{:032x}", u128::from_le_bytes(salts.draw())))?,
        };
        let report = embedded.as_ref().map(|embedded| embedded.opening_report());
        let incidents = Incidents::new(embedded.as_ref().map_or(0, |embedded| embedded.incarnation()));
        let (checkpoints, due) = tokio::sync::mpsc::channel(4096);
        let engine = Arc::new(Engine {
            log,
            embedded,
            residency: Residency::new(settings.resident_bytes),
            watch: Watch::new(clock.clone()),
            clock,
            salts,
            settings,
            instance,
            generation: AtomicU64::new(0),
            recovery: Mutex::new(report),
            freed: Mutex::default(),
            told: Mutex::default(),
            incidents,
            keeping: AtomicBool::new(false),
            fenced: level::Sender::new(false),
            ready: level::Sender::new(false),
            checkpoints,
            closing: level::Sender::new(false),
            tending: Mutex::default(),
        });
        if let Some(embedded) = &engine.embedded {
            embedded.set_above(Box::new(recover::FromBelow(Arc::downgrade(&engine))));
            match embedded.incidents(incident::LISTED) {
                Ok(stored) => engine.incidents.restore(stored, engine.clock.now_ms()),
                Err(error) => tracing::debug!(%error, "failures of earlier lives are not followed to their end"),
            }
        }
        engine.notice_opening();
        let handles = tend::start(&engine, due);
        engine.tending.lock().extend(handles);
        Ok(Self { engine })
    }

    /// Makes a session.
    ///
    /// # Errors
    /// `already_exists` when there is one of this name, ended ones included; with the request id that made it, that session
    /// is given back instead.
    pub async fn create_session(&self, new: NewSession, actor: &Actor) -> Result<Session, Error> {
        let name = new.name.clone();
        self.engine.create(new, actor).await?;
        Ok(Session::new(self.engine.clone(), name))
    }

    /// Resumes a session exactly where it stood, or makes it. `name` or `namespace/name`.
    ///
    /// # Errors
    /// `invalid` for a name that cannot be one; what the store says.
    pub async fn open_session(&self, name: &str) -> Result<Session, Error> {
        let name: SessionName = name.parse()?;
        if !self.engine.exists(name.id()).await? {
            match self.engine.create(NewSession::new(name.clone()), &Actor::system()).await {
                Ok(()) => {}
                // Somebody else made it just now: that is the one.
                Err(error) if is(&error, RefusalCode::AlreadyExists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Session::new(self.engine.clone(), name))
    }

    /// A session, or none: a typing error never makes one.
    ///
    /// # Errors
    /// `invalid` for a name that cannot be one; what the store says.
    pub async fn get_session(&self, name: &str) -> Result<Option<Session>, Error> {
        self.find_session(name.parse()?).await
    }

    /// [`Swarmkeep::get_session`], by a name that was checked already.
    ///
    /// # Errors
    /// What the store says.
    pub async fn find_session(&self, name: SessionName) -> Result<Option<Session>, Error> {
        let exists = self.engine.exists(name.id()).await?;
        Ok(exists.then(|| Session::new(self.engine.clone(), name)))
    }

    /// The session of this id, or none: for those whose names are not known to whoever asks, because what says them is damaged.
    /// Where nothing at all says its name, it goes by its id.
    ///
    /// # Errors
    /// What the store says.
    pub async fn session_by_id(&self, id: SessionId) -> Result<Option<Session>, Error> {
        if !self.engine.exists(id).await? {
            return Ok(None);
        }
        let name = self.engine.live(id, |live| live.published.info.name.clone()).await.ok().flatten();
        let name = match name {
            Some(name) => name,
            None => SessionName::new(SessionName::DEFAULT_NAMESPACE, &id.to_string())?,
        };
        Ok(Some(Session::of(self.engine.clone(), name, id)))
    }

    /// Rows across sessions. With `not_before` (a reply's position) it waits until the views have come that far.
    ///
    /// # Errors
    /// `invalid` for a filter the table has no column for.
    pub async fn find(&self, query: Query, not_before: Option<Position>) -> Result<Page, Error> {
        self.engine.log.find(query, not_before).await.map_err(|error| match error {
            // The query itself, and not how things stand: asked again it comes to the same.
            LogError::Refused { kind: Refused::Invalid, detail } => Refusal::invalid(detail).into(),
            other => damage::log(other),
        })
    }

    /// What coming back found: present for a store that was opened before.
    #[must_use]
    pub fn last_recovery(&self) -> Option<RecoveryReport> {
        let mut report = self.engine.recovery.lock().clone()?;
        report.repaired = self.engine.embedded.as_ref().map(|embedded| embedded.repairs()).unwrap_or_default();
        Some(report)
    }

    /// Returns once every session that was live has been looked at after the start.
    pub async fn wait_ready(&self) {
        let mut ready = self.engine.ready.subscribe();
        // The sender lives in the engine that `self` holds.
        let _ = ready.wait_for(|ready| ready).await;
    }

    /// Returns once another process holds the store, because it was taken over from this one: nothing is taken any more, and
    /// what is left to do is to close and go. Why, in words.
    pub async fn fenced_out(&self) -> String {
        let mut fenced = self.engine.fenced.subscribe();
        // The sender lives in the engine that `self` holds.
        let _ = fenced.wait_for(|fenced| fenced).await;
        let how = self.engine.embedded.as_ref().and_then(|embedded| embedded.fenced_out());
        how.unwrap_or_else(|| "another process holds the store".into())
    }

    /// Whether every session that was live has been looked at after the start, and the store applies what it takes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let stuck = self.engine.embedded.as_ref().is_some_and(|embedded| embedded.is_stuck());
        self.engine.ready.get() && !stuck
    }

    /// How the store stands now.
    #[must_use]
    pub fn health(&self) -> Health {
        let engine = &self.engine;
        Health {
            ready: self.is_ready(),
            closing: engine.is_closing(),
            resident_sessions: engine.residency.count(),
            resident_bytes: engine.residency.bytes() as u64,
            resident_budget_bytes: engine.settings.resident_bytes,
            sessions_loaded: engine.residency.loaded.load(Ordering::Relaxed) as u64,
            sessions_dropped: engine.residency.dropped.load(Ordering::Relaxed) as u64,
            deadlines: engine.watch.len() as u64,
            store: engine.embedded.as_ref().map(|embedded| embedded.standing()),
        }
    }

    /// Reports of earlier recoveries, newest first.
    ///
    /// # Errors
    /// What the store says.
    pub fn recoveries(&self, most: usize) -> Result<Vec<RecoveryReport>, Error> {
        self.engine.embedded.as_ref().map_or_else(|| Ok(Vec::new()), |embedded| embedded.reports(most))
    }

    /// What stands in records.db alone, and would be lost with it. Reads the journal's segments; blocks. A store that is not
    /// in a folder has nothing to compare: all zeros.
    ///
    /// # Errors
    /// What records.db says.
    pub fn one_copy(&self) -> Result<OneCopy, Error> {
        self.engine
            .embedded
            .as_ref()
            .map_or_else(|| Ok(OneCopy::default()), |embedded| embedded.one_copy().map_err(damage::log))
    }

    /// Failures that were noticed, in this life of the store and in earlier ones, newest first, at most `most` of the
    /// earlier ones. The same failure seen again is one entry, with a count.
    ///
    /// # Errors
    /// What the store says.
    pub fn failures(&self, most: usize) -> Result<Vec<Incident>, Error> {
        self.engine.failures(most)
    }

    /// Says in the store's lock file where this holder can be reached.
    ///
    /// # Errors
    /// `unavailable` when the file cannot be written.
    pub fn say_address(&self, address: &str) -> Result<(), Error> {
        self.engine.embedded.as_ref().map_or(Ok(()), |embedded| {
            embedded
                .say_address(address)
                .map_err(|error| Error::new(ErrorKind::Unavailable, "the lock file cannot be written").caused_by(error))
        })
    }

    /// Parks: what is in flight is finished, the journal sealed, the views caught up, the lock released. Calls that come
    /// later get `unavailable`. Calling it again does nothing.
    ///
    /// # Errors
    /// What the store says when it cannot seal; nothing acknowledged is lost by that.
    pub async fn close(&self) -> Result<(), Error> {
        self.engine.closing.set(true);
        let tending = std::mem::take(&mut *self.engine.tending.lock());
        for task in tending {
            if let Err(error) = task.await {
                tracing::error!(%error, "a background task ended badly");
            }
        }
        match &self.engine.embedded {
            None => Ok(()),
            Some(embedded) => {
                embedded.look_at_file().await;
                embedded.look_into_aside().await;
                self.engine.keep_last_incidents().await;
                embedded.end_recoveries().await;
                let embedded = embedded.clone();
                self.engine
                    .workers()
                    .offload(move || embedded.close())
                    .await
                    .map_err(|error| Error::new(ErrorKind::Unavailable, "closing was interrupted").caused_by(error))?
            }
        }
    }
}

pub(crate) fn is(error: &Error, code: RefusalCode) -> bool {
    error.refusal.as_ref().is_some_and(|refusal| refusal.code == code)
}

impl Engine {
    pub(crate) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }

    /// Resolves when the store begins to close.
    pub(crate) async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        let _ = closing.wait_for(|closing| closing).await;
    }

    /// Who does what would hold up its async threads.
    pub(crate) fn workers(&self) -> Workers {
        self.embedded.as_ref().map_or(Workers::Threads, |embedded| embedded.workers())
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.is_closing() {
            return Err(Error::new(ErrorKind::Unavailable, "the store is closing")
                .hint("repeat after the restart, with the same request id"));
        }
        Ok(())
    }

    pub(crate) async fn read_log(&self, session: SessionId, after: Seq, max_bytes: usize) -> Result<Bytes, Error> {
        self.log.read(session, after, max_bytes).await.map_err(|error| self.said_by_log(error, session))
    }

    /// Whether there is a session of this id.
    async fn exists(self: &Arc<Self>, id: SessionId) -> Result<bool, Error> {
        if self
            .residency
            .get(id)
            .is_some_and(|slot| !matches!(*slot.phase.lock(), crate::slot::Phase::Cold | crate::slot::Phase::Evicted))
        {
            return Ok(true);
        }
        match self.log.head(id).await {
            Ok(head) => Ok(head.is_some()),
            // Damaged, and there: what can be read of it is.
            Err(LogError::Corrupt(_)) => Ok(true),
            Err(error) => Err(damage::log(error)),
        }
    }

    pub(crate) fn no_session(id: SessionId) -> Error {
        Error::from(Refusal::new(
            RefusalCode::NotFound,
            format!("no session of id {id}: `create` makes one, `open` makes or resumes one"),
        ))
    }
}
