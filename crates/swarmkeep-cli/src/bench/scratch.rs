//! A folder for measurements, gone when they are over.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use swarmkeep::{Actor, Command, Json, NewSession, Request, Session, SessionName, Settings, Swarmkeep};

use crate::{failure::Failure, place, verb::serve::refused};

/// See the module.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    next: AtomicU64,
}

impl Scratch {
    /// Beside the store, so that it is the same disk.
    pub(crate) fn beside(store: &Path) -> Result<Self, Failure> {
        let dir = store.with_file_name(format!("swarmkeep-bench-{}", std::process::id()));
        place::make_private(&dir)?;
        Ok(Self { dir, next: AtomicU64::new(1) })
    }

    /// A path nobody used before.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A new store, open in this process.
    pub(crate) async fn store(&self, settings: Settings) -> Result<Swarmkeep, Failure> {
        Swarmkeep::open_with(self.path("store").to_string_lossy(), settings).await.map_err(refused)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is named by its process in the folder's name.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Who measures.
pub(crate) fn actor() -> Actor {
    "bench".parse().unwrap_or_else(|_| Actor::system())
}

/// `bench/s-N`.
pub(crate) fn name(number: usize) -> Result<SessionName, Failure> {
    SessionName::new("bench", &format!("s-{number}")).map_err(|refusal| refused(refusal.into()))
}

/// JSON that is written.
pub(crate) fn json(text: &str) -> Result<Json, Failure> {
    Json::parse(text).map_err(|refusal| refused(refusal.into()))
}

/// One append of 200 bytes.
pub(crate) fn append(number: u64) -> Result<Request, Failure> {
    let payload = json(&super::payload(number))?;
    let request = Request::of(
        actor(),
        Command::Record { kind: "bench".into(), aggregate: None, payload, blobs: Default::default() },
    );
    Ok(request)
}

/// Makes sessions, many at once.
pub(crate) async fn sessions(keep: &Swarmkeep, count: usize) -> Result<Vec<Session>, Failure> {
    const AT_ONCE: usize = 256;
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE.min(count) {
        let keep = keep.clone();
        tasks.spawn(async move {
            let mut made = Vec::new();
            for number in (worker..count).step_by(AT_ONCE) {
                made.push(keep.create_session(NewSession::new(name(number)?), &actor()).await.map_err(refused)?);
            }
            Ok::<_, Failure>(made)
        });
    }
    let mut all = Vec::with_capacity(count);
    while let Some(made) = tasks.join_next().await {
        all.extend(made.map_err(broke_off)??);
    }
    Ok(all)
}

/// Gives each session a state of about 2 KiB, many at once.
pub(crate) async fn two_kib_each(all: &[Session]) -> Result<(), Failure> {
    let mut tasks = tokio::task::JoinSet::new();
    for part in all.chunks(all.len().div_ceil(64).max(1)) {
        let part = part.to_vec();
        tasks.spawn(async move {
            let id = |text: &str| text.parse::<swarmkeep::EntityId>().map_err(|refusal| refused(refusal.into()));
            let value = json(&format!("\"{}\"", "x".repeat(1_500)))?;
            for session in part {
                let set = Command::SetMemory {
                    scope: id("shared")?,
                    key: id("k")?,
                    value: value.clone(),
                    if_version: None,
                    ttl_ms: None,
                };
                session.submit(Request::of(actor(), set)).await.map_err(refused)?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(broke_off)??;
    }
    Ok(())
}

/// A task that did not come to its end.
pub(crate) fn broke_off(error: tokio::task::JoinError) -> Failure {
    Failure::refused("broke_off", format!("a measurement broke off: {error}"), "please report it")
}

/// What the system said.
pub(crate) fn system(what: &str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::unavailable(format!("{what}: {error}"), "`swarmkeep doctor` looks at the machine")
}
