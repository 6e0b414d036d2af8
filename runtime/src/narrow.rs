//! Path sets: which of its declared files a task read, and the two ids that receipts are found by through them.
//!
//! A task with a depfile says, once it has run, what it read. Of the files it declared, the content of those it did not
//! read cannot have changed what came out; their names can, since a compiler looks for a header in several places. So
//! the *weak* id has all names and no content, and the *strong* id the weak one with the content of what was read.
//! `docs/design/identity.md` has the reasons. Unaware of stores and of files on disk.

use std::collections::BTreeMap;

use quipu_store::cid::{Codec, Link};
use quipu_store::tree::Entry;

use crate::canon::Encoder;
use crate::identity::feed;
use crate::run::values::{artifact, entry_of};
use crate::task::Invocation;
use crate::value::{Text, Value};

/// The key of the arguments that says where a task writes down what it read.
pub const DEPFILE: &str = "depfile";
/// Largest depfile that is read, in bytes.
pub const MAX_DEPFILE_BYTES: u64 = 16 << 20;

/// The files a task may read, by path.
pub type Files = BTreeMap<Text, Entry>;

/// An id that receipts are looked up by on this machine alone.
pub type Fingerprint = [u8; 32];

/// What narrows an invocation: where it says what it read, and what counts whether it was read or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depfile {
    /// An output, as `gcc -MD` writes it.
    pub path: Text,
    /// Paths that always count: inputs the workfile names one by one.
    pub always: Vec<Text>,
}

impl Depfile {
    /// The one in the arguments of a task or invocation.
    pub fn of(args: &Value) -> Option<Self> {
        let value = args.get(DEPFILE)?;
        let Some(Value::List(always)) = value.get("always") else { return None };
        let always = always.iter().map(|v| v.as_text().map(Text::from)).collect::<Option<_>>()?;
        Some(Self { path: value.get("path")?.as_text()?.into(), always })
    }

    /// As a value.
    pub fn to_value(&self) -> Value {
        let always = Value::list(self.always.iter().cloned().map(Value::Text));
        Value::map([("path", Value::Text(self.path.clone())), ("always", always)]).expect("fixed keys are distinct")
    }
}

/// The files of an invocation: its sources, and what other tasks made. Nothing when its inputs are no files by path.
pub fn files<'a>(args: &Value, sources: impl IntoIterator<Item = (&'a str, &'a Entry)>) -> Option<Files> {
    let mut files: Files = sources.into_iter().map(|(path, entry)| (path.into(), entry.clone())).collect();
    let Some(Value::Map(inputs)) = args.get("inputs") else { return None };
    for (path, value) in inputs.iter().filter(|(path, _)| !path.is_empty()) {
        match value {
            Value::Map(outputs) if path.starts_with('@') => {
                for (path, value) in outputs.iter() {
                    files.insert(path.clone(), entry_of(value)?);
                }
            }
            value => drop(files.insert(path.clone(), entry_of(value)?)),
        }
    }
    Some(files)
}

/// The weak id: everything about the invocation but the content of files that may turn out not to be read.
pub fn weak(invocation: &Invocation, depfile: &Depfile, files: &Files) -> Fingerprint {
    let Invocation { sub, cmd, args, nonce } = invocation;
    let Value::Map(pairs) = args else { return fingerprint(args) };
    let rest = pairs.iter().filter(|(key, _)| &**key != "inputs").cloned();
    let stdin = args.get("stdin").and_then(Value::as_text);
    let (mut names, mut fixed) = (vec![], vec![]);
    for (path, entry) in files {
        match entry {
            Entry::File { exec, .. } if !depfile.always.contains(path) && stdin != Some(&**path) => {
                names.push(Value::list([Value::Text(path.clone()), Value::Bool(*exec)]));
            }
            // What is in a folder that another task made is not looked into, and where a link leads always counts.
            _ => fixed.push((path.clone(), artifact(entry))),
        }
    }
    let pairs = [
        ("sub", Value::Text(sub.clone())),
        ("cmd", Value::Text(cmd.clone())),
        ("args", Value::map(rest).expect("keys of a map are distinct")),
        ("nonce", Value::Bytes((**nonce).into())),
        ("names", Value::list(names)),
        ("fixed", Value::map(fixed).expect("paths are distinct")),
    ];
    fingerprint(&Value::map(pairs).expect("fixed keys are distinct"))
}

/// The strong id: the weak one, and the content of what was read. Nothing when one of these is not there.
pub fn strong(weak: Fingerprint, files: &Files, reads: &[Text]) -> Option<Fingerprint> {
    let read = reads.iter().map(|path| Some((path.clone(), artifact(files.get(path)?))));
    let read = Value::map(read.collect::<Option<Vec<_>>>()?).ok()?;
    Some(fingerprint(&Value::list([Value::Bytes(weak.as_slice().into()), read])))
}

fn fingerprint(value: &Value) -> Fingerprint {
    let mut encoder = Encoder::default();
    feed(value, &mut encoder, &|_| unreachable!("an invocation holds no promise"));
    Link::of(Codec::DagCbor, &encoder.take()).digest
}

/// Why a depfile says nothing that could be gone by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DepfileError {
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    Encoding,
    /// A line without a colon.
    #[error("line {line} has no target")]
    NoTarget {
        /// Which line, from 1.
        line: usize,
    },
    /// It names a file of the workspace that is no input.
    #[error("it names `{0}`, which is not among the inputs")]
    Undeclared(String),
}

/// The declared files that a depfile names, each once and sorted. Relative paths start at `dir`, and absolute ones count
/// when they lie below one of `roots`; what lies outside the workspace is none of its inputs. `is_own` tells what the task
/// made itself.
pub fn reads(
    text: &[u8],
    dir: &str,
    roots: &[&str],
    files: &Files,
    is_own: impl Fn(&str) -> bool,
) -> Result<Vec<Text>, DepfileError> {
    let text = std::str::from_utf8(text).map_err(|_| DepfileError::Encoding)?;
    let mut reads = vec![];
    for named in prerequisites(text)? {
        let Some(path) = within(&named, dir, roots) else { continue };
        match files.get_key_value(&*path) {
            Some((path, _)) => reads.push(path.clone()),
            None if is_own(&path) => {}
            // It may be a declared file by another name, or one that nobody watches.
            None => return Err(DepfileError::Undeclared(path)),
        }
    }
    reads.sort_unstable();
    reads.dedup();
    Ok(reads)
}

/// The path from the workspace's root, of a path in a depfile.
fn within(named: &str, dir: &str, roots: &[&str]) -> Option<String> {
    let below = |root: &&str| named.strip_prefix(*root)?.strip_prefix('/');
    let (from, rest) = match named.strip_prefix('/') {
        Some(_) => ("", roots.iter().find_map(below)?),
        None => (dir, named),
    };
    let mut names: Vec<&str> = vec![];
    for name in from.split('/').chain(rest.split('/')) {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}

/// What stands behind the colons of a Makefile's rules.
fn prerequisites(text: &str) -> Result<Vec<String>, DepfileError> {
    let mut found = vec![];
    let (mut word, mut behind_colon, mut line) = (String::new(), false, 1);
    let mut has_target = false;
    let mut chars = text.chars().peekable();
    loop {
        let c = chars.next();
        match c {
            Some('\\') => {
                let mut backslashes = 1;
                while chars.next_if_eq(&'\\').is_some() {
                    backslashes += 1;
                }
                // Before a blank or `#` they quote it and themselves; before a line end the last one joins the lines.
                match chars.peek() {
                    Some(' ' | '#') if backslashes % 2 == 1 => {
                        word.extend(std::iter::repeat_n('\\', backslashes / 2));
                        word.extend(chars.next());
                    }
                    Some('\r' | '\n') => {
                        word.extend(std::iter::repeat_n('\\', backslashes - 1));
                        let _ = chars.next_if_eq(&'\r');
                        let _ = chars.next_if_eq(&'\n');
                        line += 1;
                        end_of_word(&mut word, &mut behind_colon, &mut has_target, &mut found);
                    }
                    _ => word.extend(std::iter::repeat_n('\\', backslashes)),
                }
            }
            Some('$') if chars.next_if_eq(&'$').is_some() => word.push('$'),
            Some(' ' | '\t' | '\r') => end_of_word(&mut word, &mut behind_colon, &mut has_target, &mut found),
            Some('\n') | None => {
                end_of_word(&mut word, &mut behind_colon, &mut has_target, &mut found);
                if has_target && !behind_colon {
                    return Err(DepfileError::NoTarget { line });
                }
                (behind_colon, has_target) = (false, false);
                line += 1;
                if c.is_none() {
                    return Ok(found);
                }
            }
            Some(c) => word.push(c),
        }
    }
}

fn end_of_word(word: &mut String, behind_colon: &mut bool, has_target: &mut bool, found: &mut Vec<String>) {
    let word = std::mem::take(word);
    if word.is_empty() {
        return;
    }
    if *behind_colon {
        found.push(word);
    } else {
        *has_target = true;
        *behind_colon = word.ends_with(':');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_store::cid::BlobId;

    fn file(content: &str) -> Entry {
        Entry::File { blob: BlobId::of(content.as_bytes()), size: content.len() as u64, exec: false }
    }

    fn some(files: &[(&str, &str)]) -> Files {
        files.iter().map(|(path, content)| (Text::from(*path), file(content))).collect()
    }

    fn invocation(flag: &str) -> Invocation {
        let args = Value::map([("flag", flag.into()), ("inputs", Value::map([] as [(&str, Value); 0]).expect("map"))]);
        Invocation { sub: "did:web:test".into(), cmd: "/test".into(), args: args.expect("map"), nonce: Box::default() }
    }

    #[test]
    fn depfiles_are_read_as_compilers_write_them() {
        let words = |text: &str| prerequisites(text).map(|words| words.join("|"));
        for (text, expect) in [
            ("main.o: main.c a.h b.h\n", "main.c|a.h|b.h"),
            ("main.o: main.c \\\n a.h \\\r\n  b.h", "main.c|a.h|b.h"),
            ("a.o b.o : c.h\na.h:\nb.h:\n", "c.h"),
            (
                "x.o: with\\ blank.h hash\\#.h doll$$ar.h back\\slash.h a:b.h",
                "with blank.h|hash#.h|doll$ar.h|back\\slash.h|a:b.h",
            ),
            ("x.o: two\\\\\\ b.h", "two\\ b.h"),
            ("x.o:\n", ""),
            ("", ""),
            ("\n\nx.o: a\n\n", "a"),
        ] {
            assert_eq!(words(text).as_deref(), Ok(expect), "{text:?}");
        }
        assert_eq!(words("x: y\nno target\n"), Err(DepfileError::NoTarget { line: 2 }));
    }

    #[test]
    fn only_declared_files_are_read_and_any_other_of_the_workspace_is_an_error() {
        let files = some(&[("src/main.c", ""), ("src/a.h", ""), ("inc/b.h", "")]);
        let read = |text: &str| reads(text.as_bytes(), "src", &["/ws", "/home/me/p"], &files, |p| p == "src/own.h");
        let paths = |text: &str| read(text).map(|paths| paths.join(" "));
        let text = "x: main.c ./a.h ../inc/b.h /usr/include/stdio.h /ws/src/a.h /home/me/p/inc/b.h own.h ../../up.h";
        assert_eq!(paths(text).as_deref(), Ok("inc/b.h src/a.h src/main.c"));
        assert_eq!(paths("x: main.c other.h"), Err(DepfileError::Undeclared("src/other.h".into())));
        assert_eq!(reads(b"x: \xff", "", &[], &files, |_| false), Err(DepfileError::Encoding));
    }

    #[test]
    fn the_strong_id_hangs_on_what_was_read_and_on_every_name() {
        let depfile = Depfile { path: "x.d".into(), always: vec!["flags".into()] };
        let base = [("main.c", "m"), ("a.h", "a"), ("b.h", "b"), ("flags", "f")];
        let id = |files: &[(&str, &str)], flag: &str| {
            let files = some(files);
            strong(weak(&invocation(flag), &depfile, &files), &files, &["a.h".into(), "main.c".into()])
        };
        let known = id(&base, "-O2").expect("all are there");
        let with = |path: &str, content: &'static str| {
            let mut files: Vec<(&str, &str)> = base.iter().copied().filter(|(p, _)| *p != path).collect();
            files.push((
                if path == "new" { "c.h" } else { base.iter().find(|(p, _)| *p == path).expect("one").0 },
                content,
            ));
            id(&files, "-O2")
        };
        assert_eq!(with("b.h", "other"), Some(known), "b.h was not read");
        assert_ne!(with("a.h", "other"), Some(known), "a.h was");
        assert_ne!(with("flags", "other"), Some(known), "what the workfile names always counts");
        assert_ne!(with("new", ""), Some(known), "a new header may be found before another");
        assert_ne!(id(&base, "-O3"), Some(known), "the command line");
        assert_ne!(id(&base[..2], "-O2"), Some(known), "names that are gone");
        assert_eq!(id(&base[..1], "-O2"), None, "what was read is gone");
    }
}
