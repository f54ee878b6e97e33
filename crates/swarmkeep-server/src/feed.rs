//! `…/feed`: a session's records as they come, over server-sent events or a WebSocket. Each exactly once, in order; a token
//! resumes after it.
//!
//! One task per feed pulls items from the engine and hands frames to the connection through a short queue, short in frames
//! and in bytes. When no frame leaves it for [`STALL`], the task stops, and the last thing that the slow reader finds is
//! `closing` with the token to go on from; one that reads nothing at all loses its connection and goes on from the last id
//! it has. Nothing is ever skipped, and nothing waits for a slow reader.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{
        FromRequestParts,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use swarmkeep::{Feed, FeedItem, FeedToken, From, Refusal, RefusalCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{
    api::{Api, Content, Op, Param},
    app::{App, FeedCount},
    problem::Problem,
    records::shown,
    wire::{Answer, Call, one_line},
};

/// A comment, or a ping, this often keeps proxies from closing a quiet feed.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A reader that takes nothing for this long is too slow.
const STALL: Duration = Duration::from_secs(30);
/// Frames between the task and the connection.
const QUEUE: usize = 64;
/// Bytes of them; a larger frame goes through alone.
const QUEUE_BYTES: u32 = 1024 * 1024;
/// Where a browser's EventSource says what it saw last.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const FROM: &[Param] = &[(
    "from",
    "string",
    "`start`, `now` (default), a seq, or a token: the first item is the record after it. `Last-Event-ID` goes before it",
)];

pub(crate) fn routes(api: Api) -> Api {
    api.get(
        "/v1/sessions/{namespace}/{name}/feed",
        events,
        Op::read("feed", "Records as they come, as server-sent events: id is the token, event the type, data the record. It begins with an `id` alone, the token of where it starts; the last event is `closing`, with a `reason`, and an `error` where something is wrong", Content::Events("Record")).query(FROM),
    )
    .get(
        "/v1/sessions/{namespace}/{name}/feed/ws",
        socket,
        Op::read("feedSocket", "The same over a WebSocket, one text frame an item, after one `start` whose id is the token of where it starts", Content::Socket("FeedFrame")).query(FROM),
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedQuery {
    from: Option<String>,
}

/// Subscribes where the caller says, and gives the token of that place: the first thing that a reader is told, so that one
/// that is cut off before an item came goes on from there instead of from whatever is `now` by then.
async fn begin(call: &Call) -> Result<(Feed, FeedToken), Problem> {
    let FeedQuery { from } = call.query()?;
    let last = match call.parts.headers.get(LAST_EVENT_ID) {
        Some(last) => Some(last.to_str().map_err(|_| Problem::invalid("header `last-event-id` is not a feed token"))?),
        None => None,
    };
    let text = last.filter(|last| !last.is_empty()).or(from.as_deref()).unwrap_or("now");
    let from: From = text.parse().map_err(|refusal: Refusal| Problem::from(refusal))?;
    let by_token = matches!(from, From::Token(_));
    let feed = call.session().await?.subscribe(from).await.map_err(|error| {
        let common = error
            .refusal
            .as_ref()
            .filter(|refusal| refusal.code == RefusalCode::Conflict)
            .map(|refusal| refusal.current);
        match common {
            // The history that the token is from is not this one.
            Some(common) if by_token => {
                let problem = Problem::new("diverged", error.message.clone())
                    .hint("begin again from `common`, and forget what was seen after it");
                match common {
                    Some(common) => problem.common(common).current(common),
                    None => problem,
                }
            }
            _ => Problem::from(error),
        }
    })?;
    let token = feed.token().await?;
    Ok((feed, token))
}

/// Why a feed ended, as its last event says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    ShuttingDown,
    SlowReader,
    /// What went wrong.
    Failed(String),
}

impl End {
    fn as_str(&self) -> &'static str {
        match self {
            End::ShuttingDown => "shutting_down",
            End::SlowReader => "slow_reader",
            End::Failed(_) => "failed",
        }
    }
}

/// What a feed gives its connection.
enum Frame {
    Item {
        token: String,
        kind: String,
        /// The record as one line of JSON.
        text: String,
        /// Its share of [`QUEUE_BYTES`].
        _room: OwnedSemaphorePermit,
    },
    KeepAlive,
}

/// Pulls items until the reader is gone, too slow, or the server closes. Gives why, and the token to go on from.
async fn pump(app: App, mut feed: Feed, frames: mpsc::Sender<Frame>, mut token: String) -> (End, String) {
    let mut closing = pin!(app.closing());
    let room = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
    loop {
        let item = tokio::select! {
            () = &mut closing => return (End::ShuttingDown, token),
            () = frames.closed() => return (End::SlowReader, token),
            item = feed.next() => match item {
                Ok(item) => Some(item),
                Err(error) => {
                    tracing::debug!(%error, "a feed ended");
                    let is_going = error.kind == swarmkeep::ErrorKind::Unavailable;
                    return (if is_going { End::ShuttingDown } else { End::Failed(error.to_string()) }, token);
                }
            },
            () = tokio::time::sleep(KEEP_ALIVE) => None,
        };
        let next = item.as_ref().map(|item| item.token.to_string());
        let sending = async {
            let frame = match item {
                Some(item) => frame(&room, &item).await?,
                None => Frame::KeepAlive,
            };
            frames.send(frame).await.ok()
        };
        let sent = tokio::select! {
            () = &mut closing => return (End::ShuttingDown, token),
            () = frames.closed() => None,
            sent = tokio::time::timeout(STALL, sending) => sent.ok().flatten(),
        };
        match sent {
            Some(()) => token = next.unwrap_or(token),
            None => return (End::SlowReader, token),
        }
    }
}

/// An item as it is sent, once there is room for it.
async fn frame(room: &Arc<Semaphore>, item: &FeedItem) -> Option<Frame> {
    let (text, kind) = data(item);
    let share = u32::try_from(text.len()).unwrap_or(u32::MAX).min(QUEUE_BYTES);
    let room = room.clone().acquire_many_owned(share).await.ok()?;
    Some(Frame::Item { token: item.token.to_string(), kind, text, _room: room })
}

struct Reading {
    frames: mpsc::Receiver<Frame>,
    end: Option<oneshot::Receiver<(End, String)>>,
    _count: FeedCount,
}

async fn events(call: Call) -> Answer {
    let count = call.app.count_feed(false)?;
    let (feed, token) = begin(&call).await?;
    let token = token.to_string();
    let greeting = Bytes::from(format!(": swarmkeep feed\nretry: 500\nid: {token}\n\n"));
    let (sender, frames) = mpsc::channel(QUEUE);
    let (ended, end) = oneshot::channel();
    let app = call.app.clone();
    tokio::spawn(async move {
        let last = pump(app, feed, sender, token).await;
        // Nobody to tell: the reader has gone.
        let _ = ended.send(last);
    });
    let reading = Reading { frames, end: Some(end), _count: count };
    let body = stream::unfold((Some(greeting), reading), async |(greeting, mut reading)| {
        if let Some(greeting) = greeting {
            return Some((Ok::<_, Infallible>(greeting), (None, reading)));
        }
        if let Some(frame) = reading.frames.recv().await {
            let mut out = String::with_capacity(512);
            write_event(&mut out, &frame);
            // What is there already goes out in the same write.
            while out.len() < 32 * 1024
                && let Ok(frame) = reading.frames.try_recv()
            {
                write_event(&mut out, &frame);
            }
            return Some((Ok(out.into()), (None, reading)));
        }
        let (end, token) = reading.end.take()?.await.ok()?;
        Some((Ok(closing_event(&end, &token).into()), (None, reading)))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The record of an item as one line of JSON, and its type. A record that cannot be written keeps its place.
fn data(item: &FeedItem) -> (String, String) {
    let written = shown(&item.record).and_then(|record| Ok((crate::listing::text(&record)?, record.kind)));
    let (mut text, kind) = written.unwrap_or_else(|problem| {
        tracing::error!(%problem, seq = %item.record.seq, "a record cannot be shown");
        (format!("{{\"seq\":{}}}", item.record.seq), "unreadable".to_owned())
    });
    one_line(&mut text);
    (text, kind)
}

fn write_event(out: &mut String, frame: &Frame) {
    match frame {
        Frame::KeepAlive => out.push_str(": keep-alive\n\n"),
        Frame::Item { token, kind, text, .. } => {
            for part in ["id: ", token, "\nevent: ", kind, "\ndata: ", text, "\n\n"] {
                out.push_str(part);
            }
        }
    }
}

fn closing_event(end: &End, token: &str) -> String {
    let mut said = serde_json::json!({ "reason": end.as_str(), "token": token });
    if let (End::Failed(error), Some(said)) = (end, said.as_object_mut()) {
        said.insert("error".to_owned(), error.as_str().into());
    }
    format!("id: {token}\nevent: closing\ndata: {said}\n\n")
}

async fn socket(mut call: Call) -> Answer {
    let count = call.app.count_feed(true)?;
    let app = call.app.clone();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut call.parts, &app)
        .await
        .map_err(|error| Problem::invalid(format!("this route takes a WebSocket handshake: {}", error.body_text())))?;
    let (feed, token) = begin(&call).await?;
    let most = 64 * 1024;
    Ok(upgrade.max_message_size(most).max_frame_size(most).on_upgrade(async move |socket| {
        talk(app, feed, token, socket).await;
        drop(count);
    }))
}

async fn talk(app: App, feed: Feed, start: FeedToken, mut socket: WebSocket) {
    let token = start.to_string();
    let greeting = format!("{{\"id\":\"{token}\",\"event\":\"start\",\"data\":{{\"seq\":{}}}}}", start.seq);
    if !matches!(tokio::time::timeout(STALL, socket.send(Message::Text(greeting.into()))).await, Ok(Ok(()))) {
        return;
    }
    let (sender, mut frames) = mpsc::channel(QUEUE);
    let pumping = tokio::spawn(pump(app, feed, sender, token.clone()));
    let gone = loop {
        tokio::select! {
            frame = frames.recv() => {
                let Some(frame) = frame else { break false };
                let message = match &frame {
                    Frame::KeepAlive => Message::Ping(Bytes::new()),
                    Frame::Item { token, kind, text, .. } => {
                        Message::Text(format!("{{\"id\":\"{token}\",\"event\":\"{kind}\",\"data\":{text}}}").into())
                    }
                };
                match tokio::time::timeout(STALL, socket.send(message)).await {
                    Ok(Ok(())) => {}
                    // Stalled or gone: what it has not read cannot be told to it either.
                    _ => break true,
                }
            }
            // Pings are answered by the library; what else a reader sends means nothing here.
            said = socket.recv() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => break true,
                Some(Ok(_)) => {}
            },
        }
    };
    drop(frames);
    let (end, token) = pumping.await.unwrap_or((End::Failed(String::new()), token));
    if gone {
        return;
    }
    // 1001: going away; 1013: try again later; 1011: an unexpected condition. The reason is the token to go on from.
    let code = match end {
        End::ShuttingDown => 1001,
        End::SlowReader => 1013,
        End::Failed(_) => 1011,
    };
    let reason = Utf8Bytes::from(token);
    let farewell = async {
        if socket.send(Message::Close(Some(CloseFrame { code, reason }))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // The other side's close frame is waited for, but not for long.
    let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
}
