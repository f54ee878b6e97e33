//! How it ends: the client has said all, or is gone, or the daemon ends and the client comes back to the next one.

use std::time::Duration;

use futures_util::stream::StreamExt as _;
use tokio::time::Instant;

use super::{CallId, Done, Place, Task, Upstream};
use crate::{
    calls::{self, Standing},
    envelope::Envelope,
    link, transport,
};

/// A client that has said all waits this long for answers.
const DRAIN_MS: u64 = 30_000;
/// Then it has so long to take what it is told instead.
const LAST_WORDS_MS: u64 = 2_000;
/// Why what was begun was not sent, where its client comes back to the next daemon.
const STOPPED: &str = "swarmkeep was stopped";
/// At the end, what is still being written to the log is waited for this long.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Whether a call that was not carried out would have been, had the daemon not been stopped.
pub(super) fn is_of_a_stop(why: &str) -> bool {
    why.strip_prefix(STOPPED) == Some(calls::BEFORE_SENT)
}

impl Upstream {
    /// The end: the client is gone. What was sent and has no answer is written down as unknown.
    pub(super) async fn end(&mut self) {
        self.is_ending = true;
        self.look_at_clock();
        if self.daemon_ends() {
            // The next daemon goes on with it. What is being noted now is older, and there is no other time.
            self.is_noting = false;
            self.note_connection();
        }
        let gone = if self.daemon_ends() { STOPPED } else { "its client went away" };
        self.ledger(|calls, commands| calls.nobody_listens(gone, commands));
        let generation = self.link.generation();
        let now_ms = self.now_ms();
        self.ledger(|calls, commands| calls.lost(now_ms, generation, commands));
        // A server that is called off is told so.
        self.flush();
        self.link(link::Event::Stop);
        self.end_troubles(self.daemon_ends());
        // A server may take a while to end, and the client may be back with the same calls by then.
        self.write_finishes();
        if let Some(closing) = self.closing.take() {
            Self::part_with(closing, self.daemon_ends()).await;
        }
        let writes = async {
            self.drain_beside().await;
            self.forget_connection();
            self.drain_beside().await;
        };
        if tokio::time::timeout(LAST_WRITES, writes).await.is_err() {
            tracing::warn!(upstream = %self.terms.upstream, "the log did not take what was left to write");
        }
    }

    /// The client of a daemon that ends comes back to the next one, which goes on with the server's session.
    async fn part_with(ending: transport::Ending, is_left: bool) {
        match is_left {
            true => ending.leave().await,
            false => ending.close().await,
        }
    }

    async fn drain_beside(&mut self) {
        loop {
            self.begin_all();
            self.write_finishes();
            let done = tokio::select! {
                biased;
                Some(done) = self.begins.next() => done,
                Some(Ok(done)) = self.beside.join_next() => done,
                else => return,
            };
            match done {
                Done::Opened(_, Ok(connection)) => Self::part_with(connection.ending, self.daemon_ends()).await,
                // How the connection stood was noted before it was given up.
                Done::Opened(..) | Done::Noted | Done::Seen | Done::Written => {}
                done => self.done(done),
            }
        }
    }

    /// The client has said all: it gets the answers that come in a while.
    pub(super) fn drain(&mut self) {
        self.draining_until_ms = Some(self.now_ms().saturating_add(DRAIN_MS));
        self.end_if_drained();
    }

    /// The daemon ends: its client finds the next one. What is under way is waited for.
    pub(super) fn leave(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        self.leaving_until_ms = Some(self.now_ms().saturating_add(left_ms));
    }

    fn end_if_left(&mut self) {
        let Some(until_ms) = self.leaving_until_ms else { return };
        let is_under_way = |(call, message, _, standing): (CallId, &Envelope, _, Standing)| {
            matches!(standing, Standing::Sent | Standing::Recording)
                && !message.is_subscription()
                && self.places.get(&call).is_some_and(|place| !place.is_answered)
        };
        let waits = self.calls.open().any(is_under_way) || !self.for_client.lines.is_empty();
        self.is_over |= !waits || self.now_ms() >= until_ms;
    }

    /// A client that has said all has waited for long enough: it is told so, and what was not sent is not sent any more.
    fn let_go(&mut self) {
        self.handshake_offline();
        let is_awaited = |call: &CallId| self.places.get(call).is_some_and(|place| place.task.is_none());
        let awaited: Vec<CallId> = self.calls.open().map(|(call, ..)| call).filter(is_awaited).collect();
        self.ledger(|calls, commands| awaited.iter().for_each(|call| calls.let_go(*call, commands)));
    }

    pub(super) fn end_if_drained(&mut self) {
        self.end_if_left();
        if let Some(until_ms) = self.draining_until_ms {
            // Whoever has a task for an answer waits for nothing that is not under way.
            let is_awaited = |(call, place): (&CallId, &Place)| {
                let stands = self.calls.get(*call).is_some_and(|(message, _)| !message.is_subscription());
                stands && (place.task.is_none() || !self.calls.is_queued(*call))
            };
            let waits = self.places.iter().any(is_awaited)
                || self.looked_for > 0
                || self.tasks.values().any(Task::owes)
                || self.handshake.is_under_way()
                || self.handshake.is_awaited()
                || !self.for_client.lines.is_empty();
            if waits && self.now_ms() >= until_ms && !std::mem::replace(&mut self.has_let_go, true) {
                self.let_go();
                self.draining_until_ms = Some(self.now_ms().saturating_add(LAST_WORDS_MS));
                return;
            }
            self.is_over |= !waits || self.now_ms() >= until_ms;
        }
    }
}
