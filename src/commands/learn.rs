//! `quipu learn`: runs a task over the whole workspace, traced; proposes what it reads, makes and runs; and makes sure by
//! running it again with nothing else.
//!
//! What the task needs is settled as in any run. The two runs of the task itself are recorded nowhere, and what they write
//! is thrown away.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use quipu_runtime::drive;
use quipu_runtime::exec::process::{Learned, ProcessExecutor};
use quipu_runtime::exec::trace::{self, Traced};
use quipu_runtime::exec::{Done, Executor, Job, sandbox};
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::learn::{Facts, Proposal, propose};
use quipu_runtime::path::is_within;
use quipu_runtime::process::{ProcessSpec, Tier};
use quipu_runtime::run::Rules;
use quipu_runtime::task::{Invocation, PROCESS};
use quipu_runtime::value::{Text, Value};
use quipu_runtime::workfile::{self, Act, DEFAULT_PATH, Recipe};
use quipu_store::receipt::{FailureKind, Output};
use quipu_store::stamp::Stamp;
use quipu_store::tree::{Entry, Tree};
use quipu_store::{Store, StoreError};
use serde_json::json;

use self::table::{Keys, News};
use super::compare::{self, Differing};
use super::{Context, memory, note, print, print_json, run};
use crate::cli::LearnArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::Opened;
use crate::render::{self, count, harmless};
use crate::settings;

/// Most paths that are named where something is said of many.
const MAX_NAMED: usize = 10;

/// What was found out.
struct Lesson {
    traced: Traced,
    proposal: Proposal,
    /// What the task comes to with nothing but what is proposed.
    again: Result<Vec<Differing>, String>,
}

/// Learns.
pub(super) fn learn(context: &Context, args: &LearnArgs) -> Result<Exit, Diagnosis> {
    let opened = Arc::new(Opened::open(context)?);
    let task = opened.only(&args.task)?;
    let recipe = opened.project.recipe(task);
    if recipe.act != Act::Process {
        let heading = format!("`{}` {}: only what runs a process can be learnt from", recipe.name, recipe.act.told());
        return Err(Diagnosis::usage(heading));
    }
    if args.write {
        can_be_written(&opened, recipe)?;
    }
    works_here()?;
    let found: Arc<Mutex<Option<Lesson>>> = Arc::default();
    let mut engine = opened.engine();
    opened.attach_remotes(&mut engine)?;
    let name = opened.project.subject.workflow.node(opened.project.subject.ids.first(task)).name.clone();
    let learner = Learner {
        inner: opened.processes.clone(),
        opened: Arc::clone(&opened),
        task,
        name: name.clone(),
        found: Arc::clone(&found),
    };
    engine.executors.register(PROCESS, learner);
    let has_lesson = Arc::clone(&found);
    let is_told = move |task: &str| *task == *name && has_lesson.lock().is_ok_and(|found| found.is_some());
    engine.observers.add(Arc::new(render::Failures::new(is_told)));
    let rules = Rules { jobs: settings::default_jobs(), force: vec![task], ..Rules::default() };
    let report = drive::run_blocking(&engine, run::request(&opened, vec![task], rules), run::wish_to_stop)?;
    memory::keep(&opened, &report, false, memory::Scope::All)?;
    if let Some(refused) = opened.isolation_refused() {
        return Err(refused);
    }
    drop(engine);
    let lesson = found.lock().unwrap_or_else(PoisonError::into_inner).take();
    match lesson {
        Some(lesson) => tell(context, &opened, task, &lesson, args),
        None if report.run.was_stopped() => Ok(Exit::Interrupted),
        None => {
            note(&format!("nothing is learnt of `{}`: it did not succeed", harmless(&recipe.name)));
            Ok(Exit::Failed)
        }
    }
}

/// Whether what is learnt of a task can be written where it is defined.
fn can_be_written(opened: &Opened, recipe: &Recipe) -> Result<(), Diagnosis> {
    let (file, ..) = opened.project.loaded.locate(recipe.place);
    let heading = if !recipe.variant.is_empty() {
        format!("`{}` is one of several variants, which share what the workfile says", recipe.name)
    } else if file.contains("://") {
        format!("`{}` is defined in `{file}`, which is included from elsewhere", recipe.name)
    } else {
        return Ok(());
    };
    Err(Diagnosis::usage(heading).hint("without `--write` it is printed, to be written by hand"))
}

/// Whether tasks can be traced here; if not, why.
fn works_here() -> Result<(), Diagnosis> {
    let refused = |why: &str| {
        let mut diagnosis = Diagnosis::usage(format!("tasks cannot be traced here: {why}"));
        diagnosis.exit = Exit::System;
        Err(diagnosis)
    };
    if let Err(why) = trace::available() {
        return refused(&why);
    }
    sandbox::ns().or_else(|why| refused(&why))
}

/// Carries out one task to learn from it, others as ever.
struct Learner {
    inner: ProcessExecutor,
    opened: Arc<Opened>,
    task: TaskIdx,
    name: Text,
    found: Arc<Mutex<Option<Lesson>>>,
}

impl Executor for Learner {
    fn execute(&self, job: Job) -> Pin<Box<dyn Future<Output = Done> + Send + '_>> {
        Box::pin(async move {
            if job.name != self.name {
                return self.inner.execute(job).await;
            }
            let fails = |why: String| Done::failed(FailureKind::Executor { why }, Tier::Ns.name());
            let Learned { mut done, traced, made } = self.inner.learn(job.clone()).await;
            // What it came to is no claim about the task as it is declared.
            if let Err(failure) = &mut done.result {
                failure.kind = FailureKind::Executor { why: failure.kind.to_string() };
            }
            if done.result.is_err() || done.unusable.is_some() {
                return done;
            }
            let traced = match traced {
                Ok(traced) => traced,
                Err(why) => return fails(why),
            };
            match self.study(job, traced, made).await {
                Ok(lesson) => {
                    *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(lesson);
                    fails("it was run to learn from it".to_owned())
                }
                Err(why) => fails(why),
            }
        })
    }
}

impl Learner {
    async fn study(&self, job: Job, traced: Traced, made: BTreeMap<Box<str>, Entry>) -> Result<Lesson, String> {
        let said = |e: &dyn std::fmt::Display| e.to_string();
        let spec = ProcessSpec::from_args(&job.invocation.args).map_err(|e| said(&e))?;
        let loaded = &self.opened.project.loaded;
        let recipe = self.opened.project.recipe(self.task);
        let this = loaded.recipes.iter().position(|r| std::ptr::eq(r, recipe)).expect("it is one of them");
        let mut facts = Facts {
            outputs: spec.outputs.clone(),
            stdout: spec.stdout.clone(),
            made: made.keys().map(ToString::to_string).collect(),
            path: recipe.env.get("PATH").map_or(DEFAULT_PATH, |path| path).to_owned(),
            ..Facts::default()
        };
        facts.files = loaded.all_sources(this).map_err(|e| said(&e))?.iter().map(ToString::to_string).collect();
        for (path, value) in &spec.inputs {
            match value {
                Value::Map(artifacts) if path.starts_with('@') => {
                    facts.needed.extend(artifacts.iter().map(|(path, _)| path.to_string()));
                }
                _ => drop(facts.from.insert(path.to_string())),
            }
        }
        for path in traced.reads.iter().chain(&traced.looks).filter(|path| !facts.files.contains(*path)) {
            let by = recipe.from.iter().find(|from| is_within(path, &from.path)).map(|from| from.producer);
            if let Some(by) = by.or_else(|| loaded.maker(path)).filter(|by| *by != this) {
                facts.made_by.insert(path.clone(), loaded.recipes[by].name.to_string());
            }
        }
        let proposal = propose(&traced, &facts);
        let again = self.verify(job, spec, &proposal, &made).await;
        Ok(Lesson { traced, proposal, again })
    }

    /// Runs the task with nothing but what is proposed, and compares.
    async fn verify(
        &self,
        mut job: Job,
        mut spec: ProcessSpec,
        proposal: &Proposal,
        made: &BTreeMap<Box<str>, Entry>,
    ) -> Result<Vec<Differing>, String> {
        let said = |e: &dyn std::fmt::Display| e.to_string();
        spec.tier = Tier::Ns;
        spec.outputs = proposal.outputs.clone();
        spec.inputs.retain(|path, _| path.starts_with('@') || proposal.from.iter().any(|from| is_within(from, path)));
        let given = |path: &String| spec.inputs.keys().any(|input| is_within(path, input));
        let mut paths: Vec<&str> = proposal
            .sources
            .iter()
            .chain(proposal.from.iter().filter(|path| !given(path)))
            .map(String::as_str)
            .collect();
        paths.sort_unstable();
        let mut sources: Vec<(Text, Stamp)> = vec![];
        for scanned in self.opened.workspace.index().scan(&paths) {
            match scanned.result {
                Ok(Some((_, stamp))) => sources.push((scanned.path.into(), stamp)),
                Ok(None) => return Err(format!("`{}` vanished meanwhile", scanned.path)),
                Err(error) => return Err(format!("`{}`: {error}", scanned.path)),
            }
        }
        job.sources = sources.into();
        let args = spec.to_args().map_err(|e| said(&e))?;
        let invocation = Invocation { args, ..(*job.invocation).clone() };
        (job.id, _) = invocation.encode();
        job.invocation = Arc::new(invocation);
        job.sink = Arc::new(|_, _| {});
        let store = job.store.clone();
        let done = self.inner.execute(job).await;
        let output = done.result.map_err(|failure| {
            let printed =
                failure.stderr.and_then(|id| store.get(id.link(), 64 << 10).ok().flatten()).unwrap_or_default();
            let printed = String::from_utf8_lossy(&printed).into_owned();
            format!("{}\n{}", failure.kind, printed.trim_end()).trim_end().to_owned()
        })?;
        if done.unusable.is_some() {
            return Err("inputs changed while it ran".to_owned());
        }
        let second = files(&store, output.artifacts).map_err(|e| said(&e))?;
        let mut first = made.clone();
        first.retain(|path, _| second.contains_key(path) || is_declared(proposal, path));
        let outcome = |artifacts| Output { artifacts, stdout: None, stderr: None };
        compare::outputs(&store, &outcome(first), &outcome(second)).map_err(|e| said(&e))
    }
}

fn is_declared(proposal: &Proposal, path: &str) -> bool {
    proposal.outputs.iter().any(|output| is_within(path, &output.path))
}

/// Every file and link of some artifacts.
fn files(store: &Store, artifacts: BTreeMap<Box<str>, Entry>) -> Result<BTreeMap<Box<str>, Entry>, StoreError> {
    let mut files = BTreeMap::new();
    let mut left: Vec<(Box<str>, Entry)> = artifacts.into_iter().collect();
    while let Some((path, entry)) = left.pop() {
        let Entry::Dir { tree } = entry else {
            files.insert(path, entry);
            continue;
        };
        let tree: Tree = store.tree(tree)?.unwrap_or_default();
        left.extend(tree.entries().iter().map(|(name, entry)| (format!("{path}/{name}").into(), entry.clone())));
    }
    Ok(files)
}

fn tell(
    context: &Context,
    opened: &Opened,
    task: TaskIdx,
    lesson: &Lesson,
    args: &LearnArgs,
) -> Result<Exit, Diagnosis> {
    let Lesson { traced, proposal, again } = lesson;
    let project = &opened.project;
    let recipe = project.recipe(task);
    let member = &project.loaded.members[recipe.member];
    let key = if member.name.is_empty() { &*recipe.task } else { &recipe.task[member.name.len() + 1..] };
    let declared: BTreeSet<String> = project.seen(task).iter().map(|(path, _)| path.to_string()).collect();
    let from: BTreeSet<&str> = recipe.from.iter().map(|from| &*from.path).collect();
    let is_declared = |path: &&String| from.iter().any(|from| is_within(path, from));
    let all_from = proposal.from.iter().all(|path| is_declared(&path))
        && from.iter().all(|from| proposal.from.iter().any(|path| is_within(path, from)));
    let stdin = recipe.stdin.as_ref().and_then(|stdin| match stdin {
        workfile::Stdin::Source(path) => Some(path.to_string()),
        workfile::Stdin::Printed(_) | workfile::Stdin::Task { .. } => None,
    });
    let read: BTreeSet<String> = proposal.sources.iter().cloned().chain(stdin).collect();
    let (mut outputs, mut tools) = (recipe.outputs.clone(), recipe.tools.clone());
    outputs.sort_unstable();
    tools.sort_unstable();
    let mut proposed = proposal.outputs.clone();
    proposed.sort_unstable();
    let news = News {
        inputs: declared != read || !all_from,
        outputs: outputs != proposed,
        tools: !tools.iter().map(|tool| &**tool).eq(proposal.tools.iter().map(String::as_str)),
    };
    let keys = Keys::new(proposal, news, &member.dir, recipe.stdout.as_deref());
    let is_sure = again.as_ref().is_ok_and(Vec::is_empty);
    // Not that of the member: it may be included from another.
    let file = opened.workspace.root().join(project.loaded.locate(recipe.place).0);
    let written = args.write && is_sure && !keys.is_empty();
    if written {
        write(context, &file, &keys, key)?;
    }
    if args.json {
        print_json(&json!({
            "task": recipe.name,
            "inputs": proposal.inputs,
            "sources": proposal.sources,
            "from": proposal.from,
            "outputs": proposal.outputs.iter().map(|o| json!({ "path": o.path, "kind": o.kind.name(), "optional": o.optional })).collect::<Vec<_>>(),
            "tools": proposal.tools,
            "helpers": proposal.helpers,
            "notes": proposal.notes,
            "missed": traced.misses,
            "listed": traced.lists,
            "complete": !traced.truncated,
            "verified": is_sure,
            "failure": again.as_ref().err(),
            "differences": again.as_ref().ok(),
            "news": !keys.is_empty(),
            "toml": keys.text(key),
            "written": written,
        }))?;
    } else {
        for line in &proposal.notes {
            note(&format!("note: {}", harmless(line)));
        }
        note(&summary(&recipe.name, lesson));
        if keys.is_empty() {
            note("the workfile says so already");
        } else if written {
            note(&format!("written to {}", super::shown(&file)));
        } else {
            print(&keys.text(key))?;
        }
    }
    Ok(if is_sure { Exit::Ok } else { Exit::Findings })
}

/// What was found, in a few lines.
fn summary(name: &str, lesson: &Lesson) -> String {
    let Lesson { traced, proposal, again } = lesson;
    let read = count(proposal.sources.len() + proposal.from.len(), "file");
    let mut text = format!("`{}` reads {read} of the workspace", harmless(name));
    if traced.truncated {
        text.push_str(", and more than could be kept");
    }
    match again {
        Ok(differences) if differences.is_empty() => {
            text.push_str("; with nothing else in its sandbox it makes the same");
        }
        Ok(differences) => {
            text.push_str("; with nothing else in its sandbox it makes something different:");
            for differing in differences.iter().take(MAX_NAMED) {
                let _ = write!(text, "\n  {}", differing.text(compare::TWICE));
            }
            text.push_str("\n`quipu check` says whether it is deterministic at all");
        }
        Err(why) => {
            text.push_str("; with nothing else in its sandbox it does not succeed: ");
            text.push_str(&harmless(why).replace('\n', "\n  "));
        }
    }
    text
}

/// Writes the keys into the workfile, which is right before and after.
fn write(context: &Context, file: &std::path::Path, keys: &Keys, task: &str) -> Result<(), Diagnosis> {
    let unwritten = |e: &std::io::Error| Diagnosis::system(&format!("cannot write `{}`", super::shown(file)), e);
    let before = std::fs::read_to_string(file).map_err(|e| unwritten(&e))?;
    let no_table = || Diagnosis::usage(format!("`{}` has no table of task `{task}` any more", super::shown(file)));
    let after = keys.edit(&before, task).ok_or_else(no_table)?;
    table::replace(file, &after).map_err(|e| unwritten(&e))?;
    if let Err(error) = crate::project::load(context) {
        table::replace(file, &before).map_err(|e| unwritten(&e))?;
        return Err(error.hint("the workfile is as it was; this is what would have been written"));
    }
    Ok(())
}
