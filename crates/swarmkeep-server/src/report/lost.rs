//! What is lost, or may be, and what was put right: by the starts and recoveries of the time, the sessions that are set aside,
//! and damage that was met.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Lost, Report, Step};
use crate::reading::{Names, counted, entries, field, is_after_a_death, number, seqs, text, without_hint};

/// Commands about what is lost: as many as leave room for the rest.
const STEPS: usize = 2;

/// What is known of the store's damage.
pub(super) struct ComingBack<'a> {
    /// Reports of starts and recoveries, newest first; the first is that of this start.
    pub(super) recoveries: &'a [Value],
    pub(super) failures: &'a [Value],
    /// Sessions that are set aside now.
    pub(super) aside: &'a [Value],
    pub(super) names: &'a Names,
    /// When the session was made that this is about; 0: it is about the store.
    pub(super) born_ms: u64,
}

impl Report {
    pub(super) fn coming_back(&mut self, found: &ComingBack<'_>) {
        let names = found.names;
        let mut listed = BTreeSet::new();
        // A session that does not come back is listed at every start; the newest says how it stands now.
        let problems = entries(found.recoveries.first().map_or(&Value::Null, |last| field(last, "problems")), "");
        for one in found.aside.iter().chain(problems) {
            let session = text(one, "session");
            if self.is_of(session, names) && listed.insert(names.of(session).to_owned()) {
                self.does_not_come_back(names.of(session), &names.put_into(text(one, "what")));
            }
        }
        // When each session that was recovered was so last.
        let mut told: BTreeMap<&str, u64> = BTreeMap::new();
        for report in found.recoveries.iter().filter(|report| !field(report, "recovery").is_null()) {
            let at_ms = told.entry(text(field(report, "recovery"), "session")).or_default();
            *at_ms = (*at_ms).max(number(report, "at_ms"));
        }
        for (nth, report) in found.recoveries.iter().enumerate() {
            if number(report, "at_ms") < self.since_ms.max(found.born_ms) {
                continue;
            }
            let recovery = field(report, "recovery");
            // What was put right is told by a report of its own, and once more by that of the start.
            let is_counted = |repair: &&Value| !recovery.is_null() || !told.contains_key(text(repair, "session"));
            let repaired = entries(field(report, "repaired"), "").iter().filter(is_counted);
            self.put_right += repaired.filter(|repair| self.is_of(text(repair, "session"), names)).count() as u64;
            if recovery.is_null() {
                // What became of its sessions is said of each.
                let is_told = |session: &Value| {
                    let session = session.as_str().unwrap_or_default();
                    listed.contains(names.of(session))
                        || told.get(session).is_some_and(|at_ms| *at_ms >= number(report, "at_ms"))
                };
                self.start(report, nth == 0, names, is_told);
            } else if self.is_of(text(recovery, "session"), names) {
                self.recovery(recovery, names.of(text(recovery, "session")));
            }
        }
        for failure in found.failures.iter().filter(|failure| is_damage(failure, found.recoveries)) {
            let name = names.of(text(failure, "session"));
            let is_new = number(failure, "last_at_ms") >= self.since_ms;
            if is_new && self.is_of(text(failure, "session"), names) && listed.insert(name.to_owned()) {
                let what = names.put_into(without_hint(text(failure, "what")));
                self.lose(Some(name), what, false);
                self.step(format!("what is damaged of {name}"), format!("swarmkeep verify {name}"));
            }
        }
    }

    fn is_of(&self, session: &str, names: &Names) -> bool {
        self.session.as_deref().is_none_or(|only| names.of(session) == only)
    }

    fn lose(&mut self, session: Option<&str>, what: String, may_be: bool) {
        self.lost.push(Lost { session: session.map(str::to_owned), what, may_be, accepted_by: None });
    }

    fn step(&mut self, why: String, command: String) {
        if self.next.len() < STEPS && self.next.iter().all(|step| step.command != command) {
            self.next.push(Step { why, command });
        }
    }

    fn does_not_come_back(&mut self, name: &str, what: &str) {
        self.lose(Some(name), without_hint(what).to_owned(), false);
        let why = format!("what is lost of {name}, and what you can decide");
        self.step(why, format!("swarmkeep quarantine show {name}"));
    }

    /// What a start found. `is_newest`: `recover` shows it. `is_told`: what became of a session is said elsewhere.
    fn start(&mut self, report: &Value, is_newest: bool, names: &Names, is_told: impl Fn(&Value) -> bool) {
        let is_repair = text(report, "id").starts_with("repair-");
        let is_taken = report.get("taken_over").is_some_and(|taken| !taken.is_null());
        let is_death = !is_taken && !is_repair && is_after_a_death(report);
        if is_taken || is_death {
            let broke = &mut self.interrupted;
            broke.taken_over += u64::from(is_taken);
            broke.deaths += u64::from(is_death);
            broke.back_ms = broke.back_ms.max(number(report, "opened_ms"));
        }
        self.at_the_end(report, is_newest, names, is_told);
    }

    /// What a start found damaged, or doubtful, in the journal.
    fn at_the_end(&mut self, report: &Value, is_newest: bool, names: &Names, is_told: impl Fn(&Value) -> bool) {
        let before = self.lost.len();
        for span in entries(field(report, "possibly_acknowledged"), "") {
            if self.is_of(text(span, "session"), names) {
                let seqs = seqs(field(span, "first").as_u64(), field(span, "last").as_u64());
                let what = format!("{seqs}: may have been acknowledged, cannot be read");
                self.lose(Some(names.of(text(span, "session"))), what, true);
            }
        }
        for damage in entries(field(report, "damage"), "").iter().filter(|damage| text(damage, "loss") != "none") {
            let sessions = entries(field(damage, "sessions"), "");
            // Whose it was cannot always be told: then it may have been anybody's.
            let is_ours = sessions.is_empty()
                || sessions.iter().any(|session| self.is_of(session.as_str().unwrap_or_default(), names));
            if is_ours && (sessions.is_empty() || !sessions.iter().all(&is_told)) {
                self.lose(None, names.put_into(text(damage, "what")), text(damage, "loss") == "possible");
            }
        }
        if self.lost.len() > before {
            let command = if is_newest { "swarmkeep recover" } else { "swarmkeep recover history --json" };
            self.step("what a start found, and which files in quarantine/ have it".into(), command.into());
        }
    }

    /// What became of one session. A loss that somebody accepted is no less a loss.
    fn recovery(&mut self, recovery: &Value, name: &str) {
        if text(recovery, "event") != "session_recovered_with_loss" {
            return;
        }
        let accepted_by = match text(recovery, "accepted_by") {
            "" if entries(field(recovery, "lost"), "").is_empty() => None,
            "" => Some("accept_loss".to_owned()),
            by => Some(by.to_owned()),
        };
        let mut lose = |what: String| {
            let (session, accepted_by) = (Some(name.to_owned()), accepted_by.clone());
            self.lost.push(Lost { session, what, may_be: false, accepted_by });
        };
        for (field_name, how) in [("lost", "lost"), ("history_lost", "lost as history; what they did is in the state")]
        {
            for range in entries(field(recovery, field_name), "") {
                let (first, last) = (number(range, "first"), number(range, "last"));
                let records = counted(last.saturating_sub(first) + 1, "record");
                lose(format!("{}: {records} {how}", seqs(Some(first), Some(last))));
            }
        }
        for part in entries(field(recovery, "parts_lost"), "").iter().filter_map(Value::as_str) {
            lose(format!("{part}: exists nowhere any more"));
        }
        self.step(format!("what was lost of {name}"), format!("swarmkeep quarantine show {name}"));
    }
}

/// Damage of a session that was met, and that no recovery since has put right.
fn is_damage(failure: &Value, recoveries: &[Value]) -> bool {
    let session = text(failure, "session");
    let is_over = !field(failure, "over_at_ms").is_null()
        || recoveries.iter().any(|report| {
            text(field(report, "recovery"), "session") == session
                && number(report, "at_ms") >= number(failure, "last_at_ms")
        });
    text(failure, "type") == "state_corruption"
        && matches!(text(failure, "severity"), "high" | "critical")
        && !session.is_empty()
        && !is_over
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report_of(recoveries: &[Value], failures: &[Value]) -> Report {
        let mut report = Report { since_ms: 10, ..Report::default() };
        let names = Names::new([("abc".to_owned(), "team/work".to_owned())].into());
        report.coming_back(&ComingBack { recoveries, failures, aside: &[], names: &names, born_ms: 0 });
        report
    }

    #[test]
    fn a_loss_that_somebody_accepted_stays_in_the_report() {
        let recovery = json!({
            "session": "abc", "event": "session_recovered_with_loss", "accepted_by": "user:anna",
            "lost": [{ "first": 577, "last": 907 }],
        });
        let told = json!({ "id": "recovery-2-1", "at_ms": 20, "clean": true, "recovery": recovery,
            "damage": [{ "loss": "certain", "what": "session abc, seqs 577 to 907: not part of its state any more" }] });
        let report = report_of(&[json!({ "id": "open-2", "at_ms": 11, "clean": true }), told], &[]);
        let [lost] = &report.lost[..] else { panic!("{report:?}") };
        assert_eq!((lost.session.as_deref(), lost.accepted_by.as_deref()), (Some("team/work"), Some("user:anna")));
        assert!(lost.what.contains("331 records lost") && !lost.may_be, "{lost:?}");
        assert_eq!(report.next[0].command, "swarmkeep quarantine show team/work");
    }

    #[test]
    fn an_end_of_which_nothing_can_be_told_may_be_a_loss() {
        let end = "journal segment 3: after its end is, or was, what may have been acknowledged; whose it was cannot be told; \
                   its bytes go to quarantine/journal-3-4096";
        let damage = json!([
            { "loss": "none", "what": "journal segment 2: a frame is damaged (records.db has all of it)" },
            { "loss": "possible", "what": end },
        ]);
        let start = json!({ "id": "open-2", "at_ms": 20, "crashed": true, "damage": damage });
        let report = report_of(&[start], &[]);
        assert!(report.lost.len() == 1 && report.lost[0].may_be, "{report:?}");
        assert_eq!((&*report.next[0].command, report.next.len()), ("swarmkeep recover", 1));
    }

    #[test]
    fn a_repair_is_counted_once_and_what_was_met_damaged_is_said_until_it_is_mended() {
        let repair = json!({ "session": "abc", "what": "records", "first": 1, "last": 2, "from": "kept" });
        let start = json!({ "id": "open-2", "at_ms": 15, "clean": true, "repaired": [repair] });
        let recovery = json!({ "session": "abc", "event": "session_recovered" });
        let told =
            json!({ "id": "recovery-2-1", "at_ms": 20, "clean": true, "recovery": recovery, "repaired": [repair] });
        let met = |at_ms: u64| {
            json!({ "type": "state_corruption", "severity": "high", "session": "abc", "last_at_ms": at_ms,
            "what": "blob 17: damaged" })
        };
        let report = report_of(&[start.clone(), told.clone()], &[met(19)]);
        assert_eq!((report.put_right, report.lost.len()), (1, 0), "{report:?}");
        let report = report_of(&[start, told], &[met(21)]);
        assert!(report.lost[0].what.contains("blob 17"), "{report:?}");
        assert_eq!(report.next[0].command, "swarmkeep verify team/work");
    }
}
