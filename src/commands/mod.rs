//! Commands: from parsed arguments to an exit code or a diagnosis.

mod accepted;
mod affected;
mod attest;
mod audit;
mod check;
mod compare;
mod deliver;
mod diff;
mod doctor;
mod excerpt;
mod explain;
mod export;
mod gc;
pub(crate) mod glance;
mod graph;
mod import;
mod ingredients;
mod init;
mod key;
mod learn;
mod list;
mod log;
mod memory;
mod namespace;
mod plan;
mod promote;
mod ready;
mod run;
mod run_workflow;
mod runs;
mod serve;
mod show;
mod trust;
mod verify;
mod workflow;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use quipu_runtime::workfile::schema;
use serde::Serialize;

use crate::cli::{Cli, Command};
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::start;
use crate::settings::Settings;

/// What every command may need.
#[derive(Clone)]
pub(crate) struct Context {
    store: Option<PathBuf>,
    namespace: Option<String>,
    only_namespace: bool,
    /// Whether remotes are left alone.
    pub(crate) offline: bool,
    /// Where to look for the workfile.
    pub(crate) start: PathBuf,
    /// Params that were given.
    pub(crate) set: Vec<(String, String)>,
}

impl Context {
    /// Where store and key are. Asked only by commands that need them: the others work without a home.
    pub(crate) fn settings(&self) -> Result<Settings, Diagnosis> {
        let store = self.store.as_deref().map(|store| self.file(store));
        Settings::read(store, self.namespace.as_deref(), self.only_namespace)
    }

    /// The same in a name space.
    fn within(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// A file as it was named on the command line: from where the command works.
    pub(crate) fn file(&self, named: &Path) -> PathBuf {
        self.start.join(named)
    }
}

/// Carries out the command.
pub(crate) fn dispatch(cli: Cli) -> Result<Exit, Diagnosis> {
    let start = start(cli.directory.as_deref())?;
    let Cli { store, namespace, only_namespace, offline, set, .. } = cli;
    let context = Context { store, namespace, only_namespace, offline, start, set };
    match cli.command {
        Command::Run(args) => run::run(&context, &args),
        Command::Plan(args) => plan::plan(&context, &args),
        Command::Ready(args) => ready::ready(&context, &args),
        Command::Learn(args) => learn::learn(&context, &args),
        Command::Diff(args) => diff::diff(&context, &args),
        Command::Check(args) => check::check(&context, &args),
        Command::Explain(args) => explain::explain(&context, &args),
        Command::List(args) => list::list(&context, &args),
        Command::Affected(args) => affected::affected(&context, &args),
        Command::Graph(args) => graph::graph(&context, &args),
        Command::Deliver(args) => deliver::deliver(&context, &args),
        Command::Log(args) => log::log(&context, &args),
        Command::Show(args) => show::show(&context, &args),
        Command::Verify(args) => verify::verify(&context, &args),
        Command::Gc(args) => gc::gc(&context, &args),
        Command::Promote(args) => promote::promote(&context, &args),
        Command::Namespace { command } => namespace::namespace(&context, &command),
        Command::Key { command } => key::key(&context, &command),
        Command::Trust { command } => trust::trust(&context, &command),
        Command::Export(args) => export::export(&context, &args),
        Command::Import(args) => import::import(&context, &args),
        Command::Audit(args) => audit::audit(&context, &args),
        Command::Attest(args) => attest::attest(&context, &args),
        Command::Serve(args) => serve::serve(&context, &args),
        Command::Doctor(args) => doctor::doctor(&context, &args),
        Command::Init => init::init(&context.start),
        Command::Schema => print_json(&schema::schema()),
        Command::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut Cli::command(), "quipu", &mut script);
            print_bytes(&script).map(|()| Exit::Ok)
        }
    }
}

/// Writes a result to standard output.
pub(crate) fn print(text: &str) -> Result<(), Diagnosis> {
    print_bytes(text.as_bytes())
}

/// Writes a result to standard output, as it is.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Diagnosis> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| unwritten(&e))
}

/// Writes a result to standard output as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<Exit, Diagnosis> {
    let text = serde_json::to_string_pretty(value).expect("results have text for keys");
    print(&format!("{text}\n")).map(|()| Exit::Ok)
}

/// Why a result did not get out. A reader that goes away (`quipu list | head -1`) has what it wanted.
pub(crate) fn unwritten(error: &io::Error) -> Diagnosis {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Diagnosis::nobody_reads(),
        _ => Diagnosis::system("cannot write the result", error),
    }
}

/// Says something beside the result.
pub(crate) fn note(text: &str) {
    // Nobody to tell that nobody listens.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A path as people see it from where they are.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok());
    here.unwrap_or(path).display().to_string()
}
