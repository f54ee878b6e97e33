//! What a shim and the daemon say to each other over a local socket: lines.
//!
//! | from the shim | means |
//! |---|---|
//! | a [`Hello`], once | who it is, and which server it wants |
//! | `NUMBER LINE` | a line of its client, numbered from 1; on a new connection, those that it knows nothing of come again |
//! | `end` | the client has said all |
//!
//! | from the daemon | means |
//! |---|---|
//! | `= LINE` | for the client |
//! | `NUMBER LINE` | for the client: the answer to that line |
//! | `NUMBER` | that line needs no answer |
//! | `! TEXT` | refused, and why; nothing follows |
//!
//! A daemon understands the hellos of older shims: fields are added with a default, and what is unknown is skipped.

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{calls::Queue, class::Trust, transport::Recipe};

/// The version of this conversation.
pub const VERSION: u32 = 1;

/// Longest line of a client or a server, in bytes.
pub(crate) const LINE_BYTES: usize = 128 << 20;
/// With its number.
pub(crate) const FRAME_BYTES: usize = LINE_BYTES + 32;

/// What a shim begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the shim.
    pub version: u32,
    /// What it wants.
    pub wants: Wants,
}

/// What is wanted of the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wants {
    /// To talk to a server.
    Proxy(Box<Ask>),
    /// To know how all links stand: one line of JSON.
    Status,
}

/// A shim's wish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ask {
    /// Names this run of the client: random, the same after a lost connection.
    pub client: String,
    /// The session; absent: by folder and client.
    #[serde(default)]
    pub session: Option<String>,
    /// The folder that the client runs in.
    pub folder: String,
    /// The server's name; absent: its program's.
    #[serde(default)]
    pub upstream: Option<String>,
    /// How to reach the server.
    pub recipe: Recipe,
    /// What its hints are worth.
    #[serde(default)]
    pub trust: Trust,
    /// Which calls wait for a server that is away.
    #[serde(default)]
    pub queue: Queue,
    /// Lines up to this one may have been offered to an earlier daemon; absent, from an older program: any.
    #[serde(default)]
    pub offered: Option<u64>,
    /// For how long the lines have waited that are offered again, in milliseconds, by number.
    #[serde(default)]
    pub waited_ms: BTreeMap<u64, u64>,
    /// The client's `initialize`, if it was answered before.
    #[serde(default)]
    pub initialize: Option<String>,
    /// The client may come back under its name after the shim's end, until it has said all.
    #[serde(default)]
    pub is_lasting: bool,
}

/// A line of the daemon, as a shim reads it.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// For the client.
    Line {
        /// The answer to this line of it.
        answers: Option<u64>,
        /// What to write.
        line: Bytes,
    },
    /// This line is settled.
    Taken(u64),
    /// Nothing follows, whoever asks again.
    Refused(String),
    /// Nothing was taken; it may be later.
    Later(String),
}

/// Writes a numbered line.
pub(crate) fn numbered(number: u64, line: &[u8], to: &mut BytesMut) {
    // There is room for whatever is written to it.
    let _ = write!(to, "{number} ");
    to.extend_from_slice(line);
    to.extend_from_slice(b"\n");
}

/// Reads a numbered line.
pub(crate) fn number_of(mut frame: Bytes) -> Option<(u64, Bytes)> {
    let space = frame.iter().position(|&byte| byte == b' ').unwrap_or(frame.len());
    let number = std::str::from_utf8(frame.get(..space)?).ok()?.parse().ok()?;
    frame.advance((space + 1).min(frame.len()));
    Some((number, frame))
}

/// Reads a line of the daemon; `None`: no line of this version.
pub(crate) fn said(mut frame: Bytes) -> Option<Said> {
    match frame.first()? {
        b'=' => {
            frame.advance(2.min(frame.len()));
            Some(Said::Line { answers: None, line: frame })
        }
        b'!' => Some(Said::Refused(String::from_utf8_lossy(frame.get(2..)?).into_owned())),
        b'?' => Some(Said::Later(String::from_utf8_lossy(frame.get(2..)?).into_owned())),
        _ if frame.contains(&b' ') => {
            let (number, line) = number_of(frame)?;
            Some(Said::Line { answers: Some(number), line })
        }
        _ => std::str::from_utf8(&frame).ok()?.parse().ok().map(Said::Taken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut text = BytesMut::new();
        numbered(7, b"{\"a\": 1}", &mut text);
        assert_eq!(&text[..], b"7 {\"a\": 1}\n");
        let frame = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        assert_eq!(number_of(frame("7 {\"a\": 1}")), Some((7, frame("{\"a\": 1}"))));
        assert_eq!(said(frame("7 {\"a\": 1}")), Some(Said::Line { answers: Some(7), line: frame("{\"a\": 1}") }));
        assert_eq!(said(frame("= {}")), Some(Said::Line { answers: None, line: frame("{}") }));
        assert_eq!(said(frame("12")), Some(Said::Taken(12)));
        assert_eq!(said(frame("! no")), Some(Said::Refused("no".to_owned())));
        assert_eq!(said(frame("? full")), Some(Said::Later("full".to_owned())));
        for text in ["", "x", "x 1", "-1", "!", "?"] {
            assert_eq!(said(frame(text)), None, "{text}");
        }
    }

    #[test]
    fn a_hello_of_a_newer_shim_is_read() {
        let text = r#"{"version":9,"wants":{"proxy":{"client":"c","folder":"/","recipe":{"stdio":{"program":"x"}},"new":1}},"more":2}"#;
        let hello: Hello = serde_json::from_str(text).unwrap();
        assert!(matches!(hello.wants, Wants::Proxy(ask) if ask.trust == Trust::default()));
    }
}
