//! `swarmkeep session`: a session's life, its history, and its states.

mod history;
mod life;
mod look;

use clap::Subcommand;

use super::Name;
use crate::{cli::Write, context::Context, failure::Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a session; refused if there is one of this name
    Create {
        session: Name,
        #[command(flatten)]
        with: life::With,
        #[command(flatten)]
        write: Write,
    },
    /// Resume a session exactly where it stood, or make it
    Open {
        session: Name,
        #[command(flatten)]
        with: life::With,
        #[command(flatten)]
        write: Write,
    },
    /// Sessions of the store
    Ls(look::Ls),
    /// One session: how it stands and how much is in it
    Show { session: Name },
    /// The whole state, as it is or was; with --json also the requests that were carried out
    State {
        session: Name,
        /// As it was at this seq
        #[arg(long, value_name = "SEQ")]
        at: Option<u64>,
    },
    /// What happened, record by record
    History(history::History),
    /// Make a new session from this one's state
    Fork {
        session: Name,
        /// The new session's name
        new: Name,
        /// From the state at this seq; as it is by default
        #[arg(long, value_name = "SEQ")]
        at: Option<u64>,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// What changed between two seqs, entity by entity
    Diff {
        session: Name,
        /// The earlier seq
        from: u64,
        /// The later seq; where the session stands by default
        to: Option<u64>,
    },
    /// Set the state back to a seq, by a new record: history stays, effects stay
    Rewind {
        session: Name,
        /// To the state at this seq
        #[arg(long, value_name = "SEQ")]
        to: u64,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Save the state now, so that coming back need not fold from further back
    Checkpoint {
        session: Name,
        #[command(flatten)]
        write: Write,
    },
    /// Stop work until somebody resumes
    Pause {
        session: Name,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        write: Write,
    },
    /// Go on after a pause
    Resume {
        session: Name,
        #[command(flatten)]
        write: Write,
    },
    /// Set aside; the next command wakes it
    Park {
        session: Name,
        #[command(flatten)]
        write: Write,
    },
    /// The end, by will; history stays readable
    Close {
        session: Name,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        write: Write,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        context.may_make_store = matches!(self, Self::Create { .. } | Self::Open { .. });
        match self {
            Self::Create { session, with, write } => life::create(context, &session, with, write).await,
            Self::Open { session, with, write } => life::open(context, &session, with, write).await,
            Self::Ls(ls) => ls.run(context).await,
            Self::Show { session } => look::show(context, &session).await,
            Self::State { session, at } => look::state(context, &session, at).await,
            Self::History(history) => history.run(context).await,
            Self::Fork { session, new, at, reason, write } => {
                life::fork(context, &session, &new, at, reason, write).await
            }
            Self::Diff { session, from, to } => look::diff(context, &session, from, to).await,
            Self::Rewind { session, to, reason, write } => life::rewind(context, &session, to, reason, write).await,
            Self::Checkpoint { session, write } => super::checkpoint::make(context, &session, write).await,
            Self::Pause { session, reason, write } => {
                life::turn(context, &session, "pause", "paused", reason, write).await
            }
            Self::Resume { session, write } => life::turn(context, &session, "resume", "live", None, write).await,
            Self::Park { session, write } => life::turn(context, &session, "park", "parked", None, write).await,
            Self::Close { session, reason, write } => {
                life::turn(context, &session, "close", "closed", reason, write).await
            }
        }
    }
}
