//! Commands in what people read: they work when they are pasted, for the same store, also where the program is not on the
//! PATH (`cargo run -- demo`).

use std::{path::PathBuf, sync::OnceLock};

use crate::place::{self, Place};

/// What may follow the program's name in a hint.
const VERBS: &[&str] = &[
    "serve",
    "stop",
    "demo",
    "session",
    "agent",
    "task",
    "message",
    "memory",
    "effect",
    "metric",
    "checkpoint",
    "recover",
    "quarantine",
    "report",
    "verify",
    "doctor",
    "take-over",
    "migrate",
    "bench",
    "chaos",
    "mcp",
];
/// Those that work on the store's folder, and not through a URL.
const OF_A_FOLDER: &[&str] = &["serve", "stop", "demo", "recover", "take-over", "migrate", "bench", "chaos", "mcp"];
const NAME: &str = "swarmkeep";

/// How this program is called: by its name where the PATH leads to it, else by its path.
pub(crate) fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let Ok(this) = std::env::current_exe().and_then(|path| path.canonicalize()) else { return NAME.to_owned() };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_this = |dir: PathBuf| dir.join(NAME).canonicalize().is_ok_and(|found| found == this);
        if std::env::split_paths(&path).any(is_this) { NAME.to_owned() } else { place::shown(&this) }
    })
}

/// A text in which every `swarmkeep VERB` is the command to paste: with the program's path, and the store or URL that this
/// call was given.
pub(crate) fn pasted(text: &str, place: &Place, url: Option<&str>) -> String {
    with(text, program(), place.option().as_deref(), url)
}

fn with(text: &str, program: &str, store: Option<&str>, url: Option<&str>) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find(NAME) {
        let (before, found) = rest.split_at(at);
        let after = found.get(NAME.len()..).unwrap_or_default();
        out.push_str(before);
        let is_word = !out.ends_with(|char: char| char.is_alphanumeric() || "/._-".contains(char));
        let verb =
            after.strip_prefix(' ').and_then(|after| after.split([' ', '`', ';', ',', ')']).next()).unwrap_or("");
        if is_word && VERBS.contains(&verb) {
            out.push_str(program);
            let named = ["--store", "--url"].iter().any(|option| command(after).contains(option));
            match (url.filter(|_| !OF_A_FOLDER.contains(&verb)), store) {
                _ if named => {}
                (Some(url), _) => out.push_str(&format!(" --url {url}")),
                (None, Some(store)) => out.push_str(&format!(" {store}")),
                (None, None) => {}
            }
        } else {
            out.push_str(NAME);
        }
        rest = after;
    }
    out + rest
}

/// The rest of the command that a hint goes on with: up to its closing quote, or the end of the clause.
fn command(text: &str) -> &str {
    text.split(['`', ';', ',']).next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_for_this_store_and_nothing_else_is_touched() {
        let of = |text: &str| with(text, "/bin/x", Some("--store /s"), None);
        assert_eq!(of("`swarmkeep doctor` looks"), "`/bin/x --store /s doctor` looks");
        assert_eq!(of("start one: swarmkeep serve"), "start one: /bin/x --store /s serve");
        for same in ["a newer swarmkeep is needed", "in /a/swarmkeep serve", "swarmkeep-demo", "swarmkeep"] {
            assert_eq!(of(same), same);
        }
        assert_eq!(
            of("swarmkeep stop --store /t, or `swarmkeep verify`"),
            "/bin/x stop --store /t, or `/bin/x --store /s verify`"
        );
        let remote = |text: &str| with(text, "swarmkeep", None, Some("http://h:1"));
        assert_eq!(
            remote("`swarmkeep session ls`, `swarmkeep serve`"),
            "`swarmkeep --url http://h:1 session ls`, `swarmkeep serve`"
        );
    }
}
