//! What people do, from the first run to the last, through the command.

mod by_hand;
mod cancel;
mod concurrent;
mod cutoff;
mod damage;
mod depfile;
mod examples;
mod external;
mod failures;
mod glance;
mod incremental;
mod language;
mod leftovers;
mod moving_ground;
mod pipeline;
mod printed;
mod resume;
mod sandbox;
mod secrets;
mod services;
mod share_attest;
mod share_audit;
mod share_files;
mod share_keys;
mod share_peer;
mod share_serve;
#[cfg(feature = "remote")]
mod share_servers;
mod share_walk;
mod tools;
mod tour;
mod undeclared;
mod untrusted;
mod variants;
mod waits;
mod workfile_errors;
