//! The `swarmkeep` binary: one file per verb, and the one place where a store's folder or URL becomes a connection.
//!
//! Almost every verb talks to the daemon of a store over HTTP ([`client`]), through the control socket in the store's
//! folder; [`daemon`] finds it or starts it. `serve` *is* the daemon; `demo` and `chaos` start one and kill it; `bench` and
//! `doctor` also look at the machine themselves.

mod bench;
mod chaos;
mod cli;
mod client;
mod context;
mod daemon;
mod failure;
mod hint;
mod moment;
mod names;
mod paint;
mod place;
mod progress;
mod say;
mod served;
mod settings;
mod swarm;
mod table;
mod verb;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::Cli,
    client::Endpoint,
    context::Context,
    failure::{Exit, Failure},
    paint::Paint,
    place::Place,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.common.json;
    match run(cli) {
        // What was asked for did not get to whoever asked.
        Ok(()) if say::is_lost() => ExitCode::from(Exit::Refused as u8),
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, json);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    // Its environment is the server's: nothing in it is for us, and no store is.
    if let cli::Verb::Mcp(verb::mcp::Verb::Child { of, command }) = &cli.verb {
        return Err(verb::mcp::proxy::child(*of, command));
    }
    let place = Place::find(cli.common.store.clone(), |name| std::env::var_os(name))?;
    if place.said_by == "PERSISTENT_STATE_DIR" {
        say::remark!("swarmkeep: the store is at {}, as PERSISTENT_STATE_DIR says", place.dir.display());
    }
    let (at, url) = (place.clone(), cli.common.url.clone());
    carry_out(cli, place).map_err(|mut failure| {
        failure.next = hint::pasted(&failure.next, &at, url.as_deref());
        failure
    })
}

fn carry_out(cli: Cli, place: Place) -> Result<(), Failure> {
    let mut context = Context::new(place, Paint::stdout());
    context.config = cli.common.config;
    context.no_start = cli.common.no_start;
    context.json = cli.common.json;
    if let Some(url) = cli.common.url {
        context.url = Some(Endpoint::url(&url, std::env::var("SWARMKEEP_TOKEN").ok())?);
    }
    // A relay has one thing to do at a time: handing it from thread to thread is what it would cost.
    let mut builder = match &cli.verb {
        cli::Verb::Mcp(verb::mcp::Verb::Proxy(_)) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build().map_err(|error| {
        Failure::unavailable(
            format!("cannot start threads: {error}"),
            "end other programs, or raise the limit: ulimit -u",
        )
    })?;
    let done = runtime.block_on(cli.verb.run(&mut context));
    let done = done.and_then(|()| context.was_left().map_or(Ok(()), Err));
    // A thread that waits for input would hold the end up.
    runtime.shutdown_background();
    done
}

/// One line what, one line what to do next.
fn tell(failure: &Failure, json: bool) {
    let paint = Paint::stderr();
    for line in &failure.detail {
        say::remark!("{}", paint.dim(format_args!("  | {line}")));
    }
    say::remark!("{} {}", paint.red("swarmkeep:"), table::printable(&failure.what));
    say::remark!("{} {}", paint.dim("     next:"), table::printable(&failure.next));
    // An answer that says itself what is wrong is the one line; why the exit code is not 0 is said to people.
    if json && !say::is_answered() {
        say::say!("{}", failure.json());
    }
}
