//! Terms. A store begins in term 1, whose lock file is `lock`; every takeover begins the next one, whose lock file is
//! `lock-N`. **That the lock file of a term exists ends all terms before it, for good**: it is made by a link that fails where
//! the name is taken, and nothing here ever removes it. So there is one holder at most of each term, and one newest term.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::ground::{Ground, Identity};
use crate::planted::{self, Defect};

/// The lock file of a term.
pub(super) fn path(store_dir: &Path, term: u64) -> PathBuf {
    match term {
        0 | 1 => store_dir.join("lock"),
        term => store_dir.join(format!("lock-{term}")),
    }
}

/// The newest term that was begun; 1 where there is no lock file at all.
pub(super) fn newest(ground: &dyn Ground, store_dir: &Path) -> io::Result<u64> {
    let mut term = 1;
    while ground.identity(&path(store_dir, term + 1))?.is_some() {
        term += 1;
    }
    Ok(term)
}

/// What a holder compares between a sync and telling anybody of it: whether its term is over. The default is one that never
/// is, for stores whose keeper sees to it otherwise.
#[derive(Debug, Clone, Default)]
pub struct Fence(Option<Arc<Watched>>);

#[derive(Debug)]
struct Watched {
    ground: Arc<dyn Ground>,
    own: PathBuf,
    identity: Identity,
    next: PathBuf,
    is_passed: AtomicBool,
}

impl Fence {
    pub(super) fn of(ground: &Arc<dyn Ground>, store_dir: &Path, term: u64, identity: Identity) -> Self {
        // The process may go to another folder later.
        let store_dir = &std::path::absolute(store_dir).unwrap_or_else(|_| store_dir.to_owned());
        Self(Some(Arc::new(Watched {
            ground: ground.clone(),
            own: path(store_dir, term),
            identity,
            next: path(store_dir, term + 1),
            is_passed: AtomicBool::new(false),
        })))
    }

    /// Looks: two `stat` calls. False: the term was not over when this was called. Once true, it stays so.
    ///
    /// # Errors
    /// What the system says: it is not known then, and must be taken for true by whoever means to tell somebody.
    pub fn look(&self) -> io::Result<bool> {
        let Some(watched) = self.0.as_ref().filter(|_| !planted::is(Defect::EpochNotCompared)) else {
            return Ok(false);
        };
        if watched.is_passed.load(Ordering::Acquire) {
            return Ok(true);
        }
        // A lock file that was taken away keeps nobody from the store either.
        let ground = &watched.ground;
        let stands =
            ground.identity(&watched.next)?.is_none() && ground.identity(&watched.own)? == Some(watched.identity);
        if !stands {
            watched.is_passed.store(true, Ordering::Release);
        }
        Ok(!stands)
    }

    /// Whether some look found that the term is over.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.0.as_ref().is_some_and(|watched| watched.is_passed.load(Ordering::Acquire))
    }
}
