//! The proof: what was acknowledged against what is in the log, and what was done outside against what the session says.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde::Serialize;
use serde_json::Value;

use super::{
    folder::{Folder, SESSION},
    ledger::{self, Ack},
    outside,
};
use crate::{
    client::{Call, Client, Endpoint, query},
    failure::Failure,
    verb::{entries, field, number, path, text},
};

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Verdict {
    /// Writes that somebody wrote down as acknowledged.
    pub(crate) acknowledged: u64,
    /// Of those, the ones whose record is not in the log with that hash.
    pub(crate) lost: u64,
    /// Requests carried out twice, and things done outside more than once.
    pub(crate) repeated: u64,
    /// Effects that the session calls finished and that were not done.
    pub(crate) missing: u64,
    /// Records in the log.
    pub(crate) records: u64,
    /// Things done outside.
    pub(crate) effects: u64,
    /// Effects that still wait for somebody's word.
    pub(crate) in_doubt: u64,
    /// The first few things that are wrong, for people.
    pub(crate) wrong: Vec<String>,
}

impl Verdict {
    pub(crate) fn is_good(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.missing == 0
    }

    fn note(&mut self, what: String) {
        if self.wrong.len() < 10 {
            self.wrong.push(what);
        }
    }
}

/// What the log says.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Hashes by seq.
    hashes: HashMap<u64, String>,
    /// How many groups each request made.
    groups: BTreeMap<String, u64>,
    /// The seq after which there is a hole.
    hole: Option<u64>,
}

impl Log {
    fn take(&mut self, record: &Value, before: u64) {
        let seq = number(record, "seq");
        if seq != before + 1 {
            self.hole.get_or_insert(before);
        }
        self.hashes.insert(seq, text(record, "hash").to_owned());
        // Only the last record of a group has the answer.
        if !field(record, "outcomes").is_null() {
            *self.groups.entry(text(record, "request").to_owned()).or_insert(0) += 1;
        }
    }
}

/// Whether anything at all was acknowledged.
pub(crate) fn anything_acknowledged(folder: &Folder) -> Result<bool, Failure> {
    let count = ledger::count(&folder.acknowledged());
    count.map(|count| count > 0).map_err(|error| {
        Failure::unavailable(format!("{}: {error}", folder.acknowledged().display()), "is the folder right?")
    })
}

/// Asks a daemon for its log and compares. The daemon must have been started after the last acknowledgement.
pub(crate) async fn check(folder: &Folder, socket: &Path) -> Result<Verdict, Failure> {
    let unreadable = |what: &str, error: std::io::Error| {
        Failure::refused(
            "unreadable",
            format!("{what} of the demo cannot be read: {error}"),
            format!("is {} a demo's store?", folder.store.display()),
        )
    };
    let acks = ledger::read(&folder.acknowledged()).map_err(|error| unreadable("the acknowledgements", error))?;
    let done = outside::count(&folder.outside()).map_err(|error| unreadable("the outside", error))?;
    let mut client = Client::new(Endpoint::Socket(socket.to_owned()));
    let mut log = Log::default();
    let mut after = 0;
    loop {
        let pairs = [("after", Some(after.to_string())), ("limit", Some("1000".to_owned()))];
        let page = get(&mut client, path(SESSION, "/records") + &query(&pairs)).await?;
        let records = entries(&page, "records");
        for record in records {
            log.take(record, after);
            after = number(record, "seq");
        }
        if records.is_empty() {
            break;
        }
    }
    let mut effects = Vec::new();
    let mut cursor = None;
    loop {
        let page = get(
            &mut client,
            path(SESSION, "/effects") + &query(&[("limit", Some("1000".to_owned())), ("after", cursor)]),
        )
        .await?;
        effects.extend_from_slice(entries(&page, "effects"));
        cursor = field(&page, "next").as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    Ok(judge(&acks, &log, &done, &effects))
}

/// Asks the daemon under test.
pub(crate) async fn get(client: &mut Client, path: impl Into<String>) -> Result<Value, Failure> {
    ask(client, &Call::get(path)).await
}

/// [`get`], with any call.
pub(crate) async fn ask(client: &mut Client, call: &Call) -> Result<Value, Failure> {
    let answer = client.call(call).await;
    answer.map_err(|error| Failure::unavailable(format!("no answer: {error}"), "look into daemon.log"))?.ok()?.json()
}

fn judge(acks: &[Ack], log: &Log, done: &BTreeMap<String, u64>, effects: &[Value]) -> Verdict {
    let mut verdict = Verdict {
        acknowledged: acks.len() as u64,
        records: log.hashes.len() as u64,
        effects: done.values().sum(),
        ..Verdict::default()
    };
    if let Some(before) = log.hole {
        verdict.lost += 1;
        verdict.note(format!("the log has a hole after seq {before}"));
    }
    for ack in acks {
        if log.hashes.get(&ack.seq) != Some(&ack.hash) || (ack.first..ack.seq).any(|seq| !log.hashes.contains_key(&seq))
        {
            verdict.lost += 1;
            verdict.note(format!(
                "request {} was acknowledged as seq {} with hash {}: it is not in the log",
                ack.request, ack.seq, ack.hash
            ));
        }
    }
    for (request, groups) in log.groups.iter().filter(|(_, groups)| **groups > 1) {
        verdict.repeated += groups - 1;
        verdict.note(format!("request {request} was carried out {groups} times"));
    }
    for (key, times) in done.iter().filter(|(_, times)| **times > 1) {
        verdict.repeated += times - 1;
        verdict.note(format!("{key} was done {times} times"));
    }
    for effect in effects {
        let key = text(effect, "id");
        match text(effect, "status") {
            "finished" if !done.contains_key(key) => {
                verdict.missing += 1;
                verdict.note(format!("{key} is finished, and was not done"));
            }
            "begun" | "outcome_unknown" => verdict.in_doubt += 1,
            _ => {}
        }
    }
    let known: std::collections::HashSet<&str> = effects.iter().map(|effect| text(effect, "id")).collect();
    for key in done.keys().filter(|key| !known.contains(key.as_str())) {
        verdict.lost += 1;
        verdict.note(format!("{key} was done, and the session does not know of it"));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn log_of(records: &[(u64, &str, Option<&str>)]) -> Log {
        let mut log = Log::default();
        let mut before = 0;
        for (seq, hash, request) in records {
            let mut record = json!({ "seq": seq, "hash": hash });
            if let Some(request) = request {
                record["request"] = json!(request);
                record["outcomes"] = json!([]);
            }
            log.take(&record, before);
            before = *seq;
        }
        log
    }

    fn ack(request: &str, first: u64, seq: u64, hash: &str) -> Ack {
        Ack { request: request.into(), first, seq, hash: hash.into() }
    }

    fn done(keys: &[&str]) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for key in keys {
            *counts.entry((*key).to_owned()).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn a_log_that_holds_everything_is_good() {
        let log = log_of(&[(1, "a", Some("x:1")), (2, "b", None), (3, "c", Some("x:2"))]);
        let effects = [json!({ "id": "act-1", "status": "finished" })];
        let verdict = judge(&[ack("x:1", 1, 1, "a"), ack("x:2", 2, 3, "c")], &log, &done(&["act-1"]), &effects);
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!((verdict.acknowledged, verdict.records, verdict.effects), (2, 3, 1));
    }

    #[test]
    fn what_is_not_in_the_log_is_lost() {
        let log = log_of(&[(1, "a", Some("x:1")), (2, "b", Some("x:2"))]);
        assert_eq!(judge(&[ack("x:3", 3, 3, "c")], &log, &done(&[]), &[]).lost, 1, "cut off");
        assert_eq!(judge(&[ack("x:2", 2, 2, "other")], &log, &done(&[]), &[]).lost, 1, "another record in its place");
        assert_eq!(judge(&[], &log_of(&[(1, "a", None), (3, "c", None)]), &done(&[]), &[]).lost, 1, "a hole");
        assert_eq!(judge(&[], &log, &done(&["act-9"]), &[]).lost, 1, "done, and begin is gone");
    }

    #[test]
    fn what_happened_twice_is_repeated() {
        let log = log_of(&[(1, "a", Some("x:1")), (2, "b", Some("x:1"))]);
        assert_eq!(judge(&[], &log, &done(&[]), &[]).repeated, 1);
        let effects = [json!({ "id": "act-1", "status": "finished" })];
        assert_eq!(judge(&[], &log_of(&[]), &done(&["act-1", "act-1"]), &effects).repeated, 1);
        assert_eq!(judge(&[], &log_of(&[]), &done(&[]), &effects).missing, 1);
    }
}
