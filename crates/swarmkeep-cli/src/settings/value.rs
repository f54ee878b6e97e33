//! What a setting may look like, and how it is read.

use std::{fmt, net::SocketAddr};

/// The allowed values of a setting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A whole number between two.
    Number(u64, u64),
    /// Bytes between two, plain or with KiB, MiB, GiB.
    Bytes(u64, u64),
    /// A time between two, in milliseconds, plain or with ms, s, min, h.
    Time(u64, u64),
    /// IP addresses with ports.
    Addresses,
    /// Words.
    Words,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// 16 or more visible ASCII characters, or nothing.
    Token,
    /// A path of a file, or nothing.
    File,
}

impl Kind {
    pub(crate) fn accepts(&self, value: &str) -> bool {
        match *self {
            Self::Number(low, high) => value.parse().is_ok_and(|number: u64| (low..=high).contains(&number)),
            Self::Bytes(low, high) => {
                number(value).is_some_and(|number| !timed(value) && (low..=high).contains(&number))
            }
            Self::Time(low, high) => {
                number(value).is_some_and(|number| !sized(value) && (low..=high).contains(&number))
            }
            Self::Addresses => {
                let all = list(value);
                !all.is_empty() && all.iter().all(|address| address.parse::<SocketAddr>().is_ok())
            }
            Self::Words => list(value).iter().all(|word| !word.contains(char::is_whitespace)),
            Self::OneOf(all) => all.contains(&value),
            Self::Token => value.is_empty() || (value.len() >= 16 && value.bytes().all(|byte| byte.is_ascii_graphic())),
            Self::File => !value.contains('\0'),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(low, high) => write!(f, "{low} to {high}"),
            Self::Bytes(low, high) => {
                write!(f, "{} to {} (plain bytes, or with KiB, MiB, GiB)", size(*low), size(*high))
            }
            Self::Time(low, high) => write!(f, "{low} to {high} (milliseconds, or with ms, s, min, h)"),
            Self::Addresses => f.write_str("ADDRESS:PORT, several with commas; port 0 takes a free one"),
            Self::Words => f.write_str("words with commas between them, or nothing"),
            Self::OneOf(all) => f.write_str(&all.join(", ")),
            Self::Token => f.write_str("16 or more visible ASCII characters (openssl rand -hex 32)"),
            Self::File => f.write_str("a path"),
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 && bytes % (1 << 30) == 0 => format!("{}GiB", bytes >> 30),
        bytes if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 && bytes % (1 << 10) == 0 => format!("{}KiB", bytes >> 10),
        bytes => bytes.to_string(),
    }
}

const SIZES: &[(&str, u64)] = &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const TIMES: &[(&str, u64)] = &[("ms", 1), ("min", 60_000), ("s", 1_000), ("h", 3_600_000)];

fn sized(value: &str) -> bool {
    SIZES.iter().any(|(unit, _)| value.ends_with(unit))
}

fn timed(value: &str) -> bool {
    TIMES.iter().any(|(unit, _)| value.ends_with(unit))
}

/// A number, a size or a time, in its smallest unit.
pub(crate) fn number(value: &str) -> Option<u64> {
    for (unit, factor) in SIZES.iter().chain(TIMES) {
        if let Some(count) = value.strip_suffix(unit) {
            return count.trim_end().parse::<u64>().ok()?.checked_mul(*factor);
        }
    }
    value.parse().ok()
}

/// A time with its unit, in milliseconds.
pub(crate) fn time(value: &str) -> Option<u64> {
    if timed(value) { number(value) } else { None }
}

/// What stands between commas.
pub(crate) fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The text of a value in a settings file; `None` for what is no plain value.
pub(crate) fn from_toml(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Array(all) => Some(all.iter().map(from_toml).collect::<Option<Vec<_>>>()?.join(",")),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
