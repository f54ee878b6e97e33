//! What all sessions see together: a tool and a prompt that come and go, a resource that is written to; and who is told.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rmcp::{
    RoleServer,
    model::ResourceUpdatedNotificationParam,
    service::{Peer, SubscriptionContext},
    task_manager::TaskManager,
};
use tokio::sync::broadcast::{self, Receiver, error::RecvError};

use crate::rounds::Seal;

/// The resource that can be written to.
pub(crate) const WATCHED: &str = "test://watched-resource";

/// Changes that a listener may be behind; one that is further behind misses the oldest.
const BEHIND: usize = 64;

/// What can change.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Tools,
    Prompts,
    Watched,
}

/// What all sessions share.
pub(crate) struct World {
    /// What states are sealed with while this process lives.
    pub(crate) seal: Seal,
    pub(crate) tasks: TaskManager,
    has_more_tools: AtomicBool,
    has_more_prompts: AtomicBool,
    written: AtomicU64,
    changes: broadcast::Sender<Change>,
}

/// Which resources one session, of a revision that subscribes one by one, wants to hear of.
#[derive(Clone, Default)]
pub(crate) struct Subscribed(Arc<Mutex<BTreeSet<String>>>);

/// Those who will listen in a moment: what changes after they were told that they do, and before they do, is not missed.
#[derive(Default)]
pub(crate) struct Expected(Mutex<VecDeque<Receiver<Change>>>);

impl World {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            seal: Seal::new()?,
            tasks: TaskManager::new(),
            has_more_tools: AtomicBool::new(false),
            has_more_prompts: AtomicBool::new(false),
            written: AtomicU64::new(0),
            changes: broadcast::Sender::new(BEHIND),
        })
    }

    pub(crate) fn make(&self, change: Change) {
        match change {
            Change::Tools => drop(self.has_more_tools.fetch_xor(true, Ordering::SeqCst)),
            Change::Prompts => drop(self.has_more_prompts.fetch_xor(true, Ordering::SeqCst)),
            Change::Watched => drop(self.written.fetch_add(1, Ordering::SeqCst)),
        }
        // Nobody may be listening.
        drop(self.changes.send(change));
    }

    /// Whether the tool that comes and goes is there.
    pub(crate) fn has_more_tools(&self) -> bool {
        self.has_more_tools.load(Ordering::SeqCst)
    }

    /// Whether the prompt that comes and goes is there.
    pub(crate) fn has_more_prompts(&self) -> bool {
        self.has_more_prompts.load(Ordering::SeqCst)
    }

    /// How often [`WATCHED`] was written to.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    pub(crate) fn changes(&self) -> Receiver<Change> {
        self.changes.subscribe()
    }
}

impl Subscribed {
    pub(crate) fn add(&self, uri: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uri);
    }

    pub(crate) fn remove(&self, uri: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uri);
    }

    fn has(&self, uri: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(uri)
    }
}

impl Expected {
    /// One more listens from now on.
    pub(crate) fn expect(&self, world: &World) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(world.changes());
    }

    /// One of them is there.
    pub(crate) fn arrived(&self, world: &World) -> Receiver<Change> {
        let expected = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        expected.unwrap_or_else(|| world.changes())
    }
}

/// Tells a session of an earlier revision, until it is gone.
pub(crate) async fn tell_session(peer: Peer<RoleServer>, mut changes: Receiver<Change>, subscribed: Subscribed) {
    while let Some(change) = next(&mut changes).await {
        let told = match change {
            Change::Tools => peer.notify_tool_list_changed().await,
            Change::Prompts => peer.notify_prompt_list_changed().await,
            Change::Watched if subscribed.has(WATCHED) => {
                peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(WATCHED)).await
            }
            Change::Watched => Ok(()),
        };
        if told.is_err() {
            return;
        }
    }
}

/// Tells one who listens, until it stops listening. What it did not ask for is not told.
pub(crate) async fn tell_listener(listener: &SubscriptionContext, mut changes: Receiver<Change>) {
    let tell = async {
        while let Some(change) = next(&mut changes).await {
            let sink = listener.sink();
            // One that was not asked for is refused here; a closed one is seen below.
            drop(match change {
                Change::Tools => sink.notify_tool_list_changed().await,
                Change::Prompts => sink.notify_prompt_list_changed().await,
                Change::Watched => sink.notify_resource_updated(WATCHED).await,
            });
        }
    };
    tokio::select! {
        () = tell => {}
        () = listener.cancelled() => {}
    }
}

async fn next(changes: &mut Receiver<Change>) -> Option<Change> {
    loop {
        match changes.recv().await {
            Ok(change) => return Some(change),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}
