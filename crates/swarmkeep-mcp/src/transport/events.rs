//! Server-sent events, read as they come: a parser that takes pieces of any size.

use bytes::Bytes;

/// An event, or a sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An event with data.
    Message {
        /// Its type; `message` when it names none.
        kind: String,
        /// Its data; several lines of it are joined by line feeds.
        data: Bytes,
        /// The last id that the stream named.
        id: Option<String>,
    },
    /// A comment, or an event without data: the stream lives.
    Comment,
    /// Wait this long before connecting again, in milliseconds.
    Retry(u64),
}

/// The parser of one stream.
#[derive(Debug, Default)]
pub struct Events {
    /// A line that is not complete.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    kind: String,
    id: Option<String>,
    /// The last byte was a carriage return: a line feed after it belongs to it.
    after_return: bool,
    has_begun: bool,
}

/// More than a stream may hold back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {0} bytes")]
pub struct TooLarge(pub usize);

impl Events {
    /// Takes a piece in, and gives the events that it completes. Of one event, at most `most` bytes are kept.
    ///
    /// # Errors
    /// [`TooLarge`]: the stream is of no use any more.
    pub fn take(&mut self, mut piece: &[u8], most: usize, events: &mut Vec<Event>) -> Result<(), TooLarge> {
        while let Some(&first) = piece.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                piece = piece.get(1..).unwrap_or_default();
                continue;
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let text = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
            if self.line.len() + self.data.len() + text.len() > most {
                return Err(TooLarge(most));
            }
            self.line.extend_from_slice(text);
            let Some(end) = end else { return Ok(()) };
            self.after_return = piece.get(end) == Some(&b'\r');
            piece = piece.get(end + 1..).unwrap_or_default();
            let mut line = std::mem::take(&mut self.line);
            self.line(&line, events);
            line.clear();
            self.line = line;
        }
        Ok(())
    }

    /// Another stream goes on where this one broke off: what was not complete is forgotten, the last id is not.
    pub fn begin_again(&mut self) {
        let id = self.id.take();
        *self = Self { id, ..Self::default() };
    }

    /// The last id that the stream named.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// How the event begins that is not complete.
    #[must_use]
    pub fn beginning(&self) -> &[u8] {
        if self.has_data { &self.data } else { &self.line }
    }

    fn line(&mut self, mut line: &[u8], events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            if std::mem::take(&mut self.has_data) {
                let kind = if kind.is_empty() { "message".to_owned() } else { kind };
                events.push(Event::Message { kind, data: std::mem::take(&mut self.data).into(), id: self.id.clone() });
            } else {
                events.push(Event::Comment);
            }
            return;
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let (field, value) = match colon {
            Some(0) => return events.push(Event::Comment),
            Some(colon) => {
                let value = line.get(colon + 1..).unwrap_or_default();
                (line.get(..colon).unwrap_or_default(), value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &b""[..]),
        };
        match field {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => self.kind = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"retry" => {
                if let Some(wait_ms) = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()) {
                    events.push(Event::Retry(wait_ms));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Events::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.take(piece, 1_000, &mut events).unwrap();
        }
        events
    }

    fn message(kind: &str, data: &str, id: Option<&str>) -> Event {
        Event::Message {
            kind: kind.to_owned(),
            data: Bytes::copy_from_slice(data.as_bytes()),
            id: id.map(str::to_owned),
        }
    }

    const STREAM: &str = "\u{feff}: hello\r\nid: 7\nevent: endpoint\ndata: /messages\n\ndata:one\ndata: two\r\n\r\nretry: 250\n\nid\ndata\n\rdata: {\"é\":1}\n\nunfinished: x";

    #[test]
    fn fields_lines_and_comments() {
        assert_eq!(
            read(&[STREAM.as_bytes()]),
            [
                Event::Comment,
                message("endpoint", "/messages", Some("7")),
                message("message", "one\ntwo", Some("7")),
                Event::Retry(250),
                Event::Comment,
                message("message", "", Some("")),
                message("message", "{\"é\":1}", Some("")),
            ]
        );
    }

    #[test]
    fn an_event_without_an_end_is_bounded() {
        let mut parser = Events::default();
        assert_eq!(parser.take(&[b'x'; 1_001], 1_000, &mut Vec::new()), Err(TooLarge(1_000)));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(0..STREAM.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            pieces.push(&STREAM.as_bytes()[from..]);
            prop_assert_eq!(read(&pieces), read(&[STREAM.as_bytes()]));
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Events::default().take(&bytes, 1_000, &mut Vec::new());
        }
    }
}
