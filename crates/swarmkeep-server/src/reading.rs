//! What the server's documents say, read without their types: for whoever prints them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Hex digits of a session's id.
const DIGITS: usize = 32;
/// So many ids are looked for in one document.
const MOST: usize = 200;

/// A field of an object; `null` where there is none.
#[must_use]
pub fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// A text field; empty where there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    field(value, name).as_str().unwrap_or("")
}

/// A number field; 0 where there is none.
#[must_use]
pub fn number(value: &Value, name: &str) -> u64 {
    field(value, name).as_u64().unwrap_or(0)
}

/// The entries of a list answer: a plain list, or the list under `name`.
#[must_use]
pub fn entries<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.as_array().or_else(|| field(value, name).as_array()).map_or(&[], Vec::as_slice)
}

/// The sessions that the store has set aside, of what it says about itself.
#[must_use]
pub fn set_aside(store: &Value) -> &[Value] {
    entries(field(field(store, "store"), "set_aside"), "")
}

/// What is wrong with one of several things, without the advice for who meets it alone: that comes once, at the end.
#[must_use]
pub fn without_hint(what: &str) -> &str {
    what.split_once(" (`swarmkeep ").map_or(what, |(what, _)| what)
}

/// A range of seqs, for people.
#[must_use]
pub fn seqs(first: Option<u64>, last: Option<u64>) -> String {
    match (first, last) {
        (Some(first), Some(last)) => format!("seq {first} to {last}"),
        _ => "unknown seqs".into(),
    }
}

/// The last holder parked the store, and left nothing to settle.
#[must_use]
pub fn is_clean(report: &Value) -> bool {
    field(report, "clean").as_bool() == Some(true)
}

/// The last holder did not park the store.
#[must_use]
pub fn is_after_a_death(report: &Value) -> bool {
    field(report, "crashed").as_bool() == Some(true)
}

/// Whether it is known, of every session that something of a start's `damage` was of, what became of it: a recovery after that start
/// ended in another way than in waiting. `recoveries`: newest first, as they are kept.
#[must_use]
pub fn is_settled(damage: &Value, start: &Value, recoveries: &[Value]) -> bool {
    let sessions = entries(field(damage, "sessions"), "");
    let is_over = |session: &Value| {
        let of_it = |report: &&Value| {
            let of = field(field(report, "recovery"), "session");
            number(report, "at_ms") >= number(start, "at_ms") && of.is_string() && of == session
        };
        let newest = recoveries.iter().find(of_it);
        newest.is_some_and(|report| text(field(report, "recovery"), "event") != "session_needs_decision")
    };
    !sessions.is_empty() && sessions.iter().all(is_over)
}

/// `1 file`, `2 files`: for words that take an s.
#[must_use]
pub fn counted(count: u64, one: &str) -> String {
    format!("{} {one}{}", thousands(count), if count == 1 { "" } else { "s" })
}

/// `12,345`.
#[must_use]
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Sessions' names by their ids, which is what reports have.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// Those that are known.
    #[must_use]
    pub fn new(names: BTreeMap<String, String>) -> Self {
        Self(names)
    }

    /// The name of an id, or the id.
    #[must_use]
    pub fn of<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, String::as_str)
    }

    /// A text in which `session ID` says the name where it is known. Files that have an id in their names keep it.
    #[must_use]
    pub fn put_into(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (id, name) in &self.0 {
            out = out.replace(&format!("session {id}"), &format!("session {name}"));
        }
        out
    }

    /// Adds `session_name` beside every `session` that is known.
    pub fn add_to(&self, said: &mut Value) {
        match said {
            Value::Array(all) => all.iter_mut().for_each(|one| self.add_to(one)),
            Value::Object(fields) => {
                fields.values_mut().for_each(|field| self.add_to(field));
                let name = fields.get("session").and_then(Value::as_str).and_then(|id| self.0.get(id));
                if let Some(name) = name {
                    fields.insert("session_name".into(), name.as_str().into());
                }
            }
            _ => {}
        }
    }
}

/// Everything that looks like a session's id, the first 200.
#[must_use]
pub fn ids(said: &Value) -> BTreeSet<String> {
    fn gather(said: &Value, found: &mut BTreeSet<String>) {
        match said {
            Value::String(text) => {
                let words = text.split(|char: char| !char.is_ascii_alphanumeric());
                let is_id = |word: &&str| {
                    word.len() == DIGITS && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
                };
                for word in words.filter(is_id) {
                    if found.len() < MOST {
                        found.insert(word.to_owned());
                    }
                }
            }
            Value::Array(all) => all.iter().for_each(|one| gather(one, found)),
            Value::Object(fields) => fields.values().for_each(|field| gather(field, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    gather(said, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_become_names_where_they_are_known() {
        let (known, unknown) = ("0a".repeat(16), "ff".repeat(16));
        let mut said = json!({ "damage": [format!("session {known}, seq 3, quarantine/session-{known}-4-5.records; session {unknown}")], "problems": [{ "session": known }] });
        assert_eq!(ids(&said).into_iter().collect::<Vec<_>>(), [known.clone(), unknown.clone()]);
        let names = Names(BTreeMap::from([(known.clone(), "team/work".to_owned())]));
        assert_eq!(
            names.put_into(said["damage"][0].as_str().unwrap()),
            format!("session team/work, seq 3, quarantine/session-{known}-4-5.records; session {unknown}")
        );
        names.add_to(&mut said);
        assert_eq!(said["problems"][0], json!({ "session": known, "session_name": "team/work" }));
    }

    #[test]
    fn damage_is_settled_by_a_recovery_of_its_sessions_that_came_later() {
        let start = json!({ "id": "open-2", "at_ms": 20, "damage": [] });
        let recovery =
            |at_ms: u64, event: &str| json!({ "at_ms": at_ms, "recovery": { "session": "abc", "event": event } });
        let of = |sessions: &[&str]| json!({ "loss": "certain", "sessions": sessions });
        let settled = |damage: &Value, recoveries: &[Value]| is_settled(damage, &start, recoveries);
        assert!(!settled(&of(&["abc"]), std::slice::from_ref(&start)), "the start itself is none");
        assert!(!settled(&of(&["abc"]), &[start.clone(), recovery(10, "session_recovered")]), "it came before");
        assert!(!settled(&of(&["abc"]), &[recovery(30, "session_needs_decision"), start.clone()]));
        assert!(settled(
            &of(&["abc"]),
            &[recovery(40, "session_recovered_with_loss"), recovery(30, "session_needs_decision")]
        ));
        assert!(!settled(&of(&["abc", "def"]), &[recovery(40, "session_recovered")]), "of one of two");
        assert!(!settled(&of(&[]), &[recovery(40, "session_recovered")]), "nobody knows whose it was");
    }
}
