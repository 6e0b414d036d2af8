//! The command line: definitions only. The doc comments are the manual.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::quantity;

/// Runs tasks, and only those that no receipt settles.
#[derive(Debug, Parser)]
#[command(name = "quipu", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Work as if started in DIR
    #[arg(short = 'C', long = "directory", global = true, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Keep blobs and receipts in DIR [default: $QUIPU_STORE, else the cache directory of the platform]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Work in this name space of the store: what is made stays there until it is promoted [default: $QUIPU_NAMESPACE,
    /// else `namespace` in config.toml, else `default`, the store itself]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// See what was made in the name space alone, and nothing of `default` or of a remote
    #[arg(long, global = true)]
    pub(crate) only_namespace: bool,
    /// Ask no remote, and send nothing to any
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Give a param of the workfile a value; of a list, several times
    #[arg(long, global = true, value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub(crate) set: Vec<(String, String)>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no `=`")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run tasks and what they need, or a workflow by its id
    Run(RunArgs),
    /// Show what a run would do, and run nothing
    Plan(PlanArgs),
    /// List the tasks that can be done now: not done themselves, and all they wait for is
    Ready(PlanArgs),
    /// Say why a task would run, or why not
    Explain(ExplainArgs),
    /// Run a task, and say what its workfile should list that it reads and makes
    Learn(LearnArgs),
    /// Say in which tasks and ingredients two runs differ
    Diff(DiffArgs),
    /// Run tasks twice, and say in what the outcomes differ
    Check(CheckArgs),
    /// List tasks
    List(ListArgs),
    /// List tasks that a change affects, and all that need them
    Affected(AffectedArgs),
    /// Print the graph of tasks
    Graph(GraphArgs),
    /// Deliver what came out of a task that is done elsewhere
    Deliver(DeliverArgs),
    /// List runs, or print what a task printed when it ran
    Log(LogArgs),
    /// Print a receipt, task, directory or file of the store
    Show(ShowArgs),
    /// Check the store, and repair it when asked to
    Verify(VerifyArgs),
    /// Delete from the store what has not been used for long
    Gc(GcArgs),
    /// Let what was made in a name space count in `default`, once it is green
    Promote(PromoteArgs),
    /// List name spaces of the store, or remove one
    Namespace {
        #[command(subcommand)]
        command: NamespaceCommand,
    },
    /// Make a signing key, or show which there is
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Say whose receipts count beside your own
    Trust {
        #[command(subcommand)]
        command: TrustCommand,
    },
    /// Write receipts with all they reach, or a workflow, to a file for another machine
    Export(ExportArgs),
    /// Take over receipts and content, or a workflow, from the file of another machine
    Import(ImportArgs),
    /// Run again what others have done, and compare
    Audit(AuditArgs),
    /// Print signed provenance of tasks (in-toto, SLSA) for tools that know nothing of quipu
    Attest(AttestArgs),
    /// Let others read this store over HTTP
    Serve(ServeArgs),
    /// Say what works on this machine, and what to do about the rest
    Doctor(DoctorArgs),
    /// Write a workfile to begin with
    Init,
    /// Print the JSON Schema of workfiles
    Schema,
    /// Print a script that completes commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GoalArgs {
    /// Tasks: a name, `member:name`, `name[variant]`, a glob or `tag:x`; `+x` with all it needs, `x+` with all that need it [default: all tasks, or what the workspace says]
    #[arg(value_name = "TASK")]
    pub(crate) goals: Vec<String>,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Only tasks that the changes since this commit affect, as git tells them, committed or not
    #[arg(long, value_name = "COMMIT")]
    pub(crate) since: Option<String>,
    /// Only tasks that a change of this file affects (may be given again)
    #[arg(long, value_name = "PATH")]
    pub(crate) changed: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AffectedArgs {
    #[command(flatten)]
    pub(crate) goals: GoalArgs,
    /// Print tasks as JSON, each with the reason
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// Tasks: a name, `member:name`, `name[variant]`, a glob or `tag:x`; `+x` with all it needs, `x+` with all that need it [default: all tasks]
    #[arg(value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) goals: GoalArgs,
    /// Run at most N tasks at once [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) jobs: Option<u32>,
    /// Go on with other tasks after a failure
    #[arg(short, long)]
    pub(crate) keep_going: bool,
    /// Run this task whatever receipts there are (may be given again; without a name: all that were asked for)
    #[arg(long, value_name = "TASK", num_args = 0..=1, default_missing_value = "", require_equals = true)]
    pub(crate) force: Vec<String>,
    /// Let this remote run sandboxed tasks, beside this machine
    #[arg(long, value_name = "NAME", conflicts_with_all = ["offline", "only_namespace"])]
    pub(crate) remote: Option<String>,
    /// Wait for what is done elsewhere, rather than end when nothing else is left to do
    #[arg(long)]
    pub(crate) wait: bool,
    /// Print one JSON event a line on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Show what would run, and run nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// What to do when a task came out in two ways
    #[arg(long, value_enum, default_value_t = OnDivergence::Warn, value_name = "WHAT")]
    pub(crate) on_divergence: OnDivergence,
    /// How to show what tasks print
    #[arg(long, value_enum, default_value_t = OutputMode::Grouped, value_name = "HOW")]
    pub(crate) output: OutputMode,
    /// Show what cached tasks printed when they ran, too
    #[arg(long)]
    pub(crate) replay: bool,
    /// Print nothing but failures and the summary, as `--output quiet` does
    #[arg(short, long, conflicts_with = "output")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeliverArgs {
    /// The task: a name, `member:name` or `name[variant]`
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
    /// It was done, and this file is what came out
    #[arg(long, value_name = "FILE", required_unless_present = "error")]
    pub(crate) ok: Option<PathBuf>,
    /// It failed, and this is why
    #[arg(long, value_name = "TEXT", conflicts_with = "ok")]
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputMode {
    /// Below its task, when that ends
    Grouped,
    /// Line by line as it comes, with the task's name before each
    Prefixed,
    /// Only that of tasks that fail
    Quiet,
    /// Line by line as it comes
    Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDivergence {
    /// Say so and go on
    Warn,
    /// Stop the run
    Fail,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) goals: GoalArgs,
    /// Print the plan as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The task: a name, `member:name` or `name[variant]`
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
    /// Say what differs from then: a run (`last`, `last~1`, or the first characters of its id), a receipt or a task by its id
    #[arg(long, value_name = "RUN|RECEIPT")]
    pub(crate) against: Option<String>,
    /// Print the explanation as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print what was found as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LearnArgs {
    /// The task: a name, `member:name` or `name[variant]`
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
    /// Write it to the workfile
    #[arg(long)]
    pub(crate) write: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The earlier run: its id, the first characters of it, `last`, or `last~1` for the one before
    #[arg(value_name = "RUN1", default_value = "last~1")]
    pub(crate) first: String,
    /// The later run
    #[arg(value_name = "RUN2", default_value = "last")]
    pub(crate) second: String,
    /// Print the differences as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Tasks: a name, `member:name`, `name[variant]`, a glob or `tag:x`
    #[arg(value_name = "TASK", required = true)]
    pub(crate) tasks: Vec<String>,
    /// Run at most N tasks at once [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) jobs: Option<u32>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) tasks: TaskArgs,
    /// Print tasks as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pub(crate) tasks: TaskArgs,
    /// In which language
    #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
    pub(crate) format: GraphFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
    /// Nodes and edges
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Print what this task printed when it last ran, byte for byte, instead of listing runs
    #[arg(value_name = "TASK")]
    pub(crate) task: Option<String>,
    /// Only this run: print what happened in it (its id, the first characters of it, `last` or `last~1`)
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<String>,
    /// List the runs of all workspaces, not of this one only
    #[arg(long)]
    pub(crate) all: bool,
    /// Print one JSON object a line: runs, or the events of the one run
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its id, or the first characters of it, with or without `bafkr4i` or `bafyr4i`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Set aside what is damaged, and rebuild the index if it must be
    #[arg(long)]
    pub(crate) repair: bool,
    /// Only look whether files are there; do not read them
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Delete what was not used for so long, and logs of runs that are as old: 12h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = quantity::parse_age)]
    pub(crate) max_age: Option<Duration>,
    /// Delete the least recently used until the rest fits: 500M, 20G
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_size)]
    pub(crate) max_size: Option<u64>,
    /// Only say what would be deleted
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print what was deleted as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// The name space
    #[arg(value_name = "NAMESPACE")]
    pub(crate) space: String,
    #[command(flatten)]
    pub(crate) goals: GoalArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NamespaceCommand {
    /// List them, with when each was last used
    List {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove name spaces with all that was made in them and not promoted
    Remove {
        /// Their names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; one that is there stays
    New,
    /// Print the public half of the key that receipts are signed with
    Show,
    /// List the keys at hand, with where they are
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Let receipts by this key count
    Add {
        /// What you call its owner: letters, digits, `-` and `_`
        name: String,
        /// The key, as `quipu key show` prints it there
        key: String,
    },
    /// Let them count no more
    Remove {
        /// What you call its owner
        name: String,
    },
    /// List whose receipts count, best first, and what is asked of them
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WorkflowFormat {
    /// The workflow with what its tasks read
    Car,
    /// The workflow alone, as JSON
    DagJson,
    /// The workflow alone, as the bytes that its id is of
    DagCbor,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Tasks, or ids of receipts and tasks [default: all tasks, or what the workspace says]
    #[arg(value_name = "TASK|ID")]
    pub(crate) what: Vec<String>,
    /// The file to write; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Write the tasks themselves as a workflow that `run` takes by its id, and print that; a CAR file holds what they read, too
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        num_args = 0..=1,
        default_missing_value = "car",
        require_equals = true,
        conflicts_with_all = ["logs", "sources", "all"]
    )]
    pub(crate) workflow: Option<WorkflowFormat>,
    /// With what the tasks printed
    #[arg(long)]
    pub(crate) logs: bool,
    /// With what the tasks read, as far as it is as it was then
    #[arg(long)]
    pub(crate) sources: bool,
    /// Also what ran without a sandbox, with the network or with a secret: nobody can tell what else it depended on
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file: a CAR file, or a workflow as JSON or as a block; `-` for standard input
    pub(crate) file: PathBuf,
    /// Refuse a file that is larger: 500M, 20G
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_size)]
    pub(crate) max_bytes: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(crate) goals: GoalArgs,
    /// Run again this share of them: 5%, 0.05
    #[arg(long, value_name = "SHARE", value_parser = quantity::parse_share, default_value = "100%")]
    pub(crate) sample: f64,
}

#[derive(Debug, Args)]
pub(crate) struct AttestArgs {
    #[command(flatten)]
    pub(crate) goals: GoalArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Listen here; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4610")]
    pub(crate) listen: SocketAddr,
    /// Ask for the token in this file; one is made when there is none [default: $QUIPU_TOKEN; without any, only this
    /// machine is listened to]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Also give receipts of what ran without a sandbox, with the network or with a secret: nobody can tell what else it
    /// depended on
    #[arg(long)]
    pub(crate) all: bool,
}
