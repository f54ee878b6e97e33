//! The daemon of a store: found through the control socket, or started once, detached.
//!
//! Twenty callers at once start one: the folder itself is locked (`flock`) while somebody starts it, the others wait for
//! the socket. Should two start it all the same, the store's own lock decides and the loser's caller waits for the winner.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tokio::time::{Instant, sleep};

use crate::{
    client::{Client, Endpoint},
    failure::{Exit, Failure},
    moment,
    place::Place,
    say::remark,
};

/// A daemon that does not answer after this long is not waited for.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the socket is tried meanwhile.
const POLL: Duration = Duration::from_millis(10);
/// Of a daemon that did not come up, the end of its log is shown.
const TAIL_LINES: usize = 12;

/// How the daemon is started, if it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    /// Whether it may be started.
    pub(crate) allowed: bool,
    /// Whether a store may be made where none is.
    pub(crate) may_make: bool,
    /// The settings file that the caller named.
    pub(crate) config: Option<&'a Path>,
    /// `daemon.log` is set aside when it is larger than this, in bytes.
    pub(crate) log_bytes: u64,
}

/// A connection to the store's daemon, if it answers.
pub(crate) async fn find(place: &Place) -> std::io::Result<Client> {
    let mut client = Client::new(Endpoint::Socket(place.socket()));
    client.connect().await?;
    Ok(client)
}

/// A connection to a daemon that is started, if it may be, because the store's did not answer: `error`.
pub(crate) async fn bring_up(place: &Place, start: Start<'_>, error: &std::io::Error) -> Result<Client, Failure> {
    let is_new = !place.is_a_store();
    if is_new && !start.may_make {
        place.must_be_a_store()?;
    }
    if !start.allowed {
        return Err(nobody(place, error));
    }
    place.make()?;
    let mut client = Client::new(Endpoint::Socket(place.socket()));
    let deadline = Instant::now() + START_TIMEOUT;
    let folder = File::open(&place.dir).map_err(|error| cannot_start(place, &error))?;
    let mut child: Option<Started> = None;
    let mut again = 1;
    loop {
        if child.is_none() && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Whoever had the folder locked before may have brought it up meanwhile.
            if client.connect().await.is_ok() {
                return Ok(client);
            }
            child = Some(spawn(place, start).map_err(|error| cannot_start(place, &error))?);
        }
        if client.connect().await.is_ok() {
            if let Some(started) = &child {
                started.tell(place, is_new).await;
            }
            return Ok(client);
        }
        if let Some(started) = &mut child
            && let Ok(Some(status)) = started.child.try_wait()
            && !(status.code() == Some(Exit::Unavailable as i32) && is_held(place))
        {
            if status.code() == Some(Exit::Unavailable as i32) && again > 0 {
                // Whoever held the store then has given it back since: as one that is killed does, a moment later.
                (child, again) = (None, again - 1);
                continue;
            }
            let mut failure = started.died(place, &format!("ended at once ({status})"));
            // It has said why in its own code: damage and wrong settings are not made better by trying again.
            for (exit, code) in [(Exit::Corrupt, "corrupt"), (Exit::Usage, "usage")] {
                if status.code() == Some(exit as i32) {
                    (failure.exit, failure.code) = (exit, code.to_owned());
                }
            }
            return Err(failure);
        }
        if Instant::now() >= deadline {
            return Err(match &child {
                Some(started) => started.died(place, &format!("does not answer after {} s", START_TIMEOUT.as_secs())),
                None => nobody(place, &std::io::ErrorKind::TimedOut.into()),
            });
        }
        sleep(POLL).await;
    }
}

/// A daemon that this process started.
struct Started {
    child: Child,
    /// Where in the log its words begin.
    log_from: u64,
}

impl Started {
    /// Once, for people: it stays when this verb is over.
    async fn tell(&self, place: &Place, is_new: bool) {
        // What it says of itself, a moment after its socket answers: it may have found another address than the last
        // daemon, or none.
        let said = || place.lock_hint().filter(|hint| hint.pid == Some(self.child.id()))?.address;
        let mut at = said();
        for _ in 0..20 {
            if at.is_some() {
                break;
            }
            sleep(POLL).await;
            at = said();
        }
        let at = at.unwrap_or_default();
        let made = if is_new { format!("made a new store in {}, and ", place.dir.display()) } else { String::new() };
        remark!(
            "swarmkeep: {made}started its daemon in the background (process {}{}); `{} stop` ends it",
            self.child.id(),
            at.split_whitespace().map(|url| format!(", {url}")).collect::<String>(),
            place.program()
        );
    }

    fn died(&self, place: &Place, how: &str) -> Failure {
        let said = tail(&place.log(), self.log_from);
        let next = if said.is_empty() {
            // On a full disk there is no room for its reason either.
            let free = rustix::fs::statvfs(&place.dir).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
            let free = free.map(|free| format!(", on a disk with {} free", moment::bytes(free))).unwrap_or_default();
            format!(
                "it left no word in {}{free}; `swarmkeep serve` says the reason, `swarmkeep doctor` looks at the machine",
                place.log().display()
            )
        } else {
            format!("the reason is above and in {}; `swarmkeep doctor` looks at the machine", place.log().display())
        };
        let mut failure = Failure::unavailable(format!("the daemon of {} {how}", place.dir.display()), next);
        failure.detail = said;
        failure
    }
}

fn spawn(place: &Place, start: Start<'_>) -> std::io::Result<Started> {
    let log_path = place.log();
    if fs::metadata(&log_path).is_ok_and(|log| log.len() > start.log_bytes) {
        fs::rename(&log_path, place.dir.join("daemon.log.1"))?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path)?;
    let log_from = log.metadata()?.len();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg("--detached").arg("--store").arg(&place.dir);
    if let Some(config) = start.config {
        command.arg("--config").arg(std::path::absolute(config)?);
    }
    // `--detached` makes a session of its own, so that a terminal that closes does not take the daemon with it.
    let child = command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    Ok(Started { child, log_from })
}

pub(crate) fn nobody(place: &Place, error: &std::io::Error) -> Failure {
    // The lock itself is asked: a process that is named in the file and still there need not hold the store any more.
    match swarmkeep::lock::holder(&place.dir) {
        Ok(Some(holder)) => Failure::unavailable(
            format!(
                "process {} holds {} since {} and does not answer: {error}",
                holder.pid,
                place.dir.display(),
                moment::utc(holder.started_at_ms)
            ),
            format!(
                "wait, or look at it: ps -p {}; its end loses nothing acknowledged, and where it cannot be ended: {} take-over",
                holder.pid,
                place.program()
            ),
        ),
        _ => Failure::unavailable(
            format!("no daemon answers for {}", place.dir.display()),
            format!("start one: {} serve", place.program()),
        ),
    }
}

/// Whether somebody else has the store: a daemon that was refused for that is not the one to wait for. One that gave up for
/// another reason (no room, a folder in the socket's place) has said it, and nobody is coming.
fn is_held(place: &Place) -> bool {
    matches!(swarmkeep::lock::holder(&place.dir), Ok(Some(_)))
}

/// Whether a process of this id is there.
pub(crate) fn is_alive(pid: u32) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|pid| !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

fn cannot_start(place: &Place, error: &std::io::Error) -> Failure {
    Failure::unavailable(
        format!("cannot start the daemon of {}: {error}", place.dir.display()),
        "`swarmkeep doctor` looks at the folder and the machine",
    )
}

/// The last lines of a log from `from` on.
fn tail(path: &Path, from: u64) -> Vec<String> {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path)
        && file.seek(SeekFrom::Start(from)).is_ok()
    {
        // A log that cannot be read has no tail to show; the failure itself is said all the same.
        let _ = file.take(256 * 1024).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).map(|line| crate::table::printable(line)).collect()
}
