//! Recipes, source trees and surroundings to a workflow.
//!
//! Pure: the same values give the same tasks on any machine. Unaware of files, and of where sources come from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quipu_store::cid::{BlobId, TreeId};

use super::Loaded;
use super::recipe::{Act, Recipe, Stdin};
use super::vars;
use crate::graph::TaskIdx;
use crate::process::{ProcessError, ProcessSpec, Tier};
use crate::service::ServiceSpec;
use crate::task::{EXTERNAL, FETCH, Node, PROCESS, SERVICE, Task, WAIT, WORKER, When, Work};
use crate::value::{At, Branch, On, Text, Value, ValueError};
use crate::worker;
use crate::workflow::{DuplicateName, Workflow};

/// Where tasks look for programs, unless their `env` says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every process task sees unless it says otherwise.
const ENV: [(&str, &str); 6] = [
    ("PATH", DEFAULT_PATH),
    ("LANG", "C.UTF-8"),
    ("LC_ALL", "C.UTF-8"),
    ("TZ", "UTC"),
    // The first day that zip files can tell.
    ("SOURCE_DATE_EPOCH", "315532800"),
    ("TMPDIR", "/tmp"),
];

/// A tool as a task means it: another task may mean another program by the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolAt {
    /// Its name; one with a slash is a path.
    pub name: Text,
    /// Where it is looked for: the `PATH` of the task, or the folder, relative to the workspace, that a path starts in.
    pub within: Text,
}

/// What of outside the workspace goes into tasks.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The caller's environment, of which tasks see what their `pass-env` names.
    pub env: BTreeMap<String, String>,
    /// Content of the tools that tasks name.
    pub tools: BTreeMap<ToolAt, BlobId>,
    /// Operating system and processor, as in ids.
    pub platform: (Text, Text),
}

/// Why recipes make no workflow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkflowError {
    /// A tool whose content is not known.
    #[error("task `{task}` names the tool `{tool}`, which was not found")]
    Tool {
        /// Which task.
        task: Text,
        /// Which tool.
        tool: Text,
    },
    /// Not as many trees as recipes.
    #[error("{recipes} recipes have {sources} trees of sources")]
    Sources {
        /// How many recipes there are.
        recipes: usize,
        /// How many trees were given.
        sources: usize,
    },
    /// Two recipes of one name.
    #[error(transparent)]
    Duplicate(#[from] DuplicateName),
    /// Arguments without canonical form.
    #[error("task `{task}`: {source}")]
    Args {
        /// Which task.
        task: Text,
        /// Why.
        source: ProcessError,
    },
}

impl Loaded {
    /// The workflow of all recipes that run, each with the tree of its sources; `None` is no sources.
    pub fn workflow(&self, sources: &[Option<TreeId>], surroundings: &Surroundings) -> Result<Workflow, WorkflowError> {
        if sources.len() != self.recipes.len() {
            return Err(WorkflowError::Sources { recipes: self.recipes.len(), sources: sources.len() });
        }
        let mut workflow = Workflow::with_capacity(self.recipes.len());
        let outputs: At = ["outputs".into()].into();
        let cmd: Text = PROCESS.into();
        let env: BTreeMap<Text, Text> = ENV.iter().map(|(k, v)| (Text::from(*k), Text::from(*v))).collect();
        let spec_alone = |i: usize| self.spec(&self.recipes[i], sources[i], surroundings, &env, &outputs);
        // Each service stands by itself: which of them need which says nothing that they do not say together.
        let spec = |i: usize| {
            let mut spec = spec_alone(i)?;
            let services = self.all_services(&self.recipes[i]);
            let args = |s: usize| service_args(&self.recipes[s], &spec_alone(s)?);
            spec.services = services.into_iter().map(args).collect::<Result<_, _>>()?;
            Ok::<_, WorkflowError>(spec)
        };
        for (i, recipe) in self.recipes.iter().enumerate().filter(|(_, recipe)| recipe.runs()) {
            let fail = |source| WorkflowError::Args { task: recipe.name.clone(), source };
            if let Act::Await { id, branch } = recipe.act {
                let work = Work::External { id, branch };
                let policy = Arc::clone(&recipe.policy);
                workflow.add_node(Node { name: recipe.name.clone(), work, policy, after: Box::default() })?;
                continue;
            }
            let (cmd, args) = match &recipe.act {
                Act::Process => (cmd.clone(), spec(i)?.to_args().map_err(fail)?),
                Act::Service(_) => (SERVICE.into(), service_args(recipe, &spec(i)?)?),
                Act::Await { .. } => unreachable!("it is no task of this workflow"),
                Act::Wait(spec) => (WAIT.into(), spec.to_args()),
                Act::Worker(argv) => {
                    let process = spec(i)?.to_args().map_err(fail)?;
                    (WORKER.into(), worker::to_args(&process, argv).map_err(|e| fail(e.into()))?)
                }
                Act::Fetch(spec) => (FETCH.into(), spec.to_args()),
                Act::External => {
                    (EXTERNAL.into(), self.external(recipe, sources[i], &outputs).map_err(|e| fail(e.into()))?)
                }
            };
            // Equal work that depends on what becomes of other tasks is not one task.
            let nonce = match recipe.policy.when {
                When::Success => Box::default(),
                when => format!("{} {}", when.name(), recipe.name).into_bytes().into(),
            };
            let task = Task { sub: self.subject.clone(), cmd, args, nonce };
            workflow.add_node(Node {
                name: recipe.name.clone(),
                work: Work::Task(task),
                policy: Arc::clone(&recipe.policy),
                after: recipe.after.iter().copied().chain(self.services(recipe)).map(|i| self.at(i)).collect(),
            })?;
        }
        Ok(workflow)
    }

    fn at(&self, recipe: usize) -> TaskIdx {
        self.node(recipe).expect("groups were replaced, and what is left out was taken away")
    }

    /// Under what an input of everything a task makes stands: its first output, which no other task has; names
    /// are not part of ids, so one is taken only for a task that makes nothing.
    pub(super) fn needs_key(&self, recipe: usize) -> Text {
        let recipe = &self.recipes[recipe];
        let first = recipe.outputs.iter().map(|o| &o.path).min();
        format!("@{}", first.unwrap_or(&recipe.name)).into()
    }

    /// What comes from other tasks, by where it is found.
    fn inputs<'a>(&'a self, recipe: &'a Recipe, outputs: &'a At) -> impl Iterator<Item = (Text, Value)> + 'a {
        let gives = recipe.needs.iter().filter(|i| !self.recipes[**i].is_service());
        let needs = gives.map(|i| (self.needs_key(*i), self.part(*i, outputs)));
        needs.chain(recipe.from.iter().map(|from| (from.path.clone(), self.part(from.producer, &from.at))))
    }

    fn part(&self, producer: usize, at: &At) -> Value {
        Value::promise_at(Branch::Ok, On::Here(self.at(producer)), Arc::clone(at))
    }

    /// The arguments of a task that is done elsewhere: what it is called, since nothing else may tell it from others.
    fn external(&self, recipe: &Recipe, sources: Option<TreeId>, outputs: &At) -> Result<Value, ValueError> {
        let sources = sources.map(|tree| ("".into(), tree.link().into()));
        Value::map([
            ("name", Value::Text(recipe.name.clone())),
            ("inputs", Value::map(self.inputs(recipe, outputs).chain(sources))?),
            ("outputs", Value::list(recipe.outputs.iter().map(|o| Value::Text(o.path.clone())))),
        ])
    }

    /// A text of a recipe, with promises in place of what tasks will print.
    fn value(&self, recipe: &Recipe, text: &Text) -> Value {
        if !vars::is_promised(text) {
            return Value::Text(text.clone());
        }
        let parts = vars::parts(text).enumerate().filter(|(_, part)| !part.is_empty());
        let mut parts = parts.map(|(i, part)| if i % 2 == 0 { part.into() } else { self.printed(recipe, part) });
        match (parts.next(), parts.next()) {
            (Some(only), None) => only,
            (first, second) => Value::list(first.into_iter().chain(second).chain(parts)),
        }
    }

    /// The promise on what a task prints: to its own file, if it has one; or on the outcome that is awaited of it.
    fn printed(&self, recipe: &Recipe, selector: &str) -> Value {
        let found = recipe.printed.iter().find(|(known, _)| **known == *selector);
        let (_, task) = found.expect("every selector in a text was looked up");
        let (_, of) = vars::of(selector);
        if of != Branch::Ok {
            return Value::promise(of, On::Here(self.at(*task)), [""; 0]);
        }
        let at: Vec<Text> = match &self.recipes[*task].stdout {
            Some(path) => vec!["outputs".into(), path.clone()],
            None => vec!["stdout".into()],
        };
        Value::promise(Branch::Ok, On::Here(self.at(*task)), at)
    }

    /// The services that a recipe needs itself.
    fn services<'a>(&'a self, recipe: &'a Recipe) -> impl Iterator<Item = usize> + 'a {
        recipe.needs.iter().copied().filter(|i| self.recipes[*i].is_service())
    }

    /// All services that run while a recipe does, those included that others of them need.
    fn all_services(&self, recipe: &Recipe) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        let mut open: Vec<usize> = self.services(recipe).collect();
        while let Some(i) = open.pop() {
            if all.insert(i) {
                open.extend(self.services(&self.recipes[i]));
            }
        }
        all
    }

    /// The tools of a recipe, and where each is looked for; `env` is the caller's environment.
    pub fn tools_of<'r>(
        &self,
        recipe: &'r Recipe,
        env: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = ToolAt> + use<'r> {
        let passed = recipe.pass_env.iter().any(|name| &**name == "PATH").then(|| env.get("PATH")).flatten();
        let path = recipe.env.get("PATH").cloned().or_else(|| passed.map(|path| path.as_str().into()));
        let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
        let dir: Text = self.members[recipe.member].dir.as_str().into();
        recipe.tools.iter().map(move |name| {
            let within = if name.contains('/') { &dir } else { &path };
            ToolAt { name: name.clone(), within: within.clone() }
        })
    }

    fn spec(
        &self,
        recipe: &Recipe,
        sources: Option<TreeId>,
        surroundings: &Surroundings,
        env: &BTreeMap<Text, Text>,
        outputs: &At,
    ) -> Result<ProcessSpec, WorkflowError> {
        let mut env = env.clone();
        let home = if recipe.tier == Tier::Ns { "/home" } else { "/nonexistent" };
        env.insert("HOME".into(), home.into());
        for name in &recipe.pass_env {
            if let Some(value) = surroundings.env.get(&**name) {
                env.insert(name.clone(), value.as_str().into());
            }
        }
        let secrets: BTreeSet<Text> = recipe.secret_env.iter().cloned().collect();
        env.retain(|name, _| !secrets.contains(name));
        env.extend(recipe.env.iter().map(|(k, v)| (k.clone(), v.clone())));
        let tools = self.tools_of(recipe, &surroundings.env).map(|tool| match surroundings.tools.get(&tool) {
            Some(id) => Ok((tool.name, *id)),
            None => Err(WorkflowError::Tool { task: recipe.name.clone(), tool: tool.name }),
        });
        Ok(ProcessSpec {
            steps: recipe.steps.iter().map(|argv| argv.iter().map(|text| self.value(recipe, text)).collect()).collect(),
            env: env.into_iter().map(|(k, v)| (k, self.value(recipe, &v))).collect(),
            dir: recipe.dir.clone(),
            stdin: recipe.stdin.as_ref().map(|stdin| match stdin {
                Stdin::Source(path) => Value::Text(path.clone()),
                Stdin::Printed(task) => self.printed(recipe, task),
                Stdin::Task { producer, at } => self.part(*producer, at),
            }),
            stdout: recipe.stdout.clone(),
            depfile: recipe.depfile.clone(),
            sources,
            inputs: self.inputs(recipe, outputs).collect(),
            outputs: recipe.outputs.clone(),
            platform: surroundings.platform.clone(),
            tools: tools.collect::<Result<_, _>>()?,
            tier: recipe.tier,
            network: recipe.network,
            secrets: secrets.into_iter().collect(),
            services: vec![],
        })
    }
}

/// The arguments of a recipe that is a service, whose process this is.
fn service_args(recipe: &Recipe, process: &ProcessSpec) -> Result<Value, WorkflowError> {
    let Act::Service(ready) = &recipe.act else { unreachable!("only services are asked for theirs") };
    let process = process.to_args();
    let process = process.map_err(|source| WorkflowError::Args { task: recipe.name.clone(), source })?;
    Ok(ServiceSpec { process, ready: ready.clone() }.to_args())
}
