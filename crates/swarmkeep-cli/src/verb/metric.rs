//! `swarmkeep metric`: telemetry of agents. Observations: kept in batches, outside the chain of records.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{Name, agent, entries, number, path, plain};
use crate::{
    cli::Write,
    client::{Call, query},
    context::Context,
    failure::Failure,
    moment,
    say::say,
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Note a measurement
    Add {
        session: Name,
        /// Of which agent
        #[arg(long)]
        agent: String,
        /// What was measured
        name: String,
        #[arg(allow_hyphen_values = true)]
        value: f64,
        /// What kind of metric
        #[arg(long, default_value = "performance")]
        kind: String,
        /// More about it, NAME=VALUE; may be given several times
        #[arg(long = "tag", value_name = "NAME=VALUE")]
        tags: Vec<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Measurements, newest first
    Ls {
        session: Name,
        /// Only of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only of this kind
        #[arg(long)]
        kind: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Add { session, agent, name, value, kind, tags, write } => {
                write.note(context);
                let mut all = Map::new();
                for tag in tags {
                    let (key, value) = tag
                        .split_once('=')
                        .ok_or_else(|| Failure::usage(format!("tag `{tag}` has no `=`"), "give --tag NAME=VALUE"))?;
                    all.insert(key.to_owned(), value.into());
                }
                let agent = agent::id(context, &session, agent).await?;
                let metric = json!({ "agent": agent, "kind": kind, "name": name, "value": value, "tags": all });
                let call = Call::post(path(&session, "/metrics"), &json!({ "metrics": [metric] }));
                let Some(answer) = context.write(call).await? else { return Ok(()) };
                let answer: Value = if answer.body.is_empty() { json!({ "metrics": 1 }) } else { answer.json()? };
                context.answer(&answer, |_| say!("{name} of {agent} is noted"))
            }
            Self::Ls { session, agent, kind, limit } => {
                let pairs = [
                    ("agent", agent::id_if(context, &session, agent).await?),
                    ("kind", kind),
                    ("order", Some("newest".to_owned())),
                    ("limit", limit.map(|limit| limit.to_string())),
                ];
                let answer = context.get_json(path(&session, "/metrics") + &query(&pairs)).await?;
                let mut table = Table::new(&["time", "agent", "type", "name", ">value", "tags"]);
                for metric in entries(&answer, if answer.get("rows").is_some() { "rows" } else { "metrics" }) {
                    let time = ["timestamp", "timestamp_ms", "time_ms"]
                        .iter()
                        .map(|name| number(metric, name))
                        .max()
                        .unwrap_or(0);
                    let agent =
                        ["agent_id", "agent"].iter().map(|name| plain(metric, name)).find(|text| !text.is_empty());
                    table.row([
                        moment::utc(time),
                        agent.unwrap_or_default(),
                        plain(metric, "metric_type"),
                        plain(metric, "metric_name"),
                        plain(metric, "value"),
                        plain(metric, "tags"),
                    ]);
                }
                context.answer(&answer, |context| context.print_table(&table, "nothing was measured"))
            }
        }
    }
}
