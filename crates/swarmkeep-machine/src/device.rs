//! A file system with one file, `disk`: the device under ext4's loop device. A flush of that device comes here as a sync of the
//! file. When the power is lost every call on the file answers an error from then on, and the next life of the machine
//! finds another file in its place: nothing that the old kernel still wants to write reaches it.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

use crate::platter::{Dice, Loss, Platter};

/// Names change only where somebody looks anew.
const TTL: Duration = Duration::from_secs(3600);
/// Number of the first life's file; the root has number 1.
const FIRST: u64 = 2;

/// The disk of a machine. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub(crate) struct Device(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes: u64,
    state: Mutex<State>,
    /// The power is gone.
    lost: Condvar,
}

#[derive(Debug, Default)]
struct State {
    platter: Platter,
    /// Which life of the machine the file is for.
    life: u64,
    powered: bool,
    /// Writes and flushes of this life.
    changes: u64,
    /// The power goes before the change of this number.
    cut_at: Option<u64>,
}

impl Device {
    /// An empty disk of so many bytes, without power.
    #[must_use]
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(Shared { bytes, state: Mutex::default(), lost: Condvar::new() }))
    }

    /// Serves the file below a folder until what is returned is dropped.
    pub(crate) fn serve(&self, at: &Path) -> io::Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("swarmkeep-machine".into()), MountOption::NoAtime];
        fuser::spawn_mount(Served(self.clone()), at, &config)
    }

    /// Power is there: a new life, whose file is of the name returned.
    pub(crate) fn switch_on(&self) -> String {
        let mut state = self.state();
        state.life += 1;
        state.powered = true;
        state.changes = 0;
        state.cut_at = None;
        name(state.life)
    }

    /// The power will go before the `nth` write or flush from now, if there is one.
    pub(crate) fn cut_after(&self, nth: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.changes + nth);
    }

    /// Waits until the power is gone, for so long at most, and takes it then.
    pub(crate) fn cut_within(&self, time: Duration) {
        let state = self.state();
        let waited = self.0.lost.wait_timeout_while(state, time, |state| state.powered);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.powered = false;
    }

    /// Whether it still has power.
    #[must_use]
    pub(crate) fn has_power(&self) -> bool {
        self.state().powered
    }

    /// What the disk holds after the power was gone; bytes that were at stake.
    pub(crate) fn lose(&self, loss: Loss, dice: &mut Dice) -> u64 {
        let mut state = self.state();
        state.powered = false;
        let at_stake = state.platter.unflushed_bytes();
        state.platter = state.platter.lose_power(loss, dice);
        at_stake
    }

    /// The machine was switched off in order: nothing is lost.
    pub(crate) fn switch_off(&self) {
        let mut state = self.state();
        state.platter.flush();
        state.powered = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, inode: u64) -> FileAttr {
        let is_root = inode == INodeNo::ROOT.0;
        FileAttr {
            ino: INodeNo(inode),
            size: if is_root { 0 } else { self.0.bytes },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// The disk, where this file is the present life's and there is power.
    fn powered(&self, inode: u64) -> Option<MutexGuard<'_, State>> {
        let state = self.state();
        (state.powered && inode == FIRST + state.life).then_some(state)
    }

    /// The same for a call that changes something: the power may go just before it.
    fn changing(&self, inode: u64) -> Option<MutexGuard<'_, State>> {
        let mut state = self.powered(inode)?;
        state.changes += 1;
        if state.cut_at.is_some_and(|at| state.changes >= at) {
            state.powered = false;
            self.0.lost.notify_all();
            return None;
        }
        Some(state)
    }
}

fn name(life: u64) -> String {
    format!("disk{life}")
}

struct Served(Device);

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // As much as the kernel likes to send at once: what it takes less is no error.
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, asked: &OsStr, reply: ReplyEntry) {
        let life = self.0.state().life;
        if parent == INodeNo::ROOT && asked.to_str() == Some(&name(life)) {
            reply.entry(&TTL, &self.0.attributes(FIRST + life), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.0.attributes(inode.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(state) = self.0.powered(inode.0) else { return reply.error(Errno::EIO) };
        let size = u64::from(size).min(self.0.0.bytes.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        state.platter.read(offset, &mut bytes);
        drop(state);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(mut state) = self.0.changing(inode.0) else { return reply.error(Errno::EIO) };
        if offset + data.len() as u64 > self.0.0.bytes {
            return reply.error(Errno::EFBIG);
        }
        state.platter.write(offset, data);
        drop(state);
        reply.written(u32::try_from(data.len()).unwrap_or(0));
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let Some(mut state) = self.0.changing(inode.0) else { return reply.error(Errno::EIO) };
        state.platter.flush();
        drop(state);
        reply.ok();
    }
}
