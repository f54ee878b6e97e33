//! What waits for somebody: doubts, sessions that are paused or need a decision, and what is silent or gone while work depends
//! on it.

use std::collections::BTreeMap;

use serde_json::Value;
use swarmkeep::SessionRecovery;

use super::{Report, Waiting, next::quoted};
use crate::reading::{Names, counted, field, number, text};

/// How many tasks each agent has in its hands, by session and agent.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<(String, String), u64>);

impl Held {
    pub(super) fn add(&mut self, tasks: &[Value]) {
        for task in tasks.iter().filter(|task| !text(task, "agent_id").is_empty()) {
            let holder = (text(task, "session_id").to_owned(), text(task, "agent_id").to_owned());
            *self.0.entry(holder).or_default() += 1;
        }
    }

    fn by(&self, session: &str, agent: &str) -> u64 {
        self.0.get(&(session.to_owned(), agent.to_owned())).copied().unwrap_or(0)
    }
}

pub(super) fn in_doubt(effect: &Value, session: String) -> Waiting {
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
        // Without a value the outcome would be `null` for good.
        settle: vec![format!("{resolve} --done --value 'JSON'"), format!("{resolve} --not-done")],
        session,
    }
}

impl Report {
    /// A session that somebody paused.
    pub(super) fn standing(&mut self, row: &Value, name: &str) {
        if text(row, "status") == "paused" {
            self.waiting.push(Waiting {
                session: name.to_owned(),
                kind: "session".to_owned(),
                id: name.to_owned(),
                what: "paused".to_owned(),
                why: text(row, "status_reason").to_owned(),
                since_ms: number(row, "updated_at"),
                settle: vec![format!("swarmkeep session resume {name}")],
            });
        }
    }

    /// Sessions that are damaged beyond what a program may decide.
    pub(super) fn decisions(&mut self, recoveries: &[SessionRecovery], names: &Names) {
        for recovery in recoveries.iter().filter(|recovery| recovery.waits()) {
            let id = recovery.session.to_string();
            let name = names.of(&id).to_owned();
            if self.session.as_deref().is_some_and(|only| only != name) {
                continue;
            }
            let (lost, known) = (recovery.lost.count(), recovery.plan.known_head);
            self.waiting.push(Waiting {
                kind: "session".to_owned(),
                id: name.clone(),
                what: "needs_decision".to_owned(),
                why: format!("{lost} of seqs 1 to {known} are lost or come after what is lost"),
                since_ms: recovery.begun_at_ms,
                settle: ["show", "restore", "discard"].map(|verb| format!("swarmkeep quarantine {verb} {name}")).into(),
                session: name,
            });
        }
    }

    /// Agents that are silent while they hold tasks, and tool servers that cannot be reached.
    pub(super) fn silent(&mut self, failures: &[Value], held: &Held, names: &Names) {
        for failure in failures {
            let session = text(failure, "session");
            let name = names.of(session).to_owned();
            let is_over = !field(failure, "over_at_ms").is_null();
            if is_over || self.session.as_deref().is_some_and(|only| only != name) {
                continue;
            }
            let (kind, id, what, settle) = match text(failure, "type") {
                "agent_unresponsive" => {
                    let agent = text(failure, "agent");
                    let tasks = held.by(session, agent);
                    if tasks == 0 {
                        continue;
                    }
                    let show = format!("swarmkeep agent show {name} {}", quoted(agent));
                    ("agent", agent, format!("holds {}", counted(tasks, "task")), show)
                }
                "connection_lost" => {
                    ("connection", text(failure, "connection"), String::new(), "swarmkeep mcp status".to_owned())
                }
                _ => continue,
            };
            self.waiting.push(Waiting {
                kind: kind.to_owned(),
                id: id.to_owned(),
                what,
                why: text(failure, "what").to_owned(),
                since_ms: number(failure, "since_ms"),
                settle: vec![settle],
                session: name,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_silent_is_named_while_work_depends_on_it() {
        let mut held = Held::default();
        held.add(&[
            json!({ "session_id": "abc", "agent_id": "coder" }),
            json!({ "session_id": "abc", "agent_id": null }),
        ]);
        let silent = |id: &str, agent: &str| json!({ "id": id, "type": "agent_unresponsive", "agent": agent, "session": "abc", "what": "no sign of life", "since_ms": 5 });
        let mut gone =
            json!({ "id": "failure-2-4", "type": "connection_lost", "connection": "mcp-shop", "session": "abc" });
        let mut back = gone.clone();
        back["over_at_ms"] = 9.into();
        gone["what"] = "offline".into();
        let failures = [silent("failure-2-1", "coder"), silent("failure-2-2", "idle"), gone, back];
        let mut report = Report::default();
        report.silent(&failures, &held, &Names::new([("abc".to_owned(), "team/work".to_owned())].into()));
        let said: Vec<(&str, &str)> = report.waiting.iter().map(|one| (&*one.kind, &*one.id)).collect();
        assert_eq!(said, [("agent", "coder"), ("connection", "mcp-shop")]);
        assert_eq!(report.waiting[0].settle, ["swarmkeep agent show team/work coder"]);
    }
}
