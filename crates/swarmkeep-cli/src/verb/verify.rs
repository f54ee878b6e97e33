//! `swarmkeep verify`: every way to a session's state leads to the same bytes, and every byte is what was hashed.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use swarmkeep_server::reading::without_hint;

use super::{Name, entries, number, plain, text};
use crate::{
    client::Call,
    context::Context,
    failure::Failure,
    moment,
    names::Names,
    progress::{self, Line},
    say::say,
    table::printable,
};

/// A large store takes its time.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Only this session
    session: Option<Name>,
    /// Put right first what is damaged in records.db, as far as it stands a second time
    #[arg(long)]
    repair: bool,
}

impl Verify {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let mut report = ask(context, self.session.as_deref(), self.repair).await?;
        let names = super::recover::names(context, &report).await;
        names.add_to(&mut report);
        context.answer(&report, |context| show(context, &report, &names))?;
        judge(&report, self.repair)
    }
}

pub(super) async fn ask(context: &mut Context, session: Option<&str>, repair: bool) -> Result<Value, Failure> {
    let mut body = session.map_or(json!({}), |session| json!({ "session": session }));
    if repair && let Some(body) = body.as_object_mut() {
        body.insert("repair".into(), true.into());
    }
    // A read, though it is a POST: repeating it does no harm.
    let line = Line::new(context).filter(|_| repair && context.url.is_none());
    let socket = context.place.socket();
    let asked = context.read(Call::post("/v1/verify", &body).within(PATIENCE));
    let answer = progress::beside(line, asked, async || progress::recovering(&socket).await).await?;
    answer.json()
}

pub(super) fn show(context: &Context, report: &Value, names: &Names) {
    let paint = context.paint;
    let count = |name: &str, one: &str| moment::counted(number(report, name), one);
    say!(
        "{}, {} ({}), {}: read, hashed, folded, compared with RAM and views",
        count("sessions", "session"),
        count("records", "record"),
        moment::bytes(number(report, "bytes")),
        count("checkpoints", "checkpoint")
    );
    if number(report, "views_not_compared") > 0 {
        let why = if behind(report).is_some() { "the views have not come as far" } else { "written to meanwhile" };
        say!("{why}, so that their views were not compared: {}", count("views_not_compared", "session"));
    }
    if let Some(why) = behind(report) {
        say!("{}  what is in the journal does not get into the databases: {}", paint.yellow("NOT ALL"), printable(why));
    }
    for line in repairs(report, names) {
        say!("{}  {line}", paint.yellow("REPAIRED"));
    }
    let findings = entries(super::field(report, "findings"), "");
    for finding in findings {
        say!(
            "{}  {}  {}  {}",
            paint.red("DAMAGED"),
            text(finding, "place"),
            names.of(&plain(finding, "session")),
            printable(&names.put_into(without_hint(text(finding, "what"))))
        );
    }
    if findings.is_empty() && behind(report).is_none() {
        say!("{}", paint.green("everything that is there is what was acknowledged"));
    }
}

/// Why the databases have not all of what the journal has.
fn behind(report: &Value) -> Option<&str> {
    super::field(report, "behind").as_str()
}

/// What was put right, a line each.
pub(super) fn repairs(report: &Value, names: &Names) -> Vec<String> {
    entries(super::field(report, "repaired"), "")
        .iter()
        .map(|repair| {
            let seqs = match (number(repair, "first"), number(repair, "last")) {
                (0, _) => String::new(),
                (first, last) => format!(" {first} to {last}"),
            };
            let line = format!(
                "session {}: {}{seqs} put right from {}",
                text(repair, "session"),
                text(repair, "what"),
                text(repair, "from")
            );
            printable(&names.put_into(&line)).to_string()
        })
        .collect()
}

/// `repaired`: what could be put right was.
pub(super) fn judge(report: &Value, repaired: bool) -> Result<(), Failure> {
    let found = entries(super::field(report, "findings"), "").len() as u64;
    if found == 0 {
        return match behind(report) {
            None => Ok(()),
            Some(why) => Err(Failure::unavailable(
                format!("not all of it could be looked at: {why}"),
                "make room on the disk or see what `swarmkeep doctor` says of it, then verify again",
            )),
        };
    }
    let waits = entries(super::field(report, "findings"), "")
        .iter()
        .find(|finding| text(finding, "what").contains("needs a decision"))
        .map(|finding| plain(finding, "session_name"));
    let next = match (waits, repaired) {
        (Some(session), _) => {
            format!("`swarmkeep quarantine show {session}` says what is lost of it, and what you can decide")
        }
        (None, true) => "keep a copy of the store's folder, and restore one from before the damage if there is one; what stands where is \
                         in docs/recovery.md, \"Rows that are damaged\" and \"Frames that are lost\""
            .to_owned(),
        (None, false) => "keep a copy of the store's folder; then `swarmkeep verify --repair` puts right what stands a second time, in \
                          the journal or in a kept copy"
            .to_owned(),
    };
    Err(Failure::corrupt(format!("damaged, or not in agreement: {}", moment::counted(found, "thing")), next))
}
