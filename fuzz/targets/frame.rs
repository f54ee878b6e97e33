//! One frame.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use swarmkeep::journal::{Entry, frame};
use swarmkeep_core::record;
use swarmkeep_fuzz::{Input, seal_frame, segment_header};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let right = input.byte() % 4 != 0;
    let header = segment_header(1, &mut Input(&[]));
    let key = frame::Key::of(&header);
    let mut bytes = input.0.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512).max(512), 0);
    if right {
        seal_frame(&mut bytes, &header, 0);
    }
    let _ = frame::betrayed(&bytes, 0, &key);
    let Some(read) = frame::Header::read(&bytes, 0, &key) else { return };
    let _ = read.spans(&bytes, 0, &key);
    let Some(whole) = read.verify(&Bytes::from(bytes), 0, &key) else { return };
    for entry in &whole.entries {
        let Entry::Records(group) = entry else { continue };
        for view in record::iter(&group.records).map_while(Result::ok) {
            let _ = (view.hash(), view.decode());
        }
    }
});
