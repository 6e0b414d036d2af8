//! What the store and the run must survive, each in a file of its own.

mod child;
mod crowd;
mod damage;
mod inject;
mod kill_matrix;
mod powercut;
mod space;
