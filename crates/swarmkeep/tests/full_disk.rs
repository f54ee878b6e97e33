//! A device without room: said clearly, nothing acknowledged is lost, and work goes on by itself when there is room again.
//!
//! On a real small file system in RAM, which takes root to mount; elsewhere these tests say that they did nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command as Process,
    time::Duration,
};

use bytes::Bytes;
use swarmkeep::{Actor, Command, EntityId, Error, ErrorKind, Json, Request, RequestId, Session, Settings, Swarmkeep};

const PATIENCE: Duration = Duration::from_secs(60);

/// A file system of a few MiB.
struct Small {
    mounted: tempfile::TempDir,
}

impl Small {
    fn mount(megabytes: u32) -> Option<Self> {
        let mounted = tempfile::tempdir().unwrap();
        let options = format!("size={megabytes}m");
        let done = Process::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(mounted.path()).output();
        match done {
            Ok(output) if output.status.success() => Some(Self { mounted }),
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

    fn store(&self) -> PathBuf {
        self.mounted.path().join("store")
    }

    /// Takes room, to be given back; all there is, without a size.
    fn ballast(&self, bytes: Option<usize>) {
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(self.mounted.path().join("ballast")).unwrap();
        let mut left = bytes.unwrap_or(usize::MAX);
        while left > 0 {
            let piece = left.min(4_096);
            if file.write_all(&[1; 4_096][..piece]).is_err() {
                return;
            }
            left -= piece;
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.mounted.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Process::new("umount").arg("--lazy").arg(self.mounted.path()).status();
    }
}

async fn open(folder: &Path) -> Result<Swarmkeep, Error> {
    let settings = Settings { segment_bytes: 1 << 20, ..Settings::default() };
    Swarmkeep::open_with(folder.to_str().unwrap(), settings).await
}

fn value(writer: usize, n: u64) -> String {
    let mut bytes = vec![0; 8_000];
    blake3::Hasher::new().update(&[writer as u8]).update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn request(writer: usize, n: u64) -> Request {
    let command = Command::SetMemory {
        scope: EntityId::new("shared").unwrap(),
        key: EntityId::new(format!("w{writer}-{}", n % 20)).unwrap(),
        value: Json::encode(&value(writer, n)).unwrap(),
        if_version: None,
        ttl_ms: None,
    };
    let id: RequestId = format!("w{writer}:{n}").parse().unwrap();
    Request::of(Actor::system(), command).id(id)
}

fn is_full(error: &Error) -> bool {
    error.kind == ErrorKind::Unavailable && error.to_string().contains("disk_full")
}

/// Writes until there is no room; gives what was acknowledged, the number of the request that was not, and the errors.
async fn fill(session: Session, writer: usize) -> (u64, Error) {
    for n in 1.. {
        let error = loop {
            match session.submit(request(writer, n)).await {
                Ok(_) => break None,
                // The write that met the end of the device: the same request again finds out.
                Err(error) if error.kind == ErrorKind::Unknown => tokio::task::yield_now().await,
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = error {
            return (n - 1, error);
        }
    }
    unreachable!()
}

async fn fill_all(session: &Session) -> Vec<u64> {
    let writers: Vec<_> = (0..4).map(|writer| tokio::spawn(fill(session.clone(), writer))).collect();
    let mut acknowledged = Vec::new();
    for writer in writers {
        let (n, error) = tokio::time::timeout(PATIENCE, writer).await.expect("writers hang on a full device").unwrap();
        assert!(is_full(&error), "{error:?}");
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("space")), "{error:?}");
        acknowledged.push(n);
    }
    assert!(acknowledged.iter().all(|n| *n > 0), "{acknowledged:?}");
    acknowledged
}

/// The newest acknowledged value of every key is there.
async fn check(session: &Session, acknowledged: &[u64]) {
    for (writer, last) in acknowledged.iter().enumerate() {
        for n in (last.saturating_sub(19)..=*last).filter(|n| *n > 0) {
            let found: String =
                session.memory(&format!("w{writer}-{}", n % 20)).await.unwrap().unwrap().decode().unwrap();
            assert!(found == value(writer, n), "writer {writer}, request {n} of {last}: another value");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_device_loses_nothing_and_work_goes_on_when_there_is_room() {
    let Some(small) = Small::mount(40) else { return };
    small.ballast(Some(24 << 20));
    let keep = open(&small.store()).await.unwrap();
    let session = keep.open_session("s").await.unwrap();
    let acknowledged = fill_all(&session).await;
    check(&session, &acknowledged).await;
    // Asked again it says so again; a blob too.
    assert!(is_full(&session.submit(request(9, 1)).await.unwrap_err()));
    let blob = Bytes::from(vec![7; 3 << 20]);
    small.ballast(None);
    let error = session.put_blob("large", blob, Actor::system(), None).await.unwrap_err();
    assert!(is_full(&error), "{error:?}");
    // No room is no damage; what could not be looked at for it is named.
    let report = keep.verify(None, |_| {}).await.unwrap();
    assert_eq!((report.findings, report.sessions), (vec![], 1));
    assert_eq!(report.behind.is_some(), report.views_not_compared > 0);

    small.make_room();
    let mut now = Vec::new();
    for (writer, last) in acknowledged.iter().enumerate() {
        let again = async {
            loop {
                match session.submit(request(writer, last + 1)).await {
                    Ok(reply) => return reply,
                    Err(error) if is_full(&error) || error.kind == ErrorKind::Unknown => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, again).await.expect("it does not go on by itself");
        now.push(last + 1);
    }
    check(&session, &now).await;
    keep.close().await.unwrap();
    drop((session, keep));

    let keep = open(&small.store()).await.unwrap();
    keep.wait_ready().await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    check(&session, &now).await;
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    keep.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_full_device_can_be_closed_and_comes_back() {
    let Some(small) = Small::mount(40) else { return };
    small.ballast(Some(28 << 20));
    let keep = open(&small.store()).await.unwrap();
    let session = keep.open_session("s").await.unwrap();
    let acknowledged = fill_all(&session).await;
    small.ballast(None);
    let closed = tokio::time::timeout(PATIENCE, keep.close()).await.expect("closing hangs on a full device");
    // Whether the databases had room for the rest or not: it is said, and the journal has it.
    assert!(closed.as_ref().err().is_none_or(|error| error.kind == ErrorKind::Unavailable), "{closed:?}");
    drop((session, keep));

    // Without room it is refused, or opened; it is never taken for empty.
    match open(&small.store()).await {
        Ok(keep) => check(&keep.get_session("s").await.unwrap().unwrap(), &acknowledged).await,
        Err(error) => assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}"),
    }
    small.make_room();
    let keep = open(&small.store()).await.unwrap();
    keep.wait_ready().await;
    let session = keep.get_session("s").await.unwrap().unwrap();
    check(&session, &acknowledged).await;
    session.submit(request(0, acknowledged[0] + 1)).await.unwrap();
    assert_eq!(keep.verify(None, |_| {}).await.unwrap().findings, vec![]);
    keep.close().await.unwrap();
}
