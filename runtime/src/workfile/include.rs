//! Files that workfiles include: local ones by path or glob, remote ones pinned by the hash of their content.
//!
//! Finds and reads them; unaware of tasks. How a remote one is got is for whoever loads.

use std::path::Path;

use quipu_store::cid::BlobId;

use super::errors::{ErrorKind, Place, SourceFile, WorkfileError};
use super::globs::{Pattern, States};
use super::looked::Looked;
use super::lower::is_task_name;
use super::model::{Include, Str};
use super::parse::{MAX_FILE_BYTES, parse};
use super::paths::{self, Spot};
use super::{Listed, fetching, folder, members};

/// Most files that the workfiles of a workspace include.
const MAX_INCLUDED: usize = 2000;

/// Gets the content of a URL, which has that id.
pub type Fetch<'f> = &'f dyn Fn(&str, BlobId) -> Result<Vec<u8>, String>;

/// Refuses every remote file.
pub(crate) fn no_fetch(_: &str, _: BlobId) -> Result<Vec<u8>, String> {
    Err("remote files are not fetched here".to_owned())
}

/// Adds the files that are included, directly or by others. `listed` are the members; each file's number is its
/// place there, from 1.
pub(crate) fn collect(
    root: &Path,
    root_file: &SourceFile,
    listed: &mut Vec<Listed>,
    fetch: Fetch<'_>,
    looked: &mut Looked,
    errors: &mut Vec<WorkfileError>,
) {
    let members = listed.len();
    let mut at = 0;
    while at <= listed.len() {
        let (text, file) = if at == 0 {
            (root_file.text.clone(), root_file.path.clone())
        } else {
            (listed[at - 1].file.text.clone(), listed[at - 1].file.path.clone())
        };
        // Most workfiles include nothing, and need not be read twice.
        if text.contains("include") {
            let parsed = parse(at as u32, &text, &mut vec![]);
            let mut includer = Includer { root, listed, members, fetch, looked, errors, at, file };
            parsed.include.iter().for_each(|one| includer.include(one));
        }
        at += 1;
        if listed.len() - members > MAX_INCLUDED {
            let place = Place { file: at as u32 - 1, ..Place::default() };
            let message = format!("workfiles include more than {MAX_INCLUDED} files");
            errors.push(WorkfileError::new(ErrorKind::TooLarge, place, message));
            listed.truncate(members);
            return;
        }
    }
}

struct Includer<'i> {
    root: &'i Path,
    listed: &'i mut Vec<Listed>,
    members: usize,
    fetch: Fetch<'i>,
    looked: &'i mut Looked,
    errors: &'i mut Vec<WorkfileError>,
    /// Number of the file that includes, and its path or URL.
    at: usize,
    file: String,
}

impl Includer<'_> {
    fn error(&mut self, kind: ErrorKind, place: Place, message: String) -> &mut WorkfileError {
        self.errors.push(WorkfileError::new(kind, place, message));
        self.errors.last_mut().expect("just pushed")
    }

    /// The folder that paths of the file's tasks are relative to, and the folder of the file itself.
    fn folders(&self) -> (String, String) {
        let dir = if self.at == 0 { String::new() } else { self.listed[self.at - 1].dir.clone() };
        let own = self.file.rsplit_once('/').map_or(String::new(), |(dir, _)| dir.to_owned());
        (dir, own)
    }

    fn include(&mut self, one: &Include<'_>) {
        let (mut dir, own) = self.folders();
        if let Some(text) = &one.dir {
            match paths::normalise(&dir, &text.text) {
                Ok(path) => dir = path,
                Err(why) => {
                    self.error(ErrorKind::BadPath, text.place, format!("`dir` of an include, `{}`, {why}", text.text));
                    return;
                }
            }
        }
        match (&one.path, &one.url) {
            (Some(path), _) => self.local(one, path, &dir, &own),
            (None, Some(url)) => self.remote(one, url, &dir),
            (None, None) => {}
        }
    }

    fn local(&mut self, one: &Include<'_>, path: &Str<'_>, dir: &str, own: &str) {
        if self.file.contains("://") {
            let message = format!("`{}` is a remote file and includes `{}`, which is local", self.file, path.text);
            let hint = "a remote file includes only remote ones".to_owned();
            self.error(ErrorKind::BadPath, path.place, message).hints.push(hint);
            return;
        }
        let mut spots = vec![];
        if let Err(why) = paths::read(own, &path.text, &mut spots) {
            self.error(ErrorKind::BadPath, path.place, format!("include `{}` {why}", path.text));
        }
        for spot in spots {
            let found = match spot {
                Spot::Literal { path, .. } => vec![path.to_string()],
                Spot::Pattern { pattern, .. } => {
                    let mut found = vec![];
                    walk(self.root, &pattern, pattern.start(), "", 0, self.looked, &mut found);
                    found.sort_unstable();
                    if found.is_empty() {
                        self.error(ErrorKind::Io, path.place, format!("no file matches include `{}`", path.text));
                    }
                    // Itself is not meant by a form that happens to match it.
                    found.retain(|f| *f != self.file);
                    found
                }
            };
            let several = found.len() > 1;
            if let (true, Some(name)) = (several, &one.name) {
                let message = format!("`{}` is {} files and cannot have one `name`", path.text, found.len());
                self.error(ErrorKind::BadName, name.place, message);
            }
            for file in found {
                let bytes = match self.is_ring(&file, path.place) {
                    true => continue,
                    false => members::read(&self.root.join(&file)),
                };
                match bytes {
                    Ok(text) => self.add(one, file, dir, text),
                    Err(why) => {
                        self.error(ErrorKind::Io, path.place, format!("read `{file}`, which is included: {why}"));
                    }
                }
            }
        }
    }

    fn remote(&mut self, one: &Include<'_>, url: &Str<'_>, dir: &str) {
        let Some(pin) = &one.blake3 else { return };
        let Some(id) = fetching::blake3(&pin.text).map(BlobId::from_digest) else {
            let message = format!("`blake3` of an include is `{}`, which is no hash", pin.text);
            let hint = "64 hexadecimal digits, or the id of a blob".to_owned();
            self.error(ErrorKind::BadValue, pin.place, message).hints.push(hint);
            return;
        };
        if self.is_ring(&url.text, url.place) {
            return;
        }
        let text = (self.fetch)(&url.text, id).and_then(|bytes| {
            if BlobId::of(&bytes) != id {
                return Err(format!("its content is {}, not what `blake3` says", BlobId::of(&bytes)));
            }
            if bytes.len() > MAX_FILE_BYTES {
                return Err(format!("it has more than {MAX_FILE_BYTES} bytes"));
            }
            String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
        });
        match text {
            Ok(text) => self.add(one, url.text.clone().into_owned(), dir, text),
            Err(why) => {
                self.error(ErrorKind::Io, url.place, format!("include `{}`: {why}", url.text));
            }
        }
    }

    /// Whether a file is one of those by which this one came in; that is an error.
    fn is_ring(&mut self, file: &str, place: Place) -> bool {
        let mut path = vec![file.to_owned()];
        let mut at = self.at;
        loop {
            let (name, parent) = match at {
                0 => (if self.at == 0 { self.file.clone() } else { super::FILE_NAME.to_owned() }, 0),
                _ => (self.listed[at - 1].file.path.clone(), self.listed[at - 1].parent),
            };
            let found = name == file;
            path.push(name);
            if found {
                break;
            }
            if at == 0 || at <= self.members {
                return false;
            }
            at = parent;
        }
        path.reverse();
        let ring: Vec<String> = path.iter().map(|p| format!("`{p}`")).collect();
        self.error(ErrorKind::Cycle, place, format!("workfiles include one another: {}", ring.join(" -> ")));
        true
    }

    fn add(&mut self, one: &Include<'_>, path: String, dir: &str, text: String) {
        let stem = path.rsplit('/').next().unwrap_or_default();
        let stem = stem.split_once('.').map_or(stem, |(stem, _)| stem);
        let name = one.name.as_ref().map_or(stem, |name| &name.text);
        let place = one.name.as_ref().map_or(one.place, |name| name.place);
        if !is_task_name(name) || name == "tag" {
            let message = format!("`{name}` cannot name what is included");
            self.error(ErrorKind::BadName, place, message).hints.push("give it another: `name = \"...\"`".into());
            return;
        }
        // What a member includes is the member's.
        let above = match self.at {
            0 => String::new(),
            at => self.listed[at - 1].name.clone().unwrap_or_else(|| {
                let listed = &self.listed[at - 1];
                let file = parse(at as u32, &listed.file.text, &mut vec![]);
                members::name(&listed.dir, &file).to_owned()
            }),
        };
        let name = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
        let file = SourceFile { path, text: text.into() };
        self.listed.push(Listed {
            dir: dir.to_owned(),
            place,
            file,
            name: Some(name),
            parent: self.at,
            entries: vec![],
        });
    }
}

/// Files that match. Hidden folders are entered only when the pattern names them.
fn walk(
    root: &Path,
    pattern: &Pattern,
    states: States,
    dir: &str,
    depth: usize,
    looked: &mut Looked,
    out: &mut Vec<String>,
) {
    if out.len() > MAX_INCLUDED {
        return;
    }
    for found in folder::entries(root, dir, pattern, states, depth, looked) {
        if found.is_dir {
            walk(root, pattern, found.states, &found.path, depth + 1, looked, out);
        } else if pattern.accepts(found.states) {
            out.push(found.path);
        }
    }
}
