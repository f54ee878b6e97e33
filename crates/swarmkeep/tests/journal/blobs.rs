//! Large blobs as files.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use swarmkeep::{
    blobs::BlobFiles,
    disk::{
        Disk,
        simulated::{Call, Failure, Fault, Loss, SimDisk},
    },
};
use swarmkeep_core::{
    BlobId, SessionId,
    log::{Blob, LogError, Refused},
};

const STORE: &str = "/store";
const SESSION: SessionId = SessionId([1; 16]);

fn open(disk: &SimDisk) -> BlobFiles {
    disk.create_dir(Path::new(STORE)).unwrap();
    BlobFiles::open(Arc::new(disk.clone()), Path::new(STORE)).unwrap()
}

fn blob(fill: u8) -> Blob {
    Blob::new(Bytes::from(vec![fill; 100_000]))
}

#[test]
fn kept_read_listed_removed() {
    let disk = SimDisk::new();
    let blobs = open(&disk);
    let (one, two) = (blob(1), blob(2));
    for blob in [&one, &two, &one] {
        blobs.put(SESSION, blob).unwrap();
    }
    assert_eq!(blobs.get(SESSION, one.id).unwrap(), one.bytes);
    assert_eq!(blobs.list(SESSION).unwrap().len(), 2);
    assert!(blobs.list(SessionId([2; 16])).unwrap().is_empty());
    assert!(matches!(blobs.get(SESSION, BlobId([0; 32])), Err(LogError::NotFound)));
    assert!(matches!(blobs.get(SessionId([2; 16]), one.id), Err(LogError::NotFound)), "a blob belongs to one session");
    blobs.remove(SESSION, one.id).unwrap();
    blobs.remove(SESSION, one.id).unwrap();
    assert_eq!(blobs.list(SESSION).unwrap(), [two.id]);
    blobs.remove_session(SESSION, &[]).unwrap();
    blobs.remove_session(SESSION, &[]).unwrap();
    assert!(blobs.list(SESSION).unwrap().is_empty());
}

#[test]
fn durable_when_put_returns_and_whole_or_absent_otherwise() {
    let probe = SimDisk::new();
    let blobs = open(&probe);
    let before = probe.changes();
    blobs.put(SESSION, &blob(1)).unwrap();
    for at in 1..=probe.changes() - before + 1 {
        let disk = SimDisk::new();
        let blobs = open(&disk);
        disk.die_at(at);
        let done = blobs.put(SESSION, &blob(1)).is_ok();
        for loss in Loss::ALL {
            for seed in 0..8 {
                let after = disk.fork().crash(loss, seed);
                let blobs = open(&after);
                match blobs.get(SESSION, blob(1).id) {
                    Ok(bytes) => assert_eq!(bytes, blob(1).bytes),
                    Err(LogError::NotFound) => assert!(!done, "call {at}, {loss:?}"),
                    Err(error) => panic!("call {at}, {loss:?}: {error}"),
                }
                assert!(after.files().iter().all(|file| file.extension().is_none()), "nothing half written stays");
            }
        }
    }
}

#[test]
fn every_error_is_typed_and_a_repeat_succeeds() {
    let disk = SimDisk::new();
    let blobs = open(&disk);
    for call in [Call::Open, Call::Write, Call::Sync, Call::Rename, Call::SyncDir] {
        for failure in [Failure::Eio, Failure::Enospc, Failure::SyncMarksClean] {
            disk.fail(Fault { call: Some(call), nth: 1, sticky: false, failure });
            let error = blobs.put(SESSION, &blob(3)).unwrap_err();
            match failure {
                Failure::Enospc => assert!(matches!(error, LogError::Refused { kind: Refused::DiskFull, .. })),
                _ => assert!(matches!(error, LogError::Unknown(_)), "{call:?}: {error}"),
            }
        }
    }
    blobs.put(SESSION, &blob(3)).unwrap();
    let after = disk.crash(Loss::Nothing, 1);
    assert_eq!(open(&after).get(SESSION, blob(3).id).unwrap(), blob(3).bytes);
}

#[test]
fn rot_is_found() {
    let disk = SimDisk::new();
    let blobs = open(&disk);
    blobs.put(SESSION, &blob(1)).unwrap();
    let file = disk.files().pop().unwrap();
    disk.rot(&file, 77_777, |byte| *byte ^= 1);
    assert!(matches!(blobs.get(SESSION, blob(1).id), Err(LogError::Corrupt(_))));
    blobs.put(SESSION, &blob(1)).unwrap();
    assert!(blobs.get(SESSION, blob(1).id).is_ok(), "putting it again mends it");
}
