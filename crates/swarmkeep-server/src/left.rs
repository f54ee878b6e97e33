//! A session that waits for a person's decision is served as far as it can be had, whatever is asked about it: every answer
//! says so in a header.

use std::sync::{Arc, OnceLock};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use swarmkeep::SessionId;

use crate::app::App;

/// On an answer: this is not all of the session.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("swarmkeep-damage");

/// The session that a request turned out to be about.
#[derive(Debug, Clone, Default)]
pub(crate) struct About(Arc<OnceLock<SessionId>>);

impl About {
    pub(crate) fn set(&self, session: SessionId) {
        self.0.get_or_init(|| session);
    }
}

/// Adds the header.
pub(crate) async fn say(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let about = About::default();
    request.extensions_mut().insert(about.clone());
    let mut response = next.run(request).await;
    if let Some(waiting) = about.0.get().and_then(|session| app.keep().decision(*session)) {
        let left = format!("up to seq {} of {} that are known", waiting.reaches, waiting.plan.known_head);
        if let Ok(left) = HeaderValue::from_str(&left) {
            response.headers_mut().insert(HEADER, left);
        }
    }
    response
}
