//! What is on its way.

use std::collections::VecDeque;

/// Lines on their way, and how many bytes they are.
pub(super) struct Queue<T> {
    pub(super) lines: VecDeque<(usize, T)>,
    pub(super) bytes: usize,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { lines: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn push(&mut self, bytes: usize, line: T) {
        self.bytes += bytes;
        self.lines.push_back((bytes, line));
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let (bytes, line) = self.lines.pop_front()?;
        self.bytes -= bytes;
        Some(line)
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.bytes = 0;
    }
}
