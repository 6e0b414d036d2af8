//! What is learnt as keys of a task's table: as text to copy, or written into the workfile with everything else kept.
//!
//! Knows TOML and where a member's paths begin; unaware of how anything was learnt.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use quipu_runtime::learn::{Proposal, escape};
use quipu_runtime::process::{OutputKind, OutputSpec};
use toml_edit::{Array, DocumentMut, InlineTable, Item, RawString, TableLike, Value};

/// A list longer than this goes over several lines, in characters.
const MAX_LINE: usize = 100;

/// Keys in the order they are written, with their values.
pub(super) struct Keys(Vec<(&'static str, Array)>);

/// Which keys differ from what the workfile says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    pub(super) inputs: bool,
    pub(super) outputs: bool,
    pub(super) tools: bool,
}

impl Keys {
    /// The keys that are news. `dir` is the member's folder; `stdout` is an output by a key of its own.
    pub(super) fn new(proposal: &Proposal, news: News, dir: &str, stdout: Option<&str>) -> Self {
        let mut keys = vec![];
        if news.inputs {
            keys.push(("inputs", list(proposal.inputs.iter().map(|text| relative(text, dir).into()))));
        }
        if news.outputs {
            let written = proposal.outputs.iter().filter(|o| stdout != Some(&*o.path));
            keys.push(("outputs", list(written.map(|output| shown(output, dir)))));
        }
        if news.tools {
            keys.push(("tools", list(proposal.tools.iter().map(|tool| tool.as_str().into()))));
        }
        Self(keys)
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The table of `task` with these keys.
    pub(super) fn text(&self, task: &str) -> String {
        let mut document = DocumentMut::new();
        let mut table = toml_edit::Table::new();
        for (key, value) in &self.0 {
            table.insert(key, Item::Value(Value::Array(value.clone())));
        }
        let mut tasks = toml_edit::Table::new();
        tasks.set_implicit(true);
        tasks.insert(task, Item::Table(table));
        document.insert("task", Item::Table(tasks));
        document.to_string()
    }

    /// The workfile `text` with these keys in the table of `task`; none where it has no such table.
    pub(super) fn edit(&self, text: &str, task: &str) -> Option<String> {
        let mut document = text.parse::<DocumentMut>().ok()?;
        let table = document.get_mut("task")?.as_table_like_mut()?.get_mut(task)?.as_table_like_mut()?;
        for (key, value) in &self.0 {
            set(table, key, value.clone());
        }
        Some(document.to_string())
    }
}

/// Puts a value in the place of another with what stands around it.
fn set(table: &mut dyn TableLike, key: &str, value: Array) {
    let mut value = Value::Array(value);
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
        if let Some(item) = table.get_mut(key) {
            *item = Item::Value(value);
        }
    } else {
        // A comma follows at once; in a table of lines this is blanks at a line's end.
        for (_, item) in table.iter_mut() {
            if let Some(value) = item.as_value_mut()
                && value.decor().suffix().and_then(RawString::as_str).is_some_and(|s| s.trim().is_empty())
            {
                value.decor_mut().set_suffix("");
            }
        }
        table.insert(key, Item::Value(value));
    }
}

fn list(items: impl Iterator<Item = Value>) -> Array {
    let mut array: Array = items.collect();
    if array.to_string().len() > MAX_LINE {
        array.iter_mut().for_each(|item| item.decor_mut().set_prefix("\n  "));
        array.set_trailing("\n");
        array.set_trailing_comma(true);
    }
    array
}

fn shown(output: &OutputSpec, dir: &str) -> Value {
    let text = match output.kind {
        OutputKind::File => escape(&output.path),
        OutputKind::Dir => format!("{}/", escape(&output.path)),
        OutputKind::Glob => output.path.to_string(),
    };
    let text = relative(&text, dir);
    if !output.optional {
        return text.into();
    }
    let mut table = InlineTable::new();
    table.insert("path", text.into());
    table.insert("optional", true.into());
    table.into()
}

/// A path from the workspace's root as it is written in the workfile of the folder `dir`.
fn relative(path: &str, dir: &str) -> String {
    let dir = escape(dir);
    match path.strip_prefix(&*dir) {
        _ if dir.is_empty() => path.to_owned(),
        Some("") => ".".to_owned(),
        Some(rest) if rest.starts_with('/') => rest[1..].to_owned(),
        _ => format!("{}{path}", "../".repeat(dir.split('/').count())),
    }
}

/// Replaces a workfile at once, or not at all.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link stays what it is.
    let path = path.canonicalize()?;
    let beside = path.with_extension(format!("toml.{}", std::process::id()));
    let written = fs::File::create_new(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal() -> Proposal {
        let output = |path: &str, kind| OutputSpec { path: path.into(), kind, optional: false };
        let mut outputs = vec![output("lib/a.o", OutputKind::File), output("lib/gen", OutputKind::Dir)];
        outputs.push(OutputSpec { path: "lib/*.map".into(), kind: OutputKind::Glob, optional: true });
        let inputs = ["lib/a.c", "lib/odd\\[1].c", "shared/x.h"].map(str::to_owned).to_vec();
        Proposal { inputs, outputs, tools: vec!["cc".to_owned()], ..Proposal::default() }
    }

    const ALL: News = News { inputs: true, outputs: true, tools: true };

    #[test]
    fn paths_are_written_from_the_members_folder() {
        assert_eq!(
            Keys::new(&proposal(), ALL, "lib", None).text("compile"),
            "[task.compile]\ninputs = [\"a.c\", 'odd\\[1].c', \"../shared/x.h\"]\n\
             outputs = [\"a.o\", \"gen/\", { path = \"*.map\", optional = true }]\ntools = [\"cc\"]\n"
        );
        let news = News { outputs: false, tools: false, ..ALL };
        assert!(
            Keys::new(&proposal(), news, "", None).text("a.b").starts_with("[task.\"a.b\"]\ninputs = [\"lib/a.c\"")
        );
        let news = News { inputs: false, tools: false, ..ALL };
        assert!(!Keys::new(&proposal(), news, "", Some("lib/a.o")).text("a").contains("a.o"));
    }

    #[test]
    fn everything_else_in_the_workfile_stays() {
        let before = "# All of it.\n[vars]\nx = \"1\"\n\n# Compiles.\n[task.compile] # really\n\
                      run = \"cc\" # the compiler\n# What it reads.\ninputs = [\"a\", # one\n  \"b\"] # two\n\n[task.next]\nrun = \"x\"\n";
        let news = News { outputs: false, ..ALL };
        let after = Keys::new(&proposal(), news, "lib", None).edit(before, "compile").expect("it is there");
        assert_eq!(
            after,
            "# All of it.\n[vars]\nx = \"1\"\n\n# Compiles.\n[task.compile] # really\n\
             run = \"cc\" # the compiler\n# What it reads.\ninputs = [\"a.c\", 'odd\\[1].c', \"../shared/x.h\"] # two\n\
             tools = [\"cc\"]\n\n[task.next]\nrun = \"x\"\n"
        );
        let keys = Keys::new(&proposal(), news, "lib", None);
        assert_eq!(keys.edit(before, "none"), None);
        let inline = keys.edit("task.compile = { run = \"cc\" }\n", "compile").expect("it is there");
        assert!(inline.contains("run = \"cc\", inputs = ["), "{inline}");
    }

    #[test]
    fn long_lists_have_a_line_for_each() {
        let inputs = (0..20).map(|i| format!("some/long/path/{i}.c")).collect();
        let text = Keys::new(&Proposal { inputs, ..proposal() }, ALL, "", None).text("t");
        assert!(text.contains("inputs = [\n  \"some/long/path/0.c\",\n  \"some/long/path/1.c\",\n"), "{text}");
        assert!(text.contains("19.c\",\n]\noutputs"), "{text}");
    }
}
