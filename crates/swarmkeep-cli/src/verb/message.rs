//! `swarmkeep message`: mail between agents, delivered again until it is acknowledged.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Name, Reply, Typed, agent, ago, all, command, command_with, entries, field, path, plain};
use crate::{cli::Write, client::Call, context::Context, failure::Failure, table::Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Send a message to an agent, to those that listen to a topic, or to all
    Send {
        session: Name,
        /// Who writes
        #[arg(long)]
        from: String,
        #[command(flatten)]
        to: To,
        /// The content; JSON, or text
        content: String,
        /// What it is about
        #[arg(long)]
        about: Option<String>,
        /// Ties an answer to its question
        #[arg(long, value_name = "ID")]
        correlation_id: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Take messages that wait for an agent, oldest first
    Receive {
        session: Name,
        /// For whom
        #[arg(long)]
        agent: String,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        #[command(flatten)]
        write: Write,
    },
    /// Consumed: not delivered again
    Ack {
        session: Name,
        message: String,
        /// By whom
        #[arg(long)]
        agent: String,
        #[command(flatten)]
        write: Write,
    },
    /// From now on an agent gets the messages to a topic
    Subscribe {
        session: Name,
        topic: String,
        /// Which agent
        #[arg(long)]
        agent: String,
        #[command(flatten)]
        write: Write,
    },
    /// No longer
    Unsubscribe {
        session: Name,
        topic: String,
        /// Which agent
        #[arg(long)]
        agent: String,
        #[command(flatten)]
        write: Write,
    },
    /// Messages that somebody has yet to acknowledge
    Ls { session: Name },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct To {
    /// To this agent
    #[arg(long, value_name = "AGENT")]
    to: Option<String>,
    /// To the agents that listen to this topic
    #[arg(long)]
    topic: Option<String>,
    /// To every agent but the sender
    #[arg(long)]
    broadcast: bool,
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Send { session, from, to, content, about, correlation_id, write } => {
                write.note(context);
                let from = agent::id(context, &session, from).await?;
                let address = match (agent::id_if(context, &session, to.to).await?, to.topic) {
                    (Some(agent), _) => json!({ "agent": agent }),
                    (None, Some(topic)) => json!({ "topic": topic }),
                    (None, None) => json!("broadcast"),
                };
                let mut typed = Typed::default();
                let send = json!({ "send_message": {
                    "from": from, "to": address, "topic": about, "content": typed.keep(&content), "correlation_id": correlation_id,
                } });
                let Some(reply) = command_with(context, &session, send, typed).await? else { return Ok(()) };
                reply.tell(context, |reply| format!("message {} is on its way", reply.id()))
            }
            Self::Receive { session, agent, limit, write } => {
                write.note(context);
                let agent = agent::id(context, &session, agent).await?;
                let mut body = json!({ "agent": agent });
                if let (Some(limit), Some(fields)) = (limit, body.as_object_mut()) {
                    fields.insert("limit".into(), limit.into());
                }
                let Some(answer) = context.write(Call::post(path(&session, "/messages/receive"), &body)).await? else {
                    return Ok(());
                };
                let reply = Reply::of(&answer)?;
                let table = table(entries(&reply.raw, "messages"));
                context.answer(&reply.raw, |context| context.print_table(&table, "nothing waits"))
            }
            Self::Ack { session, message, agent, write } => {
                write.note(context);
                let agent = agent::id(context, &session, agent).await?;
                let ack = json!({ "acknowledge_message": { "message": message, "agent": agent } });
                let Some(reply) = command(context, &session, ack).await? else { return Ok(()) };
                reply.tell(context, |_| format!("message {message} is consumed by {agent}"))
            }
            Self::Subscribe { session, topic, agent, write } => {
                write.note(context);
                let agent = agent::id(context, &session, agent).await?;
                let subscribe = json!({ "subscribe": { "agent": agent, "topic": topic } });
                let Some(reply) = command(context, &session, subscribe).await? else { return Ok(()) };
                reply.tell(context, |_| format!("agent {agent} listens to {topic}"))
            }
            Self::Unsubscribe { session, topic, agent, write } => {
                write.note(context);
                let agent = agent::id(context, &session, agent).await?;
                let unsubscribe = json!({ "unsubscribe": { "agent": agent, "topic": topic } });
                let Some(reply) = command(context, &session, unsubscribe).await? else { return Ok(()) };
                reply.tell(context, |_| format!("agent {agent} no longer listens to {topic}"))
            }
            Self::Ls { session } => {
                let answer = all(context, &session, "messages", &[]).await?;
                let table = table(entries(&answer, "messages"));
                context.answer(&answer, |context| context.print_table(&table, "no messages wait"))
            }
        }
    }
}

fn table(messages: &[Value]) -> Table {
    let mut table = Table::new(&["id", "from", "to", "about", "content", "waiting for", "sent"]);
    for message in messages {
        let to = match field(message, "to") {
            Value::String(all) => all.clone(),
            Value::Object(one) => one
                .iter()
                .map(|(kind, id)| match (kind.as_str(), id.as_str()) {
                    ("agent", Some(id)) => id.to_owned(),
                    (kind, id) => format!("{kind} {}", id.unwrap_or("")),
                })
                .collect(),
            _ => String::new(),
        };
        let waiting = match field(message, "waiting") {
            Value::Object(all) => all.keys().cloned().collect::<Vec<_>>().join(", "),
            _ => String::new(),
        };
        table.row([
            plain(message, "id"),
            plain(message, "from_agent"),
            to,
            plain(message, "topic"),
            plain(message, "content"),
            waiting,
            ago(message, "timestamp_ms"),
        ]);
    }
    table
}
