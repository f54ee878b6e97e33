//! What all handlers share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use swarmkeep::{Actor, Session, SessionId, SessionName, Swarmkeep, SystemClock, core::clock::Clock};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use crate::{health::TaskCounts, problem::Problem, settings::ServerSettings};

/// Cheap to clone: one reference count.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

struct Shared {
    keep: Swarmkeep,
    settings: ServerSettings,
    unnamed: Actor,
    started: Instant,
    clock: SystemClock,
    document: Bytes,
    feeds: AtomicUsize,
    sockets: AtomicUsize,
    closing: watch::Sender<bool>,
    stop_asked: watch::Sender<bool>,
    counts: Mutex<Option<(Instant, TaskCounts)>>,
}

impl App {
    pub(crate) fn new(keep: Swarmkeep, settings: ServerSettings, document: Bytes) -> Self {
        Self(Arc::new(Shared {
            keep,
            settings,
            unnamed: "http".parse().unwrap_or_else(|_| Actor::system()),
            started: Instant::now(),
            clock: SystemClock::new(),
            document,
            feeds: AtomicUsize::new(0),
            sockets: AtomicUsize::new(0),
            closing: watch::Sender::new(false),
            stop_asked: watch::Sender::new(false),
            counts: Mutex::new(None),
        }))
    }

    pub(crate) fn keep(&self) -> &Swarmkeep {
        &self.0.keep
    }

    /// Who did it, where the caller does not say.
    pub(crate) fn unnamed(&self) -> &Actor {
        &self.0.unnamed
    }

    /// The OpenAPI document.
    pub(crate) fn document(&self) -> Bytes {
        self.0.document.clone()
    }

    /// What the wall clock says.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// Since the server started.
    pub(crate) fn uptime_s(&self) -> u64 {
        self.0.started.elapsed().as_secs()
    }

    /// The session of this name, or else of this id; there must be one.
    pub(crate) async fn session(&self, name: &str) -> Result<Session, Problem> {
        let name: SessionName = name.parse()?;
        if let Some(session) = self.0.keep.find_session(name.clone()).await? {
            return Ok(session);
        }
        let Some(id) = id_in(&name) else {
            return Err(
                Problem::not_found(format!("there is no session `{name}`")).hint("POST its `/open` route to make it")
            );
        };
        self.0.keep.session_by_id(id).await?.ok_or_else(|| {
            Problem::not_found(format!("there is no session of this name or id: `{}`", name.name()))
                .hint("the routes /v1/sessions and /v1/quarantine list those that there are")
        })
    }

    /// Sessions that are not served as they should be, and why: set aside as damaged, or not come back at the start.
    pub(crate) fn damaged(&self) -> BTreeMap<SessionId, String> {
        let report = self.0.keep.last_recovery();
        let failed =
            report.into_iter().flat_map(|report| report.problems).map(|problem| (problem.session, problem.what));
        let mut damaged: BTreeMap<SessionId, String> = failed.collect();
        // What is set aside now is said by the store itself, and better.
        for aside in self.0.keep.health().store.into_iter().flat_map(|store| store.set_aside) {
            damaged.extend(aside.session.map(|session| (session, aside.what)));
        }
        damaged
    }

    /// The newest count of tasks, counted again when it is older than `age`; one count at a time.
    pub(crate) async fn counts<F>(
        &self,
        age: Duration,
        count: impl FnOnce(Swarmkeep) -> F,
    ) -> Result<TaskCounts, Problem>
    where
        F: Future<Output = Result<TaskCounts, Problem>>,
    {
        let mut last = self.0.counts.lock().await;
        if let Some((at, counts)) = &*last
            && at.elapsed() < age
        {
            return Ok(*counts);
        }
        let counts = count(self.0.keep.clone()).await?;
        *last = Some((Instant::now(), counts));
        Ok(counts)
    }

    /// Ends every feed.
    pub(crate) fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// Resolves when the server closes.
    pub(crate) async fn closing(&self) {
        // The sender lives as long as this value: waiting cannot fail.
        let _ = self.0.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Asks the server to end, as a signal does.
    pub(crate) fn ask_to_stop(&self) {
        self.0.stop_asked.send_replace(true);
    }

    /// Resolves when a request asked for the end.
    pub(crate) async fn stop_asked(&self) {
        // As above.
        let _ = self.0.stop_asked.subscribe().wait_for(|asked| *asked).await;
    }

    /// Counts a feed for as long as the value lives.
    pub(crate) fn count_feed(&self, is_socket: bool) -> Result<FeedCount, Problem> {
        let most = self.0.settings.feeds;
        if self.0.feeds.fetch_add(1, Ordering::Relaxed) >= most {
            self.0.feeds.fetch_sub(1, Ordering::Relaxed);
            return Err(Problem::limit(format!(
                "{most} feeds are open, which is the setting `feeds`: close one first"
            )));
        }
        if is_socket {
            self.0.sockets.fetch_add(1, Ordering::Relaxed);
        }
        Ok(FeedCount { app: self.clone(), is_socket })
    }

    /// Open feeds, and how many of them are WebSockets.
    pub(crate) fn feeds(&self) -> (usize, usize) {
        (self.0.feeds.load(Ordering::Relaxed), self.0.sockets.load(Ordering::Relaxed))
    }
}

/// Marks a request that came through the control socket: whoever may open that is trusted with the daemon itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

/// Marks a request that another surface makes: who did it, where the caller does not say.
#[derive(Debug, Clone)]
pub(crate) struct Via(pub(crate) Actor);

/// An open feed.
pub(crate) struct FeedCount {
    app: App,
    is_socket: bool,
}

impl Drop for FeedCount {
    fn drop(&mut self) {
        self.app.0.feeds.fetch_sub(1, Ordering::Relaxed);
        if self.is_socket {
            self.app.0.sockets.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The id that stands where a name is expected. A name that has the form of an id is taken as a name first.
pub(crate) fn id_in(name: &SessionName) -> Option<SessionId> {
    (name.namespace() == SessionName::DEFAULT_NAMESPACE).then(|| name.name().parse().ok()).flatten()
}
