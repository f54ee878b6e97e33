//! The table of routes: each is registered once, with what the document says about it beside it, so that the two cannot
//! part.

use axum::{Router, handler::Handler, http::Method, routing};

use crate::app::App;

/// What a route takes or answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// JSON of a schema in `openapi/schemas.json`.
    Json(&'static str),
    /// JSON of the caller's own.
    AnyJson,
    /// Bytes.
    Bytes,
    /// One JSON document a line, each of this schema.
    Lines(&'static str),
    /// Server-sent events, whose data are of this schema.
    Events(&'static str),
    /// A WebSocket, whose text frames are of this schema.
    Socket(&'static str),
}

/// A parameter in the query string: name, JSON type, what it does.
pub(crate) type Param = (&'static str, &'static str, &'static str);

/// What the document says about a route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) query: &'static [Param],
    /// Takes the headers of a request that writes.
    pub(crate) writes: bool,
    /// What `If-Match` is about; empty: it is not taken.
    pub(crate) if_match: &'static str,
    pub(crate) body: Option<Content>,
    pub(crate) status: u16,
    pub(crate) answer: Content,
}

impl Op {
    /// Reads.
    pub(crate) const fn read(id: &'static str, summary: &'static str, answer: Content) -> Self {
        Self { id, summary, query: &[], writes: false, if_match: "", body: None, status: 200, answer }
    }

    /// Writes records, and answers with a reply.
    pub(crate) const fn write(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            query: &[],
            writes: true,
            if_match: "The seq at which the session must stand.",
            body: None,
            status: 200,
            answer: Content::Json("Reply"),
        }
    }

    pub(crate) const fn query(mut self, query: &'static [Param]) -> Self {
        self.query = query;
        self
    }

    pub(crate) const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(Content::Json(schema));
        self
    }

    pub(crate) const fn takes(mut self, content: Content) -> Self {
        self.body = Some(content);
        self
    }

    pub(crate) const fn answers(mut self, status: u16, schema: &'static str) -> Self {
        self.status = status;
        self.answer = Content::Json(schema);
        self
    }

    pub(crate) const fn if_match(mut self, what: &'static str) -> Self {
        self.if_match = what;
        self
    }
}

/// Routes under way.
pub(crate) struct Api {
    pub(crate) router: Router<App>,
    pub(crate) operations: Vec<(Method, &'static str, Op)>,
}

macro_rules! methods {
    ($($name:ident = $method:ident,)+) => {
        $(
            pub(crate) fn $name<H, T>(self, path: &'static str, handler: H, op: Op) -> Self
            where
                H: Handler<T, App>,
                T: 'static,
            {
                self.on(Method::$method, path, routing::$name(handler), op)
            }
        )+
    };
}

impl Api {
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), operations: Vec::new() }
    }

    methods! { get = GET, post = POST, put = PUT, patch = PATCH, delete = DELETE, }

    fn on(mut self, method: Method, path: &'static str, route: routing::MethodRouter<App>, op: Op) -> Self {
        self.router = self.router.route(path, route);
        self.operations.push((method, path, op));
        self
    }
}
