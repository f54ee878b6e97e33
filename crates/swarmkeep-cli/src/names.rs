//! Sessions' ids, as reports have them, turned into the names that people gave: wherever the store knows the name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    client::{Call, Client},
    verb::{entries, text},
};

/// Hex digits of a session's id.
const DIGITS: usize = 32;
/// So many are looked up for one answer; ids beyond them stay ids.
const MOST: usize = 200;

/// Names by id.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    /// Those of every id in `said`, as the daemon knows them. What it cannot tell stays an id.
    pub(crate) async fn ask(client: &mut Client, said: &Value) -> Self {
        let mut names = BTreeMap::new();
        for id in ids(said) {
            let call = Call::get(format!("/v1/query/sessions?session={id}&limit=1"));
            let Ok(answer) = client.call(&call).await else { break };
            let Ok(page) = answer.json::<Value>() else { continue };
            if let Some(row) = entries(&page, "rows").first() {
                names.insert(id, format!("{}/{}", text(row, "namespace"), text(row, "name")));
            }
        }
        Self(names)
    }

    /// The same from records.db itself, for a store that this process holds, or nobody.
    pub(crate) fn look(folder: &std::path::Path, said: &Value) -> Self {
        let ids: Vec<_> = ids(said).iter().filter_map(|id| id.parse().ok()).collect();
        if ids.is_empty() {
            return Self::default();
        }
        // What cannot be read has worse to say than names.
        let found = swarmkeep::upkeep::session_names(folder, &ids).unwrap_or_default();
        Self(found.into_iter().map(|(id, name)| (id.to_string(), name.to_string())).collect())
    }

    /// The name of an id, or the id.
    pub(crate) fn of<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, String::as_str)
    }

    /// A text in which `session ID` says the name where it is known. Files that have an id in their names keep it.
    pub(crate) fn put_into(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (id, name) in &self.0 {
            out = out.replace(&format!("session {id}"), &format!("session {name}"));
        }
        out
    }

    /// Adds `session_name` beside every `session` that is known.
    pub(crate) fn add_to(&self, said: &mut Value) {
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

/// Everything that looks like a session's id, up to [`MOST`].
fn ids(said: &Value) -> BTreeSet<String> {
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
}
