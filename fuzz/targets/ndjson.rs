//! The lines of a bulk request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swarmkeep_fuzz::ask;

fuzz_target!(|data: &[u8]| {
    ask("POST", "/v1/bulk", "application/x-ndjson", data);
});
