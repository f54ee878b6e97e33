//! Colours: only on a terminal, and never where `NO_COLOR` is set.

use std::io::IsTerminal;

/// Whether to colour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self { on: allowed() && std::io::stdout().is_terminal() }
    }

    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self { on: allowed() && std::io::stderr().is_terminal() }
    }

    /// Plain text.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { on: false }
    }

    fn with(self, code: &str, text: impl std::fmt::Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(crate) fn bold(self, text: impl std::fmt::Display) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: impl std::fmt::Display) -> String {
        self.with("2", text)
    }

    pub(crate) fn red(self, text: impl std::fmt::Display) -> String {
        self.with("1;31", text)
    }

    pub(crate) fn green(self, text: impl std::fmt::Display) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: impl std::fmt::Display) -> String {
        self.with("33", text)
    }

    pub(crate) fn cyan(self, text: impl std::fmt::Display) -> String {
        self.with("36", text)
    }

    /// White on red: a `kill -9`.
    pub(crate) fn alarm(self, text: impl std::fmt::Display) -> String {
        self.with("1;97;41", text)
    }

    /// By what a status means: at work, waiting, ended badly.
    pub(crate) fn status(self, status: &str) -> String {
        match status {
            "live" | "running" | "busy" | "completed" | "finished" | "healthy" | "ok" => self.green(status),
            "failed" | "outcome_unknown" | "needs_decision" | "quarantined" | "unhealthy" | "damaged" => {
                self.red(status)
            }
            "paused" | "assigned" | "begun" | "degraded" | "warn" => self.yellow(status),
            "closed" | "expired" | "cancelled" | "terminated" | "parked" => self.dim(status),
            _ => status.to_owned(),
        }
    }
}

fn allowed() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var("TERM").is_ok_and(|term| term != "dumb")
}
