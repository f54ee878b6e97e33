//! What comes in and is no request of the client: answers, notifications, and what the server asks.

use bytes::Bytes;

use super::{Ask, CallId, Calls, Command, Ending, Standing, Stray, TOKENS, settle};
use crate::{
    envelope::{Edit, Envelope, Kind},
    link::Generation,
};

impl Calls {
    /// A message from the server on a connection.
    pub fn from_server(
        &mut self,
        now_ms: u64,
        generation: Generation,
        message: &Envelope,
        commands: &mut Vec<Command>,
    ) {
        match message.kind() {
            Kind::Result | Kind::Error => self.answer(generation, message, commands),
            Kind::Request => {
                let id = self.own_id();
                let ask = Ask { generation, id: message.id().unwrap_or("null").to_owned() };
                self.asks.insert(id, ask);
                let id = id.to_string();
                commands.push(Command::Deliver(message.edited(Edit { id: Some(&id), ..Edit::default() })));
            }
            Kind::Notification => self.notified(now_ms, generation, message, commands),
        }
    }

    fn answer(&mut self, generation: Generation, message: &Envelope, commands: &mut Vec<Command>) {
        let Some(wire) = message.id().and_then(|id| id.parse::<u64>().ok()) else {
            return self.stray(Stray::Foreign, commands);
        };
        let Some(&id) = self.by_wire.get(&wire) else {
            let stray = if wire < self.next_wire { Stray::Over } else { Stray::Foreign };
            return self.stray(stray, commands);
        };
        let Some(call) = self.calls.get(&id) else { return };
        if call.wire != Some((wire, generation)) {
            return self.stray(Stray::OldGeneration, commands);
        }
        let client_id = call.message.id().unwrap_or("null");
        if !call.is_cancelled && !call.is_settled {
            let subscription = message.subscription().map(|_| client_id);
            let edit = Edit { id: Some(client_id), subscription, ..Edit::default() };
            commands.push(Command::Answer { call: id, line: message.edited(edit) });
        }
        let ok = message.kind() == Kind::Result;
        let was_called_off = call.is_cancelled || call.is_settled;
        let ending = match ok || !was_called_off {
            true => Ending::Answered { ok, body: message.body_bytes().unwrap_or(Bytes::from_static(b"null")) },
            // Servers answer so what they were told to stop: it says nothing about what they had done by then.
            false => Ending::Unknown { why: "it was called off, and its server answered with an error".to_owned() },
        };
        if call.message.param("task").is_some()
            && let Some(token) = call.message.token()
        {
            if self.tokens.len() >= TOKENS {
                self.tokens.pop_first();
            }
            self.tokens.insert(wire, (generation, token.to_owned()));
        }
        self.finish(id, ending, commands);
        self.remove(id);
    }

    fn notified(&mut self, now_ms: u64, generation: Generation, message: &Envelope, commands: &mut Vec<Command>) {
        match message.method() {
            Some("notifications/progress") => self.progress(now_ms, generation, message, commands),
            Some("notifications/cancelled") => {
                // The server no longer wants what it asked the client.
                let asked = self
                    .asks
                    .iter()
                    .find(|(_, ask)| ask.generation == generation && Some(ask.id.as_str()) == message.target());
                let Some((&id, _)) = asked else { return self.stray(Stray::Foreign, commands) };
                self.asks.remove(&id);
                let id = id.to_string();
                commands.push(Command::Deliver(message.edited(Edit { target: Some(&id), ..Edit::default() })));
            }
            _ => {
                let Some(subscription) = message.subscription() else {
                    commands.push(Command::Deliver(message.bytes().clone()));
                    return;
                };
                let call = subscription.parse::<u64>().ok().and_then(|wire| self.by_wire.get(&wire));
                let Some(call) = call.and_then(|id| self.calls.get(id)).filter(|call| !call.is_cancelled) else {
                    return self.stray(Stray::Foreign, commands);
                };
                let edit = Edit { subscription: call.message.id(), ..Edit::default() };
                commands.push(Command::Deliver(message.edited(edit)));
            }
        }
    }

    fn progress(&mut self, now_ms: u64, generation: Generation, message: &Envelope, commands: &mut Vec<Command>) {
        let wire = message.token().and_then(|token| token.parse::<u64>().ok());
        let Some(wire) = wire else { return self.stray(Stray::Progress, commands) };
        if let Some((of, token)) = self.tokens.get(&wire).filter(|(of, _)| *of == generation) {
            debug_assert_eq!(*of, generation);
            commands.push(Command::Deliver(message.edited(Edit { token: Some(token), ..Edit::default() })));
            return;
        }
        let call = self.by_wire.get(&wire).and_then(|id| self.calls.get_mut(id));
        let Some(call) =
            call.filter(|call| call.wire == Some((wire, generation)) && !call.is_cancelled && !call.is_settled)
        else {
            return self.stray(Stray::Progress, commands);
        };
        call.until_ms =
            now_ms.saturating_add(self.limits.call_ms).min(call.sent_ms.saturating_add(self.limits.call_most_ms));
        // While it was held the client heard of progress in millionths: what comes now must be more.
        let heard = f64::from(call.hold_progressed) * settle::HOLD_STEP;
        let progress = message.param("progress").and_then(|progress| progress.parse::<f64>().ok());
        if call.hold_progressed > 0 && progress.is_some_and(|progress| progress <= heard) {
            return;
        }
        commands.push(Command::Deliver(message.edited(Edit { token: call.message.token(), ..Edit::default() })));
    }

    /// A message of the client that is no request.
    pub fn from_client(&mut self, message: &Envelope, commands: &mut Vec<Command>) {
        match message.kind() {
            Kind::Result | Kind::Error => {
                let ask = message.id().and_then(|id| id.parse::<u64>().ok()).and_then(|id| self.asks.remove(&id));
                // Of an ask that was lost with its connection nothing is left here, so that its answer goes nowhere.
                let Some(ask) = ask else { return self.stray(Stray::ClientLate, commands) };
                let line = message.edited(Edit { id: Some(&ask.id), ..Edit::default() });
                commands.push(Command::Tell { generation: ask.generation, line });
            }
            Kind::Notification if message.method() == Some("notifications/cancelled") => self.cancel(message, commands),
            Kind::Notification => {
                if let Some(generation) = self.passing {
                    commands.push(Command::Tell { generation, line: message.bytes().clone() });
                }
            }
            Kind::Request => {}
        }
    }

    fn cancel(&mut self, message: &Envelope, commands: &mut Vec<Command>) {
        if let Some(&id) = message.target().and_then(|target| self.by_id.get(target)) {
            self.cancel_call(id, message, commands);
        }
    }

    /// Nobody wants the answer any more. A server that has the call is told so by `message`, a `notifications/cancelled`.
    pub fn cancel_call(&mut self, id: CallId, message: &Envelope, commands: &mut Vec<Command>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.is_cancelled = true;
        match (call.standing, call.wire) {
            (Standing::Sent, Some((wire, generation))) => {
                let wire = wire.to_string();
                let line = message.edited(Edit { target: Some(&wire), ..Edit::default() });
                commands.push(Command::Tell { generation, line });
                self.detach(id);
            }
            // Its effect is about to be durable: it is settled then.
            (Standing::Recording, _) => {}
            _ if call.was_sent => {
                let why = "the connection was lost, and the client cancelled it before it was sent again".to_owned();
                self.finish(id, Ending::Unknown { why }, commands);
                self.remove(id);
            }
            _ => self.settle_unsent(id, "the client cancelled it before it was sent", None, commands),
        }
    }
}
