//! `swarmkeep agent`: the members of a swarm.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Name, Typed, ago, all, command, command_with, entries, field, number, path, plain, print_fields, text};
use crate::{
    cli::Write,
    client::{Call, segment},
    context::Context,
    failure::{Exit, Failure},
    moment,
    say::say,
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// A new agent joins the session
    Spawn {
        session: Name,
        /// A name, unique among agents that are not terminated
        name: Option<String>,
        /// An id of your own, else one is made
        #[arg(long)]
        id: Option<String>,
        /// What kind of agent
        #[arg(long, default_value = "worker")]
        kind: String,
        /// What it can do; several with commas
        #[arg(long, value_delimiter = ',')]
        capabilities: Vec<String>,
        /// Its settings, a JSON object
        #[arg(long, default_value = "{}", value_name = "JSON")]
        configuration: String,
        #[command(flatten)]
        write: Write,
    },
    /// The agents of a session, and when each was last heard of
    Ls {
        session: Name,
        /// Only those at work that were not heard of for so many seconds (60)
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
        overdue: Option<u64>,
    },
    /// One agent
    Show {
        session: Name,
        /// Its id, or its name
        agent: String,
    },
    /// Set an agent's status; ending it gives its tasks back
    Status {
        session: Name,
        /// Its id, or its name
        agent: String,
        #[arg(value_parser = ["idle", "busy", "failed", "terminated"])]
        status: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Say that a new process of an agent begins: what its earlier ones left half-written is closed
    Return {
        session: Name,
        /// Its id, or its name
        agent: String,
        /// The new process: a name that no earlier one had
        #[arg(long)]
        instance: String,
        #[command(flatten)]
        write: Write,
    },
    /// Say that an agent is alive
    Heartbeat {
        session: Name,
        /// Its id, or its name
        agent: String,
        /// The last one: it has nothing to do for now, and its silence from here on is no failure
        #[arg(long)]
        last: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Spawn { session, name, id, kind, capabilities, configuration, write } => {
                write.note(context);
                let mut typed = Typed::default();
                let called = name.clone();
                let mut agent = json!({
                    "kind": kind, "capabilities": capabilities, "configuration": typed.keep(&configuration),
                });
                if let Some(fields) = agent.as_object_mut() {
                    fields.extend(
                        [("name", name), ("id", id)]
                            .into_iter()
                            .filter_map(|(key, value)| Some((key.to_owned(), value?.into()))),
                    );
                }
                let Some(reply) = command_with(context, &session, json!({ "spawn_agent": agent }), typed).await? else {
                    return Ok(());
                };
                reply.tell(context, |reply| match called.filter(|name| name != reply.id()) {
                    Some(name) => format!("agent {name} joined; its id is {}", reply.id()),
                    None => format!("agent {} joined", reply.id()),
                })
            }
            Self::Ls { session, overdue } => ls(context, &session, overdue).await,
            Self::Show { session, agent } => {
                let agent = id(context, &session, agent).await?;
                let answer = context.get_json(path(&session, &format!("/agents/{}", segment(&agent)))).await?;
                context.answer(&answer, |context| print_fields(context, &answer))
            }
            Self::Status { session, agent, status, reason, write } => {
                write.note(context);
                let agent = id(context, &session, agent).await?;
                let set = json!({ "set_agent_status": { "agent": agent, "status": status, "reason": reason } });
                let Some(reply) = command(context, &session, set).await? else { return Ok(()) };
                reply.tell(context, |_| format!("agent {agent} is {status}"))
            }
            Self::Return { session, agent, instance, write } => {
                write.note(context);
                let agent = id(context, &session, agent).await?;
                let begins = json!({ "return_agent": { "agent": agent, "instance": instance } });
                let Some(reply) = command(context, &session, begins).await? else { return Ok(()) };
                reply.tell(context, |_| format!("agent {agent} works on in {instance}"))
            }
            Self::Heartbeat { session, agent, last } => {
                let agent = id(context, &session, agent).await?;
                let beat = if last { json!({ "last": true }) } else { json!({}) };
                let beat = Call::post(path(&session, &format!("/agents/{}/heartbeat", segment(&agent))), &beat);
                let Some(answer) = context.write(beat).await? else { return Ok(()) };
                let answer: Value = if answer.body.is_empty() { json!({ "agent": agent }) } else { answer.json()? };
                context.answer(&answer, |_| say!("agent {agent} {}", if last { "rests" } else { "is alive" }))
            }
        }
    }
}

async fn ls(context: &mut Context, session: &str, overdue: Option<u64>) -> Result<(), Failure> {
    let mut answer = all(context, session, "agents", &[]).await?;
    if let (Some(seconds), Some(agents)) = (overdue, answer.get_mut("agents").and_then(Value::as_array_mut)) {
        let before = moment::now_ms().saturating_sub(seconds.saturating_mul(1000));
        agents.retain(|agent| !matches!(text(agent, "status"), "failed" | "terminated") && heard_ms(agent) < before);
    }
    let mut table = Table::new(&["id", "name", "type", "*status", "last heard of", "capabilities", "joined"]);
    for agent in entries(&answer, "agents") {
        let capabilities: Vec<&str> = field(agent, "capabilities")
            .as_array()
            .map_or(Vec::new(), |all| all.iter().filter_map(|one| one.as_str()).collect());
        table.row([
            plain(agent, "id"),
            plain(agent, "name"),
            plain(agent, "kind"),
            plain(agent, "status"),
            moment::ago(heard_ms(agent), moment::now_ms()),
            capabilities.join(", "),
            ago(agent, "created_at_ms"),
        ]);
    }
    let nothing = if overdue.is_some() { "every agent at work was heard of" } else { "no agents" };
    context.answer(&answer, |context| context.print_table(&table, nothing))
}

/// An agent that never sent a heartbeat was heard of when it joined.
fn heard_ms(agent: &Value) -> u64 {
    number(agent, "last_heartbeat_ms").max(number(agent, "created_at_ms"))
}

/// The id of the agent that was typed: an id as it is, else the name of an agent that is not terminated (names are unique
/// among those). What is neither stays as it is: the daemon says that there is no such agent.
pub(super) async fn id(context: &mut Context, session: &str, typed: String) -> Result<String, Failure> {
    if context.dry_run {
        return Ok(typed);
    }
    match context.get_json(path(session, &format!("/agents/{}", segment(&typed)))).await {
        Ok(_) => return Ok(typed),
        Err(failure) if failure.code == "not_found" => {}
        // Not a thing that can be an id may still be a name.
        Err(failure) if failure.exit == Exit::Usage => {}
        Err(failure) => return Err(failure),
    }
    let there = match all(context, session, "agents", &[]).await {
        // No such session: what the verb itself asks says so.
        Err(failure) if failure.code == "not_found" => return Ok(typed),
        there => there?,
    };
    let named = entries(&there, "agents")
        .iter()
        .find(|agent| text(agent, "name") == typed && text(agent, "status") != "terminated");
    Ok(named.map_or(typed, |agent| text(agent, "id").to_owned()))
}

/// The same for what may be left out.
pub(super) async fn id_if(
    context: &mut Context,
    session: &str,
    typed: Option<String>,
) -> Result<Option<String>, Failure> {
    match typed {
        Some(typed) => Ok(Some(id(context, session, typed).await?)),
        None => Ok(None),
    }
}
