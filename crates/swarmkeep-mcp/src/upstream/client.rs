//! The client's side: what it says, and what it is given.

use bytes::Bytes;
use swarmkeep::EntityId;
use tokio::sync::mpsc;

use super::{FromClient, Place, QUEUED_BYTES, TURN, ToClient, Upstream, task};
use crate::{
    calls::Before,
    class::{self, Asked, Tool},
    envelope::{Envelope, Frame, Kind, Malformed, compose},
    link,
};

impl Upstream {
    pub(super) fn reads_client(&self) -> bool {
        self.to_server.bytes < QUEUED_BYTES && self.draining_until_ms.is_none()
    }

    /// The client's turn: what it has said by now.
    pub(super) fn hear_client(&mut self, from_client: &mut mpsc::Receiver<FromClient>) {
        for _ in 1..TURN {
            if !self.reads_client() {
                return;
            }
            let Ok(said) = from_client.try_recv() else { return };
            self.client_has_said(said);
        }
    }

    pub(super) fn client_has_said(&mut self, said: FromClient) {
        match said {
            FromClient::Line { number, line } => self.client_says(number, line),
            FromClient::SaidAll => self.drain(),
        }
    }

    /// A line of the client.
    fn client_says(&mut self, number: u64, line: Bytes) {
        match Frame::parse(line) {
            // It is offered to the next daemon.
            Ok(frame) if self.leaving_until_ms.is_some() && !self.concerns_what_is_under_way(&frame) => {}
            Ok(Frame::One(message)) => self.client_message(number, 0, *message),
            Ok(Frame::Batch(parts)) if self.handshake.has_batches() => {
                self.batches.insert(number, parts.len());
                for (part, message) in parts.into_iter().enumerate() {
                    match message {
                        Ok(message) => self.client_message(number, part, message),
                        Err(malformed) => self.refuse(Some(number), &malformed),
                    }
                }
            }
            Ok(Frame::Batch(_)) => {
                let malformed = Malformed::NotAMessage("a batch, which only revision 2025-03-26 has");
                self.refuse(Some(number), &malformed);
            }
            Err(malformed) => self.refuse(Some(number), &malformed),
        }
    }

    /// Answers to what the server asked, and words about calls that are here.
    fn concerns_what_is_under_way(&self, frame: &Frame) -> bool {
        let Frame::One(message) = frame else { return false };
        match message.kind() {
            Kind::Result | Kind::Error => true,
            Kind::Notification => message.target().is_some_and(|target| self.calls.is_waited_for(target)),
            Kind::Request => false,
        }
    }

    fn refuse(&mut self, number: Option<u64>, malformed: &Malformed) {
        self.give(number, compose::error("null", malformed.code(), &malformed.to_string(), None));
    }

    fn client_message(&mut self, number: u64, part: usize, message: Envelope) {
        match (message.kind(), message.method()) {
            (Kind::Request, Some("initialize")) if !message.is_modern() => self.initialize(number, message),
            // Later revisions have neither: the server says so.
            (Kind::Request, Some("ping")) if !message.is_modern() => {
                let line = compose::result(message.id().unwrap_or("null"), "{}");
                self.give(Some(number), line);
            }
            (Kind::Request, _) => match task::asked_for(&message) {
                Some(id) => self.task_asked(number, &message, &id),
                None if self.is_task(number, &message) => {}
                None => self.call(number, part, message),
            },
            (Kind::Notification, Some("notifications/initialized")) => {
                self.initialized(message.bytes().clone());
                self.taken(number);
            }
            _ => {
                self.ledger(|calls, commands| calls.from_client(&message, commands));
                self.taken(number);
            }
        }
    }

    fn call(&mut self, number: u64, part: usize, message: Envelope) {
        self.handshake.saw(&message);
        let now_ms = self.now_ms();
        self.link(link::Event::Wanted);
        let asked = self.class_of(&message);
        self.look_before_sending(asked.class);
        // A call that was offered before came when the earlier daemon's list was the last one.
        let is_offered_again = number <= self.terms.offered;
        let known = self.known_of(&message, is_offered_again);
        let key = asked.class.is_recorded().then(|| self.key(number, part)).flatten();
        let mut made = None;
        let mut commands = std::mem::take(&mut self.commands);
        let before = Before {
            waited_ms: self.terms.waited_ms.remove(&number).unwrap_or_default(),
            may_be_sent: is_offered_again && self.may_be_begun(number, &message),
        };
        if let Some(call) = self.calls.request(now_ms, message, asked, known, before, &mut commands) {
            self.calls.goes_by(call, key.clone());
            self.places.insert(call, Place { number, key, attempt: 1, begun_in: None, is_answered: false, task: None });
            made = Some(call);
        }
        self.ledger(|_, all| std::mem::swap(all, &mut commands));
        if made.is_none() {
            self.taken(number);
        }
        self.settle_held();
    }

    /// By what is known of its server's tools: now, or before this daemon. Before it is sent again they are read anew.
    pub(super) fn class_of(&self, message: &Envelope) -> Asked {
        let before = self.known_before.as_ref().filter(|_| self.catalogue_on.is_none());
        class::of(message, &self.terms.trust, self.catalogue.as_ref().or(before))
    }

    /// What was known of a call's tool when the call came: now, or before this daemon.
    pub(super) fn known_of(&self, message: &Envelope, came_before: bool) -> Option<Tool> {
        let before = self.known_before.as_ref().filter(|_| came_before);
        self.catalogue.as_ref().or(before)?.tool(message.name()?)
    }

    /// Whether an earlier daemon may have begun this line's call. What waits in a queue for a server that is away is not begun for
    /// the asking: at the next daemon's end it would be one that was.
    fn may_be_begun(&self, number: u64, message: &Envelope) -> bool {
        let is_queued = message.name().is_some_and(|name| self.terms.limits.queue.takes(name));
        !is_queued || self.begun.as_ref().is_none_or(|begun| begun.contains(&number))
    }

    /// The key of the effect that the client's line of this number becomes, or a part of it.
    pub(super) fn key(&self, number: u64, part: usize) -> Option<EntityId> {
        let part = if part == 0 { String::new() } else { format!(".{part}") };
        EntityId::new(format!("mcp-{}-{number}{part}", self.terms.client)).ok()
    }

    pub(super) fn give(&mut self, answers: Option<u64>, line: Bytes) {
        let line = Envelope::line(line);
        let answers = answers.filter(|number| self.is_last_of(*number));
        self.for_client.push(line.len(), ToClient::Line { answers, line });
    }

    /// This line of the client needs no answer.
    pub(super) fn taken(&mut self, number: u64) {
        if self.is_last_of(number) {
            self.for_client.push(0, ToClient::Taken(number));
        }
    }

    /// A batch is settled with the last of its parts; any other line with itself.
    fn is_last_of(&mut self, number: u64) -> bool {
        match self.batches.get_mut(&number) {
            Some(left) if *left > 1 => {
                *left -= 1;
                false
            }
            _ => {
                self.batches.remove(&number);
                true
            }
        }
    }

    /// Gives the client what it takes without being waited for.
    pub(super) fn hand_over(&mut self) {
        while let Some((bytes, line)) = self.for_client.lines.pop_front() {
            match self.to_client.try_send(line) {
                Ok(()) => self.for_client.bytes -= bytes,
                Err(mpsc::error::TrySendError::Full(line)) => {
                    self.for_client.lines.push_front((bytes, line));
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    self.is_over = true;
                    return;
                }
            }
        }
    }
}
