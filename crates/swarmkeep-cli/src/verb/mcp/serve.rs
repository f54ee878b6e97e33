//! `swarmkeep mcp serve`: a relay between an MCP client on stdin and stdout and the store's daemon, which has the tools.
//!
//! So many clients share one store, and none of them can damage it by its end. The daemon is found or started as for any
//! verb; when it dies it is found or started again as soon as somebody needs it, and the client notices a pause at most. The
//! relay itself does not end before its client does: clients do not start such a program a second time.

use std::{collections::VecDeque, io, path::Path, time::Duration};

use clap::Args;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    super::Name,
    relay::{Conversation, Heard, LINE_BYTES, Said, too_long},
};
use crate::{
    client::{Call, segment},
    context::{Context, drawn_key},
    failure::Failure,
    say,
};

/// A daemon that cannot be had for this long is given up: whoever waits is told, and the next request tries again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A daemon that takes a connection and ends it without a word is believed after so many times.
const HANG_UPS: u32 = 3;
/// After the client has ended, answers that are owed are waited for this long.
const LAST_ANSWERS: Duration = Duration::from_secs(60);
/// Lines between two tasks.
const LINES: usize = 64;

/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The tools of ruv-swarm instead, by their names and with their results
    #[arg(long)]
    ruv_swarm: bool,
    /// With --ruv-swarm: the session that has the swarms [default: ruv-swarm/fHASH-FOLDER, of the path of
    /// the folder it is started in]
    #[arg(long, value_name = "SESSION", requires = "ruv_swarm")]
    session: Option<Name>,
}

impl Serve {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        // A client's settings are where a store begins, as the daemon is.
        context.may_make_store = true;
        let stream = if self.ruv_swarm {
            let session = match self.session {
                Some(session) => session,
                None => folder_session()?,
            };
            let (namespace, name) = session.split_once('/').unwrap_or(("default", &session));
            // One name for the relay's whole life: what it sends again is known by it.
            let client = drawn_key()?;
            format!("/mcp/ruv-swarm/{}/{}/stream?client={}", segment(namespace), segment(name), segment(&client))
        } else {
            "/mcp/stream".to_owned()
        };
        Relay::new(context, stream).run().await
    }
}

/// The session of the folder that a client starts its servers in: two projects have two, the same project always the same.
fn folder_session() -> Result<String, Failure> {
    let folder = std::env::current_dir().and_then(std::fs::canonicalize).map_err(|error| {
        Failure::usage(format!("the folder it was started in cannot be named: {error}"), "give --session NAME")
    })?;
    Ok(session_of(&folder))
}

/// As docs/mcp.md has it for those who ask over HTTP.
fn session_of(folder: &Path) -> String {
    let name: String = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() { char } else { '-' })
        .take(40)
        .collect();
    let hash = blake3::hash(folder.as_os_str().as_encoded_bytes()).to_hex();
    let hash = hash.get(..8).unwrap_or_default();
    format!("ruv-swarm/f{hash}-{}", name.trim_matches('-')).trim_end_matches('-').to_owned()
}

/// A connection to the daemon: lines in, lines out.
struct Line {
    heard: mpsc::Receiver<Vec<u8>>,
    say: mpsc::Sender<Vec<u8>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Relay<'a> {
    context: &'a Context,
    /// Where the daemon has the server.
    stream: String,
    talk: Conversation,
    line: Option<Line>,
    /// On its way to the daemon: never waited for, so that nobody waits for whoever waits for him.
    to_say: VecDeque<Vec<u8>>,
    /// When the next try is due, and when to give up.
    due: Option<Instant>,
    until: Instant,
    pause: Duration,
    hang_ups: u32,
}

impl<'a> Relay<'a> {
    fn new(context: &'a Context, stream: String) -> Self {
        Self {
            context,
            stream,
            talk: Conversation::default(),
            line: None,
            to_say: VecDeque::new(),
            due: None,
            until: Instant::now(),
            pause: PAUSE.0,
            hang_ups: 0,
        }
    }

    async fn run(mut self) -> Result<(), Failure> {
        let (mut client, reading) = read(tokio::io::stdin());
        let (out, writing) = write(tokio::io::stdout());
        let mut last = None;
        loop {
            let is_over = last.is_some_and(|last| Instant::now() >= last);
            if out.is_closed() || is_over || (last.is_some() && !self.talk.is_owed()) {
                break;
            }
            let has_room = last.is_none() && self.talk.has_room() && self.to_say.len() < LINES;
            let due = self.due;
            let is_there = self.line.is_some();
            let has_more = !self.to_say.is_empty();
            let (to, from) = self.line.as_mut().map(|line| (&line.say, &mut line.heard)).unzip();
            tokio::select! {
                said = client.recv(), if has_room => match said {
                    Some(line) => self.said(line, &out).await,
                    None => last = Some(Instant::now() + LAST_ANSWERS),
                },
                () = say(to, &mut self.to_say), if is_there && has_more => {}
                heard = next(from), if is_there => match heard {
                    Some(line) => self.heard(line, &out).await?,
                    None => self.hung_up(&out).await,
                },
                () = at(due), if !is_there && due.is_some() => self.connect(&out).await,
                () = at(last), if last.is_some() => {}
                () = out.closed() => {}
            }
        }
        reading.abort();
        drop(out);
        // What was answered gets to the client, if it still reads.
        let _ = timeout(Duration::from_secs(5), writing).await;
        Ok(())
    }

    async fn said(&mut self, line: Vec<u8>, out: &mpsc::Sender<Vec<u8>>) {
        if line.len() > LINE_BYTES {
            return tell(out, too_long()).await;
        }
        match self.talk.say(&line) {
            Said::Nothing => {}
            Said::Refused(answer) => tell(out, answer).await,
            Said::Pass if self.line.is_some() => self.to_say.push_back(line),
            Said::Pass => self.begin(),
        }
    }

    /// Somebody needs a connection: at once.
    fn begin(&mut self) {
        if self.due.is_none() && self.talk.is_waiting() {
            let now = Instant::now();
            (self.due, self.until, self.pause) = (Some(now), now + PATIENCE, PAUSE.0);
        }
    }

    async fn heard(&mut self, line: Vec<u8>, out: &mpsc::Sender<Vec<u8>>) -> Result<(), Failure> {
        self.hang_ups = 0;
        match self.talk.hear(&line) {
            Heard::Pass => tell(out, line).await,
            Heard::Keep => {}
            Heard::Changed { from, to } => {
                return Err(Failure::unavailable(
                    format!(
                        "the daemon that answers now speaks revision {to} of the protocol, the client was told {from}"
                    ),
                    "start the client again",
                ));
            }
        }
        Ok(())
    }

    async fn hung_up(&mut self, out: &mpsc::Sender<Vec<u8>>) {
        self.line = None;
        self.to_say.clear();
        if self.talk.is_waiting() {
            self.hang_ups += 1;
        }
        if self.hang_ups < HANG_UPS {
            return self.begin();
        }
        self.hang_ups = 0;
        self.give_up("the daemon ended the connection again and again without an answer; its log has the reason", out)
            .await;
    }

    async fn connect(&mut self, out: &mpsc::Sender<Vec<u8>>) {
        match open(self.context, &self.stream).await {
            Ok(line) => {
                self.due = None;
                self.to_say = self.talk.again().into();
                self.line = Some(line);
            }
            Err(failure)
                if Instant::now() + self.pause < self.until && failure.exit == crate::failure::Exit::Unavailable =>
            {
                self.due = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(PAUSE.1);
            }
            Err(failure) => self.give_up(&format!("{} ({})", failure.what, failure.next), out).await,
        }
    }

    async fn give_up(&mut self, why: &str, out: &mpsc::Sender<Vec<u8>>) {
        self.due = None;
        say::remark!("swarmkeep: {why}");
        for answer in self.talk.give_up(why) {
            tell(out, answer).await;
        }
    }
}

async fn tell(out: &mpsc::Sender<Vec<u8>>, line: Vec<u8>) {
    // A client that is gone is noticed by the loop.
    drop(out.send(line).await);
}

/// Hands on the first line that waits, as soon as there is room. Broken off, it has handed on nothing.
async fn say(to: Option<&mpsc::Sender<Vec<u8>>>, to_say: &mut VecDeque<Vec<u8>>) {
    let Some(to) = to else { return };
    // One that is gone is noticed by its end.
    let Ok(room) = to.reserve().await else { return std::future::pending().await };
    if let Some(first) = to_say.pop_front() {
        room.send(first);
    }
}

async fn next(from: Option<&mut mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    from?.recv().await
}

async fn at(due: Option<Instant>) {
    if let Some(due) = due {
        sleep_until(due).await;
    }
}

async fn open(context: &Context, stream: &str) -> Result<Line, Failure> {
    let mut client = context.connect().await?;
    let call = Call::get(stream).header("upgrade", "mcp-lines").header("connection", "upgrade");
    let connection = client
        .upgrade(&call)
        .await
        .map_err(|error| Failure::unavailable(error.to_string(), "the daemon's log has the reason"))?
        .ok_or_else(|| {
            Failure::usage(
                format!("the daemon at {} has no MCP stream for this client", client.endpoint()),
                "is it of another version (`swarmkeep stop`, then again), or does it want SWARMKEEP_TOKEN?",
            )
        })?;
    let (from, to) = tokio::io::split(TokioIo::new(connection));
    let (heard, reading) = read(from);
    let (say, writing) = write(to);
    Ok(Line { heard, say, tasks: [reading, writing] })
}

/// Reads lines until the end. One that is too long comes cut, one byte longer than allowed.
fn read(from: impl AsyncRead + Unpin + Send + 'static) -> (mpsc::Receiver<Vec<u8>>, JoinHandle<()>) {
    let (lines, heard) = mpsc::channel(LINES);
    let reading = tokio::spawn(async move {
        let mut from = BufReader::new(from);
        loop {
            match line(&mut from).await {
                Ok(Some(line)) => {
                    if lines.send(line).await.is_err() {
                        return;
                    }
                }
                // Broken is the same as ended for whoever reads.
                Ok(None) | Err(_) => return,
            }
        }
    });
    (heard, reading)
}

async fn line(from: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let most = LINE_BYTES as u64 + 1;
    if (&mut *from).take(most).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        return Ok(Some(line));
    }
    // The rest of a line that is too long is read and dropped, piece by piece.
    while line.len() as u64 >= most {
        let mut rest = Vec::new();
        if (&mut *from).take(most).read_until(b'\n', &mut rest).await? == 0 || rest.last() == Some(&b'\n') {
            break;
        }
    }
    Ok(Some(line))
}

fn write(mut to: impl AsyncWrite + Unpin + Send + 'static) -> (mpsc::Sender<Vec<u8>>, JoinHandle<()>) {
    let (say, mut lines) = mpsc::channel::<Vec<u8>>(LINES);
    let writing = tokio::spawn(async move {
        while let Some(mut line) = lines.recv().await {
            line.push(b'\n');
            let written = async {
                to.write_all(&line).await?;
                to.flush().await
            };
            if written.await.is_err() {
                return;
            }
        }
    });
    (say, writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As docs/mcp.md says it: whoever asks over HTTP makes the name himself.
    #[test]
    fn a_folder_has_the_session_that_the_docs_say() {
        let hash = |path: &str| blake3::hash(path.as_bytes()).to_hex()[..8].to_owned();
        for (path, name) in [("/work/sv", "sv"), ("/work/-My app.2-", "My-app-2"), ("/work/été", "t")] {
            assert_eq!(session_of(Path::new(path)), format!("ruv-swarm/f{}-{name}", hash(path)));
        }
        assert_eq!(session_of(Path::new("/")), format!("ruv-swarm/f{}", hash("/")));
        let long = "x".repeat(50);
        assert!(session_of(&Path::new("/work").join(&long)).ends_with(&format!("-{}", "x".repeat(40))));
        let docs = include_str!("../../../../../docs/mcp.md");
        assert!(docs.contains("`ruv-swarm/fHASH-FOLDER`") && !docs.contains("`ruv-swarm/FOLDER`"));
    }
}
