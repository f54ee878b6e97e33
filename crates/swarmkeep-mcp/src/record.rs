//! A call in the session's log: an effect, begun before the first byte is sent and finished after.
//!
//! | the call | the effect |
//! |---|---|
//! | is about to be sent | begun, under a key that is the same when the same call is offered again after a crash |
//! | was answered | finished: `ok` unless the answer is an error or says `isError` |
//! | was not carried out, for certain | finished, not ok, `{"executed":"no","why":…}` |
//! | nobody knows | its outcome is unknown; `effect resolve` settles it, and so does an answer that comes late |
//!
//! A session that is nearly full goes on in another one, of the same name with `.2`, `.3` and so on: a call begins there, and
//! what was begun before is finished where it was begun, in the room that was left for it.
//!
//! What is stored is a copy. It may be cut, and says so; what is forwarded never is.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json, value::RawValue};
use swarmkeep::{
    Actor, Command, EffectOutcome, EntityId, Error, ErrorKind, Json, Outcome, RefusalCode, Reply, Request, Session,
    State, Swarmkeep,
    core::{command::BeginEffect, limits, state::EffectClass},
};

use crate::{calls::Ending, class::Class, envelope::Envelope};

/// Of one text, at most this much is stored.
pub const STORED_BYTES: usize = 8 * 1024;
/// Of a text that is cut, this much is kept.
const KEPT_BYTES: usize = 1024;
/// Sessions of one name that are tried for room.
const SESSIONS: usize = 100;
/// An upstream whose client is gone has written down what its calls came to within this time: it waits for answers, and then for
/// the log.
const STILL_ENDING: Duration = Duration::from_secs(40);
/// Between two looks whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often a write is tried that may or may not have been done.
const TRIES: u32 = 5;

/// Where calls to one server are recorded.
#[derive(Clone)]
pub struct Record {
    keep: Swarmkeep,
    session: Session,
    actor: Actor,
    /// The server's name.
    upstream: String,
}

/// The beginning of a call's effect.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Its key: the same when the same call is offered again.
    pub effect: EntityId,
    /// The call's class.
    pub class: Class,
    /// The call.
    pub call: Envelope,
    /// How long it may take.
    pub deadline_ms: u64,
}

/// The end of a call's effect.
#[derive(Debug, Clone)]
pub struct Finish {
    /// Its key.
    pub effect: EntityId,
    /// The attempt that it is about.
    pub attempt: u32,
    /// What the call came to.
    pub ending: Ending,
}

/// What beginning came to.
#[derive(Debug)]
pub enum Begun {
    /// It may be sent, as this attempt.
    Run(u32),
    /// It was sent before, on behalf of the same call, and answered so.
    Before(EffectOutcome),
    /// It may have been sent before.
    Unknown(String),
}

/// Where there is room for calls.
enum Room {
    /// Here.
    Here,
    /// In a session that goes on from this one.
    Next,
    /// Here for those that were begun here, which belong here.
    ForSome,
}

/// Whether so many more calls may begin in a session.
pub(crate) fn is_roomy(state: &State, calls: usize) -> bool {
    state.weight() <= limits::STATE_BYTES / 4 * 3 && state.effects.len() + calls <= limits::EFFECTS / 10 * 9
}

impl Record {
    /// Calls of `actor` to `upstream`, in this session.
    #[must_use]
    pub fn new(keep: Swarmkeep, session: Session, actor: Actor, upstream: String) -> Self {
        Self { keep, session, actor, upstream }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether both are of one session.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        self.session.id() == other.session.id()
    }

    /// Finishes calls, and begins others after them, durably and as one group: one sync for all. Gives where they were begun;
    /// and `None` where as a group they cannot be, and nothing of the beginnings is written: each is to be [begun](Self::begin)
    /// by itself.
    pub async fn exchange(self, finishes: &[Finish], begins: &[Begin]) -> (Self, Option<Vec<Result<Begun, Error>>>) {
        match self.has_room_for(begins).await {
            Room::Here => {}
            Room::Next => {
                // Found once for all of them: a session that is full may have to be read to see that it is.
                self.finish_each(finishes).await;
                let mut found = self;
                for _ in 0..SESSIONS {
                    let Ok(next) = found.next().await else { break };
                    found = next;
                    if !matches!(found.has_room_for(begins).await, Room::Next) {
                        break;
                    }
                }
                return (found, None);
            }
            Room::ForSome => {
                self.finish_each(finishes).await;
                return (self, None);
            }
        }
        let commands = finishes.iter().map(finished).chain(begins.iter().map(|begin| self.begun(begin)));
        let submitted = self.session.submit(Request::all(self.actor.clone(), commands.collect())).await;
        let begun = match submitted {
            Ok(reply) => Some(reply.outcomes.into_iter().skip(finishes.len()).map(begun_as).collect()),
            Err(error) => {
                self.finish_each(finishes).await;
                if error.refusal.is_some() || error.kind == ErrorKind::Limit {
                    return (self, None);
                }
                let mut all = Vec::new();
                for begin in begins {
                    let error = Error::new(error.kind, error.message.clone());
                    all.push(self.begun_before(&begin.effect, error).await);
                }
                Some(all)
            }
        };
        (self, begun)
    }

    /// Finishes calls of which an answer is large: it is read through on another thread.
    pub async fn finish_large(&self, finishes: Vec<Finish>) {
        let reading = move || finishes.iter().map(finished).collect::<Vec<_>>();
        match tokio::task::spawn_blocking(reading).await {
            Ok(commands) => self.write_each(commands).await,
            Err(error) => {
                tracing::warn!(upstream = %self.upstream, %error, "what calls came to could not be read; they count as unknown");
            }
        }
    }

    async fn finish_each(&self, finishes: &[Finish]) {
        self.write_each(finishes.iter().map(finished).collect()).await;
    }

    /// What cannot be recorded counts as unknown, in time.
    async fn write_each(&self, finishes: Vec<Command>) {
        let each = finishes.into_iter().map(|finish| async move {
            if let Err(error) = self.submit(finish).await {
                tracing::warn!(upstream = %self.upstream, %error, "what a call came to could not be recorded; it counts as unknown");
            }
        });
        join_all(each).await;
    }

    /// Begins the effect of a call, durably: in this session, or in the one that goes on from it. Gives where.
    ///
    /// # Errors
    /// What the session says: then nothing may be sent.
    pub async fn begin(mut self, begin: &Begin) -> (Self, Result<Begun, Error>) {
        for _ in 0..SESSIONS {
            let begun = match self.has_room_for(std::slice::from_ref(begin)).await {
                Room::Here => self.begin_here(begin).await,
                _ => Err(Error::new(ErrorKind::Limit, "the session is nearly full")),
            };
            match begun {
                Err(error) if error.kind == ErrorKind::Limit => match self.next().await {
                    Ok(next) => self = next,
                    Err(error) => return (self, Err(error)),
                },
                Err(error) => {
                    let begun = self.begun_before(&begin.effect, error).await;
                    return (self, begun);
                }
                begun => return (self, begun),
            }
        }
        let error = Error::new(ErrorKind::Limit, "every session of this name is full");
        (self, Err(error))
    }

    /// It cannot be begun now; if it was before, nobody may be told that it was not.
    async fn begun_before(&self, key: &EntityId, error: Error) -> Result<Begun, Error> {
        match self.session.state().await {
            Ok(state) if !state.effects.contains(key) => Err(error),
            _ => Ok(Begun::Unknown(error.message)),
        }
    }

    /// Whether calls may begin here: what is begun has to be finished, and that takes room, too. Of a session that cannot be
    /// read it is found out by beginning.
    async fn has_room_for(&self, begins: &[Begin]) -> Room {
        if begins.is_empty() {
            return Room::Here;
        }
        let Ok(state) = self.session.state().await else { return Room::Here };
        let is_roomy = is_roomy(&state, begins.len());
        let were_begun = begins.iter().filter(|begin| state.effects.contains(&begin.effect)).count();
        match () {
            () if is_roomy || were_begun == begins.len() => Room::Here,
            () if were_begun == 0 => Room::Next,
            () => Room::ForSome,
        }
    }

    /// Where calls go on when this session takes no more.
    async fn next(&self) -> Result<Self, Error> {
        let name = self.session.name();
        let (base, number) = match name.name().rsplit_once('.') {
            Some((base, number)) if number.parse::<u32>().is_ok_and(|number| number > 1) => {
                (base, number.parse::<u32>().unwrap_or(1))
            }
            _ => (name.name(), 1),
        };
        let next = format!("{}/{base}.{}", name.namespace(), number.saturating_add(1));
        tracing::info!(session = %name, %next, "the session takes no more calls; they go on in another one");
        Ok(Self { session: self.keep.open_session(&next).await?, ..self.clone() })
    }

    async fn begin_here(&self, begin: &Begin) -> Result<Begun, Error> {
        match self.begin_after_others(self.begun(begin)).await {
            Ok(outcome) => begun_as(outcome),
            Err(error) if is_in_doubt(&error) => Ok(Begun::Unknown(error.message)),
            Err(error) => Err(error),
        }
    }

    fn begun(&self, begin: &Begin) -> Command {
        let is_once = begin.class == Class::AtMostOnce;
        Command::BeginEffect(BeginEffect {
            effect: begin.effect.clone(),
            class: if is_once { EffectClass::AtMostOnce } else { EffectClass::Idempotent },
            agent: None,
            task: None,
            instance: self.session.instance().clone(),
            request: self.asked_for(&begin.call),
            deadline_ms: Some(begin.deadline_ms),
        })
    }

    /// Begins it when nobody in this process has it under way any more: where a client's connection broke off and came back at
    /// once, its calls are in the hands of the one before, until that one has written down what they came to.
    async fn begin_after_others(&self, begin: Command) -> Result<Outcome, Error> {
        let mut waited = Duration::ZERO;
        loop {
            match self.submit(begin.clone()).await {
                Err(error) if is_under_way(&error) && waited < STILL_ENDING => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    waited += LOOK_AGAIN;
                }
                begun => return begun,
            }
        }
    }

    /// Writes something else about calls: it must come to the same when it is repeated.
    ///
    /// # Errors
    /// What the session says.
    pub async fn write(&self, command: Command) -> Result<(), Error> {
        self.submit(command).await.map(drop)
    }

    /// [`Record::write`], and gives when that was.
    ///
    /// # Errors
    /// What the session says.
    pub async fn write_at(&self, command: Command) -> Result<u64, Error> {
        self.ask(command).await.map(|reply| reply.head.time_ms)
    }

    async fn submit(&self, command: Command) -> Result<Outcome, Error> {
        let reply = self.ask(command).await?;
        Ok(reply.outcomes.into_iter().next().unwrap_or(Outcome::Done { id: None }))
    }

    /// Commands of this module come to the same when they are repeated.
    async fn ask(&self, command: Command) -> Result<Reply, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.session.submit(Request::of(self.actor.clone(), command.clone())).await {
                Ok(reply) => return Ok(reply),
                // A beginning that may have been written must not be written twice: it would find itself under way.
                Err(error)
                    if matches!(error.kind, ErrorKind::Retry | ErrorKind::Unknown)
                        && tries < TRIES
                        && !matches!(command, Command::BeginEffect(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn asked_for(&self, call: &Envelope) -> Json {
        // In this order: a call that is offered again has to be the same, whatever program began it.
        #[derive(serde::Serialize)]
        struct Asked<'a> {
            method: Option<&'a str>,
            name: Option<&'a str>,
            upstream: &'a str,
            arguments: Json,
        }
        let arguments = call.param("arguments").or_else(|| call.params()).unwrap_or("null");
        let (method, name, upstream) = (call.method(), call.name(), self.upstream.as_str());
        Json::encode(&Asked { method, name, upstream, arguments: stored(arguments) }).unwrap_or_default()
    }
}

/// What a call came to, as a command.
fn finished(Finish { effect, attempt, ending }: &Finish) -> Command {
    let (effect, attempt) = (effect.clone(), *attempt);
    match ending {
        Ending::Answered { ok, body } => {
            // A message is UTF-8, and so is a part of it.
            let body = String::from_utf8_lossy(body);
            let outcome = EffectOutcome { ok: *ok && !says_is_error(&body), value: stored(&body) };
            Command::FinishEffect { effect, attempt, outcome }
        }
        Ending::NotExecuted { why } => {
            let value = stored(&json!({ "executed": "no", "why": why }).to_string());
            Command::FinishEffect { effect, attempt, outcome: EffectOutcome { ok: false, value } }
        }
        Ending::Unknown { why } => Command::DoubtEffect { effect, attempt, reason: why.clone() },
    }
}

fn begun_as(outcome: Outcome) -> Result<Begun, Error> {
    match outcome {
        Outcome::Run { attempt } => Ok(Begun::Run(attempt)),
        Outcome::Recorded { outcome } => Ok(Begun::Before(outcome)),
        Outcome::Unknown { reason } => Ok(Begun::Unknown(reason)),
        other => Err(Error::new(ErrorKind::Unknown, format!("the beginning of an effect answered {other:?}"))),
    }
}

fn is_under_way(error: &Error) -> bool {
    error.refusal.as_ref().is_some_and(|refusal| refusal.code == RefusalCode::InProgress)
}

fn is_in_doubt(error: &Error) -> bool {
    error.refusal.as_ref().is_some_and(|refusal| is_of_doubt(refusal.code))
}

/// It is under way, or in doubt, or was begun as something else (as what its tool was then).
fn is_of_doubt(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::OutcomeUnknown | RefusalCode::InProgress | RefusalCode::RequestMismatch)
}

/// Why a call was not carried out, if that is what was recorded of it.
#[must_use]
pub fn not_executed(outcome: &EffectOutcome) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NotExecuted {
        executed: String,
        why: String,
    }
    let note: NotExecuted = outcome.value.decode().ok().filter(|_| !outcome.ok)?;
    (note.executed == "no").then_some(note.why)
}

/// JSON text as it is stored: whole, or its size, its hash and its beginning.
fn stored(text: &str) -> Json {
    let whole = if text.len() <= STORED_BYTES { Json::parse(text).ok() } else { None };
    whole.unwrap_or_else(|| {
        let mut end = KEPT_BYTES.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let cut = json!({
            "cut": {
                "bytes": text.len(),
                "blake3": blake3::hash(text.as_bytes()).to_hex().as_str(),
                "beginning": text.get(..end).unwrap_or_default(),
            }
        });
        Json::encode(&cut).unwrap_or_default()
    })
}

/// What was stored of a body, if it is whole: `None` for one that was cut.
#[must_use]
pub fn whole(value: &Json) -> Option<&str> {
    let is_cut = value.as_str().starts_with(r#"{"cut":{"#);
    (!is_cut).then_some(value.as_str())
}

/// Whether a tool's result says of itself that it is an error.
fn says_is_error(body: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Result<'a> {
        #[serde(rename = "isError", borrow, default)]
        is_error: Option<&'a RawValue>,
    }
    // A body with a key twice, or with half a surrogate pair for a key, does not decode: an answer it is all the same.
    serde_json::from_str::<Result<'_>>(body)
        .ok()
        .and_then(|result| result.is_error.map(|says| says.get() == "true"))
        .unwrap_or(false)
}

/// What the session is to remember of a connection, beside its recipe.
#[must_use]
pub fn connection(id: EntityId, recipe: &Value, state: &Value, status: &str) -> Command {
    Command::SetConnection {
        connection: id,
        recipe: Json::encode(recipe).unwrap_or_default(),
        state: Json::encode(state).unwrap_or_default(),
        status: status.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_call_was_not_carried_out_is_told_from_what_a_tool_says() {
        let outcome = |ok: bool, text: &str| EffectOutcome { ok, value: Json::parse(text).unwrap() };
        let why = not_executed(&outcome(false, r#"{"executed":"no","why":"offline"}"#));
        assert_eq!(why.as_deref(), Some("offline"));
        for (ok, text) in [
            (true, r#"{"executed":"no","why":"offline"}"#),
            (false, r#"{"content":[],"isError":true}"#),
            (false, r#"{"executed":"no","why":"x","content":[]}"#),
            (false, r#"{"code":-32000,"message":"no"}"#),
        ] {
            assert_eq!(not_executed(&outcome(ok, text)), None, "{text}");
        }
    }

    #[test]
    fn what_is_stored_is_whole_or_says_that_it_is_cut() {
        let small = r#"{"a":1.0,"a":9223372036854775808,"b":"\ud800"}"#;
        assert_eq!(whole(&stored(small)), Some(small));
        let large = format!("\"{}\"", "é".repeat(STORED_BYTES));
        let cut = stored(&large);
        assert_eq!(whole(&cut), None);
        assert!(cut.as_str().contains(&format!("\"bytes\":{}", large.len())) && cut.as_str().len() < 2 * KEPT_BYTES);
        // What is too deep for a log is cut, too.
        let deep = "[".repeat(2_000) + &"]".repeat(2_000);
        assert_eq!(whole(&stored(&deep)), None);
    }

    #[test]
    fn a_tools_own_word_about_its_success_is_read() {
        assert!(says_is_error(r#"{"content":[],"isError":true}"#));
        assert!(!says_is_error(r#"{"content":[{"text":"isError\":true"}]}"#));
        assert!(!says_is_error(r#"{"isError":false}"#) && !says_is_error("null"));
    }
}
