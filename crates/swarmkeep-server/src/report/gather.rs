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

use super::{
    Done, Interrupted, LISTED, Report, Thing,
    lost::ComingBack,
    waiting::{Held, in_doubt},
};
use crate::{
    app::App,
    problem::Problem,
    reading::{Names, entries, field, ids, number, set_aside, text},
    store,
};

/// Pages of one question.
const PAGES: usize = 20;
/// Sessions whose events are looked through, those written last first.
const SESSIONS: usize = 200;
/// Of tasks fewer: that they are done is what counts.
const TASKS_LISTED: usize = 3;
/// What is looked for in the events of a session.
const EVENTS: [&str; 4] = ["interrupted", "task_lease_expired", "effect_resolved_done", "effect_resolved_not_done"];

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

/// How the store stands once the views have what was written before this was asked, and why they do not have it, where they
/// do not. They follow within a fraction of a second; where work goes on without pause they never have everything, and nobody
/// waits for that.
async fn caught_up(app: &App) -> Result<(Value, Option<String>), Problem> {
    let first = number(field(&store::standing_of(app)?, "store"), "records_position");
    let mut tries = 20;
    loop {
        let store = store::standing_of(app)?;
        let standing = field(&store, "store");
        let is_behind = number(standing, "unapplied_bytes") > 0
            || number(standing, "views_position") < number(standing, "records_position");
        tries -= 1;
        if !is_behind || tries == 0 || !field(standing, "views_trouble").is_null() {
            let why = if is_behind { behind(standing, first) } else { None };
            return Ok((store, why));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Why the views lack what stood in records.db, or in the journal, up to a moment ago.
fn behind(standing: &Value, records_position: u64) -> Option<String> {
    let troubles = ["trouble", "views_trouble"].into_iter().map(|name| text(standing, name));
    if let Some(trouble) = troubles.into_iter().find(|trouble| !trouble.is_empty()) {
        return Some(trouble.to_owned());
    }
    let views = number(standing, "views_position");
    let follow = || format!("the views are at position {views} of {records_position}, and follow");
    (views < records_position).then(follow)
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
    let (store, behind) = caught_up(app).await?;
    found.is_whole = behind.is_none();
    found.behind = behind;
    let recoveries = store::recoveries_of(app).await?;
    let aside = set_aside(&store).to_vec();
    let known = name_all(app, &serde_json::json!([recoveries, aside])).await;
    let newest = |of: Of| Query { session: only, order: Order::Newest, ..Query::of(of) };
    let (sessions, whole) = rows(app, newest(Of::Sessions)).await?;
    found.is_whole &= whole;
    let called = |row: &Value| format!("{}/{}", text(row, "namespace"), text(row, "name"));
    let names: BTreeMap<&str, String> = sessions.iter().map(|row| (text(row, "session_id"), called(row))).collect();
    let is_aside = |row: &Value| aside.iter().any(|one| text(one, "session") == text(row, "session_id"));
    for row in &sessions {
        let status = if is_aside(row) { "set aside" } else { text(row, "status") };
        *found.sessions.entry(status.to_owned()).or_default() += 1;
    }
    let name = |row: &Value| names.get(text(row, "session_id")).cloned().unwrap_or_default();

    let mut held = Held::default();
    for status in ["completed", "failed", "running", "assigned", "pending"] {
        let (mut tasks, whole) = rows(app, Query { status: Some(status.to_owned()), ..newest(Of::Tasks) }).await?;
        found.is_whole &= whole;
        if !matches!(status, "completed" | "failed") {
            // Nobody can go on with those of a session that takes no writes.
            tasks.retain(|task| !is_aside(task));
            held.add(&tasks);
        }
        found.done.add(status, tasks, since_ms, &name);
    }
    let (effects, whole) = rows(app, newest(Of::Effects)).await?;
    found.is_whole &= whole;
    found.effects(&effects, &name);
    let doubtful: BTreeSet<(&str, &str)> =
        effects.iter().filter(|effect| is_held(effect)).map(|row| (text(row, "session_id"), text(row, "id"))).collect();

    let mut looked = sessions.iter().filter(|row| number(row, "updated_at") >= since_ms).collect::<Vec<_>>();
    looked.sort_by_key(|row| std::cmp::Reverse(number(row, "updated_at")));
    found.is_whole &= looked.len() <= SESSIONS;
    for row in looked.iter().take(SESSIONS) {
        for kind in EVENTS {
            let query = Query {
                session: text(row, "session_id").parse().ok(),
                kind: Some(kind.to_owned()),
                since_ms: Some(since_ms),
                ..Query::of(Of::Events)
            };
            let (events, whole) = rows(app, query).await?;
            found.is_whole &= whole;
            if kind.starts_with("effect_") {
                let is_doubt =
                    |event: &&Value| doubtful.contains(&(text(row, "session_id"), text(event, "aggregate_id")));
                found.not_paid_twice.settled += events.iter().filter(is_doubt).count() as u64;
            } else {
                found.interrupted.add(kind, &events, &name(row));
            }
        }
        found.standing(row, &name(row));
    }
    let failures = entries(&recoveries, "failures");
    found.decisions(&app.keep().session_recoveries(), &known);
    found.silent(failures, &held, &known);
    found.coming_back(&ComingBack {
        recoveries: entries(&recoveries, "recoveries"),
        failures,
        aside: &aside,
        names: &known,
        // The deaths before it was made are none of a session's.
        born_ms: only.and_then(|_| sessions.first()).map_or(0, |row| number(row, "created_at")),
    });
    // What may have been paid first, and what has waited longest.
    found.waiting.sort_by_key(|waiting| (waiting.kind != "effect", waiting.since_ms));
    let latest =
        looked.iter().filter(|row| !is_aside(row)).find(|row| text(row, "status") == "live").map(|row| name(row));
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

/// It is done once, or somebody is asked.
fn is_held(effect: &Value) -> bool {
    matches!(text(effect, "class"), "at_most_once" | "ask")
}

impl Report {
    fn effects(&mut self, effects: &[Value], name: &impl Fn(&Value) -> String) {
        for effect in effects {
            let is_held = is_held(effect);
            let is_new = number(effect, "begun_at").max(number(effect, "finished_at")) >= self.since_ms;
            let count = &mut self.not_paid_twice;
            match text(effect, "status") {
                // However old it is: it waits.
                "outcome_unknown" if is_held => {
                    count.held += 1;
                    self.waiting.push(in_doubt(effect, name(effect)));
                }
                "finished" if is_held && is_new => count.once += 1,
                _ if !is_held && is_new => count.again += u64::from(number(effect, "attempt") > 1),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn doubts_wait_by_class_and_however_old_they_are() {
        let mut found = Report { since_ms: 1_000, ..Report::default() };
        let effect = |id: &str, class: &str, status: &str, begun: u64| json!({ "id": id, "class": class, "status": status, "begun_at": begun, "attempt": 1, "resolved_by": null });
        let mut again = effect("again", "read", "finished", 1_500);
        again["attempt"] = 2.into();
        let effects = [
            effect("old doubt", "at_most_once", "outcome_unknown", 1),
            effect("reads again by itself", "read", "outcome_unknown", 1_500),
            effect("paid", "at_most_once", "finished", 1_500),
            effect("paid before", "at_most_once", "finished", 10),
            effect("paid as well", "ask", "finished", 1_500),
            again,
        ];
        found.effects(&effects, &|_| "team/work".into());
        let count = &found.not_paid_twice;
        assert_eq!((count.once, count.held, count.again), (2, 1, 1));
        assert_eq!(found.waiting.len(), 1);
        assert_eq!(found.waiting[0].settle[0], "swarmkeep effect resolve team/work 'old doubt' --done --value 'JSON'");
    }

    #[test]
    fn views_that_do_not_move_are_behind_and_those_that_follow_are_not() {
        let stands = |trouble: &str, views: u64| json!({ "views_trouble": trouble, "views_position": views });
        assert_eq!(behind(&stands("the disk is full", 9), 9).as_deref(), Some("the disk is full"));
        assert_eq!(behind(&stands("", 9), 9), None, "what came since is on its way");
        assert!(behind(&stands("", 0), 9).is_some_and(|why| why.contains("position 0 of 9")));
    }
}
