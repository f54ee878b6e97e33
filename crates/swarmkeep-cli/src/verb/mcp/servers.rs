//! Tool servers by name, from a settings file in the form that MCP clients have: what stood in a client's own file may move
//! to this one as it is.
//!
//! Fields of a server that no rule here is about are passed over: clients have some of their own. What is under `swarmkeep` is
//! for the proxy, and a field there that it does not know is refused. Only the server that is chosen is read: of the others
//! nothing matters but their names.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;
use swarmkeep_mcp::{
    class::Trust,
    transport::{Program, Recipe, Site},
};

use crate::{failure::Failure, settings::value};

/// A server, as the file has it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) session: Option<String>,
    pub(super) recipe: Recipe,
    pub(super) trust: Trust,
    /// Tools whose calls wait, and for how long, in milliseconds.
    pub(super) queue: Vec<String>,
    pub(super) queue_for_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
struct File {
    #[serde(rename = "mcpServers", alias = "servers")]
    servers: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
struct Entry {
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    url: Option<String>,
    #[serde(rename = "type", alias = "transport")]
    transport: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Clients that know it do not start such a server.
    #[serde(default)]
    disabled: Value,
    #[serde(default)]
    swarmkeep: Ours,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase", expecting = "an object")]
struct Ours {
    session: Option<String>,
    trust_hints: bool,
    idempotent: Vec<String>,
    at_most_once: Vec<String>,
    queue: Vec<String>,
    queue_for: Option<String>,
}

/// The server of this name in a file; without a name, its only one. `folder`: where it is started, `variables`: what `${NAME}`
/// stands for, and what it gets besides its own.
pub(super) fn read(
    path: &Path,
    name: Option<&str>,
    folder: &Path,
    variables: BTreeMap<String, String>,
) -> Result<Server, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("{}: {error}", path.display()), "give a file of tool servers with --from FILE")
    })?;
    find(&text, name, folder, variables).map_err(|(what, next)| {
        Failure::usage(format!("{}: {what}", path.display()), format!("{next} (docs/tool-servers.md, From a file)"))
    })
}

type Wrong = (String, String);

const SCHEMES: &str = "`type` http and sse take http:// and https://, ws takes ws:// and wss://";

fn find(text: &str, name: Option<&str>, folder: &Path, variables: BTreeMap<String, String>) -> Result<Server, Wrong> {
    let form = r#"it has {"mcpServers": {"NAME": {"command": …, "args": […]} or {"url": …}}}"#;
    let file: File = serde_json::from_str(text).map_err(|error| (error.to_string(), form.to_owned()))?;
    let names = || file.servers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let named = match name {
        Some(name) => file.servers.get_key_value(name),
        None if file.servers.len() == 1 => file.servers.iter().next(),
        None => None,
    };
    let Some((name, entry)) = named else {
        let what = match name {
            Some(name) => format!("there is no server `{name}` in it"),
            None => format!("there are {} servers in it", file.servers.len()),
        };
        return Err((what, format!("--name is one of: {}", names())));
    };
    let at = |(what, next): Wrong| (format!("server `{name}`: {what}"), next);
    let entry = Entry::read(entry).map_err(at)?;
    if entry.disabled == Value::Bool(true) {
        let next = "take `disabled` away there, or name another server with --name".to_owned();
        return Err(at(("it is switched off (`disabled`)".to_owned(), next)));
    }
    let recipe = entry.recipe(folder, variables).map_err(at)?;
    recipe.check().map_err(|error| at((error.to_string(), SCHEMES.to_owned())))?;
    let Ours { session, trust_hints, idempotent, at_most_once, queue, queue_for } = entry.swarmkeep;
    let mut trust = Trust { hints: trust_hints, ..Trust::default() };
    trust.say(&idempotent, &at_most_once);
    let queue_for_ms = match queue_for {
        Some(text) => Some(queue_time(&text).map_err(|next| at((format!("`queueFor` is `{text}`"), next)))?),
        None => None,
    };
    Ok(Server { name: name.clone(), session, recipe, trust, queue, queue_for_ms })
}

/// How long a call may wait for its server, in milliseconds.
pub(super) fn queue_time(text: &str) -> Result<u64, String> {
    let is_within = |ms: &u64| (1_000..=24 * 60 * 60_000).contains(ms);
    value::time(text).filter(is_within).ok_or_else(|| "give a time from 1s to 24h: 30s, 10min".to_owned())
}

impl Entry {
    fn read(entry: &Value) -> Result<Self, Wrong> {
        serde_path_to_error::deserialize(entry).map_err(|error| {
            let what = match error.path().to_string() {
                path if path == "." => error.inner().to_string(),
                path => format!("`{path}`: {}", error.inner()),
            };
            let next =
                "a server has `command` (with `args`, `env`, `cwd`) or `url` (with `headers`, `type`), and `swarmkeep`";
            (what, next.to_owned())
        })
    }

    fn recipe(&self, folder: &Path, variables: BTreeMap<String, String>) -> Result<Recipe, Wrong> {
        let full = |text: &String| expand(text, &variables);
        let all = |texts: &BTreeMap<String, String>| {
            texts.iter().map(|(name, text)| Ok((name.clone(), full(text)?))).collect::<Result<BTreeMap<_, _>, Wrong>>()
        };
        let transport = self.transport.as_deref();
        match (&self.command, &self.url) {
            (Some(command), None) => {
                if let Some(other) = transport.filter(|transport| *transport != "stdio") {
                    return Err((
                        format!("`type` is `{other}`, and it has a command"),
                        "with a command it is stdio".into(),
                    ));
                }
                let environment: BTreeMap<String, String> = all(&self.env)?;
                let cwd = self.cwd.as_ref().map(full).transpose()?;
                let program = full(command)?;
                let arguments = self.args.iter().map(full).collect::<Result<_, _>>()?;
                Ok(Recipe::Stdio(Program {
                    program,
                    arguments,
                    environment: Some(variables.clone().into_iter().chain(environment).collect()),
                    folder: Some(cwd.map_or_else(|| folder.to_owned(), |cwd| folder.join(PathBuf::from(cwd)))),
                }))
            }
            (None, Some(url)) => {
                let site = Site { url: full(url)?, headers: all(&self.headers)? };
                let is_socket = site.url.starts_with("ws://") || site.url.starts_with("wss://");
                match transport {
                    Some("sse") => Ok(Recipe::Sse(site)),
                    Some("ws" | "websocket") => Ok(Recipe::WebSocket(site)),
                    None if is_socket => Ok(Recipe::WebSocket(site)),
                    None | Some("http" | "streamable-http" | "streamableHttp" | "streamable_http") => {
                        Ok(Recipe::Http(site))
                    }
                    Some(other) => {
                        Err((format!("`type` is `{other}`"), "with a URL it is one of: http, sse, ws".into()))
                    }
                }
            }
            (Some(_), Some(_)) => Err(("it has a command and a URL".into(), "give one of them".into())),
            (None, None) => Err(("it has neither a command nor a URL".into(), "give one of them".into())),
        }
    }
}

/// `${NAME}` and `${NAME:-OTHERWISE}`, as clients have them.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> Result<String, Wrong> {
    let mut full = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        full.push_str(before);
        let Some((inside, behind)) = after.split_once('}') else {
            full.push_str("${");
            rest = after;
            continue;
        };
        let (name, otherwise) = inside.split_once(":-").map_or((inside, None), |(name, text)| (name, Some(text)));
        match variables.get(name).map(String::as_str).filter(|value| !value.is_empty()).or(otherwise) {
            Some(value) => full.push_str(value),
            None => {
                let next = format!("set it, or give `${{{name}:-OTHERWISE}}`");
                return Err((format!("`${{{name}}}`: there is no such variable here"), next));
            }
        }
        rest = behind;
    }
    full.push_str(rest);
    Ok(full)
}

#[cfg(test)]
mod tests {
    use swarmkeep_mcp::class::ToolTrust;

    use super::*;

    const SHOP: &str = r#"{ "mcpServers": {
        "shop": { "command": "npx", "args": ["-y", "shop", "--key=${KEY}"], "env": { "A": "${B:-b}" }, "disabled": false,
                  "swarmkeep": { "session": "work/shop", "idempotent": ["look"], "atMostOnce": ["pay"],
                                  "queue": ["pay*"], "queueFor": "30s" } },
        "far": { "type": "http", "url": "http://${HOST}/mcp", "headers": { "Authorization": "Bearer ${KEY}" } },
        "old": { "transport": "sse", "url": "http://h/sse" },
        "socket": { "url": "ws://h/" } } }"#;

    fn variables() -> BTreeMap<String, String> {
        [("KEY", "k"), ("HOST", "h:1"), ("PATH", "/bin")].map(|(name, value)| (name.into(), value.into())).into()
    }

    fn of(text: &str, name: Option<&str>) -> Result<Server, Wrong> {
        find(text, name, Path::new("/work"), variables())
    }

    #[test]
    fn a_client_s_own_entries_are_read() {
        let shop = of(SHOP, Some("shop")).unwrap();
        let Recipe::Stdio(program) = &shop.recipe else { panic!("{shop:?}") };
        assert_eq!((program.program.as_str(), program.arguments.last().unwrap().as_str()), ("npx", "--key=k"));
        let environment = program.environment.as_ref().unwrap();
        assert_eq!((environment["A"].as_str(), environment["PATH"].as_str()), ("b", "/bin"));
        assert_eq!(program.folder.as_deref(), Some(Path::new("/work")));
        assert_eq!((shop.name.as_str(), shop.session.as_deref()), ("shop", Some("work/shop")));
        assert_eq!(shop.trust.tools["look"], ToolTrust::Idempotent);
        assert_eq!(shop.trust.tools["pay"], ToolTrust::AtMostOnce);
        assert_eq!((shop.queue, shop.queue_for_ms), (vec!["pay*".to_owned()], Some(30_000)));
        let Recipe::Http(far) = of(SHOP, Some("far")).unwrap().recipe else { panic!() };
        assert_eq!((far.url.as_str(), far.headers["Authorization"].as_str()), ("http://h:1/mcp", "Bearer k"));
        assert!(matches!(of(SHOP, Some("old")).unwrap().recipe, Recipe::Sse(_)));
        assert!(matches!(of(SHOP, Some("socket")).unwrap().recipe, Recipe::WebSocket(_)));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_may_stand_there() {
        let wrong = |text: &str, name: Option<&str>| {
            let (what, next) = of(text, name).unwrap_err();
            format!("{what}; {next}")
        };
        let one = |entry: &str| format!(r#"{{"mcpServers": {{"a": {entry}}}}}"#);
        for (text, name, says) in [
            (SHOP.to_owned(), None, "there are 4 servers in it; --name is one of: far, old, shop, socket"),
            (SHOP.to_owned(), Some("shops"), "no server `shops` in it; --name is one of"),
            ("{".into(), None, "EOF while parsing"),
            (one("{}"), None, "neither a command nor a URL"),
            (one(r#"{"command": "x", "url": "http://h"}"#), None, "a command and a URL"),
            (
                one(r#"{"url": "http://h", "type": "grpc"}"#),
                None,
                "`type` is `grpc`; with a URL it is one of: http, sse, ws",
            ),
            (one(r#"{"command": "x", "type": "http"}"#), None, "with a command it is stdio"),
            (
                one(r#"{"command": "x", "swarmkeep": {"queueFor": "10"}}"#),
                None,
                "`queueFor` is `10`; give a time from 1s to 24h",
            ),
            (
                one(r#"{"command": "${NONE}"}"#),
                None,
                "there is no such variable here; set it, or give `${NONE:-OTHERWISE}`",
            ),
            (
                one(r#"{"command": "x", "swarmkeep": {"trust": true}}"#),
                None,
                "server `a`: `swarmkeep.trust`: unknown field `trust`, expected one of `session`, `trustHints`",
            ),
            (
                one(r#"{"command": "x", "swarmkeep": {"trustHints": "yes"}}"#),
                None,
                "server `a`: `swarmkeep.trustHints`: invalid type: string \"yes\", expected a boolean",
            ),
            (
                one(r#"{"command": "x", "args": [1]}"#),
                None,
                "server `a`: `args[0]`: invalid type: integer `1`, expected a string; a server has `command`",
            ),
            (
                one(r#"{"url": "htp://h"}"#),
                None,
                "server `a`: `htp://h/`: it begins with neither http:// nor https://; `type` http and sse take",
            ),
            (one(r#"{"type": "ws", "url": "http://h/"}"#), None, "neither ws:// nor wss://"),
            (one("7"), None, "server `a`: invalid type: integer `7`, expected an object"),
            (
                one(r#"{"command": "x", "disabled": true}"#),
                None,
                "server `a`: it is switched off (`disabled`); take `disabled` away there",
            ),
        ] {
            let said = wrong(&text, name);
            assert!(said.contains(says), "{said} does not say: {says}");
        }
    }

    #[test]
    fn a_mistake_in_one_server_is_none_in_another() {
        let file = r#"{ "servers": { "typo": { "command": "x", "swarmkeep": { "trusthints": true } }, "off": 7,
            "other": { "command": "x", "args": [1], "disabled": true }, "shop": { "command": "x" },
            "far": { "url": "http://h", "type": "streamable-http" } } }"#;
        assert_eq!(of(file, Some("shop")).unwrap().name, "shop");
        assert!(matches!(of(file, Some("far")).unwrap().recipe, Recipe::Http(_)));
        assert!(
            of(file, Some("typo")).unwrap_err().0.starts_with("server `typo`: `swarmkeep.trusthints`: unknown field")
        );
    }

    #[test]
    fn a_tool_that_is_named_both_ways_is_called_at_most_once() {
        let both =
            r#"{"mcpServers": {"a": {"command": "x", "swarmkeep": {"idempotent": ["t"], "atMostOnce": ["t"]}}}}"#;
        assert_eq!(of(both, None).unwrap().trust.tools["t"], ToolTrust::AtMostOnce);
    }

    #[test]
    fn what_is_no_variable_stays() {
        assert_eq!(expand("a$b ${ c", &variables()).unwrap(), "a$b ${ c");
        assert_eq!(expand("${KEY}${KEY}", &variables()).unwrap(), "kk");
    }
}
