//! Flipped bytes, torn tails, what earlier uses left behind, forged frames.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use swarmkeep::{
    disk::{Disk, OpenHow, simulated::Loss},
    journal::{Entry, Inspection, Settings, frame, inspect, segment},
};
use swarmkeep_core::{
    Hash, SessionId,
    clock::Clock,
    log::{Durability, Head, Position},
    testing::Draw,
};

use super::kit::{STORE, World, marks, settings};

fn look(world: &World) -> Result<Inspection, swarmkeep::journal::OpenError> {
    inspect(&world.disk, Path::new(STORE), world.vouch)
}

fn segments(world: &World) -> Vec<PathBuf> {
    world.disk.files().into_iter().filter(|file| file.to_string_lossy().ends_with(".segment")).collect()
}

/// Two segments, the second without a seal.
fn small() -> (World, Vec<super::kit::Mark>) {
    let world = World::new();
    let mut first = world.start(world.open().unwrap());
    for size in [100, 700] {
        first.write(1, size).unwrap();
    }
    drop(first);
    let opened = world.open().unwrap();
    let mut writer = world.start(opened);
    for (session, size) in [(2, 30), (4, 600), (2, 800)] {
        writer.write(session, size).unwrap();
    }
    // Dies without a seal.
    world.disk.die_at(1);
    writer.journal.close();
    let world = World { disk: world.disk.kill(), ..World::new() };
    let log = marks(&look(&world).unwrap().unapplied);
    assert_eq!(log.len(), 5);
    (world, log)
}

#[test]
fn every_flipped_byte_is_found_or_unread() {
    let (world, log) = small();
    let (mut flipped, mut found, mut unread) = (0, 0, 0);
    for file in segments(&world) {
        let bytes = world.disk.contents(&file).unwrap();
        let used = 8192 + bytes[8192..].iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for at in 0..bytes.len() {
            if at >= used + 2048 && at % 97 != 0 {
                continue;
            }
            for bit in [0x01, 0x80] {
                world.disk.rot(&file, at, |byte| *byte ^= bit);
                flipped += 1;
                match look(&world) {
                    Err(_) => found += 1,
                    Ok(seen) => {
                        let there = marks(&seen.unapplied);
                        assert!(there.iter().all(|mark| log.contains(mark)), "byte {at}: never anything else");
                        if seen.damage.is_empty() && seen.doubts.is_empty() {
                            assert_eq!(there, log, "{}, byte {at}: lost in silence", file.display());
                            unread += 1;
                        } else {
                            found += 1;
                        }
                    }
                }
                world.disk.rot(&file, at, |byte| *byte ^= bit);
            }
        }
    }
    println!("{flipped} flips: {found} found, {unread} unread");
    assert!(found > 8000);
}

/// What is done to a segment, by a number: flipped, zeroed, swapped, cut, put back as it was, foreign bytes.
fn harmed(whole: &[u8], draw: &mut Draw) -> (Vec<u8>, &'static str) {
    let mut bytes = whole.to_vec();
    let used = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let used = whole.len().min(used + 512);
    let run = [1, 16, 512, 4096][draw.below(4)].min(used);
    // Sectors and pages go as a whole.
    let step = if run < 512 { 1 } else { run };
    let (at, other) = (draw.below(used - run + 1) / step * step, draw.below(used - run + 1) / step * step);
    let what = ["flipped", "zeroed", "swapped", "cut", "as it was", "foreign"][draw.below(6)];
    match what {
        "flipped" => bytes[draw.below(used)] ^= 1 << draw.below(8),
        "zeroed" => bytes[at..at + run].fill(0),
        "swapped" if at.abs_diff(other) >= run => {
            bytes[at..at + run].copy_from_slice(&whole[other..other + run]);
            bytes[other..other + run].copy_from_slice(&whole[at..at + run]);
        }
        "cut" => bytes.truncate(at),
        // Frames are written one after another.
        "as it was" => bytes[8192 + draw.below((used - 8192) / 512 + 1) * 512..].fill(0),
        "foreign" => {
            let mut stream = blake3::Hasher::new().update(&draw.number().to_le_bytes()).finalize_xof();
            stream.fill(&mut bytes[at..at + run]);
        }
        _ => {}
    }
    (bytes, what)
}

/// `SWARMKEEP_DISK_IMAGES` says how many; the figures go to stdout and to `SWARMKEEP_DISK_FIGURES`.
#[test]
fn no_corruption_of_a_journal_is_believed_or_passed_over() {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (most, seed) = (number("SWARMKEEP_DISK_IMAGES", 20_000), number("SWARMKEEP_DISK_SEED", 1));
    let clock = swarmkeep::SystemClock::new();
    let began = clock.now_ms();
    let counts = std::sync::Mutex::new(std::collections::BTreeMap::<(&str, &str), u64>::new());
    // Corruptions while records.db had all that the journal has.
    let twice = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (counts, twice) = (&counts, &twice);
            scope.spawn(move || {
                let mut draw = Draw::new(seed << 8 | worker);
                let (mut world, log) = small();
                let files = segments(&world);
                let whole: Vec<Vec<u8>> = files.iter().map(|file| world.disk.contents(file).unwrap()).collect();
                let opened = World { disk: world.disk.fork(), ..World::new() }.open().unwrap();
                let applied: Vec<_> = opened.unapplied.clone();
                let mut here = std::collections::BTreeMap::<(&str, &str), u64>::new();
                let (mut made, mut trial) = (0, 0u64);
                while made < most / 2 {
                    // Every so often records.db has come further, and vouches for more.
                    if trial.is_multiple_of(1_000) {
                        world.vouch = None;
                        world.applied.clear();
                        let through = draw.below(applied.len() + 1);
                        world.apply(opened.store, opened.incarnation - 1, &applied[..through]);
                    }
                    trial += 1;
                    let wanted = &log[world.applied.len()..];
                    let nth = draw.below(files.len());
                    let (bytes, what) = harmed(&whole[nth], &mut draw);
                    if bytes == whole[nth] {
                        *here.entry((what, "unchanged")).or_default() += 1;
                        continue;
                    }
                    made += 1;
                    if wanted.is_empty() {
                        twice.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    world.disk.alter(&files[nth], |old| old.clone_from(&bytes));
                    let seen = look(&world);
                    world.disk.alter(&files[nth], |old| old.clone_from(&whole[nth]));
                    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    let earlier_end =
                        nth + 1 == files.len() && bytes.len() == whole[nth].len() && bytes[..end] == whole[nth][..end];
                    let verdict = match seen {
                        Err(_) => "refused",
                        Ok(seen) => {
                            let there = marks(&seen.unapplied);
                            assert!(
                                there.iter().all(|mark| wanted.contains(mark)),
                                "{what}, trial {trial}: another one"
                            );
                            match (there == wanted, seen.damage.is_empty() && seen.doubts.is_empty()) {
                                (true, true) => "unread",
                                (true, false) => "found, nothing lost",
                                (false, false) => "found",
                                (false, true) => {
                                    assert!(earlier_end, "{what}, trial {trial}: lost in silence");
                                    "an earlier end"
                                }
                            }
                        }
                    };
                    *here.entry((what, verdict)).or_default() += 1;
                }
                for (key, count) in here {
                    *counts.lock().unwrap().entry(key).or_default() += count;
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    let mut by_verdict = std::collections::BTreeMap::<&str, u64>::new();
    for ((what, verdict), count) in counts {
        println!("{what:10} {verdict:20} {count}");
        *by_verdict.entry(verdict).or_default() += count;
    }
    let unchanged = by_verdict.remove("unchanged").unwrap_or(0);
    let trials: u64 = by_verdict.values().sum();
    let twice = twice.into_inner();
    let ms = clock.now_ms().saturating_sub(began);
    println!(
        "{trials} corruptions of a journal (seed {seed}, {unchanged} more changed nothing): {by_verdict:?}; \
         records.db had all of it in {twice}; {ms} ms"
    );
    if let Ok(path) = std::env::var("SWARMKEEP_DISK_FIGURES") {
        let line = serde_json::json!({
            "test": "no_corruption_of_a_journal_is_believed_or_passed_over", "seed": seed, "writes": 5, "trials": trials,
            "repeated": unchanged, "checks": 0, "states": 0, "blobs": 0, "failed": 0, "ms": ms,
            "verdicts": by_verdict, "twice": twice,
        });
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes()).unwrap();
    }
    assert!(by_verdict["found"] > trials / 20 && by_verdict["an earlier end"] > 0);
}

#[test]
fn a_flip_says_what_is_lost() {
    let (world, log) = small();
    let file = segments(&world).pop().unwrap();
    let bytes = world.disk.contents(&file).unwrap();
    // The body of the middle frame of three: a later frame vouches for it.
    let starts: Vec<usize> = (8192..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"SKFR")).collect();
    assert_eq!(starts.len(), 3);
    world.disk.rot(&file, starts[1] + 400, |byte| *byte ^= 4);
    let seen = look(&world).unwrap();
    let [damage] = &seen.damage[..] else { panic!("{:?}", seen.damage) };
    let spans = damage.spans.as_ref().unwrap();
    assert_eq!((spans[0].session, spans[0].seqs.clone()), (SessionId([4; 16]), Some(1..=2)));
    assert!(!damage.in_records);
    assert_eq!(seen.lost().count(), 1);
    assert_eq!(marks(&seen.unapplied), [&log[..3], &log[4..]].concat(), "what comes after it is there");
    world.disk.rot(&file, starts[1] + 400, |byte| *byte ^= 4);

    // The body of the last one: nothing vouches for it.
    world.disk.rot(&file, starts[2] + 400, |byte| *byte ^= 4);
    let opened = world.open().unwrap();
    let [doubt] = &opened.inspection.doubts[..] else { panic!("{:?}", opened.inspection) };
    assert_eq!(doubt.spans.as_ref().unwrap()[0].session, SessionId([2; 16]));
    assert!(!doubt.abandoned && opened.inspection.damage.is_empty());
    let kept = world.disk.contents(&Path::new(STORE).join("quarantine").join(doubt.quarantine_name())).unwrap();
    assert_eq!(kept, world.disk.contents(&file).unwrap()[starts[2]..][..kept.len()]);
    drop(opened);
    assert!(world.open().unwrap().inspection.doubts.is_empty(), "reported once");
}

#[test]
fn a_damaged_frame_that_records_have_is_mended() {
    let (mut world, _) = small();
    let opened = world.open().unwrap();
    let (store, incarnation, frames) = (opened.store, opened.incarnation, opened.unapplied.clone());
    drop(opened);
    world.apply(store, incarnation, &frames);
    for file in segments(&world) {
        let bytes = world.disk.contents(&file).unwrap();
        for at in (8192..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"SKFR")) {
            for byte in [at + 10, at + 300] {
                world.disk.rot(&file, byte, |byte| *byte ^= 1);
                let seen = look(&world).unwrap();
                assert_eq!((seen.lost().count(), seen.unapplied.len(), seen.doubts.len()), (0, 0, 0), "{byte}");
                world.disk.rot(&file, byte, |byte| *byte ^= 1);
            }
        }
    }
}

#[test]
fn a_tail_torn_at_every_byte_is_reported() {
    let (world, log) = small();
    let file = segments(&world).pop().unwrap();
    let bytes = world.disk.contents(&file).unwrap();
    let starts: Vec<usize> = (8192..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"SKFR")).collect();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in starts[1]..=end {
        for shorter in [false, true] {
            let torn = World { disk: world.disk.fork(), ..World::new() };
            let handle = torn.disk.open(&file, OpenHow::Write).unwrap();
            if shorter {
                handle.set_len(cut as u64).unwrap();
            } else {
                handle.write_at(&vec![0; bytes.len() - cut], cut as u64).unwrap();
            }
            let seen = look(&torn).unwrap();
            let there = marks(&seen.unapplied);
            let whole = starts.iter().filter(|start| **start < cut).count();
            assert!(log.starts_with(&there), "cut at {cut}");
            assert!(there.len() + 1 >= 2 + whole, "cut at {cut}: only the frame that is cut may be missing");
            // What lay behind the cut cannot be told, whatever can of the frame that is cut.
            let is_cut = seen.doubts.iter().any(|doubt| *doubt.bytes.start() == cut as u64 && doubt.spans.is_none());
            assert_eq!(shorter, is_cut, "cut at {cut}, between two frames or within one: {:?}", seen.doubts);
            if there.len() < 2 + whole {
                assert!(!seen.doubts.is_empty(), "cut at {cut}: not in silence");
                assert!(seen.damage.is_empty());
            }
        }
    }
}

#[test]
fn the_first_sector_of_the_last_frame_lost_is_not_the_end_in_silence() {
    // In a file that was used before, zeros and old bytes cannot be told from an end: the trailer betrays the frame.
    let world = World::new();
    let mut writer = world.start(world.open().unwrap());
    for _ in 0..30 {
        writer.write(1, 1000).unwrap();
        let last = writer.seen.lock().last().map(|frame| (frame.position, frame.hash)).unwrap();
        writer.journal.retire(last.0, last.1).unwrap();
    }
    let frames = writer.seen.lock().clone();
    let mut world = world;
    world.apply(writer.store, writer.incarnation, &frames);
    writer.write(1, 2000).unwrap();
    world.disk.die_at(1);
    drop(writer);
    world.disk = world.disk.kill();
    assert_eq!(look(&world).unwrap().unapplied.len(), 1);
    let file = segments(&world).pop().unwrap();
    let bytes = world.disk.contents(&file).unwrap();
    let key = frame::Key::of(&segment::Header::decode(&bytes[..4096]).unwrap());
    let last =
        (8192..bytes.len()).step_by(512).rfind(|at| frame::Header::read(&bytes, *at as u64, &key).is_some()).unwrap();
    for at in last..last + 512 {
        world.disk.rot(&file, at, |byte| *byte = 0);
    }
    let seen = look(&world).unwrap();
    assert_eq!(seen.doubts.len(), 1, "{seen:?}");
    assert!(seen.unapplied.is_empty());
}

#[test]
fn what_an_earlier_use_left_behind_never_validates() {
    let world = World::new();
    let mut writer = world.start(world.open().unwrap());
    for step in 0..120u8 {
        writer.write(step % 4, usize::from(step) * 10).unwrap();
        if step % 7 == 0 && step < 110 {
            let last = writer.seen.lock().last().map(|frame| (frame.position, frame.hash)).unwrap();
            writer.journal.retire(last.0, last.1).unwrap();
        }
    }
    let frames = writer.seen.lock().clone();
    let mut world = world;
    let recycled =
        |file: &PathBuf| segment::Header::decode(&world.disk.contents(file).unwrap()[..4096]).unwrap().recycled;
    assert!(segments(&world).iter().any(recycled));
    let (some, rest) = frames.split_at(110);
    world.apply(writer.store, writer.incarnation, some);
    world.disk.die_at(1);
    drop(writer);
    world.disk = world.disk.crash(Loss::Nothing, 1);
    let seen = look(&world).unwrap();
    assert_eq!(marks(&seen.unapplied), marks(rest));
    assert!(seen.doubts.is_empty() && seen.damage.is_empty(), "{seen:?}");
}

#[test]
fn frames_forged_inside_a_payload_never_validate() {
    // The worst a client could do if it knew the file: a whole valid frame of this very segment, at a frame's alignment,
    // under a header that is then lost.
    let mut world = World::new();
    world.settings = Settings { segment_bytes: 64 * 1024, ..settings() };
    let mut writer = world.start(world.open().unwrap());
    writer.write(1, 100).unwrap();
    let file = segments(&world).pop().unwrap();
    let bytes = world.disk.contents(&file).unwrap();
    let forged = &bytes[8192..8192 + 1024];
    let mut payload = vec![0; 512 - 144 - 48];
    for _ in 0..8 {
        payload.extend_from_slice(forged);
    }
    let observations = Entry::Observations { session: SessionId([6; 16]), payload: Bytes::from(payload) };
    writer.journal.append(observations, 0, Durability::Durable).unwrap().wait().unwrap();
    let wanted = writer.acked.clone();
    world.disk.die_at(1);
    drop(writer);
    world.disk = world.disk.kill();
    let outer = 8192 + 1024;
    let bytes = world.disk.contents(&file).unwrap();
    assert_eq!(&bytes[outer + 512..outer + 512 + 1024], forged, "aligned");
    for at in [outer, outer + 40] {
        world.disk.rot(&file, at, |byte| *byte ^= 1);
    }
    let seen = look(&world).unwrap();
    assert_eq!(marks(&seen.unapplied), wanted);
    assert_eq!((seen.damage.len(), seen.doubts.len()), (0, 1));
}

#[test]
fn a_client_that_knows_everything_but_the_nonce_forges_nothing() {
    let mut world = World::new();
    world.settings = Settings { segment_bytes: 64 * 1024, ..settings() };
    let mut writer = world.start(world.open().unwrap());
    writer.write(1, 100).unwrap();
    let file = segments(&world).pop().unwrap();
    let outer = 8192 + 1024u64;
    // A frame made with all the right numbers, for exactly the place where it will lie.
    let mut segment = segment::Header::decode(&world.disk.contents(&file).unwrap()[..4096]).unwrap();
    segment.nonce = [0; 32];
    let place = frame::Place {
        position: Position(3),
        offset: outer + 512,
        durable_through: Position(2),
        previous: Hash::default(),
        time_ms: 0,
    };
    let planted = Entry::Records(super::kit::group(8, Head::default(), 1, 10, 1));
    let mut forged = Vec::new();
    frame::encode(&mut forged, &frame::Key::of(&segment), &place, &[planted]);
    let mut payload = vec![0; 512 - 144 - 48];
    payload.extend_from_slice(&forged);
    let observations = Entry::Observations { session: SessionId([6; 16]), payload: Bytes::from(payload) };
    writer.journal.append(observations, 0, Durability::Durable).unwrap().wait().unwrap();
    let wanted = writer.acked.clone();
    world.disk.die_at(1);
    drop(writer);
    world.disk = world.disk.kill();
    let at = usize::try_from(outer).unwrap();
    assert_eq!(world.disk.contents(&file).unwrap()[at + 512..][..forged.len()], forged);
    world.disk.rot(&file, at + 40, |byte| *byte ^= 1);
    let seen = look(&world).unwrap();
    assert_eq!(marks(&seen.unapplied), wanted);
    assert_eq!((seen.damage.len(), seen.doubts.len()), (0, 1));
}

#[test]
fn one_damaged_copy_of_a_header_costs_nothing() {
    let (world, log) = small();
    for file in segments(&world) {
        for at in [0, 9, 100, 4096, 4096 + 9, 4096 + 100] {
            world.disk.rot(&file, at, |byte| *byte ^= 1);
            let seen = look(&world).unwrap();
            assert_eq!(marks(&seen.unapplied), log, "byte {at}");
            assert_eq!((seen.damage.len(), seen.lost().count()), (1, 0));
            world.disk.rot(&file, at, |byte| *byte ^= 1);
        }
    }
}

#[test]
fn a_segment_that_cannot_be_read_at_all_goes_to_quarantine() {
    let (world, log) = small();
    let file = segments(&world).pop().unwrap();
    for at in [20, 4096 + 20] {
        world.disk.rot(&file, at, |byte| *byte ^= 1);
    }
    let opened = world.open().unwrap();
    assert_eq!(opened.inspection.lost().count(), 1, "{:?}", opened.inspection);
    assert_eq!(marks(&opened.unapplied), log[..2]);
    assert!(world.disk.contents(&file).is_none(), "moved");
    let name = opened.inspection.damage[0].quarantine_name();
    assert!(world.disk.contents(&Path::new(STORE).join("quarantine").join(name)).is_some());
    drop(opened);
    assert_eq!(world.open().unwrap().inspection.damage.len(), 0);
}
