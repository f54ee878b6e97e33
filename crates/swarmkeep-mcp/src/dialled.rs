//! A connection to the daemon, as whoever carries a client's lines has it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    time::{Interval, interval},
};

/// How often it is looked whether another daemon has taken the place of the one that is connected.
const LOOK: Duration = Duration::from_secs(5);

/// A connection to the daemon. It ends, too, when another one answers in that one's place: a daemon that was taken over from may
/// be stopped for good, and says nothing.
#[derive(Debug)]
pub struct ToDaemon {
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
    /// Connects to the daemon that answers at `socket`, as `connecting` does it.
    ///
    /// # Errors
    /// Those of `connecting`.
    pub async fn connect(
        socket: PathBuf,
        connecting: impl Future<Output = io::Result<UnixStream>>,
    ) -> io::Result<Self> {
        let made = made(&socket);
        Ok(Self { stream: connecting.await?, socket, made, look: interval(LOOK) })
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
