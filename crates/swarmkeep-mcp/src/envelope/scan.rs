//! JSON, read by position: where values begin and end, and nothing about what they mean.
//!
//! Checks the grammar of RFC 8259 and keeps no more than one byte per open bracket, so that neither depth nor size of what a
//! peer sends is a matter of the stack.

use std::ops::Range;

/// Where something stands in a text.
pub(crate) type Span = Range<usize>;

/// What is wrong, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

fn fault<T>(at: usize, what: &'static str) -> Result<T, Fault> {
    Err(Fault { at, what })
}

/// The first position from `at` on that is no white space.
pub(crate) fn space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The end of the value that begins at `at`, where no white space is.
pub(crate) fn value_end(text: &[u8], mut at: usize) -> Result<usize, Fault> {
    // The brackets that have to close what is open.
    let mut open: Vec<u8> = Vec::new();
    loop {
        match text.get(at) {
            Some(&bracket @ (b'{' | b'[')) => {
                let close = if bracket == b'{' { b'}' } else { b']' };
                let next = space(text, at + 1);
                if text.get(next) != Some(&close) {
                    open.push(close);
                    at = if close == b'}' { key_end(text, next)? } else { next };
                    continue;
                }
                at = next + 1;
            }
            Some(b'"') => at = string_end(text, at)?,
            Some(b'-' | b'0'..=b'9') => at = number_end(text, at)?,
            Some(b't') => at = literal_end(text, at, b"true")?,
            Some(b'f') => at = literal_end(text, at, b"false")?,
            Some(b'n') => at = literal_end(text, at, b"null")?,
            _ => return fault(at, "no value"),
        }
        // A value has ended: with it ends whatever it was the last of.
        loop {
            let Some(&close) = open.last() else { return Ok(at) };
            at = space(text, at);
            match text.get(at) {
                Some(b',') => {
                    at = space(text, at + 1);
                    if close == b'}' {
                        at = key_end(text, at)?;
                    }
                    break;
                }
                Some(&byte) if byte == close => {
                    open.pop();
                    at += 1;
                }
                _ => return fault(at, "neither a comma nor the closing bracket"),
            }
        }
    }
}

/// Where the value of the member begins whose key begins at `at`.
fn key_end(text: &[u8], at: usize) -> Result<usize, Fault> {
    if text.get(at) != Some(&b'"') {
        return fault(at, "no key");
    }
    let colon = space(text, string_end(text, at)?);
    if text.get(colon) != Some(&b':') {
        return fault(colon, "no colon");
    }
    Ok(space(text, colon + 1))
}

/// How many bytes there are before the first that is a quote, a backslash or a control character.
fn plain(text: &[u8]) -> usize {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const TOP: u64 = EACH << 7;
    // The lowest byte of eight that is less than `most`, up to 128, has its top bit set here; above it nothing can be told.
    let less = |bytes: u64, most: u64| bytes.wrapping_sub(EACH * most) & !bytes & TOP;
    let mut at = 0;
    for eight in text.chunks_exact(8) {
        let bytes = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        let found =
            less(bytes, 0x20) | less(bytes ^ (EACH * u64::from(b'"')), 1) | less(bytes ^ (EACH * u64::from(b'\\')), 1);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20).unwrap_or(rest.len())
}

fn string_end(text: &[u8], quote: usize) -> Result<usize, Fault> {
    let mut at = quote + 1;
    loop {
        at += plain(text.get(at..).unwrap_or_default());
        match (text.get(at), text.get(at + 1)) {
            (Some(b'"'), _) => return Ok(at + 1),
            (Some(b'\\'), Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at += 2,
            (Some(b'\\'), Some(b'u')) => {
                let digits = text.get(at + 2..at + 6).unwrap_or_default();
                if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return fault(at, "an escape that is none");
                }
                at += 6;
            }
            (Some(b'\\'), _) => return fault(at, "an escape that is none"),
            (None, _) => return fault(at, "a string without an end"),
            _ => return fault(at, "a control character in a string"),
        }
    }
}

fn digits(text: &[u8], mut at: usize) -> Result<usize, Fault> {
    let from = at;
    while text.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    if at == from { fault(at, "no digit") } else { Ok(at) }
}

fn number_end(text: &[u8], mut at: usize) -> Result<usize, Fault> {
    if text.get(at) == Some(&b'-') {
        at += 1;
    }
    at = if text.get(at) == Some(&b'0') { at + 1 } else { digits(text, at)? };
    if text.get(at) == Some(&b'.') {
        at = digits(text, at + 1)?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(text.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        at = digits(text, at)?;
    }
    Ok(at)
}

fn literal_end(text: &[u8], at: usize, literal: &[u8]) -> Result<usize, Fault> {
    match text.get(at..at + literal.len()) {
        Some(found) if found == literal => Ok(at + literal.len()),
        _ => fault(at, "no value"),
    }
}

/// Shows every member of the object that begins at `at`: its key without quotes, and where its value stands. Gives the
/// object's end. What is no object has no members.
pub(crate) fn members(text: &[u8], at: usize, mut show: impl FnMut(&[u8], Span)) -> Result<usize, Fault> {
    if text.get(at) != Some(&b'{') {
        return value_end(text, at);
    }
    let mut at = space(text, at + 1);
    if text.get(at) == Some(&b'}') {
        return Ok(at + 1);
    }
    loop {
        let from = key_end(text, at)?;
        let key_closes = string_end(text, at)? - 1;
        let to = value_end(text, from)?;
        show(text.get(at + 1..key_closes).unwrap_or_default(), from..to);
        at = space(text, to);
        match text.get(at) {
            Some(b',') => at = space(text, at + 1),
            Some(b'}') => return Ok(at + 1),
            _ => return fault(at, "neither a comma nor the closing bracket"),
        }
    }
}

/// Shows where every element of the array that begins at `at` stands. Gives the array's end. What is no array has none.
pub(crate) fn elements(text: &[u8], at: usize, mut show: impl FnMut(Span)) -> Result<usize, Fault> {
    if text.get(at) != Some(&b'[') {
        return value_end(text, at);
    }
    let mut at = space(text, at + 1);
    if text.get(at) == Some(&b']') {
        return Ok(at + 1);
    }
    loop {
        let to = value_end(text, at)?;
        show(at..to);
        at = space(text, to);
        match text.get(at) {
            Some(b',') => at = space(text, at + 1),
            Some(b']') => return Ok(at + 1),
            _ => return fault(at, "neither a comma nor the closing bracket"),
        }
    }
}

/// The content of a string, from between its quotes. Half a surrogate pair, which no text can hold, becomes U+FFFD.
pub(crate) fn decoded(raw: &[u8]) -> String {
    let raw = String::from_utf8_lossy(raw);
    if !raw.contains('\\') {
        return raw.into_owned();
    }
    let mut text = String::with_capacity(raw.len());
    // Units of UTF-16 from escapes that stand side by side: only together do they make characters.
    let mut units: Vec<u16> = Vec::new();
    let flush = |units: &mut Vec<u16>, text: &mut String| {
        text.extend(char::decode_utf16(units.drain(..)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
    };
    let mut rest = raw.chars();
    while let Some(char) = rest.next() {
        if char != '\\' {
            flush(&mut units, &mut text);
            text.push(char);
            continue;
        }
        let escape = rest.next().unwrap_or('\\');
        if escape == 'u' {
            let mut unit = 0u16;
            for _ in 0..4 {
                let digit = rest.next().and_then(|digit| digit.to_digit(16)).unwrap_or(0);
                unit = unit << 4 | digit as u16;
            }
            units.push(unit);
            continue;
        }
        flush(&mut units, &mut text);
        text.push(match escape {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            other => other,
        });
    }
    flush(&mut units, &mut text);
    text
}

/// The content of the string that stands at `span`; `None` if something else stands there.
pub(crate) fn string(text: &[u8], span: &Span) -> Option<String> {
    let inside = text.get(span.clone())?.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    Some(decoded(inside))
}

/// Whether a key, as it is written, is `name`.
pub(crate) fn is_key(raw: &[u8], name: &str) -> bool {
    // What is escaped is longer than what it stands for.
    raw == name.as_bytes() || (raw.len() > name.len() && raw.contains(&b'\\') && decoded(raw) == name)
}

/// Where the value of the last member of this name stands.
pub(crate) fn member(text: &[u8], object: &Span, name: &str) -> Option<Span> {
    let mut found = None;
    members(text, object.start, |key, value| {
        if is_key(key, name) {
            found = Some(value);
        }
    })
    .ok()?;
    found
}
