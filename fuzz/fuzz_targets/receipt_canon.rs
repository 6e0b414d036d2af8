//! Tries `receipt_canon` on any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quipu_fuzz::receipt_canon(bytes));
