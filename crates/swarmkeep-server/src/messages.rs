//! `…/messages`.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;
use swarmkeep::{
    EntityId, Json, Outcome,
    core::{
        command::Command,
        state::{Address, Message},
    },
};

use crate::{
    api::{Api, Content, Op},
    listing::{list, text},
    wire::{Answer, Call, Envelope, answer_with},
};

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/sessions/{namespace}/{name}/messages",
        waiting,
        Op::read("listMessages", "Messages that somebody has yet to acknowledge, in the order of sending; consumed ones are in `/v1/query/messages`", Content::Json("MessageList")).query(&[
            ("agent", "string", "Only those that wait for this agent"),
            ("from", "string", "Only those that this agent wrote"),
            ("topic", "string", "Only about this"),
            ("limit", "integer", "Rows in the page: 1 to 1000, 100 by default"),
            ("after", "integer", "`next` of the page before"),
        ]),
    )
    .post("/v1/sessions/{namespace}/{name}/messages", send, Op::write("sendMessage", "Send to an agent, a topic's listeners, or all").body("SendMessage"))
    .post("/v1/sessions/{namespace}/{name}/messages/receive", receive, Op::write("receiveMessages", "Take up messages that wait for an agent; each comes again until it is acknowledged").body("Receive").answers(200, "ReceiveReply"))
    .post("/v1/sessions/{namespace}/{name}/messages/{id}/acknowledge", acknowledge, Op::write("acknowledgeMessage", "Consumed: not delivered again").body("ByAgent"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessagesQuery {
    agent: Option<EntityId>,
    from: Option<EntityId>,
    topic: Option<String>,
    limit: Option<usize>,
    after: Option<u64>,
}

async fn waiting(call: Call) -> Answer {
    let query: MessagesQuery = call.query()?;
    let state = call.session().await?.state().await?;
    let mut rows: Vec<&Arc<Message>> = state
        .messages
        .iter()
        .filter(|message| {
            query.after.is_none_or(|after| message.seq.0 > after)
                && query.agent.as_ref().is_none_or(|agent| message.waiting.contains_key(agent))
                && query.from.as_ref().is_none_or(|from| message.from_agent == *from)
                && query.topic.as_ref().is_none_or(|topic| message.topic == *topic)
        })
        .collect();
    rows.sort_unstable_by_key(|message| message.seq);
    list("messages", query.limit, &state.head, rows.into_iter(), |_| true, |message| message.seq.to_string())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    #[serde(default)]
    id: Option<EntityId>,
    from: EntityId,
    to: Address,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    content: Json,
    #[serde(default)]
    correlation_id: Option<String>,
}

async fn send(mut call: Call) -> Answer {
    let session = call.session().await?;
    let Send { id, from, to, topic, content, correlation_id } = call.json().await?;
    let author = from.clone();
    let command = Command::SendMessage { id, from, to, topic, content, correlation_id };
    call.submit(&session, Some(&author), vec![command]).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receive {
    agent: EntityId,
    #[serde(default)]
    limit: Option<u32>,
}

/// Takes messages up and adds them, whole, to the answer. In the answer to a repeated request one that was consumed since
/// then is taken from the state as it was at that request.
async fn receive(mut call: Call) -> Answer {
    let session = call.session().await?;
    let Receive { agent, limit } = call.json().await?;
    let envelope = Envelope::of(&call.parts.headers)?;
    let command = Command::ReceiveMessages { agent: agent.clone(), limit };
    let reply = call.carry_out(&session, envelope, Some(&agent), vec![command]).await?;
    let mut more = String::from(",\"messages\":[");
    if let Some(Outcome::Received { messages }) = reply.outcomes.first() {
        let mut state = session.state().await?;
        if messages.iter().any(|id| !state.messages.contains(id)) {
            state = session.state_at(reply.head.seq).await?;
        }
        let rows: Vec<String> = messages
            .iter()
            .filter_map(|id| state.messages.get(id))
            .map(|message| text(&**message))
            .collect::<Result<_, _>>()?;
        more.push_str(&rows.join(","));
    }
    more.push(']');
    Ok(answer_with(StatusCode::OK, &reply, &more))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByAgent {
    agent: EntityId,
}

async fn acknowledge(mut call: Call) -> Answer {
    let message: EntityId = call.id("id")?;
    let session = call.session().await?;
    let ByAgent { agent } = call.json().await?;
    let by = agent.clone();
    call.submit(&session, Some(&by), vec![Command::AcknowledgeMessage { message, agent }]).await
}
