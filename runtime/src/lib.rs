//! Tasks, graphs, plans and executors of quipu.

pub mod canon;
pub mod exec;
pub mod graph;
pub mod identity;
pub mod process;
pub mod run;
pub mod task;
pub mod value;
pub mod workflow;
