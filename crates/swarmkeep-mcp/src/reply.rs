//! What an answer says about the session, and about whether what was asked was carried out.
//!
//! Servers tell a client in many ways that they do not know its session any more; the specification has one (404). Each of
//! the shapes here was seen from a server in the field.
//!
//! | status | code | message holds | shape |
//! |---|---|---|---|
//! | 404 | any, or no JSON at all | anything | [`Lost::NotFound`] |
//! | 400 | -32000, -32600 | `session id`, with `no valid`, `missing`, `invalid` or `required` | [`Lost::NoValidId`] |
//! | 400 | -32000, -32002, -32600, -32602 | `not initialized` | [`Lost::NotInitialized`] |
//! | 400, or 200 without our id | -32001, -32600, -32000 | `session not found`, `session expired`, `unknown session` | [`Lost::Unknown`] |
//! | 401 without a challenge | any | the same | [`Lost::Unauthorized`] |
//! | 503 | any | `session is unknown` and the like | [`Lost::Unavailable`] |
//! | 200, 400, none | -32602, -32002, -32600 | `before initialization` | [`Lost::BeforeInitialization`] |
//!
//! Only an answer to something that was sent *with* a session can say so. A 401 with a challenge is for whoever logs in, and
//! is passed on. An error of status 200 with the id of a request is that request's answer, whatever it says of sessions: tools
//! have sessions of their own. Only what is said of initialization counts there.

use crate::envelope::{Envelope, Kind};

/// How a server said that the session is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// 404, as the specification has it.
    NotFound,
    /// 400: no valid session id.
    NoValidId,
    /// 400: not initialized.
    NotInitialized,
    /// A JSON-RPC error: session not found.
    Unknown,
    /// 401 for a session, and nothing to log in with.
    Unauthorized,
    /// 503: the session is unknown to this instance.
    Unavailable,
    /// A request came before initialization: the server has forgotten that there was one.
    BeforeInitialization,
}

/// What an answer means for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is an answer: to be passed on.
    Answer,
    /// It was not carried out, because the server has forgotten the session.
    SessionLost(Lost),
    /// It was not carried out: whoever asked may log in, wait, or ask otherwise.
    NotExecuted,
    /// Nobody knows whether it was carried out.
    Unknown,
}

/// An answer as it came over HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Http<'a> {
    /// The status.
    pub status: u16,
    /// Whether there is a `WWW-Authenticate` header.
    pub has_challenge: bool,
    /// The body, if it is one message of JSON-RPC.
    pub message: Option<&'a Envelope>,
    /// The body as text, or its beginning.
    pub body: &'a str,
    /// Whether what was sent named a session.
    pub had_session: bool,
}

fn says_session_is_gone(message: &str) -> bool {
    let told = ["not found", "expired", "unknown", "does not exist", "no longer", "terminated", "invalid session"];
    message.contains("session") && told.iter().any(|word| message.contains(word))
}

fn says_no_valid_id(message: &str) -> bool {
    let told = ["no valid", "missing", "invalid", "required", "must provide"];
    (message.contains("session id") || message.contains("session-id") || message.contains("sessionid"))
        && told.iter().any(|word| message.contains(word))
}

/// Whether an answer says that the server has forgotten that it was initialized: over any transport, with any id.
#[must_use]
pub fn is_uninitialized(message: &Envelope) -> Option<Lost> {
    let (code, said) = message.error()?;
    let said = said.to_lowercase();
    match code {
        -32602 | -32002 | -32600 | -32000 if said.contains("before initialization") => Some(Lost::BeforeInitialization),
        _ => None,
    }
}

/// Whether an error that answers no request in particular says that the session is gone.
fn lost_by_error(code: i64, message: &str) -> Option<Lost> {
    let message = message.to_lowercase();
    match code {
        -32000 | -32001 | -32600 if says_no_valid_id(&message) => Some(Lost::NoValidId),
        -32000 | -32001 | -32600 if says_session_is_gone(&message) => Some(Lost::Unknown),
        -32000 | -32002 | -32600 | -32602 if message.contains("not initialized") => Some(Lost::NotInitialized),
        _ => None,
    }
}

/// What an answer over HTTP means for the request it answers.
#[must_use]
pub fn http(answer: Http<'_>) -> Verdict {
    let error = answer.message.and_then(Envelope::error);
    if answer.had_session
        && let Some(lost) = lost_by_http(answer, error.as_ref())
    {
        return Verdict::SessionLost(lost);
    }
    match (answer.status, &error) {
        (401 | 403 | 404 | 405 | 406 | 413 | 415 | 421 | 426 | 429, _) => Verdict::NotExecuted,
        (200..=299, _) => Verdict::Answer,
        // An answer all the same, if it is one: a server may put the error's kind into the status.
        (_, Some((code, _))) if is_refusal(*code) => Verdict::NotExecuted,
        (400 | 422, Some(_)) => Verdict::Answer,
        _ => Verdict::Unknown,
    }
}

fn lost_by_http(answer: Http<'_>, error: Option<&(i64, String)>) -> Option<Lost> {
    let said = match error {
        Some((_, message)) if !message.is_empty() => message,
        _ => answer.body,
    };
    let said = said.to_lowercase();
    match answer.status {
        404 => Some(Lost::NotFound),
        401 if !answer.has_challenge && says_session_is_gone(&said) => Some(Lost::Unauthorized),
        503 if says_session_is_gone(&said) => Some(Lost::Unavailable),
        200..=299 | 400 => match (error, answer.message) {
            (Some((code, said)), Some(message)) => {
                let names_none = answer.status == 400 || completes_its_post(message);
                is_uninitialized(message).or_else(|| lost_by_error(*code, said).filter(|_| names_none))
            }
            // Some answer in plain text.
            _ if answer.status == 400 && says_no_valid_id(&said) => Some(Lost::NoValidId),
            _ if answer.status == 400 && says_session_is_gone(&said) => Some(Lost::Unknown),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an error of JSON-RPC says that the request was not carried out: it could not be read, is none, has no such method,
/// or lacks what this revision asks for.
#[must_use]
pub fn is_refusal(code: i64) -> bool {
    matches!(code, -32700 | -32600 | -32601 | -32602 | -32020 | -32021 | -32022)
}

/// How sending failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Nobody listens, the name does not resolve, the program does not start.
    NotConnected,
    /// Not one byte of it went out.
    NothingWritten,
    /// HTTP/2: the stream was refused, or the server went away below it.
    Refused,
    /// It broke after at least a part was written.
    Broken,
    /// No answer came in time.
    TimedOut,
}

impl Failure {
    /// Whether it is certain that nothing was carried out.
    #[must_use]
    pub fn is_not_executed(self) -> bool {
        matches!(self, Self::NotConnected | Self::NothingWritten | Self::Refused)
    }
}

/// Whether an answer that names no request we know may belong to the only one that could have caused it: an error with an id
/// that is `null`, empty, `"server-error"` or missing, as the body of an answer to our POST.
#[must_use]
pub fn completes_its_post(message: &Envelope) -> bool {
    message.kind() == Kind::Error && matches!(message.id(), None | Some("null" | "\"\"" | "\"server-error\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, has_challenge: bool, had_session: bool, body: &str) -> Verdict {
        let message = Envelope::parse(body.to_owned()).ok();
        http(Http { status, has_challenge, message: message.as_ref(), body, had_session })
    }

    fn lost(status: u16, body: &str) -> Option<Lost> {
        match read(status, false, true, body) {
            Verdict::SessionLost(lost) => Some(lost),
            _ => None,
        }
    }

    /// As servers answered.
    const SHAPES: [(u16, &str, Lost); 13] = [
        (404, "", Lost::NotFound),
        (404, r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#, Lost::NotFound),
        (
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
            Lost::NoValidId,
        ),
        (
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Missing session ID"},"id":"server-error"}"#,
            Lost::NoValidId,
        ),
        (400, "Invalid or missing session ID", Lost::NoValidId),
        (
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#,
            Lost::NotInitialized,
        ),
        (200, r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":""}"#, Lost::Unknown),
        (
            200,
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Session not found"},"id":"server-error"}"#,
            Lost::Unknown,
        ),
        (400, "Session expired", Lost::Unknown),
        (401, "Unauthorized: Session not found", Lost::Unauthorized),
        (503, r#"{"error":"the session is unknown to this instance"}"#, Lost::Unavailable),
        (
            200,
            r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"Received request before initialization was complete"}}"#,
            Lost::BeforeInitialization,
        ),
        (
            200,
            r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32002,"message":"request before initialization"}}"#,
            Lost::BeforeInitialization,
        ),
    ];

    #[test]
    fn a_lost_session_is_recognised_in_every_shape() {
        for (status, body, shape) in SHAPES {
            assert_eq!(lost(status, body), Some(shape), "{status} {body}");
        }
    }

    #[test]
    fn who_named_no_session_lost_none() {
        for (status, body, _) in SHAPES {
            assert!(!matches!(read(status, false, false, body), Verdict::SessionLost(_)), "{status} {body}");
        }
    }

    #[test]
    fn logging_in_is_not_ours_to_do() {
        assert_eq!(read(401, true, true, "Session not found"), Verdict::NotExecuted);
        assert_eq!(read(401, false, true, "invalid token"), Verdict::NotExecuted);
        assert_eq!(read(403, false, true, ""), Verdict::NotExecuted);
    }

    #[test]
    fn a_tools_own_errors_are_answers() {
        for body in [
            r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32603,"message":"user session not found in the shop"}}"#,
            r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"Unknown tool: session not found"}}"#,
            r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32000,"message":"Session expired: log into the shop again"}}"#,
            r#"{"jsonrpc":"2.0","id":4,"result":{"content":[{"type":"text","text":"Session not found"}],"isError":true}}"#,
        ] {
            assert_eq!(read(200, false, true, body), Verdict::Answer, "{body}");
        }
    }

    #[test]
    fn what_is_certain_and_what_is_not() {
        for status in [401, 403, 405, 413, 429] {
            assert_eq!(read(status, false, true, ""), Verdict::NotExecuted, "{status}");
        }
        let no_method = r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32601,"message":"Method not found"}}"#;
        assert_eq!(read(500, false, true, no_method), Verdict::NotExecuted);
        assert_eq!(read(400, false, true, "Bad Request"), Verdict::Unknown);
        for status in [500, 502, 503, 504] {
            assert_eq!(read(status, false, true, "upstream timed out"), Verdict::Unknown, "{status}");
            let internal = r#"{"jsonrpc":"2.0","id":4,"error":{"code":-32603,"message":"Internal error"}}"#;
            assert_eq!(read(status, false, true, internal), Verdict::Unknown, "{status}");
        }
        for (failure, certain) in [
            (Failure::NotConnected, true),
            (Failure::NothingWritten, true),
            (Failure::Refused, true),
            (Failure::Broken, false),
            (Failure::TimedOut, false),
        ] {
            assert_eq!(failure.is_not_executed(), certain, "{failure:?}");
        }
    }

    #[test]
    fn an_error_without_our_id_completes_the_post_it_answers() {
        let completes = |text: &str| completes_its_post(&Envelope::parse(text.to_owned()).unwrap());
        for id in [r#""id":null,"#, r#""id":"","#, r#""id":"server-error","#, ""] {
            assert!(completes(&format!(r#"{{{id}"error":{{"code":1,"message":"m"}}}}"#)), "{id}");
        }
        assert!(!completes(r#"{"id":4,"error":{"code":1,"message":"m"}}"#));
        assert!(!completes(r#"{"id":null,"result":{}}"#));
    }
}
