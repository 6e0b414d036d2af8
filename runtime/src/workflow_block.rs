//! A workflow as a block: named tasks with how they are handled, and goals, in one canonical form under one id.
//!
//! Knows the format; unaware of stores and files. The reader takes exactly what the writer makes, from bytes that may
//! come from anywhere. Normative text: `docs/formats/workflow.md`.

mod meta;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use quipu_store::cid::{Codec, Link, TaskId, TreeId};
use quipu_store::dag::DagError;
use quipu_store::tree::Name;

use crate::canon::{self, Encoder, MAX_TASK_BYTES};
use crate::dag_json::{self, DagJsonError};
use crate::graph::TaskIdx;
use crate::identity::{Ids, feed, feed_task, task_of};
use crate::run::{Gates, Subject, SubjectError};
use crate::task::{Node, Policy, SERVICE, Task, Work};
use crate::value::{On, Text, Value};
use crate::workflow::{DuplicateName, Workflow};
use meta::{Meta, meta, read_meta};

/// Version of the format, under this key.
const KIND: &str = "quipu/workflow";
const VERSION: i64 = 1;
/// Longest name of a task, in bytes.
const MAX_NAME_BYTES: usize = 4096;

/// A workflow that was read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Its id.
    pub id: Link,
    /// Its tasks with edges and ids.
    pub subject: Subject,
    /// What is made when nothing else is asked for.
    pub goals: Vec<TaskIdx>,
    /// What it says beside its tasks.
    pub beside: Beside,
}

/// What a workflow says of its tasks that is part of no id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// Which files are in the trees that tasks read.
    pub sources: Sources,
    /// Where tasks that fetch find what they are to fetch, by their names.
    pub urls: BTreeMap<Text, Vec<Text>>,
    /// What must have passed before the outputs of a task are placed: names by the task's name.
    pub checks: BTreeMap<Text, Vec<Text>>,
}

impl Beside {
    /// Those of the goals whose outputs wait for checks, each with these.
    pub fn gates(&self, subject: &Subject, goals: &[TaskIdx]) -> Gates {
        let goals: BTreeSet<TaskIdx> = goals.iter().map(|goal| subject.ids.first(*goal)).collect();
        let find = |name: &Text| subject.workflow.find(name);
        let all = self.checks.iter().filter_map(|(name, checks)| Some((find(name)?, checks)));
        let asked = all.filter(|(task, _)| goals.contains(&subject.ids.first(*task)));
        asked.map(|(task, checks)| (task, checks.iter().filter_map(find).collect())).collect()
    }
}

/// Paths of the files in each tree, ascending.
pub type Sources = BTreeMap<TreeId, Vec<Text>>;

/// Why a block is no workflow, or a workflow has no block.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkflowBlockError {
    /// Not in canonical form, or too large.
    #[error("{0}")]
    Dag(#[from] DagError),
    /// No DAG-JSON.
    #[error("{0}")]
    Json(#[from] DagJsonError),
    /// Not what a workflow is made of.
    #[error("{0}")]
    Shape(String),
    /// Of another version.
    #[error("a workflow of version {0}; this quipu reads version {VERSION}")]
    Version(i64),
    /// A name twice.
    #[error(transparent)]
    Name(#[from] DuplicateName),
    /// Its tasks make no graph.
    #[error(transparent)]
    Subject(#[from] SubjectError),
}

fn shape(what: impl Into<String>) -> WorkflowBlockError {
    WorkflowBlockError::Shape(what.into())
}

/// The block of what `goals` lead to, with its id and with what is said beside about these.
pub fn encode(subject: &Subject, goals: &[TaskIdx], beside: &Beside) -> Result<(Link, Vec<u8>), WorkflowBlockError> {
    let workflow = &subject.workflow;
    let name = |task: TaskIdx| workflow.node(task).name.clone();
    let mut tasks: BTreeMap<Text, Value> = BTreeMap::new();
    let mut trees: BTreeMap<Text, Value> = BTreeMap::new();
    let mut open = goals.to_vec();
    while let Some(task) = open.pop() {
        if tasks.contains_key(&name(task)) {
            continue;
        }
        let node = workflow.node(task);
        if let Some((tree, paths)) = tree_of(&node.work).and_then(|tree| Some((tree, beside.sources.get(&tree)?))) {
            let mut paths = paths.clone();
            paths.sort_unstable();
            paths.dedup();
            trees.insert(tree.to_string().into(), Value::list(paths.into_iter().map(Value::Text)));
        }
        let said = Meta {
            policy: Policy::clone(&node.policy),
            after: node.after.iter().map(|t| name(*t)).collect(),
            checks: beside.checks.get(&node.name).cloned().unwrap_or_default(),
            urls: beside.urls.get(&node.name).cloned().unwrap_or_default(),
        };
        for check in &said.checks {
            let known = || shape(format!("`{check}`, which checks `{}`, is no task", node.name));
            open.push(workflow.find(check).ok_or_else(known)?);
        }
        let pairs = [("run", run(&node.work, &subject.ids))].into_iter();
        tasks.insert(name(task), map(pairs.chain(meta(said).map(|meta| ("meta", meta)))));
        open.extend(subject.graph.awaits(task).iter().chain(&node.after));
    }
    let mut goals: Vec<Text> = goals.iter().map(|t| name(*t)).collect();
    goals.sort_unstable();
    goals.dedup();
    let value = map([
        ("goals", Value::list(goals.into_iter().map(Value::Text))),
        ("tasks", Value::map(tasks).map_err(|e| shape(e.to_string()))?),
        ("sources", Value::map(trees).map_err(|e| shape(e.to_string()))?),
        (KIND, Value::Int(VERSION)),
    ]);
    let bytes = bytes_of(&value);
    if bytes.len() > MAX_TASK_BYTES {
        let found_bytes = bytes.len() as u64;
        return Err(DagError::TooLarge { found_bytes, limit_bytes: MAX_TASK_BYTES as u64 }.into());
    }
    Ok((Link::of(Codec::DagCbor, &bytes), bytes))
}

/// Reads a workflow from bytes that may come from anywhere.
pub fn decode(bytes: &[u8]) -> Result<Read, WorkflowBlockError> {
    let value = canon::decode(bytes)?;
    let read = of_value(&value)?;
    // What has a default and says it, what nothing leads to, goals in another order: there is one form of each workflow.
    let (id, again) = encode(&read.subject, &read.goals, &read.beside)?;
    if again != bytes {
        return Err(shape("it is not in the one form that a workflow has"));
    }
    Ok(Read { id, ..read })
}

/// The block as DAG-JSON: keys sorted, without white space.
pub fn to_json(bytes: &[u8]) -> Result<String, WorkflowBlockError> {
    decode(bytes)?;
    Ok(dag_json::of_value(&canon::decode(bytes)?).to_string())
}

/// The block that a DAG-JSON text of any layout says.
pub fn from_json(text: &[u8]) -> Result<Vec<u8>, WorkflowBlockError> {
    let bytes = bytes_of(&dag_json::read(text)?);
    decode(&bytes)?;
    Ok(bytes)
}

/// Whether bytes begin as a workflow does, and as no other block of quipu.
pub fn looks_like_one(bytes: &[u8]) -> bool {
    bytes.starts_with(quipu_store::car::WORKFLOW_HEAD)
}

fn bytes_of(value: &Value) -> Vec<u8> {
    let mut encoder = Encoder::default();
    feed(value, &mut encoder, &by_id);
    encoder.take()
}

fn by_id(on: On) -> TaskId {
    match on {
        On::Id(id) => id,
        On::Here(_) => unreachable!("promises were written by id"),
    }
}

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::map(pairs).expect("fixed keys are distinct")
}

/// The tree of the files that a task reads, if it reads any.
pub fn tree_of(work: &Work) -> Option<TreeId> {
    match process_of(work)?.get("inputs")?.get("")? {
        Value::Link(link) => (**link).try_into().ok(),
        _ => None,
    }
}

/// The arguments that say what process a task is. A service has them beside what it takes for it to be ready.
pub fn process_of(work: &Work) -> Option<&Value> {
    let Work::Task(task) = work else { return None };
    if *task.cmd == *SERVICE { task.args.get("process") } else { Some(&task.args) }
}

/// A task with its promises by id; a task of another workflow is the promise on it.
fn run(work: &Work, ids: &Ids) -> Value {
    match work {
        Work::External { id, branch } => Value::promise(*branch, On::Id(*id), [""; 0]),
        Work::Task(Task { sub, cmd, args, nonce }) => {
            let by_id = args.resolved::<Infallible>(&mut |promise| {
                let id = match promise.on {
                    On::Here(idx) => ids.of(idx),
                    On::Id(id) => id,
                };
                Ok(Value::promise_at(promise.branch, On::Id(id), promise.at.clone()))
            });
            let Ok(args) = by_id;
            map([
                ("sub", Value::Text(sub.clone())),
                ("cmd", Value::Text(cmd.clone())),
                ("args", args),
                ("nonce", Value::Bytes((**nonce).into())),
            ])
        }
    }
}

/// A task by itself, with its promises by id, and how it is handled.
pub(crate) fn node_bytes(node: &Node, ids: &Ids) -> Vec<u8> {
    let said = Meta { policy: Policy::clone(&node.policy), ..Meta::default() };
    let run = [("run", run(&node.work, ids))].into_iter();
    bytes_of(&map(run.chain(meta(said).map(|meta| ("meta", meta)))))
}

/// The same, read back.
pub(crate) fn read_node(bytes: &[u8]) -> Option<(Task, Arc<Policy>)> {
    let value = canon::decode(bytes).ok()?;
    let said = value.get("meta").map_or(Some(Meta::default()), read_meta)?;
    Some((task_of(value.get("run")?).ok()?, said.policy.into()))
}

fn of_value(value: &Value) -> Result<Read, WorkflowBlockError> {
    match value.get(KIND) {
        Some(Value::Int(VERSION)) => {}
        Some(Value::Int(other)) => return Err(WorkflowBlockError::Version(*other)),
        _ => return Err(shape(format!("it has no `{KIND}`"))),
    }
    let (Some(Value::Map(tasks)), Some(Value::List(goals))) = (value.get("tasks"), value.get("goals")) else {
        return Err(shape("it has no `tasks`, or no `goals`"));
    };
    // By name first, and what is done here before what is only awaited: promises are by id.
    let mut entries = vec![];
    let mut places: BTreeMap<TaskId, TaskIdx> = BTreeMap::new();
    let mut names: BTreeMap<Text, TaskIdx> = BTreeMap::new();
    for (i, (name, entry)) in tasks.iter().enumerate() {
        let wrong = |what: &str| shape(format!("task `{}`: {what}", name.escape_debug()));
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(wrong("that is no name"));
        }
        let idx = TaskIdx::new(i);
        names.insert(name.clone(), idx);
        let (work, id) = match entry.get("run") {
            Some(Value::AwaitId(promise)) if promise.2.is_empty() => {
                let (branch, id, _) = **promise;
                places.entry(id).or_insert(idx);
                (Work::External { id, branch }, None)
            }
            Some(run @ Value::Map(_)) => {
                let task = task_of(run).map_err(|e| wrong(&e.to_string()))?;
                let mut encoder = Encoder::default();
                feed_task(&task, &mut encoder, &by_id);
                (Work::Task(task), Some(TaskId::of(&encoder.take())))
            }
            _ => return Err(wrong("`run` is neither a task nor a promise")),
        };
        if let Some(id) = id {
            places.insert(id, idx);
        }
        entries.push((name, entry, work));
    }
    let mut workflow = Workflow::new();
    let mut beside = Beside { sources: read_sources(value)?, ..Beside::default() };
    for (name, entry, work) in entries {
        let wrong = |what: &str| shape(format!("task `{name}`: {what}"));
        let work = match work {
            Work::Task(task) => {
                let here = task.args.resolved(&mut |promise| {
                    let On::Id(id) = promise.on else { unreachable!("a decoded block names tasks by id") };
                    let on =
                        places.get(&id).ok_or_else(|| wrong(&format!("awaits {id}, which is not among the tasks")))?;
                    let here = Value::promise_at(promise.branch, On::Here(*on), promise.at.clone());
                    Ok::<_, WorkflowBlockError>(here)
                });
                Work::Task(Task { args: here?, ..task })
            }
            external => external,
        };
        let Meta { policy, after, checks, urls } = match entry.get("meta") {
            None => Meta::default(),
            Some(meta) => read_meta(meta).ok_or_else(|| wrong("`meta` has a field of another type"))?,
        };
        for (list, all) in [(urls, &mut beside.urls), (checks, &mut beside.checks)] {
            if !list.is_empty() {
                all.insert(name.clone(), list);
            }
        }
        let after = after.iter().map(|other| {
            names.get(other).copied().ok_or_else(|| wrong(&format!("comes after `{other}`, which is not there")))
        });
        let after = after.collect::<Result<_, _>>()?;
        workflow.add_node(Node { name: name.clone(), work, policy: policy.into(), after })?;
    }
    let goals = goals.iter().map(|goal| {
        let found = goal.as_text().and_then(|goal| names.get(goal));
        found.copied().ok_or_else(|| shape("one of its `goals` is no task of it"))
    });
    let goals: Vec<TaskIdx> = goals.collect::<Result<_, _>>()?;
    if goals.is_empty() {
        return Err(shape("it has no goals"));
    }
    let id = Link { codec: Codec::DagCbor, digest: [0; 32] };
    Ok(Read { id, subject: Subject::new(workflow)?, goals, beside })
}

/// Trees and their files; what no task reads is found when it is written again.
fn read_sources(value: &Value) -> Result<Sources, WorkflowBlockError> {
    let Some(Value::Map(trees)) = value.get("sources") else { return Err(shape("it has no `sources`")) };
    let mut out = Sources::new();
    for (tree, paths) in trees.iter() {
        let wrong = || shape(format!("`sources` of `{}` are no paths of files", tree.escape_debug()));
        let id: TreeId = tree.parse().map_err(|_| wrong())?;
        let Value::List(paths) = paths else { return Err(wrong()) };
        let is_path = |path: &&str| path.len() <= MAX_NAME_BYTES && path.split('/').all(|name| Name::new(name).is_ok());
        let paths = paths.iter().map(|p| p.as_text().filter(is_path).map(Text::from).ok_or_else(wrong));
        out.insert(id, paths.collect::<Result<_, _>>()?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
