//! What the headers of a request have to say, before its body counts.

use axum::http::{
    HeaderMap, HeaderName, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN},
};

use crate::{
    envelope::{Envelope, Kind, Malformed},
    mirrored::{self, Params},
};

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Revisions with sessions.
const WITH_SESSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// From this one on there are none.
const WITHOUT_SESSIONS: &str = "2026-07-28";
/// JSON-RPC: the headers are not what the body says.
const MISMATCH: i64 = -32_020;
/// JSON-RPC: of HTTP itself.
const BAD_REQUEST: i64 = -32_000;

/// A request that is not passed on.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// JSON text.
    pub(super) id: String,
    pub(super) code: i64,
    pub(super) what: String,
}

impl Refused {
    fn new(status: StatusCode, what: impl Into<String>) -> Self {
        Self { status, id: "null".to_owned(), code: BAD_REQUEST, what: what.into() }
    }

    pub(super) fn malformed(malformed: &Malformed) -> Self {
        Self { code: malformed.code(), ..Self::new(StatusCode::BAD_REQUEST, malformed.to_string()) }
    }

    pub(super) fn unavailable(what: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, what)
    }

    pub(super) fn too_large() -> Self {
        let most = crate::wire::LINE_BYTES;
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a message of more than {most} bytes"))
    }

    /// Clients begin anew when they hear this.
    pub(super) fn unknown_session() -> Self {
        let what = "Session not found: it was ended, or never begun here; initialize again";
        Self { code: -32_001, ..Self::new(StatusCode::NOT_FOUND, what) }
    }

    pub(super) fn unknown_event() -> Self {
        let what = "what came after that event is not kept any more: open the stream without Last-Event-ID";
        Self::new(StatusCode::BAD_REQUEST, what)
    }

    fn mismatch(message: &Envelope, what: String) -> Self {
        let id = message.id().unwrap_or("null").to_owned();
        Self { id, code: MISMATCH, ..Self::new(StatusCode::BAD_REQUEST, what) }
    }
}

/// The value of a header that may come once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(format!("the header {name} comes twice"));
    }
    value.to_str().map(Some).map_err(|_| format!("the header {name} is not ASCII"))
}

fn bad(what: String) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, what)
}

fn is_of_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A page of some other site whose name leads here must not ask as if it were on this machine (DNS rebinding).
pub(super) fn check_host(headers: &HeaderMap, is_public: bool) -> Result<(), Refused> {
    if is_public {
        return Ok(());
    }
    let host = one(headers, &HOST).map_err(bad)?.and_then(|host| host.parse::<axum::http::uri::Authority>().ok());
    if host.is_some_and(|host| is_of_this_machine(host.host())) {
        return Ok(());
    }
    let what = "the Host is not this machine: ask at localhost or 127.0.0.1";
    Err(Refused::new(StatusCode::FORBIDDEN, what))
}

pub(super) fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refused> {
    let Some(origin) = one(headers, &ORIGIN).map_err(bad)? else { return Ok(()) };
    let is_ours = origin.parse::<Uri>().ok().and_then(|origin| origin.host().map(is_of_this_machine));
    if is_ours == Some(true) || allowed.iter().any(|allowed| allowed.trim_end_matches('/') == origin) {
        return Ok(());
    }
    let what = format!("pages of {origin} may not ask here: start it with --allow-origin {origin} if they may");
    Err(Refused::new(StatusCode::FORBIDDEN, what))
}

pub(super) fn check_token(headers: &HeaderMap, token: &str) -> Result<(), Refused> {
    let said = one(headers, &AUTHORIZATION).map_err(bad)?.and_then(|said| said.strip_prefix("Bearer "));
    // Hashes are compared: how long that takes says nothing of the token.
    if said.is_some_and(|said| blake3::hash(said.as_bytes()) == blake3::hash(token.as_bytes())) {
        return Ok(());
    }
    Err(Refused::new(StatusCode::UNAUTHORIZED, "send the token that this was started with, as Authorization: Bearer"))
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let group = kind.split('/').next().unwrap_or_default();
    let mut kinds =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    kinds.any(|accepted| {
        let accepted = accepted.split(';').next().unwrap_or_default().trim();
        accepted == "*/*" || accepted.eq_ignore_ascii_case(kind) || accepted.eq_ignore_ascii_case(&format!("{group}/*"))
    })
}

pub(super) fn check_post(headers: &HeaderMap) -> Result<(), Refused> {
    if !accepts(headers, "application/json") || !accepts(headers, "text/event-stream") {
        let what = "accept both application/json and text/event-stream: an answer may be either";
        return Err(Refused::new(StatusCode::NOT_ACCEPTABLE, what));
    }
    let kind = one(headers, &CONTENT_TYPE).map_err(bad)?.unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send a message as application/json"));
    }
    Ok(())
}

pub(super) fn check_get(headers: &HeaderMap) -> Result<(), Refused> {
    let version = one(headers, &VERSION).map_err(bad)?.unwrap_or_default();
    if version >= WITHOUT_SESSIONS || !headers.contains_key(SESSION) && version.is_empty() {
        let what = "a stream of the server's own words needs a session: there is POST alone without one";
        return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, what));
    }
    if !accepts(headers, "text/event-stream") {
        return Err(Refused::new(StatusCode::NOT_ACCEPTABLE, "accept text/event-stream"));
    }
    Ok(())
}

/// The session that a request names.
pub(super) fn session(headers: &HeaderMap) -> Result<&str, Refused> {
    one(headers, &SESSION)
        .map_err(bad)?
        .ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, "Mcp-Session-Id is missing: initialize answers with it"))
}

/// Stream and seq of the event after which a client goes on.
pub(super) fn last_event(headers: &HeaderMap) -> Result<Option<(u64, u64)>, Refused> {
    let Some(id) = one(headers, &LAST_EVENT).map_err(bad)? else { return Ok(None) };
    let mut parts = id.split('-').skip(1).map(str::parse::<u64>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(stream)), Some(Ok(seq)), None) => Ok(Some((stream, seq))),
        _ => Err(Refused::unknown_event()),
    }
}

/// Whether a message is one of the revisions without sessions.
pub(super) fn is_modern(headers: &HeaderMap, message: &Envelope) -> bool {
    let says = one(headers, &VERSION)
        .ok()
        .flatten()
        .is_some_and(|version| version >= WITHOUT_SESSIONS && !WITH_SESSIONS.contains(&version));
    // Who begins a session says nothing of its revision but in the params.
    let begins_session = message.method() == Some("initialize") && !message.is_modern();
    let is_discovery = message.method() == Some("server/discover");
    !begins_session && !headers.contains_key(SESSION) && (says || message.is_modern() || is_discovery)
}

/// A revision that a client with a session names has to be one.
pub(super) fn check_version(headers: &HeaderMap, message: Option<&Envelope>) -> Result<(), Refused> {
    let Some(version) = one(headers, &VERSION).map_err(bad)? else { return Ok(()) };
    let begins = message.is_some_and(|message| message.method() == Some("initialize"));
    if begins || WITH_SESSIONS.contains(&version) {
        return Ok(());
    }
    Err(bad(format!("MCP-Protocol-Version {version} is none with sessions: {}", WITH_SESSIONS.join(", "))))
}

/// What a request without a session says in its headers is what its body says.
pub(super) fn check_modern(headers: &HeaderMap, params: &Params, message: &Envelope) -> Result<(), Refused> {
    if message.kind() != Kind::Request {
        return Ok(());
    }
    let mismatch = |what: String| Refused::mismatch(message, what);
    let version = one(headers, &VERSION).map_err(mismatch)?;
    let revision = message.revision();
    match (version, revision.as_deref()) {
        (None, _) => return Err(mismatch("MCP-Protocol-Version is missing".to_owned())),
        (Some(version), Some(revision)) if version != revision => {
            return Err(mismatch(format!("MCP-Protocol-Version is {version}, the body says {revision}")));
        }
        // The server says what is missing of the body.
        _ => {}
    }
    let method = message.method().unwrap_or_default();
    match one(headers, &METHOD).map_err(mismatch)? {
        Some(said) if said == method => {}
        Some(said) => return Err(mismatch(format!("Mcp-Method is {said}, the body says {method}"))),
        None => return Err(mismatch(format!("Mcp-Method is missing: it is {method}"))),
    }
    check_params(headers, params, message).map_err(mismatch)?;
    let Some(name) = mirrored::name(message) else { return Ok(()) };
    match one(headers, &NAME).map_err(mismatch)?.map(mirrored::decoded) {
        Some(Some(said)) if said == name => Ok(()),
        Some(Some(said)) => Err(mismatch(format!("Mcp-Name is {said}, the body says {name}"))),
        Some(None) => Err(mismatch("Mcp-Name is no base64".to_owned())),
        None => Err(mismatch(format!("Mcp-Name is missing: it is {name}"))),
    }
}

/// Whether a request says its revision and what its client can do, as each has to.
pub(super) fn has_whole_meta(message: &Envelope) -> bool {
    let meta = message.param("_meta").and_then(|meta| serde_json::from_str::<serde_json::Value>(meta).ok());
    let has = |key: &str| meta.as_ref().and_then(|meta| meta.get(format!("io.modelcontextprotocol/{key}"))).cloned();
    has("protocolVersion").is_some_and(|version| version.is_string())
        && has("clientCapabilities").is_some_and(|all| all.is_object())
}

/// Arguments that a tool wants to see in headers stand there, and no others.
fn check_params(headers: &HeaderMap, params: &Params, message: &Envelope) -> Result<(), String> {
    for (header, expected) in params.of(message) {
        let Ok(name) = HeaderName::try_from(&header) else { continue };
        let said = one(headers, &name)?;
        match (said.map(mirrored::decoded), expected) {
            (None, None) => {}
            (Some(Some(said)), Some(expected)) if said == expected => {}
            (Some(None), _) => return Err(format!("{header} is no base64")),
            (Some(Some(said)), Some(expected)) => return Err(format!("{header} is {said}, the body says {expected}")),
            (Some(Some(_)), None) => return Err(format!("{header} is there, its argument is not")),
            (None, Some(expected)) => return Err(format!("{header} is missing: it is {expected}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_this_machine_is_asked_by_its_own_names() {
        for (host, is_good) in [
            ("localhost:80", true),
            ("127.0.0.1", true),
            ("[::1]:9", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(check_host(&headers(&[(HOST, host)]), false).is_ok(), is_good, "{host}");
        }
        assert!(check_host(&headers(&[]), false).is_err());
        assert!(check_host(&headers(&[(HOST, "anything")]), true).is_ok());
    }

    #[test]
    fn pages_of_other_sites_are_refused_unless_they_are_named() {
        let from = |origin| check_origin(&headers(&[(ORIGIN, origin)]), &["https://a.example".to_owned()]).is_ok();
        assert!(from("http://localhost:3000") && from("https://a.example") && from("http://127.0.0.1"));
        assert!(!from("https://b.example") && !from("null") && !from("http://localhost.evil.example"));
    }

    #[test]
    fn a_token_is_asked_for_as_a_whole() {
        let said = |text| check_token(&headers(&[(AUTHORIZATION, text)]), "abc").is_ok();
        assert!(said("Bearer abc"));
        assert!(!said("Bearer ab") && !said("Bearer abcd") && !said("abc") && !said("Basic abc"));
        assert!(check_token(&headers(&[]), "abc").is_err());
    }

    #[test]
    fn events_are_named_by_stream_and_seq() {
        let last = |text| last_event(&headers(&[(LAST_EVENT, text)])).map_err(|refused| refused.status);
        assert_eq!(last("17-3-9"), Ok(Some((3, 9))));
        for text in ["", "3", "1-2", "1-2-3-4", "1-x-3", "1--3"] {
            assert_eq!(last(text), Err(StatusCode::BAD_REQUEST), "{text}");
        }
    }

    #[test]
    fn headers_say_what_the_body_says() {
        let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"größe","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let message = Envelope::parse(body).unwrap();
        let name = mirrored::encoded("größe");
        let good = [(VERSION, "2026-07-28"), (METHOD, "tools/call"), (NAME, name.as_str())];
        assert!(check_modern(&headers(&good), &Params::default(), &message).is_ok());
        for (at, value) in [(0, "2025-11-25"), (1, "tools/list"), (2, "other"), (2, "=?base64?!?=")] {
            let mut bad = good.clone();
            bad[at].1 = value;
            let refused = check_modern(&headers(&bad), &Params::default(), &message).unwrap_err();
            assert_eq!(
                (refused.code, refused.id.as_str(), refused.status),
                (MISMATCH, "7", StatusCode::BAD_REQUEST),
                "{value}"
            );
        }
        for missing in 0..3 {
            let mut bad = good.to_vec();
            bad.remove(missing);
            assert!(check_modern(&headers(&bad), &Params::default(), &message).is_err());
        }
    }
}
