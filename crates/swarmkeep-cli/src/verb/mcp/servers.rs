//! Tool servers by name, from a settings file in the form that MCP clients have: what stood in a client's own file may move
//! to this one as it is.
//!
//! Fields of a server that no rule here is about are passed over: clients have some of their own. What is under `swarmkeep` is
//! for the proxy, and a field there that it does not know is refused.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use swarmkeep_mcp::{
    calls::Queue,
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
    pub(super) queue: Queue,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(rename = "mcpServers", alias = "servers")]
    servers: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
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
    #[serde(default)]
    swarmkeep: Ours,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
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
    let recipe = entry.recipe(folder, variables).map_err(at)?;
    let Ours { session, trust_hints, idempotent, at_most_once, queue, queue_for } = &entry.swarmkeep;
    let mut trust = Trust { hints: *trust_hints, ..Trust::default() };
    trust.say(idempotent, at_most_once);
    let mut queue = Queue { tools: queue.clone(), ..Queue::default() };
    if let Some(text) = queue_for {
        queue.for_ms = queue_time(text).map_err(|next| at((format!("`queueFor` is `{text}`"), next)))?;
    }
    Ok(Server { name: name.clone(), session: session.clone(), recipe, trust, queue })
}

/// How long a call may wait for its server, in milliseconds.
pub(super) fn queue_time(text: &str) -> Result<u64, String> {
    let is_within = |ms: &u64| (1_000..=24 * 60 * 60_000).contains(ms);
    value::time(text).filter(is_within).ok_or_else(|| "give a time from 1s to 24h: 30s, 10min".to_owned())
}

impl Entry {
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
        assert_eq!((shop.queue.takes("payment"), shop.queue.for_ms), (true, 30_000));
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
            (one(r#"{"command": "x", "swarmkeep": {"trust": true}}"#), None, "expected one of `session`, `trustHints`"),
        ] {
            let said = wrong(&text, name);
            assert!(said.contains(says), "{said} does not say: {says}");
        }
    }

    #[test]
    fn what_is_no_variable_stays() {
        assert_eq!(expand("a$b ${ c", &variables()).unwrap(), "a$b ${ c");
        assert_eq!(expand("${KEY}${KEY}", &variables()).unwrap(), "kk");
    }
}
