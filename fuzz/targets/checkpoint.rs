//! The canonical bytes of a state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swarmkeep_core::State;

fuzz_target!(|data: &[u8]| {
    let Ok(state) = State::from_canonical(data) else { return };
    let canonical = state.canonical();
    let again = State::from_canonical(&canonical).unwrap();
    assert_eq!(again.canonical(), canonical, "what was written reads as what was written");
});
