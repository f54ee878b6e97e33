//! Settings of the daemon: by file, environment and flags, in rising precedence. A wrong or unknown one is named, with
//! what is allowed.

mod known;
pub(crate) mod value;

use std::{collections::BTreeMap, fmt, fs, path::Path};

pub(crate) use self::known::{KNOWN, Known};
use self::value::Kind;
use crate::failure::Failure;

/// Who said what a setting is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nobody.
    Default,
    /// The settings file.
    File,
    /// This environment variable.
    Environment(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("file"),
            Self::Environment(name) => write!(f, "environment, {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Every known setting with its value, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, (String, Said)>,
    /// What the operator should be told: names that were not understood, old names that took effect.
    pub(crate) notes: Vec<String>,
}

/// Variables that begin like settings and are none.
const NOT_SETTINGS: &[&str] = &["SWARMKEEP_HOME", "SWARMKEEP_URL", "SWARMKEEP_CONFIG", "SWARMKEEP_SESSION"];

impl Settings {
    /// Puts them together.
    ///
    /// `file`: the settings file and whether it was asked for by name (then it must exist). `variables`: the environment.
    /// `flags`: name and value.
    pub(crate) fn load(
        file: (&Path, bool),
        variables: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, Failure> {
        let values = KNOWN.iter().map(|known| (known.name, (known.default.to_owned(), Said::Default))).collect();
        let mut settings = Self { values, notes: Vec::new() };
        settings.read_file(file.0, file.1)?;
        settings.read_variables(variables)?;
        for (name, value) in flags {
            settings.set(name, value, Said::Flag, "flag")?;
        }
        Ok(settings)
    }

    fn read_file(&mut self, path: &Path, asked_for: bool) -> Result<(), Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => return Ok(()),
            Err(error) => {
                return Err(Failure::usage(
                    format!("settings file `{}`: {error}", path.display()),
                    "give a readable file with --config, or leave it out",
                ));
            }
        };
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text.get(..span.start).unwrap_or("").matches('\n').count() + 1);
            Failure::usage(
                format!("settings file `{}`, line {line}: {}", path.display(), error.message()),
                unquoted(text.lines().nth(line - 1).unwrap_or_default()).unwrap_or_else(|| {
                    "one `name = value` a line; `swarmkeep serve --print-settings` shows all names".into()
                }),
            )
        })?;
        let place = format!("settings file `{}`", path.display());
        for (name, value) in &table {
            let value = value::from_toml(value).ok_or_else(|| {
                Failure::usage(format!("{place}: `{name}` is a table; settings are plain values"), allowed(name))
            })?;
            // A path is meant as seen from the file that says it, wherever the daemon is started.
            let value = match find(name) {
                Some(known) if matches!(known.kind, Kind::File) && !value.is_empty() => beside(path, &value),
                _ => value,
            };
            self.set(name, &value, Said::File, &place)?;
        }
        Ok(())
    }

    fn read_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<(), Failure> {
        // Old names first: the program's own name for the same thing counts more.
        let mut variables: Vec<(String, String)> = variables.into_iter().collect();
        variables.sort_by_key(|(name, _)| name.starts_with("SWARMKEEP_"));
        for (variable, value) in &variables {
            if let Some(known) = KNOWN.iter().find(|known| known.old_name == Some(variable.as_str())) {
                self.set(known.name, value, Said::Environment(variable.clone()), variable)?;
                self.notes.push(format!("{variable}={value} is taken as setting `{}`: {}", known.name, known.about));
            } else if let Some(name) = variable.strip_prefix("SWARMKEEP_") {
                let name = name.to_ascii_lowercase();
                if find(&name).is_some() {
                    self.set(&name, value, Said::Environment(variable.clone()), variable)?;
                } else if !NOT_SETTINGS.contains(&variable.as_str()) {
                    // Not an error: other programs of the house have variables of their own.
                    self.notes.push(format!("{variable} is no setting and does nothing{}", meant(&name)));
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str, said: Said, place: &str) -> Result<(), Failure> {
        let Some(known) = find(name) else {
            return Err(Failure::usage(format!("{place}: unknown setting `{name}`{}", meant(name)), allowed(name)));
        };
        if !known.kind.accepts(value) {
            let shown = if known.secret { "…" } else { value };
            return Err(Failure::usage(
                format!("{place}: setting `{}` cannot be `{shown}`", known.name),
                format!("allowed: {}", known.kind),
            ));
        }
        self.values.insert(known.name, (value.to_owned(), said));
        Ok(())
    }

    /// The text of a setting; empty where it is not set.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", |(value, _)| value)
    }

    /// A number, a size in bytes or a time in milliseconds.
    pub(crate) fn number(&self, name: &str) -> u64 {
        value::number(self.text(name)).unwrap_or(0)
    }

    /// A list.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        value::list(self.text(name))
    }

    /// How many somebody said.
    pub(crate) fn changed(&self) -> usize {
        self.values.values().filter(|(_, said)| *said != Said::Default).count()
    }

    /// Who said so.
    pub(crate) fn said(&self, name: &str) -> &Said {
        self.values.get(name).map_or(&Said::Default, |(_, said)| said)
    }
}

/// A path of a settings file's, as seen from that file.
fn beside(file: &Path, value: &str) -> String {
    let folder = std::path::absolute(file).ok().and_then(|file| file.parent().map(Path::to_owned)).unwrap_or_default();
    folder.join(value).to_string_lossy().into_owned()
}

/// What to do about a line that is no TOML because its text has no quotes.
fn unquoted(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let (known, value) = (find(name.trim())?, value.split('#').next().unwrap_or_default().trim());
    if value.is_empty() || value.starts_with(['"', '\'', '[']) {
        return None;
    }
    let value = if known.secret { "…" } else { value };
    Some(format!("put text in quotes: {} = \"{value}\"", known.name))
}

fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

fn allowed(name: &str) -> String {
    match find(name) {
        Some(known) => format!("allowed: {}", known.kind),
        None => format!("allowed: {}", KNOWN.iter().map(|known| known.name).collect::<Vec<_>>().join(", ")),
    }
}

/// ` (did you mean …?)` where a known name is near.
fn meant(name: &str) -> String {
    KNOWN
        .iter()
        .map(|known| (distance(name, known.name), known.name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map_or(String::new(), |(_, known)| format!(" (did you mean `{known}`?)"))
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, above) in b.chars().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(from != to)).min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
