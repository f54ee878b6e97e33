//! `POST /v1/bulk`: one request a line in, one answer a line out, in the same order. Not atomic: each line stands for itself.
//!
//! Lines are in flight together, so that the store commits many at once; lines of one session are carried out in their
//! order. Answers are written while lines are still read. A client should read while it writes: after about
//! [`ANSWER_CHUNKS`] × 16 KiB of answers that nobody takes, no more lines are read.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderValue, header},
    response::Response,
};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt, stream::FuturesOrdered};
use serde::Deserialize;
use swarmkeep::{Actor, Durability, Reply, RequestId, Seq, Session, core::command::Command};
use tokio::sync::mpsc;

use crate::{
    api::{Api, Content, Op},
    app::App,
    problem::Problem,
    records::check_count,
    wire::{self, Answer, BODY_BYTES, Call, Envelope, one_line, write_number, write_reply},
};

/// Lines in flight at once.
const LINES_IN_FLIGHT: usize = 1_024;
/// Bytes of lines in flight at once, about.
const BYTES_IN_FLIGHT: usize = 8 * 1024 * 1024;
/// Chunks of answers waiting for the reader.
const ANSWER_CHUNKS: usize = 1_024;
/// Answers are sent on when so many bytes are together, or nothing else is to be done.
const CHUNK_BYTES: usize = 16 * 1024;
/// Sessions whose handles are kept at hand.
const SESSIONS: usize = 10_000;
/// A client that neither sends nor takes anything for this long is gone.
const STALL: Duration = Duration::from_secs(60);

pub(crate) fn routes(api: Api) -> Api {
    api.post(
        "/v1/bulk",
        bulk,
        Op::read(
            "bulk",
            "One request a line, answered line by line in order; not atomic",
            Content::Lines("BulkAnswer"),
        )
        .takes(Content::Lines("BulkLine")),
    )
}

/// A line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    session: std::borrow::Cow<'a, str>,
    commands: Vec<Command>,
    #[serde(default)]
    request_id: Option<RequestId>,
    #[serde(default)]
    actor: Option<Actor>,
    #[serde(default)]
    expected_seq: Option<Seq>,
    #[serde(default)]
    durability: Option<Durability>,
}

async fn bulk(mut call: Call) -> Answer {
    // Actor and durability may be given once for all lines; a request id may not.
    let envelope = Envelope::of(&call.parts.headers)?;
    if envelope.id.is_some() || envelope.expected_seq.is_some() {
        return Err(Problem::invalid(
            "a bulk request has many requests in it: give `request_id` and `expected_seq` in each line",
        ));
    }
    let (answers, queue) = mpsc::channel::<Bytes>(ANSWER_CHUNKS);
    let stream = Bulk {
        app: call.app.clone(),
        actor: envelope.actor,
        durability: envelope.durability,
        sessions: HashMap::new(),
        in_flight: FuturesOrdered::new(),
        bytes_in_flight: 0,
        line: 0,
        out: String::with_capacity(2 * CHUNK_BYTES),
        answers,
    };
    tokio::spawn(stream.run(call.stream().into_data_stream()));
    let body = futures_util::stream::unfold(queue, async |mut queue| {
        queue.recv().await.map(|chunk| (Ok::<_, Infallible>(chunk), queue))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// The answer to one line, on its way.
struct Pending {
    line: u64,
    bytes: usize,
    answer: Progress,
}

enum Progress {
    Done(Option<Result<Reply, Problem>>),
    Waiting(Pin<Box<dyn Future<Output = Result<Reply, Problem>> + Send>>),
}

impl Future for Pending {
    type Output = (u64, usize, Result<Reply, Problem>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (line, bytes) = (self.line, self.bytes);
        match &mut self.answer {
            Progress::Done(answer) => {
                let answer = answer.take().unwrap_or_else(|| Err(Problem::new("internal", "answered twice")));
                Poll::Ready((line, bytes, answer))
            }
            Progress::Waiting(future) => future.as_mut().poll(cx).map(|answer| (line, bytes, answer)),
        }
    }
}

/// The reader has gone: nobody is left to answer.
struct Gone;

/// A line that has begun and not ended.
#[derive(Default)]
struct Lines {
    rest: BytesMut,
    too_long: bool,
}

struct Bulk {
    app: App,
    actor: Option<Actor>,
    durability: Option<Durability>,
    sessions: HashMap<String, Session>,
    in_flight: FuturesOrdered<Pending>,
    bytes_in_flight: usize,
    line: u64,
    out: String,
    answers: mpsc::Sender<Bytes>,
}

impl Bulk {
    async fn run(mut self, body: BodyDataStream) {
        // An error means that the client is gone; what is in flight is carried out all the same, and nobody is told.
        if self.read(body).await.is_err() {
            while self.in_flight.next().await.is_some() {}
        }
    }

    async fn read(&mut self, mut body: BodyDataStream) -> Result<(), Gone> {
        let mut lines = Lines::default();
        loop {
            // What is done makes room for what is to be done; what is there is read before anything is waited for.
            while let Some(Some(done)) = self.in_flight.next().now_or_never() {
                self.write(done);
                self.flush_if_full().await?;
            }
            let room = self.has_room();
            let ready = if room { body.next().now_or_never() } else { None };
            let chunk = match ready {
                Some(chunk) => chunk,
                None => {
                    self.flush().await?;
                    tokio::select! {
                        Some(done) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                            self.write(done);
                            continue;
                        }
                        chunk = body.next(), if room => chunk,
                        () = tokio::time::sleep(STALL) => {
                            lines = Lines::default();
                            self.refuse(Problem::new("timeout", format!("no line came for {} s", STALL.as_secs()))).await?;
                            break;
                        }
                    }
                }
            };
            match chunk {
                None => break,
                Some(Ok(chunk)) => self.take_all(&mut lines, chunk).await?,
                Some(Err(error)) => {
                    lines = Lines::default();
                    self.refuse(Problem::invalid(format!("the body broke off: {error}"))).await?;
                    break;
                }
            }
        }
        // The last line may do without its end.
        if !lines.rest.is_empty() || lines.too_long {
            self.take_all(&mut lines, Bytes::from_static(b"\n")).await?;
        }
        while let Some(done) = self.in_flight.next().await {
            self.write(done);
            self.flush_if_full().await?;
        }
        self.flush().await
    }

    /// Takes the lines that end in this chunk, and keeps what is left of it.
    async fn take_all(&mut self, lines: &mut Lines, mut chunk: Bytes) -> Result<(), Gone> {
        while let Some(at) = chunk.iter().position(|byte| *byte == b'\n') {
            let head = chunk.split_to(at);
            chunk.advance(1);
            if lines.too_long || lines.rest.len() + head.len() > BODY_BYTES {
                *lines = Lines::default();
                let problem = Problem::limit(format!("the line is longer than {BODY_BYTES} bytes"));
                self.refuse(problem.hint("send large content as a blob")).await?;
            } else if lines.rest.is_empty() {
                self.take(&head).await?;
            } else {
                lines.rest.extend_from_slice(&head);
                let line = std::mem::take(&mut lines.rest);
                self.take(&line).await?;
            }
        }
        // A line that is too long is not kept, only waited to end.
        lines.too_long |= lines.rest.len() + chunk.len() > BODY_BYTES;
        if lines.too_long {
            lines.rest = BytesMut::new();
        } else {
            lines.rest.extend_from_slice(&chunk);
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < LINES_IN_FLIGHT && self.bytes_in_flight < BYTES_IN_FLIGHT
    }

    /// Begins a line; an empty one is skipped, but counted.
    async fn take(&mut self, line: &[u8]) -> Result<(), Gone> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().all(u8::is_ascii_whitespace) {
            self.line += 1;
            return Ok(());
        }
        let answer = match self.begin(line).await {
            Ok(future) => Progress::Waiting(future),
            Err(problem) => Progress::Done(Some(Err(problem))),
        };
        self.push(answer, line.len()).await
    }

    async fn push(&mut self, mut answer: Progress, bytes: usize) -> Result<(), Gone> {
        self.line += 1;
        // Polled once here and now: requests of one session reach it in the order of their lines.
        if let Progress::Waiting(future) = &mut answer
            && let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            answer = Progress::Done(Some(done));
        }
        self.bytes_in_flight += bytes;
        self.in_flight.push_back(Pending { line: self.line, bytes, answer });
        while !self.has_room() {
            let Some(done) = self.in_flight.next().await else { break };
            self.write(done);
            self.flush_if_full().await?;
        }
        Ok(())
    }

    async fn refuse(&mut self, problem: Problem) -> Result<(), Gone> {
        self.push(Progress::Done(Some(Err(problem))), 0).await
    }

    async fn begin(
        &mut self,
        line: &[u8],
    ) -> Result<Pin<Box<dyn Future<Output = Result<Reply, Problem>> + Send>>, Problem> {
        let line: Line<'_> = wire::decode_object(line)?;
        check_count(line.commands.len())?;
        let session = match self.sessions.get(&*line.session) {
            Some(session) => session.clone(),
            None => {
                let session = self.app.session(&line.session).await?;
                if self.sessions.len() >= SESSIONS {
                    self.sessions.clear();
                }
                self.sessions.insert(line.session.into_owned(), session.clone());
                session
            }
        };
        let envelope = Envelope {
            id: line.request_id,
            actor: line.actor.or_else(|| self.actor.clone()),
            expected_seq: line.expected_seq,
            durability: line.durability.or(self.durability),
            if_match: false,
        };
        let mut request = envelope.request(self.app.unnamed(), None, line.commands)?;
        // Waited for here, before the line is polled: a line that waited by itself could be overtaken by the next.
        let waiting = session.clone();
        let mut room = pin!(waiting.room());
        loop {
            tokio::select! {
                biased;
                room = &mut room => break room?,
                // As while a reader is waited for.
                Some(done) = self.in_flight.next(), if !self.in_flight.is_empty() => self.write(done),
            }
        }
        request.has_room = true;
        Ok(Box::pin(async move { session.submit(request).await.map_err(Problem::from) }))
    }

    fn write(&mut self, (line, bytes, answer): (u64, usize, Result<Reply, Problem>)) {
        self.bytes_in_flight -= bytes;
        self.out.push_str("{\"line\":");
        write_number(&mut self.out, line);
        match answer {
            Ok(reply) => {
                self.out.push(',');
                let mut text = String::with_capacity(256);
                write_reply(&mut text, &reply);
                one_line(&mut text);
                self.out.push_str(&text);
            }
            Err(problem) => {
                self.out.push_str(",\"error\":");
                let mut text = Vec::with_capacity(256);
                problem.write(&mut text);
                self.out.push_str(&String::from_utf8_lossy(&text));
            }
        }
        self.out.push_str("}\n");
    }

    async fn flush_if_full(&mut self) -> Result<(), Gone> {
        if self.out.len() >= CHUNK_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.out.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.out, String::with_capacity(2 * CHUNK_BYTES)));
        let answers = self.answers.clone();
        let mut sending = pin!(tokio::time::timeout(STALL, answers.send(chunk)));
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(Gone) },
                // What is durable by now must not wait for a reader to be seen by others. No new lines are taken meanwhile,
                // so this is bounded by what is in flight.
                Some(done) = self.in_flight.next(), if !self.in_flight.is_empty() => self.write(done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::settings::ServerSettings;

    #[tokio::test]
    async fn lines_go_on_while_nobody_reads_the_answers() {
        let keep = swarmkeep::Swarmkeep::open("ephemeral:").await.unwrap();
        let (answers, mut reader) = mpsc::channel(1);
        answers.try_send(Bytes::new()).unwrap();
        let mut bulk = Bulk {
            app: App::new(keep, ServerSettings::default(), Bytes::new()),
            actor: None,
            durability: None,
            sessions: HashMap::new(),
            in_flight: FuturesOrdered::new(),
            bytes_in_flight: 0,
            line: 0,
            out: "an answer that finds no room".to_owned(),
            answers,
        };
        let (sync, synced) = tokio::sync::oneshot::channel::<()>();
        let published = Arc::new(AtomicBool::new(false));
        let seen = published.clone();
        let line = async move {
            synced.await.unwrap();
            seen.store(true, Ordering::SeqCst);
            Err(Problem::invalid("done"))
        };
        assert!(bulk.push(Progress::Waiting(Box::pin(line)), 1).await.is_ok());
        sync.send(()).unwrap();
        {
            let mut flushing = pin!(bulk.flush());
            assert!((&mut flushing).now_or_never().is_none(), "nobody reads");
            assert!(published.load(Ordering::SeqCst), "and yet the line is settled");
            assert!(reader.recv().await.unwrap().is_empty());
            assert!(flushing.await.is_ok());
        }
        assert!(bulk.in_flight.is_empty() && bulk.out.contains("\"line\":1"), "its answer waits: {}", bulk.out);
    }
}
