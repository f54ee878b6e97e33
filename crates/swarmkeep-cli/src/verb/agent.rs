//! `swarmkeep agent`: the members of a swarm.

use clap::Subcommand;
use serde_json::json;

use super::{Name, Typed, ago, all, command, command_with, entries, field, path, plain, print_fields};
use crate::{
    cli::Write,
    client::{Call, segment},
    context::Context,
    failure::Failure,
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
    /// The agents of a session
    Ls { session: Name },
    /// One agent
    Show { session: Name, agent: String },
    /// Set an agent's status; ending it gives its tasks back
    Status {
        session: Name,
        agent: String,
        #[arg(value_parser = ["idle", "busy", "failed", "terminated"])]
        status: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Say that an agent is alive
    Heartbeat { session: Name, agent: String },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Spawn { session, name, id, kind, capabilities, configuration, write } => {
                write.note(context);
                let mut typed = Typed::default();
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
                reply.tell(context, |reply| format!("agent {} joined", reply.id()))
            }
            Self::Ls { session } => {
                let answer = all(context, &session, "agents", &[]).await?;
                let mut table = Table::new(&["id", "name", "type", "*status", "capabilities", "joined"]);
                for agent in entries(&answer, "agents") {
                    let capabilities: Vec<&str> = field(agent, "capabilities")
                        .as_array()
                        .map_or(Vec::new(), |all| all.iter().filter_map(|one| one.as_str()).collect());
                    table.row([
                        plain(agent, "id"),
                        plain(agent, "name"),
                        plain(agent, "kind"),
                        plain(agent, "status"),
                        capabilities.join(", "),
                        ago(agent, "created_at_ms"),
                    ]);
                }
                context.answer(&answer, |context| context.print_table(&table, "no agents"))
            }
            Self::Show { session, agent } => {
                let answer = context.get_json(path(&session, &format!("/agents/{}", segment(&agent)))).await?;
                context.answer(&answer, |context| print_fields(context, &answer))
            }
            Self::Status { session, agent, status, reason, write } => {
                write.note(context);
                let set = json!({ "set_agent_status": { "agent": agent, "status": status, "reason": reason } });
                let Some(reply) = command(context, &session, set).await? else { return Ok(()) };
                reply.tell(context, |_| format!("agent {agent} is {status}"))
            }
            Self::Heartbeat { session, agent } => {
                let beat = Call::post(path(&session, &format!("/agents/{}/heartbeat", segment(&agent))), &json!({}));
                let Some(answer) = context.write(beat).await? else { return Ok(()) };
                let answer: serde_json::Value =
                    if answer.body.is_empty() { json!({ "agent": agent }) } else { answer.json()? };
                context.answer(&answer, |_| say!("agent {agent} is alive"))
            }
        }
    }
}
