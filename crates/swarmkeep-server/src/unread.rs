//! Bodies that nobody read to their end: a request that was refused before.
//!
//! A client that is still writing when its connection closes sees that instead of the answer; and on a connection that stays
//! open the next request begins only after the body. So what a handler leaves is read on and thrown away, within bounds,
//! while the answer goes out.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderValue, Request, header},
    response::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tower::ServiceExt;

/// What is thrown away of one body. Larger than any body that is taken whole.
const DISCARD_BYTES: u64 = 64 * 1024 * 1024;
/// For how long it is waited for; then the connection closes.
const DISCARD_TIME: Duration = Duration::from_secs(30);

/// Has a request answered. What its handler leaves of the body is thrown away; where that is too much, or the client
/// waits to be asked for it, a refusal says that the connection closes.
pub(crate) async fn answer<S, B>(service: S, request: Request<B>) -> Result<Response, Infallible>
where
    S: tower::Service<Request<Body>, Response = Response, Error = Infallible>,
    B: HttpBody<Data = Bytes, Error: Into<axum::BoxError> + Send> + Send + Unpin + 'static,
{
    let closes = request.body().size_hint().lower() > DISCARD_BYTES || request.headers().contains_key(header::EXPECT);
    let mut response = service.oneshot(watch(request)).await?;
    if closes && !response.status().is_success() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// The same request, whose body is thrown away where it is dropped unread.
pub(crate) fn watch<B>(request: Request<B>) -> Request<Body>
where
    B: HttpBody<Data = Bytes, Error: Into<axum::BoxError> + Send> + Send + Unpin + 'static,
{
    if request.body().is_end_stream() {
        return request.map(Body::new);
    }
    // Who asks first sends nothing after a refusal: to read on would be to say yes.
    let is_coming = !request.headers().contains_key(header::EXPECT);
    request.map(|body| Body::new(Watched { body: Some(body), is_coming }))
}

struct Watched<B: HttpBody<Data = Bytes, Error: Send> + Send + Unpin + 'static> {
    /// Gone once it has ended.
    body: Option<B>,
    /// The client sends it without having been told to, or has been told to.
    is_coming: bool,
}

impl<B: HttpBody<Data = Bytes, Error: Send> + Send + Unpin + 'static> HttpBody for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.is_coming = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl<B: HttpBody<Data = Bytes, Error: Send> + Send + Unpin + 'static> Drop for Watched<B> {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| self.is_coming && !body.is_end_stream());
        if let Some(left) = left
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(discard(left));
        }
    }
}

/// Reads on to the end, or to the bounds: then the connection closes, because its body is dropped.
async fn discard<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) {
    let all = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, |data| data.len() as u64);
            if seen > DISCARD_BYTES {
                break;
            }
        }
    };
    // What did not come in time is not waited for.
    let _ = tokio::time::timeout(DISCARD_TIME, all).await;
}
