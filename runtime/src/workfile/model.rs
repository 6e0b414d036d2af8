//! A workfile as written: globs, variables and matrices unexpanded, every text with its place.
//!
//! Knows shapes; unaware of TOML (see [`super::parse`]) and of other files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::errors::Place;
use super::fetching::Fetch;
use crate::process::Tier;
use crate::task;
use crate::value::{Branch, Text};

/// Text with its place, which is that of the value with its quotes.
#[derive(Debug, Clone)]
pub(crate) struct Str<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) place: Place,
}

/// One command line.
#[derive(Debug, Clone)]
pub(crate) enum Run<'a> {
    /// For a shell.
    Shell(Str<'a>),
    /// Program and arguments.
    Argv(Vec<Str<'a>>),
}

/// One declared output.
#[derive(Debug, Clone)]
pub(crate) struct Output<'a> {
    pub(crate) path: Str<'a>,
    pub(crate) optional: bool,
}

/// One list of a matrix.
#[derive(Debug, Clone)]
pub(crate) struct Axis<'a> {
    pub(crate) name: Str<'a>,
    pub(crate) values: Values<'a>,
}

/// Values of a list: one by one, or as words of a shell.
#[derive(Debug, Clone)]
pub(crate) enum Values<'a> {
    /// Each is one value, or several when it has braces.
    List(Vec<Str<'a>>),
    /// Blanks part them.
    Words(Str<'a>),
}

/// Variants by what they have: for each list named, one of these values.
#[derive(Debug, Clone)]
pub(crate) struct Filter<'a> {
    pub(crate) place: Place,
    pub(crate) lists: Vec<Axis<'a>>,
}

/// What a param takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// Any text.
    String,
    /// A whole number.
    Int,
    /// `true` or `false`.
    Bool,
    /// Words.
    List,
}

/// One entry of `params`.
#[derive(Debug, Clone)]
pub(crate) struct ParamTable<'a> {
    pub(crate) name: Str<'a>,
    pub(crate) kind: ParamKind,
    /// One value, or those of a list.
    pub(crate) default: Option<Vec<Str<'a>>>,
    pub(crate) required: Option<bool>,
    pub(crate) pattern: Option<Str<'a>>,
    pub(crate) choices: Vec<Str<'a>>,
    pub(crate) from_env: Option<Str<'a>>,
    pub(crate) deprecated: Option<Str<'a>>,
    pub(crate) description: Option<Str<'a>>,
}

/// When a task runs.
#[derive(Debug, Clone)]
pub(crate) enum When<'a> {
    /// If this is so.
    Condition(Str<'a>),
    /// Or not, as it says itself.
    Fixed(bool),
    /// By what became of the tasks it comes after.
    Ending(task::When),
}

/// One entry of `include`.
#[derive(Debug, Clone)]
pub(crate) struct Include<'a> {
    pub(crate) place: Place,
    /// A path or glob of this disk.
    pub(crate) path: Option<Str<'a>>,
    pub(crate) url: Option<Str<'a>>,
    pub(crate) blake3: Option<Str<'a>>,
    pub(crate) name: Option<Str<'a>>,
    pub(crate) dir: Option<Str<'a>>,
}

/// One entry of the `members` of a workspace, and what it gives the members it lists.
#[derive(Debug, Clone)]
pub(crate) struct MemberEntry<'a> {
    pub(crate) path: Str<'a>,
    pub(crate) extends: Vec<Str<'a>>,
    pub(crate) tags: Vec<Str<'a>>,
    pub(crate) vars: Vec<(Str<'a>, Str<'a>)>,
}

/// What a task waits for.
#[derive(Debug, Clone)]
pub(crate) enum WaitOn<'a> {
    Tcp(Str<'a>),
    Http(Str<'a>, u16),
    File(Str<'a>),
    Command(Run<'a>),
}

/// What of which task of another workflow is awaited.
#[derive(Debug, Clone)]
pub(crate) struct Awaited<'a> {
    pub(crate) branch: Branch,
    pub(crate) id: Str<'a>,
}

/// A `wait` or `service` table.
#[derive(Debug, Clone)]
pub(crate) struct Wait<'a> {
    pub(crate) on: WaitOn<'a>,
    pub(crate) every: Option<Duration>,
}

/// A `[task.X]` or `[template.X]` table.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskTable<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) place: Place,
    /// Which keys stand in it, and where.
    pub(crate) keys: Vec<(&'static str, Place)>,
    /// Keys that are taken away from what it extends.
    pub(crate) removed: Vec<&'static str>,
    /// Entries of its tables that are taken away, by key.
    pub(crate) removed_entries: Vec<(&'static str, Str<'a>)>,
    pub(crate) extends: Vec<Str<'a>>,
    /// Units of the templates that it was made with.
    pub(crate) templates_in: Vec<usize>,
    pub(crate) vars: Vec<(Str<'a>, Str<'a>)>,
    pub(crate) params: Vec<ParamTable<'a>>,
    pub(crate) when: Option<When<'a>>,
    pub(crate) description: Option<Str<'a>>,
    pub(crate) tags: Vec<Str<'a>>,
    pub(crate) steps: Vec<Run<'a>>,
    pub(crate) wait: Option<Wait<'a>>,
    pub(crate) fetch: Option<Fetch<'a>>,
    pub(crate) service: Option<Wait<'a>>,
    /// The command line of the worker that `run` is a request to.
    pub(crate) worker: Option<Vec<Str<'a>>>,
    pub(crate) external: Option<bool>,
    pub(crate) awaits: Option<Awaited<'a>>,
    pub(crate) inputs: Option<Vec<Str<'a>>>,
    pub(crate) outputs: Vec<Output<'a>>,
    pub(crate) needs: Vec<Str<'a>>,
    pub(crate) after: Vec<Str<'a>>,
    pub(crate) env: Vec<(Str<'a>, Str<'a>)>,
    pub(crate) pass_env: Vec<Str<'a>>,
    pub(crate) secret_env: Vec<Str<'a>>,
    pub(crate) env_file: Vec<Str<'a>>,
    pub(crate) dir: Option<Str<'a>>,
    pub(crate) stdin: Option<Str<'a>>,
    pub(crate) stdout: Option<Str<'a>>,
    pub(crate) depfile: Option<Str<'a>>,
    pub(crate) tools: Vec<Str<'a>>,
    pub(crate) matrix: Vec<Axis<'a>>,
    pub(crate) versions: Option<Axis<'a>>,
    pub(crate) only: Vec<Filter<'a>>,
    pub(crate) exclude: Vec<Filter<'a>>,
    pub(crate) shell: Option<Vec<Str<'a>>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) backoff: Option<Duration>,
    pub(crate) cache: Option<bool>,
    pub(crate) slots: BTreeMap<Text, u32>,
    pub(crate) sandbox: Option<Tier>,
    pub(crate) network: Option<bool>,
    pub(crate) publish: Option<bool>,
    pub(crate) mute: Option<bool>,
    /// Whether a key that decides about names, edges or outputs could not be read, so that other tasks may
    /// seem wrong although they are not.
    pub(crate) torn: bool,
}

impl TaskTable<'_> {
    /// Where a key stands; the task's name where it does not.
    pub(crate) fn key_place(&self, key: &str) -> Place {
        self.keys.iter().find(|(k, _)| *k == key).map_or(self.place, |(_, place)| *place)
    }

    /// Whether a key stands in it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|(k, _)| *k == key)
    }
}

/// The `[workspace]` table.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkspaceTable<'a> {
    pub(crate) place: Place,
    pub(crate) members: Vec<MemberEntry<'a>>,
    pub(crate) default: Option<Vec<Str<'a>>>,
    pub(crate) sandbox: Option<Tier>,
    pub(crate) subject: Option<Str<'a>>,
}

/// A whole workfile.
#[derive(Debug, Clone, Default)]
pub(crate) struct File<'a> {
    pub(crate) workspace: Option<WorkspaceTable<'a>>,
    pub(crate) member_name: Option<Str<'a>>,
    pub(crate) include: Vec<Include<'a>>,
    pub(crate) vars: Vec<(Str<'a>, Str<'a>)>,
    pub(crate) params: Vec<ParamTable<'a>>,
    pub(crate) templates: Vec<TaskTable<'a>>,
    pub(crate) tasks: Vec<TaskTable<'a>>,
    /// Whether parts of it could not be read at all.
    pub(crate) torn: bool,
}
