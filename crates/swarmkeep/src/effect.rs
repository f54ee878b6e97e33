//! Something done outside the session, once.

use std::{fmt, future::Future, pin::Pin};

use serde::{Serialize, de::DeserializeOwned};
use swarmkeep_core::{
    Actor, EntityId, Error, ErrorKind, Json, RefusalCode,
    command::{BeginEffect, Command, Outcome},
    state::{Effect, EffectClass, EffectOutcome},
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
    reconciler: Option<Reconciler<'a>>,
}

/// What a look outside says of an effect in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// It happened, with this outcome: it is recorded, and not run again.
    Done(EffectOutcome),
    /// It did not happen, and will not any more: it is run.
    NotDone,
    /// It cannot be told: the doubt stays.
    None,
}

type Look<'a> = Box<dyn FnOnce(Effect) -> Pin<Box<dyn Future<Output = Evidence> + Send + 'a>> + Send + 'a>;

/// Who looks outside, and how.
struct Reconciler<'a> {
    name: String,
    look: Look<'a>,
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
            reconciler: None,
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

    /// Who is asked when nobody knows whether it was done: `look` looks outside (a mailbox, a provider's list of payments)
    /// for what the effect asked for. What it finds is recorded as settled by `reconciler:NAME`, and [`EffectCall::run`]
    /// gives the outcome, or runs the work. Only of class `at_most_once`: `read` and `idempotent` are run again without,
    /// and of `ask` only a person may tell.
    pub fn reconcile<L, Fut>(mut self, name: &str, look: L) -> Self
    where
        L: FnOnce(Effect) -> Fut + Send + 'a,
        Fut: Future<Output = Evidence> + Send + 'a,
    {
        self.reconciler = Some(Reconciler { name: name.to_owned(), look: Box::new(|effect| Box::pin(look(effect))) });
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
        let begin = Command::BeginEffect(BeginEffect {
            effect: key.clone(),
            class: self.class,
            agent: self.agent,
            task: self.task,
            instance: self.instance,
            request: self.request,
            deadline_ms: self.deadline_ms,
        });
        let mut reconciler = self.reconciler.filter(|_| self.class == EffectClass::AtMostOnce);
        let attempt = loop {
            let doubt = match begun(self.session, &actor, begin.clone()).await? {
                Begun::Run { attempt } => break attempt,
                Begun::Recorded(outcome) if outcome.ok => return Ok(outcome.value.decode().map_err(Error::from)?),
                Begun::Recorded(outcome) => return Err(EffectError::Failed(outcome.value)),
                Begun::Doubt(reason) => reason,
            };
            let Some(reconciler) = reconciler.take() else { return Err(EffectError::OutcomeUnknown(doubt)) };
            if !reconciler.settle(self.session, &key).await? {
                return Err(EffectError::OutcomeUnknown(doubt));
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

/// What a begin was answered with.
enum Begun {
    Run { attempt: u32 },
    Recorded(EffectOutcome),
    Doubt(String),
}

async fn begun(session: &Session, actor: &Actor, begin: Command) -> Result<Begun, Error> {
    let reply = match session.submit(Request::of(actor.clone(), begin)).await {
        Ok(reply) => reply,
        Err(error) if error.refusal.as_ref().is_some_and(|refusal| refusal.code == RefusalCode::OutcomeUnknown) => {
            return Ok(Begun::Doubt(error.message));
        }
        Err(error) => return Err(error),
    };
    match reply.outcomes.into_iter().next() {
        Some(Outcome::Run { attempt }) => Ok(Begun::Run { attempt }),
        Some(Outcome::Recorded { outcome }) => Ok(Begun::Recorded(outcome)),
        Some(Outcome::Unknown { reason }) => Ok(Begun::Doubt(reason)),
        other => Err(Error::new(ErrorKind::Unknown, format!("begin of an effect was answered {other:?}"))),
    }
}

impl Reconciler<'_> {
    /// Looks, and records what was found. False: it cannot be told.
    async fn settle(self, session: &Session, key: &EntityId) -> Result<bool, Error> {
        let Some(effect) = session.state().await?.effects.get(key).map(|effect| Effect::clone(effect)) else {
            return Ok(false);
        };
        let attempt = Some(effect.attempt);
        let outcome = match (self.look)(effect).await {
            Evidence::Done(outcome) => Some(outcome),
            Evidence::NotDone => None,
            Evidence::None => return Ok(false),
        };
        let by = format!("reconciler:{}", self.name);
        let settle = Command::ResolveEffect { effect: key.clone(), outcome, by, attempt };
        match session.submit(Request::of(Actor::system(), settle)).await {
            // Somebody else has settled it meanwhile, or begun again: the next begin says how it stands.
            Err(error) if error.refusal.as_ref().is_some_and(|refusal| refusal.code == RefusalCode::WrongState) => {
                Ok(true)
            }
            settled => settled.map(|_| true),
        }
    }
}
