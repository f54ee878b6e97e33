//! Requests read and answers written: the only place that knows how the engine's words travel over HTTP.
//!
//! The hot path (`POST …/commands`) decodes typed values straight from the body's bytes and writes its answer by hand.

use std::{
    fmt::Write as _,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::{Deserialize, de::DeserializeOwned};
use swarmkeep::{
    Actor, Durability, EntityId, Hash, Outcome, Reply, RequestId, Seq, Session, SessionId, SessionName,
    core::{command::Command, limits, state::Head},
};

use crate::{
    app::{App, Via},
    left::About,
    problem::Problem,
};

/// Largest JSON body. A group of records is at most [`limits::GROUP_BYTES`]; escapes and spaces may double it.
pub(crate) const BODY_BYTES: usize = 2 * 1024 * 1024;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The header that says who does it.
pub(crate) const ACTOR: HeaderName = HeaderName::from_static("swarmkeep-actor");
/// The header that asks for less than durable: `relaxed`.
pub(crate) const DURABILITY: HeaderName = HeaderName::from_static("swarmkeep-durability");
/// The header that names a request.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a handler answers.
pub(crate) type Answer = Result<Response, Problem>;

/// One request, as a handler sees it.
pub(crate) struct Call {
    pub(crate) app: App,
    pub(crate) parts: Parts,
    params: Option<RawPathParams>,
    /// Never locked: it makes the value `Sync`, so that a handler may hold a reference to it while it waits.
    body: Mutex<Body>,
}

impl FromRequest<App> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let params = match RawPathParams::from_request_parts(&mut parts, app).await {
            Ok(params) => Some(params),
            Err(RawPathParamsRejection::MissingPathParams(_)) => None,
            Err(error) => {
                return Err(Problem::invalid(format!("the path is not UTF-8 once its %XX are decoded: {error}")));
            }
        };
        Ok(Self { app: app.clone(), parts, params, body: Mutex::new(body) })
    }
}

impl Call {
    /// A part of the path, percent-decoded.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params
            .as_ref()
            .and_then(|params| params.iter().find(|(key, _)| *key == name))
            .map_or("", |(_, value)| value)
    }

    /// A part of the path that names something.
    pub(crate) fn id<T>(&self, name: &str) -> Result<T, Problem>
    where
        T: FromStr,
        Problem: From<T::Err>,
    {
        Ok(self.param(name).parse::<T>()?)
    }

    /// The session that the path names.
    pub(crate) fn session_name(&self) -> Result<SessionName, Problem> {
        Ok(SessionName::new(self.param("namespace"), self.param("name"))?)
    }

    /// The session that the path names; there must be one.
    pub(crate) async fn session(&self) -> Result<Session, Problem> {
        // Checked by the engine, as any name is.
        let session = self.app.session(&[self.param("namespace"), self.param("name")].join("/")).await?;
        self.is_about(session.id());
        Ok(session)
    }

    /// Whose state the answer tells.
    pub(crate) fn is_about(&self, session: SessionId) {
        if let Some(about) = self.parts.extensions.get::<About>() {
            about.set(session);
        }
    }

    /// The query string; unknown parameters are refused.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        Query::<T>::try_from_uri(&self.parts.uri)
            .map(|Query(query)| query)
            .map_err(|error| Problem::invalid(error.body_text()))
    }

    /// The body's bytes, at most so many.
    pub(crate) async fn bytes(&mut self, most: usize) -> Result<Bytes, Problem> {
        if let Some(encoding) = self.parts.headers.get(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            return Err(Problem::new(
                "unsupported_media_type",
                "bodies are taken as they are: send this one without Content-Encoding",
            ));
        }
        read(self.stream(), most).await
    }

    /// The body itself, for handlers that read it piece by piece.
    pub(crate) fn stream(&mut self) -> Body {
        std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// The body, decoded. An empty one counts as `{}`, so that calls without arguments need no body.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let bytes = self.bytes(BODY_BYTES).await?;
        decode_object(if bytes.is_empty() { b"{}" } else { &bytes })
    }

    /// Who did it, where the caller does not say.
    pub(crate) fn unnamed(&self) -> &Actor {
        self.parts.extensions.get::<Via>().map_or(self.app.unnamed(), |Via(caller)| caller)
    }

    /// Submits commands for a request whose only envelope are its headers, and answers with the reply.
    pub(crate) async fn submit(&self, session: &Session, actor: Option<&EntityId>, commands: Vec<Command>) -> Answer {
        let envelope = Envelope::of(&self.parts.headers)?;
        let reply = self.carry_out(session, envelope, actor, commands).await?;
        Ok(answer(StatusCode::OK, &reply))
    }

    /// Submits commands; who does it is, in this order: the envelope's actor, the agent given, an unnamed client.
    pub(crate) async fn carry_out(
        &self,
        session: &Session,
        envelope: Envelope,
        actor: Option<&EntityId>,
        commands: Vec<Command>,
    ) -> Result<Reply, Problem> {
        let stated = envelope.if_match;
        let request = envelope.request(self.unnamed(), actor, commands)?;
        session.submit(request).await.map_err(|error| Problem::from(error).precondition(stated))
    }
}

/// Reads a whole body, but nothing of one that is too large.
async fn read(body: Body, most: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::limit(format!("the body is larger than {most} bytes"))
            .hint("send less in one request, or large content as a blob")
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let collect = async {
        let mut body = body;
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| Problem::invalid(format!("the body broke off: {error}")))?.into_data()
            else {
                continue;
            };
            if first.len().max(rest.len()).saturating_add(data.len()) > most {
                return Err(too_large());
            }
            if first.is_empty() {
                // Most bodies are one frame: nothing is copied then.
                first = data;
            } else {
                if rest.is_empty() {
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&data);
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    };
    match tokio::time::timeout(BODY_TIME, collect).await {
        Ok(result) => result,
        Err(_) => {
            Err(Problem::new("timeout", format!("the body took longer than {} s to arrive", BODY_TIME.as_secs()))
                .header(header::CONNECTION, HeaderValue::from_static("close")))
        }
    }
}

/// Decodes JSON; the problem names the field and the place.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, &error))
}

/// Decodes an object. Without this check the decoder would take a list of the fields' values as well, in their order.
pub(crate) fn decode_object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') | None => decode(bytes),
        Some(_) => Err(Problem::invalid("the body is not what this route takes: a JSON object, `{…}`")),
    }
}

/// Decodes a second time, with a decoder that keeps track of where it is: too slow for every request, worth it for a bad one.
fn explain<'a, T: Deserialize<'a>>(bytes: &'a [u8], error: &serde_json::Error) -> Problem {
    let mut decoder = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut decoder) {
        Err(traced) if !matches!(traced.path().to_string().as_str(), "." | "?" | "") => {
            Problem::invalid(format!("at `{}`: {}", traced.path(), traced.inner()))
        }
        _ => Problem::invalid(format!("the body is not what this route takes: {error}")),
    }
}

/// What goes around a request's commands.
#[derive(Debug, Default)]
pub(crate) struct Envelope {
    pub(crate) id: Option<RequestId>,
    pub(crate) actor: Option<Actor>,
    pub(crate) expected_seq: Option<Seq>,
    pub(crate) durability: Option<Durability>,
    /// The expectation came in `If-Match`: a conflict is a failed precondition.
    pub(crate) if_match: bool,
}

impl Envelope {
    /// What the headers say.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut envelope = Self::without_precondition(headers)?;
        if let Some(seq) = if_match(headers)? {
            envelope.expected_seq = Some(Seq(seq));
            envelope.if_match = true;
        }
        Ok(envelope)
    }

    /// What the headers say, for routes where `If-Match` is about something else than the session's seq.
    pub(crate) fn without_precondition(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut envelope = Self::default();
        if let Some(key) = text(headers, &IDEMPOTENCY_KEY)? {
            let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
            envelope.id = Some(key.parse().map_err(|refusal| named(&IDEMPOTENCY_KEY, refusal))?);
        }
        if let Some(actor) = text(headers, &ACTOR)? {
            envelope.actor = Some(actor.parse().map_err(|refusal| named(&ACTOR, refusal))?);
        }
        if let Some(durability) = text(headers, &DURABILITY)? {
            envelope.durability = Some(match durability {
                "durable" => Durability::Durable,
                "relaxed" => Durability::Relaxed,
                _ => return Err(Problem::invalid("header `swarmkeep-durability`: use `durable` or `relaxed`")),
            });
        }
        Ok(envelope)
    }

    /// Adds what the body says; the two must not contradict each other.
    pub(crate) fn and_body(
        mut self,
        id: Option<RequestId>,
        actor: Option<Actor>,
        expected_seq: Option<Seq>,
        durability: Option<Durability>,
    ) -> Result<Self, Problem> {
        fn one<T: PartialEq>(header: Option<T>, body: Option<T>, what: &str) -> Result<Option<T>, Problem> {
            match (header, body) {
                (Some(header), Some(body)) if header != body => {
                    Err(Problem::invalid(format!("{what} differ: give it once")))
                }
                (header, body) => Ok(header.or(body)),
            }
        }
        self.id = one(self.id, id, "header `idempotency-key` and field `request_id`")?;
        self.actor = one(self.actor, actor, "header `swarmkeep-actor` and field `actor`")?;
        self.expected_seq = one(self.expected_seq, expected_seq, "header `if-match` and field `expected_seq`")?;
        self.durability = one(self.durability, durability, "header `swarmkeep-durability` and field `durability`")?;
        Ok(self)
    }

    /// The engine's request.
    pub(crate) fn request(
        self,
        unnamed: &Actor,
        agent: Option<&EntityId>,
        commands: Vec<Command>,
    ) -> Result<swarmkeep::Request, Problem> {
        let actor = match (self.actor, agent) {
            (Some(actor), _) => {
                if actor.as_str() == "system" {
                    return Err(Problem::invalid("actor `system` is the engine itself: use another name"));
                }
                actor
            }
            (None, Some(agent)) => agent.as_str().parse()?,
            (None, None) => unnamed.clone(),
        };
        for (at, command) in commands.iter().enumerate() {
            refuse_engines_own(at, command)?;
        }
        let mut request = swarmkeep::Request::all(actor, commands);
        request.id = self.id;
        request.expected_seq = self.expected_seq;
        request.durability = self.durability.unwrap_or_default();
        Ok(request)
    }
}

/// Commands that only the engine may give: they state what it alone can know.
fn refuse_engines_own(at: usize, command: &Command) -> Result<(), Problem> {
    let (name, instead) = match command {
        Command::ExpireLease { .. } => {
            ("expire_lease", "the engine expires leases by itself; `set_agent_status` ends an agent")
        }
        Command::DoubtEffect { .. } => {
            ("doubt_effect", "the engine doubts an effect by itself; `begin_effect` again to ask")
        }
        Command::Expire {} => ("expire", "the engine expires things by itself"),
        Command::InterruptTurns { .. } => {
            ("interrupt_turns", "the engine closes them by itself; `return_agent` says that a new process begins")
        }
        Command::InterruptCall { .. } => {
            ("interrupt_call", "the engine closes it by itself; `return_agent` says that a new process begins")
        }
        Command::NoteRecovery { .. } => ("note_recovery", "the engine notes its recoveries by itself"),
        Command::Rewind { .. } => ("rewind", "POST the session's `/rewind` route"),
        _ => return Ok(()),
    };
    Err(Problem::invalid(format!("at `commands[{at}]`: `{name}` is the engine's own command")).hint(instead))
}

fn named(header: &HeaderName, refusal: swarmkeep::Refusal) -> Problem {
    Problem::invalid(format!("header `{header}`: {}", refusal.message))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    std::str::from_utf8(value.as_bytes())
        .map(Some)
        .map_err(|_| Problem::invalid(format!("header `{name}` is not UTF-8")))
}

/// The number in `If-Match: "17"`; `*` states nothing here.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = text(headers, &header::IF_MATCH)? else { return Ok(None) };
    if value.trim() == "*" {
        return Ok(None);
    }
    etag_number(value).map(Some).ok_or_else(|| {
        Problem::invalid("header `if-match`: use the ETag of an answer, a number in quotes such as \"17\"")
    })
}

/// Whether `If-None-Match` names this number: the caller has it already.
pub(crate) fn has_already(headers: &HeaderMap, number: u64) -> bool {
    headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|tag| etag_number(tag.trim().trim_start_matches("W/")) == Some(number)))
}

fn etag_number(tag: &str) -> Option<u64> {
    let tag = tag.trim();
    let number = tag.strip_prefix('"').map_or(Some(tag), |tag| tag.strip_suffix('"'))?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse().ok()
}

/// A number as an ETag.
pub(crate) fn etag(number: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{number}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// The head of a session, as JSON.
pub(crate) fn write_head(out: &mut String, head: &Head) {
    out.push_str("{\"seq\":");
    write_number(out, head.seq.0);
    out.push_str(",\"hash\":\"");
    write_hash(out, &head.hash);
    out.push_str("\",\"time_ms\":");
    write_number(out, head.time_ms);
    out.push('}');
}

/// A number, without the detour that `format!` takes.
pub(crate) fn write_number(out: &mut String, number: u64) {
    // Writing into a String cannot fail.
    let _ = write!(out, "{number}");
}

fn write_hash(out: &mut String, hash: &Hash) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    for byte in hash.0 {
        for digit in [byte >> 4, byte & 15] {
            out.push(DIGITS.get(usize::from(digit)).copied().unwrap_or('0'));
        }
    }
}

/// The fields of a reply, without the braces around them.
pub(crate) fn write_reply(out: &mut String, reply: &Reply) {
    out.push_str("\"first\":");
    write_number(out, reply.first.0);
    out.push_str(",\"head\":");
    write_head(out, &reply.head);
    out.push_str(",\"outcomes\":[");
    for (at, outcome) in reply.outcomes.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_outcome(out, outcome);
    }
    out.push_str("],\"repeated\":");
    out.push_str(if reply.repeated { "true" } else { "false" });
    out.push_str(",\"durability\":");
    out.push_str(match reply.durability {
        Durability::Durable => "\"durable\"",
        Durability::Relaxed => "\"relaxed\"",
    });
    out.push_str(",\"position\":");
    write_number(out, reply.position.0);
}

fn write_outcome(out: &mut String, outcome: &Outcome) {
    match outcome {
        Outcome::Done { id: None } => out.push_str("{\"done\":{}}"),
        // Nothing in an outcome can fail to be JSON; a caller that got `null` would still have the records.
        other => out.push_str(&serde_json::to_string(other).unwrap_or_else(|_| "null".to_owned())),
    }
}

/// A reply as an answer, with the head's seq as its ETag.
pub(crate) fn answer(status: StatusCode, reply: &Reply) -> Response {
    answer_with(status, reply, "")
}

/// A reply as an answer, with more fields: `,"name":value…`.
pub(crate) fn answer_with(status: StatusCode, reply: &Reply, more: &str) -> Response {
    let mut out = String::with_capacity(256 + more.len());
    out.push('{');
    write_reply(&mut out, reply);
    out.push_str(more);
    out.push('}');
    json_bytes(status, out.into(), Some(reply.head.seq.0))
}

/// JSON that is bytes already.
pub(crate) fn json_bytes(status: StatusCode, bytes: Bytes, version: Option<u64>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(version) = version {
        headers.insert(header::ETAG, etag(version));
    }
    response
}

/// A value as JSON.
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T, version: Option<u64>) -> Answer {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Problem::new("internal", format!("the answer cannot be written as JSON: {error}")))?;
    Ok(json_bytes(StatusCode::OK, bytes.into(), version))
}

/// The caller has it already.
pub(crate) fn not_modified(version: u64) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, etag(version));
    response
}

/// Puts JSON on one line, for framings that end an item at the end of a line. Outside of strings a line break is a space,
/// and inside of strings JSON has none: the value stays the same.
pub(crate) fn one_line(text: &mut String) {
    if text.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
        *text = text.replace(['\n', '\r'], " ");
    }
}

/// The answer to observations: how many were taken.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Accepted {
    pub(crate) accepted: usize,
}

/// A body without fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// A bound on how many rows one answer has.
pub(crate) fn page(limit: Option<usize>, most: usize) -> Result<usize, Problem> {
    match limit {
        None => Ok(most.min(100)),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(limit) => Err(Problem::invalid(format!("parameter `limit` is {limit}: use 1 to {most}"))),
    }
}

const _: () = assert!(BODY_BYTES > 2 * limits::JSON_BYTES && BODY_BYTES > limits::GROUP_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Commands {
        #[expect(dead_code, reason = "decoded only")]
        commands: Vec<Command>,
    }

    fn refused(body: &[u8]) -> String {
        decode::<Commands>(body).unwrap_err().to_string()
    }

    #[test]
    fn a_decoding_problem_names_field_and_place() {
        let text = refused(br#"{"commands":[{"create_task":{"title":"a"}},{"create_task":{"title":7}}]}"#);
        assert!(text.contains("commands[1].create_task.title") && text.contains("line 1 column"), "{text}");
        let text = refused(br#"{"commands":[{"create_task":{"title":"a","colour":1}}]}"#);
        assert!(text.contains("colour") && text.contains("commands[0].create_task"), "{text}");
        let text = refused(b"{\"commands\":[\n{\"fly\":{}}]}");
        assert!(text.contains("fly") && text.contains("line 2"), "{text}");
        assert!(refused(b"").contains("EOF"));
        assert!(refused(b"{\"commands\":[]} x").contains("trailing"));
        assert!(refused(b"{\"commands\":[{\"create_task\":{\"title\":\"\xff\"}}]}").contains("invalid unicode"));
        assert!(refused(&[b'['; 100_000]).contains("invalid"));
        let deep = format!(
            r#"{{"commands":[{{"create_task":{{"title":"a","payload":{}{}}}}}]}}"#,
            "[".repeat(5000),
            "]".repeat(5000)
        );
        assert!(refused(deep.as_bytes()).contains("nested"));
    }

    #[test]
    fn etags_are_numbers() {
        for (tag, number) in
            [("\"17\"", Some(17)), ("17", Some(17)), ("\"x\"", None), ("\"1", None), ("", None), ("-1", None)]
        {
            assert_eq!(etag_number(tag), number, "{tag}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"3\", W/\"17\""));
        assert!(has_already(&headers, 17) && !has_already(&headers, 4));
    }

    #[test]
    fn header_and_body_must_not_contradict_each_other() {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("\"w:1\""));
        let merged = |id: &str| Envelope::of(&headers).unwrap().and_body(Some(id.parse().unwrap()), None, None, None);
        assert_eq!(merged("w:1").unwrap().id.unwrap().to_string(), "w:1");
        assert_eq!(merged("w:2").unwrap_err().code(), "invalid");
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static(""));
        assert_eq!(Envelope::of(&headers).unwrap_err().code(), "invalid");
    }

    #[test]
    fn json_fits_on_one_line() {
        let mut text = "{\n\"a\":\r\n\"b\\n\"}".to_owned();
        one_line(&mut text);
        assert_eq!(text, "{ \"a\":  \"b\\n\"}");
    }
}
