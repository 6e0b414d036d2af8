//! Tests of the whole: the command, the repository it comes from, and the formats others read.

mod affected;
mod check;
mod diff;
mod docs;
mod doctor;
mod explain;
mod explain_outcomes;
mod formats;
mod gc;
mod graph;
pub(crate) mod independent;
mod init;
mod learn;
mod list;
mod log;
mod output;
mod plan;
mod reference;
mod remote;
mod run;
mod schema;
mod selectors;
mod show;
mod threats;
mod tidy;
mod usage;
mod verify;
