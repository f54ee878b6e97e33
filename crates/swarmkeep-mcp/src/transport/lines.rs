//! Lines of bounded length.

use std::io;

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// A line that is not read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {most} bytes")]
pub struct TooLong {
    /// So many are taken.
    pub most: usize,
    /// How it begins.
    pub beginning: Bytes,
}

impl TooLong {
    /// What of an error of [`Lines::next`] this is.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// How much of such a line is kept.
const KEPT_BYTES: usize = 256;

/// Reads lines from a stream.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    most: usize,
    takes_rest: bool,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Lines of at most `most` bytes.
    pub fn new(from: R, most: usize) -> Self {
        Self { from, most, takes_rest: true }
    }

    /// Of a stream that may break off in the middle of a line: what has no end is none.
    #[must_use]
    pub fn of_frames(from: R, most: usize) -> Self {
        Self { from, most, takes_rest: false }
    }

    /// The same stream, with lines of at most `most` bytes from now on.
    #[must_use]
    pub fn with_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// The next line, without its end (`\n` or `\r\n`); `None` at the end of the stream. What stands after the last line feed
    /// is a line, too, unless these are [frames](Self::of_frames).
    ///
    /// Not to be dropped while it waits: what was read by then would be lost.
    ///
    /// # Errors
    /// The stream's own, and `InvalidData` for a line that is too long.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut line = BytesMut::new();
        loop {
            let piece = self.from.fill_buf().await?;
            if piece.is_empty() {
                return Ok((self.takes_rest && !line.is_empty()).then(|| line.freeze()));
            }
            let end = memchr(b'\n', piece);
            let (text, taken) = match end {
                Some(end) => (piece.get(..end).unwrap_or_default(), end + 1),
                None => (piece, piece.len()),
            };
            if line.len() + text.len() > self.most {
                let missing = KEPT_BYTES.saturating_sub(line.len()).min(text.len());
                line.extend_from_slice(text.get(..missing).unwrap_or_default());
                line.truncate(KEPT_BYTES);
                let too_long = TooLong { most: self.most, beginning: line.freeze() };
                return Err(io::Error::new(io::ErrorKind::InvalidData, too_long));
            }
            line.extend_from_slice(text);
            self.from.consume(taken);
            if end.is_some() {
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Ok(Some(line.freeze()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8], most: usize) -> Vec<io::Result<String>> {
        // A buffer of four bytes, so that lines come in pieces.
        let mut lines = Lines::new(tokio::io::BufReader::with_capacity(4, text), most);
        let mut all = Vec::new();
        loop {
            match lines.next().await {
                Ok(None) => return all,
                Ok(Some(line)) => all.push(Ok(String::from_utf8(line.to_vec()).unwrap())),
                Err(error) => {
                    all.push(Err(error));
                    return all;
                }
            }
        }
    }

    #[tokio::test]
    async fn lines_end_with_a_feed_and_the_last_one_need_not() {
        let lines = all(b"one\r\n\ntwo and more\nlast", 100).await;
        let lines: Vec<String> = lines.into_iter().map(Result::unwrap).collect();
        assert_eq!(lines, ["one", "", "two and more", "last"]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_an_error_and_not_memory() {
        let lines = all(b"12345678\n123456789\n", 8).await;
        assert_eq!(lines[0].as_ref().unwrap(), "12345678");
        let error = lines[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(TooLong::of(error).unwrap().beginning, "123456789");
        assert_eq!(error.to_string(), "a line of more than 8 bytes");
    }
}
