//! How an effect that failed says that the other side takes no more for now: agents report what they were answered, and the
//! words of the services that limit rates are few.

use serde_json::Value;
use swarmkeep_core::state::EffectOutcome;

const NAMES: [&str; 6] =
    ["429", "rate_limited", "rate_limit_error", "rate_limit_exceeded", "too_many_requests", "resource_exhausted"];
/// Fields in which a status, or a name, is given.
const FIELDS: [&str; 5] = ["status", "status_code", "code", "type", "error"];

/// Whether a failed effect says so: HTTP status 429, a name for it, or a time after which to come back. In the value itself,
/// in its usual fields, and in those of its `error`.
pub(super) fn is_limited(outcome: &EffectOutcome) -> bool {
    !outcome.ok && outcome.value.decode().is_ok_and(|value| says_so(&value, true))
}

fn says_so(value: &Value, look_within: bool) -> bool {
    match value {
        Value::Number(number) => number.as_u64() == Some(429),
        Value::String(text) => NAMES.contains(&text.to_ascii_lowercase().replace([' ', '-'], "_").as_str()),
        Value::Object(fields) => {
            let within = |name: &&str| {
                fields.get(*name).is_some_and(|value| (look_within || !value.is_object()) && says_so(value, false))
            };
            fields.keys().any(|key| key.to_ascii_lowercase().replace('-', "_").starts_with("retry_after"))
                || FIELDS.iter().any(within)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use swarmkeep_core::Json;

    use super::*;

    #[test]
    fn the_usual_words_are_known_and_others_are_not() {
        let failed = |value: Value| is_limited(&EffectOutcome { ok: false, value: Json::encode(&value).unwrap() });
        for value in [
            serde_json::json!(429),
            serde_json::json!("Too Many Requests"),
            serde_json::json!({ "status": 429, "body": "slow down" }),
            serde_json::json!({ "Retry-After": "20" }),
            serde_json::json!({ "error": { "type": "rate_limit_error", "message": "…" } }),
        ] {
            assert!(failed(value.clone()), "{value}");
            let done = EffectOutcome { ok: true, value: Json::encode(&value).unwrap() };
            assert!(!is_limited(&done), "{value}: it was done");
        }
        for value in [
            serde_json::json!(null),
            serde_json::json!({ "status": 500 }),
            serde_json::json!({ "count": 429 }),
            serde_json::json!({ "error": { "error": { "code": 429 } } }),
            serde_json::json!([429]),
        ] {
            assert!(!failed(value.clone()), "{value}");
        }
    }
}
