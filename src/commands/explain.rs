//! `quipu explain`: why a task would run or not and what would change that, what became of it the last time and why, in
//! which ingredients it differs from an earlier one down to the file and the line of the workfile, and what its id is made of.

mod outlook;
mod past;
mod text;

use quipu_runtime::explain::{What, differences, nearest};
use quipu_runtime::graph::TaskIdx;
use quipu_runtime::identity::Listing;
use quipu_runtime::task::Work;
use quipu_runtime::workfile::{self, Loaded, Place, Texts};
use quipu_store::cid::{ReceiptId, TaskId};
use quipu_store::receipt::Output;
use quipu_store::sign::Signer;
use quipu_store::{Kind, Options, SignerSource, Store};
use serde::Serialize;

use self::outlook::Outlook;
use self::past::Past;
use super::compare::{self, Differing};
use super::ingredients::{self, Origin, Told, Upstream, Used};
use super::memory::{self, Memory};
use super::{Context, plan, print, print_json, runs, show};
use crate::cli::ExplainArgs;
use crate::diagnose::Diagnosis;
use crate::exit::Exit;
use crate::project::{self, Opened};
use crate::render::harmless;

/// Everything there is to say of one task. Its JSON form is in `docs/formats/explain.md`.
#[derive(Serialize)]
struct Explained {
    name: String,
    /// Where the workfile defines it.
    place: String,
    /// Its id; none for one that is left out.
    task: Option<String>,
    status: &'static str,
    because: String,
    /// The receipt it is settled by.
    settled: Option<Settled>,
    /// What would make it run, or settle it.
    outlook: Outlook,
    /// Outputs that are not in the workspace as they were made.
    missing: Vec<String>,
    /// Those among them whose bytes are not in the store either.
    lost: Vec<String>,
    /// The last run that had to do with it.
    last: Option<Past>,
    /// What it is compared with.
    against: Option<Against>,
    /// What differs from then; none when there is nothing to compare with.
    differences: Option<Vec<Told>>,
    /// In which outputs it differs from then, where it is made of the same.
    outputs: Vec<Differing>,
    ingredients: Vec<Ingredient>,
}

/// The receipt that a task is settled by.
#[derive(Serialize)]
struct Settled {
    receipt: String,
    /// The name of a trusted key, or the key, when it was not made here.
    by: Option<String>,
    /// In seconds since 1970.
    issued_at: u64,
}

/// An earlier task that this one is compared with.
#[derive(Serialize)]
struct Against {
    /// `settled` (when it was last settled here), `run`, `receipt` or `task`.
    kind: &'static str,
    /// The run, when it is that of a run.
    run: Option<String>,
    /// How it ended in that run.
    end: Option<String>,
    /// Its id then.
    task: String,
    /// Its receipt then.
    receipt: Option<String>,
}

#[derive(Serialize)]
struct Ingredient {
    path: String,
    value: String,
    #[serde(flatten)]
    origin: Option<Origin>,
}

/// Explains.
pub(super) fn explain(context: &Context, args: &ExplainArgs) -> Result<Exit, Diagnosis> {
    let opened = Opened::open(context)?;
    let loaded = &opened.project.loaded;
    let texts = loaded.texts();
    let explainer = Explainer::new(&opened, &texts);
    let meant = project::select(loaded, std::slice::from_ref(&args.task))?;
    let explained = match meant[..] {
        [only] if loaded.recipes[only].left_out.is_some() => explainer.left_out(only)?,
        _ => explainer.explain(opened.only(&args.task)?, args.against.as_deref())?,
    };
    if args.json { print_json(&explained) } else { print(&text::text(&explained)).map(|()| Exit::Ok) }
}

struct Explainer<'a> {
    opened: &'a Opened,
    texts: &'a Texts<'a>,
    memory: Memory,
    /// Directory nodes as they are now, which no store has yet.
    now: Store,
    /// Tasks that are told of already.
    told: Vec<TaskIdx>,
}

impl<'a> Explainer<'a> {
    fn new(opened: &'a Opened, texts: &'a Texts<'a>) -> Self {
        let memory = memory::read(&opened.store, &opened.key());
        // Nothing is signed in it.
        let now = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[0; 32]))));
        Self { opened, texts, memory, now, told: vec![] }
    }

    fn name(&self, task: TaskIdx) -> String {
        self.opened.project.subject.workflow.node(task).name.to_string()
    }

    /// All names of a task: what is logged of it stands under the first.
    fn names(&self, task: TaskIdx) -> Vec<String> {
        let ids = &self.opened.project.subject.ids;
        let others = ids.others(ids.first(task)).unwrap_or_default();
        let mut names: Vec<String> = others.iter().map(|t| self.name(*t)).collect();
        names.retain(|name| *name != self.name(task));
        names.insert(0, self.name(task));
        names
    }

    fn explain(mut self, task: TaskIdx, against: Option<&str>) -> Result<Explained, Diagnosis> {
        let planned = plan::of_one(self.opened, task)?;
        let because = plan::because(self.opened, &planned)?;
        let (missing, lost) = self.missing(planned.receipt)?;
        let last = past::last(&self, task)?;
        let against = match self.against(task, against)? {
            None => last.as_ref().and_then(Past::against),
            found => found,
        };
        let earlier = against.as_ref().and_then(|against| against.task.parse().ok());
        let differences = earlier.map_or(Ok(None), |earlier| self.differences(task, earlier))?;
        // Of another task there is nothing to compare byte by byte.
        let same = against.as_ref().filter(|_| differences.as_ref().is_some_and(Vec::is_empty));
        let receipt = same.and_then(|against| against.receipt.as_ref()?.parse().ok());
        let outputs = match (receipt, planned.receipt) {
            (Some(then), Some(now)) if then != now => self.outcomes(then, now)?,
            _ => vec![],
        };
        let written = self.texts.of(self.opened.project.recipe_index(task));
        let lines = self.listing(task).lines.into_iter();
        let ingredients = lines.map(|(path, leaf)| {
            let origin = written.as_ref().and_then(|written| written.origin(&What::of(&path), &path));
            Ingredient { origin: origin.map(|origin| self.origin(origin)), path, value: leaf.to_string() }
        });
        Ok(Explained {
            name: self.name(task),
            place: self.place(self.opened.project.recipe(task).place),
            task: Some(planned.task.to_string()),
            status: plan::word(planned.status),
            because,
            settled: planned.receipt.map_or(Ok(None), |receipt| self.settled(receipt))?,
            outlook: outlook::of(&self, &planned, written.as_ref()),
            missing,
            lost,
            last,
            against,
            differences,
            outputs,
            ingredients: ingredients.collect(),
        })
    }

    /// Of a task that is no part of the workflow, since a condition says so.
    fn left_out(self, recipe: usize) -> Result<Explained, Diagnosis> {
        let found = &self.opened.project.loaded.recipes[recipe];
        let written = self.texts.of(recipe);
        let condition = written.as_ref().and_then(workfile::Written::condition).map(|origin| self.origin(origin));
        Ok(Explained {
            name: found.name.to_string(),
            place: self.place(found.place),
            task: None,
            status: "left out",
            because: found.left_out.as_deref().unwrap_or_default().to_owned(),
            settled: None,
            outlook: outlook::of_left_out(condition),
            missing: vec![],
            lost: vec![],
            last: past::of_names(self.opened, &[found.name.to_string()])?.map(|(last, _)| last),
            against: None,
            differences: None,
            outputs: vec![],
            ingredients: vec![],
        })
    }

    fn listing(&self, task: TaskIdx) -> Listing {
        match &self.opened.project.subject.workflow.node(task).work {
            Work::Task(recipe) => self.opened.project.subject.ids.listing(recipe),
            Work::External { .. } => Listing::default(),
        }
    }

    /// What a task is compared with: what somebody named, or itself when it was last settled.
    fn against(&self, task: TaskIdx, named: Option<&str>) -> Result<Option<Against>, Diagnosis> {
        let store = &self.opened.store;
        let Some(named) = named else {
            let known = self.memory.get(&self.name(task)).cloned();
            return Ok(known.map(|known| {
                let (task, receipt) = (known.id, known.receipt);
                Against { kind: "settled", run: None, end: None, task, receipt }
            }));
        };
        // Ids of runs begin with a moment; other ids with a letter.
        if runs::back(named).is_some() || named.starts_with(|c: char| c.is_ascii_digit()) {
            let dir = self.opened.settings.own_dir().join("runs");
            let (run, path) = runs::find(&dir, Some(&self.opened.key()), named)?;
            let names = self.names(task);
            let found = runs::tasks(&path, &names)?.into_values().find(|then| !then.id.is_empty());
            let Some(then) = found else {
                let message = format!("run {run} had nothing to do with task `{}`", harmless(&names[0]));
                return Err(Diagnosis::usage(message).hint(format!("`quipu log --run {run}` says what it did")));
            };
            let (end, run) = (Some(then.end), Some(run));
            return Ok(Some(Against { kind: "run", run, end, task: then.id, receipt: then.receipt }));
        }
        let (link, kind) = show::resolve(store, named)?;
        match kind {
            Kind::Task => {
                let task = TaskId::from_digest(link.digest).to_string();
                Ok(Some(Against { kind: "task", run: None, end: None, task, receipt: None }))
            }
            Kind::Receipt => {
                let receipt = ReceiptId::from_digest(link.digest);
                let found = store.receipt(receipt)?;
                let settles = found.as_ref().map(|f| f.signed.receipt.meta.settles.keys().copied().collect::<Vec<_>>());
                let task = self.most_alike(task, settles.unwrap_or_default())?;
                let Some(task) = task.map(|id| id.to_string()) else {
                    return Err(Diagnosis::usage(format!("receipt {receipt} is that of no task")));
                };
                let receipt = Some(receipt.to_string());
                Ok(Some(Against { kind: "receipt", run: None, end: None, task, receipt }))
            }
            _ => {
                let message = format!("`{}` is the id of a {}", harmless(named), kind.name());
                Err(Diagnosis::usage(message).hint("a task is compared with a run, a receipt or another task"))
            }
        }
    }

    /// Of several tasks that one receipt settles, the one with the fewest differences.
    fn most_alike(&self, task: TaskIdx, ids: Vec<TaskId>) -> Result<Option<TaskId>, Diagnosis> {
        let mut known = vec![];
        for id in &ids {
            known.extend(ingredients::listing(&self.opened.store, *id)?.map(|listing| (*id, listing)));
        }
        let current = self.listing(task);
        let best = nearest(&current, known.iter().map(|(id, listing)| (*id, listing))).map(|(id, _)| id);
        Ok(best.or(ids.first().copied()))
    }

    /// What differs from an earlier task; `None` when it is not known any more what that was made of.
    fn differences(&mut self, task: TaskIdx, earlier: TaskId) -> Result<Option<Vec<Told>>, Diagnosis> {
        self.told.push(task);
        if earlier == self.opened.project.subject.ids.of(task) {
            return Ok(Some(vec![]));
        }
        let Some(earlier) = ingredients::listing(&self.opened.store, earlier)? else { return Ok(None) };
        self.opened.project.keep_tree(&self.now, task)?;
        let written = self.texts.of(self.opened.project.recipe_index(task));
        let mut all = vec![];
        for found in differences(&self.listing(task), &earlier) {
            let mut told = ingredients::told(&found, |id| match self.opened.store.tree(id)? {
                None => self.now.tree(id),
                tree => Ok(tree),
            })?;
            let origin = written.as_ref().and_then(|written| written.origin(&found.what, &found.path));
            told.origin = origin.map(|origin| self.origin(origin));
            for file in &mut told.files {
                let origin = written.as_ref().and_then(|written| written.source(&file.path));
                file.origin = origin.map(|origin| self.origin(origin));
            }
            let ids = &self.opened.project.subject.ids;
            if let Some((before, now)) = found.tasks()
                && let Some(task) = ids.find(now)
            {
                let is_told = self.told.contains(&task);
                let differences = if is_told { None } else { self.differences(task, before)? };
                told.from = Some(Upstream { name: self.name(task), differences });
            }
            all.push(told);
        }
        Ok(Some(all))
    }

    /// In which outputs two outcomes of one task differ, where both are here.
    fn outcomes(&self, then: ReceiptId, now: ReceiptId) -> Result<Vec<Differing>, Diagnosis> {
        match (self.output(then)?, self.output(now)?) {
            (Some(then), Some(now)) if then != now => compare::outputs(&self.opened.store, &then, &now),
            _ => Ok(vec![]),
        }
    }

    fn output(&self, receipt: ReceiptId) -> Result<Option<Output>, Diagnosis> {
        Ok(self.opened.store.receipt(receipt)?.and_then(|found| found.signed.receipt.out.clone().ok()))
    }

    /// By whom and when a receipt was made.
    fn settled(&self, receipt: ReceiptId) -> Result<Option<Settled>, Diagnosis> {
        let found = self.opened.store.receipt(receipt)?;
        Ok(found.map(|found| {
            let issuer = found.signed.issuer;
            let name =
                || self.opened.trust.name_of(issuer).map_or_else(|| issuer.to_string(), |name| format!("`{name}`"));
            let by = (!found.made_here).then(name);
            Settled { receipt: receipt.to_string(), by, issued_at: found.signed.receipt.issued_at }
        }))
    }

    /// Outputs of a settled task that are not in the workspace as they were made; and those that are not in the store either.
    fn missing(&self, receipt: Option<ReceiptId>) -> Result<(Vec<String>, Vec<String>), Diagnosis> {
        let (mut missing, mut lost) = (vec![], vec![]);
        let output = receipt.map_or(Ok(None), |receipt| self.output(receipt))?;
        for (path, entry) in output.iter().flat_map(|output| &output.artifacts) {
            if !self.opened.workspace.holds(path, entry) {
                missing.push(path.to_string());
                if !self.opened.store.complete(entry)? {
                    lost.push(path.to_string());
                }
            }
        }
        Ok((missing, lost))
    }

    fn place(&self, place: Place) -> String {
        place_text(&self.opened.project.loaded, place)
    }

    /// Where something stands, as people read it.
    fn origin(&self, origin: workfile::Origin) -> Origin {
        let used = origin.used.into_iter().map(|used| Used {
            name: used.name.to_string(),
            what: used.what,
            place: self.place(used.place),
            given: used.given,
        });
        Origin { key: origin.key, place: self.place(origin.place), used: used.collect() }
    }
}

fn place_text(loaded: &Loaded, place: Place) -> String {
    let (file, line, column) = loaded.locate(place);
    format!("{file}:{line}:{column}")
}
