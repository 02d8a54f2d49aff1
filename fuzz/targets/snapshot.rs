//! Fuzzes the snapshot reader, and the import of any JSON object.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = kvstore_core::fuzz::snapshot(bytes);
});
