//! Ls, show, state, diff.

use clap::Args;
use serde_json::Value;

use super::super::{entries, field, number, path, plain, text};
use crate::{
    client::query,
    context::{Context, print_json},
    failure::Failure,
    moment,
    say::say,
    table::{Table, printable},
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
        let page = context.get_json(format!("/v1/sessions{}", query(&pairs))).await?;
        let mut table = Table::new(&["session", "*status", "owner", ">seq", "created"]);
        for row in entries(&page, "rows") {
            let name = match (text(row, "namespace"), text(row, "name")) {
                ("", name) => name.to_owned(),
                (namespace, name) => format!("{namespace}/{name}"),
            };
            let created = [number(row, "created_at"), number(row, "created_at_ms")].into_iter().max().unwrap_or(0);
            let seq = ["head_seq", "seq", "last_seq"].iter().map(|name| number(row, name)).max().unwrap_or(0);
            table.row([name, plain(row, "status"), plain(row, "owner"), seq.to_string(), moment::ago(created, moment::now_ms())]);
        }
        context.answer(&page, |context| {
            context.print_table(&table, "no sessions");
            if let Some(next) = field(&page, "next").as_str() {
                say!("{}", context.paint.dim(format_args!("more: --cursor {next}")));
            }
        })
    }
}

pub(crate) async fn show(context: &mut Context, session: &str) -> Result<(), Failure> {
    let answer = context.get_json(path(session, "")).await?;
    context.answer(&answer, |context| {
        let paint = context.paint;
        let line = |name: &str, value: String| {
            if !value.is_empty() {
                say!("{}  {value}", paint.dim(format_args!("{name:<9}")));
            }
        };
        line("session", paint.bold(printable(&plain(&answer, "name"))));
        let reason = plain(&answer, "status_reason");
        line("status", format!("{}{}", paint.status(text(&answer, "status")), if reason.is_empty() { String::new() } else { format!(" ({})", printable(&reason)) }));
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
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        line("holds", counts.join(", "));
        if let Some(origin) = field(&answer, "forked_from").as_object() {
            line("fork of", printable(&Value::Object(origin.clone()).to_string()));
        }
    })
}

/// The canonical state is JSON already: with `--json` it is passed through as it came, else set out for reading.
pub(crate) async fn state(context: &mut Context, session: &str, at: Option<u64>) -> Result<(), Failure> {
    let answer = context.get(path(session, "/state") + &query(&[("at", at.map(|at| at.to_string()))])).await?;
    if context.json {
        crate::say::out(format_args!("{}\n", String::from_utf8_lossy(&answer.body)));
        return Ok(());
    }
    let state: Value = answer.json()?;
    say!("{}", serde_json::to_string_pretty(&state).unwrap_or_default());
    Ok(())
}

pub(crate) async fn diff(context: &mut Context, session: &str, from: u64, to: Option<u64>) -> Result<(), Failure> {
    let pairs = [("from", Some(from.to_string())), ("to", to.map(|to| to.to_string()))];
    let diff = context.get_json(path(session, "/diff") + &query(&pairs)).await?;
    if context.json {
        return print_json(&diff);
    }
    let mut said = false;
    walk(context, "", &diff, &mut said);
    if !said {
        say!("{}", context.paint.dim("nothing changed"));
    }
    Ok(())
}

/// Tables have lists of what was added, removed and changed; everything else is said as it is.
fn walk(context: &Context, at: &str, value: &Value, said: &mut bool) {
    let paint = context.paint;
    let Some(object) = value.as_object() else { return };
    for (name, inner) in object {
        let place = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let changes = match (name.as_str(), inner) {
            ("added" | "removed" | "changed", Value::Array(list)) => list.iter().map(|one| (String::new(), one)).collect(),
            ("added" | "removed" | "changed", Value::Object(map)) => map.iter().map(|(key, one)| (key.clone(), one)).collect(),
            (_, Value::Object(_)) => {
                walk(context, &place, inner, said);
                continue;
            }
            _ => Vec::new(),
        };
        for (key, change) in changes {
            *said = true;
            let table = if at.is_empty() { "session" } else { at };
            let label = if key.is_empty() { label(change) } else { key };
            let body = printable(&change.to_string());
            let line = match name.as_str() {
                "added" => paint.green(format_args!("+ {table} {}", printable(&label))),
                "removed" => paint.red(format_args!("- {table} {}", printable(&label))),
                _ => paint.yellow(format_args!("~ {table} {}", printable(&label))),
            };
            let text = crate::table::cut(&body, crate::table::terminal_width().unwrap_or(usize::MAX).saturating_sub(4));
            say!("{line}\n    {}", paint.dim(text));
        }
    }
}

fn label(entity: &Value) -> String {
    for name in ["id", "key"] {
        match field(entity, name) {
            Value::String(text) => return text.clone(),
            Value::Object(key) => return key.values().filter_map(Value::as_str).collect::<Vec<_>>().join("/"),
            _ => {}
        }
    }
    String::new()
}
