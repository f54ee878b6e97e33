//! What a client starts: its standard input and output, carried to the daemon and back. It decides nothing.
//!
//! It keeps every line of its client until the daemon says that it is settled. When the daemon is gone it calls for another
//! one, says again who it is, and offers those lines again; what may be done about them the daemon knows from the session's
//! log. So a client outlives the daemon, and its server's client-side process never dies under it.

use std::{collections::BTreeMap, convert::Infallible, future::Future, io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    runtime::Handle,
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    envelope::Envelope,
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
/// Before a daemon is called for again.
const REDIAL: Duration = Duration::from_millis(50);
/// After this long without a daemon the client is told.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let mut shim = Shim { ask, output, known, since, unsettled_bytes, has_said_all: false };
    let mut alone_since: Option<Instant> = None;
    loop {
        match dial().await {
            Ok(stream) => {
                alone_since = None;
                if shim.relay(stream, &mut from_client).await? {
                    return Ok(());
                }
            }
            Err(error) => {
                let since = *alone_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(Ended::NoDaemon(error));
                }
            }
        }
        sleep(REDIAL).await;
    }
}

impl Shim {
    /// Over one connection. `true`: all is said and done.
    async fn relay<S: AsyncRead + AsyncWrite>(
        &mut self,
        stream: S,
        from_client: &mut mpsc::Receiver<io::Result<(u64, Bytes)>>,
    ) -> Result<bool, Ended> {
        let (from_daemon, mut to_daemon) = tokio::io::split(stream);
        let Ok(mut text) = self.hello() else {
            return Err(Ended::Refused("its own words cannot be written".to_owned()));
        };
        let (to_shim, mut frames) = mpsc::channel(QUEUE);
        let reading = async move {
            let mut lines = Lines::new(BufReader::with_capacity(64 * 1024, from_daemon), FRAME_BYTES);
            while let Ok(Some(frame)) = lines.next().await {
                if to_shim.send(frame).await.is_err() {
                    return;
                }
            }
        };
        let mut reading = std::pin::pin!(reading);
        let (mut is_read, mut has_said_hello) = (false, false);
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
                            Some(Ok((number, line))) => self.take(number, line, &mut text),
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
                    Some(frame) => self.frame(frame).await?,
                    // The daemon closes when a client that has said all has its answers; else it is gone.
                    None => return Ok(self.has_said_all && !self.is_owed()),
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

    async fn frame(&mut self, frame: Bytes) -> Result<(), Ended> {
        let given = match wire::said(frame) {
            // An answer to what is settled would be a second one.
            Some(Said::Line { answers: Some(number), .. }) if !self.settle(number) => return Ok(()),
            Some(Said::Line { answers, line }) => ToClient::Line { answers, line },
            Some(Said::Taken(number)) => {
                self.settle(number);
                ToClient::Taken(number)
            }
            Some(Said::Refused(why)) => return Err(Ended::Refused(why)),
            None => return Ok(()),
        };
        let gone = |_| Ended::Client(io::ErrorKind::BrokenPipe.into());
        self.output.send(given).await.map_err(gone)
    }
}
