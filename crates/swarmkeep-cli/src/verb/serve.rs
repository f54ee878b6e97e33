//! `swarmkeep serve`: the daemon. Holds the store, answers over HTTP and the control socket, and parks at its end.

pub(super) mod bind;
mod links;

use std::{
    fs::File,
    io::{self, IsTerminal, Write as _},
    net::SocketAddr,
    time::Duration,
};

use clap::Args;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use swarmkeep::{Error, ErrorKind, Swarmkeep};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{recover, stop};
use crate::{
    context::{Context, print_json},
    daemon,
    failure::{Exit, Failure},
    moment, names,
    progress::{self, Line},
    say::say,
    served::{self, Served},
    settings::{KNOWN, Settings},
    table::Table,
};

/// After a second signal the close is given this long; what was not applied by then, the next start applies.
const HURRY: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where it answers over TCP; several with commas, port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Any setting: NAME=VALUE; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Show every setting, its value and who said so, and end
    #[arg(long)]
    print_settings: bool,
    /// Take the store over from a background daemon that another verb had started: it parks first
    #[arg(long)]
    take_over: bool,
    /// Started by another verb: leaves its terminal
    #[arg(long, hide = true)]
    detached: bool,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    while_input: bool,
}

impl Serve {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let settings = context.settings(&self.flags()?)?;
        if self.print_settings {
            return print_settings(context, &settings);
        }
        if self.detached {
            // Fails only for the leader of a process group, which a started child is not.
            let _ = rustix::process::setsid();
        }
        log_to_stderr(settings.text("log"));
        for note in &settings.notes {
            let _ = writeln!(io::stderr(), "swarmkeep: {note}");
        }
        // Before anything is made, and before a daemon that works is ended for this one.
        bind::check(context, &settings)?;
        let is_new = !context.place.is_a_store();
        context.place.make()?;
        let signals = Signals::listen(self.while_input)?;
        let _starting = self.make_way(context, &settings).await?;
        let keep = Swarmkeep::open_with(context.place.dir.to_string_lossy(), bind::engine_settings(&settings))
            .await
            .map_err(refused)?;
        if is_new && !self.detached {
            let _ = writeln!(io::stderr(), "swarmkeep: made a new store in {}", context.place.dir.display());
        }
        let (server, _folder) = match bind::bind(context, &settings, &keep, self.detached).await {
            Ok(bound) => bound,
            Err(failure) => {
                keep.close().await.map_err(refused)?;
                return Err(failure);
            }
        };
        let links = links::Links::start(context, &keep);
        let addresses = server.addresses();
        let urls = served::urls(&addresses, bind::speaks_tls(&settings));
        if let Err(error) = keep.say_address(&urls.join(" ")) {
            tracing::warn!(%error, "the lock file does not say where this daemon answers");
        }
        let served = self.served(&settings, addresses, Served::read(&context.place));
        if let Err(error) = served.leave(&context.place) {
            tracing::warn!(%error, "the next daemon will not know where this one answered");
        }
        greet(context, &keep, &urls)?;
        let returning = Line::new(context).map(|line| tokio::spawn(progress::until_back(Some(line), keep.clone())));
        let mut fenced_out = None;
        let until = async {
            tokio::select! {
                () = signals.count(1) => {}
                how = keep.fenced_out() => fenced_out = Some(how),
            }
        };
        tokio::select! {
            () = server.run(until) => {}
            // The first one ends the accepting; a second one does not wait for requests in flight.
            () = signals.count(2) => {}
        }
        if let Some(returning) = returning {
            returning.abort();
        }
        // Dropped when the store is closed.
        let wait_ms = if fenced_out.is_none() { settings.number("drain") } else { 0 };
        let _threads = links.stop(Duration::from_millis(wait_ms), signals.count(2)).await;
        if let Some(how) = fenced_out {
            if let Err(error) = keep.close().await {
                tracing::warn!(%error, "what this process had was not closed; nobody needs it any more");
            }
            return Err(Failure::new(
                Exit::Unavailable,
                "fenced_out",
                format!("{how}; this one acknowledges nothing any more, and has ended"),
                "whoever was answered `fenced_out` or `unknown` repeats it there, with the same request id",
            ));
        }
        close(context, keep, &signals).await
    }

    /// A store that another process holds: says who, or takes it over. What is returned keeps other verbs from starting a
    /// daemon of their own until this one answers.
    async fn make_way(&self, context: &Context, settings: &Settings) -> Result<Option<File>, Failure> {
        let place = &context.place;
        let Some(pid) = stop::holder(place)? else { return Ok(None) };
        if let Err(error) = daemon::find(place).await
            && error.kind() == io::ErrorKind::TimedOut
        {
            // It cannot be asked to end, either.
            return Err(daemon::nobody(place, &error));
        }
        let served = Served::read(place);
        let is_background = served.in_background && served.pid == pid;
        if self.detached || !is_background {
            let at = place.lock_hint().and_then(|hint| hint.address).unwrap_or_default();
            let answers = if at.is_empty() { String::new() } else { format!(", and answers at {at}") };
            return Err(Failure::unavailable(
                format!("{} is held by process {pid}{answers}", place.dir.display()),
                format!("it serves the store already: use it, or end it first: {} stop", place.program()),
            ));
        }
        if !self.take_over {
            return Err(Failure::unavailable(
                format!(
                    "{} is held by process {pid}, a daemon that another verb started in the background",
                    place.dir.display()
                ),
                format!(
                    "{program} stop, then the same again; or let this one take over: {program} serve --take-over",
                    program = place.program()
                ),
            ));
        }
        bind::room(settings, &served)?;
        let folder = File::open(&place.dir).ok();
        if let Some(folder) = &folder {
            // Somebody who starts a daemon this very moment has it: then the store's own lock decides.
            let _ = flock(folder, FlockOperation::NonBlockingLockExclusive);
        }
        stop::stop(place).await?;
        Ok(folder)
    }

    /// What the next daemon should know of this one.
    fn served(&self, settings: &Settings, addresses: Vec<SocketAddr>, before: Served) -> Served {
        let (pid, in_background) = (std::process::id(), self.detached);
        if addresses.is_empty() {
            return Served { pid, in_background, ..before };
        }
        let asked: Vec<SocketAddr> =
            settings.list("listen").iter().filter_map(|address| address.parse().ok()).collect();
        let chosen = |address: &SocketAddr| {
            asked.contains(address) || (!before.port_was_given && before.addresses.contains(address))
        };
        Served {
            port_was_given: !addresses.iter().all(chosen),
            wants_token: !settings.text("token").is_empty(),
            pid,
            in_background,
            addresses,
        }
    }

    fn flags(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut flags: Vec<(String, String)> =
            self.listen.iter().map(|listen| ("listen".to_owned(), listen.clone())).collect();
        for set in &self.set {
            let (name, value) = set.split_once('=').ok_or_else(|| {
                Failure::usage(
                    format!("--set `{set}` has no `=`"),
                    "give --set NAME=VALUE; --print-settings shows the names",
                )
            })?;
            flags.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(flags)
    }
}

fn print_settings(context: &Context, settings: &Settings) -> Result<(), Failure> {
    let shown = |known: &crate::settings::Known| {
        let value = settings.text(known.name);
        if known.secret && !value.is_empty() { "(set, not shown)".to_owned() } else { value.to_owned() }
    };
    if context.json {
        let all: Vec<_> = KNOWN
            .iter()
            .map(|known| {
                json!({
                    "name": known.name, "value": shown(known), "from": settings.said(known.name).to_string(),
                    "default": known.default, "allowed": known.kind.to_string(), "about": known.about,
                })
            })
            .collect();
        return print_json(
            &json!({ "store": context.place.dir, "store_from": context.place.said_by, "settings": all, "notes": settings.notes }),
        );
    }
    say!("store {} ({})", context.place.dir.display(), context.place.said_by);
    say!("file  {}", context.config.clone().unwrap_or_else(|| context.place.settings_file()).display());
    say!();
    let mut table = Table::new(&["name", "value", "from", "allowed", "about"]);
    for known in KNOWN {
        table.row([
            known.name.into(),
            shown(known),
            settings.said(known.name).to_string(),
            known.kind.to_string(),
            known.about.into(),
        ]);
    }
    context.print_table(&table, "");
    for note in &settings.notes {
        say!("note: {note}");
    }
    Ok(())
}

fn log_to_stderr(level: &str) {
    // The MCP SDK has something to say of every request, and calls what a caller did wrong a warning.
    let level = if level.contains("rmcp") { level.to_owned() } else { format!("{level},rmcp=error") };
    let filter = tracing_subscriber::EnvFilter::new(level);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A log that cannot be written (a full disk, a closed pipe) must not take down the thread that wanted to say so.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .log_internal_errors(false);
    // Only a second subscriber of one process is refused.
    let _ = subscriber.try_init();
}

fn greet(context: &Context, keep: &Swarmkeep, urls: &[String]) -> Result<(), Failure> {
    let report = keep.last_recovery();
    let recovery = serde_json::to_value(&report).unwrap_or_default();
    if context.json {
        return print_json(&json!({
            "store": context.place.dir, "addresses": urls, "control_socket": context.place.socket(),
            "pid": std::process::id(), "recovery": recovery,
        }));
    }
    let paint = context.paint;
    let line = |name: &str, value: String| say!("  {}  {value}", paint.dim(format_args!("{name:<8}")));
    say!("{} {}", paint.bold("swarmkeep"), env!("CARGO_PKG_VERSION"));
    let said_by = context.place.said_by;
    line("store", format!("{} {}", context.place.dir.display(), paint.dim(format_args!("({said_by})"))));
    match urls {
        [] => line("answers", "at control.sock in the store alone".into()),
        urls => {
            line(
                "answers",
                format!("{} {}", paint.cyan(urls.join(", ")), paint.dim("and at control.sock in the store")),
            );
        }
    }
    for found in recover::lines(&recovery, &names::look(&context.place.dir, &recovery)) {
        line("found", found);
    }
    line("started", format!("{}, process {}", moment::utc(moment::now_ms()), std::process::id()));
    Ok(())
}

/// Parks: seals the journal, lets the tables catch up, releases the store.
async fn close(context: &Context, keep: Swarmkeep, signals: &Signals) -> Result<(), Failure> {
    let hurry = async {
        signals.count(2).await;
        tokio::time::sleep(HURRY).await;
    };
    tokio::select! {
        closed = keep.close() => closed.map_err(refused)?,
        () = hurry => { let _ = writeln!(io::stderr(), "swarmkeep: stopped in a hurry: what the tables lack is in the journal, and is applied at the next start"); }
    }
    if !context.json {
        say!("  parked");
    }
    Ok(())
}

/// What asks a daemon to end: counted, because the second one is in a hurry.
pub(crate) struct Signals {
    pub(crate) seen: watch::Receiver<u32>,
}

impl Signals {
    pub(crate) fn listen(while_input: bool) -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::unavailable(
                    format!("cannot listen for signals: {error}"),
                    "`swarmkeep doctor` looks at the machine",
                )
            })
        };
        let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        // A terminal that closes. Who started it with nohup wants it to outlive that.
        let mut hangup = if hears_hangups() { Some(listen(SignalKind::hangup())?) } else { None };
        let (seen, receiver) = watch::channel(0);
        let count = seen.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                    // The shell sends one as well as the kernel: they are no hurry.
                    () = once(&mut hangup) => {}
                }
                seen.send_modify(|seen| *seen += 1);
            }
        });
        if while_input {
            tokio::spawn(async move {
                let mut nothing = [0u8; 64];
                while matches!(tokio::io::stdin().read(&mut nothing).await, Ok(1..)) {}
                count.send_modify(|seen| *seen += 1);
            });
        }
        Ok(Self { seen: receiver })
    }

    /// Once there were so many.
    async fn count(&self, least: u32) {
        // The sender lives in a task that never ends: waiting cannot fail.
        let _ = self.seen.clone().wait_for(|seen| *seen >= least).await;
    }
}

/// Whether a SIGHUP would reach this process: what was ignored when it was started stays so. Where the system does not say
/// (there is no `/proc`), it is left as it is.
fn hears_hangups() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| !ignores_hangups(&status))
}

/// SIGHUP is the first bit of the mask.
fn ignores_hangups(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_none_or(|mask| mask & 1 == 1)
}

/// When it came, once; from then on never.
async fn once(signal: &mut Option<Signal>) {
    match signal {
        Some(waited) => {
            waited.recv().await;
            *signal = None;
        }
        None => std::future::pending().await,
    }
}

/// What the engine or the server says, as every verb says it.
pub(crate) fn refused(error: Error) -> Failure {
    let exit = match error.kind {
        ErrorKind::Invalid => Exit::Usage,
        ErrorKind::Unavailable | ErrorKind::Retry => Exit::Unavailable,
        ErrorKind::Unknown => Exit::Unknown,
        ErrorKind::Corrupt => Exit::Corrupt,
        _ => Exit::Refused,
    };
    let next = error.hint.clone().unwrap_or_else(|| "`swarmkeep doctor` looks for the cause".to_owned());
    Failure::new(exit, error.code(), error.message.clone(), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ignored_at_the_start_is_known_by_the_mask() {
        assert!(!ignores_hangups("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(ignores_hangups("SigIgn:\t0000000000000001\n"));
        assert!(ignores_hangups("nothing of the kind"), "what is not known is left as it is");
    }
}
