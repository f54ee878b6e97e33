//! A client that reads a session's feed, from its first record on, over whatever happens to holders and connections.

use swarmkeep::{FeedToken, From, Seq};
use swarmkeep_core::testing::Draw;

use crate::{
    holder::{Holder, Subscription},
    invariant::feeds::{self, Place},
    oracle::Oracle,
};

/// A reader, over all its subscriptions.
#[derive(Debug)]
pub struct Reader {
    session: usize,
    place: Place,
    token: Option<FeedToken>,
    subscription: Option<Subscription>,
    draw: Draw,
    /// Its connections break by themselves.
    breaks: bool,
}

impl Reader {
    /// A reader that has read nothing.
    #[must_use]
    pub fn new(session: usize, seed: u64, breaks: bool) -> Self {
        let place = Place::default();
        Self { session, place, token: None, subscription: None, draw: Draw::new(seed), breaks }
    }

    /// Its connection is gone; what was under way on it is lost.
    pub fn cut(&mut self) {
        self.subscription = None;
    }

    /// The session it reads is gone; it begins again with the next one of that name.
    pub fn forgets(&mut self, gone: usize) {
        if self.session == gone {
            *self = Self::new(gone, self.draw.number(), self.breaks);
        }
    }

    /// Whether it has read what was shown to anybody.
    #[must_use]
    pub fn is_up_to(&self, oracle: &Oracle) -> bool {
        self.place.seq >= oracle.sessions[self.session].floor
    }

    /// Which session it reads, and how far it has come.
    #[must_use]
    pub fn stands(&self) -> (usize, u64) {
        (self.session, self.place.seq)
    }

    /// Reads what has come. Gives how many items.
    ///
    /// # Errors
    /// What must not be in a feed.
    pub fn read(&mut self, holder: &Holder, oracle: &mut Oracle, calm: bool) -> Result<u64, String> {
        let Some(subscription) = &mut self.subscription else {
            // Records that somebody wanted removed may be gone.
            let kept = oracle.sessions[self.session].trimmed;
            let from = if self.place.seq < kept {
                (self.place, self.token) = (Place { seq: kept }, None);
                From::Seq(Seq(kept))
            } else {
                self.token.map_or(From::Seq(Seq(self.place.seq)), From::Token)
            };
            self.subscription = Some(holder.subscribe(self.session, from));
            return Ok(0);
        };
        if self.breaks && !calm && self.draw.one_in(12) {
            self.subscription = None;
            return Ok(0);
        }
        let mut read = 0;
        for item in subscription.take() {
            read += feeds::follows(&mut self.place, &item)?;
            oracle.shows(self.session, item.record.seq.0, item.record.hash)?;
            self.token = Some(item.token);
        }
        if subscription.is_over() {
            self.subscription = None;
        }
        Ok(read)
    }
}
