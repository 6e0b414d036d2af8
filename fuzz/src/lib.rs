//! What the fuzz targets share with the tests of every change: the oracles.

#[path = "../../tests/crash/oracles.rs"]
mod oracles;

macro_rules! targets {
    ($($name:ident)*) => {$(
        /// The oracle of that name.
        pub fn $name(bytes: &[u8]) {
            oracles::$name(bytes);
        }
    )*};
}

targets! { receipt_canon tree_canon workfile store_open tree_checkout plan_model car_read workflow archive }
