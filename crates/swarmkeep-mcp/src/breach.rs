//! What a server says that is not MCP: listed when it comes, then once a minute at most, with how often it came since.
//!
//! It is over when the server carries a handshake out on a later connection, or has said something and nothing wrong for a
//! minute. Pure, as the link is: what it gives back is carried out by whoever drives it.

use swarmkeep::{Breach, core::failure::ProtocolCause};

use crate::link::Generation;

/// Between two notices of one link; and so long a server has to keep to its protocol before that is believed.
pub const MINUTE_MS: u64 = 60_000;
/// So many answers that nobody asked for on one connection are no accident.
pub const FOREIGN: u32 = 3;
/// Of what was said, so many bytes are shown.
const SHOWN_BYTES: usize = 64;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// List it: it came so often since the last notice.
    Notice(Breach, u64),
    /// What was listed is over.
    Mended,
}

/// A breach.
#[must_use]
pub fn breach(cause: ProtocolCause, what: impl Into<String>, said: &[u8]) -> Breach {
    let shown = said.get(..SHOWN_BYTES.min(said.len())).unwrap_or_default();
    Breach { cause, what: what.into(), beginning: shown.escape_ascii().to_string() }
}

/// Whether a server names a revision of MCP: a date, or whatever its client asked for. Both are JSON text.
#[must_use]
pub fn is_revision(named: Option<&str>, asked: Option<&str>) -> bool {
    let is_date = |text: &str| {
        let form = |(at, byte): (usize, u8)| match at {
            0 | 11 => byte == b'"',
            5 | 8 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        text.len() == 12 && text.bytes().enumerate().all(form)
    };
    named.is_some_and(|named| is_date(named) || (Some(named) == asked && named.starts_with('"')))
}

/// What one link's servers said that is not MCP.
#[derive(Debug, Default)]
pub struct Breaches {
    /// Answers that nobody asked for, on the connection of that generation.
    foreign: (Generation, u32),
    /// The last one that is not listed yet, and how many there are of these.
    waiting: Option<(Breach, u64)>,
    noticed_ms: Option<u64>,
    /// When the last one came, and on which connection; none: all is well.
    last: Option<(u64, Generation)>,
    /// Something else was said since.
    has_spoken: bool,
}

impl Breaches {
    /// One came.
    pub fn saw(&mut self, now_ms: u64, generation: Generation, breach: Breach) -> Option<Command> {
        (self.last, self.has_spoken) = (Some((now_ms, generation)), false);
        let times = self.waiting.take().map_or(0, |(_, times)| times) + 1;
        self.waiting = Some((breach, times));
        self.notice(now_ms)
    }

    /// An answer that nobody asked for: whether there were too many of them to be accidents.
    pub fn is_foreign_again(&mut self, generation: Generation) -> bool {
        if self.foreign.0 != generation {
            self.foreign = (generation, 0);
        }
        self.foreign.1 = self.foreign.1.saturating_add(1);
        self.foreign.1 >= FOREIGN
    }

    /// A message came.
    pub fn heard(&mut self) {
        self.has_spoken = true;
    }

    /// A handshake was carried out.
    pub fn synced(&mut self, generation: Generation) -> Vec<Command> {
        match self.last {
            Some((_, on)) if on < generation => self.mended(),
            _ => Vec::new(),
        }
    }

    /// When [`tick`](Self::tick) is due.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        match (&self.waiting, self.noticed_ms, self.last) {
            (Some(_), Some(noticed_ms), _) => Some(noticed_ms.saturating_add(MINUTE_MS)),
            (None, _, Some((last_ms, _))) if self.has_spoken => Some(last_ms.saturating_add(MINUTE_MS)),
            _ => None,
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Command> {
        if self.due_ms().is_none_or(|due_ms| now_ms < due_ms) {
            return Vec::new();
        }
        match self.notice(now_ms) {
            Some(notice) => vec![notice],
            None => self.mended(),
        }
    }

    /// The link ends: what is not listed yet.
    pub fn rest(&mut self) -> Option<Command> {
        self.waiting.take().map(|(breach, times)| Command::Notice(breach, times))
    }

    fn notice(&mut self, now_ms: u64) -> Option<Command> {
        if self.noticed_ms.is_some_and(|noticed_ms| now_ms.saturating_sub(noticed_ms) < MINUTE_MS) {
            return None;
        }
        let notice = self.rest()?;
        self.noticed_ms = Some(now_ms);
        Some(notice)
    }

    fn mended(&mut self) -> Vec<Command> {
        self.last = None;
        self.rest().into_iter().chain([Command::Mended]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Generation = Generation(1);
    const TWO: Generation = Generation(2);

    fn noise(said: &str) -> Breach {
        breach(ProtocolCause::NotAMessage, "not JSON", said.as_bytes())
    }

    #[test]
    fn the_first_is_listed_at_once_and_the_others_of_a_minute_together() {
        let mut breaches = Breaches::default();
        assert_eq!(breaches.saw(1_000, ONE, noise("a")), Some(Command::Notice(noise("a"), 1)));
        for at_ms in 2_000..2_100 {
            assert_eq!(breaches.saw(at_ms, ONE, noise("b")), None);
        }
        assert_eq!(breaches.due_ms(), Some(61_000));
        assert_eq!(breaches.tick(60_999), []);
        assert_eq!(breaches.tick(61_000), [Command::Notice(noise("b"), 100)]);
        assert_eq!((breaches.due_ms(), breaches.rest()), (None, None));
        assert_eq!(breaches.saw(62_000, ONE, noise("c")), None);
        assert_eq!(breaches.rest(), Some(Command::Notice(noise("c"), 1)), "the link ends before the minute does");
    }

    #[test]
    fn it_is_over_after_a_minute_of_nothing_but_messages() {
        let mut breaches = Breaches::default();
        breaches.heard();
        assert_eq!((breaches.due_ms(), breaches.tick(900_000)), (None, vec![]), "nothing was wrong");
        let _ = breaches.saw(1_000, ONE, noise("a"));
        assert_eq!((breaches.due_ms(), breaches.tick(900_000)), (None, vec![]), "who says nothing says nothing right");
        breaches.heard();
        assert_eq!(breaches.tick(60_999), []);
        assert_eq!(breaches.tick(61_000), [Command::Mended]);
        assert_eq!(breaches.tick(200_000), []);
    }

    #[test]
    fn it_is_over_with_a_handshake_on_a_later_connection() {
        let mut breaches = Breaches::default();
        let _ = breaches.saw(1_000, ONE, noise("a"));
        let _ = breaches.saw(1_001, ONE, noise("b"));
        assert_eq!(breaches.synced(ONE), [], "it was said on this one");
        assert_eq!(breaches.synced(TWO), [Command::Notice(noise("b"), 1), Command::Mended]);
        assert_eq!(breaches.synced(Generation(3)), []);
    }

    #[test]
    fn answers_to_nothing_are_accidents_until_they_come_again_and_again() {
        let mut breaches = Breaches::default();
        let found: Vec<bool> = [ONE, ONE, TWO, TWO, TWO, TWO].map(|on| breaches.is_foreign_again(on)).to_vec();
        assert_eq!(found, [false, false, false, false, true, true]);
    }

    #[test]
    fn what_was_said_is_shown_escaped_and_not_whole() {
        assert_eq!(noise("a\"\n\u{1b}[é").beginning, r#"a\"\n\x1b[\xc3\xa9"#);
        assert_eq!(noise(&"x".repeat(1_000)).beginning.len(), SHOWN_BYTES);
    }

    #[test]
    fn a_revision_is_a_date_or_what_was_asked_for() {
        assert!(is_revision(Some("\"2025-11-25\""), None));
        assert!(is_revision(Some("\"DRAFT-2027\""), Some("\"DRAFT-2027\"")));
        for named in [None, Some("null"), Some("2025"), Some("\"1.0\""), Some("\"2025-11-2x\""), Some("\"2025/11/25\"")]
        {
            assert!(!is_revision(named, Some("\"2025-11-25\"")), "{named:?}");
        }
        assert!(!is_revision(Some("1"), Some("1")));
    }
}
