//! HTTP with server-sent events, as revision 2024-11-05 had it: one stream of the server's by GET, whose first event says
//! where to POST. When the stream ends, the connection is over.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Uri,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{
    Bounds, Connection, Ending, Inbound, Outbound, Site,
    events::{Event, Events, TooLarge},
    http::{answered_with, is_stream},
    too_long_breach,
    web::Web,
};
use crate::{envelope::Envelope, reply::Failure};

/// The stream has to begin within this time.
const BEGIN_TIME: Duration = Duration::from_secs(30);
/// POSTs at once; more wait.
const POSTS: usize = 64;

/// Opens the stream, and waits until it says where to POST.
///
/// # Errors
/// When nobody is there, or what is there is no such stream.
pub async fn open(site: &Site, bounds: &Bounds) -> io::Result<Connection> {
    let (web, uri) = Web::new(site)?;
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .body(Full::new(Bytes::new()))
        .map_err(io::Error::other)?;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    let begin = async {
        let (response, _) = web.send(request).await.map_err(|unanswered| io::Error::other(unanswered.why))?;
        if !response.status().is_success() || !is_stream(&response) {
            let said = answered_with(response.status().as_u16());
            let hint = "and no stream of events: is the URL the right one? One that answers over Streamable HTTP is named with --http, or `type` http";
            return Err(io::Error::other(format!("{said}, {hint}")));
        }
        let mut reader = Reader { body: response.into_body(), events: Events::default(), most: bounds.line_bytes };
        let (endpoint, rest) = reader.endpoint(&uri).await?;
        Ok((reader, endpoint, rest))
    };
    let (reader, endpoint, rest) =
        timeout(BEGIN_TIME, begin).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let (outbox, mut from_owner) = mpsc::channel(bounds.queue);
    let (to, inbox) = mpsc::channel(bounds.queue);
    let (close, mut closing) = mpsc::channel(1);
    let (ended, over) = oneshot::channel();
    tokio::spawn(async move {
        let why = tokio::select! {
            why = reader.run(rest, &to) => why,
            () = write(web, endpoint, &mut from_owner, &to) => "it was closed".to_owned(),
            _ = closing.recv() => "it was closed".to_owned(),
        };
        // Whoever waited may be gone.
        let _ = ended.send(());
        super::say_over(from_owner, &to, why).await;
    });
    Ok(Connection { outbox, inbox, ending: Ending::new(close, over), resumable: super::Resumable::default() })
}

struct Reader {
    body: Incoming,
    events: Events,
    most: usize,
}

impl Reader {
    async fn next(&mut self, found: &mut Vec<Event>) -> io::Result<()> {
        match self.body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => self.events.take(&piece, self.most, found).map_err(io::Error::other),
                Err(_) => Ok(()),
            },
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Where to POST, and what came with it.
    async fn endpoint(&mut self, base: &Uri) -> io::Result<(String, Vec<Event>)> {
        let mut found = Vec::new();
        loop {
            self.next(&mut found).await?;
            let at = found.iter().position(|event| matches!(event, Event::Message { kind, .. } if kind == "endpoint"));
            let Some(at) = at else {
                found.clear();
                continue;
            };
            let rest = found.split_off(at + 1);
            let Some(Event::Message { data, .. }) = found.pop() else { continue };
            let said = String::from_utf8_lossy(&data).into_owned();
            return Ok((endpoint(base, &said)?, rest));
        }
    }

    async fn run(mut self, rest: Vec<Event>, to: &mpsc::Sender<Inbound>) -> String {
        let mut found = rest;
        loop {
            for event in found.drain(..) {
                let inbound = match event {
                    Event::Message { kind, data, .. } if kind == "message" => Inbound::Line(Envelope::line(data)),
                    _ => Inbound::Heard,
                };
                if to.send(inbound).await.is_err() {
                    return "nobody listens".to_owned();
                }
            }
            if let Err(error) = self.next(&mut found).await {
                if error.get_ref().is_some_and(|error| error.is::<TooLarge>()) {
                    // Nobody listens any more: then nobody misses it.
                    let _ = to.send(too_long_breach(&error, self.events.beginning())).await;
                }
                return format!("the server's stream has ended ({error})");
            }
        }
    }
}

/// The path to POST to. A server that names another host than its own is not followed there.
fn endpoint(base: &Uri, said: &str) -> io::Result<String> {
    let refused = |why: &str| {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("the server says to POST to `{said}`: {why}")))
    };
    if said.starts_with('/') && !said.starts_with("//") {
        return Ok(said.to_owned());
    }
    if let Ok(uri) = said.parse::<Uri>()
        && uri.scheme().is_some()
    {
        if uri.scheme() != base.scheme() || uri.authority() != base.authority() {
            return refused("that is another server");
        }
        return Ok(uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string));
    }
    if said.is_empty() || said.starts_with("//") || said.contains("://") {
        return refused("that is no path of its own");
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    Ok(format!("{folder}/{said}"))
}

async fn write(web: Web, endpoint: String, from_owner: &mut mpsc::Receiver<Outbound>, to: &mpsc::Sender<Inbound>) {
    let (endpoint, mut posts) = (Arc::new(endpoint), JoinSet::new());
    loop {
        tokio::select! {
            Some(_) = posts.join_next() => {}
            next = from_owner.recv(), if posts.len() < POSTS => {
                let Some(Outbound { wire, line }) = next else { return };
                let (web, endpoint, to) = (web.clone(), endpoint.clone(), to.clone());
                posts.spawn(async move {
                    if let Err(failure) = post(&web, &endpoint, line).await {
                        // Nobody listens any more: then nobody misses it.
                        let _ = to.send(Inbound::Failed { wire, failure }).await;
                    }
                });
            }
        }
    }
}

async fn post(web: &Web, endpoint: &str, line: Bytes) -> Result<(), Failure> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(endpoint)
        .body(Full::new(line))
        .map_err(|_| Failure::NothingWritten)?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (response, sender) = web.send(request).await.map_err(|unanswered| unanswered.failure)?;
    match response.status().as_u16() {
        200..=299 => {
            if response.into_body().collect().await.is_ok() {
                web.keep(sender);
            }
            Ok(())
        }
        // It has forgotten the session, or never took the message.
        400 | 401 | 403 | 404 | 405 | 413 | 429 => Err(Failure::Refused),
        _ => Err(Failure::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_post_is_a_path_of_the_same_server() {
        let base: Uri = "http://host:1/a/sse?x=1".parse().unwrap();
        assert_eq!(endpoint(&base, "/messages?id=1").unwrap(), "/messages?id=1");
        assert_eq!(endpoint(&base, "messages").unwrap(), "/a/messages");
        assert_eq!(endpoint(&base, "http://host:1/m?id=2").unwrap(), "/m?id=2");
        for said in ["http://other/m", "https://host:1/m", "//other/m", "ftp://host:1/m", ""] {
            assert!(endpoint(&base, said).is_err(), "{said}");
        }
    }
}
