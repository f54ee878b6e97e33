//! The world outside the store, where effects happen and cannot be taken back.

use std::collections::BTreeMap;

use swarmkeep_core::{EntityId, state::EffectClass};

/// An effect of a session, by its key.
pub type Key = (usize, EntityId);

/// One time that something was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// By which process.
    pub process: String,
    /// As which attempt.
    pub attempt: u32,
}

/// What was done, by whom.
#[derive(Debug, Default)]
pub struct Outside {
    done: BTreeMap<Key, (EffectClass, Vec<Deed>)>,
}

impl Outside {
    /// It is done now.
    pub fn act(&mut self, key: &Key, class: EffectClass, process: &str, attempt: u32) {
        let (_, deeds) = self.done.entry(key.clone()).or_insert_with(|| (class, Vec::new()));
        deeds.push(Deed { process: process.to_owned(), attempt });
    }

    /// What was done under a key.
    #[must_use]
    pub fn deeds(&self, key: &Key) -> &[Deed] {
        self.done.get(key).map_or(&[], |(_, deeds)| deeds.as_slice())
    }

    /// A session is gone, and nobody asks any more what was done for it.
    pub fn forget(&mut self, session: usize) {
        self.done.retain(|(of, _), _| *of != session);
    }

    /// Everything that was done.
    pub fn all(&self) -> impl Iterator<Item = (&Key, EffectClass, &[Deed])> {
        self.done.iter().map(|(key, (class, deeds))| (key, *class, deeds.as_slice()))
    }
}
