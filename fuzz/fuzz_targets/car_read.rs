//! Tries `car_read` on any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quipu_fuzz::car_read(bytes));
