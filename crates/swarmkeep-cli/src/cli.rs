//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{context::Context, failure::Failure, verb};

/// What stands below every `--help`.
const AFTER: &str = "\
The store is at --store, else SWARMKEEP_HOME, else PERSISTENT_STATE_DIR, else the platform's data folder. \
Its daemon is found there, and started if none runs.

Exit codes: 0 done, and all is well; 1 refused, a conflict, or something is unfit; 2 the call is wrong; 3 unavailable, \
nothing was written; 4 damage found, sessions set aside, or a decision is due (recover, verify, doctor too); \
5 it may or may not have been done.";

/// Durable sessions for agent swarms.
#[derive(Debug, Parser)]
#[command(name = "swarmkeep", version, about, after_help = AFTER, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The store's folder
    #[arg(long, global = true, value_name = "DIR", help_heading = "Where")]
    pub(crate) store: Option<PathBuf>,
    /// The settings file [default: swarmkeep.toml in the store's folder]
    #[arg(long, global = true, value_name = "FILE", env = "SWARMKEEP_CONFIG", help_heading = "Where")]
    pub(crate) config: Option<PathBuf>,
    /// Talk to a daemon over TCP instead (http://HOST:PORT; SWARMKEEP_TOKEN is shown to it)
    #[arg(long, global = true, value_name = "URL", env = "SWARMKEEP_URL", help_heading = "Where")]
    pub(crate) url: Option<String>,
    /// Do not start a daemon if none runs
    #[arg(long, global = true, help_heading = "Where")]
    pub(crate) no_start: bool,
    /// Answer with one line of JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What verbs take that change a session.
#[derive(Debug, Args)]
pub(crate) struct Write {
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// The request's id: the same id again is answered, not carried out again
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Who does it, for the record [default: user:NAME, the name you are logged in with]
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
}

impl Write {
    pub(crate) fn note(self, context: &mut Context) {
        context.dry_run = self.dry_run;
        context.request = self.request;
        context.actor = self.actor;
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The daemon: holds the store, answers over HTTP and the control socket
    Serve(verb::serve::Serve),
    /// Stop the store's daemon: it parks, and this waits until it has ended
    Stop(verb::stop::Stop),
    /// Take the store away from a holder that does not answer and cannot be ended: it is shut out for good
    TakeOver(verb::take_over::TakeOver),
    /// 30 seconds: a small swarm at work, its daemon killed with -9 again and again; then what was lost
    Demo(verb::demo::Demo),
    /// Things go wrong on purpose: kills, a full disk, a jumping clock, damaged files; then what was lost
    Chaos(verb::chaos::Chaos),
    /// Sessions: create, open, ls, show, state, history, fork, diff, rewind, checkpoint, pause, resume, park, close
    #[command(subcommand)]
    Session(verb::session::Verb),
    /// Agents of a session
    #[command(subcommand)]
    Agent(verb::agent::Verb),
    /// Tasks of a session
    #[command(subcommand)]
    Task(verb::task::Verb),
    /// Messages between agents
    #[command(subcommand)]
    Message(verb::message::Verb),
    /// What agents remember
    #[command(subcommand)]
    Memory(verb::memory::Verb),
    /// What was done outside, and what nobody knows about
    #[command(subcommand)]
    Effect(verb::effect::Verb),
    /// Model Context Protocol: session tools for any client, and a link to tool servers that comes back
    #[command(subcommand)]
    Mcp(verb::mcp::Verb),
    /// Telemetry of agents
    #[command(subcommand)]
    Metric(verb::metric::Verb),
    /// Saved states
    #[command(subcommand)]
    Checkpoint(verb::checkpoint::Verb),
    /// Come back after a death: what was found, and the plan before anything is touched
    Recover(verb::recover::Recover),
    /// The morning report: done, interrupted, waiting for you, not paid twice, lost, how to continue
    Report(verb::report::Asked),
    /// Sessions that are damaged beyond what a program may decide
    #[command(subcommand)]
    Quarantine(verb::quarantine::Verb),
    /// Prove that what is stored is what was acknowledged
    Verify(verb::verify::Verify),
    /// What is wrong with this machine or store, and what to do
    Doctor(verb::doctor::Doctor),
    /// Versions of the databases
    #[command(subcommand)]
    Migrate(verb::migrate::Verb),
    /// Measure this machine
    Bench(verb::bench::Bench),
    /// An agent of a demo or of a chaos run, which starts it
    #[command(hide = true)]
    SwarmWorker(crate::swarm::worker::Worker),
    /// Who makes the session of such agents and settles their doubts
    #[command(hide = true)]
    SwarmSteward(crate::swarm::steward::Steward),
    /// Whether what was acknowledged to such agents is there
    #[command(hide = true)]
    SwarmCheck(crate::swarm::steward::Check),
    /// The tool server of a chaos run or a bench, which starts it
    #[command(hide = true)]
    ChaosTools(crate::chaos::ToolServer),
}

impl Verb {
    /// Does it.
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Self::Serve(verb) => verb.run(context).await,
            Self::Stop(verb) => verb.run(context).await,
            Self::TakeOver(verb) => verb.run(context).await,
            Self::Demo(verb) => verb.run(context).await,
            Self::Chaos(verb) => verb.run(context).await,
            Self::Session(verb) => verb.run(context).await,
            Self::Agent(verb) => verb.run(context).await,
            Self::Task(verb) => verb.run(context).await,
            Self::Message(verb) => verb.run(context).await,
            Self::Memory(verb) => verb.run(context).await,
            Self::Effect(verb) => verb.run(context).await,
            Self::Mcp(verb) => verb.run(context).await,
            Self::Metric(verb) => verb.run(context).await,
            Self::Checkpoint(verb) => verb.run(context).await,
            Self::Recover(verb) => verb.run(context).await,
            Self::Report(verb) => verb.run(context).await,
            Self::Quarantine(verb) => verb.run(context).await,
            Self::Verify(verb) => verb.run(context).await,
            Self::Doctor(verb) => verb.run(context).await,
            Self::Migrate(verb) => verb.run(context).await,
            Self::Bench(verb) => verb.run(context).await,
            Self::SwarmWorker(worker) => worker.run().await,
            Self::SwarmSteward(steward) => steward.run().await,
            Self::SwarmCheck(check) => check.run().await,
            Self::ChaosTools(server) => server.run(),
        }
    }
}
