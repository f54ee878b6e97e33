//! What a person reads when something did not work: one line what, one line what to do next, and an exit code that
//! scripts can rely on.

use std::fmt;

use serde::Serialize;

/// The exit codes. `swarmkeep help` lists them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The store refused it, or something is not as expected: a conflict, a missing entity, a failed check.
    Refused = 1,
    /// The call is wrong.
    Usage = 2,
    /// Nobody could be reached, or the store cannot write now. Nothing was written.
    Unavailable = 3,
    /// Data is damaged, or waits for a person's decision.
    Corrupt = 4,
    /// It may or may not have been done.
    Unknown = 5,
}

/// Why a verb did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// A stable word: the problem's code, or one of ours.
    pub(crate) code: String,
    /// One line: what.
    pub(crate) what: String,
    /// One line: what to do next.
    pub(crate) next: String,
    /// With a conflict: where the session or entry is now.
    pub(crate) current: Option<u64>,
    /// Lines that help to see why: the end of a log.
    pub(crate) detail: Vec<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, code: code.into(), what: what.into(), next: next.into(), current: None, detail: Vec::new() }
    }

    pub(crate) fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", what, next)
    }

    pub(crate) fn unavailable(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, "unavailable", what, next)
    }

    pub(crate) fn refused(code: &str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Refused, code, what, next)
    }

    pub(crate) fn corrupt(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Corrupt, "corrupt", what, next)
    }

    pub(crate) fn unknown(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Unknown, "unknown", what, next)
    }

    /// A problem document (RFC 9457) that the daemon answered with.
    pub(crate) fn problem(status: u16, body: &[u8]) -> Self {
        let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        let code = problem.code.unwrap_or_else(|| if status >= 500 { "unavailable".into() } else { "refused".into() });
        let what = problem.detail.or(problem.title).unwrap_or_else(|| {
            format!(
                "the daemon answered {status}: {}",
                String::from_utf8_lossy(body).chars().take(200).collect::<String>()
            )
        });
        let what = without_position(&what).to_owned();
        let (exit, advice) = advice(&code, status);
        let advice = match code.as_str() {
            "not_found" if what.starts_with("there is no session of this name or id") => {
                "`swarmkeep session ls` and `swarmkeep quarantine ls --all` show which there are"
            }
            "not_found" if what.starts_with("there is no session") => {
                "`swarmkeep session ls` shows which there are; `swarmkeep session open NAME` makes this one"
            }
            "already_exists" if what.contains("session of this name") => {
                "use another name, or go on with the one there is: `swarmkeep session open NAME`"
            }
            "session_not_live" if !what.contains("paused") => {
                "it has ended: `swarmkeep session fork NAME NEW` goes on from its state under a new name"
            }
            _ => advice,
        };
        // A hint to somebody who speaks HTTP is no help at a command line.
        let is_for_http = |hint: &String| ["POST ", "route", "header"].iter().any(|word| hint.contains(word));
        let next = problem.hint.filter(|hint| !is_for_http(hint)).unwrap_or_else(|| advice.to_owned());
        Self { exit, code, what, next, current: problem.current, detail: Vec::new() }
    }

    /// With `--json`: one object, on standard output.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Shape<'a> {
            code: &'a str,
            what: &'a str,
            next: &'a str,
            exit: u8,
            #[serde(skip_serializing_if = "Option::is_none")]
            current: Option<u64>,
        }
        let shape = Shape {
            code: &self.code,
            what: &self.what,
            next: &self.next,
            exit: self.exit as u8,
            current: self.current,
        };
        serde_json::to_string(&serde_json::json!({ "error": shape })).unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

#[derive(Default, serde::Deserialize)]
struct Problem {
    code: Option<String>,
    detail: Option<String>,
    title: Option<String>,
    hint: Option<String>,
    current: Option<u64>,
}

/// Without where in a request's body something was wrong: nobody at a command line has seen that body.
fn without_position(what: &str) -> &str {
    let is_position = |rest: &str| {
        rest.split_once(" column ")
            .is_some_and(|(line, column)| line.parse::<u64>().is_ok() && column.parse::<u64>().is_ok())
    };
    match what.rsplit_once(" at line ") {
        Some((before, rest)) if is_position(rest) => before,
        _ => what,
    }
}

/// The exit code of a problem, and what to do where the daemon gives no hint.
fn advice(code: &str, status: u16) -> (Exit, &'static str) {
    match code {
        "invalid" => (Exit::Usage, "fix the call; `--help` shows what the verb takes"),
        "request_mismatch" => (Exit::Usage, "use another --request id: this one was used with another body"),
        "request_too_old" => (Exit::Usage, "use a new --request id: nothing was done under this one now"),
        "not_found" => (Exit::Refused, "check the name: `ls` of the same verb shows what there is"),
        "already_exists" => (Exit::Refused, "use another name, or go on with the one there is"),
        "conflict" => (Exit::Refused, "somebody else was faster: look again, then decide again"),
        "lease_lost" => (Exit::Refused, "stop working on it: another worker has the task now"),
        "wrong_state" => (Exit::Refused, "`show` it to see how it stands"),
        "session_not_live" => (Exit::Refused, "`swarmkeep session resume NAME`, or open another session"),
        "in_progress" => (Exit::Refused, "somebody is doing it now: ask again later"),
        "limit" => (Exit::Refused, "a named limit is reached: send less at once, or end what is no longer needed"),
        "outcome_unknown" => (
            Exit::Unknown,
            "find out whether it was done, then `swarmkeep effect resolve NAME KEY --done --value 'JSON'` (its result) or `--not-done`; never repeat it blindly",
        ),
        "unknown" => (Exit::Unknown, "repeat it with the same --request id: it is carried out at most once"),
        "needs_decision" => (
            Exit::Corrupt,
            "`swarmkeep quarantine show NAME` says what is lost; `quarantine restore` tries again, `quarantine discard` goes on without",
        ),
        "corrupt" | "quarantined" => (
            Exit::Corrupt,
            "`swarmkeep verify --repair` says what is damaged, and puts right what stands a second time",
        ),
        "fenced_out" => (
            Exit::Unavailable,
            "nothing was written: another process has taken the store over; the same call again goes there",
        ),
        "unavailable" | "retry" => {
            (Exit::Unavailable, "nothing was written: try again in a moment; `swarmkeep doctor` looks for the cause")
        }
        _ if status >= 500 => {
            (Exit::Unavailable, "`swarmkeep doctor` looks for the cause; STORE/daemon.log has the details")
        }
        _ => (Exit::Refused, "`--help` shows what the verb takes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_and_next_and_its_exit_code() {
        let body = br#"{"code":"conflict","detail":"expected seq 3","status":409,"current":5}"#;
        let failure = Failure::problem(409, body);
        assert_eq!((failure.exit, failure.what.as_str(), failure.current), (Exit::Refused, "expected seq 3", Some(5)));
        assert!(!failure.next.is_empty());
        assert_eq!(Failure::problem(503, br#"{"code":"unknown"}"#).exit, Exit::Unknown);
        assert_eq!(Failure::problem(500, br#"{"code":"corrupt"}"#).exit, Exit::Corrupt);
    }

    #[test]
    fn what_comes_next_fits_what_is_wrong() {
        let next = |code: &str, detail: &str| {
            let body = serde_json::json!({ "code": code, "detail": detail }).to_string();
            Failure::problem(409, body.as_bytes()).next
        };
        assert!(next("session_not_live", "the session is closed: fork it, or open another").contains("session fork"));
        assert!(next("session_not_live", "the session is paused: resume it first").contains("session resume"));
        assert!(next("already_exists", "a session of this name exists: `open` resumes it").contains("session open"));
        assert!(!next("already_exists", "agent `a` is called `x`").contains("session open"));
    }

    #[test]
    fn where_in_the_body_it_was_is_left_out() {
        let body = br#"{"code":"invalid","detail":"at `name`: no such at line 1 column 50"}"#;
        assert_eq!(Failure::problem(400, body).what, "at `name`: no such");
        assert_eq!(without_position("stop at line 3 of it"), "stop at line 3 of it");
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_still_said() {
        let failure = Failure::problem(502, b"<html>bad gateway");
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.what.contains("bad gateway"));
    }
}
