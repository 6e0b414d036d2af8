//! `fetch` in a workfile: read from its table, and made into what a task is to fetch.
//!
//! Knows what addresses and hashes look like; unaware of how anything gets here.

use super::errors::{ErrorKind, WorkfileError};
use super::making::Making;
use super::model::Str;
use super::paths;
use super::reader::{Owner, Reader, Value};
use crate::fetch::{FetchSpec, MAX_STRIP, Sum, Unpack, hexadecimal};
use crate::process::{OutputKind, OutputSpec};
use crate::value::Text;

/// Keys of `fetch`.
pub(super) const FETCH_KEYS: [&str; 6] = ["url", "sha256", "blake3", "unpack", "strip", "executable"];
/// Most places that one thing may be had from.
const MAX_URLS: usize = 64;

/// A `fetch` table.
#[derive(Debug, Clone)]
pub(crate) struct Fetch<'a> {
    pub(crate) urls: Vec<Str<'a>>,
    pub(crate) sum: (HashKind, Str<'a>),
    pub(crate) unpack: Option<Unpack>,
    pub(crate) strip: u32,
    pub(crate) executable: bool,
}

/// Which hash content is known by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HashKind {
    Blake3,
    Sha256,
}

impl Reader {
    pub(super) fn fetch<'a>(&mut self, owner: Owner<'_>, value: Value<'a>) -> Option<Fetch<'a>> {
        let place = self.place(value.span());
        let (mut urls, mut sums, errors) = (vec![], vec![], self.errors.len());
        let (mut unpack, mut strip, mut executable) = (None, None, None);
        for (key, value) in self.table(owner, "fetch", value)? {
            let key = self.key(key);
            match &*key.text {
                "url" => urls = self.text_or_texts(owner, "fetch.url", value).unwrap_or_default(),
                "sha256" => sums.extend(self.text(owner, "fetch.sha256", value).map(|s| (HashKind::Sha256, s))),
                "blake3" => sums.extend(self.text(owner, "fetch.blake3", value).map(|s| (HashKind::Blake3, s))),
                "unpack" => {
                    let Some(name) = self.text(owner, "fetch.unpack", value) else { continue };
                    unpack = Unpack::from_name(&name.text);
                    if unpack.is_none() {
                        let message = format!("`fetch.unpack` of {owner} is `{}`", name.text);
                        let known: Vec<String> = Unpack::ALL.iter().map(|u| format!("`{}`", u.name())).collect();
                        let error = self.error(ErrorKind::BadValue, name.place, message);
                        error.hints.push(format!("one of {}; another task can unpack the rest", known.join(", ")));
                    }
                }
                "strip" => {
                    let count = self.int(owner, "fetch.strip", &value, 1..=MAX_STRIP.into());
                    strip = count.map(|n| (n as u32, key.place));
                }
                "executable" => {
                    executable = self.bool(owner, "fetch.executable", value).filter(|yes| *yes).map(|_| key.place);
                }
                _ => self.unknown(owner, &key, &FETCH_KEYS),
            }
        }
        let is_whole = self.errors.len() == errors;
        let mut wrong = |kind, place, message: String, hint: &str| {
            self.error(kind, place, message).hints.push(hint.to_owned());
        };
        if is_whole && urls.is_empty() {
            let message = format!("`fetch` of {owner} has no `url`");
            wrong(ErrorKind::Empty, place, message, "say where it is to be had, or several such places in a list");
        }
        if is_whole && urls.len() > MAX_URLS {
            let message = format!("`fetch` of {owner} has {} addresses", urls.len());
            wrong(ErrorKind::BadValue, place, message, &format!("at most {MAX_URLS}"));
        }
        if is_whole && sums.len() != 1 {
            let message = format!("`fetch` of {owner} has {} hashes", sums.len());
            wrong(ErrorKind::BadValue, place, message, "one of `sha256` and `blake3` says what is fetched");
        }
        match (unpack, strip, executable) {
            (None, Some((_, place)), _) if is_whole => {
                let message = format!("`fetch` of {owner} has `strip`, and no `unpack`");
                wrong(ErrorKind::BadValue, place, message, "folders are taken off what is unpacked");
            }
            (Some(_), _, Some(place)) => {
                let message = format!("`fetch` of {owner} has `executable`, and `unpack`");
                wrong(ErrorKind::BadValue, place, message, "what is unpacked is as executable as it was packed");
            }
            _ => {}
        }
        let sum = sums.pop()?;
        let strip = strip.map_or(0, |(n, _)| n);
        Some(Fetch { urls, sum, unpack, strip, executable: executable.is_some() })
    }
}

impl Making<'_, '_, '_> {
    /// What is fetched, and where from.
    pub(super) fn fetch(&mut self, fetch: &Fetch<'_>, outputs: &[OutputSpec]) -> Option<(FetchSpec, Vec<Text>)> {
        let urls: Vec<Option<Text>> = fetch.urls.iter().map(|url| self.url(url)).collect();
        let (kind, written) = &fetch.sum;
        let text = self.text(written)?;
        let sum = match kind {
            HashKind::Blake3 => blake3(&text).map(Sum::Blake3),
            HashKind::Sha256 => hexadecimal(text.strip_prefix("sha256:").unwrap_or(&text)).map(Sum::Sha256),
        };
        if sum.is_none() {
            let message = format!("`{text}` is no hash of what task `{}` fetches", self.table.name);
            let hint = "64 hexadecimal digits, as `sha256sum` or `b3sum` prints them";
            self.errors.push(WorkfileError::new(ErrorKind::BadValue, written.place, message).hint(hint));
        }
        let kind = if fetch.unpack.is_some() { OutputKind::Dir } else { OutputKind::File };
        let path = match outputs {
            [one] if one.kind == kind && !one.optional => one.path.clone(),
            // What is wrong with them is told.
            _ if self.torn => return None,
            _ => {
                let message = format!("task `{}` fetches, and has not one output for it", self.table.name);
                let hint = match kind {
                    OutputKind::Dir => "what is unpacked is one folder: `outputs = [\"vendor/name/\"]`",
                    _ => "what is fetched is one file: `outputs = [\"vendor/name\"]`",
                };
                let error = WorkfileError::new(ErrorKind::BadValue, self.table.key_place("outputs"), message);
                self.errors.push(error.hint(hint));
                return None;
            }
        };
        let spec =
            FetchSpec { sum: sum?, unpack: fetch.unpack, strip: fetch.strip, executable: fetch.executable, path };
        Some((spec, urls.into_iter().collect::<Option<_>>()?))
    }

    /// A file of the workspace that is no input: a path, as it is written after `file:`.
    fn own_file(&mut self, path: &str, written: &Str<'_>) -> Option<String> {
        let found = paths::normalise(&self.cache.dir, path);
        found.map_err(|why| self.bad_path("url", path, written.place, &why)).ok()
    }

    fn url(&mut self, written: &Str<'_>) -> Option<Text> {
        let url = self.text(written)?;
        let rest = ["https://", "http://", "file://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        let why = match authority {
            _ if !url.chars().all(|c| c.is_ascii_graphic()) => "has something in it that must be written as `%..`",
            Some(authority) if authority.contains('@') => "has a name or a password in it, which everybody would see",
            Some("") if !url.starts_with("file:") => "names no server",
            Some(_) => return Some(url),
            None => match url.strip_prefix("file:") {
                // A file of this workspace.
                Some(path) => return self.own_file(path, written).map(|path| format!("file:{path}").into()),
                None => "starts with none of `https://`, `http://`, `file:`",
            },
        };
        let message = format!("url `{url}` of task `{}` {why}", self.table.name);
        self.errors.push(WorkfileError::new(ErrorKind::BadValue, written.place, message));
        None
    }
}

/// The digest that a pin means: hexadecimal digits, or the id of a blob.
pub(super) fn blake3(text: &str) -> Option<[u8; 32]> {
    let id = text.parse::<quipu_store::cid::BlobId>().ok().map(|id| *id.digest());
    id.or_else(|| hexadecimal(text.strip_prefix("blake3:").unwrap_or(text)))
}
