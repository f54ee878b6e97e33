//! A caller's JSON, kept as the bytes that came.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
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
    fn depth_is_bounded_and_brackets_in_strings_do_not_count() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Json::parse(&deep(limits::JSON_DEPTH)).is_ok());
        assert_eq!(Json::parse(&deep(limits::JSON_DEPTH + 1)).unwrap_err().code, RefusalCode::Limit);
        assert!(Json::parse(&format!("\"{}\"", "[".repeat(1000))).is_ok());
    }
}
