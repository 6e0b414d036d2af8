//! Identity: the ids of tasks and invocations, and the ingredients they are made of.
//!
//! One writer trait with two implementations: [`Encoder`] makes the bytes that are hashed, [`Listing`] the
//! lines that `explain` shows; both are fed by the same code, so what is shown is what was hashed. Unaware
//! of stores and of where values come from.

use std::fmt::Write as _;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use quipu_store::cid::{InvocationId, Link, TaskId};
use quipu_store::dag::DagError;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::canon::{self, Encoder, MAX_TASK_BYTES};
use crate::graph::{Graph, TaskIdx};
use crate::task::{Invocation, Task, Work};
use crate::value::{On, Text, Value};
use crate::workflow::Workflow;

/// Takes the parts of a value in canonical order.
pub trait Ingredients {
    /// Nothing.
    fn null(&mut self);
    /// True or false.
    fn bool(&mut self, value: bool);
    /// An integer.
    fn int(&mut self, value: i64);
    /// Text.
    fn text(&mut self, value: &str);
    /// Bytes.
    fn bytes(&mut self, value: &[u8]);
    /// A link to a block.
    fn link(&mut self, value: Link);
    /// The start of a list of so many items.
    fn list(&mut self, len: usize);
    /// The start of a map of so many pairs.
    fn map(&mut self, len: usize);
    /// The key of the next value in a map.
    fn key(&mut self, key: &str);
    /// The end of the innermost list or map.
    fn end(&mut self);
}

/// Feeds `value` to `writer`, each promise by the id of the task it waits for.
pub fn feed<W: Ingredients>(value: &Value, writer: &mut W, id_of: &impl Fn(On) -> TaskId) {
    match value {
        Value::Null => writer.null(),
        Value::Bool(b) => writer.bool(*b),
        Value::Int(n) => writer.int(*n),
        Value::Text(t) => writer.text(t),
        Value::Bytes(b) => writer.bytes(b),
        Value::Link(link) => writer.link(**link),
        Value::List(items) => {
            writer.list(items.len());
            items.iter().for_each(|v| feed(v, writer, id_of));
            writer.end();
        }
        Value::Map(pairs) => {
            writer.map(pairs.len());
            for (key, v) in pairs.iter() {
                writer.key(key);
                feed(v, writer, id_of);
            }
            writer.end();
        }
        Value::AwaitHere(..) | Value::AwaitId(_) => {
            let promise = value.as_promise().expect("these are the promises");
            let plain = |writer: &mut W| one(writer, promise.branch.key(), |w| w.link(id_of(promise.on).link()));
            if promise.at.is_empty() {
                plain(writer);
            } else {
                one(writer, "quipu/at", |writer| {
                    writer.list(1 + promise.at.len());
                    plain(writer);
                    promise.at.iter().for_each(|part| writer.text(part));
                    writer.end();
                });
            }
        }
    }
}

fn one<W: Ingredients>(writer: &mut W, key: &str, value: impl FnOnce(&mut W)) {
    writer.map(1);
    writer.key(key);
    value(writer);
    writer.end();
}

/// Feeds the quadruple `{sub, cmd, args, nonce}`, keys in canonical order.
fn feed_quadruple(
    (sub, cmd, args, nonce): (&str, &str, &Value, &[u8]),
    writer: &mut impl Ingredients,
    id_of: &impl Fn(On) -> TaskId,
) {
    writer.map(4);
    writer.key("cmd");
    writer.text(cmd);
    writer.key("sub");
    writer.text(sub);
    writer.key("args");
    feed(args, writer, id_of);
    writer.key("nonce");
    writer.bytes(nonce);
    writer.end();
}

/// Feeds a task.
pub fn feed_task(task: &Task, writer: &mut impl Ingredients, id_of: &impl Fn(On) -> TaskId) {
    feed_quadruple((&task.sub, &task.cmd, &task.args, &task.nonce), writer, id_of);
}

/// The ids of a workflow's tasks.
#[derive(Debug, Clone)]
pub struct Ids {
    ids: Vec<TaskId>,
    /// The first task with the same id, by task; nothing when all ids differ.
    first: Vec<TaskIdx>,
    /// By the hash of the id, which stands in `ids`.
    by_id: HashTable<TaskIdx>,
    /// All names of the tasks that have several, by the first.
    names: FxHashMap<TaskIdx, Vec<TaskIdx>>,
}

/// Why a task has no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task `{name}`: {why}")]
pub struct IdentityError {
    /// The task.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

impl Ids {
    /// Computes the id of every task, dependencies first.
    pub fn compute(workflow: &Workflow, graph: &Graph) -> Result<Self, IdentityError> {
        let mut ids = vec![TaskId::from_digest([0; 32]); workflow.len()];
        let mut encoder = Encoder::default();
        for &idx in graph.order() {
            let node = workflow.node(idx);
            ids[idx.index()] = match &node.work {
                Work::External { id, .. } => *id,
                Work::Task(task) => {
                    let fail = |why: String| IdentityError { name: node.name.to_string(), why };
                    task.args.check().map_err(|e| fail(e.to_string()))?;
                    feed_task(task, &mut encoder, &|on| on_id(on, &ids));
                    let bytes = encoder.take();
                    if bytes.len() > MAX_TASK_BYTES {
                        return Err(fail(format!("it takes {} bytes to say, more than {MAX_TASK_BYTES}", bytes.len())));
                    }
                    TaskId::of(&bytes)
                }
            };
        }
        let mut by_id = HashTable::with_capacity(ids.len());
        let mut others = vec![];
        // Who only awaits a task stands for it where nobody here does it.
        let is_here = |i: &TaskIdx| matches!(workflow.node(*i).work, Work::Task(_));
        for i in workflow.indices().filter(is_here).chain(workflow.indices().filter(|i| !is_here(i))) {
            let id = ids[i.index()];
            let known = by_id.entry(hash_of(&id), |j: &TaskIdx| ids[j.index()] == id, |j| hash_of(&ids[j.index()]));
            let first = *known.or_insert(i).get();
            if first != i {
                others.push((first, i));
            }
        }
        // As they are written.
        others.sort_unstable_by_key(|(_, i)| *i);
        let mut first: Vec<TaskIdx> = if others.is_empty() { vec![] } else { workflow.indices().collect() };
        let mut names = FxHashMap::<TaskIdx, Vec<TaskIdx>>::default();
        for (of, i) in others {
            first[i.index()] = of;
            names.entry(of).or_insert_with(|| vec![of]).push(i);
        }
        Ok(Self { ids, first, by_id, names })
    }

    /// The id of the task at `idx`.
    pub fn of(&self, idx: TaskIdx) -> TaskId {
        self.ids[idx.index()]
    }

    /// The first task with the same id: the one that stands for all of them.
    pub fn first(&self, idx: TaskIdx) -> TaskIdx {
        self.first.get(idx.index()).copied().unwrap_or(idx)
    }

    /// Every name of a task that has several, given the first; `None` for a task with one name.
    pub fn others(&self, first: TaskIdx) -> Option<&[TaskIdx]> {
        self.names.get(&first).map(Vec::as_slice)
    }

    /// Whether any task has several names.
    pub fn has_synonyms(&self) -> bool {
        !self.names.is_empty()
    }

    /// The task with this id.
    pub fn find(&self, id: TaskId) -> Option<TaskIdx> {
        self.by_id.find(hash_of(&id), |i| self.ids[i.index()] == id).copied()
    }

    /// The task's block.
    pub fn block(&self, task: &Task) -> Vec<u8> {
        let mut encoder = Encoder::default();
        feed_task(task, &mut encoder, &|on| on_id(on, &self.ids));
        encoder.take()
    }

    /// What the task's id is made of.
    pub fn listing(&self, task: &Task) -> Listing {
        let mut listing = Listing::default();
        feed_task(task, &mut listing, &|on| on_id(on, &self.ids));
        listing
    }
}

fn hash_of(id: &TaskId) -> u64 {
    FxBuildHasher.hash_one(id)
}

fn on_id(on: On, ids: &[TaskId]) -> TaskId {
    match on {
        On::Here(idx) => ids[idx.index()],
        On::Id(id) => id,
    }
}

impl Invocation {
    /// The invocation's id and block.
    pub fn encode(&self) -> (InvocationId, Vec<u8>) {
        let mut encoder = Encoder::default();
        feed_quadruple((&self.sub, &self.cmd, &self.args, &self.nonce), &mut encoder, &no_promise);
        let bytes = encoder.take();
        (InvocationId::of(&bytes), bytes)
    }
}

fn no_promise(_: On) -> TaskId {
    unreachable!("an invocation holds no promise: `resolved` replaced them all")
}

/// Reads a task or invocation block, with its promises by id.
pub fn decode_task(bytes: &[u8]) -> Result<Task, DagError> {
    task_of(&canon::decode(bytes)?)
}

/// The task that a value is.
pub fn task_of(value: &Value) -> Result<Task, DagError> {
    let shape = |what: &str| DagError::Shape(format!("task block: {what}"));
    let text = |key| match value.get(key) {
        Some(Value::Text(text)) => Ok(text.clone()),
        _ => Err(shape(key)),
    };
    let Value::Map(pairs) = value else { return Err(shape("not a map")) };
    let Some(Value::Bytes(nonce)) = value.get("nonce") else { return Err(shape("nonce")) };
    if pairs.len() != 4 {
        return Err(shape("not exactly sub, cmd, args and nonce"));
    }
    let args = value.get("args").ok_or_else(|| shape("args"))?.clone();
    args.check().map_err(|e| shape(&e.to_string()))?;
    Ok(Task { sub: text("sub")?, cmd: text("cmd")?, args, nonce: (**nonce).into() })
}

/// Ingredients as lines: a path of keys and a short text for each leaf, in the order they are hashed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Path and leaf.
    pub lines: Vec<(String, Leaf)>,
    path: Vec<Step>,
}

/// A leaf of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    /// A link to a block.
    Link(Link),
    /// Text.
    Text(Text),
    /// Anything else, as a person reads it. Kept apart from text: `1` and `"1"` are different ingredients.
    Plain(Text),
}

impl std::fmt::Display for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(link) => write!(f, "{link}"),
            Self::Text(text) | Self::Plain(text) => f.write_str(text),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    List(usize),
    Map(String),
}

impl Listing {
    /// What a decoded task's id is made of: one whose promises name tasks by id.
    pub fn of(task: &Task) -> Self {
        let mut listing = Self::default();
        feed_task(task, &mut listing, &|on| match on {
            On::Id(id) => id,
            On::Here(_) => unreachable!("a decoded task names others by id; use `Ids::listing` for the rest"),
        });
        listing
    }

    fn leaf(&mut self, leaf: Leaf) {
        self.lines.push((self.path(), leaf));
        self.advance();
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            let dot = if path.is_empty() { "" } else { "." };
            let written = match step {
                Step::List(i) => write!(path, "[{i}]"),
                // A key that is a path or empty would read as several.
                Step::Map(key) if key.is_empty() || key.contains(['.', '[', ' ', '"', '\\']) => {
                    write!(path, "{dot}{key:?}")
                }
                Step::Map(key) => write!(path, "{dot}{key}"),
            };
            written.expect("a string takes what is written to it");
        }
        path
    }

    fn advance(&mut self) {
        if let Some(Step::List(i)) = self.path.last_mut() {
            *i += 1;
        }
    }

    fn plain(&mut self, text: String) {
        self.leaf(Leaf::Plain(text.into()));
    }

    fn open(&mut self, len: usize, step: Step, empty: &str) {
        if len == 0 {
            // Shown, since an empty list is not an absent one.
            let leaf = Leaf::Plain(empty.into());
            self.lines.push((self.path(), leaf));
        }
        self.path.push(step);
    }
}

impl Ingredients for Listing {
    fn null(&mut self) {
        self.plain("null".to_owned());
    }

    fn bool(&mut self, value: bool) {
        self.plain(value.to_string());
    }

    fn int(&mut self, value: i64) {
        self.plain(value.to_string());
    }

    fn text(&mut self, value: &str) {
        self.leaf(Leaf::Text(value.into()));
    }

    fn bytes(&mut self, value: &[u8]) {
        self.plain(format!("{} bytes {}", value.len(), Link::of(quipu_store::cid::Codec::Raw, value)));
    }

    fn link(&mut self, value: Link) {
        self.leaf(Leaf::Link(value));
    }

    fn list(&mut self, len: usize) {
        self.open(len, Step::List(0), "[]");
    }

    fn map(&mut self, len: usize) {
        self.open(len, Step::Map(String::new()), "{}");
    }

    fn key(&mut self, key: &str) {
        *self.path.last_mut().expect("a key stands within a map") = Step::Map(key.to_owned());
    }

    fn end(&mut self) {
        self.path.pop();
        self.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::DEFAULT_SUBJECT;
    use crate::value::Branch;

    fn task(args: Value) -> Task {
        Task { sub: DEFAULT_SUBJECT.into(), cmd: "/test/do".into(), args, nonce: Box::default() }
    }

    fn ids(workflow: &Workflow) -> Ids {
        Ids::compute(workflow, &Graph::build(workflow).expect("no ring")).expect("ids")
    }

    fn chain() -> Workflow {
        let mut w = Workflow::new();
        let a = w.add("a", task(Value::map([("n", Value::Int(1))]).expect("map"))).expect("new");
        let promise = Value::promise(Branch::Ok, On::Here(a), ["outputs", "x"]);
        let list = Value::list([Value::map([("deep", promise)]).expect("map"), Value::list([])]);
        w.add("b", task(list)).expect("new");
        w
    }

    #[test]
    fn a_task_block_decodes_to_the_task_with_ids_for_promises() {
        let w = chain();
        let ids = ids(&w);
        let (a, b) = (TaskIdx::new(0), TaskIdx::new(1));
        let Work::Task(task) = &w.node(b).work else { panic!("a task") };
        let block = ids.block(task);
        assert_eq!(TaskId::of(&block), ids.of(b));
        assert!(quipu_store::dag::is_canonical(&block));
        let back = decode_task(&block).expect("decodes");
        let mut seen = vec![];
        back.args.promises(&mut |p| seen.push(p));
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].on, seen[0].branch, seen[0].at.len()), (On::Id(ids.of(a)), Branch::Ok, 2));
        assert_eq!(Listing::of(&back), ids.listing(task), "listed alike before and after");
    }

    #[test]
    fn the_listing_names_every_ingredient() {
        let w = chain();
        let ids = ids(&w);
        let Work::Task(task) = &w.node(TaskIdx::new(1)).work else { panic!("a task") };
        let lines: Vec<String> = ids.listing(task).lines.iter().map(|(p, l)| format!("{p} = {l}")).collect();
        let a = ids.of(TaskIdx::new(0));
        let expect = [
            "cmd = /test/do".to_owned(),
            format!("sub = {DEFAULT_SUBJECT}"),
            format!("args[0].deep.quipu/at[0].await/ok = {a}"),
            "args[0].deep.quipu/at[1] = outputs".to_owned(),
            "args[0].deep.quipu/at[2] = x".to_owned(),
            "args[1] = []".to_owned(),
            format!("nonce = 0 bytes {}", Link::of(quipu_store::cid::Codec::Raw, b"")),
        ];
        assert_eq!(lines, expect);
    }

    #[test]
    fn names_and_order_do_not_matter_but_every_ingredient_does() {
        let base = chain();
        let reference = ids(&base).of(TaskIdx::new(1));
        let mut other = Workflow::new();
        other.add("unrelated", task(Value::Null)).expect("new");
        let a = other.add("renamed", task(Value::map([("n", Value::Int(1))]).expect("map"))).expect("new");
        let promise = |at: [&str; 2]| Value::promise(Branch::Ok, On::Here(a), at);
        let args = |p| Value::list([Value::map([("deep", p)]).expect("map"), Value::list([])]);
        let same = other.add("b2", task(args(promise(["outputs", "x"])))).expect("new");
        let part = other.add("b3", task(args(promise(["outputs", "y"])))).expect("new");
        let computed = ids(&other);
        assert_eq!(computed.of(same), reference);
        assert_ne!(computed.of(part), reference);
        let Work::Task(mut changed) = other.node(same).work.clone() else { panic!("a task") };
        changed.nonce = [1].into();
        assert_ne!(TaskId::of(&computed.block(&changed)), reference);
    }

    #[test]
    fn t22_the_same_task_under_two_names_is_one() {
        let mut w = Workflow::new();
        let x = w.add("x", task(Value::Null)).expect("new");
        let y = w.add("y", task(Value::Null)).expect("new");
        let ids = ids(&w);
        assert_eq!(ids.of(x), ids.of(y));
        assert_eq!((ids.first(x), ids.first(y)), (x, x));
    }

    #[test]
    fn t21_a_plain_link_to_a_tasks_id_is_no_promise() {
        let mut w = Workflow::new();
        let a = w.add("a", task(Value::Null)).expect("new");
        let id = ids(&w).of(a);
        w.add("b", task(Value::list([id.link().into()]))).expect("new");
        let graph = Graph::build(&w).expect("no ring");
        assert_eq!(graph.edges(), 0);
    }
}
