//! Who does what a store does beside its callers: threads, or one caller, turn by turn.

/// Who works for a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Workers {
    /// Threads of the store's own, and the runtime's for what would hold up its async ones.
    #[default]
    Threads,
    /// Nobody by itself. Journal, applier and keeper work when [`crate::embedded::EmbeddedLog::turn`] is called, and what
    /// would go to another thread is done at once: one thread, on which the same inputs give the same run. For simulators.
    Caller,
}

/// One piece of work of a store whose [`Workers`] are its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The journal takes what was appended for its next frame. What is appended from here on goes into the one after it.
    Take,
    /// The frame that was taken is written and synced, and its callers are told.
    Write,
    /// The journal's last frame is sealed, as it is after [`crate::journal::Settings::seal_after_ms`] without another one.
    Seal,
    /// The applier takes a batch to the databases.
    Apply,
    /// The applier does what it does when nothing came in for a while: write-ahead logs are copied, segments retired.
    Retire,
    /// The keeper makes second copies of retired segments.
    Keep,
}

/// Work that was begun for somebody and never finished.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the work was interrupted: {0}")]
pub(crate) struct Interrupted(String);

impl Workers {
    /// Does what takes long without holding up the async threads.
    pub(crate) async fn offload<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Interrupted> {
        match self {
            // A search for races has no runtime: its threads take their turns anywhere.
            Self::Threads if cfg!(feature = "race") => Ok(work()),
            Self::Threads => tokio::task::spawn_blocking(work).await.map_err(|error| Interrupted(error.to_string())),
            Self::Caller => Ok(work()),
        }
    }

    /// How many may work on one thing at once.
    pub(crate) fn at_once(self, most: usize) -> usize {
        match self {
            Self::Threads => std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(most),
            Self::Caller => 1,
        }
    }
}
