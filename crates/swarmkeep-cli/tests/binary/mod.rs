//! The binary, run as people run it: own folder, own environment, and no daemon left behind.

#![allow(dead_code, clippy::disallowed_methods, reason = "each test file uses a part; and tests wait for real time")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Generous: a machine that compiles beside the tests is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that comes by itself.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what} within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// What a scripted tool server did outside, which it writes down before anything else.
pub(crate) fn effects(store: &Store) -> usize {
    fs::read_to_string(store.path("effects")).unwrap_or_default().lines().count()
}

/// A folder for one test, with a store in it that may or may not be there yet.
pub(crate) struct Store {
    folder: tempfile::TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.out.lines().next().unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The binary with these arguments, before it runs.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swarmkeep"));
        command.env_clear().env("HOME", self.folder.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("SWARMKEEP_HOME", self.dir()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        ended(&mut self.command(args))
    }

    /// A daemon in the foreground, and what it said when it was up.
    pub(crate) fn serve(&self, args: &[&str]) -> (Child, Value) {
        let mut all = vec!["serve", "--json"];
        if !args.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(args);
        let mut child = self.command(&all).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// The process that holds the store, by its own word.
    pub(crate) fn holder(&self) -> Option<i32> {
        let text = fs::read_to_string(swarmkeep::lock::file(&self.dir())).ok()?;
        let hint: Value = serde_json::from_str(&text).ok()?;
        i32::try_from(hint.get("pid")?.as_i64()?).ok()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The folder is this test's alone, so the process named in it is one that this test started.
        if self.dir().join("control.sock").exists()
            && let Some(pid) = self.holder()
        {
            signal(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A small file system where the store will be; without one the test says that it is skipped, and why.
pub(crate) struct Small(PathBuf);

impl Small {
    pub(crate) fn under(store: &Store, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(store.dir()).unwrap();
        let options = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(store.dir()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(store.dir())),
            Ok(output) => {
                println!("skipped: a tmpfs cannot be mounted: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: `mount` cannot be run: {error}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Stops a process, and returns when it stands still.
pub(crate) fn stop(pid: i32) {
    signal(pid, rustix::process::Signal::STOP);
    let stands = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    until("it stands still", stands);
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub(crate) fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn append(path: &Path, text: &str) {
    use std::io::Write;
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}
