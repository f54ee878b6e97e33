//! Memory that is free goes back to the system.
//!
//! A burst takes memory that a packed session does not need any more; glibc keeps what was freed below something that is
//! still in use for the next burst, and the program looks as large as it was at its largest. After sessions were packed or
//! dropped, glibc is asked to give whole free pages back. Other allocators do that by themselves, or not at all.
#![allow(unsafe_code, reason = "a call into the C library: there is no safe one")]

/// From so many freed bytes on it is worth walking the heaps.
const WORTH_BYTES: usize = 16 << 20;
/// No more often than this: a walk takes some 10 ms for a heap of 1 GB, and holds up who allocates meanwhile.
const EVERY_MS: u64 = 2_000;

/// Remembers what was freed, and when it was given back.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    bytes: usize,
    /// Walks still owed: the second catches what others (batches, frames) freed while the first went on.
    owed: u8,
    last_ms: u64,
}

impl Freed {
    /// Whether [`give_back`] is due now, after another `bytes` were freed.
    pub(crate) fn is_due(&mut self, bytes: usize, now_ms: u64) -> bool {
        self.bytes += bytes;
        if self.bytes >= WORTH_BYTES {
            (self.bytes, self.owed) = (0, 2);
        }
        if self.owed == 0 || now_ms.saturating_sub(self.last_ms) < EVERY_MS {
            return false;
        }
        (self.owed, self.last_ms) = (self.owed - 1, now_ms);
        true
    }
}

/// Gives free pages of the heap back to the system. Takes a while: off the async threads.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number, touches no memory of ours, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_change_is_kept_and_a_burst_is_given_back_twice() {
        let mut freed = Freed::default();
        assert!(!freed.is_due(WORTH_BYTES / 2, 10_000));
        assert!(freed.is_due(WORTH_BYTES / 2, 10_200));
        assert!(!freed.is_due(0, 10_400), "not at once again");
        assert!(freed.is_due(0, 10_200 + EVERY_MS));
        assert!(!freed.is_due(0, 60_000), "nothing is owed any more");
    }

    #[test]
    fn it_may_be_called() {
        give_back();
    }
}
