//! Commands: from parsed arguments to an exit code or a diagnosis.

mod run;

use std::io::{self, Write};

use crate::cli::{Cli, Command};
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::start;
use crate::settings::Settings;

/// What every command may need.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) start: std::path::PathBuf,
}

/// Carries out the command.
pub(crate) fn dispatch(cli: Cli) -> Result<Exit, Diagnosis> {
    let context = Context { settings: Settings::read(cli.store.as_deref())?, start: start(cli.directory.as_deref())? };
    match cli.command {
        Command::Run(args) => run::run(&context, &args),
        _ => Err(Diagnosis::usage("not here yet")),
    }
}

/// Writes a result to standard output.
pub(crate) fn print(text: &str) -> Result<(), Diagnosis> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Diagnosis::system("cannot write the result", &e))
}

/// Lets a closed pipe end the process, as it does any filter, instead of being an error.
pub(crate) fn end_quietly_on_closed_pipe() {
    // Rust ignores SIGPIPE; results are written through `print`, which sees the error and says nothing more.
}
