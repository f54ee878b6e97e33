//! A stream that the server ends before the answer is on it: the client comes back for the answer, with the id of the last
//! event it saw.

use std::sync::Arc;

use axum::{body::Body, extract::Request, http::request::Parts, middleware::Next, response::Response};
use futures_util::StreamExt as _;
use rmcp::{RoleServer, service::RequestContext};
use tokio::sync::Notify;

/// The stream of one HTTP request's answer.
#[derive(Clone, Default)]
struct Line(Arc<Notify>);

/// Lets whoever carries out a request end the stream of its answer.
pub(crate) async fn able(mut request: Request, next: Next) -> Response {
    let line = Line::default();
    request.extensions_mut().insert(line.clone());
    let ended = async move { line.0.notified().await };
    next.run(request).await.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(ended))))
}

/// Ends the stream that this request's answer was to go to. Over stdio there is none.
pub(crate) fn hang_up(context: &RequestContext<RoleServer>) {
    if let Some(line) = context.extensions.get::<Parts>().and_then(|parts| parts.extensions.get::<Line>()) {
        line.0.notify_one();
    }
}
