//! `swarmkeep mcp proxy`: what a client's settings name in the place of a tool server. The server is the daemon's to reach; this
//! is a relay to it.

use std::{collections::BTreeMap, ffi::OsString, io, net::SocketAddr, os::unix::process::CommandExt, path::PathBuf};

use clap::Args;
use swarmkeep_mcp::{
    calls::Queue,
    class::Trust,
    dialled::ToDaemon,
    shim::{self, Ended},
    transport::{Program, Recipe, Site},
    wire::Ask,
};

use super::{listen, servers, streams};
use crate::{client::connect_socket, context::Context, failure::Failure, verb::Name};

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// The session in whose log the calls land [default: mcp/FOLDER-HASH-CLIENT]
    #[arg(long, value_name = "NAME")]
    session: Option<Name>,
    /// What the server is called in the log and in what the client is told [default: that of what runs]; with --from, which of
    /// the file's servers it is
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Take the server's word for which of its tools may be called again in doubt
    #[arg(long)]
    trust_hints: bool,
    /// This tool may be called again in doubt, whatever the server says; may be given several times
    #[arg(long, value_name = "TOOL")]
    idempotent: Vec<String>,
    /// This tool must not be, whatever the server says; may be given several times
    #[arg(long, value_name = "TOOL")]
    at_most_once: Vec<String>,
    /// Calls of this tool wait for a server that is away, in their order, instead of being answered that it is; `*` stands for
    /// any part of a name; may be given several times
    #[arg(long, value_name = "TOOL")]
    queue: Vec<String>,
    /// With --queue: for so long [default: 10min]
    #[arg(long, value_name = "TIME", value_parser = servers::queue_time)]
    queue_for: Option<u64>,
    #[command(flatten)]
    server: Server,
    /// Answer clients over Streamable HTTP at this address (127.0.0.1:PORT; port 0: one that is free) instead of one on stdin
    /// and stdout, until a signal ends it
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// With --listen: what clients have to show as `Authorization: Bearer` is in this file
    #[arg(long, value_name = "FILE", requires = "listen")]
    token_file: Option<PathBuf>,
    /// With --listen: web pages of this origin may ask, too; may be given several times
    #[arg(long, value_name = "ORIGIN", requires = "listen")]
    allow_origin: Vec<String>,
    /// Sent with every request to a server over HTTP or WebSocket; may be given several times
    #[arg(long, value_name = "NAME: VALUE", conflicts_with_all = ["command", "from"])]
    header: Vec<String>,
}

/// Where the server is: a program to start, or where it answers.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Server {
    /// It answers over Streamable HTTP, at this URL
    #[arg(long, value_name = "URL")]
    http: Option<String>,
    /// It answers over HTTP+SSE, as revision 2024-11-05 had it
    #[arg(long, value_name = "URL")]
    sse: Option<String>,
    /// It answers over WebSocket
    #[arg(long, value_name = "URL")]
    ws: Option<String>,
    /// It is in this file, in the form of a client's settings: {"mcpServers": {"NAME": {"command": …}}}
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// It is started: its program and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Proxy {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        context.may_make_store = true;
        if context.url.is_some() {
            return Err(Failure::usage(
                "a proxy talks to the daemon of a store on this machine",
                "leave --url away; say where the store is with --store DIR",
            ));
        }
        let ask = self.ask()?;
        let context = &*context;
        if let Some(address) = self.listen {
            return listen::run(context, ask, address, self.token_file, self.allow_origin).await;
        }
        let input = streams::Input::new();
        let blocks = input.blocks();
        let done = shim::run(ask, (input, blocks), streams::Output, || dial(context)).await;
        done.map_err(|ended| match ended {
            Ended::Refused(why) => Failure::refused("refused", why, "`swarmkeep mcp proxy --help` says what it takes"),
            Ended::NoDaemon(error) => Failure::unavailable(
                format!("no daemon takes MCP clients at {}: {error}", context.place.mcp_socket().display()),
                "`swarmkeep doctor` looks at the daemon; start the client again when it answers",
            ),
            ended => Failure::unavailable(ended.to_string(), "start the client again"),
        })
    }

    fn ask(&self) -> Result<Ask, Failure> {
        let folder = std::env::current_dir().map_err(|error| {
            Failure::usage(format!("the folder this runs in cannot be named: {error}"), "run it in one that exists")
        })?;
        let file = match &self.server.from {
            Some(path) => Some(servers::read(path, self.name.as_deref(), &folder, variables())?),
            None => None,
        };
        let (recipe, name) = match &file {
            Some(file) => (file.recipe.clone(), Some(file.name.clone())),
            None => (self.recipe(folder.clone())?, self.name.clone()),
        };
        let (mut trust, mut tools, file_for_ms, session) = match file {
            Some(file) => (file.trust, file.queue, file.queue_for_ms, file.session),
            None => (Trust::default(), Vec::new(), None, None),
        };
        // What this line says goes before the file.
        trust.hints |= self.trust_hints;
        trust.say(&self.idempotent, &self.at_most_once);
        tools.extend_from_slice(&self.queue);
        let queue = queue(tools, self.queue_for.or(file_for_ms))?;
        Ok(Ask {
            client: format!("{:032x}", crate::context::random()?),
            session: self.session.as_ref().map(ToString::to_string).or(session),
            folder: folder.display().to_string(),
            upstream: name,
            recipe,
            trust,
            initialize: None,
            queue,
            offered: None,
            waited_ms: BTreeMap::new(),
            is_lasting: false,
        })
    }

    fn recipe(&self, folder: PathBuf) -> Result<Recipe, Failure> {
        let site = |url: &String| -> Result<Site, Failure> {
            let mut headers = BTreeMap::new();
            for header in &self.header {
                let (name, value) = header.split_once(':').ok_or_else(|| {
                    Failure::usage(format!("--header `{header}` has no colon"), "give --header 'NAME: VALUE'")
                })?;
                headers.insert(name.trim().to_owned(), value.trim().to_owned());
            }
            Ok(Site { url: url.clone(), headers })
        };
        let recipe = match &self.server {
            Server { http: Some(url), .. } => Recipe::Http(site(url)?),
            Server { sse: Some(url), .. } => Recipe::Sse(site(url)?),
            Server { ws: Some(url), .. } => Recipe::WebSocket(site(url)?),
            Server { command, .. } => {
                let [program, arguments @ ..] = command.as_slice() else {
                    return Err(Failure::usage("no server is named", "name it after --, with its arguments"));
                };
                Recipe::Stdio(Program {
                    program: program.clone(),
                    arguments: arguments.to_vec(),
                    environment: Some(variables()),
                    folder: Some(folder),
                })
            }
        };
        // A mistake would be tried for ever.
        recipe.check().map_err(|error| {
            let next =
                "--http and --sse take http:// and https://, --ws takes ws:// and wss://; --header 'NAME: VALUE'";
            Failure::usage(error.to_string(), next)
        })?;
        Ok(recipe)
    }
}

/// Which calls wait for a server that is away, and for how long.
fn queue(tools: Vec<String>, for_ms: Option<u64>) -> Result<Queue, Failure> {
    if tools.is_empty() && for_ms.is_some() {
        return Err(Failure::usage(
            "it is said for how long calls are queued, and no tool's calls are",
            "name the tools with --queue TOOL, or in the file as `queue`; or leave --queue-for and `queueFor` away",
        ));
    }
    let standard = Queue::default();
    Ok(Queue { tools, for_ms: for_ms.unwrap_or(standard.for_ms), ..standard })
}

/// The environment, as far as it is text.
fn variables() -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect()
}

/// Becomes the server. The signal of the daemon's end stays through that.
pub(crate) fn child(of: u32, command: &[String]) -> Failure {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};

        let parent = || getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
        // A system that does not have it: then the server sees its input end, and no more.
        let _ = set_parent_process_death_signal(Some(Signal::TERM));
        // It may have gone before it could be asked for.
        if parent() != Some(of) {
            return Failure::unavailable("the daemon is gone", "start the client again");
        }
    }
    let [program, arguments @ ..] = command else {
        return Failure::usage("no server is named", "name it after --, with its arguments");
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    Failure::unavailable(
        format!("the server `{program}` cannot be started: {error}"),
        "is it spelled right, and in the PATH of the client that names it?",
    )
}

/// A connection to the daemon, which is started if none runs. One that is stopped is not taken for one that answers.
pub(super) async fn dial(context: &Context) -> io::Result<ToDaemon> {
    if let Err(failure) = context.connect().await {
        return Err(io::Error::other(failure.what));
    }
    let socket = context.place.mcp_socket();
    ToDaemon::connect(socket.clone(), connect_socket(&socket)).await
}
