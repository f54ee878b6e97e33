//! Ways to a server: a child's pipes, or HTTP. A connection is a sender and an inbox; what it carries are lines.
//!
//! | | opened by | a lost server shows as |
//! |---|---|---|
//! | [`stdio`] | starting the program, in a process group of its own | the end of its output, or of its process |
//! | [`http`] | connecting; each message is a POST | a refused connection, or an answer that says that the session is gone |
//! | [`sse`] | a GET whose stream says where to POST | the end of the stream |
//! | [`socket`] | a WebSocket | its close |
//!
//! A transport never repeats anything. Of everything that was given to it to send it says, if it can, that not one byte went
//! out ([`Inbound::Failed`]); what is done about it is decided elsewhere.

pub mod events;
pub mod http;
pub mod lines;
mod peer;
pub mod socket;
pub mod sse;
pub mod stdio;
mod web;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmkeep::{Breach, core::failure::ProtocolCause};
use tokio::sync::{mpsc, oneshot};

use crate::{breach, reply::Failure};

/// How to make a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Recipe {
    /// Start a program and talk to it over its pipes.
    Stdio(Program),
    /// Streamable HTTP.
    Http(Site),
    /// HTTP with server-sent events, as revision 2024-11-05 had it.
    Sse(Site),
    /// WebSocket.
    WebSocket(Site),
}

/// Where a server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its URL.
    pub url: String,
    /// Sent with every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl Site {
    /// The URL without what may be a secret: user, password, query.
    #[must_use]
    pub fn shown(&self) -> String {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        match url.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
                let host = authority.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}/{path}")
            }
            None => url.to_owned(),
        }
    }

    fn without_secrets(&self) -> Self {
        let headers = self.headers.keys().map(|name| (name.clone(), String::new())).collect();
        Self { url: self.shown(), headers }
    }
}

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The program, as a shell would find it.
    pub program: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Its environment, whole; absent: the caller's.
    #[serde(default)]
    pub environment: Option<BTreeMap<String, String>>,
    /// The folder that it runs in.
    #[serde(default)]
    pub folder: Option<PathBuf>,
}

impl Recipe {
    /// Whether a connection could be made so at all, as far as that is seen from here, without going there.
    ///
    /// # Errors
    /// What is wrong with the URL or a header: it is so at every try.
    pub fn check(&self) -> std::io::Result<()> {
        match self {
            Self::Stdio(_) => Ok(()),
            Self::Http(site) | Self::Sse(site) => peer::check(site, peer::HTTP),
            Self::WebSocket(site) => peer::check(site, peer::WEB_SOCKET),
        }
    }

    /// What may be written down: names of variables and headers without their values, and URLs without user and query: they
    /// may be secrets.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        match self {
            Self::Stdio(program) => {
                let hidden = |names: &BTreeMap<String, String>| {
                    names.keys().map(|name| (name.clone(), String::new())).collect::<BTreeMap<_, _>>()
                };
                Self::Stdio(Program { environment: program.environment.as_ref().map(hidden), ..program.clone() })
            }
            Self::Http(site) => Self::Http(site.without_secrets()),
            Self::Sse(site) => Self::Sse(site.without_secrets()),
            Self::WebSocket(site) => Self::WebSocket(site.without_secrets()),
        }
    }

    /// Whether both lead to one server, as far as can be told without secrets.
    #[must_use]
    pub fn is_of_same_server(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stdio(one), Self::Stdio(other)) => {
                (&one.program, &one.arguments, &one.folder) == (&other.program, &other.arguments, &other.folder)
            }
            (Self::Http(one), Self::Http(other))
            | (Self::Sse(one), Self::Sse(other))
            | (Self::WebSocket(one), Self::WebSocket(other)) => one.shown() == other.shown(),
            _ => false,
        }
    }

    /// Whether a process is started for it.
    #[must_use]
    pub fn is_a_program(&self) -> bool {
        matches!(self, Self::Stdio(_))
    }

    /// What a server is called that nobody has named: what tells it from others that the same program runs.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Stdio(program) => program.name(),
            Self::Http(site) | Self::Sse(site) | Self::WebSocket(site) => site.shown(),
        }
    }
}

/// Programs that run others: which one is among their arguments.
const RUNNERS: [&str; 18] = [
    "node", "npx", "npm", "pnpm", "yarn", "bun", "bunx", "deno", "python", "python3", "uv", "uvx", "pipx", "ruby",
    "perl", "sh", "bash", "env",
];
/// Words between a runner and what it runs.
const VERBS: [&str; 6] = ["run", "exec", "x", "dlx", "tool", "start"];
/// Endings of scripts, which are no part of a name.
const ENDINGS: [&str; 7] = [".py", ".js", ".mjs", ".cjs", ".ts", ".rb", ".sh"];

impl Program {
    fn name(&self) -> String {
        let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
        let program = last(&self.program);
        // `python3.12`, `node22`.
        let runner = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if !RUNNERS.iter().any(|known| [runner, program.as_str()].contains(known)) {
            return program;
        }
        let is_run = |argument: &&String| !argument.starts_with('-') && !VERBS.contains(&argument.as_str());
        let Some(run) = self.arguments.iter().find(is_run) else { return program };
        let run = last(run.trim_end_matches('/'));
        let name = ENDINGS.iter().find_map(|ending| run.strip_suffix(ending)).unwrap_or(&run);
        if name.is_empty() { program } else { name.to_owned() }
    }
}

/// Bounds of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Longest line, in bytes. A longer one ends the connection.
    pub line_bytes: usize,
    /// Lines on their way in each direction.
    pub queue: usize,
    /// A program, with its first arguments, that starts a server in such a way that it ends with us: it is given our process id,
    /// then `--`, the server's program and its arguments.
    pub starter: Option<Vec<String>>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { line_bytes: 128 << 20, queue: 64, starter: None }
    }
}

/// A session of a server that was left, not ended: another connection may go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// What the server calls it (`Mcp-Session-Id`).
    pub session: String,
    /// The revision that was agreed upon in it.
    pub version: String,
    /// The last event of the stream of the server's own words (`Last-Event-ID`), where that was known when it was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<String>,
}

/// Says with what a connection's session could be gone on with, if it has one.
#[derive(Debug, Clone, Default)]
pub struct Resumable(Arc<Mutex<Option<Resume>>>);

impl Resumable {
    /// As it stands now.
    #[must_use]
    pub fn get(&self) -> Option<Resume> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, resume: Option<Resume>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = resume;
    }

    fn saw(&self, last_event: Option<&str>) {
        if let Some(resume) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            resume.last_event = last_event.map(str::to_owned);
        }
    }
}

/// Something to send.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// Under which id its answer comes, if one is due.
    pub wire: Option<u64>,
    /// The line, without its line feed.
    pub line: Bytes,
}

/// What a connection says.
#[derive(Debug)]
#[non_exhaustive]
pub enum Inbound {
    /// A line: a message, or noise.
    Line(Bytes),
    /// A sign of life, and nothing more.
    Heard,
    /// Something that is not MCP, and no line.
    Breach(Breach),
    /// A sending failed.
    Failed {
        /// Which.
        wire: Option<u64>,
        /// How.
        failure: Failure,
    },
    /// Nothing comes any more.
    Closed {
        /// Why, for people.
        why: String,
    },
}

/// More than is taken came in one piece.
fn too_long_breach(what: impl std::fmt::Display, beginning: &[u8]) -> Inbound {
    Inbound::Breach(breach::breach(ProtocolCause::TooLong, what.to_string(), beginning))
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    /// What goes out; dropping it closes the connection in an orderly way.
    pub outbox: mpsc::Sender<Outbound>,
    /// What comes in, up to [`Inbound::Closed`].
    pub inbox: mpsc::Receiver<Inbound>,
    /// Ends it.
    pub ending: Ending,
    /// What another connection could go on with.
    pub resumable: Resumable,
}

/// A way is over: what its owner gave it, and it never took, was not sent; and then why.
async fn say_over(mut from_owner: mpsc::Receiver<Outbound>, to: &mpsc::Sender<Inbound>, why: String) {
    from_owner.close();
    // Nobody listens any more: then nobody misses it.
    while let Some(Outbound { wire, .. }) = from_owner.recv().await {
        let _ = to.send(Inbound::Failed { wire, failure: Failure::NothingWritten }).await;
    }
    let _ = to.send(Inbound::Closed { why }).await;
}

/// The end of a connection.
#[derive(Debug)]
pub struct Ending {
    /// Dropped, or told: close.
    close: mpsc::Sender<()>,
    over: oneshot::Receiver<()>,
    /// The server is not to end the session with it.
    leaves: Arc<AtomicBool>,
}

impl Ending {
    /// Of a connection that closes when `close` is dropped, and says with `over` that it has.
    #[must_use]
    pub fn new(close: mpsc::Sender<()>, over: oneshot::Receiver<()>) -> Self {
        Self { close, over, leaves: Arc::default() }
    }

    /// Closes, and returns when nothing of it is left outside: no process, no stream.
    pub async fn close(self) {
        drop(self.close);
        // Dropped unsaid by a task that is over itself.
        let _ = self.over.await;
    }

    /// Closes, and leaves the server's session to whoever goes on with it.
    pub async fn leave(self) {
        self.leaves.store(true, Ordering::Release);
        self.close().await;
    }
}

/// Opens a connection.
///
/// # Errors
/// When there is nobody to talk to: then nothing was sent.
pub async fn open(recipe: &Recipe, bounds: &Bounds) -> std::io::Result<Connection> {
    open_again(recipe, bounds, None).await
}

/// How connections to a server are opened: [`open_again`], or what stands for it where there is no network.
pub type Opener = Arc<
    dyn Fn(Recipe, Bounds, Option<Resume>) -> Pin<Box<dyn Future<Output = std::io::Result<Connection>> + Send>>
        + Send
        + Sync,
>;

/// [`open_again`].
#[must_use]
pub fn opener() -> Opener {
    Arc::new(|recipe, bounds, resume| Box::pin(async move { open_again(&recipe, &bounds, resume).await }))
}

/// Opens a connection that goes on with a session, where there is one and the way has such. That the server has forgotten it
/// shows as the end of the connection.
///
/// # Errors
/// As [`open`].
pub async fn open_again(recipe: &Recipe, bounds: &Bounds, resume: Option<Resume>) -> std::io::Result<Connection> {
    match recipe {
        Recipe::Stdio(program) => stdio::open(program, bounds),
        Recipe::Http(site) => http::open(site, bounds, resume).await,
        Recipe::Sse(site) => sse::open(site, bounds).await,
        Recipe::WebSocket(site) => socket::open(site, bounds).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdio(line: &str) -> Recipe {
        let mut words = line.split(' ').map(str::to_owned);
        let program = words.next().unwrap();
        Recipe::Stdio(Program { program, arguments: words.collect(), environment: None, folder: None })
    }

    #[test]
    fn a_server_is_called_by_what_runs_not_by_what_runs_it() {
        for (line, name) in [
            ("/usr/bin/notes --verbose", "notes"),
            ("npx -y @modelcontextprotocol/server-memory", "server-memory"),
            ("python3.12 -u /srv/shop.py --port 1", "shop"),
            ("python -m weather", "weather"),
            ("uv run tool/server.ts", "server"),
            ("node ./dist/", "dist"),
            ("python3", "python3"),
            ("sh -c", "sh"),
            ("python3 .py", "python3"),
        ] {
            assert_eq!(stdio(line).name(), name, "{line}");
        }
        let site = Recipe::Http(Site { url: "https://u:p@a.example/mcp?key=1".to_owned(), headers: BTreeMap::new() });
        assert!(site.name().contains("a.example/mcp") && !site.name().contains("key"), "{}", site.name());
    }

    #[test]
    fn two_servers_of_one_name_are_told_apart() {
        let (one, other) = (stdio("python a.py"), stdio("python b.py"));
        assert!(one.is_of_same_server(&one.without_secrets()) && !one.is_of_same_server(&other));
        assert!(!one.is_of_same_server(&Recipe::Sse(Site { url: "http://a/".to_owned(), headers: BTreeMap::new() })));
    }

    #[test]
    fn a_url_that_no_way_takes_is_seen_before_anybody_goes_there() {
        let at = |url: &str| Site { url: url.to_owned(), headers: BTreeMap::new() };
        for (way, good, bad) in [
            (Recipe::Http as fn(Site) -> Recipe, ["http://h/mcp", "https://[::1]:1/"], ["htp://h/", "ws://h/"]),
            (Recipe::Sse, ["http://h", "https://h/sse"], ["h/sse", "http://"]),
            (Recipe::WebSocket, ["ws://h:1/", "wss://h/"], ["http://h/", "wss://-/"]),
        ] {
            for url in good {
                assert!(way(at(url)).check().is_ok(), "{url}");
            }
            for url in bad {
                assert!(way(at(url)).check().is_err(), "{url}");
            }
        }
        let site = Site { headers: [("a b".to_owned(), "x".to_owned())].into(), ..at("http://h/") };
        assert!(Recipe::Http(site).check().unwrap_err().to_string().contains("`a b` is no header's name"));
    }
}
