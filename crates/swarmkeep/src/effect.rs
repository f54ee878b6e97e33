//! Something done outside the session, once.

use std::{fmt, future::Future};

use serde::{Serialize, de::DeserializeOwned};
use swarmkeep_core::{
    Actor, EntityId, Error, ErrorKind, Json, RefusalCode,
    command::{BeginEffect, Command, Outcome},
    state::{EffectClass, EffectOutcome},
};

use crate::session::{Request, Session};

/// An effect about to be run: [`Session::effect`].
#[must_use = "nothing is done before `run`"]
pub struct EffectCall<'a> {
    session: &'a Session,
    key: String,
    instance: EntityId,
    class: EffectClass,
    agent: Option<EntityId>,
    task: Option<EntityId>,
    request: Json,
    deadline_ms: Option<u64>,
}

/// Why an effect gave no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EffectError {
    /// It ran, now or earlier, and failed: this is the recorded error. It is not run again under this key.
    #[error("the effect failed: {0}")]
    Failed(Json),
    /// It was begun once and nobody knows whether it was done. Settle it (`resolve_effect`), then call again.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The session could not record it.
    #[error(transparent)]
    Session(#[from] Error),
}

impl<'a> EffectCall<'a> {
    pub(crate) fn new(session: &'a Session, key: &str, instance: EntityId) -> Self {
        Self {
            session,
            key: key.to_owned(),
            instance,
            class: EffectClass::default(),
            agent: None,
            task: None,
            request: Json::null(),
            deadline_ms: None,
        }
    }

    /// Changes nothing outside: run again after a crash.
    pub fn read(mut self) -> Self {
        self.class = EffectClass::Read;
        self
    }

    /// The other side knows the key: run again after a crash, with the same key.
    pub fn idempotent(mut self) -> Self {
        self.class = EffectClass::Idempotent;
        self
    }

    /// Never run again in doubt (the default).
    pub fn at_most_once(mut self) -> Self {
        self.class = EffectClass::AtMostOnce;
        self
    }

    /// Never run again in doubt, and only a person settles it.
    pub fn ask(mut self) -> Self {
        self.class = EffectClass::Ask;
        self
    }

    /// By which agent.
    pub fn agent(mut self, agent: &EntityId) -> Self {
        self.agent = Some(agent.clone());
        self
    }

    /// For which task.
    pub fn task(mut self, task: &EntityId) -> Self {
        self.task = Some(task.clone());
        self
    }

    /// What is asked for, for people and reconcilers.
    pub fn request(mut self, request: Json) -> Self {
        self.request = request;
        self
    }

    /// How long it may take before its outcome counts as unknown, in milliseconds.
    pub fn deadline_ms(mut self, deadline_ms: u64) -> Self {
        self.deadline_ms = Some(deadline_ms);
        self
    }

    /// Runs `work` unless it was run before, and gives what came of it: now, or then.
    ///
    /// `begin` is durable before `work` is called, `finish` before this returns. An `Err` of `work` is recorded as failed
    /// for certain; a `work` that does not know should not return but let the deadline pass, or resolve it later.
    ///
    /// # Errors
    /// [`EffectError`].
    pub async fn run<T, E, F, Fut>(self, work: F) -> Result<T, EffectError>
    where
        T: Serialize + DeserializeOwned,
        E: fmt::Display,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let key = EntityId::new(&self.key).map_err(Error::from)?;
        let actor = match &self.agent {
            Some(agent) => Actor::new(agent.as_str()).map_err(Error::from)?,
            None => Actor::system(),
        };
        let begin = BeginEffect {
            effect: key.clone(),
            class: self.class,
            agent: self.agent,
            task: self.task,
            instance: self.instance,
            request: self.request,
            deadline_ms: self.deadline_ms,
        };
        let begun = self.session.submit(Request::of(actor.clone(), Command::BeginEffect(begin))).await;
        let outcome = match begun {
            Ok(reply) => reply.outcomes.into_iter().next(),
            Err(error) if error.refusal.as_ref().is_some_and(|refusal| refusal.code == RefusalCode::OutcomeUnknown) => {
                return Err(EffectError::OutcomeUnknown(error.message));
            }
            Err(error) => return Err(error.into()),
        };
        let attempt = match outcome {
            Some(Outcome::Run { attempt }) => attempt,
            Some(Outcome::Recorded { outcome }) if outcome.ok => {
                return Ok(outcome.value.decode().map_err(Error::from)?);
            }
            Some(Outcome::Recorded { outcome }) => return Err(EffectError::Failed(outcome.value)),
            Some(Outcome::Unknown { reason }) => return Err(EffectError::OutcomeUnknown(reason)),
            other => {
                return Err(
                    Error::new(ErrorKind::Unknown, format!("begin of effect `{key}` answered {other:?}")).into()
                );
            }
        };
        let result = work().await;
        let outcome = match &result {
            Ok(value) => EffectOutcome { ok: true, value: Json::encode(value).map_err(Error::from)? },
            Err(error) => EffectOutcome { ok: false, value: Json::encode(&error.to_string()).map_err(Error::from)? },
        };
        let failed = outcome.value.clone();
        self.session.submit(Request::of(actor, Command::FinishEffect { effect: key, attempt, outcome })).await?;
        result.map_err(|_| EffectError::Failed(failed))
    }
}
