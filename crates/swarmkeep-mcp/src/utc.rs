//! Times as text.

use chrono::{DateTime, SecondsFormat, Utc};

/// A time as ISO 8601 has it.
pub(crate) fn utc(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis);
    time.unwrap_or(DateTime::<Utc>::MAX_UTC).to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_iso_8601() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(1_795_939_486_506), "2026-11-29T08:04:46.506Z");
        assert!(utc(u64::MAX).ends_with('Z'));
    }
}
