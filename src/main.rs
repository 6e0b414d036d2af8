//! The quipu command.

mod change;
mod cli;
mod commands;
mod config_file;
mod diagnose;
mod exit;
mod include;
mod project;
mod provided;
mod quantity;
mod remotes;
mod render;
mod secret;
mod settings;
mod trust_file;
mod undeclared;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    diagnose::tell_panics();
    let cli = cli::Cli::parse();
    match commands::dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(diagnosis) => {
            if !diagnosis.is_silent() {
                let _ = writeln!(std::io::stderr(), "{diagnosis}");
            }
            diagnosis.exit.into()
        }
    }
}
