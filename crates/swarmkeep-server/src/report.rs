//! `/v1/report`: what a person wants to know in the morning: done, interrupted, waiting for a yes or no, not paid twice, lost,
//! and how to continue.

mod gather;
mod lost;
mod next;
mod waiting;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    api::{Api, Content, Op},
    wire::{Answer, Call, json},
};

/// Things of one kind that are listed; more are counted.
pub const LISTED: usize = 5;

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/report",
        report,
        Op::read(
            "report",
            "The morning report: done, interrupted, waiting for somebody's word, not paid twice, lost, how to continue",
            Content::Json("Report"),
        )
        .query(&[
            ("session", "string", "Only of this session"),
            (
                "since_ms",
                "integer",
                "From then on, in ms since the Unix epoch; the last 24 hours by default, 0: from the beginning",
            ),
        ]),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    session: Option<String>,
    since_ms: Option<u64>,
}

/// What is called the last night.
const NIGHT_MS: u64 = 24 * 3_600_000;

async fn report(call: Call) -> Answer {
    let Params { session, since_ms } = call.query()?;
    let now_ms = call.app.now_ms();
    let since_ms = since_ms.unwrap_or_else(|| now_ms.saturating_sub(NIGHT_MS));
    json(&gather::gather(&call.app, session.as_deref(), since_ms, now_ms).await?, None)
}

/// The report.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Of this session alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// From then on, ms since the Unix epoch; 0: from the beginning.
    pub since_ms: u64,
    /// Until then.
    pub until_ms: u64,
    /// Sessions by status, all of them.
    pub sessions: BTreeMap<String, u64>,
    /// What was done.
    pub done: Done,
    /// What broke off.
    pub interrupted: Interrupted,
    /// What waits for a person's yes or no.
    pub waiting: Vec<Waiting>,
    /// What was done outside, and how often.
    pub not_paid_twice: NotPaidTwice,
    /// What is lost, in a sentence each.
    pub lost: Vec<Lost>,
    /// What was damaged and is as it was.
    pub put_right: u64,
    /// How to continue.
    pub next: Vec<Step>,
    /// Whether all that there is was looked at.
    pub is_whole: bool,
    /// Why the views, of which the counts are made, lack something that was acknowledged before this was asked: a full disk,
    /// as a rule. Absent: they have all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Sessions of the store that the start is still looking at: whether they are damaged is not known yet.
    #[serde(default)]
    pub being_looked_at: u64,
}

/// Tasks.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Completed.
    pub tasks: u64,
    /// The newest of them.
    pub newest: Vec<Thing>,
    /// Failed for good.
    pub failed: u64,
    /// The newest of them; `by` says why.
    pub failures: Vec<Thing>,
    /// In somebody's hands now.
    pub running: u64,
    /// Still to be done.
    pub open: u64,
}

/// A thing with a name.
#[derive(Debug, Serialize, Deserialize)]
pub struct Thing {
    /// Of which session.
    pub session: String,
    /// Its id.
    pub id: String,
    /// In a few words.
    pub what: String,
    /// By whom, or why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// When, ms since the Unix epoch.
    pub at_ms: u64,
}

/// What broke off and came back.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Interrupted {
    /// Starts after the last holder had died.
    pub deaths: u64,
    /// Starts after the store had been taken away from a holder that did not end.
    #[serde(default)]
    pub taken_over: u64,
    /// Until the store took calls again, at worst.
    pub back_ms: u64,
    /// Tasks taken from an agent that gave no sign of life.
    pub leases: u64,
    /// Half-written turns that were closed.
    pub turns: u64,
    /// The newest of them.
    pub closed: Vec<Thing>,
}

/// Something that only a person, or who looks outside, can say or mend.
#[derive(Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// Of which session.
    pub session: String,
    /// `effect`, `session`, `agent` (silent, and it holds tasks) or `connection` (its tool server cannot be reached).
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What it is about.
    pub what: String,
    /// Why it waits.
    pub why: String,
    /// Since when, ms since the Unix epoch.
    pub since_ms: u64,
    /// What settles it, or shows what has to be mended: one of these.
    pub settle: Vec<String>,
}

/// Effects: what was done outside.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct NotPaidTwice {
    /// Of class `at_most_once` or `ask`, and finished.
    pub once: u64,
    /// Doubts of these classes that somebody settled.
    pub settled: u64,
    /// In doubt now, and not repeated.
    pub held: u64,
    /// Begun again, because their class says that it is safe.
    pub again: u64,
}

/// Something that is not there any more, or cannot be read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lost {
    /// Of which session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// In a few words.
    pub what: String,
    /// Nobody can tell whether it was there: it may never have been acknowledged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be: bool,
    /// Somebody said that it may be lost: who, or `accept_loss` for the setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_by: Option<String>,
}

/// Something to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Step {
    /// What it is good for.
    pub why: String,
    /// What to run.
    pub command: String,
}
