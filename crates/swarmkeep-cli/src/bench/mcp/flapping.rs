//! Many servers that come and go, each with a client that keeps calling: nothing is left over, and nobody is tried in a storm.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    super::{
        Figure, Plan, Scratch,
        daemon::Daemon,
        figure::resident_bytes,
        scratch::{broke_off, system},
    },
    proxied,
    restarts::Site,
    talk::{Call, Talk},
};
use crate::failure::Failure;

const SERVERS: usize = 50;
/// A server is there for so long, and then away for as long.
const PHASE: Duration = Duration::from_secs(2);
/// Between two calls of a client.
const PACE: Duration = Duration::from_millis(250);
/// Between two looks.
const BEAT: Duration = Duration::from_millis(20);
/// After it is all over, for the last server to be there again and the last process to be gone.
const SETTLED: Duration = Duration::from_secs(90);
/// Tries that are not tied to a window: the first three of an outage, those on use that were saved up, the doubling ones.
const UNTIED: f64 = 16.0;
/// What the daemon's RAM may grow by while they flap, in MB.
const GROWN_MB: f64 = 16.0;

/// What the daemon has; `None` where the system does not say.
#[derive(Debug, Clone, Copy)]
struct Has {
    servers: usize,
    descriptors: usize,
    ram_bytes: u64,
}

impl Has {
    fn of(daemon: u32) -> Option<Self> {
        let descriptors = fs::read_dir(format!("/proc/{daemon}/fd")).ok()?.count();
        Some(Self { servers: children(daemon)?, descriptors, ram_bytes: resident_bytes(Some(daemon)) })
    }
}

/// What all clients were told.
#[derive(Debug, Default)]
struct Told {
    greeted: AtomicUsize,
    is_over: AtomicBool,
    done: AtomicU64,
    not_done: AtomicU64,
}

pub(super) async fn take(plan: &Plan, scratch: &Scratch) -> Result<Vec<Figure>, Failure> {
    let store = scratch.path("mcp");
    let daemon = Daemon::start(&store).await?;
    let sites: Vec<Site> = (0..SERVERS).map(|_| Site::new(scratch)).collect();
    let told = Arc::new(Told::default());
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for (number, site) in sites.iter().enumerate() {
        let (store, arguments, told) = (store.clone(), site.arguments(), told.clone());
        clients.spawn_blocking(move || keep_calling(&store, number, &arguments, &told));
    }
    // Who is greeted has a server.
    until(|| told.greeted.load(Ordering::Relaxed) == SERVERS, &mut clients).await?;
    // The first round warms everything up: what comes after must not add to it.
    flap(&sites, 2 * PHASE).await.map_err(system("the servers"))?;
    until_there(&daemon, SERVERS, &mut clients).await?;
    let before = Has::of(daemon.pid());
    flap(&sites, Duration::from_millis(plan.flapping_ms)).await.map_err(system("the servers"))?;
    until_there(&daemon, SERVERS, &mut clients).await?;
    let after = Has::of(daemon.pid());
    let seconds = began.elapsed().as_secs_f64();
    told.is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.map_err(broke_off)?.map_err(system("a client"))?;
    }
    until_there(&daemon, 0, &mut clients).await?;
    let left = children(daemon.pid());
    daemon.kill().await?;
    let what = |what: &str| format!("MCP proxy, {SERVERS} servers flapping for {seconds:.0} s: {what}");
    let starts: Vec<usize> = sites.iter().map(Site::starts).collect();
    let mut figures = vec![
        Figure::new(
            what("tries of the server that was tried most"),
            "",
            vec![starts.iter().copied().max().unwrap_or(0) as f64],
        )
        .at_most((seconds + UNTIED).ceil())
        .note(format!(
            "{} tries in all; one a second for each is allowed, after the first {UNTIED}",
            starts.iter().sum::<usize>()
        ))
        .note(format!(
            "{} calls were answered as done, {} as not carried out",
            told.done.load(Ordering::Relaxed),
            told.not_done.load(Ordering::Relaxed)
        )),
    ];
    let (Some(before), Some(after), Some(left)) = (before, after, left) else { return Ok(figures) };
    let more = |after: usize, before: usize| vec![after as f64 - before as f64];
    figures.extend([
        Figure::new(what("processes more than at the beginning"), "", more(after.servers, before.servers)).at_most(0.0),
        Figure::new(what("processes left when the clients are gone"), "", vec![left as f64]).at_most(0.0),
        Figure::new(what("descriptors more than at the beginning"), "", more(after.descriptors, before.descriptors))
            .at_most(0.0),
        Figure::new(
            what("RAM of the daemon, more than at the beginning"),
            "MB",
            vec![(after.ram_bytes as f64 - before.ram_bytes as f64) / 1e6],
        )
        .at_most(GROWN_MB)
        .note(format!("{:.1} MB at the end", after.ram_bytes as f64 / 1e6)),
    ]);
    Ok(figures)
}

/// A client's life: it calls until all is over, and its last call must be done.
fn keep_calling(store: &Path, number: usize, arguments: &[String], told: &Told) -> io::Result<()> {
    let mut talk = Talk::start(proxied(store, &format!("bench/flapping-{number}"), arguments)?)?;
    told.greeted.fetch_add(1, Ordering::Relaxed);
    while !told.is_over.load(Ordering::Relaxed) {
        let is_done = talk.try_one(Call::Read)?;
        let count = if is_done { &told.done } else { &told.not_done };
        count.fetch_add(1, Ordering::Relaxed);
        std::thread::park_timeout(PACE);
    }
    talk.one(Call::Read)
}

/// Kills servers and lets them come back for so long; in the end all may be there. Each has its own beat.
async fn flap(sites: &[Site], time: Duration) -> io::Result<()> {
    let began = Instant::now();
    let mut is_there = vec![true; sites.len()];
    while began.elapsed() < time {
        for (number, (site, is_there)) in sites.iter().zip(&mut is_there).enumerate() {
            let at = began.elapsed() + (2 * PHASE).mul_f64(number as f64 / sites.len() as f64);
            let should_be = (at.as_millis() / PHASE.as_millis()).is_multiple_of(2);
            if std::mem::replace(is_there, should_be) == should_be {
                continue;
            }
            if should_be {
                site.open()?;
            } else {
                site.shut()?;
                site.kill();
            }
        }
        sleep(BEAT).await;
    }
    sites.iter().try_for_each(Site::open)
}

/// Waits until the daemon has so many servers.
async fn until_there(daemon: &Daemon, servers: usize, clients: &mut JoinSet<io::Result<()>>) -> Result<(), Failure> {
    until(|| children(daemon.pid()).is_none_or(|there| there == servers), clients).await
}

/// Waits for as long as that may take; a client that has failed is not waited for.
async fn until(is_so: impl Fn() -> bool, clients: &mut JoinSet<io::Result<()>>) -> Result<(), Failure> {
    let until = Instant::now() + SETTLED;
    while !is_so() && Instant::now() < until {
        if let Some(ended) = clients.try_join_next() {
            ended.map_err(broke_off)?.map_err(system("a client"))?;
        }
        sleep(BEAT).await;
    }
    Ok(())
}

/// Processes that this one has started and that are there, as corpses too.
fn children(of: u32) -> Option<usize> {
    let of = of.to_string();
    let is_child = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name, which may have anything in it: the state, then the parent.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
        (parent == of).then_some(())
    };
    Some(fs::read_dir("/proc").ok()?.flatten().filter_map(is_child).count())
}
