//! The machine: folder, file system, room, clock, limits, SQLite.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::statvfs,
    process::{Resource, geteuid, getrlimit},
};

use super::Finding;
use crate::{moment, place::Place};

/// Below this the store is about to refuse writes.
const ROOM_BAD: u64 = 64 << 20;
/// Below this somebody should know.
const ROOM_WARN: u64 = 1 << 30;
/// Connections, feeds, segments and two databases.
const FILES_WANTED: u64 = 1024;
/// The oldest SQLite that the store is opened with.
const SQLITE_OLDEST: i32 = 3_051_003;
/// 2024-01-01: a clock before it was never set.
const CLOCK_OLDEST_MS: u64 = 1_704_067_200_000;

pub(super) fn look(place: &Place) -> Vec<Finding> {
    let mut findings = vec![folder(&place.dir)];
    // A store that is not there yet is made on the file system of the nearest folder that is.
    let there = place.dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    findings.push(file_system(there));
    findings.push(room(there));
    findings.push(clock(&place.dir));
    findings.push(open_files());
    findings.push(sqlite());
    findings
}

fn folder(dir: &Path) -> Finding {
    let name = "folder";
    let Ok(metadata) = fs::metadata(dir) else {
        return Finding::warn(
            name,
            "not there yet",
            "nothing to do: the first `swarmkeep serve` or `swarmkeep session create NAME` makes it",
        );
    };
    if !metadata.is_dir() {
        return Finding::bad(name, "not a folder", "give a folder with --store");
    }
    let own = geteuid().as_raw();
    if metadata.uid() != own {
        return Finding::bad(
            name,
            format!("belongs to user {}, and this is user {own}", metadata.uid()),
            "run as that user, or give the folder to this one: chown",
        );
    }
    match metadata.permissions().mode() & 0o777 {
        mode if mode & 0o700 != 0o700 => Finding::bad(
            name,
            format!("its owner may not use it (mode {mode:o})"),
            format!("chmod 700 {}", dir.display()),
        ),
        mode if mode & 0o077 != 0 => Finding::bad(
            name,
            format!("others may look into it (mode {mode:o})"),
            format!("chmod 700 {}", dir.display()),
        ),
        _ => Finding::ok(name, "for its owner alone"),
    }
}

#[cfg(target_os = "linux")]
fn file_system(dir: &Path) -> Finding {
    let name = "file system";
    let kind = match rustix::fs::statfs(dir) {
        #[expect(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a 32-bit magic number in a signed word"
        )]
        Ok(stat) => stat.f_type as u32,
        Err(error) => return Finding::bad(name, format!("cannot be looked at: {error}"), "is the disk there?"),
    };
    match kind {
        0xEF53 => Finding::ok(name, "ext4, local"),
        0x5846_5342 => Finding::ok(name, "xfs, local"),
        0x9123_683E => Finding::ok(name, "btrfs, local"),
        0x2FC1_2FC1 => Finding::ok(name, "zfs, local"),
        0xF2F5_2010 => Finding::ok(name, "f2fs, local"),
        0x794C_7630 => Finding::warn(
            name,
            "overlayfs: a container's own layer, gone with the container",
            "put the store on a volume",
        ),
        0x0102_1994 => Finding::warn(name, "tmpfs: gone at the next boot", "choose a folder on a disk with --store"),
        0x6969 => network("nfs"),
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => network("smb"),
        0x0102_1997 => network("9p"),
        0x5346_414F | 0x6B41_4653 => network("afs"),
        0x00C3_6400 => network("ceph"),
        0x0BD0_0BD0 => network("lustre"),
        0x6573_5546 => Finding::warn(
            name,
            "fuse: whether a sync is one depends on what is behind it",
            "prefer a folder on a local disk",
        ),
        other => Finding::ok(name, format!("of type {other:#x}")),
    }
}

#[cfg(target_os = "linux")]
fn network(kind: &str) -> Finding {
    Finding::bad(
        "file system",
        format!("{kind}, over a network: locks and syncs are not what a store needs"),
        "choose a folder on a local disk with --store",
    )
}

#[cfg(not(target_os = "linux"))]
fn file_system(dir: &Path) -> Finding {
    match fs::metadata(dir) {
        Ok(metadata) => Finding::ok("file system", format!("device {}", metadata.dev())),
        Err(error) => Finding::bad("file system", format!("cannot be looked at: {error}"), "is the disk there?"),
    }
}

fn room(dir: &Path) -> Finding {
    let name = "room";
    let stat = match statvfs(dir) {
        Ok(stat) => stat,
        Err(error) => return Finding::bad(name, format!("cannot be asked for: {error}"), "is the disk there?"),
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let said = format!("{} free", moment::bytes(free));
    let next = "free some: when it is gone writes are refused (nothing is lost) until there is room again";
    if stat.f_files > 0 && stat.f_favail == 0 {
        return Finding::bad(name, "no inodes are left", "remove files that nobody needs");
    }
    match free {
        0..ROOM_BAD => Finding::bad(name, said, next),
        ROOM_BAD..ROOM_WARN => Finding::warn(name, said, next),
        _ => Finding::ok(name, said),
    }
}

/// Record times never go back; a clock far in the past would stop them, one far in the future would push them.
fn clock(dir: &Path) -> Finding {
    let name = "clock";
    let now_ms = moment::now_ms();
    if now_ms < CLOCK_OLDEST_MS {
        return Finding::bad(name, format!("says {}", moment::utc(now_ms)), "set it: timedatectl set-ntp true");
    }
    let newest_ms = ["records.db", "records.db-wal", "journal"]
        .iter()
        .filter_map(|file| fs::metadata(dir.join(file)).ok())
        .map(|metadata| u64::try_from(metadata.mtime()).unwrap_or(0) * 1000)
        .max()
        .unwrap_or(0);
    if newest_ms > now_ms + 60_000 {
        return Finding::warn(
            name,
            format!("says {}, and the store was written to at {}", moment::utc(now_ms), moment::utc(newest_ms)),
            "set it: until it has caught up, new records take the time of the last one",
        );
    }
    Finding::ok(name, format!("says {}", moment::utc(now_ms)))
}

fn open_files() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let said = if current == u64::MAX { "no limit".to_owned() } else { format!("{current} at once") };
    if current < FILES_WANTED {
        return Finding::warn(
            "open files",
            said,
            format!("raise the limit before the daemon starts: ulimit -n {FILES_WANTED} (LimitNOFILE= in the unit)"),
        );
    }
    Finding::ok("open files", said)
}

fn sqlite() -> Finding {
    let found = rusqlite::version_number();
    if found < SQLITE_OLDEST {
        return Finding::bad(
            "sqlite",
            format!("{} is older than 3.51.3", rusqlite::version()),
            "use a build of this program with its own SQLite",
        );
    }
    Finding::ok("sqlite", format!("{}, built in", rusqlite::version()))
}
