//! The two ends of a relay: standard input and output, read and written as they are, and the daemon.
//!
//! The first two block. Their way through a pool of threads, which is how they become asynchronous, costs several wake-ups a line; the
//! relay reads on a thread of its own, and has nothing else to do while its client does not take what it asked for.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    time::{Interval, interval},
};

use crate::client::connect_socket;

/// Read at once, at most.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often it is looked whether another daemon has taken the place of the one that is connected.
const LOOK: Duration = Duration::from_secs(5);

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

/// A connection to the daemon. It ends, too, when another one answers in that one's place: a daemon that was taken over from may
/// be stopped for good, and says nothing.
pub(super) struct ToDaemon {
    stream: UnixStream,
    socket: PathBuf,
    made: Option<Made>,
    look: Interval,
}

/// Tells a socket from the next one of its name: which file, and when it was made.
type Made = (u64, i64, i64);

fn made(socket: &Path) -> Option<Made> {
    let file = fs::symlink_metadata(socket).ok()?;
    Some((file.ino(), file.ctime(), file.ctime_nsec()))
}

impl ToDaemon {
    pub(super) async fn connect(socket: PathBuf) -> io::Result<Self> {
        let made = made(&socket);
        Ok(Self { stream: connect_socket(&socket).await?, socket, made, look: interval(LOOK) })
    }
}

impl AsyncRead for ToDaemon {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(done) = Pin::new(&mut self.stream).poll_read(context, into) {
            return Poll::Ready(done);
        }
        while self.look.poll_tick(context).is_ready() {
            if made(&self.socket).is_some_and(|now| Some(now) != self.made) {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }
}

impl AsyncWrite for ToDaemon {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
