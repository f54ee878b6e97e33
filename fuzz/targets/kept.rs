//! A kept copy.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use swarmkeep::{
    disk::{Disk, OpenHow, simulated::SimDisk},
    journal::{StoreId, kept::KeptFile},
};
use swarmkeep_fuzz::Input;

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let right = input.byte() % 4 != 0;
    let mut bytes = input.0.to_vec();
    if right {
        // The header is right but for its counts; what comes after it is the directory, packed by nobody in particular.
        if bytes.len() < 144 {
            bytes.resize(144, 0);
        }
        let length = bytes.len();
        put(&mut bytes, 0, b"SWKKEPT\0");
        put(&mut bytes, 8, &1u32.to_le_bytes());
        put(&mut bytes, 16, &[1; 16]);
        let packed = usize::from(bytes[80]) % (length - 143);
        put(&mut bytes, 72, &((length - packed) as u64).to_le_bytes());
        put(&mut bytes, 80, &(packed as u32).to_le_bytes());
        let count = |at: usize| u32::from(bytes[at] % 4);
        let (blocks, runs, blobs) = (count(56), count(60), count(64));
        put(&mut bytes, 56, &blocks.to_le_bytes());
        put(&mut bytes, 60, &runs.to_le_bytes());
        put(&mut bytes, 64, &blobs.to_le_bytes());
        put(&mut bytes, 84, &(blocks * 48 + runs * 56 + blobs * 80).to_le_bytes());
        put(&mut bytes, 88, &(length as u64).to_le_bytes());
        let hash = blake3::hash(&bytes[length - packed..]);
        put(&mut bytes, 104, hash.as_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..144]);
        put(&mut bytes, 12, &sum.to_le_bytes());
    }
    let disk = SimDisk::new();
    let file = disk.open(Path::new("/kept"), OpenHow::Create).unwrap();
    file.write_at(&bytes, 0).unwrap();
    let Ok(file) = KeptFile::read(file, StoreId([1; 16])) else { return };
    let _ = file.verify();
    for run in &file.runs {
        let _ = file.records(run);
    }
    for blob in &file.blobs {
        let _ = file.blob(blob);
    }
});
