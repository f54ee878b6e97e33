//! A server that is a child: one message a line, over its pipes.
//!
//! The child leads a process group of its own, so that whatever it starts ends with it. Its end, in order: its input is
//! closed; after [`GRACE`] the group gets SIGTERM, after [`TERM_GRACE`] SIGKILL. When its process is over the rest of the group
//! is killed, whatever it was.
//!
//! What it writes to its error output goes to the log, line by line. If this program dies without an end of its own (SIGKILL),
//! the child sees its input end, as MCP servers are written for; with a starter ([`Bounds::starter`]) it is told by a signal,
//! too.

use std::{ffi::OsString, io, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, time::Duration};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Bounds, Connection, Ending, Inbound, Outbound, Program,
    lines::{Lines, TooLong},
    too_long_breach,
};
use crate::reply::Failure;

/// From the end of its input to SIGTERM.
pub const GRACE: Duration = Duration::from_millis(500);
/// From SIGTERM to SIGKILL.
pub const TERM_GRACE: Duration = Duration::from_secs(2);
/// Output that is still in the pipe when the process is over, and a process that is not quite over when its output ends, are
/// waited for this long.
const LINGER: Duration = Duration::from_millis(500);
/// What is written in one piece, if so much is there.
const PIECE_BYTES: usize = 64 * 1024;
/// Of a line of its error output, at most this much is logged.
const LOGGED_BYTES: usize = 4 * 1024;

/// Starts the program.
///
/// # Errors
/// When it cannot be started.
pub fn open(program: &Program, bounds: &Bounds) -> io::Result<Connection> {
    let mut command = match bounds.starter.as_deref() {
        Some([starter, first @ ..]) => {
            // The starter starts whatever it is told, and dies of it: nobody would hear why.
            there(program).map_err(|error| named(program, error))?;
            let mut command = Command::new(starter);
            command.args(first).arg(std::process::id().to_string()).arg("--").arg(&program.program);
            command
        }
        _ => Command::new(&program.program),
    };
    command.args(&program.arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(environment) = &program.environment {
        command.env_clear().envs(environment);
    }
    if let Some(folder) = &program.folder {
        command.current_dir(folder);
    }
    let mut child = command.spawn().map_err(|error| named(program, error))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("the child has no pipes"));
    };
    let (outbox, to_child) = mpsc::channel(bounds.queue);
    let (from_child, inbox) = mpsc::channel(bounds.queue);
    let (close, closing) = mpsc::channel(1);
    tokio::spawn(log(stderr, program.program.clone()));
    let (ended, over) = oneshot::channel();
    let line_bytes = bounds.line_bytes;
    tokio::spawn(async move {
        let (why, writer) = supervise(child, stdin, stdout, to_child, &from_child, closing, line_bytes).await;
        // Whoever waited, and whoever listened, may be gone.
        let _ = ended.send(());
        let _ = writer.await;
        let _ = from_child.send(Inbound::Closed { why }).await;
    });
    Ok(Connection { outbox, inbox, ending: Ending::new(close, over), resumable: super::Resumable::default() })
}

/// Why it is not started, with what was looked for and where.
fn named(program: &Program, error: io::Error) -> io::Error {
    let name = &program.program;
    let what = match &program.folder {
        Some(folder) if !folder.is_dir() => {
            format!("`{name}`: the folder {} that it is to run in is not there", folder.display())
        }
        Some(folder) if name.contains('/') => format!("`{name}`, from the folder {}: {error}", folder.display()),
        _ if name.contains('/') => format!("`{name}`: {error}"),
        _ => format!("`{name}`, looked for in the PATH of its client: {error}"),
    };
    io::Error::new(error.kind(), what)
}

/// Whether there is such a program, looked for as the starter will: in its folder, with its environment.
fn there(program: &Program) -> io::Result<()> {
    let name = Path::new(&program.program);
    let folder = program.folder.as_deref().unwrap_or(Path::new(""));
    if program.program.contains('/') {
        return runs(&folder.join(name));
    }
    let path = match &program.environment {
        Some(environment) => environment.get("PATH").map(OsString::from),
        None => std::env::var_os("PATH"),
    };
    // Without a PATH the system has one of its own.
    let Some(path) = path else { return Ok(()) };
    let mut why = io::Error::from_raw_os_error(Errno::NOENT.raw_os_error());
    for entry in std::env::split_paths(&path) {
        match runs(&folder.join(entry).join(name)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => why = error,
            Err(_) => {}
        }
    }
    Err(why)
}

fn runs(file: &Path) -> io::Result<()> {
    if std::fs::metadata(file)?.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(Errno::ACCESS.raw_os_error()));
    }
    Ok(())
}

async fn supervise(
    mut child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    to_child: mpsc::Receiver<Outbound>,
    from_child: &mpsc::Sender<Inbound>,
    mut closing: mpsc::Receiver<()>,
    line_bytes: usize,
) -> (String, JoinHandle<()>) {
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let (stop, stopped) = oneshot::channel();
    let writer = tokio::spawn(write(stdin, to_child, from_child.clone(), stopped));
    let mut reader = tokio::spawn(read(stdout, from_child.clone(), line_bytes));
    // Nothing is ever sent: the channel closes when the connection's owner wants the end.
    let why = tokio::select! {
        status = child.wait() => {
            // What it wrote before its end is in the pipe still. One that its own children hold open never ends.
            let _ = timeout(LINGER, &mut reader).await;
            match status {
                Ok(status) => format!("the server has ended ({status})"),
                Err(error) => format!("the server cannot be waited for: {error}"),
            }
        }
        read = &mut reader => {
            let status = timeout(LINGER, child.wait()).await;
            match (read, status) {
                (Ok(Err(error)), _) => format!("its output cannot be read: {error}"),
                (_, Ok(Ok(status))) => format!("the server has ended ({status})"),
                _ => "the server has closed its output".to_owned(),
            }
        }
        _ = closing.recv() => "it was closed".to_owned(),
    };
    // Its input is closed with the writer's pipe; what the writer still has to say does not hold that up.
    drop::<oneshot::Sender<()>>(stop);
    end(&mut child, group).await;
    reader.abort();
    (why, writer)
}

async fn end(child: &mut Child, group: Option<Pid>) {
    let signal = |signal| {
        if let Some(group) = group {
            // A group that is gone needs no signal.
            let _ = kill_process_group(group, signal);
        }
    };
    if timeout(GRACE, child.wait()).await.is_err() {
        signal(Signal::TERM);
        // A stopped process takes its signals when it goes on.
        signal(Signal::CONT);
        let _ = timeout(TERM_GRACE, child.wait()).await;
    }
    signal(Signal::KILL);
    let _ = child.wait().await;
}

async fn read(stdout: ChildStdout, to: mpsc::Sender<Inbound>, most: usize) -> io::Result<()> {
    let mut lines = Lines::new(BufReader::with_capacity(64 * 1024, stdout), most);
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) => {
                let breach = TooLong::of(&error).map(|too_long| too_long_breach(too_long, &too_long.beginning));
                if let Some(breach) = breach {
                    // Nobody listens any more: then nobody misses it.
                    let _ = to.send(breach).await;
                }
                return Err(error);
            }
        };
        if line.is_empty() {
            continue;
        }
        if to.send(Inbound::Line(line)).await.is_err() {
            return Ok(());
        }
    }
}

/// Lines that go out in one piece.
#[derive(Default)]
struct Piece {
    text: Vec<u8>,
    /// Where each ends.
    lines: Vec<(Option<u64>, usize)>,
}

impl Piece {
    /// The first line, and those that are there by now.
    fn of(first: Outbound, more: &mut mpsc::Receiver<Outbound>) -> Self {
        let mut piece = Self::default();
        let mut next = Some(first);
        while let Some(Outbound { wire, line }) = next {
            piece.text.reserve(line.len() + 1);
            piece.text.extend_from_slice(&line);
            piece.text.push(b'\n');
            piece.lines.push((wire, piece.text.len()));
            next = if piece.text.len() < PIECE_BYTES { more.try_recv().ok() } else { None };
        }
        piece
    }

    /// What becomes of its lines when so many bytes of it were written, and no more will be.
    fn failed_after(self, written: usize) -> impl Iterator<Item = Inbound> {
        let mut from = 0;
        self.lines.into_iter().filter_map(move |(wire, end)| {
            let begins = std::mem::replace(&mut from, end);
            let failure = match () {
                () if end <= written => return None,
                () if begins < written => Failure::Broken,
                () => Failure::NothingWritten,
            };
            Some(Inbound::Failed { wire, failure })
        })
    }
}

/// Writes lines until there are no more, or it is stopped. What was not written is said to be.
async fn write(
    stdin: ChildStdin,
    mut lines: mpsc::Receiver<Outbound>,
    to: mpsc::Sender<Inbound>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut stdin = Some(stdin);
    loop {
        let next = tokio::select! {
            next = lines.recv() => next,
            _ = &mut stopped => break,
        };
        let Some(first) = next else { break };
        let piece = Piece::of(first, &mut lines);
        let (written, is_stopped) = match &mut stdin {
            Some(stdin) => write_piece(stdin, &piece.text, &mut stopped).await,
            None => (0, false),
        };
        if written < piece.text.len() {
            stdin = None;
        }
        for failed in piece.failed_after(written) {
            if to.send(failed).await.is_err() {
                return;
            }
        }
        if is_stopped {
            break;
        }
    }
    drop(stdin);
    lines.close();
    while let Some(Outbound { wire, .. }) = lines.recv().await {
        if to.send(Inbound::Failed { wire, failure: Failure::NothingWritten }).await.is_err() {
            return;
        }
    }
}

/// How much of it was written, and whether it was stopped: less than all then, or when the pipe fails.
async fn write_piece(stdin: &mut ChildStdin, text: &[u8], stopped: &mut oneshot::Receiver<()>) -> (usize, bool) {
    let mut rest = text;
    while !rest.is_empty() {
        let written = tokio::select! {
            biased;
            written = stdin.write(rest) => written,
            _ = &mut *stopped => return (text.len() - rest.len(), true),
        };
        match written {
            Ok(written @ 1..) => rest = rest.get(written..).unwrap_or_default(),
            _ => break,
        }
    }
    (text.len() - rest.len(), false)
}

async fn log(stderr: ChildStderr, program: String) {
    let mut from = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        let (taken, is_end) = match from.fill_buf().await {
            Ok([]) | Err(_) => return,
            Ok(piece) => {
                let end = piece.iter().position(|&byte| byte == b'\n');
                let text = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
                let room = LOGGED_BYTES.saturating_sub(line.len());
                line.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
                (end.map_or(piece.len(), |end| end + 1), end.is_some())
            }
        };
        from.consume(taken);
        if is_end {
            tracing::info!(target: "mcp", %program, "{}", String::from_utf8_lossy(&line));
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn of_a_piece_that_was_written_in_part_each_line_is_told_what_became_of_it() {
        let (outbox, mut more) = mpsc::channel(4);
        let line = |wire, line: &'static str| Outbound { wire: Some(wire), line: Bytes::from_static(line.as_bytes()) };
        for next in [line(2, "bb"), line(3, "ccc")] {
            outbox.try_send(next).unwrap();
        }
        let piece = |more: &mut _| Piece::of(line(1, "a"), more);
        let all = piece(&mut more);
        assert_eq!(all.text, b"a\nbb\nccc\n");
        let failed = |written: usize| {
            let piece = Piece { text: all.text.clone(), lines: all.lines.clone() };
            let say = |failed| match failed {
                Inbound::Failed { wire, failure } => (wire.unwrap(), failure == Failure::NothingWritten),
                other => panic!("{other:?}"),
            };
            piece.failed_after(written).map(say).collect::<Vec<_>>()
        };
        assert_eq!(failed(0), [(1, true), (2, true), (3, true)]);
        assert_eq!(failed(1), [(1, false), (2, true), (3, true)]);
        assert_eq!(failed(2), [(2, true), (3, true)]);
        assert_eq!(failed(4), [(2, false), (3, true)]);
        assert_eq!(failed(9), []);
        assert_eq!(piece(&mut more).lines.len(), 1);
    }
}
