//! Tries `oracles::store_open` on any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quipu_fuzz::oracles::store_open(bytes));
