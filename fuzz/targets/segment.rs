//! A journal of one segment or two, as it is found on a disk.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use swarmkeep::{
    disk::{Disk, OpenHow, simulated::SimDisk},
    journal::{StoreId, Vouch, inspect, segment},
};
use swarmkeep_core::{Hash, log::Position};
use swarmkeep_fuzz::{Input, seal_frame, segment_header};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let disk = SimDisk::new();
    disk.create_dir(Path::new("/store/journal")).unwrap();
    for number in 1..=1 + u64::from(flags & 1) {
        let header = segment_header(number, &mut input);
        let block = header.encode();
        let mut bytes = [block.as_slice(), block.as_slice()].concat();
        for _ in 0..input.byte() % 5 {
            let sectors = 1 + usize::from(input.byte() % 3);
            let mut frame = input.take(sectors * 512);
            frame.resize(sectors * 512, 0);
            if flags & 2 == 0 {
                let offset = bytes.len() as u64;
                seal_frame(&mut frame, &header, offset);
            }
            bytes.extend_from_slice(&frame);
        }
        if flags & 4 != 0 {
            let at = input.number() as usize % 9_000;
            let with = input.byte();
            bytes.get_mut(at).into_iter().for_each(|byte| *byte = with);
        }
        let name = Path::new("/store/journal").join(segment::file_name(number));
        disk.open(&name, OpenHow::Create).unwrap().write_at(&bytes, 0).unwrap();
    }
    let vouch = (flags & 8 != 0).then(|| Vouch {
        store: StoreId([1; 16]),
        position: Position(input.number()),
        frame_hash: Hash([input.byte(); 32]),
        incarnation: input.number(),
    });
    let _ = inspect(&disk, Path::new("/store"), vouch);
});
