//! The quipu command.

mod cli;
mod commands;
mod diagnose;
mod exit;
mod project;
mod render;
mod settings;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A reader that goes away (`quipu list | head`) ends us quietly, as it does any filter.
    commands::end_quietly_on_closed_pipe();
    let cli = cli::Cli::parse();
    match commands::dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(diagnosis) => {
            let _ = writeln!(std::io::stderr(), "{diagnosis}");
            diagnosis.exit.into()
        }
    }
}
