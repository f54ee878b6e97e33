//! What a client starts: its standard input and output, carried to the daemon and back. It decides nothing.
//!
//! It keeps every line of its client until the daemon says that it is settled. When the daemon is gone it calls for another
//! one, says again who it is, and offers those lines again; what may be done about them the daemon knows from the session's
//! log. So a client outlives the daemon, and its server's client-side process never dies under it.

use std::{collections::BTreeMap, future::Future, io, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    runtime::Handle,
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    envelope::Envelope,
    transport::lines::Lines,
    wire::{self, Ask, FRAME_BYTES, Hello, LINE_BYTES, Said, VERSION, Wants},
};

/// Lines read ahead.
const QUEUE: usize = 64;
/// Bytes that a client may have unsettled: then it is not read until something is.
const UNSETTLED_BYTES: usize = 256 << 20;
/// Small lines that are there together go out in one piece, up to about this much; a larger one goes out as it is.
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

struct Shim<O> {
    ask: Ask,
    output: O,
    /// Lines of which nothing is known, by number.
    unsettled: BTreeMap<u64, Bytes>,
    unsettled_bytes: usize,
    /// The client's `initialize`, and its number.
    initialize: Option<(u64, Bytes)>,
    numbers: u64,
    has_said_all: bool,
}

/// Carries a client's lines to the daemon that `dial` reaches, and back, until the client has said all and has its answers.
///
/// # Errors
/// [`Ended`].
pub async fn run<I, O, S, D, F>(ask: Ask, input: I, output: O, mut dial: D) -> Result<(), Ended>
where
    I: AsyncBufRead + Unpin + Send + 'static,
    O: AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
    D: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
{
    let (to_shim, mut from_client) = mpsc::channel(QUEUE);
    let reading = async move {
        let mut lines = Lines::new(input, LINE_BYTES);
        loop {
            match lines.next().await {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => {
                    if to_shim.send(Ok(line)).await.is_err() {
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
    // On a thread of its own: the input may block whoever reads it, and one wake-up a line is enough.
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("client".to_owned())
        .spawn(move || runtime.block_on(reading))
        .map_err(Ended::Client)?;
    let mut shim = Shim {
        ask,
        output,
        unsettled: BTreeMap::new(),
        unsettled_bytes: 0,
        initialize: None,
        numbers: 0,
        has_said_all: false,
    };
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

impl<O: AsyncWrite + Unpin> Shim<O> {
    /// Over one connection. `true`: all is said and done.
    async fn relay<S: AsyncRead + AsyncWrite>(
        &mut self,
        stream: S,
        from_client: &mut mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<bool, Ended> {
        let (from_daemon, mut to_daemon) = tokio::io::split(stream);
        let Ok(hello) = self.hello() else { return Err(Ended::Refused("its own words cannot be written".to_owned())) };
        if to_daemon.write_all(&hello).await.is_err() {
            return Ok(false);
        }
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
        let mut is_read = false;
        loop {
            let may_read = !self.has_said_all && self.unsettled_bytes < UNSETTLED_BYTES;
            tokio::select! {
                () = &mut reading, if !is_read => is_read = true,
                frame = frames.recv() => match frame {
                    Some(frame) => {
                        let mut text = Vec::new();
                        self.frame(&frame, &mut text).await?;
                        while text.len() < PIECE_BYTES
                            && let Ok(frame) = frames.try_recv()
                        {
                            self.frame(&frame, &mut text).await?;
                        }
                        self.write(&text).await?;
                        self.output.flush().await.map_err(Ended::Client)?;
                    }
                    // The daemon closes when a client that has said all has its answers; else it is gone.
                    None => return Ok(self.has_said_all && self.unsettled.is_empty()),
                },
                line = from_client.recv(), if may_read => {
                    let mut text = Vec::new();
                    let mut next = Some(line);
                    while let Some(line) = next.take() {
                        match line {
                            Some(Ok(line)) => self.take(line, &mut text),
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
                    // A daemon that is gone is noticed by its side of the stream, once what it wrote is read.
                    let _ = to_daemon.write_all(&text).await;
                }
            }
        }
    }

    fn hello(&self) -> serde_json::Result<Vec<u8>> {
        let answered = self.initialize.as_ref().filter(|(number, _)| !self.unsettled.contains_key(number));
        let initialize = answered.map(|(_, line)| String::from_utf8_lossy(line).into_owned());
        let ask = Ask { initialize, ..self.ask.clone() };
        let mut text = serde_json::to_vec(&Hello { version: VERSION, wants: Wants::Proxy(Box::new(ask)) })?;
        text.push(b'\n');
        for (number, line) in &self.unsettled {
            wire::numbered(*number, line, &mut text);
        }
        if self.has_said_all {
            text.extend_from_slice(b"end\n");
        }
        Ok(text)
    }

    fn take(&mut self, line: Bytes, text: &mut Vec<u8>) {
        self.numbers += 1;
        let number = self.numbers;
        if self.initialize.is_none()
            && Envelope::parse(line.clone()).is_ok_and(|message| message.method() == Some("initialize"))
        {
            self.initialize = Some((number, line.clone()));
        }
        wire::numbered(number, &line, text);
        self.unsettled_bytes += line.len();
        self.unsettled.insert(number, line);
    }

    fn settle(&mut self, number: u64) -> bool {
        let line = self.unsettled.remove(&number);
        self.unsettled_bytes -= line.as_ref().map_or(0, Bytes::len);
        line.is_some()
    }

    /// What is for the client is added to `text`, or, where it is large, written after it.
    async fn frame(&mut self, frame: &Bytes, text: &mut Vec<u8>) -> Result<(), Ended> {
        match wire::said(frame) {
            Some(Said::Line { answers, line }) => {
                // An answer to what is settled would be a second one.
                if answers.is_some_and(|number| !self.settle(number)) {
                    return Ok(());
                }
                if line.len() < PIECE_BYTES {
                    text.extend_from_slice(&line);
                } else {
                    self.write(text).await?;
                    text.clear();
                    self.write(&line).await?;
                }
                text.push(b'\n');
                Ok(())
            }
            Some(Said::Taken(number)) => {
                self.settle(number);
                Ok(())
            }
            Some(Said::Refused(why)) => {
                self.write(text).await?;
                self.output.flush().await.map_err(Ended::Client)?;
                Err(Ended::Refused(why))
            }
            None => Ok(()),
        }
    }

    async fn write(&mut self, text: &[u8]) -> Result<(), Ended> {
        self.output.write_all(text).await.map_err(Ended::Client)
    }
}
