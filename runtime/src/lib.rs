//! Tasks, graphs, plans and executors of quipu.

pub mod graph;
pub mod process;
pub mod task;
pub mod value;
pub mod workflow;
