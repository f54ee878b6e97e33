//! `swarmkeep checkpoint`: states that were saved. The system makes them by itself; this is for before something risky.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Name, entries, number, path, plain};
use crate::{cli::Write, client::Call, context::Context, failure::Failure, moment, say::say, table::Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Save the state now
    Make {
        session: Name,
        #[command(flatten)]
        write: Write,
    },
    /// Saved states of a session
    Ls { session: Name },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Make { session, write } => make(context, &session, write).await,
            Self::Ls { session } => {
                let answer = context.get_json(path(&session, "/checkpoints")).await?;
                let mut table = Table::new(&[">seq", "time", ">bytes", "hash"]);
                for checkpoint in entries(&answer, "checkpoints") {
                    let head = checkpoint.get("head").unwrap_or(checkpoint);
                    table.row([
                        number(head, "seq").to_string(),
                        moment::utc(number(head, "time_ms")),
                        plain(checkpoint, "bytes"),
                        plain(head, "hash").chars().take(16).collect(),
                    ]);
                }
                context.answer(&answer, |context| context.print_table(&table, "no checkpoint yet: the log is short"))
            }
        }
    }
}

pub(crate) async fn make(context: &mut Context, session: &str, write: Write) -> Result<(), Failure> {
    write.note(context);
    let Some(answer) = context.write(Call::post(path(session, "/checkpoints"), &json!({}))).await? else {
        return Ok(());
    };
    let answer: Value = answer.json()?;
    context.answer(&answer, |_| {
        let seq = answer.pointer("/head/seq").and_then(Value::as_u64).unwrap_or(0);
        say!("the state of {session} at seq {seq} is saved");
    })
}
