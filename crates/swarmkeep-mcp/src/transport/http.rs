//! Streamable HTTP, both eras: every message is a POST of its own, and its answer comes as the POST's body, as JSON or as a
//! stream of events.
//!
//! | up to 2025-11-25 | from 2026-07-28 |
//! |---|---|
//! | a session that `initialize` may bring (`Mcp-Session-Id`), ended with DELETE | none |
//! | a stream of the server's own words, by GET; taken up again with `Last-Event-ID`, as is the answer to a POST that broke off | neither |
//! | a call is cancelled by a notification | by closing its stream |
//!
//! What a server says of a lost session is recognised here ([`crate::reply`]) and given on as the end of the connection.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE},
};
use swarmkeep::core::failure::ProtocolCause;
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Bounds, Connection, Ending, Inbound, Outbound, Resumable, Resume, Site,
    events::{Event, Events},
    too_long_breach,
    web::{Unanswered, Web},
};
use crate::{
    breach,
    envelope::{Edit, Envelope, Frame, Kind, compose},
    mirrored::{self, Params},
    reply::{self, Failure, Verdict},
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// POSTs at once; more wait.
const POSTS: usize = 64;
/// Of a body that is no message, this much is looked at.
const ERROR_BYTES: usize = 64 * 1024;
/// Before a stream is taken up again, when the server does not say.
const RETRY_MS: u64 = 1_000;
/// At most so long, whatever the server says.
const RETRY_MOST_MS: u64 = 30_000;
/// A stream that broke off is taken up so often without a new event.
const RESUMES: u32 = 3;
/// What is under way when the server is found to be gone has so long to say how it went.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The end of a session is told to the server for so long.
const DELETE_TIME: Duration = Duration::from_secs(2);

struct Shared {
    web: Web,
    uri: Uri,
    line_bytes: usize,
    to: mpsc::Sender<Inbound>,
    state: Mutex<State>,
    resumable: Resumable,
}

#[derive(Default)]
struct State {
    session: Option<HeaderValue>,
    version: Option<HeaderValue>,
    is_modern: bool,
    /// What tools want to see in headers.
    params: Params,
    posts: BTreeMap<u64, AbortHandle>,
}

/// Connects, so that it is known whether anybody is there; to go on with a session that was left, if there is one.
///
/// # Errors
/// When nobody is, or the URL is none.
pub async fn open(site: &Site, bounds: &Bounds, resume: Option<Resume>) -> io::Result<Connection> {
    let (web, uri) = Web::new(site)?;
    web.connect().await?;
    let (outbox, mut from_owner) = mpsc::channel(bounds.queue);
    let (to, inbox) = mpsc::channel(bounds.queue);
    let (close, closing) = mpsc::channel(1);
    let (ended, over) = oneshot::channel();
    let (resumable, ending) = (Resumable::default(), Ending::new(close, over));
    let shared =
        Shared { web, uri, line_bytes: bounds.line_bytes, to, state: Mutex::default(), resumable: resumable.clone() };
    let (shared, stays) = (Arc::new(shared), ending.leaves.clone());
    tokio::spawn(async move {
        let why = run(&shared, &mut from_owner, closing, resume).await;
        if !stays.load(Ordering::Acquire) {
            shared.end_session().await;
        }
        // Whoever waited may be gone.
        let _ = ended.send(());
        super::say_over(from_owner, &shared.to, why).await;
    });
    Ok(Connection { outbox, inbox, ending, resumable })
}

/// To its end; why it ended.
async fn run(
    shared: &Arc<Shared>,
    from_owner: &mut mpsc::Receiver<Outbound>,
    mut closing: mpsc::Receiver<()>,
    resume: Option<Resume>,
) -> String {
    let mut tasks = JoinSet::new();
    let mut listening = JoinSet::new();
    if let Some(resume) = resume {
        shared.go_on(&resume);
        let shared = shared.clone();
        listening.spawn(async move { shared.listen(resume.last_event).await });
    }
    // The server is gone, or has forgotten the session: what is under way has a moment to say how it went, so that what was not
    // carried out is known to be.
    let mut gone: Option<(String, Instant)> = None;
    loop {
        if let Some((why, _)) = gone.as_ref().filter(|_| tasks.is_empty()) {
            return why.clone();
        }
        let until = gone.as_ref().map_or_else(Instant::now, |(_, until)| *until);
        tokio::select! {
            _ = closing.recv() => return "it was closed".to_owned(),
            () = sleep_until(until), if gone.is_some() => tasks.abort_all(),
            Some(Ok(Next::Gone(why))) = listening.join_next() => {
                gone.get_or_insert((why, Instant::now() + LAST_WORDS));
            }
            Some(done) = tasks.join_next() => match done {
                // The stream of the server's own words begins when the handshake is over.
                Ok(Next::Listen) => {
                    let shared = shared.clone();
                    listening.spawn(async move { shared.listen(None).await });
                }
                Ok(Next::Gone(why)) => {
                    gone.get_or_insert((why, Instant::now() + LAST_WORDS));
                }
                _ => {}
            },
            next = from_owner.recv(), if tasks.len() < POSTS => {
                let Some(outbound) = next else { return "it was closed".to_owned() };
                if gone.is_some() {
                    shared.say(Inbound::Failed { wire: outbound.wire, failure: Failure::NothingWritten }).await;
                    continue;
                }
                let Ok(message) = Envelope::parse(outbound.line.clone()) else { continue };
                if shared.cancels(&message) {
                    continue;
                }
                let (task, wire) = (shared.clone(), outbound.wire);
                let post = tasks.spawn(async move { task.post(wire, message).await });
                if let Some(wire) = wire {
                    let mut state = shared.state();
                    state.posts.retain(|_, post| !post.is_finished());
                    state.posts.insert(wire, post);
                }
            }
        }
    }
}

enum Next {
    Nothing,
    Listen,
    /// Nobody is there, or whoever is knows nothing of the session.
    Gone(String),
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From 2026-07-28 on a call is cancelled by closing its stream: then the notification is not sent.
    fn cancels(&self, message: &Envelope) -> bool {
        if message.kind() != Kind::Notification || message.method() != Some("notifications/cancelled") {
            return false;
        }
        let mut state = self.state();
        let post = message.target().and_then(|target| target.parse().ok()).and_then(|wire| state.posts.remove(&wire));
        if state.is_modern
            && let Some(post) = post
        {
            post.abort();
            return true;
        }
        false
    }

    fn request(&self, method: Method, headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, Unanswered> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let made = Request::builder().method(method).uri(path).body(Full::new(body));
        let mut request = made.map_err(|error| Unanswered {
            failure: Failure::NothingWritten,
            why: format!("cannot be sent: {error}"),
            is_noise: false,
        })?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn headers(&self, message: Option<&Envelope>) -> (HeaderMap, bool) {
        let mut headers = HeaderMap::new();
        let mut state = self.state();
        let mut has_session = false;
        match message {
            Some(message) if message.is_modern() => state.is_modern = true,
            // A client that asked in the newer way first, and was told that the server is older.
            Some(message) if message.method() == Some("initialize") => state.is_modern = false,
            _ => {}
        }
        if let Some(message) = message
            && state.is_modern
        {
            // They repeat what the body says, for whatever stands between.
            let words = [
                (METHOD, message.method().map(str::to_owned)),
                (NAME, mirrored::name(message).map(|name| mirrored::encoded(&name))),
                (VERSION, message.revision()),
            ];
            for (header, word) in words {
                if let Some(value) = word.and_then(|word| HeaderValue::from_str(&word).ok()) {
                    headers.insert(header, value);
                }
            }
            for (header, value) in state.params.of(message) {
                if let Ok(header) = HeaderName::try_from(header)
                    && let Some(Ok(value)) = value.map(|value| HeaderValue::try_from(mirrored::encoded(&value)))
                {
                    headers.insert(header, value);
                }
            }
        } else if message.is_none_or(|message| message.method() != Some("initialize")) {
            if let Some(session) = &state.session {
                headers.insert(SESSION, session.clone());
                has_session = true;
            }
            if let Some(version) = &state.version {
                headers.insert(VERSION, version.clone());
            }
        }
        (headers, has_session)
    }

    async fn say(&self, inbound: Inbound) {
        // Nobody listens any more: then nobody misses it.
        let _ = self.to.send(inbound).await;
    }

    async fn post(&self, wire: Option<u64>, message: Envelope) -> Next {
        let (mut headers, had_session) = self.headers(Some(&message));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let sent = match self.request(Method::POST, headers, message.bytes().clone()) {
            Ok(request) => self.web.send(request).await,
            Err(unanswered) => Err(unanswered),
        };
        let (response, sender) = match sent {
            Ok(answer) => answer,
            Err(Unanswered { failure, why, is_noise }) => {
                if is_noise {
                    let what = format!("its answer is no HTTP: {why}");
                    self.say(Inbound::Breach(breach::breach(ProtocolCause::NotAMessage, what, b""))).await;
                }
                self.say(Inbound::Failed { wire, failure }).await;
                // Nobody is there: the link has to come back, not this one request.
                return if failure == Failure::NotConnected { Next::Gone(why) } else { Next::Nothing };
            }
        };
        if message.method() == Some("initialize") && response.status().is_success() {
            self.state().session = response.headers().get(SESSION).cloned();
            self.resumable.set(None);
        }
        if response.status() == StatusCode::ACCEPTED || response.status() == StatusCode::NO_CONTENT {
            // Nothing follows; what does is read, so that the connection can be used again.
            if drained(response).await {
                self.web.keep(sender);
            }
            self.say(Inbound::Heard).await;
            let is_initialized = message.method() == Some("notifications/initialized");
            return if is_initialized && !self.state().is_modern { Next::Listen } else { Next::Nothing };
        }
        if response.status().is_success() && is_stream(&response) {
            self.stream(wire, response, message.method() == Some("initialize")).await;
            return Next::Nothing;
        }
        let (status, has_challenge) = (response.status().as_u16(), response.headers().contains_key(WWW_AUTHENTICATE));
        let is_ok = response.status().is_success();
        let most = if is_ok { self.line_bytes } else { ERROR_BYTES };
        let body = match read(response, most).await {
            Ok(body) => body,
            Err(Unread { why, beginning }) => {
                if let Some(beginning) = beginning.filter(|_| is_ok) {
                    self.say(too_long_breach(&why, &beginning)).await;
                }
                tracing::debug!(%why, "the body of an answer could not be read");
                self.say(Inbound::Failed { wire, failure: Failure::Broken }).await;
                return Next::Nothing;
            }
        };
        self.web.keep(sender);
        self.answered(wire, &message, status, has_challenge, had_session, body).await
    }

    /// A whole body, as an answer to what was sent.
    async fn answered(
        &self,
        wire: Option<u64>,
        asked: &Envelope,
        status: u16,
        has_challenge: bool,
        had_session: bool,
        body: Bytes,
    ) -> Next {
        let text = String::from_utf8_lossy(&body);
        let frame = Frame::parse(body.clone());
        let message = match &frame {
            Ok(Frame::One(message)) => Some(&**message),
            _ => None,
        };
        let verdict = reply::http(reply::Http { status, has_challenge, message, body: &text, had_session });
        match verdict {
            Verdict::SessionLost(how) => {
                self.say(Inbound::Failed { wire, failure: Failure::Refused }).await;
                return Next::Gone(format!("the server has forgotten the session ({how:?}, status {status})"));
            }
            // Without an answer to it there is no connection, and what it was is the reason.
            Verdict::Unknown if asked.method() == Some("initialize") => {
                return Next::Gone(format!("{}: is there an MCP server at this URL?", answered_with(status)));
            }
            Verdict::Unknown => {
                tracing::debug!(status, "the server failed, and whether it did what was asked is not known");
                self.say(Inbound::Failed { wire, failure: Failure::Broken }).await;
            }
            Verdict::Answer | Verdict::NotExecuted => match (message, wire) {
                (Some(message), _) if asked.method() == Some("initialize") => {
                    self.negotiated(message);
                    self.say(Inbound::Line(with_id(message, wire))).await;
                }
                (Some(message), _) => {
                    self.state().params.learn(message);
                    self.say(Inbound::Line(with_id(message, wire))).await;
                }
                (None, _) if matches!(frame, Ok(Frame::Batch(_))) => self.say(Inbound::Line(body)).await,
                (None, Some(wire)) => {
                    let said: String = text.chars().take(300).collect();
                    let hint = match (asked.method(), status) {
                        // So a server says it that takes no POST there, as one of revision 2024-11-05 does.
                        (Some("initialize"), 404 | 405) => {
                            " (is the URL the right one? One that answers over HTTP+SSE is named with --sse, or `type` sse)"
                        }
                        _ => "",
                    };
                    let text = format!("{}{hint}: {said}", answered_with(status));
                    let line = compose::error(&wire.to_string(), -32603, &text, None);
                    self.say(Inbound::Line(line)).await;
                    // After our own words, which are not taken for the server's.
                    if let (Err(malformed), 200..=299) = (&frame, status) {
                        let what = format!("a body with status {status} that is {malformed}");
                        self.say(Inbound::Breach(breach::breach(ProtocolCause::NotAMessage, what, &body))).await;
                    }
                }
                (None, None) => self.say(Inbound::Heard).await,
            },
        }
        Next::Nothing
    }

    fn negotiated(&self, answer: &Envelope) {
        let version: Option<String> =
            answer.result_member("protocolVersion").and_then(|version| serde_json::from_str(version).ok());
        let session = {
            let mut state = self.state();
            state.version = version.as_ref().and_then(|version| version.parse().ok());
            state.session.as_ref().and_then(|session| session.to_str().ok()).map(str::to_owned)
        };
        self.resumable.set(session.zip(version).map(|(session, version)| Resume {
            session,
            version,
            last_event: None,
        }));
    }

    fn go_on(&self, resume: &Resume) {
        let mut state = self.state();
        (state.session, state.version) = (resume.session.parse().ok(), resume.version.parse().ok());
        drop(state);
        self.resumable.set(Some(resume.clone()));
    }

    /// A stream of events as the answer to a POST; one that breaks off is taken up again where the era allows it.
    async fn stream(&self, wire: Option<u64>, response: Response<Incoming>, is_initialize: bool) {
        let mut events = Events::default();
        let mut retry_ms = RETRY_MS;
        let mut response = Some(response);
        let mut resumes = 0;
        loop {
            if let Some(response) = response.take() {
                let before = events.last_id().map(str::to_owned);
                if self.relay(&mut events, response, wire, is_initialize, &mut retry_ms).await {
                    return;
                }
                if before.as_deref() != events.last_id() {
                    resumes = 0;
                }
            }
            let (Some(id), false) = (events.last_id().map(str::to_owned), self.state().is_modern) else { break };
            resumes += 1;
            if resumes > RESUMES {
                break;
            }
            sleep(Duration::from_millis(retry_ms.min(RETRY_MOST_MS))).await;
            response =
                self.get(Some(&id)).await.ok().filter(|response| response.status().is_success() && is_stream(response));
            events.begin_again();
        }
        self.say(Inbound::Failed { wire, failure: Failure::Broken }).await;
    }

    /// Gives on what a stream says. `true`: what was waited for has come.
    async fn relay(
        &self,
        events: &mut Events,
        response: Response<Incoming>,
        wire: Option<u64>,
        is_initialize: bool,
        retry_ms: &mut u64,
    ) -> bool {
        let mut body = response.into_body();
        let mut found = Vec::new();
        let mut is_answered = false;
        while let Some(Ok(piece)) = body.frame().await {
            let Ok(piece) = piece.into_data() else { continue };
            if let Err(too_large) = events.take(&piece, self.line_bytes, &mut found) {
                self.say(too_long_breach(too_large, events.beginning())).await;
                return is_answered;
            }
            if wire.is_none() && !found.is_empty() {
                self.resumable.saw(events.last_id());
            }
            for event in found.drain(..) {
                match event {
                    Event::Message { data, .. } if data.is_empty() => self.say(Inbound::Heard).await,
                    Event::Message { data, .. } => {
                        let message = Envelope::parse(data.clone()).ok();
                        let answers = message.as_ref().filter(|message| {
                            matches!(message.kind(), Kind::Result | Kind::Error)
                                && (wire.map(|wire| wire.to_string()).as_deref() == message.id()
                                    || reply::completes_its_post(message))
                        });
                        match answers {
                            Some(answer) => {
                                if is_initialize {
                                    self.negotiated(answer);
                                }
                                is_answered = true;
                                self.state().params.learn(answer);
                                self.say(Inbound::Line(with_id(answer, wire))).await;
                            }
                            None => self.say(Inbound::Line(Envelope::line(data))).await,
                        }
                    }
                    Event::Comment => self.say(Inbound::Heard).await,
                    Event::Retry(wait_ms) => *retry_ms = wait_ms,
                }
            }
        }
        is_answered
    }

    async fn get(&self, last: Option<&str>) -> Result<Response<Incoming>, Unanswered> {
        let (mut headers, _) = self.headers(None);
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = last.and_then(|last| HeaderValue::from_str(last).ok()) {
            headers.insert(LAST_EVENT, last);
        }
        let request = self.request(Method::GET, headers, Bytes::new())?;
        Ok(self.web.send(request).await?.0)
    }

    /// The server's own words, for as long as it has some; those after an event, if one is known.
    async fn listen(&self, mut after: Option<String>) -> Next {
        let mut events = Events::default();
        let mut retry_ms = RETRY_MS;
        loop {
            let left = after.take_if(|_| events.last_id().is_none());
            let last = events.last_id().map(str::to_owned).or_else(|| left.clone());
            match self.get(last.as_deref()).await {
                Ok(response) if response.status().is_success() && is_stream(&response) => {
                    self.relay(&mut events, response, None, false, &mut retry_ms).await;
                    events.begin_again();
                }
                // It does not know that event any more, and may know the session.
                Ok(response) if response.status().is_client_error() && left.is_some() => {}
                Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                    let has_session = self.state().session.is_some();
                    let why = "the server has forgotten the session".to_owned();
                    return if has_session { Next::Gone(why) } else { Next::Nothing };
                }
                // It has none to say.
                Ok(response) if response.status().is_client_error() => return Next::Nothing,
                Ok(_) => {}
                Err(Unanswered { failure: Failure::NotConnected, why, .. }) => return Next::Gone(why),
                Err(_) => {}
            }
            sleep(Duration::from_millis(retry_ms.clamp(10, RETRY_MOST_MS))).await;
        }
    }

    async fn end_session(&self) {
        if self.state().session.is_none() {
            return;
        }
        let (headers, _) = self.headers(None);
        if let Ok(request) = self.request(Method::DELETE, headers, Bytes::new()) {
            // A server that does not answer forgets the session in its own time.
            let _ = timeout(DELETE_TIME, self.web.send(request)).await;
        }
    }
}

/// An answer that names no request answers the one whose body it is.
fn with_id(message: &Envelope, wire: Option<u64>) -> Bytes {
    let line = match wire {
        Some(wire) if reply::completes_its_post(message) => {
            let wire = wire.to_string();
            if message.id().is_some() {
                message.edited(Edit { id: Some(&wire), ..Edit::default() })
            } else {
                let text = message.bytes();
                let inside = text.iter().position(|&byte| byte == b'{').map_or(0, |at| at + 1);
                let mut with = BytesMut::with_capacity(text.len() + 32);
                with.extend_from_slice(text.get(..inside).unwrap_or_default());
                with.extend_from_slice(format!("\"id\":{wire},").as_bytes());
                with.extend_from_slice(text.get(inside..).unwrap_or_default());
                with.freeze()
            }
        }
        _ => message.bytes().clone(),
    };
    Envelope::line(line)
}

pub(super) fn is_stream(response: &Response<Incoming>) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// With a status, in words.
pub(super) fn answered_with(status: u16) -> String {
    let status = StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |status| status.to_string());
    format!("the server answered with HTTP status {status}")
}

async fn drained(response: Response<Incoming>) -> bool {
    read(response, ERROR_BYTES).await.is_ok()
}

/// A body that was not read to its end.
struct Unread {
    why: String,
    /// How it begins, if it is too long.
    beginning: Option<Bytes>,
}

async fn read(response: Response<Incoming>, most: usize) -> Result<Bytes, Unread> {
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    while let Some(piece) = body.frame().await {
        let piece = piece.map_err(|error| Unread { why: error.to_string(), beginning: None })?;
        if let Ok(piece) = piece.into_data() {
            if text.len() + piece.len() > most {
                text.extend_from_slice(&piece);
                return Err(Unread {
                    why: format!("a body of more than {most} bytes"),
                    beginning: Some(text.freeze()),
                });
            }
            text.extend_from_slice(&piece);
        }
    }
    Ok(text.freeze())
}
