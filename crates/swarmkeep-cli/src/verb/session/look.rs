//! Ls, show, state, diff.

use clap::Args;
use serde_json::Value;

use super::super::{entries, field, number, path, plain, text};
use crate::{
    client::query,
    context::{Context, print_json},
    failure::{Exit, Failure},
    moment, progress,
    say::say,
    table::{Table, cut, printable},
};

/// Sessions of the store, page by page.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only of this owner
    #[arg(long)]
    owner: Option<String>,
    /// Only with this status
    #[arg(long, value_parser = ["live", "paused", "parked", "needs_decision", "quarantined", "closed", "expired"])]
    status: Option<String>,
    /// Newest first
    #[arg(long)]
    newest: bool,
    /// Rows in the page
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// Go on after this: what the page before ended with
    #[arg(long)]
    cursor: Option<String>,
}

impl Ls {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let pairs = [
            ("namespace", self.namespace),
            ("owner", self.owner),
            ("status", self.status),
            ("order", self.newest.then(|| "newest".to_owned())),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("cursor", self.cursor),
        ];
        until_views_follow(context).await?;
        let page = context.get_json(format!("/v1/sessions{}", query(&pairs))).await?;
        let is_damaged = |row: &&Value| !text(row, "damage").is_empty();
        let damaged = entries(&page, "rows").iter().filter(is_damaged).count();
        let mut titles = vec!["session", "*status", "owner", ">seq", "created"];
        if damaged > 0 {
            titles.push("damage");
        }
        let mut table = Table::new(&titles);
        for row in entries(&page, "rows") {
            let name = match (text(row, "namespace"), text(row, "name")) {
                ("", name) => name.to_owned(),
                (namespace, name) => format!("{namespace}/{name}"),
            };
            let created = [number(row, "created_at"), number(row, "created_at_ms")].into_iter().max().unwrap_or(0);
            let seq = ["head_seq", "seq", "last_seq"].iter().map(|name| number(row, name)).max().unwrap_or(0);
            table.row([
                name,
                plain(row, "status"),
                plain(row, "owner"),
                seq.to_string(),
                moment::ago(created, moment::now_ms()),
                if is_damaged(&row) { "SET ASIDE".to_owned() } else { String::new() },
            ]);
        }
        context.answer(&page, |context| {
            context.print_table(&table, "no sessions");
            if damaged > 0 {
                let program = context.place.program();
                say!(
                    "{}",
                    context.paint.red(format_args!(
                        "{damaged} damaged: `{program} session show NAME` says what is wrong and what to do"
                    ))
                );
            }
            if let Some(line) = progress::still_looked_at(number(&page, "being_looked_at")) {
                say!("{}", context.paint.yellow(line));
            }
            if let Some(next) = field(&page, "next").as_str() {
                say!("{}", context.paint.dim(format_args!("more: --cursor {next}")));
            }
        })
    }
}

/// Lists are answered from the views, which follow the log within moments. Whoever made a session in the call before should
/// find it in this one: it waits those moments, and no longer.
async fn until_views_follow(context: &mut Context) -> Result<(), Failure> {
    for _ in 0..50 {
        let store = context.get_json("/v1/store").await?;
        let store = field(&store, "store");
        if number(store, "unapplied_bytes") == 0 && number(store, "views_position") >= number(store, "records_position")
        {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Ok(())
}

pub(crate) async fn show(context: &mut Context, session: &str) -> Result<(), Failure> {
    let answer = match context.get_json(path(session, "")).await {
        Err(failure) if failure.exit == Exit::Corrupt => return Err(show_damaged(context, session, failure).await),
        answer => answer?,
    };
    let names = super::super::recover::names(context, &answer).await;
    context.answer(&answer, |context| {
        let paint = context.paint;
        let line = |name: &str, value: String| {
            if !value.is_empty() {
                say!("{}  {value}", paint.dim(format_args!("{name:<9}")));
            }
        };
        line("session", paint.bold(printable(&plain(&answer, "name"))));
        let reason = plain(&answer, "status_reason");
        line(
            "status",
            format!(
                "{}{}",
                paint.status(text(&answer, "status")),
                if reason.is_empty() { String::new() } else { format!(" ({})", printable(&reason)) }
            ),
        );
        line("owner", printable(&plain(&answer, "owner")));
        line("created", moment::utc(number(&answer, "created_at_ms")));
        let head = field(&answer, "head");
        line("head", format!("seq {} of {}", number(head, "seq"), moment::utc(number(head, "time_ms"))));
        line("hash", printable(text(head, "hash")));
        line("state", moment::bytes(number(&answer, "state_bytes")));
        let counts = field(&answer, "counts").as_object();
        let counts: Vec<String> = counts
            .into_iter()
            .flatten()
            .filter(|(_, count)| count.as_u64() != Some(0))
            .map(|(what, count)| match count.as_u64() {
                Some(1) => moment::counted(1, what.trim_end_matches('s')),
                _ => format!("{count} {what}"),
            })
            .collect();
        line("holds", counts.join(", "));
        if let Some(origin) = field(&answer, "forked_from").as_object() {
            let origin = Value::Object(origin.clone());
            line(
                "fork of",
                format!("{} at seq {}", printable(names.of(text(&origin, "session"))), number(&origin, "seq")),
            );
        }
    })?;
    if text(&answer, "status") == "needs_decision" {
        let recovery = context.get_json(path(session, "/recovery")).await?;
        return Err(super::super::quarantine::needs_decision(context, session, field(&recovery, "recovery")));
    }
    Ok(())
}

/// A session that is set aside has no state to show: what is known of it, and what to do.
async fn show_damaged(context: &mut Context, session: &str, mut failure: Failure) -> Failure {
    let program = context.place.program();
    let row = context.get_json(format!("/v1/query/sessions{}", query(&[("session", Some(session.to_owned()))]))).await;
    let row = row.ok().and_then(|page| entries(&page, "rows").first().cloned()).unwrap_or_default();
    if !context.json && !row.is_null() {
        let paint = context.paint;
        let line = |name: &str, value: String| {
            if !value.is_empty() {
                say!("{}  {value}", paint.dim(format_args!("{name:<9}")));
            }
        };
        line("session", paint.bold(printable(&format!("{}/{}", text(&row, "namespace"), text(&row, "name")))));
        line("status", format!("{}, {} as damaged", text(&row, "status"), paint.red("SET ASIDE")));
        line("owner", printable(&plain(&row, "owner")));
        line("created", moment::utc(number(&row, "created_at")));
        line("head", format!("seq {}, by the lists", number(&row, "seq")));
    }
    let names = super::super::recover::names(context, &Value::from(failure.what.as_str())).await;
    failure.what = names.put_into(&failure.what);
    failure.next = format!(
        "{program} quarantine show {session} says what is lost and what to do; what is before the damage, if anything, is readable: \
         {program} session history {session}"
    );
    failure
}

/// The canonical state is JSON already: with `--json` it is passed through as it came, else set out for reading, without
/// the requests that were carried out, which are there for programs that repeat one.
pub(crate) async fn state(context: &mut Context, session: &str, at: Option<u64>) -> Result<(), Failure> {
    let answer = context.get(path(session, "/state") + &query(&[("at", at.map(|at| at.to_string()))])).await?;
    if context.json {
        crate::say::out(format_args!("{}\n", String::from_utf8_lossy(&answer.body)));
        crate::say::has_answered();
        return Ok(());
    }
    let mut state: Value = answer.json()?;
    if let Some(fields) = state.as_object_mut() {
        fields.remove("requests");
    }
    say!("{}", serde_json::to_string_pretty(&state).unwrap_or_default());
    Ok(())
}

pub(crate) async fn diff(context: &mut Context, session: &str, from: u64, to: Option<u64>) -> Result<(), Failure> {
    let pairs = [("from", Some(from.to_string())), ("to", to.map(|to| to.to_string()))];
    let diff = context.get_json(path(session, "/diff") + &query(&pairs)).await?;
    if context.json {
        return print_json(&diff);
    }
    show_changes(context, &diff);
    Ok(())
}

/// What a rewind from `head` to `to` would change.
pub(crate) async fn undone(context: &mut Context, session: &str, to: u64, head: u64) -> Result<(), Failure> {
    let pairs = [("from", Some(to.to_string())), ("to", Some(head.to_string()))];
    let mut diff = context.get_json(path(session, "/diff") + &query(&pairs)).await?;
    turn_round(&mut diff);
    context.answer(&diff, |context| {
        show_changes(context, &diff);
        say!("Effects stay as they are. A task that was claimed at seq {to} is pending again.");
    })
}

/// Turns a diff into that of the rewind from its end to its beginning: effects stay, and leases end.
fn turn_round(diff: &mut Value) {
    let Some(fields) = diff.as_object_mut() else { return };
    let (from, to) = (fields.remove("from"), fields.remove("to"));
    fields.extend([("from".to_owned(), to.unwrap_or_default()), ("to".to_owned(), from.unwrap_or_default())]);
    let Some(changes) = fields.get_mut("changes").and_then(Value::as_array_mut) else { return };
    changes.retain(|change| !matches!(text(change, "table"), "effects" | "requests"));
    for change in changes.iter_mut().filter_map(Value::as_object_mut) {
        let kind = match change.get("kind").and_then(Value::as_str) {
            Some("added") => "removed",
            Some("removed") => "added",
            _ => "changed",
        };
        let is_task = change.get("table").is_some_and(|table| table == "tasks");
        let (before, mut after) = (change.remove("after"), change.remove("before"));
        if let Some(task) = after.as_mut().and_then(Value::as_object_mut)
            && is_task
            && task.get("status").is_some_and(|status| status == "running")
        {
            task.extend([
                ("status".to_owned(), "pending".into()),
                ("agent_id".to_owned(), Value::Null),
                ("lease".to_owned(), Value::Null),
            ]);
        }
        change.insert("kind".into(), kind.into());
        change.extend(
            [("before", before), ("after", after)].into_iter().filter_map(|(name, row)| Some((name.to_owned(), row?))),
        );
    }
}

fn show_changes(context: &Context, diff: &Value) {
    let changes = entries(diff, "changes");
    for change in changes {
        let paint = context.paint;
        let what = printable(&format!("{} {}", text(change, "table"), text(change, "id")));
        let (before, after) = (field(change, "before"), field(change, "after"));
        let width = crate::table::terminal_width().unwrap_or(usize::MAX).saturating_sub(4);
        match text(change, "kind") {
            "added" => say!(
                "{}\n    {}",
                paint.green(format_args!("+ {what}")),
                paint.dim(cut(&printable(&after.to_string()), width))
            ),
            "removed" => say!(
                "{}\n    {}",
                paint.red(format_args!("- {what}")),
                paint.dim(cut(&printable(&before.to_string()), width))
            ),
            _ => {
                say!("{}", paint.yellow(format_args!("~ {what}")));
                for name in after
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name)
                    .filter(|name| before.get(name) != after.get(name))
                {
                    let line = format!("{name}: {} → {}", field(before, name), field(after, name));
                    say!("    {}", paint.dim(cut(&printable(&line), width)));
                }
            }
        }
    }
    if changes.is_empty() {
        say!("{}", context.paint.dim("nothing changed"));
    }
}
