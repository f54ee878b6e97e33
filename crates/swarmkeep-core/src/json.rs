//! A caller's JSON, kept as the bytes that came.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned},
};
use serde_json::value::RawValue;

use crate::{
    error::{Refusal, RefusalCode},
    limits,
};

/// JSON text, checked once and never re-encoded: `1.0` stays `1.0`, `2^63` keeps its digits, key order is the caller's.
/// At most [`limits::JSON_DEPTH`] levels deep, so that no reader's stack is at a writer's mercy.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// `invalid` when it is not one JSON value, or nested deeper than [`limits::JSON_DEPTH`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let raw: Box<RawValue> = serde_json::from_str(text)
            .map_err(|error| Refusal::new(RefusalCode::Invalid, format!("not a JSON value: {error}")))?;
        Self::checked(raw)
    }

    /// Encodes `value`.
    ///
    /// # Errors
    /// `invalid` when it cannot be JSON (a map with keys that are not strings), or is too deep.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, Refusal> {
        let raw = serde_json::value::to_raw_value(value)
            .map_err(|error| Refusal::new(RefusalCode::Invalid, format!("cannot be written as JSON: {error}")))?;
        Self::checked(raw)
    }

    /// Decodes into a type.
    ///
    /// # Errors
    /// `invalid` when the JSON has another shape.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Refusal> {
        serde_json::from_str(self.0.get())
            .map_err(|error| Refusal::new(RefusalCode::Invalid, format!("JSON of another shape: {error}")))
    }

    /// [`Json::decode`], for showing: what no value can hold is shown as near to it as can be ([`decode_lossy`]).
    ///
    /// # Errors
    /// As [`Json::decode`].
    pub fn decode_lossy<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        decode_lossy(self.0.get().as_bytes())
            .map_err(|error| Refusal::new(RefusalCode::Invalid, format!("JSON of another shape: {error}")))
    }

    /// `null`.
    #[must_use]
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// `{}`.
    #[must_use]
    pub fn object() -> Self {
        Self(serde_json::value::to_raw_value(&Empty {}).unwrap_or_default().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    fn checked(raw: Box<RawValue>) -> Result<Self, Refusal> {
        let mut depth = 0usize;
        let mut in_string = false;
        let mut escaped = false;
        for byte in raw.get().bytes() {
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => {
                    depth += 1;
                    if depth > limits::JSON_DEPTH {
                        return Err(Refusal::new(
                            RefusalCode::Limit,
                            format!(
                                "JSON nested deeper than {} levels; flatten it or store it as a blob",
                                limits::JSON_DEPTH
                            ),
                        ));
                    }
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        Ok(Self(raw.into()))
    }
}

#[derive(Serialize)]
struct Empty {}

/// Decodes JSON in which callers' values may stand, for showing it. JSON text may say what strings and numbers cannot hold,
/// and it is kept as it came: half of a surrogate pair is read as U+FFFD then, and a number out of range as its own text.
///
/// # Errors
/// When it is not JSON, or of another shape.
pub fn decode_lossy<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(text).or_else(|error| match holdable(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(text) => serde_json::from_slice(&text),
    })
}

/// The same JSON with what a value cannot hold replaced.
fn holdable(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    // Up to here everything is in `out`; nothing is as long as nothing was replaced.
    let mut taken = 0;
    let mut at = 0;
    let mut replace = |from: usize, to: usize, by: &[u8]| {
        out.extend_from_slice(text.get(taken..from).unwrap_or_default());
        out.extend_from_slice(by);
        taken = to;
    };
    let mut in_string = false;
    while let Some(byte) = text.get(at) {
        match (in_string, byte) {
            (_, b'"') => {
                in_string = !in_string;
                at += 1;
            }
            (true, b'\\') => match (escaped_unit(text, at), escaped_unit(text, at + ESCAPED_UNIT)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at += 2 * ESCAPED_UNIT,
                (Some(0xD800..=0xDFFF), _) => {
                    replace(at, at + ESCAPED_UNIT, br"\ufffd");
                    at += ESCAPED_UNIT;
                }
                _ => at += 2,
            },
            (false, b'-' | b'0'..=b'9') => {
                let rest = text.get(at..).unwrap_or_default();
                let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let number = rest.split(|byte| !is_part(byte)).next().unwrap_or_default();
                let end = at + number.len();
                let value = std::str::from_utf8(number).ok().and_then(|number| number.parse::<f64>().ok());
                if value.is_some_and(f64::is_infinite) {
                    replace(at, end, &[b"\"", number, b"\""].concat());
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if taken == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(text.get(taken..).unwrap_or_default());
    Cow::Owned(out)
}

/// Bytes of `\uXXXX`.
const ESCAPED_UNIT: usize = 6;

/// The UTF-16 unit that is written `\uXXXX` here, if one is.
fn escaped_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + ESCAPED_UNIT)?.strip_prefix(br"\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

impl PartialEq for Json {
    /// By bytes, not by value: `1.0` is not `1`.
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::checked(raw).map_err(|refusal| de::Error::custom(refusal.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_as_they_came() {
        for text in ["1.0", "9223372036854775808", r#"{"b":1,"a":[{"x":"}{"}],"b":2}"#, r#""\ud800""#, "null"] {
            assert_eq!(Json::parse(text).unwrap().as_str(), text);
            let back: Json =
                serde_json::from_str(&serde_json::to_string(&Json::parse(text).unwrap()).unwrap()).unwrap();
            assert_eq!(back.as_str(), text);
        }
    }

    #[test]
    fn what_a_value_cannot_hold_is_shown_all_the_same() {
        for (text, shown) in [
            (r#""cut \ud83d""#, r#""cut \ufffd""#),
            (r#""\udc00\ud83d\ude00\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00\ufffd\ud83d\ude00""#),
            (
                r#"{"a\ud800":[1e400,-1E+999,1e-400,"1e400\\\ud800"]}"#,
                r#"{"a\ufffd":["1e400","-1E+999",1e-400,"1e400\\\ufffd"]}"#,
            ),
            (r#"["\\ud800", "\"1e400", 1.0, 1e400]"#, r#"["\\ud800", "\"1e400", 1.0, "1e400"]"#),
        ] {
            let json = Json::parse(text).unwrap();
            let expected: serde_json::Value = serde_json::from_str(shown).unwrap();
            assert_eq!(json.decode_lossy::<serde_json::Value>().unwrap(), expected, "{text}");
            assert_eq!(json.as_str(), text);
        }
        assert!(decode_lossy::<serde_json::Value>(br#"{"cut": "\ud8"#).is_err());
        assert!(decode_lossy::<serde_json::Value>(br#"1e400 1"#).is_err());
    }

    #[test]
    fn depth_is_bounded_and_brackets_in_strings_do_not_count() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Json::parse(&deep(limits::JSON_DEPTH)).is_ok());
        assert_eq!(Json::parse(&deep(limits::JSON_DEPTH + 1)).unwrap_err().code, RefusalCode::Limit);
        assert!(Json::parse(&format!("\"{}\"", "[".repeat(1000))).is_ok());
    }
}
