//! `swarmkeep memory`: what agents remember, by scope and key, each value with a version.

use clap::Subcommand;
use serde_json::json;

use super::{Name, ago, all, command, entries, number, path, plain, typed_json};
use crate::{
    cli::Write,
    client::segment,
    context::Context,
    failure::Failure,
    say::{out, say},
    table::Table,
};

/// The scope of callers that name none.
const SHARED: &str = "shared";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print a value
    Get {
        session: Name,
        key: String,
        /// An agent's id, a team, or `shared`
        #[arg(long, default_value = SHARED)]
        scope: String,
    },
    /// Store a value
    Set {
        session: Name,
        key: String,
        /// JSON, or text
        value: String,
        /// An agent's id, a team, or `shared`
        #[arg(long, default_value = SHARED)]
        scope: String,
        /// Only if the current version is this one; 0: only if there is none
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
        /// Gone after this long, in milliseconds
        #[arg(long, value_name = "MS")]
        ttl_ms: Option<u64>,
        #[command(flatten)]
        write: Write,
    },
    /// Remove a value
    Rm {
        session: Name,
        key: String,
        /// An agent's id, a team, or `shared`
        #[arg(long, default_value = SHARED)]
        scope: String,
        /// Only if the current version is this one
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
        #[command(flatten)]
        write: Write,
    },
    /// What is stored
    Ls {
        session: Name,
        /// Only this scope
        #[arg(long)]
        scope: Option<String>,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Get { session, key, scope } => {
                let answer = context.get_json(path(&session, &format!("/memory/{}/{}", segment(&scope), segment(&key)))).await?;
                // Raw, so that `$(swarmkeep memory get …)` is the value and nothing else.
                context.answer(&answer, |_| out(format_args!("{}\n", plain(&answer, "value"))))
            }
            Self::Set { session, key, value, scope, if_version, ttl_ms, write } => {
                write.note(context);
                let set = json!({ "set_memory": {
                    "scope": scope, "key": key, "value": typed_json(&value), "if_version": if_version, "ttl_ms": ttl_ms,
                } });
                let Some(reply) = command(context, &session, set).await? else { return Ok(()) };
                reply.tell(context, |reply| format!("{scope}/{key} is at version {}", number(reply.outcome("version"), "version")))
            }
            Self::Rm { session, key, scope, if_version, write } => {
                write.note(context);
                let rm = json!({ "delete_memory": { "scope": scope, "key": key, "if_version": if_version } });
                let Some(reply) = command(context, &session, rm).await? else { return Ok(()) };
                context.answer(&reply.raw, |_| say!("{scope}/{key} is gone"))
            }
            Self::Ls { session, scope } => {
                let answer = all(context, &session, "memory", &[("scope", scope)]).await?;
                let mut table = Table::new(&["scope", "key", "value", ">version", "by", "set"]);
                for entry in entries(&answer, "memory") {
                    table.row([
                        plain(entry, "scope"),
                        plain(entry, "key"),
                        plain(entry, "value"),
                        plain(entry, "version"),
                        plain(entry, "updated_by"),
                        ago(entry, "updated_at_ms"),
                    ]);
                }
                context.answer(&answer, |context| context.print_table(&table, "nothing is remembered"))
            }
        }
    }
}
