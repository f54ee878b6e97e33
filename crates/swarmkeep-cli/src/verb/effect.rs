//! `swarmkeep effect`: what is done outside a session. `begin` is recorded before, `finish` after; between them, after a
//! crash, the outcome is unknown and somebody has to settle it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Name, Typed, agent, ago, all, command_with, entries, number, path, plain, print_fields, text};
use crate::{
    cli::Write,
    client::segment,
    context::Context,
    failure::{Exit, Failure},
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Before it is done: the answer says whether to do it
    Begin {
        session: Name,
        /// The effect's key: one thing done once
        effect: String,
        /// What may be done about a doubt
        #[arg(long, default_value = "at_most_once", value_parser = ["read", "idempotent", "at_most_once", "ask"])]
        class: String,
        /// By which agent
        #[arg(long)]
        agent: Option<String>,
        /// For which task
        #[arg(long)]
        task: Option<String>,
        /// The process that will do it; another one of the same --agent is how a crash is seen at once, not at the deadline
        #[arg(long, default_value = "cli")]
        instance: String,
        /// What is asked for; JSON, or text
        #[arg(long, value_name = "JSON")]
        what: Option<String>,
        /// After this long its outcome is unknown, in milliseconds
        #[arg(long, value_name = "MS")]
        deadline_ms: Option<u64>,
        #[command(flatten)]
        write: Write,
    },
    /// After it was done, or failed for certain
    Finish {
        session: Name,
        effect: String,
        /// The attempt that `begin` answered with
        #[arg(long, default_value_t = 1)]
        attempt: u32,
        /// It failed for certain
        #[arg(long)]
        failed: bool,
        /// The answer, or the error; JSON, or text
        #[arg(long, value_name = "JSON")]
        value: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Settle a doubt
    Resolve {
        session: Name,
        effect: String,
        #[command(flatten)]
        verdict: Verdict,
        /// The answer, or the error; JSON, or text
        #[arg(long, value_name = "JSON")]
        value: Option<String>,
        /// Who says so: user:NAME or reconciler:NAME
        #[arg(long)]
        by: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// The effects of a session
    Ls {
        session: Name,
        /// Only those with this status
        #[arg(long, value_parser = ["begun", "outcome_unknown", "not_done", "finished"])]
        status: Option<String>,
    },
    /// One effect
    Show { session: Name, effect: String },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Verdict {
    /// It was done
    #[arg(long)]
    done: bool,
    /// It was tried, and failed for certain
    #[arg(long)]
    failed: bool,
    /// It was not done; the next `begin` may do it
    #[arg(long)]
    not_done: bool,
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Begin { session, effect, class, agent, task, instance, what, deadline_ms, write } => {
                write.note(context);
                let agent = agent::id_if(context, &session, agent).await?;
                let mut begin = json!({ "effect": effect, "class": class, "instance": instance });
                let mut typed = Typed::default();
                let optional = [
                    ("agent", agent.map(Value::from)),
                    ("task", task.map(Value::from)),
                    ("request", what.as_deref().map(|what| typed.keep(what))),
                    ("deadline_ms", deadline_ms.map(Value::from)),
                ];
                if let Some(fields) = begin.as_object_mut() {
                    fields.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
                }
                let Some(reply) = command_with(context, &session, json!({ "begin_effect": begin }), typed).await?
                else {
                    return Ok(());
                };
                let unknown = reply.outcome("unknown");
                if !unknown.is_null() {
                    return Err(Failure::new(
                        Exit::Unknown,
                        "outcome_unknown",
                        format!("nobody knows whether effect {effect} was done: {}", text(unknown, "reason")),
                        format!(
                            "find out, then: swarmkeep effect resolve {session} {effect} --done --value 'JSON' with its result, or \
                             the same with --not-done in their place"
                        ),
                    ));
                }
                reply.tell(context, |reply| {
                    let recorded = reply.outcome("recorded");
                    if recorded.is_null() {
                        format!("do {effect} now, as attempt {}", number(reply.outcome("run"), "attempt"))
                    } else {
                        format!("{effect} was done before: {}", plain(recorded, "outcome"))
                    }
                })
            }
            Self::Finish { session, effect, attempt, failed, value, write } => {
                write.note(context);
                let mut typed = Typed::default();
                let outcome = json!({ "ok": !failed, "value": typed.keep_if(value.as_ref()) });
                let finish = json!({ "finish_effect": { "effect": effect, "attempt": attempt, "outcome": outcome } });
                let Some(reply) = command_with(context, &session, finish, typed).await? else { return Ok(()) };
                reply.tell(context, |_| format!("effect {effect} is finished"))
            }
            Self::Resolve { session, effect, verdict, value, by, write } => {
                write.note(context);
                let by = by.unwrap_or_else(|| match crate::context::user() {
                    user if user.starts_with("user:") => user,
                    nameless => format!("user:{nameless}"),
                });
                let mut typed = Typed::default();
                let mut resolve = json!({ "effect": effect, "by": by });
                if !verdict.not_done
                    && let Some(fields) = resolve.as_object_mut()
                {
                    fields.insert(
                        "outcome".into(),
                        json!({ "ok": verdict.done, "value": typed.keep_if(value.as_ref()) }),
                    );
                }
                let Some(reply) = command_with(context, &session, json!({ "resolve_effect": resolve }), typed).await?
                else {
                    return Ok(());
                };
                reply.tell(context, |_| format!("effect {effect}: settled by {by}"))
            }
            Self::Ls { session, status } => {
                let answer = all(context, &session, "effects", &[("status", status)]).await?;
                let mut table =
                    Table::new(&["key", "*status", "class", "agent", "task", ">attempt", "outcome", "begun"]);
                for effect in entries(&answer, "effects") {
                    table.row([
                        plain(effect, "id"),
                        plain(effect, "status"),
                        plain(effect, "class"),
                        plain(effect, "agent_id"),
                        plain(effect, "task_id"),
                        plain(effect, "attempt"),
                        plain(effect, "outcome"),
                        ago(effect, "begun_at_ms"),
                    ]);
                }
                context.answer(&answer, |context| context.print_table(&table, "no effects"))
            }
            Self::Show { session, effect } => {
                let answer = context.get_json(path(&session, &format!("/effects/{}", segment(&effect)))).await?;
                context.answer(&answer, |context| print_fields(context, &answer))
            }
        }
    }
}
