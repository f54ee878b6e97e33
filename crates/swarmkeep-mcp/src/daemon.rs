//! The daemon's end: shims come in over a local socket, each gets a server of its own, and its calls land in a session.
//! A link stays on one thread, so that a line goes through it without a way from thread to thread.
//!
//! Which session: the one that the shim names, else `mcp/FOLDER-HASH-CLIENT`: the last part of the folder that the client
//! runs in, eight digits of the hash of its whole path, and the client's own name. So two projects, and two kinds of client,
//! never share one by accident; the same client in the same folder finds its calls again.

mod threads;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde_json::json;
use swarmkeep::{
    Actor, Error, ErrorKind, OsEntropy, SessionName, Swarmkeep, SystemClock,
    core::clock::{Clock, Entropy},
};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

pub use self::threads::Threads;
use crate::{
    calls::Limits,
    envelope::Envelope,
    link::Timing,
    record::Record,
    transport::{Bounds, lines::Lines},
    upstream::{self, FromClient, Handles, Remembered, Status, Terms, ToClient},
    wire::{self, Ask, Hello, Wants},
};

/// Longest hello, in bytes: it carries an environment.
const HELLO_BYTES: usize = 4 << 20;
/// A shim that does not say who it is has so long.
const HELLO_TIME: Duration = Duration::from_secs(30);
/// Links at once.
const LINKS: usize = 1_024;
/// A link that is asked how it stands has so long.
const STATUS_TIME: Duration = Duration::from_secs(2);
/// Small lines for a shim go out in one piece, up to about this much.
const PIECE_BYTES: usize = 64 * 1024;
/// At the daemon's end a client has so long to take what it was given.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// After a failed accept the loop rests.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A link, as others find it.
struct Entry {
    session: String,
    client: String,
    status: mpsc::Sender<oneshot::Sender<Status>>,
}

struct Shared {
    keep: Swarmkeep,
    links: Mutex<BTreeMap<u64, Entry>>,
    next: AtomicU64,
    starter: Option<Vec<String>>,
    closing: watch::Receiver<Option<Instant>>,
}

/// A socket on which shims are answered.
pub struct Daemon {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file.
    identity: Option<(u64, u64)>,
    shared: Arc<Shared>,
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl Daemon {
    /// Listens at `path`, for this user alone. The caller holds the store: a file that is there is a leftover. `starter` is that
    /// of [`Bounds`]; `closing` says when it is to end, by when calls that are under way are waited for.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(
        keep: Swarmkeep,
        path: &Path,
        starter: Option<Vec<String>>,
        closing: watch::Receiver<Option<Instant>>,
    ) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        // Made under another name, closed to others, and only then moved to where shims look.
        let making = path.with_extension(format!("{}.part", std::process::id()));
        for leftover in [&making, &path.to_owned()] {
            match std::fs::remove_file(leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let listener = UnixListener::bind(&making)?;
        std::fs::set_permissions(&making, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&making, path)?;
        let shared = Shared { keep, links: Mutex::default(), next: AtomicU64::new(1), starter, closing };
        Ok(Self { listener, path: path.to_owned(), identity: identity_of(path), shared: Arc::new(shared) })
    }

    /// Answers shims until it is closing; then every link is ended, its calls are written down, and its server is gone. Gives the
    /// threads that they ran on, which are to outlive the store.
    pub async fn run(self) -> Threads {
        let Self { listener, path, identity, shared } = self;
        let mut threads = Threads::new();
        let mut shims = JoinSet::new();
        let mut closing = shared.closing.clone();
        loop {
            let accepted = tokio::select! {
                _ = closing.wait_for(Option::is_some) => break,
                accepted = listener.accept() => accepted,
                Some(_) = shims.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) if shims.len() < LINKS => match stream.into_std() {
                    Ok(stream) => drop(shims.spawn_on(answer(shared.clone(), stream), &threads.next())),
                    Err(error) => tracing::warn!(%error, "a shim could not be taken"),
                },
                Ok((mut stream, _)) => {
                    // A shim that is not answered is told by the end of its stream.
                    let _ = stream.write_all(b"? too many links are open: end a client first\n").await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a shim could not be accepted");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
        drop(listener);
        // A store that was taken over has another daemon's socket there.
        if identity.is_some()
            && identity_of(&path) == identity
            && let Err(error) = tokio::fs::remove_file(&path).await
        {
            tracing::debug!(%error, "the socket for MCP clients could not be removed");
        }
        while shims.join_next().await.is_some() {}
        threads
    }
}

async fn answer(shared: Arc<Shared>, stream: std::os::unix::net::UnixStream) {
    let stream = match UnixStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a shim could not be taken"),
    };
    let (from, mut to) = stream.into_split();
    let mut lines = Lines::of_frames(BufReader::with_capacity(64 * 1024, from), HELLO_BYTES);
    let hello = match unless_closing(&shared, timeout(HELLO_TIME, lines.next())).await {
        Some(Ok(Ok(Some(hello)))) => serde_json::from_slice::<Hello>(&hello),
        _ => return,
    };
    let said = match hello {
        Ok(Hello { wants: Wants::Status, .. }) => Some(shared.status().await),
        Ok(Hello { wants: Wants::Proxy(ask), .. }) => {
            match proxy(&shared, *ask, lines.with_most(wire::FRAME_BYTES), &mut to).await {
                Ok(()) => None,
                // What is wrong with the words stays wrong; anything else may be mended while the client waits.
                Err(error) => {
                    let mark = if error.kind == ErrorKind::Invalid { '!' } else { '?' };
                    Some(format!("{mark} {}", one_line(&error.to_string())))
                }
            }
        }
        Err(error) => Some(format!("! this daemon does not understand its shim: {}", one_line(&error.to_string()))),
    };
    if let Some(said) = said {
        // Whoever asked may be gone.
        let _ = to.write_all(format!("{said}\n").as_bytes()).await;
    }
}

/// `None`: the daemon ends.
async fn unless_closing<T>(shared: &Shared, waiting: impl Future<Output = T>) -> Option<T> {
    let mut closing = shared.closing.clone();
    let closes = async { drop(closing.wait_for(Option::is_some).await) };
    tokio::select! {
        done = waiting => Some(done),
        () = closes => None,
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

impl Shared {
    async fn status(&self) -> String {
        let links: Vec<(String, String, mpsc::Sender<oneshot::Sender<Status>>)> = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.values().map(|link| (link.session.clone(), link.client.clone(), link.status.clone())).collect()
        };
        let mut all = Vec::new();
        for (session, client, ask) in links {
            let (answer, answered) = oneshot::channel();
            if ask.send(answer).await.is_ok()
                && let Ok(Ok(status)) = timeout(STATUS_TIME, answered).await
            {
                all.push(json!({ "session": session, "client": client, "link": status }));
            }
        }
        json!({ "links": all }).to_string()
    }
}

/// One shim, to its end.
async fn proxy(
    shared: &Arc<Shared>,
    ask: Ask,
    mut lines: Lines<BufReader<unix::OwnedReadHalf>>,
    to: &mut unix::OwnedWriteHalf,
) -> Result<(), Error> {
    // The client's name comes with its first line. One that was here before is not waited for: it may have nothing to say, and
    // wait for what it subscribed to.
    let first = match ask.initialize {
        Some(_) => None,
        None => match unless_closing(shared, lines.next()).await {
            Some(first) => first.ok().flatten(),
            None => return Ok(()),
        },
    };
    let introduction = ask.initialize.clone().map(Bytes::from);
    let introduction = introduction.or_else(|| first.clone().and_then(wire::number_of).map(|(_, line)| line));
    let client = introduction.and_then(client_name).unwrap_or_else(|| "client".to_owned());
    let name = match &ask.session {
        Some(name) => name.parse()?,
        None => session_name(&ask.folder, &client)?,
    };
    let session = shared.keep.open_session(&name.to_string()).await?;
    let actor = Actor::new(format!("mcp:{client}"))?;
    let upstream = ask.upstream.clone().unwrap_or_else(|| ask.recipe.name());
    let remembered = Remembered::of(&session.state().await?, &slug(&ask.client, 32), &upstream, &ask.recipe);
    let terms = Terms {
        upstream: upstream.clone(),
        recipe: ask.recipe,
        trust: ask.trust,
        timing: Timing::default(),
        limits: Limits { queue: ask.queue, ..Limits::default() },
        offered: ask.offered.unwrap_or(u64::MAX),
        waited_ms: ask.waited_ms,
        bounds: Bounds { starter: shared.starter.clone(), ..Bounds::default() },
        client: slug(&ask.client, 32),
        initialize: ask.initialize.map(Bytes::from),
        remembered,
        began_at_ms: SystemClock::new().now_ms(),
        is_lasting: ask.is_lasting,
        closing: Some(shared.closing.clone()),
    };
    let mut seed = [0u8; 8];
    OsEntropy.fill(&mut seed);
    let handles =
        upstream::start(terms, Record::new(shared.keep.clone(), session, actor, upstream), u64::from_le_bytes(seed));
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    let entry = Entry { session: name.to_string(), client, status: handles.status.clone() };
    shared.links.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
    relay(shared, handles, first, lines, to).await;
    shared.links.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    Ok(())
}

async fn relay(
    shared: &Shared,
    handles: Handles,
    first: Option<Bytes>,
    mut lines: Lines<BufReader<unix::OwnedReadHalf>>,
    to: &mut unix::OwnedWriteHalf,
) {
    let Handles { client, mut answers, status: _, mut over } = handles;
    let mut closing = shared.closing.clone();
    let reading = async move {
        let mut next = match first {
            Some(first) => Some(first),
            None => lines.next().await.ok().flatten(),
        };
        loop {
            let Some(frame) = next else { return };
            let said = if &frame[..] == b"end" {
                FromClient::SaidAll
            } else {
                let Some((number, line)) = wire::number_of(frame) else { return };
                FromClient::Line { number, line }
            };
            let has_said_all = matches!(said, FromClient::SaidAll);
            if client.send(said).await.is_err() {
                return;
            }
            if has_said_all {
                // Its answers are still to come: the other side ends, when the link has.
                let _client = client;
                return std::future::pending().await;
            }
            next = match lines.next().await {
                Ok(line) => line,
                Err(_) => return,
            };
        }
    };
    let writing = async {
        let mut text = Vec::new();
        while let Some(line) = answers.recv().await {
            let mut next = Some(line);
            // What is there by now goes in one piece; what is large goes as it is.
            while let Some(line) = next.take() {
                if let Some(large) = frame(line, &mut text) {
                    if to.write_all(&text).await.is_err() || to.write_all(&large).await.is_err() {
                        return;
                    }
                    text.clear();
                    text.push(b'\n');
                }
                if text.len() < PIECE_BYTES {
                    next = answers.try_recv().ok();
                }
            }
            if to.write_all(&text).await.is_err() {
                return;
            }
            text.clear();
        }
    };
    // Ends with whichever side ends first; dropping the client's sender ends the link. Where the daemon ends the link ends by itself,
    // in time, and a client that does not read is not waited for then.
    let mut is_over = false;
    {
        let ends = async {
            let _ = closing.wait_for(Option::is_some).await.map(drop);
            let _ = (&mut over).await;
            is_over = true;
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
            () = ends => {}
        }
    }
    drop(answers);
    if !is_over {
        // A link that panicked is over, too.
        let _ = (&mut over).await;
    }
}

/// Adds a frame to `text`: whole, or, of a line that is large, up to that line, which is to follow with a line feed.
fn frame(line: ToClient, text: &mut Vec<u8>) -> Option<Bytes> {
    // A `Vec` takes whatever is written to it.
    let (_, line) = match line {
        ToClient::Line { answers: Some(number), line } => (write!(text, "{number} "), line),
        ToClient::Line { answers: None, line } => (write!(text, "= "), line),
        ToClient::Taken(number) => (write!(text, "{number}"), Bytes::new()),
    };
    if line.len() >= PIECE_BYTES {
        return Some(line);
    }
    text.extend_from_slice(&line);
    text.push(b'\n');
    None
}

/// What a client calls itself: in its `initialize`, or (2026-07-28 and later) in every request.
pub(crate) fn client_name(line: Bytes) -> Option<String> {
    let message = Envelope::parse(line).ok()?;
    let params: serde_json::Value = serde_json::from_str(message.params()?).ok()?;
    let name = params
        .pointer("/clientInfo/name")
        .or_else(|| params.pointer("/_meta/io.modelcontextprotocol~1clientInfo/name"))?
        .as_str()?;
    let name = slug(name, 40);
    (!name.is_empty()).then_some(name)
}

fn session_name(folder: &str, client: &str) -> Result<SessionName, Error> {
    let last = Path::new(folder).file_name().map(|name| slug(&name.to_string_lossy(), 40)).unwrap_or_default();
    let hash = blake3::hash(folder.as_bytes()).to_hex();
    let hash = hash.get(..8).unwrap_or_default();
    let last = if last.is_empty() { "root".to_owned() } else { last };
    Ok(SessionName::new("mcp", &format!("{last}-{hash}-{client}"))?)
}

/// As a name may be written: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
fn slug(text: &str, most: usize) -> String {
    let mapped = text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' });
    let trimmed: String = mapped.skip_while(|c| !c.is_ascii_alphanumeric()).take(most).collect();
    trimmed.trim_end_matches(['-', '.', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_named_after_folder_and_client() {
        let name = |folder: &str, client: &str| session_name(folder, client).unwrap().to_string();
        assert!(name("/home/a/My project", "claude-code").starts_with("mcp/My-project-"));
        assert_ne!(name("/a/x", "c"), name("/b/x", "c"));
        assert_ne!(name("/a/x", "c"), name("/a/x", "d"));
        assert_eq!(name("/a/x", "c"), name("/a/x", "c"));
        assert!(name("/", "c").starts_with("mcp/root-"));
    }

    #[test]
    fn a_client_says_its_name_in_either_era() {
        let name = |line: &str| client_name(Bytes::copy_from_slice(line.as_bytes()));
        let legacy = r#"{"id":1,"method":"initialize","params":{"clientInfo":{"name":"Claude Code","version":"1"}}}"#;
        assert_eq!(name(legacy).as_deref(), Some("Claude-Code"));
        let modern = r#"{"id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"../x"}}}}"#;
        assert_eq!(name(modern).as_deref(), Some("x"));
        assert_eq!(name(r#"{"id":1,"method":"initialize","params":{"clientInfo":{"name":"…"}}}"#), None);
        assert_eq!(name("noise"), None);
    }
}
