//! Create, open, fork, rewind, pause, resume, park, close.

use clap::Args;
use serde_json::{Value, json};

use super::super::{Reply, number, path, text};
use crate::{cli::Write, client::Call, context::Context, failure::Failure, moment::counted, say::say};

/// What a new session is made with.
#[derive(Debug, Args)]
pub(crate) struct With {
    /// The person or team it belongs to
    #[arg(long)]
    owner: Option<String>,
    /// Expires this long after its creation, in milliseconds
    #[arg(long, value_name = "MS")]
    ttl_ms: Option<u64>,
    /// Expires this long after its last record, in milliseconds
    #[arg(long, value_name = "MS")]
    idle_ttl_ms: Option<u64>,
}

impl With {
    fn body(self) -> serde_json::Map<String, Value> {
        let optional = [
            ("owner", self.owner.map(Value::from)),
            ("ttl_ms", self.ttl_ms.map(Value::from)),
            ("idle_ttl_ms", self.idle_ttl_ms.map(Value::from)),
            ("metadata", Some(json!({ "source": "cli" }))),
        ];
        optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

pub(crate) async fn create(context: &mut Context, session: &str, with: With, write: Write) -> Result<(), Failure> {
    write.note(context);
    let mut body = with.body();
    body.insert("name".into(), session.into());
    let made = context.write(Call::post("/v1/sessions", &Value::Object(body))).await.map_err(|mut failure| {
        failure.next = failure.next.replace(" NAME", &format!(" {session}"));
        failure
    });
    let Some(answer) = made? else { return Ok(()) };
    Reply::of(&answer)?.tell(context, |_| format!("session {session} is there"))
}

pub(crate) async fn open(context: &mut Context, session: &str, with: With, write: Write) -> Result<(), Failure> {
    write.note(context);
    let call = Call::post(path(session, "/open"), &Value::Object(with.body()));
    let Some(answer) = context.write(call).await? else { return Ok(()) };
    let made = answer.status == 201;
    Reply::of(&answer)?.tell(context, |reply| {
        let status = reply.raw.pointer("/session/status").and_then(Value::as_str).unwrap_or("live");
        if made { format!("session {session} is new") } else { format!("session {session} is {status}") }
    })
}

pub(crate) async fn fork(
    context: &mut Context,
    session: &str,
    new: &str,
    at: Option<u64>,
    reason: Option<String>,
    write: Write,
) -> Result<(), Failure> {
    write.note(context);
    let mut body = json!({ "name": new });
    let optional = [("at", at.map(Value::from)), ("reason", reason.map(Value::from))];
    if let Some(fields) = body.as_object_mut() {
        fields.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
    let Some(answer) = context.write(Call::post(path(session, "/fork"), &body)).await? else { return Ok(()) };
    Reply::of(&answer)?.tell(context, |_| {
        format!("session {new} begins where {session} {}", at.map_or("stands".into(), |at| format!("was at seq {at}")))
    })
}

/// With `--dry-run` it shows what would change.
pub(crate) async fn rewind(
    context: &mut Context,
    session: &str,
    to: u64,
    reason: Option<String>,
    write: Write,
) -> Result<(), Failure> {
    write.note(context);
    if context.dry_run {
        let now = context.get_json(path(session, "")).await?;
        let head = now.pointer("/head/seq").and_then(Value::as_u64).unwrap_or(0);
        if to > head {
            return Err(Failure::usage(
                format!("{session} ends at seq {head}, before {to}"),
                format!("`swarmkeep session history {session}` shows its seqs"),
            ));
        }
        if !context.json {
            say!("would set {session} back from seq {head} to {to}, and did not. What would change:");
        }
        return super::look::undone(context, session, to, head).await;
    }
    let mut body = json!({ "to": to });
    if let (Some(reason), Some(fields)) = (reason, body.as_object_mut()) {
        fields.insert("reason".into(), reason.into());
    }
    let Some(answer) = context.write(Call::post(path(session, "/rewind"), &body)).await? else { return Ok(()) };
    Reply::of(&answer)?.tell(context, |_| format!("session {session} stands as it did at seq {to}"))
}

/// Pause, resume, park, close.
pub(crate) async fn turn(
    context: &mut Context,
    session: &str,
    verb: &str,
    becomes: &str,
    reason: Option<String>,
    write: Write,
) -> Result<(), Failure> {
    write.note(context);
    if context.dry_run && verb == "close" && !context.json {
        let now = context.get_json(path(session, "")).await?;
        let count = |what: &str| now.pointer(&format!("/counts/{what}")).and_then(Value::as_u64).unwrap_or(0);
        say!(
            "{session} is {}, with {}, {}, {}",
            text(&now, "status"),
            counted(count("agents"), "agent"),
            counted(count("tasks"), "task"),
            counted(count("messages"), "waiting message")
        );
    }
    let body = reason.map_or(json!({}), |reason| json!({ "reason": reason }));
    let Some(answer) = context.write(Call::post(path(session, &format!("/{verb}")), &body)).await? else {
        return Ok(());
    };
    Reply::of(&answer)?.tell(context, |reply| {
        if number(&reply.raw, "first") == 0 {
            format!("session {session} was {becomes} already")
        } else {
            format!("session {session} is {becomes}")
        }
    })
}
