//! `swarmkeep mcp`: the Model Context Protocol. Session tools for clients, and a link between a client and its tool server
//! that comes back, with the calls that went over it.

pub(crate) mod links;
mod listen;
pub(crate) mod proxy;
mod relay;
mod serve;
mod servers;
mod streams;

use clap::Subcommand;

use super::{Name, effect};
use crate::{cli::Write, context::Context, failure::Failure};

/// See the module.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Session tools for an MCP client, on stdin and stdout: the line to put into its settings
    Serve(serve::Serve),
    /// What a client's settings name in the server's place: starts the server, and keeps the link to it
    Proxy(Box<proxy::Proxy>),
    /// A server of a daemon, which starts it: it is told when the daemon is gone
    #[command(hide = true)]
    Child {
        /// The daemon's process
        of: u32,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Links that are open, and how they stand
    Status,
    /// The calls in a session's log
    Calls {
        session: Name,
        /// Only those of which nobody knows whether they were carried out
        #[arg(long)]
        unknown: bool,
    },
    /// Settle a call of which nobody knows whether it was carried out
    #[command(mut_arg("not_done", |arg| arg.help("It was not carried out; only its client may call again")))]
    Resolve {
        session: Name,
        /// Its key, as `calls` shows it
        call: String,
        #[command(flatten)]
        verdict: effect::Verdict,
        /// The answer, or the error; JSON, or text
        #[arg(long, value_name = "JSON")]
        value: Option<String>,
        /// Who says so: user:NAME or reconciler:NAME
        #[arg(long)]
        by: Option<String>,
        #[command(flatten)]
        write: Write,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Serve(verb) => verb.run(context).await,
            Self::Proxy(proxy) => proxy.run(context).await,
            Self::Child { of, command } => Err(proxy::child(of, &command)),
            Self::Status => links::status(context).await,
            Self::Calls { session, unknown } => {
                let name = session.clone();
                links::calls(context, session, unknown).await.map_err(|failure| of_calls(failure, &name))
            }
            Self::Resolve { session, call, verdict, value, by, write } => {
                let name = session.clone();
                let resolve = effect::Verb::Resolve { session, effect: call, verdict, value, by, write };
                resolve.run(context).await.map_err(|failure| of_calls(failure, &name))
            }
        }
    }
}

/// A call is an effect, and here it is looked at by other verbs.
fn of_calls(mut failure: Failure, session: &Name) -> Failure {
    match failure.code.as_str() {
        "not_found" if failure.what.starts_with("there is no session") => {
            failure.next =
                "`swarmkeep session ls` shows which there are; calls are in the one that `mcp proxy --session` names, \
                            else in mcp/FOLDER-HASH-CLIENT"
                    .to_owned();
        }
        "not_found" | "wrong_state" => {
            failure.next = format!("`swarmkeep mcp calls {session}` shows its calls, and how they stand");
        }
        _ => {}
    }
    failure
}
