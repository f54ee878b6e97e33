//! What a report says, from what the daemon knows: views, records of `interrupted`, and what coming back found.
//!
//! Everything read is bounded; what is cut off is said (`is_whole`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use swarmkeep::{
    SessionId,
    core::query::{LIMIT_MAX, Of, Order, Query},
};

use super::{Done, Interrupted, LISTED, Lost, Report, Step, Thing, Waiting};
use crate::{
    app::App,
    problem::Problem,
    reading::{Names, counted, entries, field, ids, is_after_a_death, number, seqs, set_aside, text, without_hint},
    store,
};

/// Pages of one question.
const PAGES: usize = 20;
/// Sessions whose events are looked through, those written last first.
const SESSIONS: usize = 200;
/// Of tasks fewer: that they are done is what counts.
const TASKS_LISTED: usize = 3;
/// Commands proposed.
const STEPS: usize = 4;

/// Rows of one table; and whether these are all.
async fn rows(app: &App, query: Query) -> Result<(Vec<Value>, bool), Problem> {
    let mut found = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES {
        let page = app.keep().find(Query { limit: Some(LIMIT_MAX), cursor, ..query.clone() }, None).await?;
        for row in &page.rows {
            found.push(row.decode_lossy()?);
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

/// How the store stands once the views have what was written before this was asked. They follow within a fraction of a
/// second; where work goes on without pause they never have everything, and nobody waits for that.
async fn caught_up(app: &App) -> Result<Value, Problem> {
    let mut tries = 20;
    loop {
        let store = store::standing_of(app)?;
        let standing = field(&store, "store");
        let is_behind = number(standing, "unapplied_bytes") > 0
            || number(standing, "views_position") < number(standing, "records_position");
        tries -= 1;
        if !is_behind || tries == 0 || !field(standing, "views_trouble").is_null() {
            return Ok(store);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn gather(app: &App, session: Option<&str>, since_ms: u64, until_ms: u64) -> Result<Report, Problem> {
    let being_looked_at = app.keep().being_looked_at();
    let mut found = Report { since_ms, until_ms, is_whole: true, being_looked_at, ..Report::default() };
    let mut only = None;
    if let Some(session) = session {
        // A typing error is no empty report.
        let session = app.session(session).await?;
        found.session = Some(session.name().to_string());
        only = Some(session.id());
    }
    let store = caught_up(app).await?;
    let recoveries = store::recoveries_of(app).await?;
    let newest = |of: Of| Query { session: only, order: Order::Newest, ..Query::of(of) };
    let (sessions, whole) = rows(app, newest(Of::Sessions)).await?;
    found.is_whole &= whole;
    let called = |row: &Value| format!("{}/{}", text(row, "namespace"), text(row, "name"));
    let names: BTreeMap<&str, String> = sessions.iter().map(|row| (text(row, "session_id"), called(row))).collect();
    for row in &sessions {
        *found.sessions.entry(text(row, "status").to_owned()).or_default() += 1;
    }
    let name = |row: &Value| names.get(text(row, "session_id")).cloned().unwrap_or_default();

    for status in ["completed", "failed", "running", "assigned", "pending"] {
        let (tasks, whole) = rows(app, Query { status: Some(status.to_owned()), ..newest(Of::Tasks) }).await?;
        found.is_whole &= whole;
        found.done.add(status, tasks, since_ms, &name);
    }
    let (effects, whole) = rows(app, newest(Of::Effects)).await?;
    found.is_whole &= whole;
    found.effects(&effects, &name);

    let mut looked = sessions.iter().filter(|row| number(row, "updated_at") >= since_ms).collect::<Vec<_>>();
    looked.sort_by_key(|row| std::cmp::Reverse(number(row, "updated_at")));
    found.is_whole &= looked.len() <= SESSIONS;
    for row in looked.iter().take(SESSIONS) {
        for kind in ["interrupted", "task_lease_expired"] {
            let query = Query {
                session: text(row, "session_id").parse().ok(),
                kind: Some(kind.to_owned()),
                since_ms: Some(since_ms),
                ..Query::of(Of::Events)
            };
            let (events, whole) = rows(app, query).await?;
            found.is_whole &= whole;
            found.interrupted.add(kind, &events, &name(row));
        }
        found.standing(row, &name(row));
    }
    let aside = set_aside(&store).to_vec();
    let known = name_all(app, &serde_json::json!([recoveries, aside])).await;
    found.coming_back(entries(&recoveries, "recoveries"), &aside, &sessions, &known);
    // What may have been paid first, and what has waited longest.
    found.waiting.sort_by_key(|waiting| (waiting.kind != "effect", waiting.since_ms));
    let latest = looked.iter().find(|row| text(row, "status") == "live").map(|row| name(row));
    found.how_to_continue(latest.as_deref());
    Ok(found)
}

/// The names of the sessions that a document speaks of. What cannot be told stays an id.
async fn name_all(app: &App, said: &Value) -> Names {
    let mut names = BTreeMap::new();
    for id in ids(said) {
        let Ok(session) = id.parse::<SessionId>() else { continue };
        let query = Query { session: Some(session), limit: Some(1), ..Query::of(Of::Sessions) };
        let Ok(page) = app.keep().find(query, None).await else { break };
        if let Some(row) = page.rows.first().and_then(|row| row.decode_lossy::<Value>().ok()) {
            names.insert(id, format!("{}/{}", text(&row, "namespace"), text(&row, "name")));
        } else if let Ok(Some(found)) = app.keep().session_by_id(session).await
            && found.name().id() == session
        {
            // The views may have nothing of one that is damaged.
            names.insert(id, found.name().to_string());
        }
    }
    Names::new(names)
}

fn thing(row: &Value, session: String, what: &str, by: &str, at: &str) -> Thing {
    Thing {
        session,
        id: text(row, "id").to_owned(),
        what: what.to_owned(),
        by: text(row, by).to_owned(),
        at_ms: number(row, at),
    }
}

impl Done {
    fn add(&mut self, status: &str, tasks: Vec<Value>, since_ms: u64, name: &impl Fn(&Value) -> String) {
        let count = tasks.len() as u64;
        match status {
            "running" => self.running += count,
            "assigned" | "pending" => self.open += count,
            ended => {
                let mut tasks: Vec<&Value> =
                    tasks.iter().filter(|task| number(task, "completed_at") >= since_ms).collect();
                tasks.sort_by_key(|task| std::cmp::Reverse(number(task, "completed_at")));
                let first = |what: &'static str| {
                    let newest = tasks.iter().take(TASKS_LISTED);
                    newest.map(move |task| thing(task, name(task), text(task, what), "agent_id", "completed_at"))
                };
                if ended == "completed" {
                    self.tasks = tasks.len() as u64;
                    self.newest = first("title").collect();
                } else {
                    self.failed = tasks.len() as u64;
                    self.failures = first("title").collect();
                    for (failure, task) in self.failures.iter_mut().zip(&tasks) {
                        failure.by = text(task, "error_message").to_owned();
                    }
                }
            }
        }
    }
}

impl Interrupted {
    fn add(&mut self, kind: &str, events: &[Value], session: &str) {
        if kind == "task_lease_expired" {
            self.leases += events.len() as u64;
            return;
        }
        self.turns += events.len() as u64;
        let room = LISTED.saturating_sub(self.closed.len());
        self.closed.extend(events.iter().rev().take(room).map(|event| Thing {
            session: session.to_owned(),
            id: text(event, "aggregate_id").to_owned(),
            what: text(event, "aggregate_type").to_owned(),
            by: String::new(),
            at_ms: number(event, "timestamp"),
        }));
    }
}

impl Report {
    fn effects(&mut self, effects: &[Value], name: &impl Fn(&Value) -> String) {
        for effect in effects {
            let is_held = matches!(text(effect, "class"), "at_most_once" | "ask");
            let is_new = number(effect, "begun_at").max(number(effect, "finished_at")) >= self.since_ms;
            let count = &mut self.not_paid_twice;
            match text(effect, "status") {
                // However old it is: it waits.
                "outcome_unknown" if is_held => {
                    count.held += 1;
                    self.waiting.push(in_doubt(effect, name(effect)));
                }
                "finished" | "not_done" if is_held && is_new => {
                    count.once += u64::from(text(effect, "status") == "finished");
                    count.settled += u64::from(!field(effect, "resolved_by").is_null());
                }
                _ if !is_held && is_new => count.again += u64::from(number(effect, "attempt") > 1),
                _ => {}
            }
        }
    }

    /// A session that itself waits for a word.
    fn standing(&mut self, row: &Value, name: &str) {
        let settle = match text(row, "status") {
            "paused" => vec![format!("swarmkeep session resume {name}")],
            "needs_decision" | "quarantined" => {
                vec![format!("swarmkeep session show {name}"), format!("swarmkeep session close {name}")]
            }
            _ => return,
        };
        self.waiting.push(Waiting {
            session: name.to_owned(),
            kind: "session".to_owned(),
            id: name.to_owned(),
            what: text(row, "status").to_owned(),
            why: text(row, "status_reason").to_owned(),
            since_ms: number(row, "updated_at"),
            settle,
        });
    }

    fn coming_back(&mut self, recoveries: &[Value], aside: &[Value], sessions: &[Value], names: &Names) {
        let is_of = |session: &str| self.session.as_deref().is_none_or(|only| names.of(session) == only);
        let mut lost_sessions = BTreeSet::new();
        let mut lost = Vec::new();
        for one in aside.iter().filter(|one| is_of(text(one, "session"))) {
            let name = names.of(text(one, "session")).to_owned();
            if lost_sessions.insert(name.clone()) {
                let status = sessions.iter().find(|row| text(row, "session_id") == text(one, "session"));
                let status = status.map(|row| text(row, "status").to_owned()).unwrap_or_default();
                if let Some(count) = self.sessions.get_mut(&status) {
                    *count -= 1;
                }
                *self.sessions.entry("set aside".to_owned()).or_default() += 1;
            }
            lost.push(Lost { session: Some(name), what: names.put_into(without_hint(text(one, "what"))) });
        }
        let recent = recoveries.iter().filter(|report| number(report, "at_ms") >= self.since_ms);
        for (nth, report) in recent.enumerate() {
            let is_repair = text(report, "id").starts_with("repair-");
            let repaired = entries(field(report, "repaired"), "");
            self.put_right += repaired.iter().filter(|repair| is_of(text(repair, "session"))).count() as u64;
            if is_after_a_death(report) && !is_repair {
                self.interrupted.deaths += 1;
                self.interrupted.back_ms = self.interrupted.back_ms.max(number(report, "opened_ms"));
            }
            for span in entries(field(report, "possibly_acknowledged"), "") {
                if is_of(text(span, "session")) {
                    let seqs = seqs(field(span, "first").as_u64(), field(span, "last").as_u64());
                    let what = format!("{seqs}: may have been acknowledged, cannot be read");
                    lost.push(Lost { session: Some(names.of(text(span, "session")).to_owned()), what });
                }
            }
            // A session that does not come back is listed at every start; the newest says how it stands now.
            let problems = if nth == 0 { entries(field(report, "problems"), "") } else { &[] };
            for problem in problems.iter().filter(|problem| is_of(text(problem, "session"))) {
                let name = names.of(text(problem, "session")).to_owned();
                if lost_sessions.insert(name.clone()) {
                    let what = names.put_into(without_hint(text(problem, "what")));
                    lost.push(Lost { session: Some(name), what });
                }
            }
            if self.session.is_none() {
                let gone = entries(field(report, "damage"), "").iter().filter_map(Value::as_str);
                let gone = gone.filter(|damage| damage.contains("NOT in records.db"));
                lost.extend(gone.map(|damage| Lost { session: None, what: names.put_into(damage) }));
            }
        }
        self.sessions.retain(|_, count| *count > 0);
        self.lost = lost;
    }

    fn how_to_continue(&mut self, latest: Option<&str>) {
        let mut next: Vec<Step> = Vec::new();
        let sessions: BTreeSet<&str> = self.lost.iter().filter_map(|lost| lost.session.as_deref()).collect();
        for session in sessions.into_iter().take(2) {
            next.push(Step {
                why: format!("what is lost of {session}, and what you can decide"),
                command: format!("swarmkeep quarantine show {session}"),
            });
        }
        for waiting in self.waiting.iter().take(2) {
            if let Some(command) = waiting.settle.first() {
                let why = match waiting.kind.as_str() {
                    "effect" => format!("{} was done (or --not-done)", waiting.id),
                    _ => format!("{} is {}", waiting.id, waiting.what),
                };
                next.push(Step { why, command: command.clone() });
            }
        }
        if let Some(failed) = self.done.failures.first() {
            next.push(Step {
                why: format!("why `{}` failed", failed.what),
                command: format!("swarmkeep task show {} {}", failed.session, failed.id),
            });
        }
        if let Some(latest) = latest {
            let why = match self.done.open + self.done.running {
                0 => "what happens, as it happens".to_owned(),
                open => format!("{} to go: start the agents again, and watch", counted(open, "task")),
            };
            next.push(Step { why, command: format!("swarmkeep session history {latest} --follow") });
        }
        next.truncate(STEPS);
        self.next = next;
    }
}

fn in_doubt(effect: &Value, session: String) -> Waiting {
    let id = text(effect, "id");
    let request = match field(effect, "request") {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let resolve = format!("swarmkeep effect resolve {session} {}", quoted(id));
    Waiting {
        kind: "effect".to_owned(),
        id: id.to_owned(),
        what: request,
        why: text(effect, "reason").to_owned(),
        since_ms: number(effect, "begun_at"),
        settle: vec![format!("{resolve} --done"), format!("{resolve} --not-done")],
        session,
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain =
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn doubts_wait_by_class_and_however_old_they_are() {
        let mut found = Report { since_ms: 1_000, ..Report::default() };
        let effect = |id: &str, class: &str, status: &str, begun: u64| json!({ "id": id, "class": class, "status": status, "begun_at": begun, "attempt": 1, "resolved_by": null });
        let mut settled = effect("settled", "ask", "finished", 1_500);
        settled["resolved_by"] = "user:anna".into();
        let mut again = effect("again", "read", "finished", 1_500);
        again["attempt"] = 2.into();
        let effects = [
            effect("old doubt", "at_most_once", "outcome_unknown", 1),
            effect("reads again by itself", "read", "outcome_unknown", 1_500),
            effect("paid", "at_most_once", "finished", 1_500),
            effect("paid before", "at_most_once", "finished", 10),
            settled,
            again,
        ];
        found.effects(&effects, &|_| "team/work".into());
        let count = &found.not_paid_twice;
        assert_eq!((count.once, count.settled, count.held, count.again), (2, 1, 1, 1));
        assert_eq!(found.waiting.len(), 1);
        assert_eq!(found.waiting[0].settle[0], "swarmkeep effect resolve team/work 'old doubt' --done");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("pay-17"), "pay-17");
        assert_eq!(quoted("it's; rm"), r"'it'\''s; rm'");
        assert_eq!(quoted(""), "''");
    }
}
