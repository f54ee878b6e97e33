//! One method per thing that programs do most. Each is one request with one command; [`Session::submit`] has them all.

use serde::Serialize;
use swarmkeep_core::{
    Actor, EntityId, Error, ErrorKind, Json, RefusalCode,
    command::{Command, CreateTask, DEFAULT_SCOPE, Outcome, SpawnAgent},
    state::{Address, EffectOutcome, MemoryKey, Message},
};

use super::{Reply, Request, Session};
use crate::keep::is;

/// A task that was claimed, and the lease to show from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which task.
    pub task: EntityId,
    /// The lease's number.
    pub lease: u64,
    /// How long it lasts without a heartbeat.
    pub lease_ms: u64,
}

impl Session {
    async fn one(&self, actor: Actor, command: Command) -> Result<(Reply, Outcome), Error> {
        let reply = self.submit(Request::of(actor, command)).await?;
        let outcome = reply.outcomes.first().cloned().unwrap_or(Outcome::Done { id: None });
        Ok((reply, outcome))
    }

    /// An agent joins the swarm, or is there already under this id or name: a program that starts again says the same again.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub async fn spawn_agent(&self, agent: SpawnAgent) -> Result<EntityId, Error> {
        let (id, name) = (agent.id.clone(), agent.name.clone());
        match self.one(Actor::system(), Command::SpawnAgent(agent)).await {
            Ok((_, outcome)) => made(outcome),
            Err(error) if is(&error, RefusalCode::AlreadyExists) => {
                let state = self.state().await?;
                let found = state.agents.iter().find(|there| {
                    there.terminated_at_ms.is_none()
                        && id.as_ref().map_or_else(|| there.name == name, |id| there.id == *id)
                });
                found.map(|there| there.id.clone()).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Puts a task on the list; one of the same caller-given id that is there already is given back.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub async fn create_task(&self, task: CreateTask) -> Result<EntityId, Error> {
        let id = task.id.clone();
        match self.one(Actor::system(), Command::CreateTask(task)).await {
            Ok((_, outcome)) => made(outcome),
            Err(error) if is(&error, RefusalCode::AlreadyExists) => id.ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Takes the first task that fits, or none.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub async fn claim_task(&self, agent: &EntityId) -> Result<Option<Claim>, Error> {
        let command = Command::ClaimTask { agent: agent.clone(), task: None, kinds: None, lease_ms: None };
        match self.one(acting(agent)?, command).await?.1 {
            Outcome::Claimed { task: Some(task), lease: Some(lease), lease_ms: Some(lease_ms) } => {
                Ok(Some(Claim { task, lease, lease_ms }))
            }
            _ => Ok(None),
        }
    }

    /// The claimed task is done.
    ///
    /// # Errors
    /// `lease_lost` when somebody else has it by now.
    pub async fn complete_task(&self, claim: &Claim, result: impl Serialize) -> Result<(), Error> {
        let result = Json::encode(&result)?;
        let command = Command::CompleteTask { task: claim.task.clone(), lease: Some(claim.lease), result };
        self.one(Actor::system(), command).await.map(drop)
    }

    /// This attempt failed; it is tried again while retries are left.
    ///
    /// # Errors
    /// `lease_lost` when somebody else has it by now.
    pub async fn fail_task(&self, claim: &Claim, error: impl Into<String>) -> Result<(), Error> {
        let command = Command::FailTask {
            task: claim.task.clone(),
            lease: Some(claim.lease),
            error: error.into(),
            permanent: false,
        };
        self.one(Actor::system(), command).await.map(drop)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `not_found` for a recipient that is not there.
    pub async fn send_message(
        &self,
        from: &EntityId,
        to: Address,
        topic: &str,
        content: impl Serialize,
    ) -> Result<EntityId, Error> {
        let command = Command::SendMessage {
            id: None,
            from: from.clone(),
            to,
            topic: Some(topic.to_owned()),
            content: Json::encode(&content)?,
            correlation_id: None,
        };
        made(self.one(acting(from)?, command).await?.1)
    }

    /// Takes up to `limit` messages that wait for this agent. Each comes again until it is acknowledged.
    ///
    /// # Errors
    /// `not_found` for an agent that is not there.
    pub async fn receive_messages(&self, agent: &EntityId, limit: u32) -> Result<Vec<Message>, Error> {
        let command = Command::ReceiveMessages { agent: agent.clone(), limit: Some(limit) };
        let (_, outcome) = self.one(acting(agent)?, command).await?;
        let Outcome::Received { messages } = outcome else { return Ok(Vec::new()) };
        let state = self.state().await?;
        Ok(messages.iter().filter_map(|id| state.messages.get(id).map(|message| Message::clone(message))).collect())
    }

    /// Consumed: not delivered again.
    ///
    /// # Errors
    /// `not_found` for a message that does not wait for this agent.
    pub async fn acknowledge(&self, agent: &EntityId, message: &EntityId) -> Result<(), Error> {
        let command = Command::AcknowledgeMessage { message: message.clone(), agent: agent.clone() };
        self.one(acting(agent)?, command).await.map(drop)
    }

    /// Stores a value in the shared scope; gives its version.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub async fn set_memory(&self, key: &str, value: impl Serialize) -> Result<u64, Error> {
        let command = Command::SetMemory {
            scope: EntityId::new(DEFAULT_SCOPE)?,
            key: EntityId::new(key)?,
            value: Json::encode(&value)?,
            if_version: None,
            ttl_ms: None,
        };
        match self.one(Actor::system(), command).await?.1 {
            Outcome::Version { version } => Ok(version),
            other => Err(odd(&other)),
        }
    }

    /// A value from the shared scope.
    ///
    /// # Errors
    /// As [`Session::state`].
    pub async fn memory(&self, key: &str) -> Result<Option<Json>, Error> {
        let key = MemoryKey { scope: EntityId::new(DEFAULT_SCOPE)?, key: EntityId::new(key)? };
        let now_ms = self.engine.clock.now_ms();
        let state = self.state().await?;
        Ok(state
            .memory
            .get(&key)
            .filter(|entry| entry.expires_at_ms.is_none_or(|expires_at_ms| expires_at_ms > now_ms))
            .map(|entry| entry.value.clone()))
    }

    /// Settles a doubt about an effect: with an outcome, it was done; without, it was not. Whoever looked into one attempt
    /// submits [`Command::ResolveEffect`] with it: a later one may be in doubt by now.
    ///
    /// # Errors
    /// `wrong_state` when there is no doubt.
    pub async fn resolve_effect(
        &self,
        effect: &EntityId,
        outcome: Option<EffectOutcome>,
        by: &str,
    ) -> Result<(), Error> {
        let command = Command::ResolveEffect { effect: effect.clone(), outcome, by: by.to_owned(), attempt: None };
        self.one(Actor::system(), command).await.map(drop)
    }
}

fn acting(agent: &EntityId) -> Result<Actor, Error> {
    Ok(Actor::new(agent.as_str())?)
}

fn made(outcome: Outcome) -> Result<EntityId, Error> {
    match outcome {
        Outcome::Done { id: Some(id) } => Ok(id),
        other => Err(odd(&other)),
    }
}

fn odd(outcome: &Outcome) -> Error {
    Error::new(ErrorKind::Unknown, format!("the command was carried out, but answered {outcome:?}"))
}
