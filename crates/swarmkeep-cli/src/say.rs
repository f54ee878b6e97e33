//! What is said: answers on standard output, remarks on standard error. Nothing that happens to them is a panic.

use std::{
    io::{self, ErrorKind, Write},
    sync::atomic::{AtomicBool, Ordering},
};

/// Nobody reads any more, or nothing can be written: from then on the verb works in silence.
static IS_SILENT: AtomicBool = AtomicBool::new(false);
/// An answer was lost for another reason than that nobody wanted it.
static IS_LOST: AtomicBool = AtomicBool::new(false);
static IS_ANSWERED: AtomicBool = AtomicBool::new(false);

/// Writes and flushes. A reader that has gone away (`| head`) has what it wanted: the verb goes on in silence, and its exit
/// code stays its own. Anything else that stands in the way is said on standard error, and [`is_lost`] from then on.
pub(crate) fn out(args: std::fmt::Arguments<'_>) {
    if IS_SILENT.load(Ordering::Relaxed) {
        return;
    }
    let mut out = io::stdout().lock();
    let Err(error) = out.write_fmt(args).and_then(|()| out.flush()) else { return };
    IS_SILENT.store(true, Ordering::Relaxed);
    if error.kind() != ErrorKind::BrokenPipe {
        IS_LOST.store(true, Ordering::Relaxed);
        err(format_args!("swarmkeep: standard output cannot be written: {error}\n"));
    }
}

/// Writes to standard error; where that cannot be written either, there is nobody left to tell.
pub(crate) fn err(args: std::fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(args);
}

/// Whether something that was asked for could not be written.
pub(crate) fn is_lost() -> bool {
    IS_LOST.load(Ordering::Relaxed)
}

/// An answer in JSON was given: what is said after it is no second one.
pub(crate) fn has_answered() {
    IS_ANSWERED.store(true, Ordering::Relaxed);
}

/// Whether one was.
pub(crate) fn is_answered() -> bool {
    IS_ANSWERED.load(Ordering::Relaxed)
}

/// A reader that has gone away: who follows something without end need not go on.
pub(crate) fn is_silent() -> bool {
    IS_SILENT.load(Ordering::Relaxed)
}

/// A line on standard output.
macro_rules! say {
    () => { $crate::say::out(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::say::out(format_args!("{}\n", format_args!($($arg)*))) };
}
pub(crate) use say;

/// A line on standard error.
macro_rules! remark {
    ($($arg:tt)*) => { $crate::say::err(format_args!("{}\n", format_args!($($arg)*))) };
}
pub(crate) use remark;
