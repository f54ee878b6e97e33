//! Records: as bytes, and with a body that came from nowhere in a record whose hashes are right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swarmkeep_core::{Epoch, SessionId, State, log::Head, record};

fuzz_target!(|data: &[u8]| {
    for view in record::iter(data) {
        let Ok(view) = view else { break };
        let _ = (view.session(), view.seq(), view.previous(), view.hash(), view.body(), view.decode());
        let _ = view.follows(SessionId([1; 16]), Head::default());
    }
    // As many bodies as there are lines.
    let (mut bytes, mut head, mut state) = (Vec::new(), Head::default(), State::empty());
    for body in data.split(|byte| *byte == b'\n').take(16) {
        head = record::encode(&mut bytes, SessionId([1; 16]), head, Epoch(1), 5, [3; 16], body);
    }
    for view in record::iter(&bytes) {
        let Ok(record) = view.unwrap().decode() else { return };
        if state.apply(&record).is_err() {
            return;
        }
        let again = State::from_canonical(&state.canonical()).unwrap();
        assert_eq!(again.hash(), state.hash());
    }
});
