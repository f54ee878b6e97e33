//! Which answer belongs to which POST, what waits on which stream, and what is still to be answered. No I/O but the journal's.
//!
//! Requests go on under ids of the front's own, in whose order they came: clients that share an upstream have the same ids, and
//! one that comes back after a crash begins to count anew. On the way back everything is as the client named it.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use bytes::Bytes;

use super::journal::{Entry, Folder, Journal, Names};
use crate::{
    envelope::{Edit, Envelope, Frame, Kind, Malformed, compose},
    mirrored::Params,
    shim::Known,
    upstream::ToClient,
};

/// What the server says by itself, where it belongs to no request: the stream of a GET.
pub(super) const GENERAL: u64 = 0;

/// What was given and may be asked for again, in all and on the general stream.
const KEPT_BYTES: usize = 4 << 20;
const KEPT_EVENTS: usize = 1_000;
/// A longer line is not kept for another process.
const KEPT_LINE_BYTES: usize = 1 << 20;
/// Streams that are over and may be asked for again.
const KEPT_STREAMS: usize = 64;
/// What waits for a client that does not read; then the server is not read, or what nobody reads is dropped.
const WAITING_BYTES: usize = 64 << 20;
/// Progress tokens of requests that were answered with a task, which go on.
const TOKENS: usize = 1_024;

#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) seq: u64,
    pub(super) line: Bytes,
}

#[derive(Debug, Default)]
struct Stream {
    events: VecDeque<Event>,
    last: u64,
    /// Given to the client, as far as can be known.
    taken: u64,
    /// Requests without an answer.
    waiting: usize,
    /// Who reads it: the newest reader's number.
    reader: Option<u64>,
    /// The client knows its name, and may take it up again.
    is_named: bool,
}

impl Stream {
    fn waiting_bytes(&self) -> usize {
        self.events.iter().filter(|event| event.seq > self.taken).map(|event| event.line.len()).sum()
    }
}

#[derive(Debug)]
struct Asked {
    names: Names,
    stream: u64,
}

#[derive(Debug)]
struct Line {
    stream: u64,
    requests: Vec<u64>,
    text: Bytes,
}

/// What a client's words become.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) number: u64,
    pub(super) line: Bytes,
    /// Where its answers come; `None`: it wants none.
    pub(super) stream: Option<u64>,
}

/// What a reader of a stream finds.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) events: Vec<Event>,
    /// Nothing more comes.
    pub(super) is_over: bool,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    journal: Option<Journal>,
    streams: BTreeMap<u64, Stream>,
    requests: BTreeMap<u64, Asked>,
    lines: BTreeMap<u64, Line>,
    tokens: BTreeMap<u64, String>,
    over: VecDeque<u64>,
    next: u64,
    /// The client's `initialize`, and its number.
    began: Option<(u64, Bytes)>,
    revision: Option<String>,
    /// What tools want to see in headers.
    params: Params,
    /// What the client said that has to be said again on a new connection.
    has_wishes: bool,
}

impl Book {
    /// Numbers and ids begin at `base`, which is higher than any before.
    pub(super) fn new(base: u64) -> Self {
        let streams = BTreeMap::from([(GENERAL, Stream { is_named: true, ..Stream::default() })]);
        Self { streams, next: base, ..Self::default() }
    }

    /// As it was left by another process.
    pub(super) fn restored(base: u64, journal: Journal, entries: Vec<Entry>) -> Self {
        let mut book = Self::new(base);
        for entry in entries {
            match entry {
                Entry::Taken { seq } => {
                    let general = book.streams.entry(GENERAL).or_default();
                    (general.taken, general.last) = (seq, general.last.max(seq));
                }
                Entry::Drawn { number } => book.next = book.next.max(number),
                Entry::Said { number, stream, requests, line } => {
                    // The number of a line is the last that was drawn for it. A wall clock that was set back is no reason to use one
                    // again: in the session's log it is another call's.
                    book.next = book.next.max(number);
                    book.saw(!requests.is_empty(), &line);
                    let ids = requests.iter().map(|(id, _)| *id).collect();
                    let of = book.streams.entry(stream).or_default();
                    of.waiting += requests.len();
                    of.is_named = true;
                    let asked = requests.into_iter().map(|(id, names)| (id, Asked { names, stream }));
                    book.requests.extend(asked);
                    book.lines.insert(number, Line { stream, requests: ids, text: line.into() });
                }
                Entry::Settled { number } => book.settle(number),
                Entry::Given { stream, seq, line } => {
                    let of = book.streams.entry(stream).or_default();
                    (of.last, of.is_named) = (seq, true);
                    of.events.push_back(Event { seq, line: line.into() });
                }
                Entry::Over { stream } => {
                    book.streams.remove(&stream);
                }
                Entry::Began { number, line } => book.began = Some((number, line.into())),
                Entry::Agreed { revision } => book.revision = Some(revision),
            }
        }
        // Nobody reads any of them now. What is over may be taken up again for a while.
        let over = book.streams.iter().filter(|(id, stream)| **id != GENERAL && stream.waiting == 0);
        book.over = over.map(|(id, _)| *id).collect();
        book.journal = Some(journal);
        book
    }

    fn saw(&mut self, is_request: bool, line: &str) {
        let wishes = ["resources/subscribe", "logging/setLevel"];
        self.has_wishes |= is_request && wishes.iter().any(|wish| line.contains(wish));
    }

    fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// It is kept in a file from now on.
    ///
    /// # Errors
    /// What the file system says; nothing is kept then.
    pub(super) fn keep(&mut self, folder: &Folder, name: &str) -> io::Result<()> {
        self.journal = Some(folder.begin(name, &self.entries())?);
        Ok(())
    }

    /// It was ended: nothing is kept of it any more.
    pub(super) fn unkeep(&mut self) {
        self.journal = None;
    }

    /// What whoever carries its lines has to know.
    pub(super) fn known(&self) -> Known {
        let unsettled = self.lines.iter().map(|(number, line)| (*number, line.text.clone())).collect();
        Known { unsettled, initialize: self.began.clone() }
    }

    /// Whether anything is still to be answered.
    pub(super) fn is_waiting(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Whether anybody reads one of its streams.
    pub(super) fn is_read(&self) -> bool {
        self.streams.values().any(|stream| stream.reader.is_some())
    }

    /// Whether the client had wishes that a new connection would not know of.
    pub(super) fn has_wishes(&self) -> bool {
        self.has_wishes
    }

    /// What tools want to see in headers, as far as the client has heard of them.
    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    /// The revision that was agreed upon.
    pub(super) fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Words of the client. `None`: there is nothing to pass on.
    ///
    /// # Errors
    /// A part of a batch that is no message.
    pub(super) fn say(&mut self, frame: &Frame) -> Result<Option<Said>, Malformed> {
        let messages: Vec<&Envelope> = match frame {
            Frame::One(message) => vec![message],
            Frame::Batch(parts) => {
                parts.iter().map(|part| part.as_ref().map_err(Clone::clone)).collect::<Result<_, _>>()?
            }
        };
        let stream = messages.iter().any(|message| message.kind() == Kind::Request).then(|| self.draw());
        let mut requests = Vec::new();
        let mut texts = Vec::new();
        for message in messages {
            match (message.kind(), message.method()) {
                (Kind::Request, _) => {
                    let id = self.draw();
                    let text = id.to_string();
                    let token = message.token().map(|_| text.as_str());
                    texts.push(message.edited(Edit { id: Some(&text), token, ..Edit::default() }));
                    let names = Names {
                        id: message.id().unwrap_or("null").to_owned(),
                        token: message.token().map(str::to_owned),
                    };
                    requests.push((id, names));
                }
                (Kind::Notification, Some("notifications/cancelled")) => {
                    let asked =
                        self.requests.iter().find(|(_, asked)| Some(asked.names.id.as_str()) == message.target());
                    // Of what is over already nothing is left to cancel.
                    let Some((id, _)) = asked else { continue };
                    let id = id.to_string();
                    texts.push(message.edited(Edit { target: Some(&id), ..Edit::default() }));
                }
                _ => texts.push(message.bytes().clone()),
            }
        }
        if texts.is_empty() {
            return Ok(None);
        }
        let line = match frame {
            Frame::One(_) => texts.remove(0),
            Frame::Batch(_) => [b"[".as_slice(), &texts.join(b",".as_slice()), b"]"].concat().into(),
        };
        let begins = matches!(frame, Frame::One(message) if message.method() == Some("initialize"));
        Ok(Some(self.pass(Envelope::line(line), stream, requests, begins)))
    }

    fn pass(&mut self, line: Bytes, stream: Option<u64>, requests: Vec<(u64, Names)>, begins: bool) -> Said {
        let number = self.draw();
        if begins {
            self.began = Some((number, line.clone()));
        }
        let text = String::from_utf8_lossy(&line);
        self.saw(!requests.is_empty(), text.get(..512.min(text.len())).unwrap_or(&text));
        if self.journal.is_some() {
            let (stream, line) = (stream.unwrap_or(GENERAL), text.into_owned());
            self.write(&[Entry::Said { number, stream, requests: requests.clone(), line }]);
        }
        let ids = requests.iter().map(|(id, _)| *id).collect();
        if let Some(stream) = stream {
            self.streams.insert(stream, Stream { waiting: requests.len(), ..Stream::default() });
            self.requests.extend(requests.into_iter().map(|(id, names)| (id, Asked { names, stream })));
        }
        self.lines.insert(number, Line { stream: stream.unwrap_or(GENERAL), requests: ids, text: line.clone() });
        Said { number, line, stream }
    }

    /// The requests of a stream are not wanted any more: what the server is to be told of that.
    pub(super) fn cancel(&mut self, stream: u64) -> Vec<Said> {
        let ids = self.requests.iter().filter(|(_, asked)| asked.stream == stream).map(|(id, _)| *id);
        let ids: Vec<u64> = ids.collect();
        let mut all = Vec::new();
        for id in ids {
            let params = format!(r#"{{"requestId":{id},"reason":"the client closed the stream"}}"#);
            let line = compose::notification("notifications/cancelled", &params);
            all.push(self.pass(line, None, Vec::new(), false));
        }
        self.streams.remove(&stream);
        all
    }

    /// What the daemon gives for the client.
    pub(super) fn given(&mut self, given: ToClient) {
        match given {
            ToClient::Taken(number) => self.settled(number),
            ToClient::Line { answers, line } => {
                let (stream, line) = self.place(answers, line);
                self.put(stream, line);
                if let Some(number) = answers {
                    self.settled(number);
                }
            }
        }
        self.tidy();
    }

    /// Nothing comes any more: whatever waits is told why.
    pub(super) fn fail(&mut self, why: &str) {
        let lines: Vec<u64> = self.lines.keys().copied().collect();
        for asked in std::mem::take(&mut self.requests).into_values() {
            let line = compose::error(&asked.names.id, -32010, why, None);
            if let Some(stream) = self.streams.get_mut(&asked.stream) {
                stream.waiting = stream.waiting.saturating_sub(1);
            }
            self.put(asked.stream, line);
        }
        lines.into_iter().for_each(|number| self.settled(number));
    }

    fn settled(&mut self, number: u64) {
        if self.lines.contains_key(&number) {
            self.settle(number);
            self.write(&[Entry::Settled { number }]);
        }
    }

    fn settle(&mut self, number: u64) {
        let Some(line) = self.lines.remove(&number) else { return };
        for id in line.requests {
            // Cancelled: it gets no answer.
            if self.requests.remove(&id).is_some() {
                self.answered(line.stream);
            }
        }
    }

    fn answered(&mut self, stream: u64) {
        if let Some(of) = self.streams.get_mut(&stream).filter(|_| stream != GENERAL) {
            of.waiting = of.waiting.saturating_sub(1);
            if of.waiting == 0 {
                self.over.push_back(stream);
            }
        }
    }

    /// Where a line goes, as the client named things.
    fn place(&mut self, answers: Option<u64>, line: Bytes) -> (u64, Bytes) {
        let Ok(message) = Envelope::parse(line.clone()) else { return (self.home(), line) };
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
        match message.kind() {
            Kind::Result | Kind::Error => {
                let Some((id, asked)) = number(message.id()).and_then(|id| self.requests.remove_entry(&id)) else {
                    let stream = answers.and_then(|number| self.lines.get(&number)).map(|line| line.stream);
                    return (stream.unwrap_or_else(|| self.home()), line);
                };
                let subscription = message.subscription().map(|_| asked.names.id.as_str());
                let line = message.edited(Edit { id: Some(&asked.names.id), subscription, ..Edit::default() });
                if let Some(token) = asked.names.token {
                    if self.tokens.len() >= TOKENS {
                        self.tokens.pop_first();
                    }
                    self.tokens.insert(id, token);
                }
                self.agree(&message);
                self.params.learn(&message);
                self.answered(asked.stream);
                (asked.stream, line)
            }
            Kind::Notification if message.method() == Some("notifications/progress") => {
                let id = number(message.token());
                let asked = id.and_then(|id| self.requests.get(&id));
                let token = asked.and_then(|asked| asked.names.token.as_ref());
                let token = token.or_else(|| id.and_then(|id| self.tokens.get(&id)));
                let line = message.edited(Edit { token: token.map(String::as_str), ..Edit::default() });
                (asked.map_or_else(|| self.home(), |asked| asked.stream), line)
            }
            Kind::Notification if message.subscription().is_some() => {
                let asked = number(message.subscription()).and_then(|id| self.requests.get(&id));
                let Some(asked) = asked else { return (self.home(), line) };
                let subscription = Some(asked.names.id.as_str());
                (asked.stream, message.edited(Edit { subscription, ..Edit::default() }))
            }
            _ => (self.home(), line),
        }
    }

    fn agree(&mut self, answer: &Envelope) {
        if self.revision.is_none()
            && let Some(revision) = answer.result_member("protocolVersion")
            && let Ok(revision) = serde_json::from_str::<String>(revision)
        {
            self.write(&[Entry::Agreed { revision: revision.clone() }]);
            self.revision = Some(revision);
        }
    }

    /// Where goes what belongs to no request: to the one that is under way, if it is one; else to whoever listens.
    fn home(&self) -> u64 {
        let listens = self.streams.get(&GENERAL).is_some_and(|general| general.reader.is_some());
        let mut read =
            self.streams.iter().filter(|(id, stream)| **id != GENERAL && stream.waiting > 0 && stream.reader.is_some());
        match (read.next(), read.next_back()) {
            (Some((only, _)), None) => *only,
            (Some(_), Some((newest, _))) if !listens => *newest,
            _ => GENERAL,
        }
    }

    fn put(&mut self, stream: u64, line: Bytes) {
        let Some(of) = self.streams.get_mut(&stream) else { return };
        of.last += 1;
        let seq = of.last;
        of.events.push_back(Event { seq, line: line.clone() });
        if of.is_named && self.journal.is_some() {
            self.write(&[Entry::Given { stream, seq, line: kept(&line) }]);
        }
    }

    /// Somebody reads a stream from now on; whoever did, does not any more. `None`: there is no such stream.
    pub(super) fn read(&mut self, stream: u64) -> Option<u64> {
        let reader = self.draw();
        self.streams.get_mut(&stream)?.reader = Some(reader);
        Some(reader)
    }

    /// The reader is gone; whether something was still to be answered on the stream.
    pub(super) fn leave(&mut self, stream: u64, reader: u64) -> bool {
        let Some(of) = self.streams.get_mut(&stream).filter(|of| of.reader == Some(reader)) else { return false };
        of.reader = None;
        let is_open = of.waiting > 0;
        self.tidy();
        is_open
    }

    /// The client hears a stream's name: what it was given on it can be asked for again.
    pub(super) fn name(&mut self, stream: u64) {
        let Some(of) = self.streams.get_mut(&stream).filter(|of| !of.is_named) else { return };
        of.is_named = true;
        if self.journal.is_some() {
            let events = of.events.iter().map(|event| Entry::Given { stream, seq: event.seq, line: kept(&event.line) });
            let events: Vec<Entry> = events.collect();
            self.write(&events);
        }
    }

    /// The last event of a stream that its reader was given.
    pub(super) fn taken(&self, stream: u64) -> Option<u64> {
        self.streams.get(&stream).map(|of| of.taken)
    }

    /// What there is after an event; `None`: the stream is not there, or has another reader now.
    pub(super) fn take(&mut self, stream: u64, reader: u64, after: u64) -> Option<Taken> {
        let of = self.streams.get_mut(&stream).filter(|of| of.reader == Some(reader))?;
        let events: Vec<Event> = of.events.iter().filter(|event| event.seq > after).cloned().collect();
        let taken = of.taken.max(events.last().map_or(after.min(of.last), |event| event.seq));
        let has_more = taken > std::mem::replace(&mut of.taken, taken);
        let is_over = stream != GENERAL && of.waiting == 0;
        if stream == GENERAL && has_more {
            // Who comes back to it without saying from where is not given it twice: a server's question is in it, perhaps.
            self.write(&[Entry::Taken { seq: taken }]);
        }
        self.tidy();
        Some(Taken { events, is_over })
    }

    /// Whether more of the server may be read: not while a client that is there does not take what it has.
    pub(super) fn has_room(&mut self) -> bool {
        let waiting = |book: &Self| book.streams.values().map(Stream::waiting_bytes).sum::<usize>();
        while waiting(self) > WAITING_BYTES {
            // What nobody reads goes first, the oldest of it.
            let orphan = self.streams.iter_mut().find(|(_, of)| of.reader.is_none() && !of.events.is_empty());
            let Some((_, of)) = orphan else { return false };
            of.events.pop_front();
        }
        true
    }

    /// Forgets what nobody can ask for any more, and what was given long ago.
    fn tidy(&mut self) {
        let is_done = |of: &Stream| !of.is_named && of.reader.is_none() && of.waiting == 0;
        self.over.retain(|id| self.streams.get(id).is_some_and(|of| !is_done(of)));
        self.streams.retain(|id, of| *id == GENERAL || !is_done(of));
        while self.over.len() > KEPT_STREAMS {
            self.forget_oldest();
        }
        if let Some(general) = self.streams.get_mut(&GENERAL) {
            while general.events.len() > KEPT_EVENTS
                && general.events.front().is_some_and(|event| event.seq <= general.taken)
            {
                general.events.pop_front();
            }
        }
        while self.kept_bytes() > KEPT_BYTES {
            let general = self.streams.get_mut(&GENERAL);
            let given = general.filter(|of| of.events.front().is_some_and(|event| event.seq <= of.taken));
            match given {
                Some(general) => drop(general.events.pop_front()),
                None if !self.over.is_empty() => self.forget_oldest(),
                None => break,
            }
        }
        if self.journal.as_ref().is_some_and(|journal| journal.has_grown(self.counting())) {
            let entries = self.entries();
            if let Some(journal) = &mut self.journal
                && let Err(error) = journal.write_anew(&entries)
            {
                tracing::warn!(%error, "a conversation's file could not be written anew");
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(stream) = self.over.pop_front() {
            self.streams.remove(&stream);
            self.write(&[Entry::Over { stream }]);
        }
    }

    /// What was given already and is kept all the same.
    fn kept_bytes(&self) -> usize {
        let given = |of: &Stream| {
            of.events.iter().filter(|event| event.seq <= of.taken).map(|event| event.line.len()).sum::<usize>()
        };
        self.streams.values().map(given).sum()
    }

    fn counting(&self) -> u64 {
        let events = self.streams.values().flat_map(|of| &of.events).map(|event| event.line.len());
        (events.sum::<usize>() + self.lines.values().map(|line| line.text.len()).sum::<usize>()) as u64
    }

    /// All that counts, as entries.
    fn entries(&self) -> Vec<Entry> {
        let text = |line: &Bytes| String::from_utf8_lossy(line).into_owned();
        let agreed = self.revision.iter().map(|revision| Entry::Agreed { revision: revision.clone() });
        let said = self.lines.iter().map(|(number, line)| Entry::Said {
            number: *number,
            stream: line.stream,
            requests: line.requests.iter().filter_map(|id| Some((*id, self.requests.get(id)?.names.clone()))).collect(),
            line: text(&line.text),
        });
        let named = self.streams.iter().filter(|(_, of)| of.is_named);
        let given = named.flat_map(|(stream, of)| {
            of.events.iter().map(|event| Entry::Given { stream: *stream, seq: event.seq, line: kept(&event.line) })
        });
        let began = self.began.iter().map(|(number, line)| Entry::Began { number: *number, line: text(line) });
        let drawn = std::iter::once(Entry::Drawn { number: self.next });
        let taken = self.streams.get(&GENERAL).map(|general| Entry::Taken { seq: general.taken });
        drawn.chain(taken).chain(began).chain(agreed).chain(said).chain(given).collect()
    }

    fn write(&mut self, entries: &[Entry]) {
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.add(entries)
        {
            // The conversation goes on; what it loses is what a crash would take.
            tracing::warn!(%error, "a conversation could not be written down");
        }
    }

    /// Somebody used it.
    pub(super) fn touch(&self, now_ms: u64) -> io::Result<()> {
        self.journal.as_ref().map_or(Ok(()), |journal| journal.touch(now_ms))
    }
}

/// What of a line outlives the process: of a large one, that it was.
fn kept(line: &Bytes) -> String {
    if line.len() <= KEPT_LINE_BYTES {
        return String::from_utf8_lossy(line).into_owned();
    }
    let message = Envelope::parse(line.clone()).ok().filter(|message| message.kind() != Kind::Notification);
    let why = format!(
        "{} bytes, too many to be given again after a restart of the proxy; the session's log says what came of the call",
        line.len()
    );
    let id = message.as_ref().and_then(Envelope::id).unwrap_or("null");
    String::from_utf8_lossy(&compose::error(id, -32_011, &why, None)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Frame {
        Frame::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn given(answers: Option<u64>, text: &str) -> ToClient {
        ToClient::Line { answers, line: Bytes::copy_from_slice(text.as_bytes()) }
    }

    /// Says it, and reads its stream.
    fn said(book: &mut Book, text: &str) -> (Said, u64) {
        let said = book.say(&frame(text)).unwrap().unwrap();
        let reader = book.read(said.stream.unwrap()).unwrap();
        (said, reader)
    }

    fn texts(taken: &Taken) -> Vec<String> {
        taken.events.iter().map(|event| String::from_utf8_lossy(&event.line).into_owned()).collect()
    }

    fn id_in(said: &Said) -> String {
        Envelope::parse(said.line.clone()).unwrap().id().unwrap().to_owned()
    }

    #[test]
    fn two_requests_of_one_id_each_get_their_own_answer_and_progress() {
        let mut book = Book::new(1_000);
        let ask = r#"{"jsonrpc":"2.0","id":"7","method":"x","params":{"_meta":{"progressToken":"p"}}}"#;
        let (one, first) = said(&mut book, ask);
        let (two, second) = said(&mut book, ask);
        let (a, b) = (id_in(&one), id_in(&two));
        assert_ne!(a, b);
        let progress =
            format!(r#"{{"method":"notifications/progress","params":{{"progressToken":{b},"progress":1}}}}"#);
        book.given(given(None, &progress));
        book.given(given(Some(two.number), &format!(r#"{{"id":{b},"result":{{"n":2}}}}"#)));
        let taken = book.take(two.stream.unwrap(), second, 0).unwrap();
        let progress = r#"{"method":"notifications/progress","params":{"progressToken":"p","progress":1}}"#;
        assert_eq!(texts(&taken), [progress, r#"{"id":"7","result":{"n":2}}"#]);
        assert!(taken.is_over);
        let waits = book.take(one.stream.unwrap(), first, 0).unwrap();
        assert!(waits.events.is_empty() && !waits.is_over && book.is_waiting());
        book.given(given(Some(one.number), &format!(r#"{{"id":{a},"result":{{"n":1}}}}"#)));
        assert_eq!(texts(&book.take(one.stream.unwrap(), first, 0).unwrap()), [r#"{"id":"7","result":{"n":1}}"#]);
        assert!(!book.is_waiting());
    }

    #[test]
    fn a_batch_is_over_with_its_last_answer() {
        let mut book = Book::new(0);
        let (batch, reader) = said(&mut book, r#"[{"id":1,"method":"x"},{"method":"n"},{"id":2,"method":"x"}]"#);
        let Frame::Batch(parts) = Frame::parse(batch.line.clone()).unwrap() else { panic!("a batch") };
        let id = |at: usize| parts[at].as_ref().unwrap().id().unwrap().to_owned();
        book.given(given(None, &format!(r#"{{"id":{},"result":{{}}}}"#, id(2))));
        assert!(!book.take(batch.stream.unwrap(), reader, 0).unwrap().is_over);
        book.given(given(Some(batch.number), &format!(r#"{{"id":{},"result":{{}}}}"#, id(0))));
        let taken = book.take(batch.stream.unwrap(), reader, 0).unwrap();
        assert_eq!(
            (texts(&taken), taken.is_over),
            (vec![r#"{"id":2,"result":{}}"#.into(), r#"{"id":1,"result":{}}"#.into()], true)
        );
    }

    #[test]
    fn what_was_said_and_given_is_there_after_a_kill() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path()).unwrap();
        let name = "00112233445566778899aabbccddeeff";
        let mut book = Book::new(0);
        let (begun, _) = said(&mut book, r#"{"id":0,"method":"initialize"}"#);
        let answer = format!(r#"{{"id":{},"result":{{"protocolVersion":"2025-11-25"}}}}"#, id_in(&begun));
        book.given(given(Some(begun.number), &answer));
        book.keep(&folder, name).unwrap();
        let (asked, reader) = said(&mut book, r#"{"id":1,"method":"x"}"#);
        let stream = asked.stream.unwrap();
        book.name(stream);
        book.given(given(None, r#"{"method":"notifications/message"}"#));
        assert_eq!(book.take(stream, reader, 0).unwrap().events.len(), 1);
        drop(book);

        let (journal, entries) = folder.read(name).unwrap().unwrap();
        let mut book = Book::restored(1_000, journal, entries);
        assert_eq!(book.revision(), Some("2025-11-25"));
        let known = book.known();
        assert_eq!(known.unsettled, BTreeMap::from([(asked.number, asked.line.clone())]));
        assert_eq!(known.initialize.map(|(number, _)| number), Some(begun.number));
        book.given(given(Some(asked.number), &format!(r#"{{"id":{},"result":{{}}}}"#, id_in(&asked))));
        drop(book);
        // And once more, when nothing is open any more.
        let (journal, entries) = folder.read(name).unwrap().unwrap();
        let mut book = Book::restored(2_000, journal, entries);
        assert!(!book.is_waiting());
        let reader = book.read(stream).unwrap();
        let missed = book.take(stream, reader, 1).unwrap();
        assert_eq!((texts(&missed), missed.is_over), (vec![r#"{"id":1,"result":{}}"#.to_owned()], true));
        let last = said(&mut book, r#"{"id":1,"method":"x"}"#).0.number;
        assert!(last > 2_000);
        drop(book);
        // The wall clock was set back in between.
        let (journal, entries) = folder.read(name).unwrap().unwrap();
        let mut book = Book::restored(0, journal, entries);
        assert!(said(&mut book, r#"{"id":1,"method":"x"}"#).0.number > last);
    }

    #[test]
    fn what_was_read_by_itself_is_not_given_twice_over_a_kill_unless_it_is_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path()).unwrap();
        let name = "00112233445566778899aabbccddeeff";
        let mut book = Book::new(0);
        book.keep(&folder, name).unwrap();
        let reader = book.read(GENERAL).unwrap();
        let log = || given(None, r#"{"method":"notifications/message"}"#);
        book.given(log());
        assert_eq!(book.take(GENERAL, reader, 0).unwrap().events.len(), 1);
        book.leave(GENERAL, reader);
        book.given(log());
        drop(book);
        let (journal, entries) = folder.read(name).unwrap().unwrap();
        let mut book = Book::restored(1_000, journal, entries);
        let (reader, after) = (book.read(GENERAL).unwrap(), book.taken(GENERAL).unwrap());
        let seqs = |taken: Taken| taken.events.iter().map(|event| event.seq).collect::<Vec<_>>();
        assert_eq!(seqs(book.take(GENERAL, reader, after).unwrap()), [2]);
        assert_eq!(seqs(book.take(GENERAL, reader, 0).unwrap()), [1, 2]);
    }

    #[test]
    fn what_belongs_to_no_request_goes_to_the_one_that_is_under_way_or_to_who_listens() {
        let mut book = Book::new(0);
        let log = || given(None, r#"{"method":"notifications/message"}"#);
        let listener = book.read(GENERAL).unwrap();
        book.given(log());
        assert_eq!(book.take(GENERAL, listener, 0).unwrap().events.len(), 1);
        let (one, reader) = said(&mut book, r#"{"id":1,"method":"x"}"#);
        book.given(log());
        assert_eq!(book.take(one.stream.unwrap(), reader, 0).unwrap().events.len(), 1);
        let (two, newest) = said(&mut book, r#"{"id":2,"method":"x"}"#);
        book.given(log());
        assert_eq!(book.take(GENERAL, listener, 0).unwrap().events.len(), 2);
        book.leave(GENERAL, listener);
        book.given(log());
        assert_eq!(book.take(two.stream.unwrap(), newest, 0).unwrap().events.len(), 1);
    }

    #[test]
    fn leaving_cancels_what_was_asked_and_a_client_cancels_by_its_own_name() {
        let mut book = Book::new(0);
        let (one, reader) = said(&mut book, r#"{"id":"a","method":"x"}"#);
        let cancel = r#"{"method":"notifications/cancelled","params":{"requestId":"a"}}"#;
        let passed = book.say(&frame(cancel)).unwrap().unwrap();
        let target = Envelope::parse(passed.line).unwrap().target().map(str::to_owned);
        assert_eq!(target, Some(id_in(&one)));
        let nobody = r#"{"method":"notifications/cancelled","params":{"requestId":"b"}}"#;
        assert_eq!(book.say(&frame(nobody)).unwrap(), None);
        assert!(book.leave(one.stream.unwrap(), reader));
        let told = book.cancel(one.stream.unwrap());
        assert_eq!(told.len(), 1);
        assert_eq!(Envelope::parse(told[0].line.clone()).unwrap().target(), Some(id_in(&one).as_str()));
    }

    #[test]
    fn who_reads_on_elsewhere_takes_the_stream_away() {
        let mut book = Book::new(0);
        let (one, old) = said(&mut book, r#"{"id":1,"method":"x"}"#);
        let stream = one.stream.unwrap();
        let new = book.read(stream).unwrap();
        assert!(book.take(stream, old, 0).is_none() && book.take(stream, new, 0).is_some());
        assert!(!book.leave(stream, old), "who was there before ends nothing");
        assert!(book.read(4_711).is_none());
    }
}
