//! A stream that the server ends before the answer is on it: the client comes back for the answer, with the id of the last
//! event it saw.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, request::Parts},
    middleware::Next,
    response::Response,
};
use futures_util::StreamExt as _;
use rmcp::{RoleServer, service::RequestContext};
use tokio::sync::{Notify, broadcast};

/// How long an answer waits for a client that went away. The SDK drops one for which nobody has come back yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sessions that came back, told to whoever waits for one of them.
pub(crate) type Returned = broadcast::Sender<String>;

/// The stream of one HTTP request's answer.
#[derive(Clone)]
struct Line {
    session: Option<String>,
    end: Arc<Notify>,
    returned: Returned,
}

/// Lets whoever carries out a request end the stream of its answer, and see the client come back.
pub(crate) async fn able(State(returned): State<Returned>, mut request: Request, next: Next) -> Response {
    let named = |headers: &HeaderMap, name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    let session = named(request.headers(), "mcp-session-id");
    let comes_back = named(request.headers(), "last-event-id").is_some();
    let line = Line { session: session.clone(), end: Arc::default(), returned: returned.clone() };
    request.extensions_mut().insert(line.clone());
    let response = next.run(request).await;
    if let Some(session) = session.filter(|_| comes_back) {
        // Nobody may be waiting.
        drop(returned.send(session));
    }
    let ended = async move { line.end.notified().await };
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(ended))))
}

/// Ends the stream that this request's answer was to go to, and waits for the client. Over stdio there is none.
pub(crate) async fn hang_up(context: &RequestContext<RoleServer>) {
    let Some(line) = context.extensions.get::<Parts>().and_then(|parts| parts.extensions.get::<Line>()) else { return };
    let mut returned = line.returned.subscribe();
    line.end.notify_one();
    if line.session.is_none() {
        return;
    }
    let waited = async { while returned.recv().await.is_ok_and(|session| Some(session) != line.session) {} };
    // A client that does not come back has no use for the answer.
    drop(tokio::time::timeout(PATIENCE, waited).await);
}
