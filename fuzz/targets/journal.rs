//! Fuzzes the journal reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kvstore_core::fuzz::journal(bytes);
});
