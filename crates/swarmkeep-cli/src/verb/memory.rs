//! `swarmkeep memory`: what agents remember, by scope and key, each value with a version.

use clap::Subcommand;
use serde_json::json;

use super::{Name, Typed, ago, all, command, command_with, entries, number, path, plain, typed_or_read};
use crate::{cli::Write, client::segment, context::Context, failure::Failure, say::say, table::Table};

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
        /// JSON, or text; `-`: what standard input has
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

/// The part of an entry that is printed.
#[derive(serde::Deserialize)]
struct Entry {
    value: Box<serde_json::value::RawValue>,
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Get { session, key, scope } => {
                let answer =
                    context.get(path(&session, &format!("/memory/{}/{}", segment(&scope), segment(&key)))).await?;
                if context.json {
                    say!("{}", String::from_utf8_lossy(&answer.body));
                    crate::say::has_answered();
                    return Ok(());
                }
                // Raw, so that `$(swarmkeep memory get …)` is the value and nothing else, as it was stored.
                let entry: Entry = answer.json()?;
                let value = entry.value.get();
                say!("{}", serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned()));
                Ok(())
            }
            Self::Set { session, key, value, scope, if_version, ttl_ms, write } => {
                write.note(context);
                let value = typed_or_read(value)?;
                let mut typed = Typed::default();
                let set = json!({ "set_memory": {
                    "scope": scope, "key": key, "value": typed.keep(&value), "if_version": if_version, "ttl_ms": ttl_ms,
                } });
                let Some(reply) = command_with(context, &session, set, typed).await? else { return Ok(()) };
                reply.tell(context, |reply| {
                    format!("{scope}/{key} is at version {}", number(reply.outcome("version"), "version"))
                })
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
