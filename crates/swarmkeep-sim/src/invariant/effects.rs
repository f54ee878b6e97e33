//! No effect twice: no attempt is given to two, and what may be done once only is done once.

use std::collections::BTreeMap;

use swarmkeep_core::{
    EntityId, Event, Record, Seq, State,
    state::{EffectClass, EffectOutcome, EffectStatus},
};

use crate::outside::{Key, Outside};

/// After something was done outside.
///
/// # Errors
/// What was done that must not have been.
pub fn done(outside: &Outside, key: &Key, class: EffectClass) -> Result<u64, String> {
    let deeds = outside.deeds(key);
    let Some((last, before)) = deeds.split_last() else { return Ok(0) };
    if before.iter().any(|deed| deed.attempt == last.attempt) {
        return Err(format!("REPEATED: effect {} of session {}: one attempt for two: {deeds:?}", key.1, key.0));
    }
    if matches!(class, EffectClass::AtMostOnce | EffectClass::Ask) && !before.is_empty() {
        return Err(format!("REPEATED: effect {} of session {}, class {class}: {deeds:?}", key.1, key.0));
    }
    Ok(1)
}

/// What is said to have come of an effect came of something that was done.
///
/// # Errors
/// When nothing was done, or something else.
pub fn told(outside: &Outside, key: &Key, outcome: &EffectOutcome) -> Result<u64, String> {
    let deeds = outside.deeds(key);
    match deeds.iter().any(|deed| outcome.value.as_str() == deed.attempt.to_string()) {
        true => Ok(1),
        false => Err(format!("effect {} of session {}: recorded {:?}, done {deeds:?}", key.1, key.0, outcome.value)),
    }
}

/// The effects of a session, as far as it was read.
#[derive(Debug, Default)]
pub struct Attempts {
    begun: BTreeMap<EntityId, u32>,
    finished: BTreeMap<EntityId, Seq>,
}

impl Attempts {
    /// The next record: each attempt is one more than the one before it, and nothing is begun after it was finished, in a
    /// fork nothing that its origin had finished. `begins_with` is the state that it begins with, if it is a fork's first.
    ///
    /// # Errors
    /// Where that is not so.
    pub fn next(&mut self, record: &Record, begins_with: Option<&State>) -> Result<u64, String> {
        for effect in begins_with.iter().flat_map(|state| state.effects.iter()) {
            self.begun.insert(effect.id.clone(), effect.attempt);
            if effect.status == EffectStatus::Finished {
                self.finished.insert(effect.id.clone(), record.seq);
            }
        }
        match record.body.as_ref().map(|body| &body.event) {
            Some(Event::EffectBegun { effect, attempt, .. }) => {
                let before = self.begun.insert(effect.clone(), *attempt).unwrap_or(0);
                if *attempt != before + 1 {
                    return Err(format!("effect {effect}: attempt {attempt} after {before}, at {}", record.seq));
                }
                if self.finished.contains_key(effect) {
                    return Err(format!("effect {effect} was begun after it was finished, at {}", record.seq));
                }
                Ok(1)
            }
            Some(Event::EffectFinished { effect, .. }) => match self.finished.insert(effect.clone(), record.seq) {
                Some(before) => Err(format!("effect {effect} was finished at {before} and at {}", record.seq)),
                None => Ok(1),
            },
            _ => Ok(0),
        }
    }
}
