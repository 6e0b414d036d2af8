//! Recipes: concrete tasks as a workfile describes them, with everything expanded but globs over the disk.
//!
//! Knows what a recipe is; unaware of how one is made (see [`super::lower`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use quipu_store::cid::TaskId;

use super::errors::Place;
use super::globs::Pattern;
use super::params::Param;
use crate::fetch::FetchSpec;
use crate::narrow::Depfile;
use crate::process::{OutputSpec, ProcessSpec, Tier};
use crate::task::Policy;
use crate::value::{At, Branch, Text};
use crate::wait::WaitSpec;

/// What kind of work it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Act {
    /// A process, or nothing when it has no steps.
    #[default]
    Process,
    /// Waiting until something outside is ready.
    Wait(WaitSpec),
    /// A process that goes on while those that need it run, once this is there.
    Service(WaitSpec),
    /// Work that is done elsewhere.
    External,
    /// Bringing content here that is known by its hash.
    Fetch(FetchSpec),
    /// A request to a persistent worker with this command line; its only step is what it is asked.
    Worker(Vec<Text>),
    /// A task of another workflow.
    Await {
        /// Its id.
        id: TaskId,
        /// What is awaited of it.
        branch: Branch,
    },
}

impl Act {
    /// What such a task does, in words that go on after its name.
    pub fn told(&self) -> &'static str {
        match self {
            Self::Process => "runs a process",
            Self::Service(_) => "is a service",
            Self::Worker(_) => "is done by a worker",
            Self::Wait(_) => "waits",
            Self::External => "is done elsewhere",
            Self::Fetch(_) => "fetches",
            Self::Await { .. } => "awaits another workflow's",
        }
    }
}

/// One concrete task: one variant of a `[task.X]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The name people use: `compile`, `compile[main]`, `app:compile[main]`.
    pub name: Text,
    /// The name without its variant.
    pub task: Text,
    /// Which member it belongs to, an index into [`super::Loaded::members`].
    pub member: usize,
    /// The matrix values it was made with, as written.
    pub variant: Vec<(Text, Text)>,
    /// For people.
    pub description: Option<Text>,
    /// For selectors.
    pub tags: Arc<[Text]>,
    /// Where its name stands.
    pub place: Place,
    /// Where its keys stand.
    pub key_places: Arc<[(&'static str, Place)]>,
    /// Files whose templates it was made with, by their number.
    pub templates_in: Arc<[usize]>,
    /// What kind of work it is.
    pub act: Act,
    /// Where what it fetches is to be had, best first; no part of what it is.
    pub urls: Arc<[Text]>,
    /// Command lines; none for a group.
    pub steps: Vec<Vec<Text>>,
    /// What `env` sets.
    pub env: BTreeMap<Text, Text>,
    /// What is taken from the caller's environment.
    pub pass_env: Vec<Text>,
    /// What is taken from there and written down nowhere.
    pub secret_env: Vec<Text>,
    /// Where it runs, relative to the workspace root.
    pub dir: Text,
    /// What it reads from standard input.
    pub stdin: Option<Stdin>,
    /// Where its standard output goes; also one of `outputs`.
    pub stdout: Option<Text>,
    /// Where it says which of its inputs it read; also one of `outputs`.
    pub depfile: Option<Depfile>,
    /// Tools whose content is part of its id.
    pub tools: Vec<Text>,
    /// Which files of the workspace it reads.
    pub sources: Sources,
    /// What it reads of other tasks, by path.
    pub from: Vec<FromTask>,
    /// Recipes whose printed text stands in its own texts, by the selector that stands there for it.
    pub printed: Vec<(Text, usize)>,
    /// Recipes all outputs of which are its inputs; groups stand as their members.
    pub needs: Vec<usize>,
    /// Recipes that end before it starts; groups stand as their members.
    pub after: Vec<usize>,
    /// What it makes.
    pub outputs: Vec<OutputSpec>,
    /// How it is handled.
    pub policy: Arc<Policy>,
    /// How it is isolated.
    pub tier: Tier,
    /// Whether it may use the network.
    pub network: bool,
    /// Whether it is placed only once the checks on it have passed.
    pub publish: bool,
    /// Params of its own, as they are in this run.
    pub params: Arc<[Param]>,
    /// Params it cannot do without, and that nobody gave.
    pub lacks: Vec<(Text, Place)>,
    /// Files that its environment is read from.
    pub env_files: Vec<Text>,
    /// Why it is not to run, when its condition says so.
    pub left_out: Option<Text>,
    /// Recipes it would need or come after, if they were not left out.
    pub without: Vec<usize>,
}

/// What a task reads from standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stdin {
    /// A source file, which is among its `sources` too.
    Source(Text),
    /// What another task prints, by its selector.
    Printed(Text),
    /// An output of another task.
    Task {
        /// Which recipe.
        producer: usize,
        /// Which part of its outcome.
        at: At,
    },
}

/// An input that another task makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromTask {
    /// Where the task finds it.
    pub path: Text,
    /// Which recipe makes it.
    pub producer: usize,
    /// Which part of its outcome it is.
    pub at: At,
}

/// Which files of the workspace a task reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// Files and folders by name.
    pub literals: Vec<Literal>,
    /// Files by form.
    pub globs: Vec<Pattern>,
    /// What is left out of all of these, with everything below.
    pub excludes: Vec<Pattern>,
    /// Whether the member's files are inputs that git does not ignore and no task makes.
    pub default: bool,
}

/// A source by name.
#[derive(Debug, Clone)]
pub struct Literal {
    /// Relative to the workspace root; empty for all of it.
    pub path: Text,
    /// Where it is written.
    pub place: Place,
    /// Whether tasks make something below it, so that it need not exist.
    pub made_below: bool,
}

impl PartialEq for Literal {
    /// Equal work may be written at different places.
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Literal {}

impl Recipe {
    /// A process as its arguments say, without what only its workfile does: where it stands there, and from what its inputs
    /// are made.
    pub(crate) fn of_process(name: Text, spec: &ProcessSpec, policy: Arc<Policy>) -> Self {
        Self {
            // It has some: without, it would be a group.
            steps: vec![vec![]; spec.steps.len()],
            outputs: spec.outputs.clone(),
            policy,
            tier: spec.tier,
            network: spec.network,
            secret_env: spec.secrets.clone(),
            ..Self::named(name, Act::Process)
        }
    }

    /// A task of another workflow, awaited as a success.
    pub(crate) fn of_external(name: Text, id: TaskId) -> Self {
        Self::named(name, Act::Await { id, branch: Branch::Ok })
    }

    fn named(name: Text, act: Act) -> Self {
        Self {
            task: name.clone(),
            name,
            member: 0,
            variant: vec![],
            description: None,
            tags: [].into(),
            place: Place::default(),
            key_places: [].into(),
            templates_in: [].into(),
            act,
            urls: [].into(),
            steps: vec![],
            env: BTreeMap::new(),
            pass_env: vec![],
            secret_env: vec![],
            dir: "".into(),
            stdin: None,
            stdout: None,
            depfile: None,
            tools: vec![],
            sources: Sources::default(),
            from: vec![],
            printed: vec![],
            needs: vec![],
            after: vec![],
            outputs: vec![],
            policy: Arc::default(),
            tier: Tier::Ns,
            network: false,
            publish: false,
            params: [].into(),
            lacks: vec![],
            env_files: vec![],
            left_out: None,
            without: vec![],
        }
    }

    /// Whether it only stands for what it needs.
    pub fn is_group(&self) -> bool {
        self.steps.is_empty() && self.act == Act::Process
    }

    /// Whether it runs in the workspace itself: what it reads and writes stands there for all to see, and nobody has to put
    /// its outputs in place.
    pub fn works_in_the_workspace(&self) -> bool {
        self.runs() && self.act == Act::Process && self.tier != Tier::Ns
    }

    /// Whether it goes on while those that need it run.
    pub fn is_service(&self) -> bool {
        matches!(self.act, Act::Service(_))
    }

    /// Recipes it takes something from, some of them perhaps twice.
    pub fn reads(&self) -> impl Iterator<Item = usize> {
        let stdin = self.stdin.iter().filter_map(|stdin| match stdin {
            Stdin::Task { producer, .. } => Some(*producer),
            // What is printed stands in `printed`.
            Stdin::Source(_) | Stdin::Printed(_) => None,
        });
        let printed = self.printed.iter().map(|(_, producer)| *producer);
        self.needs.iter().copied().chain(self.from.iter().map(|from| from.producer)).chain(printed).chain(stdin)
    }

    /// Whether it is a task of the workflow: neither a group nor left out.
    pub fn runs(&self) -> bool {
        !self.is_group() && self.left_out.is_none()
    }

    /// Where a key stands; where its name does when the key is not there.
    pub fn key_place(&self, key: &str) -> Place {
        self.key_places.iter().find(|(k, _)| *k == key).map_or(self.place, |(_, place)| *place)
    }

    /// Whether it is the same work as another, whatever they are called. Holds before edges by path are known:
    /// those follow from the inputs.
    pub(crate) fn same_work(&self, other: &Self) -> bool {
        self.steps == other.steps
            && self.act == other.act
            && self.outputs == other.outputs
            && self.sources == other.sources
            && self.needs == other.needs
            && self.printed == other.printed
            && self.env == other.env
            && self.pass_env == other.pass_env
            && self.secret_env == other.secret_env
            && self.dir == other.dir
            && self.stdin == other.stdin
            && self.stdout == other.stdout
            && self.depfile == other.depfile
            && self.tools == other.tools
            && self.tier == other.tier
            && self.network == other.network
            && self.policy.when == other.policy.when
            && (!self.sources.default || self.member == other.member)
    }
}
