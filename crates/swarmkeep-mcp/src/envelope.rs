//! A JSON-RPC message of which only the routing fields are read, and only they are ever rewritten.
//!
//! Everything else stays as the peer wrote it, byte for byte: fields that no revision knows, keys that come twice, `1.0`,
//! integers beyond 64 bits, half a surrogate pair. Going through a typed model would lose all of these.
//!
//! Where a key comes twice the last one counts, as it does for nearly every parser; but a message whose *routing* keys come
//! twice [is ambiguous](Envelope::is_ambiguous), because a peer may see another message in it than we do. Its id is rewritten
//! wherever it stands.

pub mod compose;
pub(crate) mod scan;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use memchr::{memchr, memchr2};

use self::scan::Span;

/// Names the request that opened the stream a notification belongs to (revision 2026-07-28).
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// In every request of revision 2026-07-28 and later, and in none before.
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// Params of a request that carries on what the server began.
const CONTINUES: [&str; 2] = ["requestState", "inputResponses"];

/// What kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Has a method and an id: an answer is due.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has a result and no error.
    Result,
    /// Has an error. Its id may be `null`, or missing, when the peer could not read the request.
    Error,
}

/// Why a line is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Not UTF-8.
    #[error("not UTF-8: byte {at} of the line")]
    NotUtf8 {
        /// Where.
        at: usize,
    },
    /// Not JSON.
    #[error("not JSON: {what} at byte {at} of the line")]
    NotJson {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// JSON, but neither a request, a notification nor an answer.
    #[error("no JSON-RPC message: {0}")]
    NotAMessage(&'static str),
}

impl Malformed {
    /// The code of JSON-RPC for it.
    #[must_use]
    pub fn code(&self) -> i64 {
        match self {
            Self::NotUtf8 { .. } | Self::NotJson { .. } => -32700,
            Self::NotAMessage(_) => -32600,
        }
    }
}

/// One line: a message, or, in revision 2025-03-26 only, several in an array.
#[derive(Debug, Clone)]
pub enum Frame {
    /// One message.
    One(Box<Envelope>),
    /// An array of them. Each keeps its bytes; what stands between them is white space and commas.
    Batch(Vec<Result<Envelope, Malformed>>),
}

impl Frame {
    /// Reads a line (without its line feed).
    ///
    /// # Errors
    /// [`Malformed`], with where and why.
    pub fn parse(line: impl Into<Bytes>) -> Result<Self, Malformed> {
        let line: Bytes = line.into();
        let text = std::str::from_utf8(&line).map_err(|error| Malformed::NotUtf8 { at: error.valid_up_to() })?;
        let from = scan::space(text.as_bytes(), 0);
        if text.as_bytes().get(from) != Some(&b'[') {
            return Envelope::of_text(line).map(|one| Self::One(Box::new(one)));
        }
        let mut spans = Vec::new();
        let end = scan::elements(&line, from, |span| spans.push(span)).map_err(not_json)?;
        ends(&line, end)?;
        if spans.is_empty() {
            return Err(Malformed::NotAMessage("an empty batch"));
        }
        Ok(Self::Batch(spans.into_iter().map(|span| Envelope::of_text(line.slice(span))).collect()))
    }
}

/// A string of a message.
#[derive(Debug, Clone)]
enum Text {
    /// As it stands there, between its quotes.
    There(Span),
    /// Without its escapes.
    Decoded(String),
}

/// The last value of a key, and whether there were others.
#[derive(Default)]
struct Last {
    span: Option<Span>,
    is_again: bool,
}

impl Last {
    fn put(&mut self, span: Span) {
        self.is_again |= self.span.replace(span).is_some();
    }
}

/// A message.
#[derive(Debug, Clone)]
pub struct Envelope {
    text: Bytes,
    kind: Kind,
    /// Every `id`; the last one counts.
    ids: Vec<Span>,
    method: Option<Text>,
    name: Option<Text>,
    params: Option<Span>,
    /// The result or the error.
    body: Option<Span>,
    tokens: Vec<Span>,
    targets: Vec<Span>,
    subscriptions: Vec<Span>,
    is_ambiguous: bool,
    is_continuation: bool,
    has_cursor: bool,
    /// The revision that a request of the stateless revisions names.
    revision: Option<Span>,
    meta: Option<Span>,
}

/// What is to stand in a message instead of what stands there: JSON text. Absent fields stay.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edit<'a> {
    /// The id.
    pub id: Option<&'a str>,
    /// The progress token.
    pub token: Option<&'a str>,
    /// The request that `notifications/cancelled` is about.
    pub target: Option<&'a str>,
    /// The request that opened the stream a notification belongs to.
    pub subscription: Option<&'a str>,
}

fn not_json(fault: scan::Fault) -> Malformed {
    Malformed::NotJson { at: fault.at, what: fault.what }
}

/// The string that stands there, if one does.
fn read(text: &[u8], span: &Span) -> Option<Text> {
    let inside = text.get(span.clone())?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    Some(match memchr(b'\\', inside) {
        None => Text::There(span.start + 1..span.end - 1),
        Some(_) => Text::Decoded(scan::decoded(inside)),
    })
}

fn ends(text: &[u8], at: usize) -> Result<(), Malformed> {
    let at = scan::space(text, at);
    if at == text.len() { Ok(()) } else { Err(Malformed::NotJson { at, what: "something after the end" }) }
}

impl Envelope {
    /// Reads one message.
    ///
    /// # Errors
    /// [`Malformed`]; a batch is one too: [`Frame::parse`] takes it.
    pub fn parse(line: impl Into<Bytes>) -> Result<Self, Malformed> {
        match Frame::parse(line)? {
            Frame::One(envelope) => Ok(*envelope),
            Frame::Batch(_) => Err(Malformed::NotAMessage("a batch, which this revision does not have")),
        }
    }

    /// `text` is UTF-8.
    fn of_text(text: Bytes) -> Result<Self, Malformed> {
        let from = scan::space(&text, 0);
        if text.get(from).is_some_and(|byte| *byte != b'{') {
            ends(&text, scan::value_end(&text, from).map_err(not_json)?)?;
            return Err(Malformed::NotAMessage("no object"));
        }
        let mut ids = Vec::new();
        let (mut method, mut params) = (Last::default(), Last::default());
        let (mut result, mut error) = (Last::default(), Last::default());
        let end = scan::members(&text, from, |key, value| match () {
            () if scan::is_key(key, "id") => ids.push(value),
            () if scan::is_key(key, "method") => method.put(value),
            () if scan::is_key(key, "params") => params.put(value),
            () if scan::is_key(key, "result") => result.put(value),
            () if scan::is_key(key, "error") => error.put(value),
            () => {}
        })
        .map_err(not_json)?;
        ends(&text, end)?;
        let kinds = [&method, &result, &error].iter().filter(|last| last.span.is_some()).count();
        let is_again = [&method, &params, &result, &error].iter().any(|last| last.is_again);
        let is_ambiguous = ids.len() > 1 || is_again || kinds > 1;
        let (kind, body) = match (&method.span, error.span, result.span) {
            (Some(_), _, _) if ids.is_empty() => (Kind::Notification, None),
            (Some(_), _, _) => (Kind::Request, None),
            (None, Some(error), _) => (Kind::Error, Some(error)),
            (None, None, Some(result)) => (Kind::Result, Some(result)),
            (None, None, None) => return Err(Malformed::NotAMessage("neither a method nor a result nor an error")),
        };
        let method = match &method.span {
            None => None,
            Some(span) => Some(read(&text, span).ok_or(Malformed::NotAMessage("the method is no string"))?),
        };
        if let Some(id) = ids.last()
            && !matches!(text.get(id.start), Some(b'"' | b'-' | b'0'..=b'9' | b'n'))
        {
            return Err(Malformed::NotAMessage("the id is neither a string nor a number"));
        }
        let mut envelope = Self {
            text,
            kind,
            ids,
            method,
            name: None,
            params: params.span,
            body,
            tokens: Vec::new(),
            targets: Vec::new(),
            subscriptions: Vec::new(),
            is_ambiguous,
            is_continuation: false,
            has_cursor: false,
            revision: None,
            meta: None,
        };
        envelope.read_inside();
        Ok(envelope)
    }

    /// The routing fields inside `params`, or inside a result. They were parsed as JSON before: nothing here can fail.
    fn read_inside(&mut self) {
        let Some(inside) = self.params.clone().or_else(|| self.body.clone()) else { return };
        let is_request = self.params.is_some();
        let (is_progress, is_cancel) = match self.method() {
            Some("notifications/progress") => (true, false),
            Some("notifications/cancelled") => (false, true),
            _ => (false, false),
        };
        let (mut name, mut meta) = (Last::default(), Last::default());
        let text = std::mem::take(&mut self.text);
        // What was read once is read again without a fault.
        let _ = scan::members(&text, inside.start, |key, value| match () {
            () if scan::is_key(key, "_meta") => meta.put(value),
            () if !is_request => {}
            () if scan::is_key(key, "name") => name.put(value),
            () if scan::is_key(key, "cursor") => self.has_cursor = true,
            () if is_progress && scan::is_key(key, "progressToken") => self.tokens.push(value),
            () if is_cancel && scan::is_key(key, "requestId") => self.targets.push(value),
            () if CONTINUES.iter().any(|name| scan::is_key(key, name)) => self.is_continuation = true,
            () => {}
        });
        self.is_ambiguous |= name.is_again || meta.is_again;
        self.name = name.span.and_then(|name| read(&text, &name));
        self.meta = meta.span;
        if let Some(meta) = &self.meta {
            let _ = scan::members(&text, meta.start, |key, value| match () {
                () if scan::is_key(key, SUBSCRIPTION) => self.subscriptions.push(value),
                () if scan::is_key(key, VERSION) => self.revision = Some(value),
                () if self.kind == Kind::Request && scan::is_key(key, "progressToken") => self.tokens.push(value),
                () => {}
            });
        }
        self.text = text;
    }

    /// The message as it came.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.text
    }

    /// What kind of message.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The id, as JSON text: `1` and `"1"` are two ids, and so are `1` and `1.0`.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.ids.last().map(|span| self.at(span))
    }

    /// The method, of a request or a notification.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.method.as_ref().map(|method| self.read(method))
    }

    /// `params.name`: which tool, which prompt.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(|name| self.read(name))
    }

    /// The params, as JSON text.
    #[must_use]
    pub fn params(&self) -> Option<&str> {
        self.params.as_ref().map(|span| self.at(span))
    }

    /// The result or the error, as JSON text.
    #[must_use]
    pub fn body(&self) -> Option<&str> {
        self.body.as_ref().map(|span| self.at(span))
    }

    /// The same, as a part of the message's bytes.
    #[must_use]
    pub fn body_bytes(&self) -> Option<Bytes> {
        self.body.clone().map(|span| self.text.slice(span))
    }

    /// The member `name` of the params, as JSON text.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        scan::member(&self.text, self.params.as_ref()?, name).map(|span| self.at(&span))
    }

    /// The member `name` of the result, as JSON text.
    #[must_use]
    pub fn result_member(&self, name: &str) -> Option<&str> {
        let body = self.body.as_ref().filter(|_| self.kind == Kind::Result)?;
        scan::member(&self.text, body, name).map(|span| self.at(&span))
    }

    /// The progress token: of a request, the one its sender wants progress under; of `notifications/progress`, the one it is
    /// about.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.tokens.last().map(|span| self.at(span))
    }

    /// The request that `notifications/cancelled` is about, as JSON text.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.targets.last().map(|span| self.at(span))
    }

    /// The request that opened the stream this belongs to, as JSON text.
    #[must_use]
    pub fn subscription(&self) -> Option<&str> {
        self.subscriptions.last().map(|span| self.at(span))
    }

    /// Code and message of an error.
    #[must_use]
    pub fn error(&self) -> Option<(i64, String)> {
        let error = self.body.as_ref().filter(|_| self.kind == Kind::Error)?;
        let code = scan::member(&self.text, error, "code").and_then(|span| self.at(&span).parse().ok());
        let message = scan::member(&self.text, error, "message").and_then(|span| scan::string(&self.text, &span));
        Some((code.unwrap_or(0), message.unwrap_or_default()))
    }

    /// Whether a routing key comes twice, or keys stand together that exclude each other: a peer may see another message in it.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// Whether it opens a stream of the server's own words, which ends when one of the two does.
    #[must_use]
    pub fn is_subscription(&self) -> bool {
        self.kind == Kind::Request && self.method() == Some("subscriptions/listen")
    }

    /// Whether it carries on something that the server began (`requestState`, `inputResponses`).
    #[must_use]
    pub fn is_continuation(&self) -> bool {
        self.is_continuation
    }

    /// Whether it asks for a further page of a list: a cursor means nothing in another session.
    #[must_use]
    pub fn has_cursor(&self) -> bool {
        self.has_cursor
    }

    /// Whether it is a request of the stateless revisions (2026-07-28 and later), which name their revision each time.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        self.revision.is_some()
    }

    /// The revision that it names, if it does.
    #[must_use]
    pub fn revision(&self) -> Option<String> {
        scan::string(&self.text, self.revision.as_ref()?)
    }

    /// What every request of the stateless revisions carries about its client, as a `_meta` of JSON text: for requests of our
    /// own on the same connection.
    #[must_use]
    pub fn client_meta(&self) -> Option<String> {
        let meta = self.meta.as_ref().filter(|_| self.is_modern())?;
        let mut members = Vec::new();
        scan::members(&self.text, meta.start, |key, value| {
            let key = scan::decoded(key);
            if key.starts_with("io.modelcontextprotocol/") {
                members.push(format!("{}:{}", serde_json::Value::from(key), self.at(&value)));
            }
        })
        .ok()?;
        Some(format!("{{{}}}", members.join(",")))
    }

    fn read<'a>(&'a self, text: &'a Text) -> &'a str {
        match text {
            Text::There(span) => self.at(span),
            Text::Decoded(text) => text,
        }
    }

    fn at(&self, span: &Span) -> &str {
        // Spans are made by reading this text, and begin and end at characters of ASCII.
        self.text.get(span.clone()).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// The message with these fields rewritten, and every other byte as it came.
    #[must_use]
    pub fn edited(&self, edit: Edit<'_>) -> Bytes {
        let places = [
            (&self.ids, edit.id),
            (&self.tokens, edit.token),
            (&self.targets, edit.target),
            (&self.subscriptions, edit.subscription),
        ];
        let mut changes: Vec<(&Span, &str)> = Vec::new();
        for (spans, new) in places {
            changes.extend(spans.iter().filter_map(|span| Some((span, new?))));
        }
        if changes.is_empty() {
            return self.text.clone();
        }
        changes.sort_by_key(|(span, _)| span.start);
        let (longer, shorter) =
            changes.iter().fold((0, 0), |(longer, shorter), (span, new)| (longer + new.len(), shorter + span.len()));
        // As long as it gets: to be made into bytes without another allocation.
        let mut text = Vec::with_capacity((self.text.len() + longer).saturating_sub(shorter));
        let mut from = 0;
        for (span, new) in changes {
            text.extend_from_slice(self.text.get(from..span.start).unwrap_or_default());
            text.extend_from_slice(new.as_bytes());
            from = span.end;
        }
        text.extend_from_slice(self.text.get(from..).unwrap_or_default());
        text.into()
    }

    /// The message on one line: what goes over stdio. Line feeds between its parts, which are white space, become blanks; a
    /// message that came over stdio has none.
    #[must_use]
    pub fn line(text: Bytes) -> Bytes {
        if memchr2(b'\n', b'\r', &text).is_none() {
            return text;
        }
        text.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }).collect::<Vec<u8>>().into()
    }
}
