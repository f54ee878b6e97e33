//! What is wrong with a link, on the list of failures of its session: an outage, and what a server says that is not MCP.

use swarmkeep::{Breach, Lost, Session, core::FailureType, core::failure::ProtocolCause};

use super::{Upstream, connection_of};
use crate::{
    breach::{self, Breaches},
    calls::Standing,
    class::Class,
    envelope::Envelope,
    link::Generation,
};

/// A sending that broke off belongs to a loss of the connection that comes within this time.
const BROKE_WITH_MS: u64 = 10_000;

/// Calls that the server had.
#[derive(Debug, Clone, Copy, Default)]
struct Had {
    in_flight: u64,
    in_doubt: u64,
}

impl Had {
    fn add(&mut self, other: Self) {
        self.in_flight += other.in_flight;
        self.in_doubt += other.in_doubt;
    }
}

#[derive(Default)]
pub(super) struct Trouble {
    pub(super) breaches: Breaches,
    /// Lost with the connection, since it was up.
    lost: Had,
    /// Broken off one by one, the last of them at that time.
    broken: (u64, Had),
    /// Where it is listed: calls may go on in another session meanwhile.
    listed_in: Option<Session>,
}

impl Upstream {
    /// A sending has no answer, and may have been carried out.
    pub(super) fn count_broken(&mut self, wire: u64) {
        let Some((_, asked)) = self.calls.sent_as(wire) else { return };
        let in_doubt = u64::from(asked.class == Class::AtMostOnce);
        let now_ms = self.now_ms();
        let (at_ms, had) = &mut self.trouble.broken;
        if now_ms.saturating_sub(*at_ms) > BROKE_WITH_MS {
            *had = Had::default();
        }
        *at_ms = now_ms;
        had.add(Had { in_flight: 1, in_doubt });
    }

    /// The connection is about to be lost: what the server has.
    pub(super) fn count_lost(&mut self) {
        let sent = self.calls.open().filter(|(.., standing)| *standing == Standing::Sent);
        let mut had = Had::default();
        for (_, _, asked, _) in sent {
            had.add(Had { in_flight: 1, in_doubt: u64::from(asked.class == Class::AtMostOnce) });
        }
        let (at_ms, broken) = std::mem::take(&mut self.trouble.broken);
        if self.now_ms().saturating_sub(at_ms) <= BROKE_WITH_MS {
            had.add(broken);
        }
        self.trouble.lost.add(had);
    }

    fn listed_in(&mut self) -> Session {
        let record = &self.record;
        self.trouble.listed_in.get_or_insert_with(|| record.session().clone()).clone()
    }

    /// The outage has come so far that people are told.
    pub(super) fn notice_outage(&mut self, silent_ms: u64) {
        let Some(connection) = connection_of(&self.terms.client) else { return };
        let Had { in_flight, in_doubt } = self.trouble.lost;
        let why = self.last_loss.as_deref().unwrap_or("nothing came for too long");
        let what = format!(
            "`{}` cannot be reached ({why}), and is tried for ever; calls under way when it was lost: {in_flight}, of these in \
             doubt: {in_doubt}",
            self.terms.upstream
        );
        self.listed_in().notice_lost(&connection, Lost { silent_ms, in_flight, in_doubt }, what);
    }

    /// It is over.
    pub(super) fn notice_back(&mut self) {
        self.trouble.lost = Had::default();
        let Some(connection) = connection_of(&self.terms.client) else { return };
        self.listed_in().notice_mended(&connection, FailureType::ConnectionLost);
    }

    /// A handshake is over, if there was one.
    pub(super) fn troubles_synced(&mut self, generation: Generation) {
        if !self.link.has_outage() {
            self.trouble.lost = Had::default();
        }
        if !self.handshake.was_done_on(generation) {
            return;
        }
        let commands = self.trouble.breaches.synced(generation);
        self.list(commands);
    }

    /// The server said what is not MCP.
    pub(super) fn breached(&mut self, generation: Generation, breach: Breach) {
        let command = self.trouble.breaches.saw(self.now_ms(), generation, breach);
        self.list(command);
    }

    /// An answer came that nobody asked for.
    pub(super) fn answered_nothing(&mut self, generation: Generation, answer: &Envelope) {
        if self.trouble.breaches.is_foreign_again(generation) {
            let id = answer.id().map_or_else(|| "without an id".to_owned(), |id| format!("with id {id:.40}"));
            let what = format!("again and again it answers what nobody asked, {id}");
            self.breached(generation, breach::breach(ProtocolCause::UnknownId, what, answer.bytes()));
        }
    }

    pub(super) fn list(&mut self, commands: impl IntoIterator<Item = breach::Command>) {
        let Some(connection) = connection_of(&self.terms.client) else { return };
        for command in commands {
            match command {
                breach::Command::Notice(breach, times) => {
                    let what = format!("`{}`: {}", self.terms.upstream, breach.what);
                    self.listed_in().notice_breach(&connection, Breach { what, ..breach }, times);
                }
                breach::Command::Mended => self.listed_in().notice_mended(&connection, FailureType::ProtocolError),
            }
        }
    }

    /// The link ends. With its client, or with the daemon: then the client comes back to the next one.
    pub(super) fn end_troubles(&mut self, daemon_ends: bool) {
        let rest = self.trouble.breaches.rest();
        self.list(rest);
        if let (Some(connection), Some(session), false) =
            (connection_of(&self.terms.client), &self.trouble.listed_in, daemon_ends)
        {
            session.notice_gone(&connection);
        }
    }
}
