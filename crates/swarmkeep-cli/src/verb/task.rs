//! `swarmkeep task`: what is to be done, by whom, under which lease.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Name, Typed, agent, ago, all, command, command_with, entries, field, number, path, plain, print_fields};
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
    /// Put a task on the list
    Create {
        session: Name,
        /// What to do, in one line
        title: String,
        /// An id of your own, else one is made
        #[arg(long)]
        id: Option<String>,
        /// What kind of task
        #[arg(long, default_value = "task")]
        kind: String,
        /// Higher comes first
        #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
        priority: i64,
        /// Everything the worker needs; JSON, or text
        #[arg(long, value_name = "JSON")]
        payload: Option<String>,
        /// Part of this task
        #[arg(long, value_name = "TASK")]
        parent: Option<String>,
        /// Failures after which it is tried again
        #[arg(long, value_name = "N")]
        max_retries: Option<u32>,
        /// Give it to this agent at once
        #[arg(long, value_name = "AGENT")]
        assign: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// The tasks of a session
    Ls {
        session: Name,
        /// Only those with this status
        #[arg(long, value_parser = ["pending", "assigned", "running", "completed", "failed", "cancelled"])]
        status: Option<String>,
    },
    /// One task
    Show { session: Name, task: String },
    /// Take a task under a numbered lease: the one named, or the first that fits
    Claim {
        session: Name,
        /// For whom
        #[arg(long)]
        agent: String,
        /// This one
        task: Option<String>,
        /// Only these kinds; several with commas
        #[arg(long, value_delimiter = ',')]
        kinds: Option<Vec<String>>,
        /// How long the lease lasts without a heartbeat, in milliseconds
        #[arg(long, value_name = "MS")]
        lease_ms: Option<u64>,
        #[command(flatten)]
        write: Write,
    },
    /// Say that a claimed task is being worked on
    Heartbeat {
        session: Name,
        task: String,
        /// The number that `claim` answered with
        #[arg(long)]
        lease: u64,
    },
    /// Done
    Complete {
        session: Name,
        task: String,
        /// The number that `claim` answered with; left out for a task that nobody claimed
        #[arg(long)]
        lease: Option<u64>,
        /// What came of it; JSON, or text
        #[arg(long, value_name = "JSON")]
        result: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// This attempt failed; it is tried again while retries are left
    Fail {
        session: Name,
        task: String,
        /// What went wrong
        error: String,
        /// The number that `claim` answered with
        #[arg(long)]
        lease: Option<u64>,
        /// Failed for good, whatever retries are left
        #[arg(long)]
        permanent: bool,
        #[command(flatten)]
        write: Write,
    },
    /// Give a task back untouched
    Release {
        session: Name,
        task: String,
        /// The number that `claim` answered with; 0 for a task that was only assigned
        #[arg(long)]
        lease: u64,
        #[command(flatten)]
        write: Write,
    },
    /// Call a task off, with its children that have not ended
    Cancel {
        session: Name,
        task: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        write: Write,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Create { session, title, id, kind, priority, payload, parent, max_retries, assign, write } => {
                write.note(context);
                let assign = agent::id_if(context, &session, assign).await?;
                let mut task = json!({ "title": title, "kind": kind, "priority": priority });
                let mut typed = Typed::default();
                let optional = [
                    ("id", id.map(Value::from)),
                    ("payload", payload.as_deref().map(|payload| typed.keep(payload))),
                    ("parent", parent.map(Value::from)),
                    ("max_retries", max_retries.map(Value::from)),
                    ("assign", assign.map(Value::from)),
                ];
                if let Some(fields) = task.as_object_mut() {
                    fields.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
                }
                let Some(reply) = command_with(context, &session, json!({ "create_task": task }), typed).await? else {
                    return Ok(());
                };
                reply.tell(context, |reply| format!("task {} is on the list", reply.id()))
            }
            Self::Ls { session, status } => ls(context, &session, status).await,
            Self::Show { session, task } => {
                let answer = context.get_json(path(&session, &format!("/tasks/{}", segment(&task)))).await?;
                context.answer(&answer, |context| print_fields(context, &answer))
            }
            Self::Claim { session, agent, task, kinds, lease_ms, write } => {
                write.note(context);
                let agent = agent::id(context, &session, agent).await?;
                let claim =
                    json!({ "claim_task": { "agent": agent, "task": task, "kinds": kinds, "lease_ms": lease_ms } });
                let Some(reply) = command(context, &session, claim).await? else { return Ok(()) };
                let claimed = reply.outcome("claimed").clone();
                if field(&claimed, "task").is_null() {
                    return context.answer(&reply.raw, |_| say!("nothing to take"));
                }
                reply.tell(context, |_| {
                    format!(
                        "task {} is {agent}'s, lease {} for {} s without a heartbeat",
                        plain(&claimed, "task"),
                        number(&claimed, "lease"),
                        number(&claimed, "lease_ms") / 1000
                    )
                })
            }
            Self::Heartbeat { session, task, lease } => {
                let beat = Call::post(
                    path(&session, &format!("/tasks/{}/heartbeat", segment(&task))),
                    &json!({ "lease": lease }),
                );
                let Some(answer) = context.write(beat).await? else { return Ok(()) };
                let answer: Value =
                    if answer.body.is_empty() { json!({ "task": task, "lease": lease }) } else { answer.json()? };
                context.answer(&answer, |_| say!("task {task}: lease {lease} has its full time again"))
            }
            Self::Complete { session, task, lease, result, write } => {
                write.note(context);
                let mut typed = Typed::default();
                let result = typed.keep_if(result.as_ref());
                let done = json!({ "complete_task": { "task": task, "lease": lease, "result": result } });
                let Some(reply) = command_with(context, &session, done, typed).await? else { return Ok(()) };
                reply.tell(context, |_| format!("task {task} is completed"))
            }
            Self::Fail { session, task, error, lease, permanent, write } => {
                write.note(context);
                let failed =
                    json!({ "fail_task": { "task": task, "lease": lease, "error": error, "permanent": permanent } });
                let Some(reply) = command(context, &session, failed).await? else { return Ok(()) };
                reply.tell(context, |_| format!("task {task}: this attempt failed"))
            }
            Self::Release { session, task, lease, write } => {
                write.note(context);
                let Some(reply) =
                    command(context, &session, json!({ "release_task": { "task": task, "lease": lease } })).await?
                else {
                    return Ok(());
                };
                reply.tell(context, |_| format!("task {task} is on the list again"))
            }
            Self::Cancel { session, task, reason, write } => {
                write.note(context);
                let Some(reply) =
                    command(context, &session, json!({ "cancel_task": { "task": task, "reason": reason } })).await?
                else {
                    return Ok(());
                };
                reply.tell(context, |_| format!("task {task} is called off"))
            }
        }
    }
}

async fn ls(context: &mut Context, session: &str, status: Option<String>) -> Result<(), Failure> {
    let answer = all(context, session, "tasks", &[("status", status)]).await?;
    let mut table = Table::new(&["id", "*status", ">prio", "type", "title", "agent", ">retries", "created"]);
    for task in entries(&answer, "tasks") {
        table.row([
            plain(task, "id"),
            plain(task, "status"),
            plain(task, "priority"),
            plain(task, "kind"),
            plain(task, "title"),
            plain(task, "agent_id"),
            format!("{}/{}", number(task, "retry_count"), number(task, "max_retries")),
            ago(task, "created_at_ms"),
        ]);
    }
    context.answer(&answer, |context| context.print_table(&table, "no tasks"))
}
