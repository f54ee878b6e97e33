//! What happened, line by line. The hash of all lines is what two runs of a seed are compared by.

use std::fmt;

/// The lines of one world.
#[derive(Debug)]
pub struct Trace {
    hash: blake3::Hasher,
    kept: Option<Vec<String>>,
    steps: u64,
}

impl Trace {
    /// Lines are hashed; kept only where somebody wants to read them.
    #[must_use]
    pub fn new(kept: bool) -> Self {
        Self { hash: blake3::Hasher::new(), kept: kept.then(Vec::new), steps: 0 }
    }

    /// Something happened.
    pub fn say(&mut self, now_ms: u64, what: fmt::Arguments<'_>) {
        self.steps += 1;
        let line = format!("{now_ms:>7} {what}");
        self.hash.update(line.as_bytes()).update(b"\n");
        if let Some(kept) = &mut self.kept {
            kept.push(line);
        }
    }

    /// How much happened.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The hash of all lines so far.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *self.hash.finalize().as_bytes()
    }

    /// The lines, if they were kept.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.kept.unwrap_or_default()
    }
}
