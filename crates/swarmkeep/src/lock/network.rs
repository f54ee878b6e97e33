//! Which network file system a folder lies on: none of them keeps what locks and syncs promise here.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// The network file system that a folder lies on, by name.
#[cfg(target_os = "linux")]
pub(super) fn network(path: &Path) -> io::Result<Option<String>> {
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "a 32-bit magic number in a signed word"
    )]
    let magic = rustix::fs::statfs(path)?.f_type as u32;
    let kind = match magic {
        0x6969 => "nfs",
        0x517B => "smb",
        0xFF53_4D42 => "cifs",
        0xFE53_4D42 => "smb2",
        0x0102_1997 => "9p",
        0x5346_414F => "afs",
        0x6B41_4653 => "kafs",
        0x7375_7245 => "coda",
        0x564C => "ncp",
        0x00C3_6400 => "ceph",
        0x0BD0_0BD0 => "lustre",
        0x4750_4653 => "gpfs",
        // Whatever speaks FUSE, local or not: the mount table says what it is.
        0x6573_5546 => return Ok(fuse_kind(path)),
        _ => return Ok(None),
    };
    Ok(Some(kind.into()))
}

/// The FUSE file system under `path`, if it is one that goes over a network.
#[cfg(target_os = "linux")]
fn fuse_kind(path: &Path) -> Option<String> {
    const OVER_A_NETWORK: [&str; 11] = [
        "sshfs",
        "s3fs",
        "gcsfuse",
        "glusterfs",
        "rclone",
        "davfs",
        "davfs2",
        "curlftpfs",
        "ceph-fuse",
        "goofys",
        "juicefs",
    ];
    let device = fs::metadata(path).ok()?.dev();
    let wanted = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let name = kind.strip_prefix("fuse.").unwrap_or(kind);
        (mount.split(' ').nth(2) == Some(&wanted) && OVER_A_NETWORK.contains(&name)).then(|| kind.to_owned())
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn network(_: &Path) -> io::Result<Option<String>> {
    Ok(None)
}
