//! HTTP/1.1 to one server: connections that are used again. It never repeats a request, and of one that failed it says
//! whether anything of it may have gone out.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{
    Site,
    peer::{self, Peer, Wire},
};
use crate::reply::Failure;

/// Connecting takes no longer than this, TLS included.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Connections kept for the next request.
const IDLE: usize = 16;

type Sender = SendRequest<Full<Bytes>>;

/// See the module.
#[derive(Clone)]
pub(super) struct Web(Arc<Shared>);

struct Shared {
    peer: Peer,
    authority: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    idle: Mutex<Vec<Sender>>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) failure: Failure,
    pub(super) why: String,
    /// Something came, and it is no HTTP.
    pub(super) is_noise: bool,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

impl Web {
    /// Of a URL with `http` or `https`. Touches no network.
    pub(super) fn new(site: &Site) -> io::Result<(Self, Uri)> {
        let uri: Uri = site.url.parse().map_err(|error| invalid(format!("`{}` is no URL: {error}", site.shown())))?;
        let peer = Peer::of(&uri, peer::HTTP, site)?;
        let authority = uri.authority().ok_or_else(|| invalid("the URL has no host"))?;
        let shown = match authority.port() {
            Some(port) => format!("{}:{port}", authority.host()),
            None => authority.host().to_owned(),
        };
        let mut headers = Vec::new();
        for (name, value) in &site.headers {
            let name: HeaderName = name.parse().map_err(|_| invalid(format!("`{name}` is no header's name")))?;
            let value = value.parse().map_err(|_| invalid(format!("the value of header `{name}` cannot be sent")))?;
            headers.push((name, value));
        }
        let authority = shown.parse().map_err(|_| invalid("the URL's host cannot be sent"))?;
        let shared = Shared { peer, authority, headers, idle: Mutex::default() };
        Ok((Self(Arc::new(shared)), uri))
    }

    /// Connects, so that it is known whether anybody is there; the connection is kept for the first request.
    pub(super) async fn connect(&self) -> io::Result<()> {
        let sender = self.fresh().await?;
        self.keep(sender);
        Ok(())
    }

    async fn fresh(&self) -> io::Result<Sender> {
        let connecting = async { handshake(self.0.peer.connect().await?).await };
        timeout(CONNECT_TIME, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Puts a connection back whose answer was read to its end.
    pub(super) fn keep(&self, sender: Sender) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && !sender.is_closed() {
            idle.push(sender);
        }
    }

    fn kept(&self) -> Option<Sender> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Sends a request, and gives the head of its answer and the connection.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Sender), Unanswered> {
        request.headers_mut().insert(HOST, self.0.authority.clone());
        for (name, value) in &self.0.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        // A kept connection may have been closed meanwhile: what it has not taken goes on another one. Its own task sees the end,
        // and has its turn first.
        tokio::task::yield_now().await;
        while let Some(mut sender) = self.kept() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(taken_back) => request = taken_back,
                    None => return Err(broken(&error.into_error())),
                },
            }
        }
        let not_connected = |error: io::Error| Unanswered {
            failure: Failure::NotConnected,
            why: format!("no connection: {error}"),
            is_noise: false,
        };
        let mut sender = self.fresh().await.map_err(not_connected)?;
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, sender)),
            Err(mut error) => {
                let is_taken_back = error.take_message().is_some();
                let error = error.into_error();
                if is_taken_back {
                    Err(Unanswered { failure: Failure::NothingWritten, why: error.to_string(), is_noise: false })
                } else {
                    Err(broken(&error))
                }
            }
        }
    }
}

fn broken(error: &hyper::Error) -> Unanswered {
    let why = format!("the connection broke: {error}");
    Unanswered { failure: Failure::Broken, why, is_noise: error.is_parse() }
}

async fn handshake(stream: Box<dyn Wire>) -> io::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends by itself when the sender is dropped or the other side closes; its error is what the request sees.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
