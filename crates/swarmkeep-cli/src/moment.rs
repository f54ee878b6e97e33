//! Times for people, in UTC, and the two clocks behind them.

pub(crate) use swarmkeep_server::reading::{counted, thousands};

use chrono::{DateTime, NaiveDate, Utc};
use rustix::time::{ClockId, clock_gettime};

/// Wall-clock milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    millis(ClockId::Realtime)
}

/// Microseconds of a clock that never goes back, for what is measured.
pub(crate) fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000
}

fn millis(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// `2026-11-21 15:08:51Z`; an empty text for 0, which stands for "never".
pub(crate) fn utc(ms: u64) -> String {
    if ms == 0 {
        return String::new();
    }
    let time = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis);
    time.unwrap_or(DateTime::<Utc>::MAX_UTC).format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `90s`, `30m`, `12h`, `7d`: so long before now.
pub(crate) fn back(text: &str, now_ms: u64) -> Option<u64> {
    let unit_ms = match text.chars().last()? {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    let count: u64 = text.get(..text.len() - 1)?.parse().ok()?;
    Some(now_ms.saturating_sub(count.checked_mul(unit_ms)?))
}

/// A time in UTC, as [`utc`] writes it; seconds, minutes, and the hour may be missing, `T` may stand for the space.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "0"));
    let numbers = |text: &str, mark: char| text.split(mark).map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
    let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
    let &[year @ 1970..=9999, month @ 1..=12, day @ 1..=31] = date.as_slice() else { return None };
    let &[hour, ref rest @ ..] = time.as_slice() else { return None };
    let (minute, second) = match rest {
        [] => (0, 0),
        &[minute] => (minute, 0),
        &[minute, second @ 0..=59] => (minute, second),
        _ => return None,
    };
    // The 31st of a month that has none is a typing error.
    let day = NaiveDate::from_ymd_opt(year.try_into().ok()?, month, day)?;
    let time = day.and_hms_opt(hour, minute, second)?;
    u64::try_from(time.and_utc().timestamp_millis()).ok()
}

/// `20261121-150851`: for names of folders.
pub(crate) fn stamp(ms: u64) -> String {
    utc(ms.max(1)).replace(['-', ':', 'Z'], "").replace(' ', "-")
}

/// `3 s ago`, `5 min ago`, `2 h ago`, else the day.
pub(crate) fn ago(ms: u64, now_ms: u64) -> String {
    if ms == 0 {
        return String::new();
    }
    match now_ms.saturating_sub(ms) / 1000 {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => utc(ms).chars().take(10).collect(),
    }
}

/// `1.5 KiB`, `3.0 MiB`: bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_calendar() {
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(utc(1_795_273_731_000), "2026-11-21 15:08:51Z");
        assert_eq!(stamp(1_795_273_731_000), "20261121-150851");
        assert_eq!(utc(0), "");
    }

    #[test]
    fn times_that_are_typed() {
        for ms in [0, 951_782_400_000, 1_795_273_731_000, 253_402_300_799_000] {
            assert_eq!(parse(&utc(ms.max(1))), Some(ms), "{ms}");
        }
        assert_eq!(parse("2026-11-21T15:08"), Some(1_795_273_680_000));
        assert_eq!(parse("2000-02-29"), Some(951_782_400_000));
        for wrong in ["", "2026", "2026-13-01", "2026-02-30", "2026-11-21 24:00", "yesterday", "2026-11-21 1:2:3:4"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(back("12h", 50_000_000), Some(6_800_000));
        assert_eq!(back("9d", 1), Some(0));
        for wrong in ["", "h", "12", "-1h", "1ü", "99999999999999999999d", "18446744073709551615d"] {
            assert_eq!(back(wrong, 1), None, "{wrong}");
        }
    }

    #[test]
    fn ages_and_sizes() {
        assert_eq!(ago(1_000, 4_500), "3 s ago");
        assert_eq!(ago(1_000, 7_201_000), "2 h ago");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
