//! Tasks: a list, numbered leases, retries to a maximum.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Ctx, Decision, agent, check, done, new_id, nothing, room};
use crate::{
    command::{CreateTask, Outcome},
    error::{Refusal, RefusalCode},
    event::Event,
    id::EntityId,
    json::Json,
    limits,
    state::{State, Task, TaskList, TaskStatus},
};

fn get<'a>(state: &'a State, id: &EntityId) -> Result<&'a Arc<Task>, Refusal> {
    state.tasks.get(id).ok_or_else(|| Refusal::not_found("task", id))
}

/// The tasks of a list, the first to be done first.
fn on_list(state: &State, list: TaskList) -> impl Iterator<Item = &Arc<Task>> {
    state.tasks.ranked(list.clone().start()).take_while(move |(rank, _)| rank.list == list).map(|(_, task)| task)
}

/// What an agent has: tasks it claimed, and tasks given to it.
pub(super) fn held<'a>(state: &'a State, agent: &EntityId) -> impl Iterator<Item = &'a Arc<Task>> {
    on_list(state, TaskList::With(agent.clone())).chain(on_list(state, TaskList::For(agent.clone())))
}

fn wrong_state(task: &Task, advice: &str) -> Refusal {
    Refusal::new(RefusalCode::WrongState, format!("task `{}` is {}: {advice}", task.id, task.status))
}

pub(super) fn create(state: &State, create: &CreateTask, ctx: &Ctx<'_>) -> Decision {
    room("tasks", state.tasks.len(), limits::TASKS)?;
    check::named("task kind", &create.kind)?;
    check::named("task title", &create.title)?;
    check::json("payload", &create.payload)?;
    let max_retries = create.max_retries.unwrap_or(limits::MAX_RETRIES);
    if max_retries > limits::MAX_RETRIES_MAX {
        return Err(Refusal::invalid(format!("max_retries {max_retries}: at most {}", limits::MAX_RETRIES_MAX)));
    }
    if let Some(parent) = &create.parent {
        let parent = get(state, parent)?;
        if parent.status.is_ended() {
            return Err(wrong_state(parent, "it takes no more parts"));
        }
    }
    let id = new_id(state, "task", create.id.as_ref(), ctx, |id| state.tasks.contains(id))?;
    let mut events = vec![Event::TaskCreated {
        task: id.clone(),
        kind: create.kind.clone(),
        title: create.title.clone(),
        priority: create.priority,
        payload: create.payload.clone(),
        parent: create.parent.clone(),
        max_retries,
    }];
    if let Some(agent) = &create.assign {
        agent::at_work(state, agent)?;
        events.push(Event::TaskAssigned { task: id.clone(), agent: agent.clone() });
    }
    Ok((events, Outcome::Done { id: Some(id) }))
}

pub(super) fn update(state: &State, id: &EntityId, priority: Option<i64>, payload: Option<&Json>) -> Decision {
    let task = get(state, id)?;
    let payload = payload.filter(|payload| payload.as_str() != "null");
    if task.status.is_ended() {
        return Err(wrong_state(task, "create another"));
    }
    if let Some(payload) = payload {
        check::json("payload", payload)?;
    }
    if priority.is_none() && payload.is_none() {
        return nothing(Some(id));
    }
    done(Event::TaskUpdated { task: id.clone(), priority, payload: payload.cloned() }, id)
}

pub(super) fn assign(state: &State, id: &EntityId, agent: &EntityId) -> Decision {
    let task = get(state, id)?;
    agent::at_work(state, agent)?;
    match task.status {
        TaskStatus::Assigned if task.agent_id.as_ref() == Some(agent) => nothing(Some(id)),
        TaskStatus::Pending | TaskStatus::Assigned => {
            done(Event::TaskAssigned { task: id.clone(), agent: agent.clone() }, id)
        }
        _ => Err(wrong_state(task, "only a pending or assigned task can be assigned")),
    }
}

pub(super) fn claim(
    state: &State,
    agent: &EntityId,
    wanted: Option<&EntityId>,
    kinds: Option<&[String]>,
    lease_ms: Option<u64>,
    ctx: &Ctx<'_>,
) -> Decision {
    agent::at_work(state, agent)?;
    let lease_ms = check::duration("lease", lease_ms.unwrap_or(limits::LEASE_MS))?;
    let mine = |task: &Task| task.status == TaskStatus::Assigned && task.agent_id.as_ref() == Some(agent);
    let task = match wanted {
        Some(id) => {
            let task = get(state, id)?;
            if task.status != TaskStatus::Pending && !mine(task) {
                let advice = match (&task.lease, &task.agent_id) {
                    (Some(lease), _) => format!("agent `{}` has it under lease {}", lease.agent_id, lease.number),
                    (None, Some(agent)) if !task.status.is_ended() => format!("it is given to agent `{agent}`"),
                    _ => "claim another".to_owned(),
                };
                return Err(wrong_state(task, &advice));
            }
            Some(task)
        }
        None => {
            let fits = |task: &&Arc<Task>| kinds.is_none_or(|kinds| kinds.contains(&task.kind));
            let given = on_list(state, TaskList::For(agent.clone())).find(fits);
            given.or_else(|| on_list(state, TaskList::Open).find(fits))
        }
    };
    let Some(task) = task else {
        return Ok((Vec::new(), Outcome::Claimed { task: None, lease: None, lease_ms: None }));
    };
    let lease = next_lease(state, task, ctx);
    let event = Event::TaskClaimed { task: task.id.clone(), agent: agent.clone(), lease, lease_ms };
    let outcome = Outcome::Claimed { task: Some(task.id.clone()), lease: Some(lease), lease_ms: Some(lease_ms) };
    Ok((vec![event], outcome))
}

/// A number that no lease on a task of this id ever had in this session. It counts up; after a rewind or a loss, which may have
/// taken away what knew how far it had come, it is the seq of the claim, counted on from what was given up and from the sessions
/// this one was forked from: a number is never above the seq that gave it.
fn next_lease(state: &State, task: &Task, ctx: &Ctx<'_>) -> u64 {
    let next = task.leases + 1;
    match (state.info.rewinds, state.info.inherited_seqs) {
        (0, 0) => next,
        _ => next.max(state.age(ctx.seq).0),
    }
}

/// Whether the caller may say what became of the task: it shows the current lease, or nobody has claimed it.
fn may_end(task: &Task, lease: Option<u64>) -> Result<(), Refusal> {
    match (lease, &task.lease) {
        (Some(shown), Some(current)) if shown == current.number => Ok(()),
        (Some(shown), current) if current.is_some() || shown < task.leases || !task.status.is_ended() => {
            Err(lease_lost(task, shown))
        }
        (None, None) if !task.status.is_ended() => Ok(()),
        (None, Some(current)) => {
            let advice =
                format!("agent `{}` has it under lease {}: show that number", current.agent_id, current.number);
            Err(wrong_state(task, &advice))
        }
        _ => Err(wrong_state(task, "it has ended already")),
    }
}

fn lease_lost(task: &Task, shown: u64) -> Refusal {
    let now = match &task.lease {
        Some(lease) => format!("agent `{}` has it under lease {}", lease.agent_id, lease.number),
        None => format!("it is {}", task.status),
    };
    let message = format!("lease {shown} on task `{}` is over ({now}): stop working on it", task.id);
    Refusal::new(RefusalCode::LeaseLost, message)
}

pub(super) fn release(state: &State, id: &EntityId, lease: u64) -> Decision {
    let task = get(state, id)?;
    match (&task.lease, task.status) {
        (Some(current), _) if current.number == lease => {}
        (None, TaskStatus::Assigned) if lease == 0 => {}
        (None, TaskStatus::Pending) if lease == 0 || lease == task.leases => return nothing(Some(id)),
        (_, TaskStatus::Running | TaskStatus::Pending | TaskStatus::Assigned) => return Err(lease_lost(task, lease)),
        _ => return Err(wrong_state(task, "it has ended already")),
    }
    done(Event::TaskReleased { task: id.clone(), lease }, id)
}

pub(super) fn complete(state: &State, id: &EntityId, lease: Option<u64>, result: &Json) -> Decision {
    let task = get(state, id)?;
    check::json("result", result)?;
    may_end(task, lease)?;
    done(Event::TaskCompleted { task: id.clone(), result: result.clone() }, id)
}

pub(super) fn fail(state: &State, id: &EntityId, lease: Option<u64>, error: &str, permanent: bool) -> Decision {
    let task = get(state, id)?;
    check::text("error", error)?;
    may_end(task, lease)?;
    let (retry_count, failed) = retry(task, permanent);
    done(Event::TaskFailed { task: id.clone(), error: error.to_owned(), retry_count, failed }, id)
}

/// Retries used after a failure, and whether there was none left.
fn retry(task: &Task, permanent: bool) -> (u32, bool) {
    if permanent || task.retry_count >= task.max_retries {
        (task.retry_count, true)
    } else {
        (task.retry_count + 1, false)
    }
}

pub(super) fn expire_lease(state: &State, id: &EntityId, lease: u64, reason: &str) -> Decision {
    check::text("reason", reason)?;
    match state.tasks.get(id) {
        Some(task) if task.lease.as_ref().is_some_and(|current| current.number == lease) => {
            Ok((taken_back(task, reason).into_iter().collect(), Outcome::Done { id: Some(id.clone()) }))
        }
        _ => nothing(Some(id)),
    }
}

/// Takes a task from an agent that is gone. A claim counts as a try, an assignment does not.
pub(super) fn taken_back(task: &Task, why: &str) -> Option<Event> {
    if let Some(lease) = &task.lease {
        let (retry_count, failed) = retry(task, false);
        return Some(Event::TaskLeaseExpired {
            task: task.id.clone(),
            lease: lease.number,
            retry_count,
            failed,
            reason: why.to_owned(),
        });
    }
    (task.status == TaskStatus::Assigned).then(|| Event::TaskReleased { task: task.id.clone(), lease: 0 })
}

pub(super) fn cancel(state: &State, id: &EntityId, reason: Option<&str>) -> Decision {
    let task = get(state, id)?;
    check::optional("reason", reason)?;
    match task.status {
        TaskStatus::Cancelled => return nothing(Some(id)),
        status if status.is_ended() => return Err(wrong_state(task, "it has ended already")),
        _ => {}
    }
    let mut parts: HashMap<&EntityId, Vec<&EntityId>> = HashMap::new();
    for task in state.tasks.iter() {
        if let Some(parent) = &task.parent_task_id {
            parts.entry(parent).or_default().push(&task.id);
        }
    }
    let mut events = Vec::new();
    let mut seen: HashSet<&EntityId> = HashSet::from([id]);
    let mut open = vec![id];
    while let Some(next) = open.pop() {
        if state.tasks.get(next).is_some_and(|task| !task.status.is_ended()) {
            events.push(Event::TaskCancelled { task: next.clone(), reason: reason.map(str::to_owned) });
        }
        open.extend(parts.get(next).into_iter().flatten().copied().filter(|part| seen.insert(part)));
    }
    Ok((events, Outcome::Done { id: Some(id.clone()) }))
}
