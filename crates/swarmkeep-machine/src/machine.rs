//! A machine: its disk, a file system on it, the shipped daemon and its clients; and how its power goes.
//!
//! This process serves the disk, so it must never wait for anything that lies on it: mounting, unmounting and looking into
//! the store is done by other processes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use fuser::BackgroundSession;
use serde_json::Value;

use crate::{
    device::Device,
    platter::{Dice, Loss},
};

/// The disk: sparse, and small enough to lie in memory.
const DISK_BYTES: u64 = 512 << 20;
/// Who works there.
const AGENTS: [&str; 5] = ["ada", "grace", "linus", "edsger", "barbara"];

/// What a look at the store came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Writes that were acknowledged in the life of this disk.
    pub acknowledged: u64,
    /// Records that were read, hashed, folded and compared.
    pub records: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    binary: PathBuf,
    dir: PathBuf,
    device: Device,
    /// Ends with the machine.
    session: Option<Served>,
    daemon: Option<Child>,
    clients: Vec<Child>,
    life: u64,
    mounted: bool,
}

struct Served(BackgroundSession);

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine with an empty file system, which was mounted once, without power, in a folder of its own. An error is one of
    /// the real machine below it.
    pub(crate) fn new(binary: &Path, dir: &Path) -> Result<Self, String> {
        let (fuse, mount, notes) = (dir.join("fuse"), dir.join("disk"), dir.join("notes/acknowledged"));
        for folder in [&fuse, &mount, &notes] {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let device = Device::new(DISK_BYTES);
        let session = device.serve(&fuse).map_err(|error| format!("FUSE cannot be mounted: {error}"))?;
        let mut machine = Self {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            device,
            session: Some(Served(session)),
            daemon: None,
            clients: Vec::new(),
            life: 0,
            mounted: false,
        };
        let file = fuse.join(machine.device.switch_on());
        let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
        said(Command::new("mkfs.ext4").args(["-q", "-F", "-E", options]).arg(file))?;
        machine.device.switch_off();
        machine.mount(None)?;
        machine.unmount()?;
        machine.device.switch_off();
        Ok(machine)
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.join("disk")
    }

    fn store(&self) -> PathBuf {
        self.mount_point().join("store")
    }

    fn notes(&self) -> PathBuf {
        self.dir.join("notes")
    }

    /// The disk, to take the power from.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Power: the file system is mounted, which replays its own journal. `cut_after`: the power goes before that write or flush
    /// from here on. `Ok(false)`: it went before the mount was done.
    pub(crate) fn switch_on(&mut self, cut_after: Option<u64>) -> Result<bool, String> {
        self.life += 1;
        self.mount(cut_after)
    }

    fn mount(&mut self, cut_after: Option<u64>) -> Result<bool, String> {
        let file = self.dir.join("fuse").join(self.device.switch_on());
        if let Some(nth) = cut_after {
            self.device.cut_after(nth);
        }
        // The loop device goes with the mount. No thread of the kernel zeroes tables meanwhile.
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,noinit_itable"]).arg(file).arg(self.mount_point());
        match said(&mut mount) {
            Ok(_) => self.mounted = true,
            Err(_) if !self.device.has_power() => return Ok(false),
            Err(why) => return Err(format!("the file system does not come back: {why}")),
        }
        Ok(true)
    }

    /// Starts the daemon.
    pub(crate) fn start_daemon(&mut self) -> Result<(), String> {
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--while-input", "--store"]).arg(self.store());
        self.daemon = Some(self.start(&mut command)?);
        Ok(())
    }

    /// Looks for everything that was ever acknowledged, and has the store prove itself. `Ok(None)`: the power went meanwhile.
    pub(crate) fn look(&mut self) -> Result<Option<Seen>, String> {
        let mut command = Command::new(&self.binary);
        command.arg("swarm-check").arg("--in").arg(self.store()).arg("--notes").arg(self.notes());
        let mut ended = command.stdin(Stdio::null()).output();
        if let Some(daemon) = &mut self.daemon
            && let Ok(Some(status)) = daemon.try_wait()
        {
            ended = Err(io::Error::other(format!("the daemon ended by itself: {status}")));
        }
        if !self.device.has_power() {
            return Ok(None);
        }
        let output = ended.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let answer: Value = text.lines().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        if !output.status.success() {
            return Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        }
        let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        Ok(Some(Seen { acknowledged: number("acknowledged"), records: number("records_verified") }))
    }

    /// Starts the clients: each writes down what is acknowledged to it, outside this machine, before its next request.
    pub(crate) fn start_clients(&mut self, dice: &mut Dice) -> Result<(), String> {
        let life = self.life.to_string();
        let (store, notes) = (self.store(), self.notes());
        let mut steward = Command::new(&self.binary);
        steward.args(["swarm-steward", "--life", &life]);
        let mut commands = vec![steward];
        for agent in AGENTS {
            let mut worker = Command::new(&self.binary);
            worker.args(["swarm-worker", "--agent", agent, "--life", &life]);
            worker.args(["--seed", &dice.number().to_string()]);
            commands.push(worker);
        }
        for mut command in commands {
            command.arg("--in").arg(&store).arg("--notes").arg(&notes);
            let client = self.start(&mut command)?;
            self.clients.push(client);
        }
        Ok(())
    }

    fn start(&self, command: &mut Command) -> Result<Child, String> {
        let log = self.log().map_err(|error| error.to_string())?;
        let again = log.try_clone().map_err(|error| error.to_string())?;
        let started = command.stdin(Stdio::piped()).stdout(again).stderr(log).spawn();
        started.map_err(|error| format!("{command:?}: {error}"))
    }

    /// What the processes say, outside the machine.
    fn log(&self) -> io::Result<File> {
        let mut log = OpenOptions::new().create(true).append(true).open(self.dir.join("said.log"))?;
        writeln!(log, "-- life {}", self.life)?;
        Ok(log)
    }

    /// The power is gone: nobody lives on, the file system is no more, and the disk holds what it may hold. Says how many bytes
    /// were at stake.
    pub(crate) fn lose(&mut self, loss: Loss, dice: &mut Dice) -> Result<u64, String> {
        self.device.cut_within(Duration::ZERO);
        self.end_processes();
        self.unmount()?;
        Ok(self.device.lose(loss, dice))
    }

    fn end_processes(&mut self) {
        for mut child in self.daemon.take().into_iter().chain(self.clients.drain(..)) {
            // One that has ended already is as good.
            drop(child.kill());
            drop(child.wait());
        }
    }

    fn unmount(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.mounted) {
            // Whoever still has a file open there keeps it, and finds that every call on it fails.
            said(Command::new("umount").arg("--lazy").arg(self.mount_point()))?;
        }
        Ok(())
    }

    /// Removes what it left outside, when nothing was wrong.
    pub(crate) fn forget(self) {
        let dir = self.dir.clone();
        drop(self);
        if let Err(error) = fs::remove_dir_all(&dir) {
            println!("   {}: {error}", dir.display());
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.device.cut_within(Duration::ZERO);
        self.end_processes();
        if let Err(why) = self.unmount() {
            println!("   {why}");
        }
        if let Some(Served(session)) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            println!("   FUSE is still mounted below {}: {error}", self.dir.display());
        }
    }
}

/// Runs a program to its end; what it said when it fails.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{:?}: {}", command.get_program(), why.trim()))
}
