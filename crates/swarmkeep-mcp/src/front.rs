//! The end for clients that speak HTTP: Streamable HTTP of both eras, in front of any server that the proxy reaches.
//!
//! It is to an HTTP client what the [shim](crate::shim) is to one that starts a program: it decides nothing about calls, and
//! carries lines. Besides it keeps what HTTP needs: which answer belongs to which POST, and what a stream that broke off has
//! still to give.
//!
//! | up to 2025-11-25 | from 2026-07-28 |
//! |---|---|
//! | a session for each `initialize`, with a server of its own; its name holds for a day after its last use, whatever is killed or started anew meanwhile | clients of one name share a server; nothing outlives a request |
//! | a stream that broke off is taken up by GET with `Last-Event-ID` | leaving a stream cancels the request |
//!
//! | module | holds |
//! |---|---|
//! | `book` | which answer belongs to which POST, what waits on which stream |
//! | `journal` | what of that outlives the process |
//! | `talk` | one conversation and its line to the daemon |
//! | `headers` | what a request's headers have to say |

mod book;
mod headers;
mod journal;
mod talk;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use futures_util::stream;
use swarmkeep::{
    OsEntropy, SystemClock,
    core::clock::{Clock, Entropy},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};

pub use self::talk::Dials;
use self::{
    book::{Book, Event, GENERAL},
    headers::Refused,
    journal::{Folder, Journal},
    talk::{Reading, Talk},
};
use crate::{
    envelope::{Envelope, Frame, Kind, compose},
    wire::{Ask, LINE_BYTES},
};

/// An answer that takes longer comes as a stream, so that the client has a name to take it up by.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A stream on which nothing happens says that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// A client that comes back to a stream is told to wait so long.
const RETRY_MS: u64 = 1_000;
/// A session that nobody uses is forgotten after this long.
const SESSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Its server ends before that, if it has no wishes that would be forgotten.
const SERVER_LIFE: Duration = Duration::from_secs(30 * 60);
/// The server of clients without sessions.
const SHARED_LIFE: Duration = Duration::from_secs(10 * 60);
/// Between two looks at what nobody uses.
const SWEEP: Duration = Duration::from_secs(60);
/// Conversations at once.
const TALKS: usize = 1_000;

/// What a front is told.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The server, and in which session its calls land; the client's name is filled in for each.
    pub ask: Ask,
    /// Where conversations are kept.
    pub folder: PathBuf,
    /// What clients have to say as `Authorization: Bearer`; absent: nothing.
    pub token: Option<String>,
    /// Web pages of these origins may ask, besides those of this machine.
    pub origins: Vec<String>,
}

struct Front {
    terms: Terms,
    folder: Folder,
    dials: Dials,
    /// Clients on other machines reach it.
    is_public: bool,
    /// By session, or by client's name where there are none.
    talks: Mutex<BTreeMap<String, Arc<Talk>>>,
    closing: watch::Receiver<bool>,
    /// Names streams over restarts.
    boot: u64,
}

/// Answers clients on `listener` until `until` resolves. `dials` is asked for connections to the daemon.
///
/// # Errors
/// When conversations cannot be kept, or the listener fails.
pub async fn serve(
    listener: TcpListener,
    terms: Terms,
    dials: Dials,
    until: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let folder = Folder::open(&terms.folder)?;
    let (close, closing) = watch::channel(false);
    let is_public = !listener.local_addr()?.ip().is_loopback();
    let boot = SystemClock::new().now_ms();
    let front =
        Arc::new(Front { terms, folder, dials, is_public, talks: Mutex::default(), closing: closing.clone(), boot });
    front.take_up();
    let sweeping = tokio::spawn(sweep(front.clone()));
    let routes = routing::post(post).get(get).delete(delete);
    let router = Router::new().route("/mcp", routes.clone()).route("/", routes).with_state(front.clone());
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            until.await;
            close.send_replace(true);
        })
        .await;
    sweeping.abort();
    served
}

/// What nobody uses is ended, later forgotten.
async fn sweep(front: Arc<Front>) {
    loop {
        sleep(SWEEP).await;
        front.talks().retain(|name, talk| {
            let (is_idle, has_wishes) = {
                let book = talk.book();
                (!book.is_read() && !book.is_waiting(), book.has_wishes())
            };
            let life = match (is_session(name), has_wishes) {
                (true, true) => SESSION_LIFE,
                (true, false) => SERVER_LIFE,
                (false, _) => SHARED_LIFE,
            };
            let stays = talk.ended().is_none() && (!is_idle || talk.idle() < life);
            if !stays {
                talk.end();
            }
            stays
        });
        for (name, age_ms) in front.folder.names().unwrap_or_default() {
            let is_over = u128::from(age_ms) > SESSION_LIFE.as_millis() && !front.talks().contains_key(&name);
            if is_over && let Err(error) = front.folder.remove(&name) {
                tracing::debug!(%error, "a session that is over stays in its folder");
            }
        }
    }
}

fn is_session(name: &str) -> bool {
    !name.starts_with('~')
}

fn json(status: StatusCode, text: Bytes) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], text).into_response()
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        json(self.status, compose::error(&self.id, self.code, &self.what, None))
    }
}

impl Front {
    fn talks(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Talk>>> {
        self.talks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers and ids of this start are higher than those of any before, and whole for any reader of JSON.
    fn base(&self) -> u64 {
        self.boot.saturating_mul(1_000)
    }

    fn ask(&self, client: &str, is_lasting: bool) -> Ask {
        Ask { client: client.to_owned(), is_lasting, ..self.terms.ask.clone() }
    }

    /// Conversations in which something is still to be answered go on at once.
    fn take_up(&self) {
        for (name, _) in self.folder.names().unwrap_or_default() {
            match self.folder.read(&name) {
                Ok(Some((journal, entries))) => {
                    let book = Book::restored(self.base(), journal, entries);
                    if book.is_waiting() {
                        let talk = Talk::start(self.ask(&name, true), book, self.dials.clone());
                        self.talks().insert(name, talk);
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, session = name, "a session cannot be read"),
            }
        }
    }

    /// The conversation of a session, if it was ever begun.
    fn session(&self, name: &str) -> Result<Arc<Talk>, Refused> {
        // Held throughout: of two who take up a session, one has its file.
        let mut talks = self.talks();
        if let Some(talk) = talks.get(name).filter(|talk| talk.ended().is_none()) {
            return Ok(talk.clone());
        }
        check_room(&talks)?;
        let unreadable = |error: io::Error| Refused::unavailable(format!("the session cannot be read: {error}"));
        let found: Option<(Journal, _)> = self.folder.read(name).map_err(unreadable)?;
        let Some((journal, entries)) = found else { return Err(Refused::unknown_session()) };
        let talk = Talk::start(self.ask(name, true), Book::restored(self.base(), journal, entries), self.dials.clone());
        talks.insert(name.to_owned(), talk.clone());
        Ok(talk)
    }

    /// The conversation of all clients of one name that have no sessions.
    fn shared(&self, client: &str) -> Result<Arc<Talk>, Refused> {
        let name = format!("~{client}");
        let mut talks = self.talks();
        if let Some(talk) = talks.get(&name).filter(|talk| talk.ended().is_none()) {
            return Ok(talk.clone());
        }
        check_room(&talks)?;
        let talk = Talk::start(self.ask(&draw(), false), Book::new(self.base()), self.dials.clone());
        talks.insert(name, talk.clone());
        Ok(talk)
    }

    fn event(&self, stream: u64, event: &Event) -> Bytes {
        let head = format!("id: {}-{stream}-{}\nevent: message\ndata: ", self.boot, event.seq);
        [head.as_bytes(), &event.line, b"\n\n"].concat().into()
    }

    /// The answer as a stream of events. `first`: what is there already.
    fn stream(self: &Arc<Self>, reading: Reading, first: Vec<Bytes>, is_over: bool) -> Response {
        let state = (self.clone(), reading, std::collections::VecDeque::from(first), is_over);
        let events = stream::unfold(state, |(front, mut reading, mut ready, mut is_over)| async move {
            loop {
                if let Some(text) = ready.pop_front() {
                    return Some((Ok::<_, Infallible>(text), (front, reading, ready, is_over)));
                }
                if is_over {
                    return None;
                }
                let mut closing = front.closing.clone();
                let next = tokio::select! {
                    next = timeout(SIGN_OF_LIFE, reading.next()) => next,
                    _ = closing.wait_for(|closing| *closing) => return None,
                };
                match next {
                    Err(_) => ready.push_back(Bytes::from_static(b": \n\n")),
                    Ok(None) => return None,
                    Ok(Some((events, was_last))) => {
                        let stream = reading.stream();
                        ready.extend(events.iter().map(|event| front.event(stream, event)));
                        is_over = was_last;
                    }
                }
            }
        });
        let kind = HeaderValue::from_static("text/event-stream");
        let fresh = HeaderValue::from_static("no-cache, no-transform");
        ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, fresh)], Body::from_stream(events)).into_response()
    }

    /// The answer to what was asked: whole if it is there in a moment, else as a stream. Where the client knows streams that
    /// begin with a name, always as one: so an answer that is lost on its way can be asked for again.
    async fn answer(self: &Arc<Self>, mut reading: Reading, how: How) -> Response {
        let at_once = if how.is_primed && !how.is_batch { Duration::ZERO } else { AT_ONCE };
        let (events, is_over) = match timeout(at_once, reading.next()).await {
            Ok(Some((events, is_over))) => (events, is_over),
            Ok(None) => return Refused::unavailable("the request was given up".to_owned()).into_response(),
            Err(_) => (Vec::new(), false),
        };
        if let [only] = events.as_slice()
            && is_over
            && !how.is_batch
            && !how.is_primed
        {
            return json(how.status_of(&only.line), only.line.clone());
        }
        if is_over && how.is_batch {
            let lines: Vec<&[u8]> = events.iter().map(|event| &event.line[..]).collect();
            let text = [b"[".as_slice(), &lines.join(b",".as_slice()), b"]"].concat();
            return json(StatusCode::OK, text.into());
        }
        let stream = if how.is_modern { reading.stream() } else { reading.name() };
        let mut first = Vec::new();
        if how.is_primed {
            // Before anything has happened the client has a name to come back by.
            let name = format!("id: {}-{stream}-0\nretry: {RETRY_MS}\ndata: \n\n", self.boot);
            first.push(Bytes::from(name));
        }
        first.extend(events.iter().map(|event| self.event(stream, event)));
        self.stream(reading, first, is_over)
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        headers::check_host(headers, self.is_public)?;
        headers::check_origin(headers, &self.terms.origins)?;
        match &self.terms.token {
            Some(token) => headers::check_token(headers, token),
            None => Ok(()),
        }
    }

    /// A POST's message, and the answer.
    async fn posted(self: &Arc<Self>, head: &HeaderMap, body: Bytes) -> Result<Response, Refused> {
        let frame = Frame::parse(body).map_err(|malformed| Refused::malformed(&malformed))?;
        let message = match &frame {
            Frame::One(message) => Some(&**message),
            Frame::Batch(_) => None,
        };
        if let Some(message) = message.filter(|message| headers::is_modern(head, message)) {
            return self.posted_without_session(head, message, &frame).await;
        }
        headers::check_version(head, message)?;
        if let Some(message) =
            message.filter(|message| message.method() == Some("initialize") && message.kind() == Kind::Request)
        {
            return self.initialized(message, &frame).await;
        }
        let talk = self.session(headers::session(head)?)?;
        let is_primed = talk.book().revision().is_some_and(|revision| revision >= "2025-11-25");
        let how = How { is_batch: message.is_none(), is_modern: false, is_primed, is_whole: true };
        match talk.say(&frame).await.map_err(|malformed| Refused::malformed(&malformed))? {
            None => Ok(StatusCode::ACCEPTED.into_response()),
            Some(reading) => Ok(self.answer(reading, how).await),
        }
    }

    async fn initialized(self: &Arc<Self>, message: &Envelope, frame: &Frame) -> Result<Response, Refused> {
        check_room(&self.talks())?;
        let name = draw();
        let talk = Talk::start(self.ask(&name, true), Book::new(self.base()), self.dials.clone());
        let reading = talk.say(frame).await.map_err(|malformed| Refused::malformed(&malformed))?;
        let Some(mut reading) = reading else { return Ok(StatusCode::ACCEPTED.into_response()) };
        let mut events = Vec::new();
        while let Some((more, is_over)) = reading.next().await {
            events.extend(more);
            if is_over {
                break;
            }
        }
        let answer = events.pop().ok_or_else(|| Refused::unavailable("the request was given up".to_owned()))?;
        let is_begun = Envelope::parse(answer.line.clone()).is_ok_and(|answer| answer.kind() == Kind::Result);
        if !is_begun {
            talk.end();
            return Ok(json(StatusCode::OK, answer.line));
        }
        let kept = {
            let mut book = talk.book();
            book.keep(&self.folder, &name)
        };
        if let Err(error) = kept {
            talk.end();
            let what = format!("the session cannot be kept: {error}");
            return Err(Refused { id: message.id().unwrap_or("null").to_owned(), ..Refused::unavailable(what) });
        }
        self.talks().insert(name.clone(), talk);
        let mut response = json(StatusCode::OK, answer.line);
        if let Ok(name) = HeaderValue::from_str(&name) {
            response.headers_mut().insert(headers::SESSION, name);
        }
        Ok(response)
    }

    async fn posted_without_session(
        self: &Arc<Self>,
        head: &HeaderMap,
        message: &Envelope,
        frame: &Frame,
    ) -> Result<Response, Refused> {
        let client = crate::daemon::client_name(message.bytes().clone());
        let talk = self.shared(client.as_deref().unwrap_or("client"))?;
        headers::check_modern(head, talk.book().params(), message)?;
        let is_whole = headers::has_whole_meta(message);
        let how = How { is_batch: false, is_modern: true, is_primed: false, is_whole };
        match talk.say(frame).await.map_err(|malformed| Refused::malformed(&malformed))? {
            None => Ok(StatusCode::ACCEPTED.into_response()),
            Some(reading) => Ok(self.answer(reading.cancelled_by_leaving(), how).await),
        }
    }
}

/// How an answer is given.
#[derive(Clone, Copy)]
struct How {
    is_batch: bool,
    is_modern: bool,
    is_primed: bool,
    /// The request says of itself all that it has to.
    is_whole: bool,
}

impl How {
    /// The stateless revisions have a status for some errors.
    fn status_of(self, line: &Bytes) -> StatusCode {
        let error = self.is_modern.then(|| Envelope::parse(line.clone()).ok()).flatten();
        match error.and_then(|answer| answer.error()) {
            Some((-32_022..=-32_020, _)) => StatusCode::BAD_REQUEST,
            Some((-32_602, _)) if !self.is_whole => StatusCode::BAD_REQUEST,
            Some((-32_601, _)) => StatusCode::NOT_FOUND,
            _ => StatusCode::OK,
        }
    }
}

fn check_room(talks: &BTreeMap<String, Arc<Talk>>) -> Result<(), Refused> {
    if talks.len() < TALKS {
        return Ok(());
    }
    Err(Refused::unavailable(format!("{TALKS} clients are served already: end one first")))
}

fn draw() -> String {
    let mut bytes = [0; 16];
    OsEntropy.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn post(State(front): State<Arc<Front>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let head = head.headers;
    let checked = front.check(&head).and_then(|()| headers::check_post(&head));
    if let Err(refused) = checked {
        return refused.into_response();
    }
    let body = match axum::body::to_bytes(body, LINE_BYTES).await {
        Ok(body) => body,
        Err(_) => return Refused::too_large().into_response(),
    };
    match front.posted(&head, body).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    }
}

async fn get(State(front): State<Arc<Front>>, request: Request) -> Response {
    let head = request.headers();
    let begun = front.check(head).and_then(|()| {
        headers::check_get(head)?;
        let talk = front.session(headers::session(head)?)?;
        let (stream, after) = match headers::last_event(head)? {
            Some((stream, seq)) => (stream, Some(seq)),
            None => (GENERAL, None),
        };
        talk.read(stream, after).ok_or_else(Refused::unknown_event)
    });
    match begun {
        Ok(reading) => {
            // Named from the first word on, so that the client is known to listen.
            let first = vec![Bytes::from_static(b": \n\n")];
            front.stream(reading, first, false)
        }
        Err(refused) => refused.into_response(),
    }
}

async fn delete(State(front): State<Arc<Front>>, request: Request) -> Response {
    let head = request.headers();
    let ended = front.check(head).and_then(|()| {
        let name = headers::session(head)?;
        let talk = front.session(name)?;
        talk.end();
        talk.book().unkeep();
        front.talks().remove(name);
        front.folder.remove(name).map_err(|error| Refused::unavailable(format!("the session stays: {error}")))
    });
    match ended {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => refused.into_response(),
    }
}
