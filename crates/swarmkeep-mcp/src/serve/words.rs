//! What the API says to whoever speaks HTTP, said to whoever calls tools: routes are tools here, and headers, parameters and
//! fields are arguments.

use super::{api::Problem, tool::Tool};

/// How a hint is known, and what leads to the same with tools.
const HINTS: &[(&str, &str)] = &[
    ("POST its `/open` route", "`session_open` makes it; `session_list` shows which there are"),
    ("the routes /v1/sessions and /v1/quarantine", "`session_list` and `recovery_waiting` list those that there are"),
    ("POST the effect's `/resolve` route", "look outside whether it was done, then `effect_resolve`"),
    (
        "`swarmkeep quarantine show NAME`",
        "`recovery_status` says what is lost; `recovery_trigger` tries again once a copy is back, and with `accept_loss`, which is a \
         person's decision, goes on without what is lost",
    ),
    ("`swarmkeep verify`", "`session_verify` says what is damaged"),
];

/// Headers, and the arguments that they are sent for.
const HEADERS: &[(&str, &str)] = &[("idempotency-key", "request_id"), ("swarmkeep-actor", "actor")];

/// A hint of the API's.
pub(super) fn hint(said: String) -> String {
    HINTS.iter().find(|(known, _)| said.contains(known)).map_or(said, |(_, here)| (*here).to_owned())
}

/// What the API found wrong with the arguments of a tool.
pub(super) fn of_tool(tool: &Tool, mut problem: Problem) -> Problem {
    if let Some(detail) = detail(tool, &problem.detail) {
        problem.detail = detail;
    }
    problem
}

fn detail(tool: &Tool, said: &str) -> Option<String> {
    if let Some(rest) = said.strip_prefix("the body is not what this route takes: ") {
        return Some(format!("the arguments are not what this tool takes: {}", without_position(rest)));
    }
    if let Some(rest) = said.strip_prefix("Failed to deserialize query string: ") {
        return Some(match rest.split_once(": ") {
            Some((name, why)) => format!("argument `{}`: {why}", tool.argument(name)),
            None => format!("the arguments are not what this tool takes: {rest}"),
        });
    }
    if let Some((header, why)) = said.strip_prefix("header `").and_then(|rest| rest.split_once('`')) {
        let (_, argument) = HEADERS.iter().find(|(known, _)| *known == header)?;
        return Some(format!("argument `{argument}`{why}"));
    }
    let (name, why) = ["at `", "parameter `"].iter().find_map(|word| said.strip_prefix(word)?.split_once('`'))?;
    // Only its beginning is a field's name: what follows is somebody's own.
    let (field, inside) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
    Some(format!("argument `{}{inside}`{}", tool.argument(field), without_position(why)))
}

/// There are no lines and columns where arguments are given.
fn without_position(said: &str) -> &str {
    said.rsplit_once(" at line ").map_or(said, |(said, _)| said)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{api::Problem, tools},
        *,
    };

    #[test]
    fn what_the_api_says_of_routes_is_said_of_tools() {
        let tool = tools::named("session_create").unwrap();
        for (said, here) in [
            (
                "the body is not what this route takes: expected value at line 1 column 24",
                "the arguments are not what this tool takes: expected value",
            ),
            ("at `config.a[0]`: invalid type: null at line 1 column 5", "argument `config.a[0]`: invalid type: null"),
            ("at `name`: too long", "argument `session`: too long"),
            ("Failed to deserialize query string: limit: invalid digit", "argument `limit`: invalid digit"),
            ("parameter `limit` is 0: use 1 to 1000", "argument `limit` is 0: use 1 to 1000"),
            ("header `idempotency-key`: is empty", "argument `request_id`: is empty"),
            ("header `swarmkeep-actor` is not UTF-8", "argument `actor` is not UTF-8"),
            ("the session is paused", "the session is paused"),
        ] {
            assert_eq!(of_tool(tool, Problem::invalid(said)).detail, here);
        }
    }

    /// A hint whose wording has changed would pass as it is.
    #[test]
    fn hints_are_known_by_words_that_the_api_still_says() {
        let server = concat!(
            include_str!("../../../swarmkeep-server/src/app.rs"),
            include_str!("../../../swarmkeep-server/src/effects.rs"),
            include_str!("../../../swarmkeep/src/keep/recover.rs"),
            include_str!("../../../swarmkeep/src/keep/load.rs"),
        );
        for (known, _) in HINTS {
            assert!(server.contains(known), "nothing says: {known}");
        }
        assert_eq!(hint("repeat it".to_owned()), "repeat it");
    }
}
