//! What of a workspace is to be worked out after a few of its files changed: the tasks that read or made these and all that
//! follow from them, with what stands just above as tasks of another workflow, known by their ids.
//!
//! Reads the parts that a run wrote which found all settled, and of the workspace the files of those tasks. Every doubt is
//! `None`: then the whole workspace is read.

use std::collections::hash_map;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use quipu_store::cid::{BlobId, ReceiptId, TaskId};
use quipu_store::flat::Reader;
use quipu_store::glance::Parts;
use quipu_store::stamp::{FileKind, Stamp};
use quipu_store::stat_index::StatIndex;
use quipu_store::tree::Entry;
use quipu_store::tree_build::tree_of;

use super::compiled::{ALONE, EXEC, FILE, KEY_BYTES, LIST, NO_LIST, STANDS, SYMLINK, key};
use super::{Files, Project, Row, scan};
use crate::graph::TaskIdx;
use crate::process::ProcessSpec;
use crate::run::step::{End, State};
use crate::run::{Run, Subject};
use crate::task::{Node, Policy, Task, Work};
use crate::value::{Branch, On, Text, Value};
use crate::workfile::{Loaded, Looked, Recipe, SourceList};
use crate::workflow::Workflow;
use crate::workflow_block;

/// Parts before those of lists: the graph, and what logs say.
const LISTS_FROM: usize = 2;
/// With more tasks than this to be worked out, reading the whole workspace takes no longer.
const MAX_TASKS: usize = 20_000;

/// Part of a workspace, made into tasks.
#[derive(Debug)]
pub struct Excerpt {
    /// What is to be worked out, and what stands above it.
    pub project: Arc<Project>,
    /// How many tasks the workspace has beside those that are worked out.
    pub others: usize,
    /// The names of all tasks, which are what the run is for.
    pub goals: Vec<Text>,
    /// What the run's log says of all tasks before it says anything else.
    pub log: Vec<u8>,
    /// What stands above, with the receipt each task is settled by.
    standing: Vec<(TaskIdx, ReceiptId)>,
}

/// A task as its part has it.
struct Known {
    name: Text,
    id: TaskId,
    receipt: ReceiptId,
    alone: Option<Alone>,
}

/// What it takes to work a task out.
struct Alone {
    list: u32,
    awaits: Vec<u32>,
    after: Vec<u32>,
    task: Task,
    policy: Arc<Policy>,
}

impl Excerpt {
    /// Works out what follows from changes to these files of the workspace at `root`, of whose tasks, `tasks` different
    /// ones, `parts` says what they were when all were settled.
    pub fn open(parts: &Parts, changed: &[PathBuf], tasks: usize, root: &Path, index: &mut StatIndex) -> Option<Self> {
        let graph = parts.part(0)?;
        let graph = Graph::read(&graph)?;
        let concerned = graph.concerned(changed)?;
        if concerned.is_empty() || concerned.len() > MAX_TASKS {
            return None;
        }
        let part = |task: u32| parts.part(LISTS_FROM + graph.lists() + task as usize);
        let mut known: BTreeMap<u32, Known> = BTreeMap::new();
        let mut above = BTreeSet::new();
        for task in &concerned {
            let read = Known::read(&part(*task)?, true)?;
            let alone = read.alone.as_ref()?;
            above.extend(alone.awaits.iter().chain(&alone.after).filter(|task| !concerned.contains(task)));
            known.insert(*task, read);
        }
        let worked_out: HashSet<TaskId> = known.values().map(|known| known.id).collect();
        for task in above {
            known.insert(task, Known::read(&part(task)?, false)?);
        }
        let others = tasks.checked_sub(worked_out.len())?;
        let mut lists: HashMap<u32, SourceList> = HashMap::from([(NO_LIST, [].into())]);
        let mut sources = Sources::of(changed)?;
        for alone in known.values().filter_map(|known| known.alone.as_ref()) {
            if let hash_map::Entry::Vacant(list) = lists.entry(alone.list) {
                let part = Some(alone.list as usize).filter(|list| *list < graph.lists())?;
                list.insert(sources.read(&parts.part(LISTS_FROM + part)?)?);
            }
        }
        let standing = known.values().enumerate().filter(|(_, known)| known.alone.is_none());
        let standing = standing.map(|(i, known)| (TaskIdx::new(i), known.receipt)).collect();
        let project = Arc::new(project(known, &lists, sources, root, index)?);
        let goals = std::str::from_utf8(graph.names).ok()?.split('\0').map(Text::from).collect();
        Some(Self { project, others, goals, log: parts.part(1)?, standing })
    }

    /// The tasks that are worked out.
    pub fn tasks(&self) -> Vec<TaskIdx> {
        let above: HashSet<TaskIdx> = self.standing.iter().map(|(task, _)| *task).collect();
        self.project.subject.workflow.indices().filter(|task| !above.contains(task)).collect()
    }

    /// Whether what was looked at of what stands above is settled by the receipts that settled it before, and is not missed.
    pub fn stands(&self, run: &Run) -> bool {
        !run.misses_others()
            && self.standing.iter().all(|(task, receipt)| match run.state(*task) {
                State::Ended(End::Cached) => run.receipt(*task) == Some(*receipt),
                State::Idle | State::Ended(End::Cancelled) => true,
                _ => false,
            })
    }

    /// What stands above and was not looked at, with the receipt each is settled by.
    pub fn unseen(&self, run: &Run) -> Vec<(TaskId, ReceiptId)> {
        let idle = self.standing.iter().filter(|(task, _)| run.state(*task) == State::Idle);
        idle.map(|(task, receipt)| (self.project.subject.ids.of(*task), *receipt)).collect()
    }
}

/// The first part.
struct Graph<'b> {
    downstream: Rows<'b>,
    users: Rows<'b>,
    owners: &'b [u8],
    /// Of all tasks, with a NUL between two.
    names: &'b [u8],
}

/// Rows of numbers, one after the other.
struct Rows<'b> {
    starts: &'b [u8],
    items: &'b [u8],
}

fn number(bytes: &[u8], n: usize) -> Option<u32> {
    let at = n.checked_mul(4)?;
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'b> Rows<'b> {
    fn read(reader: &mut Reader<'b>) -> Option<Self> {
        Some(Self { starts: reader.bytes()?, items: reader.bytes()? })
    }

    fn row(&self, n: u32) -> Option<impl Iterator<Item = u32> + use<'b>> {
        let (from, to) = (number(self.starts, n as usize)?, number(self.starts, (n as usize).checked_add(1)?)?);
        let items = self.items.get((from as usize).checked_mul(4)?..(to as usize).checked_mul(4)?)?;
        Some(items.chunks_exact(4).map(|item| u32::from_le_bytes(item.try_into().expect("four bytes"))))
    }
}

impl<'b> Graph<'b> {
    fn read(bytes: &'b [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (downstream, users) = (Rows::read(&mut reader)?, Rows::read(&mut reader)?);
        let (owners, names) = (reader.bytes()?, reader.bytes()?);
        reader.0.is_empty().then_some(Self { downstream, users, owners, names })
    }

    fn lists(&self) -> usize {
        (self.users.starts.len() / 4).saturating_sub(1)
    }

    /// Tasks that read or made something of what changed, and all that follow from them; `None` when nobody did.
    fn concerned(&self, changed: &[PathBuf]) -> Option<BTreeSet<u32>> {
        let mut open = vec![];
        for path in changed {
            let path = path.to_str()?;
            let before = open.len();
            self.owners(path, &mut open)?;
            // Of a directory that a task made, the task is known.
            let mut dir = path;
            while let Some((parent, _)) = dir.rsplit_once('/') {
                self.owners(parent, &mut open)?;
                dir = parent;
            }
            if open.len() == before {
                return None;
            }
        }
        let mut concerned = BTreeSet::new();
        while let Some(task) = open.pop() {
            if concerned.insert(task) {
                open.extend(self.downstream.row(task)?);
            }
        }
        Some(concerned)
    }

    fn owners(&self, path: &str, out: &mut Vec<u32>) -> Option<()> {
        const ROW: usize = KEY_BYTES + 4;
        let key = key(path);
        let row = |n: usize| &self.owners[n * ROW..][..ROW];
        let (mut low, mut high) = (0, self.owners.len() / ROW);
        let count = high;
        while low < high {
            let middle = low.midpoint(high);
            if row(middle)[..KEY_BYTES] < key[..] { low = middle + 1 } else { high = middle }
        }
        for row in (low..count).map(row).take_while(|row| row[..KEY_BYTES] == key) {
            match number(&row[KEY_BYTES..], 0)? {
                list if list & LIST != 0 => out.extend(self.users.row(list & !LIST)?),
                task => out.push(task),
            }
        }
        Some(())
    }
}

impl Known {
    fn read(bytes: &[u8], to_work_out: bool) -> Option<Self> {
        let mut reader = Reader(bytes);
        let flags = reader.number(1)? as u8;
        let name = Text::from(std::str::from_utf8(reader.bytes()?).ok()?);
        let id = TaskId::from_digest(reader.take(32)?.try_into().ok()?);
        let receipt = ReceiptId::from_digest(reader.take(32)?.try_into().ok()?);
        let needed = if to_work_out { ALONE } else { STANDS };
        if flags & needed == 0 {
            return None;
        }
        let alone = if to_work_out { Some(Alone::read(&mut reader)?) } else { None };
        Some(Self { name, id, receipt, alone })
    }
}

impl Alone {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let list = reader.number(4)? as u32;
        let numbers = |bytes: &[u8]| (0..bytes.len() / 4).map(|n| number(bytes, n)).collect::<Option<Vec<_>>>();
        let (awaits, after) = (numbers(reader.bytes()?)?, numbers(reader.bytes()?)?);
        let (task, policy) = workflow_block::read_node(reader.bytes()?)?;
        Some(Self { list, awaits, after, task, policy })
    }
}

/// The source files of tasks that are worked out.
struct Sources<'c> {
    /// What looks different.
    changed: HashSet<&'c str>,
    /// Those of that: they are looked at again, and read.
    again: Vec<Text>,
    /// All others. How each looks was seen a moment ago, when it was compared with how it looked when it was known what it holds:
    /// to look once more would tell no more. What is done to one from then on shows at the second look, after the task.
    same: Vec<Row>,
}

impl<'c> Sources<'c> {
    fn of(changed: &'c [PathBuf]) -> Option<Self> {
        let changed = changed.iter().map(|path| path.to_str()).collect::<Option<_>>()?;
        Some(Self { changed, again: vec![], same: vec![] })
    }

    /// Reads the part of a list.
    fn read(&mut self, bytes: &[u8]) -> Option<SourceList> {
        let mut reader = Reader(bytes);
        let mut paths = vec![];
        while !reader.0.is_empty() {
            let path = Text::from(std::str::from_utf8(reader.bytes()?).ok()?);
            let (entry, stamp) = read_source(&mut reader)?;
            if self.changed.contains(&*path) {
                self.again.push(path.clone());
            } else {
                self.same.push(Row { path: path.clone(), entry, stamp });
            }
            paths.push(path);
        }
        Some(paths.into())
    }
}

fn read_source(reader: &mut Reader<'_>) -> Option<(Entry, Stamp)> {
    enum Is<'b> {
        File(BlobId, bool),
        Symlink(&'b str),
    }
    let is = match reader.number(1)? as u8 {
        flags @ (FILE | EXEC) => Is::File(BlobId::from_digest(reader.take(32)?.try_into().ok()?), flags == EXEC),
        SYMLINK => Is::Symlink(std::str::from_utf8(reader.bytes()?).ok()?),
        _ => return None,
    };
    let (dev, ino, size) = (reader.number(8)?, reader.number(8)?, reader.number(8)?);
    let (mtime_ns, ctime_ns) = (reader.number(8)?.cast_signed(), reader.number(8)?.cast_signed());
    let (entry, mode_exec, kind) = match is {
        Is::File(blob, exec) => (Entry::File { blob, size, exec }, exec, FileKind::File),
        Is::Symlink(target) => (Entry::Symlink { target: target.into() }, false, FileKind::Symlink),
    };
    Some((entry, Stamp { dev, ino, size, mtime_ns, ctime_ns, mode_exec, kind }))
}

/// Makes tasks of what is known, with the files of those that are worked out as they are now.
fn project(
    known: BTreeMap<u32, Known>,
    lists: &HashMap<u32, SourceList>,
    sources: Sources<'_>,
    root: &Path,
    index: &mut StatIndex,
) -> Option<Project> {
    let places: HashMap<u32, TaskIdx> = known.keys().enumerate().map(|(i, task)| (*task, TaskIdx::new(i))).collect();
    let by_id: HashMap<TaskId, TaskIdx> = known.iter().map(|(task, known)| (known.id, places[task])).collect();
    let mut own = vec![];
    let mut recipes = vec![];
    for known in known.values() {
        let (list, recipe) = match &known.alone {
            None => ([].into(), Recipe::of_external(known.name.clone(), known.id)),
            Some(alone) => {
                let spec = ProcessSpec::from_args(&alone.task.args).ok()?;
                let recipe = Recipe::of_process(known.name.clone(), &spec, alone.policy.clone());
                (lists.get(&alone.list)?.clone(), recipe)
            }
        };
        own.push(list);
        recipes.push(recipe);
    }
    let loaded = Loaded::of_recipes(root.to_owned(), recipes);
    let mut rows = scan(index, &loaded, &[sources.again.into()]).ok()?;
    rows.extend(sources.same);
    let files = Files::of(rows);
    let mut workflow = Workflow::new();
    for (known, list) in known.into_values().zip(&own) {
        let Some(Alone { after, task, policy, .. }) = known.alone else {
            workflow.add_external(known.name, known.id).ok()?;
            continue;
        };
        let args = task.args.resolved(&mut |promise| {
            let On::Id(id) = promise.on else { return Err(()) };
            let on = On::Here(*by_id.get(&id).ok_or(())?);
            Ok(Value::promise_at(Branch::Ok, on, promise.at.clone()))
        });
        let mut args = args.ok()?;
        if !list.is_empty() {
            let entries =
                list.iter().map(|path| Some((&**path, &files.get(path)?.entry))).collect::<Option<Vec<_>>>()?;
            let (tree, _) = tree_of(None, entries.into_iter()).ok()?;
            args = with_sources(&args, tree.link().into())?;
        }
        let after = after.iter().map(|task| places.get(task).copied()).collect::<Option<_>>()?;
        workflow.add_node(Node { name: known.name, work: Work::Task(Task { args, ..task }), policy, after }).ok()?;
    }
    let recipes = (0..workflow.len()).collect();
    let subject = Arc::new(Subject::new(workflow).ok()?);
    let (looked, tool_candidates, machine) = (Looked::default(), BTreeSet::new(), Mutex::new(None));
    Some(Project { loaded, subject, recipes, lists: own, looked, files, tool_candidates, machine })
}

/// Arguments with another tree in the place of the one they have.
fn with_sources(args: &Value, tree: Value) -> Option<Value> {
    let Value::Map(pairs) = args else { return None };
    let mut pairs = pairs.to_vec();
    let (_, inputs) = pairs.iter_mut().find(|(key, _)| &**key == "inputs")?;
    let Value::Map(all) = &*inputs else { return None };
    let mut all = all.to_vec();
    all.iter_mut().find(|(key, _)| key.is_empty())?.1 = tree;
    *inputs = Value::Map(all.into());
    Some(Value::Map(pairs.into()))
}
