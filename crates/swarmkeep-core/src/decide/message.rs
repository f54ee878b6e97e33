//! Messages: sent to agents, delivered until acknowledged, dead-lettered when nobody can read them.

use std::{collections::BTreeMap, sync::Arc};

use super::{Ctx, Decision, agent, check, done, make_id, new_id, room, turn};
use crate::{
    command::Outcome,
    error::{Refusal, RefusalCode},
    event::Event,
    id::{EntityId, Seq},
    json::Json,
    limits,
    state::{Address, Message, MessageRank, Receipt, State},
};

/// What a caller sends.
pub(super) struct Letter<'a> {
    pub(super) id: Option<&'a EntityId>,
    pub(super) from: &'a EntityId,
    pub(super) to: &'a Address,
    pub(super) topic: Option<&'a str>,
    pub(super) content: &'a Json,
    pub(super) correlation_id: &'a Option<String>,
}

/// `from` need not be an agent: a person or a program may write to one. Only agents get notices.
pub(super) fn send(state: &State, letter: &Letter<'_>, ctx: &Ctx<'_>) -> Decision {
    room("messages that wait", state.messages.len(), limits::MESSAGES)?;
    check::json("content", letter.content)?;
    check::optional("topic", letter.topic)?;
    if letter.correlation_id.as_ref().is_some_and(|id| id.len() > limits::ID_BYTES) {
        return Err(Refusal::invalid(format!("correlation_id: use at most {} bytes", limits::ID_BYTES)));
    }
    let (topic, recipients) = match letter.to {
        Address::Agent(to) => {
            agent::at_work(state, to).map_err(|refusal| naming_those_there(state, refusal))?;
            (letter.topic.unwrap_or("direct"), vec![to.clone()])
        }
        Address::Topic(topic) => {
            if letter.topic.is_some_and(|named| named != topic.as_str()) {
                return Err(Refusal::invalid(format!(
                    "a message to topic `{topic}` is about that topic: leave `topic` out"
                )));
            }
            let listeners =
                state.agents.iter().filter(|agent| !agent::has_ended(agent) && agent.topics.contains(topic));
            (topic.as_str(), listeners.map(|agent| agent.id.clone()).collect())
        }
        Address::Broadcast => {
            let others = state.agents.iter().filter(|agent| !agent::has_ended(agent) && agent.id != *letter.from);
            (letter.topic.unwrap_or("broadcast"), others.map(|agent| agent.id.clone()).collect())
        }
    };
    let id = new_id(state, "message", letter.id, ctx, |id| state.messages.contains(id))?;
    let said = turn::said(state, letter.content);
    let event = Event::MessageSent {
        message: id.clone(),
        from: letter.from.clone(),
        to: letter.to.clone(),
        topic: topic.to_owned(),
        content: letter.content.clone(),
        correlation_id: letter.correlation_id.clone(),
        recipients,
        calls: said.calls,
        results: said.results,
    };
    done(event, &id)
}

/// Mail to nobody is refused rather than kept for somebody who may come: with the agents that there are, the first few.
fn naming_those_there(state: &State, mut refusal: Refusal) -> Refusal {
    const MOST: usize = 10;
    if refusal.code != RefusalCode::NotFound {
        return refusal;
    }
    let mut there = state.agents.iter().filter(|agent| !agent::has_ended(agent)).map(|agent| match &agent.name {
        Some(name) if *name != agent.id.as_str() => format!("`{}` ({name})", agent.id),
        _ => format!("`{}`", agent.id),
    });
    let some: Vec<String> = there.by_ref().take(MOST).collect();
    let more = there.count();
    refusal.message += &match (some.is_empty(), more) {
        (true, _) => ": it has no agents at work; spawn the agent first, or send to a topic".to_owned(),
        (false, 0) => format!(": at work are {}", some.join(", ")),
        (false, more) => format!(": at work are {} and {more} more", some.join(", ")),
    };
    refusal
}

/// What waits for an agent, oldest first.
pub(super) fn mail<'a>(state: &'a State, agent: &EntityId) -> impl Iterator<Item = (&'a Arc<Message>, &'a Receipt)> {
    let reader = agent.clone();
    state
        .messages
        .ranked(MessageRank::Mail(agent.clone(), Seq::ZERO, None))
        .take_while(move |(rank, _)| matches!(rank, MessageRank::Mail(agent, ..) if *agent == reader))
        .filter_map({
            let reader = agent.clone();
            move |(_, message)| Some((message, message.waiting.get(&reader)?))
        })
}

/// The message that this one answers, if it was never sent. Callers name their conversations as they like; but an id as the
/// engine makes them has the seq of the record that sent the message, and a record that is not older than the answer was not
/// there to be answered: it was given out with an acknowledgement that did not wait for the disk, and lost.
pub(super) fn never_sent(message: &Message) -> Option<EntityId> {
    let question = message.correlation_id.as_deref()?;
    let seq: u64 = question.strip_prefix("message-")?.parse().ok()?;
    (seq >= message.seq.0).then(|| EntityId::made("message", Seq(seq)))
}

/// Messages delivered as often as they may be, with the recipient and the time to give them up, the first due first.
pub(super) fn exhausted(state: &State) -> impl Iterator<Item = (u64, &Arc<Message>, &EntityId)> {
    state.messages.ranked(MessageRank::GivenUp(0, None)).filter_map(|(rank, message)| match rank {
        MessageRank::GivenUp(at_ms, Some((_, agent))) => Some((*at_ms, message, agent)),
        _ => None,
    })
}

pub(super) fn receive(state: &State, id: &EntityId, limit: Option<u32>, ctx: &Ctx<'_>) -> Decision {
    agent::at_work(state, id)?;
    let limit = limit.unwrap_or(10);
    if !(1..=limits::RECEIVE).contains(&limit) {
        return Err(Refusal::invalid(format!("limit {limit}: use 1 to {}", limits::RECEIVE)));
    }
    let due = |(_, receipt): &(&Arc<Message>, &Receipt)| {
        receipt.attempts < limits::DELIVERIES && receipt.due_ms() <= ctx.now_ms
    };
    let waiting: Vec<(&Arc<Message>, &Receipt)> = mail(state, id).filter(due).take(limit as usize).collect();
    let messages = waiting.iter().map(|(message, _)| message.id.clone()).collect();
    let events = waiting
        .iter()
        .map(|(message, receipt)| Event::MessageDelivered {
            message: message.id.clone(),
            agent: id.clone(),
            attempt: receipt.attempts + 1,
        })
        .collect();
    Ok((events, Outcome::Received { messages }))
}

pub(super) fn acknowledge(state: &State, id: &EntityId, agent: &EntityId) -> Decision {
    let message = state.messages.get(id).filter(|message| message.waiting.contains_key(agent));
    let Some(message) = message else {
        return Err(Refusal::new(
            RefusalCode::NotFound,
            format!("no message `{id}` waits for agent `{agent}`: acknowledged before, given up, or never sent to it"),
        ));
    };
    let consumed = message.waiting.len() == 1;
    done(Event::MessageAcknowledged { message: id.clone(), agent: agent.clone(), consumed }, id)
}

/// Gives a message up for one recipient; the sender of a direct one, if it is an agent at work, is told.
pub(super) fn dead_letter(
    state: &State,
    message: &Message,
    agent: &EntityId,
    reason: &str,
    consumed: bool,
    ctx: &Ctx<'_>,
    events: &mut Vec<Event>,
) -> Result<(), Refusal> {
    events.push(Event::MessageDeadLettered {
        message: message.id.clone(),
        agent: agent.clone(),
        reason: reason.to_owned(),
        consumed,
    });
    let sender = &message.from_agent;
    let told = matches!(message.to, Address::Agent(_))
        && sender != agent
        && state.agents.get(sender).is_some_and(|sender| !agent::has_ended(sender));
    if !told {
        return Ok(());
    }
    let id = make_id(state, "message", ctx, events.len(), |id| state.messages.contains(id))?;
    let facts = BTreeMap::from([("agent", agent.as_str()), ("message", message.id.as_str()), ("reason", reason)]);
    events.push(Event::MessageSent {
        message: id,
        from: EntityId::new("system")?,
        to: Address::Agent(sender.clone()),
        topic: "dead_letter".into(),
        content: Json::encode(&facts)?,
        correlation_id: message.correlation_id.clone(),
        recipients: vec![sender.clone()],
        calls: Vec::new(),
        results: Vec::new(),
    });
    Ok(())
}

/// Messages delivered as often as they may be, past the last time to acknowledge: given up, at most `limit`.
pub(super) fn give_up(state: &State, ctx: &Ctx<'_>, limit: usize, events: &mut Vec<Event>) -> Result<(), Refusal> {
    let reason = format!("delivered {} times, never acknowledged", limits::DELIVERIES);
    let mut gone: BTreeMap<&EntityId, usize> = BTreeMap::new();
    for (_, message, agent) in exhausted(state).take_while(|(at_ms, ..)| *at_ms <= ctx.now_ms).take(limit) {
        let gone = gone.entry(&message.id).or_default();
        *gone += 1;
        dead_letter(state, message, agent, &reason, *gone == message.waiting.len(), ctx, events)?;
    }
    Ok(())
}
