//! Standard output. A reader that has gone away (`| head`) ends the program quietly instead of with a panic.

use std::io::Write;

/// Writes and flushes.
pub(crate) fn out(args: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if out.write_fmt(args).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// A line on standard output.
macro_rules! say {
    () => { $crate::say::out(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::say::out(format_args!("{}\n", format_args!($($arg)*))) };
}
pub(crate) use say;
