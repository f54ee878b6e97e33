//! One client's conversation, and the line to the daemon that carries it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use swarmkeep::{SystemClock, core::clock::Clock};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::book::{Book, Event, GENERAL, Said, Taken};
use crate::{
    dialled::ToDaemon,
    envelope::{Frame, Malformed},
    shim::{self, Ended},
    wire::Ask,
};

/// Asks for a connection to the daemon.
pub type Dials = mpsc::Sender<oneshot::Sender<io::Result<ToDaemon>>>;

/// Lines between the front and the shim.
const QUEUE: usize = 64;
/// That a conversation is used is written down so often at most.
const TOUCH: Duration = Duration::from_secs(60);

type Line = io::Result<(u64, Bytes)>;

/// See the module.
pub(super) struct Talk {
    book: Mutex<Book>,
    /// Grows whenever something has come.
    changed: watch::Sender<u64>,
    /// `None`: the client has said all.
    say: Mutex<Option<mpsc::Sender<Line>>>,
    /// Somebody took something.
    room: Notify,
    /// When it was last used, and when that was last written down.
    used: Mutex<(Instant, Instant)>,
    /// Why nothing comes any more.
    ended: watch::Sender<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Talk {
    /// Carries a conversation on, or begins it.
    pub(super) fn start(ask: Ask, book: Book, dials: Dials) -> Arc<Self> {
        let (say, from_client) = mpsc::channel::<Line>(QUEUE);
        let (to_client, mut given) = mpsc::channel(QUEUE);
        let known = book.known();
        let now = Instant::now();
        let talk = Arc::new(Self {
            book: Mutex::new(book),
            changed: watch::Sender::new(0),
            room: Notify::new(),
            say: Mutex::new(Some(say)),
            used: Mutex::new((now, now)),
            ended: watch::Sender::new(None),
        });
        let carrying = tokio::spawn(async move {
            let dial = || {
                let dials = dials.clone();
                async move {
                    let (dial, dialled) = oneshot::channel();
                    let closing = |_| io::Error::new(io::ErrorKind::NotConnected, "it is closing");
                    dials.send(dial).await.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
                    dialled.await.map_err(closing)?
                }
            };
            shim::carry(ask, known, from_client, to_client, dial).await
        });
        let giving = talk.clone();
        tokio::spawn(async move {
            while let Some(line) = given.recv().await {
                giving.wait_for_room().await;
                locked(&giving.book).given(line);
                giving.changed.send_modify(|count| *count += 1);
            }
            let why = match carrying.await {
                Ok(Ok(())) => "the conversation is over".to_owned(),
                Ok(Err(Ended::Refused(why))) => why,
                Ok(Err(ended)) => ended.to_string(),
                Err(error) => format!("the line to the daemon failed: {error}"),
            };
            locked(&giving.book).fail(&why);
            giving.ended.send_replace(Some(why));
            giving.changed.send_modify(|count| *count += 1);
        });
        talk
    }

    async fn wait_for_room(&self) {
        while !locked(&self.book).has_room() {
            // Room is also made by a reader who leaves.
            let _ = timeout(Duration::from_secs(1), self.room.notified()).await;
        }
    }

    /// The conversation's state.
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    /// Why nothing comes any more; `None`: it goes on.
    pub(super) fn ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Passes words of the client on; the stream on which they are answered, read already.
    ///
    /// # Errors
    /// Of a batch: a part that is no message.
    pub(super) async fn say(self: &Arc<Self>, frame: &Frame) -> Result<Option<Reading>, Malformed> {
        self.touch();
        let sender = locked(&self.say).clone();
        let permit = match &sender {
            // Room first: what has a number goes at once, so that numbers go in their order.
            Some(sender) => sender.reserve().await.ok(),
            None => None,
        };
        let (said, reading) = {
            let mut book = self.book();
            let Some(said) = book.say(frame)? else { return Ok(None) };
            let reading = said.stream.and_then(|stream| Some((stream, book.read(stream)?)));
            if let Some(permit) = permit {
                permit.send(Ok((said.number, said.line.clone())));
            } else {
                let why = self.ended().unwrap_or_else(|| "the conversation is over".to_owned());
                book.fail(&why);
            }
            (said, reading)
        };
        tracing::trace!(number = said.number, "a client's line goes on");
        Ok(reading.map(|(stream, reader)| Reading {
            talk: self.clone(),
            stream,
            reader,
            after: 0,
            is_cancelled_by_leaving: false,
        }))
    }

    /// Reads a stream that was begun, after an event, or after what was given on it.
    pub(super) fn read(self: &Arc<Self>, stream: u64, after: Option<u64>) -> Option<Reading> {
        self.touch();
        let (reader, after) = {
            let mut book = self.book();
            let after = after.or_else(|| book.taken(stream))?;
            (book.read(stream)?, after)
        };
        // Whoever read it before is to notice.
        self.changed.send_modify(|count| *count += 1);
        Some(Reading { talk: self.clone(), stream, reader, after, is_cancelled_by_leaving: false })
    }

    /// The client has said all.
    pub(super) fn end(&self) {
        drop(locked(&self.say).take());
    }

    fn touch(&self) {
        let now = Instant::now();
        let mut used = locked(&self.used);
        used.0 = now;
        if now.duration_since(used.1) > TOUCH {
            used.1 = now;
            if let Err(error) = self.book().touch(SystemClock::new().now_ms()) {
                tracing::debug!(%error, "that a conversation is used could not be written down");
            }
        }
    }

    /// Not used for so long.
    pub(super) fn idle(&self) -> Duration {
        locked(&self.used).0.elapsed()
    }

    fn cancel(&self, stream: u64) {
        let said: Vec<Said> = self.book().cancel(stream);
        let Some(sender) = locked(&self.say).clone() else { return };
        tokio::spawn(async move {
            for said in said {
                // One that is gone has nothing left to cancel.
                let _ = sender.send(Ok((said.number, said.line))).await;
            }
        });
    }
}

/// Somebody who reads a stream.
pub(super) struct Reading {
    talk: Arc<Talk>,
    stream: u64,
    reader: u64,
    after: u64,
    is_cancelled_by_leaving: bool,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let is_open = {
            let mut book = self.talk.book();
            book.leave(self.stream, self.reader)
        };
        if is_open && self.is_cancelled_by_leaving {
            self.talk.cancel(self.stream);
        }
        self.talk.touch();
    }
}

impl Reading {
    /// Whoever leaves before the end cancels what was asked: so it is in the stateless revisions.
    pub(super) fn cancelled_by_leaving(mut self) -> Self {
        self.is_cancelled_by_leaving = true;
        self
    }

    pub(super) fn stream(&self) -> u64 {
        self.stream
    }

    /// The stream's name, which the client hears now.
    pub(super) fn name(&self) -> u64 {
        self.talk.book().name(self.stream);
        self.stream
    }

    /// What comes next; `None`: nothing more, or somebody else reads on.
    pub(super) async fn next(&mut self) -> Option<(Vec<Event>, bool)> {
        let mut changed = self.talk.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let Taken { events, is_over } = self.talk.book().take(self.stream, self.reader, self.after)?;
            if let Some(last) = events.last() {
                self.after = last.seq;
                self.talk.room.notify_one();
                return Some((events, is_over));
            }
            if is_over || (self.stream == GENERAL && self.talk.ended().is_some()) {
                return None;
            }
            // It is sent as long as the conversation lives, and that lives here.
            changed.changed().await.ok()?;
        }
    }
}
