//! A small HTTP/1.1 client over the store's control socket or TCP: one connection, kept alive, one call at a time.
//!
//! It never repeats a call by itself. It says whether a failed call may have arrived ([`CallError`]); who holds the
//! request id decides.

use std::{
    fmt, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use swarmkeep::core::json::decode_lossy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::{failure::Failure, say::remark};

/// Longest path that fits into a socket address on every platform we run on, with its closing zero.
const SOCKET_PATH_BYTES: usize = 103;
/// A call that takes longer is given up; it may have been carried out.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Connecting takes no longer than this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A process that is stopped still has its connections made by the system. One that gives no sign of life for so long is
/// taken for that.
pub(crate) const LIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long it is said that it is waited for.
const QUIET: Duration = Duration::from_secs(3);

/// Where the daemon answers.
#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    /// The store's control socket: no token, the folder's rights protect it.
    Socket(PathBuf),
    /// `host:port`.
    Tcp {
        /// As in the URL.
        authority: String,
        /// Sent as a bearer token.
        token: Option<String>,
    },
}

impl Endpoint {
    /// `http://host:port`.
    pub(crate) fn url(url: &str, token: Option<String>) -> Result<Self, Failure> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(Failure::usage(
                format!("URL `{url}` does not begin with http://"),
                "give http://HOST:PORT; for TLS go through a tunnel on this machine (docs/operations.md, Security)",
            ));
        };
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(Failure::usage(
                format!("URL `{url}` has more than a host and a port"),
                "give http://HOST:PORT",
            ));
        }
        let authority = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            authority.to_owned()
        } else {
            format!("{authority}:7420")
        };
        Ok(Self::Tcp { authority, token })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp { authority, .. } => write!(f, "http://{authority}"),
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) timeout: Duration,
}

impl Call {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: Bytes::new(), headers: Vec::new(), timeout: CALL_TIMEOUT }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self::new(Method::POST, path).json(body)
    }

    pub(crate) fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = body.to_string().into();
        self
    }

    /// A body that is JSON text already.
    pub(crate) fn text(mut self, body: String) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Whether it changes the store: it has a request id.
    fn is_write(&self) -> bool {
        self.headers.iter().any(|(name, _)| *name == "idempotency-key")
    }

    pub(crate) fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    /// It is about a session of which this is not all: how much of it can be had.
    pub(crate) left: Option<String>,
    /// It answers a request that is carried out once: what was asked for is done.
    is_write: bool,
}

impl Answer {
    /// The body, or the problem it is.
    pub(crate) fn ok(self) -> Result<Self, Failure> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(Failure::problem(self.status, &self.body)) }
    }

    /// What it says. Callers' values in it are shown as near as they can be.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        decode_lossy(&self.body).map_err(|error| match self.is_write {
            true => Failure::unknown(
                format!("it was done, and the answer could not be read: {error}"),
                "do not repeat it under a new --request id; the verb's `ls` and `show` say how it stands now",
            ),
            false => Failure::refused(
                "unreadable",
                format!("the daemon's answer is not what this program expects: {error}"),
                "is the daemon of another version? `swarmkeep stop`, then the same call starts one of this version",
            ),
        })
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nobody could be reached: nothing was sent.
    NotSent(io::Error),
    /// What listens there speaks TLS, and wanted no plain HTTP: nothing was carried out.
    Tls,
    /// It was sent, and no answer came: it may or may not have been carried out.
    Lost(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(error) => write!(f, "no connection: {error}"),
            Self::Tls => f.write_str("what listens there speaks TLS"),
            Self::Lost(error) => write!(f, "the connection broke before an answer came: {error}"),
        }
    }
}

/// Waits for an answer of a daemon, and says so when it takes long.
pub(crate) async fn patiently<T>(whom: &str, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    if let Ok(answer) = tokio::time::timeout(QUIET, &mut answer).await {
        return answer;
    }
    remark!("waiting for the daemon at {whom}, which has not answered for {} s", QUIET.as_secs());
    answer.await
}

/// One connection to a daemon; made when it is first needed, and again after it broke.
#[derive(Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, sender: None }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connects now, so that it is known whether anybody is there. What takes long is said.
    pub(crate) async fn connect(&mut self) -> io::Result<()> {
        let whom = self.endpoint.to_string();
        patiently(&whom, self.reach()).await
    }

    async fn reach(&mut self) -> io::Result<()> {
        self.sender = None;
        let connecting = async {
            match &self.endpoint {
                Endpoint::Socket(path) => handshake(TokioIo::new(connect_socket(path).await?)).await,
                Endpoint::Tcp { authority, .. } => {
                    let stream = TcpStream::connect(authority).await?;
                    stream.set_nodelay(true)?;
                    handshake(TokioIo::new(stream)).await
                }
            }
        };
        let mut sender =
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let request = self.request(&Call::get("/health/live")).map_err(io::Error::other)?;
        let alive = async {
            let response = sender.send_request(request).await?;
            response.into_body().collect().await?;
            // The answer can be here before the connection is free for the next request, which would be refused.
            sender.ready().await
        };
        let alive = tokio::time::timeout(LIVE_TIMEOUT, alive).await.map_err(|_| io::ErrorKind::TimedOut)?;
        match (alive, &self.endpoint) {
            (Ok(()), _) => self.sender = Some(sender),
            (Err(error), Endpoint::Socket(_)) => return Err(io::Error::other(error)),
            // Somebody answers: what it is the call itself finds out, and says.
            (Err(_), Endpoint::Tcp { authority, .. }) => {
                self.sender = Some(handshake(TokioIo::new(TcpStream::connect(authority).await?)).await?);
            }
        }
        Ok(())
    }

    /// Makes one call and reads the whole answer.
    pub(crate) async fn call(&mut self, call: &Call) -> Result<Answer, CallError> {
        let answer = tokio::time::timeout(call.timeout, self.send(call)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.sender = None;
                Err(error)
            }
            Err(_) => {
                self.sender = None;
                Err(CallError::Lost(format!("nothing came within {} s", call.timeout.as_secs())))
            }
        }
    }

    async fn send(&mut self, call: &Call) -> Result<Answer, CallError> {
        let response = self.begin(call).await?;
        let status = response.status().as_u16();
        let left = response.headers().get("swarmkeep-damage").and_then(|left| left.to_str().ok()).map(str::to_owned);
        let body = response.into_body().collect().await.map_err(|error| CallError::Lost(error.to_string()))?.to_bytes();
        Ok(Answer { status, body, left, is_write: call.is_write() })
    }

    /// Makes one call whose answer is read as it comes; the connection belongs to it.
    pub(crate) async fn stream(&mut self, call: &Call) -> Result<Stream, CallError> {
        let response = self.begin(call).await?;
        let status = response.status().as_u16();
        Ok(Stream { status, body: response.into_body() })
    }

    /// Makes one call that asks for another protocol; the connection is the caller's from then on. `None`: it is not spoken
    /// there.
    pub(crate) async fn upgrade(&mut self, call: &Call) -> Result<Option<Upgraded>, CallError> {
        let asking = async {
            let response = self.begin(call).await?;
            if response.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
                return Ok(None);
            }
            hyper::upgrade::on(response).await.map(Some).map_err(|error| CallError::Lost(error.to_string()))
        };
        let upgraded = tokio::time::timeout(call.timeout, asking).await;
        // Whatever came of it, no other call can be made on this connection.
        self.sender = None;
        upgraded.unwrap_or_else(|_| Err(CallError::Lost("nothing came in time".to_owned())))
    }

    async fn begin(&mut self, call: &Call) -> Result<hyper::Response<Incoming>, CallError> {
        let alive = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !alive {
            self.connect().await.map_err(CallError::NotSent)?;
        }
        let request = self.request(call).map_err(|error| CallError::NotSent(io::Error::other(error)))?;
        let Some(sender) = &mut self.sender else {
            return Err(CallError::NotSent(io::ErrorKind::NotConnected.into()));
        };
        let mut error = match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        if error.take_message().is_some() {
            return Err(CallError::NotSent(io::Error::other(error.into_error())));
        }
        let error = error.into_error();
        if let Endpoint::Tcp { authority, .. } = &self.endpoint
            && error.is_parse()
            && speaks_tls(authority).await
        {
            return Err(CallError::Tls);
        }
        Err(CallError::Lost(error.to_string()))
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut builder = Request::builder().method(&call.method).uri(&call.path);
        builder = match &self.endpoint {
            Endpoint::Socket(_) => builder.header(header::HOST, "localhost"),
            Endpoint::Tcp { authority, token } => {
                let builder = builder.header(header::HOST, authority);
                match token {
                    Some(token) => builder.header(header::AUTHORIZATION, format!("Bearer {token}")),
                    None => builder,
                }
            }
        };
        if !call.body.is_empty() && !call.headers.iter().any(|(name, _)| *name == "content-type") {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in &call.headers {
            builder = builder.header(*name, value.as_bytes());
        }
        builder.body(Full::new(call.body.clone()))
    }
}

async fn handshake<T>(stream: TokioIo<T>) -> io::Result<SendRequest<Full<Bytes>>>
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    // Ends by itself when the sender is dropped or the other side closes; its error is what the next call sees.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(sender)
}

/// Whether plain HTTP is answered there with an alert of TLS.
async fn speaks_tls(authority: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(authority).await?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        let mut first = [0u8; 2];
        stream.read_exact(&mut first).await?;
        io::Result::Ok(first)
    };
    // A record of type alert (21), of major version 3.
    matches!(tokio::time::timeout(CONNECT_TIMEOUT, ask).await, Ok(Ok([21, 3])))
}

/// A socket in a folder whose path is too long for a socket address is reached through the open folder.
pub(crate) async fn connect_socket(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES || !cfg!(target_os = "linux") {
        return UnixStream::connect(path).await;
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = std::fs::File::open(dir)?;
    UnixStream::connect(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)).await
}

/// An answer that is read as it comes.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) status: u16,
    body: Incoming,
}

impl Stream {
    /// The next bytes; `None`: it ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.has_remaining() => return Ok(Some(data)),
                    _ => {}
                },
                Some(Err(error)) => return Err(CallError::Lost(error.to_string())),
            }
        }
    }
}

/// A path segment: everything but unreserved characters is escaped.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `?a=1&b=2` of those that have a value; empty when none has.
pub(crate) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            out.push(if out.is_empty() { '?' } else { '&' });
            out.push_str(name);
            out.push('=');
            out.push_str(&segment(value));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::failure::Exit;

    #[test]
    fn an_answer_that_cannot_be_read_is_no_sign_that_nothing_was_done() {
        let answer = |is_write| Answer { status: 200, body: Bytes::from_static(b"{\"cut off"), left: None, is_write };
        assert_eq!(answer(true).json::<Value>().unwrap_err().exit, Exit::Unknown);
        assert_eq!(answer(false).json::<Value>().unwrap_err().exit, Exit::Refused);
    }

    #[test]
    fn urls_are_a_host_and_a_port() {
        let of = |url: &str| Endpoint::url(url, None).map(|endpoint| endpoint.to_string());
        assert_eq!(of("http://127.0.0.1:7420/").unwrap(), "http://127.0.0.1:7420");
        assert_eq!(of("http://localhost").unwrap(), "http://localhost:7420");
        assert!(of("https://localhost").is_err());
        assert!(of("http://localhost/v1").is_err());
    }

    #[test]
    fn what_goes_into_a_path_is_escaped() {
        assert_eq!(segment("a/b c"), "a%2Fb%20c");
        assert_eq!(query(&[("a", None), ("b", Some("x&y".into()))]), "?b=x%26y");
    }
}
