//! A client's end of a relay: standard input and output, read and written as they are.
//!
//! Both block. Their way through a pool of threads, which is how they become asynchronous, costs several wake-ups a line; the
//! relay reads on a thread of its own, and has nothing else to do while its client does not take what it asked for.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// Read at once, at most.
const BUFFER_BYTES: usize = 64 * 1024;

/// Standard input.
pub(super) struct Input {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], from: 0, to: 0 }
    }
}

/// Does it again when a signal came in between.
fn whatever_signals_come<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl AsyncBufRead for Input {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.from == this.to {
            let read = whatever_signals_come(|| io::stdin().read(&mut this.buffer))?;
            (this.from, this.to) = (0, read);
        }
        Poll::Ready(Ok(this.buffer.get(this.from..this.to).unwrap_or_default()))
    }

    fn consume(mut self: Pin<&mut Self>, taken: usize) {
        self.from = self.to.min(self.from + taken);
    }
}

impl AsyncRead for Input {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = match self.as_mut().poll_fill_buf(context) {
            Poll::Ready(Ok(there)) => {
                let there = there.get(..into.remaining()).unwrap_or(there);
                into.put_slice(there);
                there.len()
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        self.consume(taken);
        Poll::Ready(Ok(()))
    }
}

/// Standard output.
pub(super) struct Output;

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(whatever_signals_come(|| io::stdout().write(from)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(whatever_signals_come(|| io::stdout().flush()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
