//! Where a term's files are.
//!
//! A holder that was taken over from may be stopped, not gone: it has files open, and knows others by name. So the term that
//! follows works on **other files under other names**: `term-N/` in the store's folder, a copy of what the last term had.
//! Nothing that the old process still writes, renames or removes is a file of the new one's. When nobody holds an earlier
//! term any more its files are simply the next one's, without a copy.
//!
//! A copy is what the files were **at one moment**: all are copied, then all are compared with what they are. A file that is
//! the same at both times was so at the moment in between, and that moment is the same for all of them. It is therefore what
//! a `kill -9` would have left then, and it is opened like that.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    ground::{Ground, Kind},
    term,
};
use crate::{
    disk::OpenHow,
    planted::{self, Defect},
};

/// How often it is looked whether the earlier holders are gone before their files are copied, and again after each copy that
/// was of no one moment: a holder that runs ends by itself within a second of a takeover.
const LOOKS: usize = 50;
/// Copies tried.
const COPIES: usize = 5;
/// Left free on the device beyond what a copy takes, in bytes.
const SLACK_BYTES: u64 = 16 << 20;
/// Compared at a time.
const PIECE: usize = 256 * 1024;

/// What a term's files are (docs/format.md), with `quarantine`, which is copied and never removed. Whatever else lies in a store's folder is
/// the store's or somebody's own. Who adds a file to a store adds it here.
const PARTS: [&str; 15] = [
    "records.db",
    "records.db-wal",
    "records.db-shm",
    "records.copying",
    "records.made",
    "records.part",
    "views.db",
    "views.db-wal",
    "views.db-shm",
    "journal",
    "blobs",
    "kept",
    "recovery",
    "unreported.json",
    "unreported.twin",
];

fn dir(store_dir: &Path, term: u64) -> PathBuf {
    match term {
        0 | 1 => store_dir.to_owned(),
        term => store_dir.join(format!("term-{term}")),
    }
}

fn draft(store_dir: &Path, term: u64) -> PathBuf {
    store_dir.join(format!("term-{term}.part"))
}

/// The newest term up to `term` that has files of its own.
fn owner(ground: &dyn Ground, store_dir: &Path, term: u64) -> io::Result<u64> {
    let mut owner = term;
    while owner > 1 && ground.identity(&dir(store_dir, owner))?.is_none() {
        owner -= 1;
    }
    Ok(owner)
}

/// Where the files of `term` are, or would be taken from.
pub(super) fn of(ground: &dyn Ground, store_dir: &Path, term: u64) -> io::Result<PathBuf> {
    Ok(dir(store_dir, owner(ground, store_dir, term)?))
}

/// Whether nobody holds these terms, by their locks.
fn nobody_holds(ground: &dyn Ground, store_dir: &Path, mut terms: Range<u64>) -> io::Result<bool> {
    terms.try_fold(true, |nobody, number| {
        let file = match ground.open_lock(&term::path(store_dir, number), OpenHow::Read) {
            // Somebody took the name away; who had locked what it named cannot be asked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        Ok(file.try_lock(false)? && nobody)
    })
}

/// Where the holder of `term`, which the caller is, works; made if it has to be.
///
/// # Errors
/// What the system says; `StorageFull` when there is no room for a copy; `ResourceBusy` when an earlier holder goes on
/// writing. The same call again goes on.
pub(super) fn settle(ground: &dyn Ground, store_dir: &Path, term: u64) -> io::Result<PathBuf> {
    for _ in 0..COPIES {
        let from = owner(ground, store_dir, term)?;
        if from == term {
            return Ok(dir(store_dir, term));
        }
        for _ in 0..LOOKS {
            if nobody_holds(ground, store_dir, from..term)? || planted::is(Defect::FilesShared) {
                return Ok(dir(store_dir, from));
            }
            ground.pause();
        }
        if copy(ground, &dir(store_dir, from), &draft(store_dir, term))? {
            ground.rename(&draft(store_dir, term), &dir(store_dir, term))?;
            ground.sync_dir(store_dir)?;
            return Ok(dir(store_dir, term));
        }
    }
    let what = "the process that held the store does not end, and goes on writing its files";
    Err(io::Error::new(io::ErrorKind::ResourceBusy, what))
}

/// Removes what earlier terms left once nobody holds one of them. What they have in quarantine stays.
///
/// # Errors
/// What the system says; the next open tries again.
pub(super) fn tidy(ground: &dyn Ground, store_dir: &Path, term: u64) -> io::Result<()> {
    let home = owner(ground, store_dir, term)?;
    for earlier in 2..term {
        if nobody_holds(ground, store_dir, earlier..earlier + 1)? {
            remove(ground, &draft(store_dir, earlier))?;
        }
    }
    if home == 1 || !nobody_holds(ground, store_dir, 1..home)? {
        return Ok(());
    }
    for earlier in 1..home {
        let folder = dir(store_dir, earlier);
        for part in PARTS {
            remove(ground, &folder.join(part))?;
        }
        if earlier > 1 {
            // Unless something in quarantine keeps it.
            let _ = ground.remove_dir(&folder);
        }
    }
    Ok(())
}

/// Removes a file, or a folder with all that is in it. One that is not there is no error.
fn remove(ground: &dyn Ground, path: &Path) -> io::Result<()> {
    let removed = match ground.kind(path)? {
        Some(Kind::Folder) => {
            for (name, _) in ground.entries(path)? {
                remove(ground, &path.join(name))?;
            }
            ground.remove_dir(path)
        }
        Some(_) => ground.remove(path),
        None => Ok(()),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The files and folders of a home, by their paths in it, folders before what is in them. Left out: what is the store's and
/// not a term's, what SQLite makes again, and files that hold nothing yet.
fn parts(ground: &dyn Ground, home: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for (name, kind) in ground.entries(&home.join(&folder))? {
            let is_part = PARTS.contains(&&*name) || name == "quarantine" || folder != Path::new("");
            if !is_part || name.ends_with("-shm") || name.starts_with("spare-") || kind == Kind::Other {
                continue;
            }
            let path = folder.join(&name);
            if kind == Kind::Folder {
                folders.push(path.clone());
            }
            found.push((path, kind == Kind::Folder));
        }
    }
    Ok(found)
}

/// Copies a home, durably. False: it changed meanwhile, and there is no copy.
fn copy(ground: &dyn Ground, home: &Path, to: &Path) -> io::Result<bool> {
    remove(ground, to)?;
    let copied = copy_parts(ground, home, to);
    match copied {
        Ok(true) => Ok(true),
        // What was there a moment ago is gone: it changes.
        Err(error) if error.kind() == io::ErrorKind::NotFound => remove(ground, to).map(|()| false),
        other => {
            remove(ground, to)?;
            other
        }
    }
}

fn copy_parts(ground: &dyn Ground, home: &Path, to: &Path) -> io::Result<bool> {
    let all = parts(ground, home)?;
    let files = || all.iter().filter(|(_, is_dir)| !is_dir).map(|(path, _)| path);
    let mut bytes = SLACK_BYTES;
    for path in files() {
        bytes += ground.length(&home.join(path))?;
    }
    ground.create_dir(to)?;
    let free = ground.free_bytes(to)?;
    if free < bytes {
        let what = format!("the store is copied when it is taken over: that takes {bytes} bytes, and {free} are free");
        return Err(io::Error::new(io::ErrorKind::StorageFull, what));
    }
    for (path, is_dir) in &all {
        match is_dir {
            true => ground.create_dir(&to.join(path))?,
            false => ground.copy(&home.join(path), &to.join(path))?,
        }
    }
    if parts(ground, home)? != all {
        return Ok(false);
    }
    for path in files() {
        if !is_same(ground, &home.join(path), &to.join(path))? {
            return Ok(false);
        }
    }
    for (path, _) in all.iter().filter(|(_, is_dir)| *is_dir) {
        ground.sync_dir(&to.join(path))?;
    }
    ground.sync_dir(to)?;
    Ok(true)
}

fn is_same(ground: &dyn Ground, one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (ground.open(one, OpenHow::Read)?, ground.open(other, OpenHow::Read)?);
    let (mut piece, mut its) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let (count, its_count) = (one.read_at(&mut piece, at)?, other.read_at(&mut its, at)?);
        if count != its_count || piece.get(..count) != its.get(..count) {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
        at += count as u64;
    }
}
