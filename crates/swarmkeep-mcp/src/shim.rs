//! What a client starts: its standard input and output, carried to the daemon and back. It decides nothing.
//!
//! It keeps every line of its client until the daemon says that it is settled. When the daemon is gone it calls for another
//! one, says again who it is, and offers those lines again; what may be done about them the daemon knows from the session's
//! log. So a client outlives the daemon, and its server's client-side process never dies under it. Where no daemon can be had,
//! requests are answered here after a while, and it is called for on: what no daemon was offered was not carried out, of the
//! rest nobody knows.

use std::{collections::BTreeMap, convert::Infallible, future::Future, io, pin::pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    runtime::Handle,
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    calls::settle,
    class,
    envelope::{Envelope, Frame, Kind, Malformed, compose},
    transport::lines::Lines,
    upstream::ToClient,
    wire::{self, Ask, FRAME_BYTES, Hello, LINE_BYTES, Said, VERSION, Wants},
};

/// Lines read ahead.
const QUEUE: usize = 64;
/// Bytes that a client may have unsettled: then it is not read until something is.
const UNSETTLED_BYTES: usize = 256 << 20;
/// What is written in one piece, if so much is there.
const PIECE_BYTES: usize = 64 * 1024;
/// Before a daemon is called for again: twice as long each time, up to a second.
const REDIAL: Duration = Duration::from_millis(50);
const REDIAL_MOST: Duration = Duration::from_secs(1);
/// After this long without a daemon the client's requests are answered here. Clients wait for half a minute, and longer.
const PATIENCE: Duration = Duration::from_secs(25);

/// Why a shim ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The daemon refused it, and said why.
    #[error("{0}")]
    Refused(String),
    /// No daemon came.
    #[error("no daemon answers: {0}")]
    NoDaemon(io::Error),
    /// The client's streams failed.
    #[error("the client cannot be talked to: {0}")]
    Client(io::Error),
}

/// What a shim knows of its client from before: of another life of it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Lines of which nothing is known, by number.
    pub(crate) unsettled: BTreeMap<u64, Bytes>,
    /// The client's `initialize`, and its number.
    pub(crate) initialize: Option<(u64, Bytes)>,
}

struct Shim {
    ask: Ask,
    output: mpsc::Sender<ToClient>,
    known: Known,
    /// When unsettled lines came, where lines may wait in a queue.
    since: BTreeMap<u64, Instant>,
    unsettled_bytes: usize,
    has_said_all: bool,
    /// Lines up to this one were offered to a daemon.
    offered: u64,
}

/// Carries a client's lines to the daemon that `dial` reaches, and back, until the client has said all and has its answers. An
/// input that blocks whoever reads it is said to.
///
/// # Errors
/// [`Ended`].
pub async fn run<I, O, S, D, F>(ask: Ask, (input, blocks): (I, bool), output: O, dial: D) -> Result<(), Ended>
where
    I: AsyncBufRead + Unpin + Send + 'static,
    O: AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
    D: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
{
    let (to_shim, from_client) = mpsc::channel(QUEUE);
    let reading = async move {
        let mut lines = Lines::new(input, LINE_BYTES);
        let mut number = 0;
        loop {
            match lines.next().await {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => {
                    number += 1;
                    if to_shim.send(Ok((number, line))).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    // Whoever listened may be gone.
                    let _ = to_shim.send(Err(error)).await;
                    return;
                }
            }
        }
    };
    let (to_client, given) = mpsc::channel(QUEUE);
    let carrying = carry(ask, Known::default(), from_client, to_client, dial);
    let talking = async {
        let (carried, written) = tokio::join!(carrying, write(given, output));
        carried.and(written)
    };
    if blocks {
        let runtime = Handle::current();
        let reader = std::thread::Builder::new().name("client".to_owned());
        reader.spawn(move || runtime.block_on(reading)).map_err(Ended::Client)?;
        return talking.await;
    }
    // It is over when the talk is, whatever there still is to read.
    tokio::select! {
        biased;
        done = talking => done,
        never = async { reading.await; std::future::pending::<Infallible>().await } => match never {},
    }
}

/// Writes what a client is given; until there is no more.
async fn write(mut given: mpsc::Receiver<ToClient>, mut output: impl AsyncWrite + Unpin) -> Result<(), Ended> {
    let mut text = Vec::new();
    while let Some(first) = given.recv().await {
        let mut next = Some(first);
        while let Some(line) = next.take() {
            if let ToClient::Line { line, .. } = line {
                // A large one is not copied.
                if line.len() < PIECE_BYTES {
                    text.extend_from_slice(&line);
                } else {
                    output.write_all(&text).await.map_err(Ended::Client)?;
                    text.clear();
                    output.write_all(&line).await.map_err(Ended::Client)?;
                }
                text.push(b'\n');
            }
            if text.len() < PIECE_BYTES {
                next = given.try_recv().ok();
            }
        }
        output.write_all(&text).await.map_err(Ended::Client)?;
        output.flush().await.map_err(Ended::Client)?;
        text.clear();
    }
    Ok(())
}

/// [`run`] for a client whose lines have their numbers already, each a higher one; what it is given goes to `output`. Dropping
/// the sender of `from_client` says that the client has said all, dropping the receiver of `output` ends it.
///
/// # Errors
/// [`Ended`].
pub(crate) async fn carry<S, D, F>(
    ask: Ask,
    known: Known,
    mut from_client: mpsc::Receiver<io::Result<(u64, Bytes)>>,
    output: mpsc::Sender<ToClient>,
    mut dial: D,
) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite,
    D: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
{
    let unsettled_bytes = known.unsettled.values().map(Bytes::len).sum();
    let now = Instant::now();
    let since = match ask.queue.tools.is_empty() {
        true => BTreeMap::new(),
        false => known.unsettled.keys().map(|number| (*number, now)).collect(),
    };
    let offered = known.unsettled.keys().next_back().copied().unwrap_or_default();
    let mut shim = Shim { ask, output, known, since, unsettled_bytes, has_said_all: false, offered };
    let mut alone = Alone::new();
    loop {
        let newest = shim.known.unsettled.keys().next_back().copied().unwrap_or_default();
        match shim.beside(&mut from_client, &mut alone, dial()).await? {
            Ok(stream) => match shim.relay(stream, &mut from_client).await? {
                Parted::Over => return Ok(()),
                Parted::Gone { has_served: true } => alone = Alone::new(),
                Parted::Gone { has_served: false } => {
                    let error = io::Error::other("it closes the connection without a word");
                    shim.is_refused_for_now(&mut alone, newest, error).await?;
                }
                Parted::Later(why) => shim.is_refused_for_now(&mut alone, newest, io::Error::other(why)).await?,
            },
            Err(error) => shim.is_refused_for_now(&mut alone, newest, error).await?,
        }
        let pause = sleep(alone.redial);
        shim.beside(&mut from_client, &mut alone, pause).await?;
    }
}

/// How a connection to a daemon ended.
enum Parted {
    /// All is said and done.
    Over,
    /// The daemon ended, or closed it. One that does so at once, without a word, may go on doing so.
    Gone { has_served: bool },
    /// The daemon took nothing, and said why.
    Later(String),
}

/// A shim without a daemon.
struct Alone {
    why: String,
    /// When whoever waits is answered, whatever there is to wait for.
    answers_at: Instant,
    /// That was once: nobody waits for so long again.
    is_long: bool,
    redial: Duration,
}

impl Alone {
    fn new() -> Self {
        let answers_at = Instant::now() + PATIENCE;
        Self { why: "it takes its time".to_owned(), answers_at, is_long: false, redial: REDIAL }
    }
}

impl Shim {
    /// Hears the client while something else is done, and answers what has waited for too long.
    async fn beside<T>(
        &mut self,
        from_client: &mut mpsc::Receiver<io::Result<(u64, Bytes)>>,
        alone: &mut Alone,
        doing: impl Future<Output = T>,
    ) -> Result<T, Ended> {
        let mut doing = pin!(doing);
        loop {
            let may_read = !self.has_said_all && self.unsettled_bytes < UNSETTLED_BYTES;
            tokio::select! {
                biased;
                done = &mut doing => return Ok(done),
                line = from_client.recv(), if may_read => match line {
                    // It is offered with all the others.
                    Some(Ok((number, line))) => self.take(number, line, &mut BytesMut::new()),
                    Some(Err(error)) => return Err(Ended::Client(error)),
                    None => self.has_said_all = true,
                },
                () = sleep_until(alone.answers_at) => {
                    self.answer_alone(&alone.why, u64::MAX).await?;
                    if self.has_said_all && !self.is_owed() {
                        return Err(Ended::NoDaemon(io::Error::new(io::ErrorKind::TimedOut, alone.why.clone())));
                    }
                    (alone.answers_at, alone.is_long) = (Instant::now() + PATIENCE, true);
                }
            }
        }
    }

    /// A try came to nothing. Whoever came before it (`newest`) is answered, if it has been so for long.
    async fn is_refused_for_now(&mut self, alone: &mut Alone, newest: u64, error: io::Error) -> Result<(), Ended> {
        alone.why = error.to_string();
        alone.redial = REDIAL_MOST.min(alone.redial * 2);
        if alone.is_long {
            self.answer_alone(&alone.why, newest).await?;
        }
        match self.has_said_all && !self.is_owed() {
            true => Err(Ended::NoDaemon(error)),
            false => Ok(()),
        }
    }

    /// Answers what waits, up to this line. Not what may wait for longer: calls for a queue, and subscriptions.
    async fn answer_alone(&mut self, why: &str, through: u64) -> Result<(), Ended> {
        let queue_time = Duration::from_millis(self.ask.queue.for_ms);
        let may_wait = |number: &u64, message: &Envelope| {
            let is_queued = message.name().is_some_and(|name| self.ask.queue.takes(name));
            let has_time = self.since.get(number).is_some_and(|since| since.elapsed() < queue_time);
            !self.has_said_all && (message.is_subscription() || (is_queued && has_time))
        };
        let mut told = Vec::new();
        // What is no request may be about one that is kept.
        let mut keeps_some = false;
        for (number, line) in self.known.unsettled.range(..=through) {
            let parts = match Frame::parse(line.clone()) {
                Ok(Frame::One(message)) => vec![Ok(*message)],
                Ok(Frame::Batch(parts)) => parts,
                Err(malformed) => vec![Err(malformed)],
            };
            let has_request = parts.iter().any(|part| part.as_ref().is_ok_and(|part| part.kind() == Kind::Request));
            let is_kept = parts.iter().flatten().any(|message| may_wait(number, message));
            keeps_some |= is_kept;
            if is_kept || (keeps_some && !has_request && parts.iter().all(Result::is_ok)) {
                continue;
            }
            let answer = |part: &Result<Envelope, Malformed>| match part {
                Ok(message) if message.kind() == Kind::Request => Some(self.unanswered(*number, message, why)),
                Ok(_) => None,
                Err(malformed) => Some(compose::error("null", malformed.code(), &malformed.to_string(), None)),
            };
            told.push((*number, parts.iter().filter_map(answer).map(Envelope::line).collect::<Vec<Bytes>>()));
        }
        for (number, lines) in told {
            self.settle(number);
            self.known.initialize.take_if(|(of, _)| *of == number);
            if lines.is_empty() {
                self.give(ToClient::Taken(number)).await?;
            }
            let last = lines.len().saturating_sub(1);
            for (nth, line) in lines.into_iter().enumerate() {
                // The last of a batch settles it.
                self.give(ToClient::Line { answers: (nth == last).then_some(number), line }).await?;
            }
        }
        Ok(())
    }

    fn unanswered(&self, number: u64, message: &Envelope, why: &str) -> Bytes {
        let upstream = self.ask.upstream.clone().unwrap_or_else(|| self.ask.recipe.name());
        let why = format!("swarmkeep's daemon cannot be reached ({why}); `swarmkeep doctor` looks at it");
        match number <= self.offered {
            true => settle::unknown(&upstream, message, class::of(message, &self.ask.trust, None).class, None, &why),
            false => settle::not_sent(&upstream, message, &why, 0),
        }
    }

    async fn give(&self, given: ToClient) -> Result<(), Ended> {
        self.output.send(given).await.map_err(|_| Ended::Client(io::ErrorKind::BrokenPipe.into()))
    }

    /// Over one connection.
    async fn relay<S: AsyncRead + AsyncWrite>(
        &mut self,
        stream: S,
        from_client: &mut mpsc::Receiver<io::Result<(u64, Bytes)>>,
    ) -> Result<Parted, Ended> {
        let (from_daemon, mut to_daemon) = tokio::io::split(stream);
        let Ok(mut text) = self.hello() else {
            return Err(Ended::Refused("its own words cannot be written".to_owned()));
        };
        let offered = self.offered;
        self.offered = self.known.unsettled.keys().next_back().copied().unwrap_or_default().max(offered);
        let (to_shim, mut frames) = mpsc::channel(QUEUE);
        let reading = async move {
            let mut lines = Lines::of_frames(BufReader::with_capacity(64 * 1024, from_daemon), FRAME_BYTES);
            while let Ok(Some(frame)) = lines.next().await {
                if to_shim.send(frame).await.is_err() {
                    return;
                }
            }
        };
        let mut reading = pin!(reading);
        let (mut is_read, mut has_said_hello, mut has_served) = (false, false, false);
        let began = Instant::now();
        loop {
            let may_read = !self.has_said_all && self.unsettled_bytes < UNSETTLED_BYTES && text.len() < PIECE_BYTES;
            // What comes is taken while what goes is stuck: each end may wait for the other to read.
            tokio::select! {
                wrote = to_daemon.write(&text), if !text.is_empty() => match wrote {
                    Ok(bytes @ 1..) => {
                        text.advance(bytes);
                        if text.is_empty() && !std::mem::replace(&mut has_said_hello, true) {
                            // With all that was unsettled it may have been large.
                            text = BytesMut::new();
                        }
                    }
                    // A daemon that is gone is noticed by its side of the stream, once what it wrote is read.
                    _ => text.clear(),
                },
                line = from_client.recv(), if may_read => {
                    let mut next = Some(line);
                    while let Some(line) = next.take() {
                        match line {
                            Some(Ok((number, line))) => {
                                self.offered = number;
                                self.take(number, line, &mut text);
                            }
                            Some(Err(error)) => return Err(Ended::Client(error)),
                            None => {
                                self.has_said_all = true;
                                text.extend_from_slice(b"end\n");
                            }
                        }
                        if text.len() < PIECE_BYTES && !self.has_said_all && self.unsettled_bytes < UNSETTLED_BYTES {
                            next = from_client.try_recv().ok().map(Some);
                        }
                    }
                }
                () = &mut reading, if !is_read => is_read = true,
                frame = frames.recv() => match frame {
                    Some(frame) => {
                        has_served = true;
                        if let Some(why) = self.frame(frame).await? {
                            self.offered = offered;
                            return Ok(Parted::Later(why));
                        }
                    }
                    // The daemon closes when a client that has said all has its answers; else it is gone.
                    None if self.has_said_all && !self.is_owed() => return Ok(Parted::Over),
                    None => return Ok(Parted::Gone { has_served: has_served || began.elapsed() > REDIAL_MOST }),
                },
            }
        }
    }

    fn hello(&self) -> serde_json::Result<BytesMut> {
        let answered = self.known.initialize.as_ref();
        let answered = answered.filter(|(number, _)| !self.known.unsettled.contains_key(number));
        let initialize = answered.map(|(_, line)| String::from_utf8_lossy(line).into_owned());
        let waited = |since: &Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let waited_ms = self.since.iter().map(|(number, since)| (*number, waited(since))).collect();
        let offered = self.known.unsettled.keys().next_back().copied().unwrap_or_default();
        let ask = Ask { initialize, waited_ms, offered: Some(offered), ..self.ask.clone() };
        let hello = serde_json::to_vec(&Hello { version: VERSION, wants: Wants::Proxy(Box::new(ask)) })?;
        let mut text = BytesMut::from(&hello[..]);
        text.extend_from_slice(b"\n");
        for (number, line) in &self.known.unsettled {
            wire::numbered(*number, line, &mut text);
        }
        if self.has_said_all {
            text.extend_from_slice(b"end\n");
        }
        Ok(text)
    }

    fn take(&mut self, number: u64, line: Bytes, text: &mut BytesMut) {
        if self.known.initialize.is_none()
            && Envelope::parse(line.clone()).is_ok_and(|message| message.method() == Some("initialize"))
        {
            self.known.initialize = Some((number, line.clone()));
        }
        wire::numbered(number, &line, text);
        self.unsettled_bytes += line.len();
        self.known.unsettled.insert(number, line);
        if !self.ask.queue.tools.is_empty() {
            self.since.insert(number, Instant::now());
        }
    }

    /// Whether an answer is due. A subscription is over when its client is, and never answered before.
    fn is_owed(&self) -> bool {
        let is_subscription = |line: &Bytes| Envelope::parse(line.clone()).is_ok_and(|line| line.is_subscription());
        !self.known.unsettled.values().all(is_subscription)
    }

    fn settle(&mut self, number: u64) -> bool {
        let line = self.known.unsettled.remove(&number);
        self.since.remove(&number);
        self.unsettled_bytes -= line.as_ref().map_or(0, Bytes::len);
        line.is_some()
    }

    /// Gives why the daemon takes nothing for now, if it says so.
    async fn frame(&mut self, frame: Bytes) -> Result<Option<String>, Ended> {
        let given = match wire::said(frame) {
            // An answer to what is settled would be a second one.
            Some(Said::Line { answers: Some(number), .. }) if !self.settle(number) => return Ok(None),
            Some(Said::Line { answers, line }) => ToClient::Line { answers, line },
            Some(Said::Taken(number)) => {
                self.settle(number);
                ToClient::Taken(number)
            }
            Some(Said::Refused(why)) => return Err(Ended::Refused(why)),
            Some(Said::Later(why)) => return Ok(Some(why)),
            None => return Ok(None),
        };
        self.give(given).await.map(|()| None)
    }
}
