//! Another surface on the same listeners: it asks the API as its callers do, and stands behind the same guard.

use std::{fmt, future::Future, pin::Pin};

use axum::Router;
use swarmkeep::Actor;

/// What makes the other surface's routes.
pub struct Beside {
    /// Who did it, where a caller of that surface does not say.
    pub caller: Actor,
    /// Its routes; they may not be routes of the API, and have no fallback.
    pub mount: Box<dyn FnOnce(Ground) -> Router + Send>,
}

/// What the other surface stands on.
pub struct Ground {
    /// Answers as the HTTP API does, without a guard: who asks has passed it.
    pub api: Router,
    /// Resolves when the server ends: what stays open by itself has to close.
    pub closing: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground").finish_non_exhaustive()
    }
}
