//! A client's end of a relay: standard input and output, read and written as they are.
//!
//! Both block. Their way through a pool of threads, which is how they become asynchronous, costs several wake-ups a line.
//! Input is read when there is some: then it does not block, and nobody else's idea of the pipe is changed, as it would be if
//! it were told not to. Where nobody says when (a file), it is read on a thread of its own. Output is written as it is: the
//! relay has nothing else to do while its client does not take what it asked for.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// Read at once, at most.
const BUFFER_BYTES: usize = 64 * 1024;

/// Standard input.
pub(super) struct Input {
    /// Says when there is some.
    ready: Option<AsyncFd<io::Stdin>>,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        #[expect(
            deprecated,
            reason = "a descriptor that may become another one is what it warns of: standard input stays"
        )]
        let ready = AsyncFd::with_interest(io::stdin(), Interest::READABLE).ok();
        Self { ready, buffer: vec![0; BUFFER_BYTES], from: 0, to: 0 }
    }

    /// Whether whoever reads it may have to wait in the kernel.
    pub(super) fn blocks(&self) -> bool {
        self.ready.is_none()
    }
}

/// Whether a read would not wait: there is something, or the end.
fn is_there(input: &io::Stdin) -> io::Result<bool> {
    let mut input = [PollFd::new(input, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(whatever_signals_come(|| poll(&mut input, Some(&at_once)).map_err(io::Error::from))? > 0)
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

/// Does it when the client takes something, also where somebody told its pipe not to block.
fn waiting_for_room<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match whatever_signals_come(&mut act) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let output = io::stdout();
                let mut room = [PollFd::new(&output, PollFlags::OUT)];
                whatever_signals_come(|| poll(&mut room, None).map_err(io::Error::from))?;
            }
            done => return done,
        }
    }
}

impl AsyncBufRead for Input {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.from == this.to {
            while let Some(input) = &this.ready {
                let mut ready = ready!(input.poll_read_ready(context))?;
                if is_there(input.get_ref())? {
                    break;
                }
                ready.clear_ready();
            }
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
        Poll::Ready(waiting_for_room(|| io::stdout().write(from)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(waiting_for_room(|| io::stdout().flush()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
