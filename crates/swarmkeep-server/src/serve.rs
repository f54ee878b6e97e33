//! Listening: TCP and the control socket, connections, the end.
//!
//! Our own accept loop over hyper, because the end has to be in our hands: stop accepting, close feeds with their tokens,
//! let requests in flight finish within a bound, then return.

use std::{
    future::ready,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use swarmkeep::{Error, ErrorKind, Swarmkeep};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tower::Layer;

use crate::{
    app::{App, Local},
    beside::Beside,
    guard::Guard,
    settings::ServerSettings,
    stall::Stall,
    tls::Secure,
    unread,
};

/// A connection that sends no request head for this long is closed.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// Who listens at a socket and says nothing for so long is not there.
const ANSWERS: Duration = Duration::from_secs(3);
/// After a failed accept (no file descriptors left, as a rule) the loop rests this long instead of spinning.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A server that listens and does not answer yet.
pub struct Server {
    app: App,
    api: Router,
    settings: ServerSettings,
    listeners: Vec<(TcpListener, SocketAddr)>,
    secure: Option<Secure>,
    control: Option<Control>,
}

struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file: at the end only our own is removed.
    identity: Option<(u64, u64)>,
}

impl Server {
    /// Whether [`Server::bind`] would take these settings: what is allowed where, and whether certificate and key can be
    /// used. Touches no address, so whether one is free is not known from it.
    ///
    /// # Errors
    /// `invalid`, naming the setting.
    pub fn check(settings: &ServerSettings) -> Result<(), Error> {
        settings.check_all()?;
        settings.tls.as_ref().map(Secure::read).transpose()?;
        Ok(())
    }

    /// Listens everywhere the settings say. From then on connections queue up; [`Server::run`] answers them.
    ///
    /// The control socket is made with mode 0600. A file that is there already is taken away only when nobody answers on
    /// it; the caller holds the store, so it is a leftover.
    ///
    /// # Errors
    /// `invalid` for settings that are not allowed; `unavailable` when an address or the socket is taken.
    pub async fn bind(keep: Swarmkeep, settings: ServerSettings) -> Result<Self, Error> {
        Self::bind_with(keep, settings, None).await
    }

    /// The same, with another surface [`Beside`] the API.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_with(keep: Swarmkeep, settings: ServerSettings, beside: Option<Beside>) -> Result<Self, Error> {
        settings.check_all()?;
        let secure = settings.tls.as_ref().map(Secure::read).transpose()?;
        let mut listeners = Vec::new();
        for address in &settings.listen {
            let taken = |error: io::Error| {
                let hint = if error.kind() == io::ErrorKind::AddrInUse {
                    "another program listens there: stop it, or choose another address (port 0 takes a free one)"
                } else {
                    "choose an address of this machine that this user may listen on"
                };
                Error::new(ErrorKind::Unavailable, format!("cannot listen on {address}: {error}"))
                    .hint(hint)
                    .caused_by(error)
            };
            let listener = TcpListener::bind(address).await.map_err(taken)?;
            let address = listener.local_addr().map_err(taken)?;
            listeners.push((listener, address));
        }
        let control = match &settings.control_socket {
            Some(path) => Some(control_socket(path).await?),
            None => None,
        };
        let (app, api) = crate::build(keep, settings.clone(), beside);
        Ok(Self { app, api, settings, listeners, secure, control })
    }

    /// Where it listens, with the ports it got.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address).collect()
    }

    /// Answers until `shutdown` resolves, or somebody asks for the end through the control socket; then stops accepting, ends feeds with an event or frame that carries their token,
    /// waits for requests in flight for at most [`ServerSettings::drain`], and returns. The store stays open: closing it is
    /// its owner's business.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { app, api, settings, listeners, secure, control } = self;
        let (stop, stopping) = watch::channel(false);
        let room = Arc::new(Semaphore::new(settings.connections.min(Semaphore::MAX_PERMITS)));
        let patience = settings.write_stall;
        let mut loops = JoinSet::new();
        for (listener, address) in listeners {
            let service = Guard::new(&settings, Some(address.port())).layer(api.clone());
            let (room, stopping) = (room.clone(), stopping.clone());
            let next = async move || {
                let (stream, _) = listener.accept().await?;
                // Answers are small and whole: waiting to fill a packet only delays them.
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            match secure.clone() {
                None => loops.spawn(accept(room, stopping, service, next, move |stream| {
                    ready(Ok(Stall::new(stream, patience)))
                })),
                Some(secure) => {
                    let open = move |stream| {
                        let secure = secure.clone();
                        async move { Ok(Stall::new(secure.open(stream).await?, patience)) }
                    };
                    loops.spawn(accept(room, stopping, service, next, open))
                }
            };
        }
        let mut leftover = None;
        if let Some(Control { listener, path, identity }) = control {
            leftover = Some((path, identity));
            let (room, stopping) = (room.clone(), stopping.clone());
            // The CLI must get in even when every connection over TCP is taken.
            let room = if settings.listen.is_empty() { room } else { Arc::new(Semaphore::new(64)) };
            let api = api.layer(Extension(Local));
            let next = async move || Ok(listener.accept().await?.0);
            loops.spawn(accept(room, stopping, api, next, move |stream| ready(Ok(Stall::new(stream, patience)))));
        }
        tokio::select! {
            () = shutdown => {}
            () = app.stop_asked() => {}
        }
        stop.send_replace(true);
        app.close();
        if let Some((path, identity)) = leftover
            && identity.is_some()
            && identity_of(&path).await == identity
            && let Err(error) = tokio::fs::remove_file(&path).await
        {
            tracing::warn!(%error, path = %path.display(), "the control socket could not be removed");
        }
        let drained = tokio::time::timeout(settings.drain, async { while loops.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!("requests still in flight were broken off");
            loops.shutdown().await;
        }
    }
}

/// Listens and answers until `shutdown` resolves: [`Server::bind`], then [`Server::run`].
///
/// # Errors
/// As [`Server::bind`].
pub async fn serve(keep: Swarmkeep, settings: ServerSettings, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    Server::bind(keep, settings).await?.run(shutdown).await;
    Ok(())
}

async fn identity_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    tokio::fs::symlink_metadata(path).await.ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether somebody who listens there says anything.
async fn answers(path: &Path) -> bool {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        stream.read_u8().await
    };
    matches!(tokio::time::timeout(ANSWERS, asked).await, Ok(Ok(_)))
}

async fn control_socket(path: &Path) -> Result<Control, Error> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let cannot = |error: io::Error, hint: &str| {
        Error::new(ErrorKind::Unavailable, format!("cannot make the control socket {}: {error}", path.display()))
            .hint(hint)
            .caused_by(error)
    };
    let folder = "the store's folder must be writable, and its path short (a socket's path has about 100 bytes)";
    match tokio::fs::symlink_metadata(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot(error, folder)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::new(ErrorKind::Unavailable, format!("{} is there and is not a socket", path.display()))
                .hint("move it out of the way"));
        }
        Ok(_) => {
            // The store is ours by now. One that was taken over from may be stopped for good: its connections are made all the
            // same, and it says nothing.
            if answers(path).await {
                return Err(Error::new(ErrorKind::Unavailable, format!("somebody answers on {}", path.display()))
                    .hint("another server has this store: talk to it, or stop it first"));
            }
            tokio::fs::remove_file(path).await.map_err(|error| cannot(error, folder))?;
        }
    }
    // Made under a name of its own, closed to others, and only then moved to where clients look: at no moment is there a
    // socket that others may open.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let making = path.with_file_name(name);
    if tokio::fs::try_exists(&making).await.unwrap_or(false) {
        tokio::fs::remove_file(&making).await.map_err(|error| cannot(error, folder))?;
    }
    let listener = UnixListener::bind(&making).map_err(|error| cannot(error, folder))?;
    let finish = async {
        tokio::fs::set_permissions(&making, std::fs::Permissions::from_mode(0o600)).await?;
        tokio::fs::rename(&making, path).await
    };
    finish.await.map_err(|error| cannot(error, folder))?;
    Ok(Control { listener, path: path.to_owned(), identity: identity_of(path).await })
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Accepts until told to stop, then waits for its connections to end. `open` is what a connection begins with, in its own
/// task: nobody waits for another's handshake.
async fn accept<S, A, I, O>(
    room: Arc<Semaphore>,
    mut stopping: watch::Receiver<bool>,
    service: S,
    mut next: impl AsyncFnMut() -> io::Result<A>,
    open: impl Fn(A) -> O,
) where
    S: tower::Service<Request<Body>, Response = axum::response::Response, Error = std::convert::Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    O: Future<Output = io::Result<I>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            biased;
            () = stopped(&mut stopping) => break,
            permit = room.clone().acquire_owned() => permit,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            biased;
            () = stopped(&mut stopping) => break,
            stream = next() => stream,
        };
        match stream {
            Ok(stream) => {
                connections.spawn(connection(open(stream), service.clone(), stopping.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(next);
    while connections.join_next().await.is_some() {}
}

async fn connection<S, I>(
    opening: impl Future<Output = io::Result<I>>,
    service: S,
    mut stopping: watch::Receiver<bool>,
    _room: OwnedSemaphorePermit,
) where
    S: tower::Service<Request<Body>, Response = axum::response::Response, Error = std::convert::Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let opened = tokio::select! {
        opened = opening => opened,
        () = stopped(&mut stopping) => return,
    };
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "a connection was not opened"),
    };
    let service = service_fn(move |request: Request<Incoming>| unread::answer(service.clone(), request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(&mut stopping) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // Clients come and go as they like.
        tracing::debug!(%error, "a connection ended early");
    }
}
