//! HTTP/1.1 to one server: connections that are used again, over TCP or TLS. It never repeats a request, and of one that
//! failed it says whether anything of it may have gone out.

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
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::Site;
use crate::reply::Failure;

/// Connecting takes no longer than this, TLS included.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Connections kept for the next request.
const IDLE: usize = 16;
/// A peer that does not acknowledge what was sent to it is given up after this long; a silent one is probed after the first of
/// [`KEEPALIVE`], then every second of it, as often as its third says.
const USER_TIMEOUT_MS: u32 = 15_000;
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

type Sender = SendRequest<Full<Bytes>>;

/// See the module.
#[derive(Clone)]
pub(super) struct Web(Arc<Shared>);

struct Shared {
    host: String,
    port: u16,
    authority: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
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
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid(format!("`{}` begins with neither http:// nor https://", site.shown()))),
        };
        let authority = uri.authority().ok_or_else(|| invalid("the URL has no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
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
        let tls = if is_secure {
            let name = ServerName::try_from(host.clone()).map_err(|_| invalid("the URL's host is no name for TLS"))?;
            Some((connector()?, name))
        } else {
            None
        };
        let authority = shown.parse().map_err(|_| invalid("the URL's host cannot be sent"))?;
        let shared = Shared { host, port, authority, headers, tls, idle: Mutex::default() };
        Ok((Self(Arc::new(shared)), uri))
    }

    /// Connects, so that it is known whether anybody is there; the connection is kept for the first request.
    pub(super) async fn connect(&self) -> io::Result<()> {
        let sender = self.fresh().await?;
        self.keep(sender);
        Ok(())
    }

    async fn fresh(&self) -> io::Result<Sender> {
        let connecting = async {
            let stream = TcpStream::connect((self.0.host.as_str(), self.0.port)).await?;
            stream.set_nodelay(true)?;
            watch(&stream);
            match &self.0.tls {
                None => handshake(stream).await,
                Some((connector, name)) => handshake(connector.connect(name.clone(), stream).await?).await,
            }
        };
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
        // A kept connection may have been closed meanwhile: what it has not taken goes on another one.
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

/// A peer that is gone without a word is noticed by the system.
pub(super) fn watch(stream: &TcpStream) {
    use rustix::net::sockopt;
    // What a system does not have is left away: probes notice it, later.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE.0);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE.1);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE.2);
    #[cfg(target_os = "linux")]
    let _ = sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS);
}

async fn handshake<S>(stream: S) -> io::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends by itself when the sender is dropped or the other side closes; its error is what the request sees.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn connector() -> io::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "this machine has no certificates to check a server by (install ca-certificates)",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
