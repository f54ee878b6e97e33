//! A command checked against the state: events, or a refusal that says what to do.
//!
//! Pure: the answer depends on the state, the command and [`Ctx`] alone. Rules that a reader may look for elsewhere:
//!
//! - **An agent that ends** (terminated, or failed) gives back what it has: a claimed task is pending again with a retry
//!   counted (failed after the last one), a task that was only assigned is pending again with none counted, for nothing was
//!   tried. Its waiting mail is dead-lettered, and the sender of each *direct* message gets a notice in the same group
//!   (topic `dead_letter`, from `system`); a topic or a broadcast has no reader in particular, so nobody is told. Its open
//!   effects are left alone: the process may still finish them, and their deadline settles the rest. A terminated agent
//!   leaves its groups. At most [`limits::SWEEP`] entities at once; `expire` takes the rest.
//! - **A session that is not live** refuses work. Parked: the command wakes it (a `live` event comes first). Paused: only
//!   what happened outside is recorded (effects finished or resolved), and the session's own life goes on. Needs a decision
//!   or quarantined: only a resume, a rewind or a close. Closed and expired: nothing.
//! - **Nothing to do is not an error** where the caller's aim is already true (deleting what is not there, resuming what is
//!   live, claiming from an empty list): no event is written.

mod agent;
mod check;
mod effect;
mod expire;
mod group;
pub(crate) mod lifecycle;
mod message;
mod task;
mod turn;
mod value;

pub use effect::HOLDER;
pub use expire::next_due_ms;
pub use turn::{Gone, half_written};

use crate::{
    command::{Command, Outcome},
    error::{Refusal, RefusalCode},
    event::Event,
    id::{Actor, EntityId, Seq},
    limits,
    state::{SessionStatus, State},
};

/// What a decision depends on beside state and command.
#[derive(Debug, Clone, Copy)]
pub struct Ctx<'a> {
    /// The time; never before the state's head.
    pub now_ms: u64,
    /// Who asks.
    pub actor: &'a Actor,
    /// The seq the next record will get.
    pub seq: Seq,
}

/// Events and what they came to, or why not.
pub type Decision = Result<(Vec<Event>, Outcome), Refusal>;

/// Checks one command against the state.
///
/// # Errors
/// A refusal: nothing is to be written.
pub fn decide(state: &State, command: &Command, ctx: &Ctx<'_>) -> Decision {
    if state.head.seq == Seq::ZERO {
        return Err(Refusal::new(RefusalCode::NotFound, "no such session: create it first"));
    }
    if let Some(decision) = lifecycle::decide(state, command, ctx) {
        return decision;
    }
    match state.info.status {
        SessionStatus::Live => work(state, command, ctx),
        SessionStatus::Parked if command.is_internal() => work(state, command, ctx),
        SessionStatus::Parked => {
            let awake = Ctx { seq: ctx.seq.next(), ..*ctx };
            let (mut events, outcome) = work(state, command, &awake)?;
            if !events.is_empty() {
                events.insert(
                    0,
                    Event::SessionStatusChanged {
                        status: SessionStatus::Live,
                        reason: Some("woken by a command".into()),
                    },
                );
            }
            Ok((events, outcome))
        }
        SessionStatus::Paused => match command {
            Command::FinishEffect { .. } | Command::ResolveEffect { .. } | Command::DoubtEffect { .. } => {
                work(state, command, ctx)
            }
            // From the engine, whose clock goes on: later.
            Command::ExpireLease { .. } => Ok((Vec::new(), Outcome::Done { id: None })),
            _ => Err(not_live(state, "resume it first")),
        },
        SessionStatus::NeedsDecision | SessionStatus::Quarantined => {
            Err(not_live(state, "read what is there, then `resume`, `rewind` or `close` it"))
        }
        SessionStatus::Closed | SessionStatus::Expired => Err(not_live(state, "fork it, or open another")),
    }
}

/// `session_not_live`, with how it stands and what to do.
fn not_live(state: &State, advice: &str) -> Refusal {
    let reason = state.info.status_reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    Refusal::new(RefusalCode::SessionNotLive, format!("the session is {}{reason}: {advice}", state.info.status))
}

fn work(state: &State, command: &Command, ctx: &Ctx<'_>) -> Decision {
    match command {
        Command::SpawnAgent(spawn) => agent::spawn(state, spawn, ctx),
        Command::SetAgentStatus { agent, status, reason } => {
            agent::set_status(state, agent, *status, reason.as_deref(), ctx)
        }
        Command::UpdateAgent { agent, name, capabilities, configuration } => {
            agent::update(state, agent, name.as_deref(), capabilities.as_deref(), configuration.as_ref())
        }
        Command::Subscribe { agent, topic } => agent::subscribe(state, agent, topic),
        Command::Unsubscribe { agent, topic } => agent::unsubscribe(state, agent, topic),
        Command::CreateGroup { id, name, kind, configuration } => {
            group::create(state, id.as_ref(), name, kind, configuration, ctx)
        }
        Command::RemoveGroup { group } => group::remove(state, group),
        Command::JoinGroup { group, agent, role } => group::join(state, group, agent, role.as_deref()),
        Command::LeaveGroup { group, agent } => group::leave(state, group, agent),
        Command::CreateTask(create) => task::create(state, create, ctx),
        Command::UpdateTask { task, priority, payload } => task::update(state, task, *priority, payload.as_ref()),
        Command::AssignTask { task, agent } => task::assign(state, task, agent),
        Command::ClaimTask { agent, task, kinds, lease_ms } => {
            task::claim(state, agent, task.as_ref(), kinds.as_deref(), *lease_ms, ctx)
        }
        Command::ReleaseTask { task, lease } => task::release(state, task, *lease),
        Command::CompleteTask { task, lease, result } => task::complete(state, task, *lease, result),
        Command::FailTask { task, lease, error, permanent } => task::fail(state, task, *lease, error, *permanent),
        Command::CancelTask { task, reason } => task::cancel(state, task, reason.as_deref()),
        Command::ExpireLease { task, lease, reason } => task::expire_lease(state, task, *lease, reason),
        Command::SendMessage { id, from, to, topic, content, correlation_id } => {
            let letter =
                message::Letter { id: id.as_ref(), from, to, topic: topic.as_deref(), content, correlation_id };
            message::send(state, &letter, ctx)
        }
        Command::ReceiveMessages { agent, limit } => message::receive(state, agent, *limit, ctx),
        Command::AcknowledgeMessage { message, agent } => message::acknowledge(state, message, agent),
        Command::SetMemory { scope, key, value, if_version, ttl_ms } => {
            value::set_memory(state, scope, key, value, *if_version, *ttl_ms, ctx)
        }
        Command::DeleteMemory { scope, key, if_version } => value::delete_memory(state, scope, key, *if_version),
        Command::BeginEffect(begin) => effect::begin(state, begin),
        Command::FinishEffect { effect, attempt, outcome } => effect::finish(state, effect, *attempt, outcome),
        Command::ResolveEffect { effect, outcome, by, attempt } => {
            effect::resolve(state, effect, *attempt, outcome.as_ref(), by)
        }
        Command::DoubtEffect { effect, attempt, reason } => effect::doubt(state, effect, *attempt, reason),
        Command::ReturnAgent { agent, instance } => turn::return_agent(state, agent, instance),
        Command::InterruptTurns { instances, at_start } => {
            turn::interrupt(state, Gone { instances, at_start: *at_start })
        }
        Command::InterruptCall { call, reason } => turn::interrupt_call(state, call, reason),
        Command::SetConnection { connection, recipe, state: standing, status } => {
            value::set_connection(state, connection, recipe, standing, status)
        }
        Command::RemoveConnection { connection } => value::remove_connection(state, connection),
        Command::SetConfig { key, value } => value::set_config(state, key, value),
        Command::RemoveConfig { key } => value::remove_config(state, key),
        Command::Record { kind, aggregate, payload, blobs } => {
            value::record(state, kind, aggregate.as_ref(), payload, blobs, ctx)
        }
        // The session's own life was decided before.
        Command::Pause { .. }
        | Command::Resume {}
        | Command::Park {}
        | Command::Close { .. }
        | Command::UpdateSession { .. }
        | Command::Expire {}
        | Command::NoteRecovery { .. }
        | Command::Rewind { .. } => nothing(None),
    }
}

/// The aim is already true: no event.
fn nothing(id: Option<&EntityId>) -> Decision {
    Ok((Vec::new(), Outcome::Done { id: id.cloned() }))
}

fn done(event: Event, id: &EntityId) -> Decision {
    Ok((vec![event], Outcome::Done { id: Some(id.clone()) }))
}

/// An id for the `nth` thing this decision makes: `kind-SEQ` with the seq of the record that makes it, counted on from the
/// sessions this one was forked from. Where a caller already brought that id, a number is added.
fn make_id(
    state: &State,
    kind: &str,
    ctx: &Ctx<'_>,
    nth: usize,
    taken: impl Fn(&EntityId) -> bool,
) -> Result<EntityId, Refusal> {
    let seq = state.age(Seq(ctx.seq.0.saturating_add(nth as u64)));
    let mut id = EntityId::made(kind, seq);
    let mut more = 1u64;
    while taken(&id) {
        more += 1;
        id = EntityId::new(format!("{kind}-{seq}-{more}"))?;
    }
    Ok(id)
}

/// The caller's id if it brought one that is free, else a made one.
fn new_id(
    state: &State,
    kind: &str,
    given: Option<&EntityId>,
    ctx: &Ctx<'_>,
    taken: impl Fn(&EntityId) -> bool,
) -> Result<EntityId, Refusal> {
    match given {
        Some(id) if taken(id) => Err(Refusal::new(
            RefusalCode::AlreadyExists,
            format!("{kind} `{id}` exists in this session: use another id, or none"),
        )),
        Some(id) => Ok(id.clone()),
        None => make_id(state, kind, ctx, 0, taken),
    }
}

fn room(what: &str, have: usize, limit: usize) -> Result<(), Refusal> {
    if have < limit {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Limit,
        format!("a session holds at most {limit} {what}: use another session for more"),
    ))
}

const _: () = assert!(limits::SWEEP * 3072 < limits::GROUP_BYTES, "a sweep with its notices fits in a group");
