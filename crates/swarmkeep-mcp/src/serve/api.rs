//! The HTTP API, asked from within: no socket, no guard, the same answers.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderName, HeaderValue, Method, Request, header},
};
use bytes::Bytes;
use serde_json::Value;
use swarmkeep::core::json::decode_lossy;
use tokio::sync::OnceCell;
use tower::ServiceExt;

use super::{document::Document, words};

/// Largest answer that becomes a result. A client holds it in a model's context or in its memory: whoever wants more asks
/// for it in pages, or over HTTP.
pub(super) const ANSWER_BYTES: usize = 8 << 20;

/// The API, and what its document says of it.
#[derive(Clone)]
pub(super) struct Api {
    router: Router,
    document: Arc<OnceCell<Document>>,
}

/// One request.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Option<Vec<u8>>,
}

impl Ask {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }
}

/// Why it was not done: the API's problem document, or what kept it from being asked.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) detail: String,
    /// In the words of whoever calls tools.
    pub(super) hint: Option<String>,
    /// As the API said it.
    pub(super) document: Option<Value>,
}

impl Problem {
    pub(super) fn new(code: &str, detail: impl Into<String>) -> Self {
        Self { code: code.to_owned(), detail: detail.into(), hint: None, document: None }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new("invalid", detail)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn read(bytes: &[u8]) -> Self {
        let Ok(document) = serde_json::from_slice::<Value>(bytes) else {
            return Self::new("internal", "the answer is neither what was asked for nor a problem");
        };
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
        Self {
            code: text("code").unwrap_or_else(|| "internal".to_owned()),
            detail: text("detail").unwrap_or_default(),
            hint: text("hint").map(words::hint),
            document: Some(document),
        }
    }
}

impl Api {
    pub(super) fn new(router: Router) -> Self {
        Self { router, document: Arc::default() }
    }

    /// What the API can do, read when it is first needed.
    pub(super) async fn document(&self) -> Result<&Document, Problem> {
        self.document.get_or_try_init(async || Document::read(&self.ask(Ask::get("/openapi.json")).await?)).await
    }

    /// Asks, and takes the answer as JSON.
    pub(super) async fn json(&self, ask: Ask) -> Result<Value, Problem> {
        let bytes = self.ask(ask).await?;
        decode_lossy(&bytes).map_err(|error| Problem::new("internal", format!("the answer is not JSON: {error}")))
    }

    /// Asks, and takes the answer's bytes.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Bytes, Problem> {
        let mut request = Request::builder().method(ask.method).uri(&ask.path);
        for (name, value) in &ask.headers {
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| Problem::invalid(format!("`{name}` has a character that cannot be sent")))?;
            request = request.header(name, value);
        }
        let body = match ask.body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body)
            }
            None => Body::empty(),
        };
        let request = request.body(body).map_err(|error| Problem::invalid(error.to_string()))?;
        // A router is always ready and never fails.
        let Ok(response) = self.router.clone().oneshot(request).await;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), ANSWER_BYTES).await.map_err(|_| {
            Problem::new("limit", format!("the answer is larger than {ANSWER_BYTES} bytes"))
                .hint("ask for less at a time (`limit`), or read it over HTTP")
        })?;
        if status.is_success() { Ok(bytes) } else { Err(Problem::read(&bytes)) }
    }
}

/// A part of a path or of a query string.
pub(super) fn escaped(text: &str) -> String {
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

/// The path of a session, or of something in it. A name without a namespace is in `default`.
pub(super) fn session_path(session: &str, rest: &str) -> String {
    let (namespace, name) = session.split_once('/').unwrap_or(("default", session));
    format!("/v1/sessions/{}/{}{rest}", escaped(namespace), escaped(name))
}
