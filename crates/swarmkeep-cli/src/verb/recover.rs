//! `swarmkeep recover`: what coming back found.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{entries, field, number, text};
use crate::{context::Context, failure::Failure, moment, say::say, table::{Table, printable}};

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Every coming back of this store, newest first
    History,
}

impl Recover {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let answer = context.get_json("/v1/recoveries").await?;
        let recoveries = entries(&answer, "recoveries");
        if let Some(Verb::History) = self.verb {
            let mut table = Table::new(&["id", "when", "how", ">frames", ">opened ms", ">sessions"]);
            for recovery in recoveries {
                table.row([
                    text(recovery, "id").to_owned(),
                    moment::utc(number(recovery, "at_ms")),
                    if field(recovery, "clean").as_bool() == Some(true) { "after a clean stop" } else { "after a death" }.to_owned(),
                    number(recovery, "frames_replayed").to_string(),
                    number(recovery, "opened_ms").to_string(),
                    number(recovery, "sessions_checked").to_string(),
                ]);
            }
            return context.answer(&answer, |context| context.print_table(&table, "this store never had to come back"));
        }
        let last = recoveries.first().cloned().unwrap_or(Value::Null);
        context.answer(&last, |_| {
            for line in lines(&last) {
                say!("{line}");
            }
        })
    }
}

/// A report for people, a line for each thing found.
pub(crate) fn lines(report: &Value) -> Vec<String> {
    if report.is_null() {
        return vec!["a new store".into()];
    }
    let mut lines = Vec::new();
    let opened_ms = number(report, "opened_ms");
    if field(report, "clean").as_bool() == Some(true) {
        lines.push(format!("a clean stop before; open after {opened_ms} ms"));
    } else {
        let frames = number(report, "frames_replayed");
        lines.push(format!(
            "a death before; {frames} frames ({}) that the tables lacked are there; open after {opened_ms} ms",
            moment::bytes(number(report, "bytes_replayed"))
        ));
    }
    if let Some(all) = field(report, "all_checked_ms").as_u64() {
        lines.push(format!("{} live sessions read and verified after {all} ms", number(report, "sessions_checked")));
    }
    for (name, what) in [
        ("tail_kept", "kept, though nothing vouches that it was acknowledged"),
        ("possibly_acknowledged", "could not be read and may have been acknowledged; its bytes are in quarantine/"),
    ] {
        for span in entries(field(report, name), "") {
            let seqs = match (field(span, "first").as_u64(), field(span, "last").as_u64()) {
                (Some(first), Some(last)) => format!("seq {first} to {last}"),
                _ => "unknown seqs".into(),
            };
            lines.push(format!("session {}, {seqs}: {what}", text(span, "session")));
        }
    }
    for damage in entries(field(report, "damage"), "") {
        lines.push(format!("damage: {}", printable(damage.as_str().unwrap_or(""))));
    }
    if field(report, "views_rebuilt").as_bool() == Some(true) {
        lines.push("views.db is built again from the records".into());
    }
    for problem in entries(field(report, "problems"), "") {
        lines.push(format!("session {} does not come back: {}", text(problem, "session"), printable(text(problem, "what"))));
    }
    lines
}
