//! Calls that are answered with questions until all is known (2026-07-28). Nothing is kept between two rounds: what was
//! said so far travels with the client, sealed, and a state that somebody wrote himself is refused.

use std::{collections::BTreeMap, io};

use rmcp::{
    ErrorData,
    model::{ClientCapabilities, InputRequests, InputRequiredResult, InputResponses},
};
use serde::{Deserialize, Serialize};

use crate::question::Question;

/// What is asked together, each under its name.
pub(crate) type Round = &'static [(&'static str, Question)];

/// The rounds of one tool or prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) rounds: &'static [Round],
    /// Whether the client carries a state. Without one there is but one round.
    pub(crate) has_state: bool,
}

/// What comes after a call.
pub(crate) enum Next {
    Ask(InputRequiredResult),
    /// All that was said, by the names of the questions.
    Known(BTreeMap<String, String>),
}

/// Where a caller stands.
#[derive(Default, Serialize, Deserialize)]
struct State {
    name: String,
    round: usize,
    said: BTreeMap<String, String>,
}

impl Rounds {
    /// Goes on with what a caller of `name` said and carried. A client is asked what it can answer, and nothing else.
    pub(crate) fn next(
        &self,
        seal: &Seal,
        name: &str,
        (responses, carried): (Option<&InputResponses>, Option<&str>),
        capabilities: &ClientCapabilities,
    ) -> Result<Next, ErrorData> {
        let mut state = match carried.filter(|_| self.has_state) {
            Some(carried) => seal.open(carried, name)?,
            None => State { name: name.to_owned(), ..State::default() },
        };
        // Answers without a state belong to no round that was begun.
        let responses = responses.filter(|_| carried.is_some() || !self.has_state);
        let asked = |round: usize| {
            let questions = self.rounds.get(round).copied().unwrap_or_default();
            questions.iter().filter(|(_, question)| question.may_be_asked(capabilities))
        };
        if asked(state.round).next().is_none() {
            return Err(ErrorData::missing_required_client_capability(self.needed(state.round)));
        }
        let said = asked(state.round)
            .map(|(key, question)| Some(((*key).to_owned(), question.said(responses?.get(*key)?)?)))
            .collect::<Option<Vec<_>>>();
        if let Some(said) = said {
            state.said.extend(said);
            state.round += 1;
        }
        if state.round >= self.rounds.len() {
            return Ok(Next::Known(state.said));
        }
        let requests = asked(state.round)
            .map(|(key, question)| Ok(((*key).to_owned(), question.request()?)))
            .collect::<Result<InputRequests, ErrorData>>()?;
        let carried = if self.has_state { Some(seal.close(&state)?) } else { None };
        Ok(Next::Ask(InputRequiredResult::new(Some(requests), carried)))
    }

    /// What a client has to be able to, to be asked the first question of a round.
    fn needed(&self, round: usize) -> ClientCapabilities {
        let first = self.rounds.get(round).and_then(|questions| questions.first());
        first.map(|(_, question)| question.needed()).unwrap_or_default()
    }
}

/// A key that states are sealed with.
pub(crate) struct Seal([u8; blake3::KEY_LEN]);

impl Seal {
    pub(crate) fn new() -> io::Result<Self> {
        let mut key = [0; blake3::KEY_LEN];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        Ok(Self(key))
    }

    fn close(&self, state: &State) -> Result<String, ErrorData> {
        let text = serde_json::to_string(state).map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        Ok(format!("{}.{text}", self.mark(&text).to_hex()))
    }

    fn open(&self, carried: &str, name: &str) -> Result<State, ErrorData> {
        let sealed = carried.split_once('.').and_then(|(mark, text)| {
            let mark = blake3::Hash::from_hex(mark).ok()?;
            // Hashes are compared in constant time.
            (mark == self.mark(text)).then(|| serde_json::from_str::<State>(text).ok())?
        });
        sealed.filter(|state| state.name == name).ok_or_else(|| {
            ErrorData::invalid_params("`requestState` is not one that this server gave out for this call", None)
        })
    }

    fn mark(&self, text: &str) -> blake3::Hash {
        blake3::keyed_hash(&self.0, text.as_bytes())
    }
}
