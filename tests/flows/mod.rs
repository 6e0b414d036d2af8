//! What people do, from the first run to the last, through the command.

mod cancel;
mod concurrent;
mod cutoff;
mod damage;
mod incremental;
mod pipeline;
mod resume;
mod tour;
mod untrusted;
mod workfile_errors;
