//! Files of several stores or times, and newer formats: refused with advice, untouched.

use std::path::{Path, PathBuf};

use swarmkeep::{
    disk::{Disk, OpenHow, simulated::SimDisk},
    journal::{OpenError, StoreId, Vouch, inspect},
};
use swarmkeep_core::{Hash, log::Position};

use super::kit::{STORE, World};

fn used() -> (World, Vouch) {
    let mut world = World::new();
    let mut writer = world.start(world.open().unwrap());
    for _ in 0..4 {
        writer.write(1, 100).unwrap();
    }
    let frames = writer.seen.lock().clone();
    world.apply(writer.store, writer.incarnation, &frames);
    writer.write(2, 100).unwrap();
    drop(writer);
    let vouch = world.vouch.unwrap();
    (world, vouch)
}

fn contents(disk: &SimDisk) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    disk.files().into_iter().map(|file| (file.clone(), disk.contents(&file))).collect()
}

fn refused(world: &World) -> (String, String) {
    let before = contents(&world.disk);
    let error = world.open().unwrap_err();
    assert_eq!(contents(&world.disk), before, "untouched");
    match error {
        OpenError::Mixed { what, advice } => (what, advice.into()),
        error => panic!("{error}"),
    }
}

#[test]
fn another_stores_records() {
    let (mut world, vouch) = used();
    world.vouch = Some(Vouch { store: StoreId([9; 16]), ..vouch });
    assert!(refused(&world).0.contains("records.db to store 0909"));
}

#[test]
fn records_without_a_journal() {
    let (world, vouch) = used();
    let lone = World { vouch: Some(vouch), ..World::new() };
    let (what, advice) = refused(&lone);
    assert!(what.contains("no journal beside it") && advice.contains("whole folder"), "{what} {advice}");
    drop(world);
    let fresh =
        World { vouch: Some(Vouch { position: Position(0), frame_hash: Hash::default(), ..vouch }), ..World::new() };
    assert_eq!(fresh.open().unwrap().store, vouch.store, "a records.db that has nothing yet is a new store's");
}

#[test]
fn records_ahead_of_the_journal() {
    let (mut world, vouch) = used();
    world.vouch = Some(Vouch { position: Position(99), ..vouch });
    assert!(refused(&world).0.contains("the journal is older"));
}

#[test]
fn records_and_journal_that_went_separate_ways() {
    let (mut world, vouch) = used();
    world.vouch = Some(Vouch { frame_hash: Hash([1; 32]), ..vouch });
    assert!(refused(&world).0.contains("different contents"));
    // The same, where the position lies right before the first segment that is left.
    let (mut world, _) = used();
    let opened = world.open().unwrap();
    let frames = opened.unapplied.clone();
    let (store, incarnation) = (opened.store, opened.incarnation);
    world.apply(store, incarnation, &frames);
    let writer = world.start(opened);
    writer.journal.close();
    drop(writer);
    let vouch = world.vouch.unwrap();
    assert!(world.open().is_ok());
    world.vouch = Some(Vouch { frame_hash: Hash([1; 32]), ..vouch });
    assert!(refused(&world).0.contains("different contents"));
}

#[test]
fn a_journal_whose_beginning_records_do_not_have() {
    let mut world = World::new();
    let mut writer = world.start(world.open().unwrap());
    for _ in 0..12 {
        writer.write(1, 2500).unwrap();
    }
    let frames = writer.seen.lock().clone();
    world.apply(writer.store, writer.incarnation, &frames);
    let vouch = world.vouch.unwrap();
    writer.journal.retire(vouch.position, vouch.frame_hash).unwrap();
    drop(writer);
    world.vouch = Some(Vouch { position: Position(1), frame_hash: frames[0].hash, ..vouch });
    assert!(refused(&world).0.contains("records.db is older"));
    world.vouch = None;
    assert!(refused(&world).0.contains("there is no records.db"));
}

#[test]
fn a_segment_of_another_store_in_the_folder() {
    let (world, _) = used();
    let (other, _) = used();
    let from = other.disk.files().into_iter().find(|file| file.to_string_lossy().ends_with(".segment")).unwrap();
    let bytes = other.disk.contents(&from).unwrap();
    let to = Path::new(STORE).join("journal/0000000000000099.segment");
    let mut header = swarmkeep::journal::segment::Header::decode(&bytes[..4096]).unwrap();
    header.store = StoreId([8; 16]);
    header.number = 99;
    let file = world.disk.open(&to, OpenHow::CreateNew).unwrap();
    file.write_at(&bytes, 0).unwrap();
    file.write_at(&header.encode(), 0).unwrap();
    file.write_at(&header.encode(), 4096).unwrap();
    assert!(refused(&world).0.contains("two stores"));
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let (world, _) = used();
    let path = world.disk.files().into_iter().find(|file| file.to_string_lossy().ends_with(".segment")).unwrap();
    for at in [8, 16, 24] {
        let disk = world.disk.fork();
        let mut bytes = disk.contents(&path).unwrap();
        for block in [0, 4096] {
            let block = &mut bytes[block..block + 4096];
            block[at] = 7;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..40]);
            block[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        disk.open(&path, OpenHow::Write).unwrap().write_at(&bytes, 0).unwrap();
        let newer = World { disk, vouch: world.vouch, ..World::new() };
        let before = contents(&newer.disk);
        let error = newer.open().unwrap_err();
        assert!(matches!(&error, OpenError::Newer { known: 1, .. }), "{error}");
        assert!(error.to_string().contains("use a newer swarmkeep"), "{error}");
        assert_eq!(contents(&newer.disk), before);
    }
}

#[test]
fn looking_changes_nothing() {
    let (world, vouch) = used();
    let before = contents(&world.disk);
    let inspection = inspect(&world.disk, Path::new(STORE), Some(vouch)).unwrap();
    assert_eq!(inspection.unapplied.len(), 1);
    assert_eq!(contents(&world.disk), before);
}
