//! JSON-RPC, a message a line, over an upgraded HTTP connection: what the relay on stdio speaks.
//!
//! The connection is the client's: it begins with whatever the client begins with, and when it breaks, whoever comes back
//! begins anew.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    response::Response,
};
use hyper_util::rt::TokioIo;
use rmcp::{ServerHandler, service::serve_server};
use tokio::sync::watch;

/// The protocol that a caller asks to upgrade to.
const PROTOCOL: &str = "mcp-lines";
/// Streams at once; more are refused.
const STREAMS: usize = 512;

/// What all streams share.
#[derive(Clone)]
pub(super) struct Streams {
    open: Arc<AtomicUsize>,
    closing: watch::Receiver<bool>,
}

/// An open stream, counted for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Streams {
    pub(super) fn new(closing: impl Future<Output = ()> + Send + 'static) -> Self {
        let (close, is_closing) = watch::channel(false);
        let closing: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(closing);
        // Ends with what it waits for; it holds nothing but the sender.
        tokio::spawn(async move {
            closing.await;
            close.send_replace(true);
        });
        Self { open: Arc::default(), closing: is_closing }
    }

    /// Opens a stream to a server of its own.
    pub(super) async fn open(self, server: impl ServerHandler, mut request: Request<Body>) -> Response {
        if !asks_for(request.headers()) {
            return plain(StatusCode::UPGRADE_REQUIRED, "this is a stream: upgrade to mcp-lines; requests go to /mcp");
        }
        let count = Counted(self.open.clone());
        if self.open.fetch_add(1, Ordering::Relaxed) >= STREAMS {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open");
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let _count = count;
            match upgrade.await {
                Ok(connection) => self.serve(server, TokioIo::new(connection)).await,
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
        });
        plain(StatusCode::SWITCHING_PROTOCOLS, "")
    }

    async fn serve(mut self, server: impl ServerHandler, connection: TokioIo<hyper::upgrade::Upgraded>) {
        let serving = async {
            match serve_server(server, tokio::io::split(connection)).await {
                Ok(running) => match running.waiting().await {
                    Ok(reason) => tracing::debug!(?reason, "a stream ended"),
                    Err(error) => tracing::warn!(%error, "a stream broke off"),
                },
                Err(error) => tracing::debug!(%error, "a stream ended before it began"),
            }
        };
        // A sender that is gone means the same as its word.
        tokio::select! {
            () = serving => {}
            _ = self.closing.wait_for(|closing| *closing) => {}
        }
    }
}

fn asks_for(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
}

fn plain(status: StatusCode, says: &'static str) -> Response {
    let mut response = Response::new(Body::from(says));
    *response.status_mut() = status;
    if matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED) {
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    response
}
