//! Campaigns against crashes, full disks, power cuts and crowds. Short forms run with every `cargo test`; the long ones are in
//! `docs/reliability.md`, with the command for each.

#![allow(clippy::print_stderr, clippy::format_push_string, reason = "a campaign tells people how it goes")]

mod crash;
