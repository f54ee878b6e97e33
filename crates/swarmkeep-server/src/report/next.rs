//! How to continue: commands to paste.

use super::{Report, Step, Waiting};
use crate::reading::counted;

/// Commands proposed.
const STEPS: usize = 4;

impl Report {
    /// After what there is about what is lost: what waits, why something failed, and what happens now.
    pub(super) fn how_to_continue(&mut self, latest: Option<&str>) {
        for waiting in self.waiting.iter().take(2) {
            if let Some(command) = waiting.settle.first()
                && self.next.iter().all(|step| step.command != *command)
            {
                self.next.push(Step { why: why(waiting), command: command.clone() });
            }
        }
        if let Some(failed) = self.done.failures.first() {
            self.next.push(Step {
                why: format!("why `{}` failed", failed.what),
                command: format!("swarmkeep task show {} {}", failed.session, failed.id),
            });
        }
        if let Some(latest) = latest {
            let why = match self.done.open + self.done.running {
                0 => "what happens, as it happens".to_owned(),
                open => format!("{} to go: start the agents again, and watch", counted(open, "task")),
            };
            self.next.push(Step { why, command: format!("swarmkeep session history {latest} --follow") });
        }
        self.next.truncate(STEPS);
    }
}

fn why(waiting: &Waiting) -> String {
    let id = &waiting.id;
    match (waiting.kind.as_str(), waiting.what.as_str()) {
        ("effect", _) => format!("{id} was done, with its result in place of JSON (or --not-done)"),
        ("agent", _) => format!("see whether {id} lives, and start it again"),
        ("connection", _) => format!("start the tool server of {id} again, or mend its command or URL"),
        (_, "needs_decision") => format!("{id} needs a decision"),
        (_, what) => format!("{id} is {what}"),
    }
}

/// As a shell takes it for one word.
pub(super) fn quoted(word: &str) -> String {
    let is_plain =
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("pay-17"), "pay-17");
        assert_eq!(quoted("it's; rm"), r"'it'\''s; rm'");
        assert_eq!(quoted(""), "''");
    }
}
