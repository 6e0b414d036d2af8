//! What came out of an action: the server's words and blobs made into ours.
//!
//! Every byte is downloaded and hashed; paths, names and links are checked as those of any stranger. Unaware of how
//! the action was run.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use prost::Message;
use quipu_runtime::process::{OutputKind, OutputSpec, ProcessSpec};
use quipu_store::cid::{BlobId, Codec};
use quipu_store::receipt::{Failure, FailureKind, Output};
use quipu_store::remote::RemoteError;
use quipu_store::tree::{Entry, MAX_DEPTH, Name, Tree};
use quipu_store::{Store, Take};

use crate::api;
use crate::api::Digest;
use crate::cas;
use crate::client::Client;
use crate::digests;

/// Nobody's output directory has a longer list of contents.
const MAX_TREE_BYTES: i64 = 256 << 20;
/// Bytes taken into memory rather than a file.
const SMALL_BYTES: i64 = 1 << 20;

/// What was found of the declared outputs.
pub(crate) enum Collected {
    All(Output),
    /// The task did not do what it declared.
    Wrong(Failure),
    /// The server does not have what it names.
    Gone(String),
}

/// Takes all declared outputs of a result.
pub(crate) async fn collect(
    client: &Client,
    store: &Store,
    spec: &ProcessSpec,
    result: &api::ActionResult,
) -> Result<Collected, RemoteError> {
    let Some((stdout, stderr)) = streams(client, store, result).await? else {
        return Ok(Collected::Gone("what was printed is gone".to_owned()));
    };
    let mut fetcher = Fetcher { client, store, known: HashMap::new() };
    let mut artifacts = BTreeMap::new();
    for output in &spec.outputs {
        let wrong = |kind| Ok(Collected::Wrong(Failure { kind, stdout, stderr }));
        if Some(&output.path) == spec.stdout.as_ref() {
            let (blob, size) = stdout_file(store, stdout)?;
            artifacts.insert((*output.path).into(), Entry::File { blob, size, exec: false });
            continue;
        }
        match fetcher.output(output, result).await? {
            Found::Entry(entry) => drop(artifacts.insert((*output.path).into(), entry)),
            Found::Nothing if output.optional => {}
            Found::Nothing => return wrong(FailureKind::MissingOutput { path: output.path.to_string() }),
            Found::Bad(why) => return wrong(FailureKind::BadOutput { path: output.path.to_string(), why }),
            Found::Gone => return Ok(Collected::Gone(format!("output `{}` is gone", output.path))),
        }
    }
    let stdout = if spec.stdout.is_some() { None } else { stdout };
    Ok(Collected::All(Output { artifacts, stdout, stderr }))
}

/// Standard output as a file, empty when nothing was printed.
fn stdout_file(store: &Store, stdout: Option<BlobId>) -> Result<(BlobId, u64), RemoteError> {
    match stdout {
        None => Ok((put(store, vec![])?, 0)),
        Some(blob) => {
            let size = match store.blob(blob)? {
                Some(quipu_store::Blob::Inline(bytes)) => bytes.len() as u64,
                Some(quipu_store::Blob::File { size, .. }) => size,
                None => 0,
            };
            Ok((blob, size))
        }
    }
}

fn put(store: &Store, bytes: Vec<u8>) -> Result<BlobId, RemoteError> {
    store.put(Codec::Raw, bytes)?.try_into().map_err(|_| RemoteError::Odd("file content has another codec".to_owned()))
}

/// What was printed; `None` when the server does not have it any more. Nothing printed is no blob.
pub(crate) async fn streams(
    client: &Client,
    store: &Store,
    result: &api::ActionResult,
) -> Result<Option<(Option<BlobId>, Option<BlobId>)>, RemoteError> {
    let mut both = [None, None];
    let of = [(&result.stdout_raw, &result.stdout_digest), (&result.stderr_raw, &result.stderr_digest)];
    for (slot, (raw, digest)) in both.iter_mut().zip(of) {
        let mut fetcher = Fetcher { client, store, known: HashMap::new() };
        if !raw.is_empty() {
            *slot = Some(put(store, raw.clone())?);
        } else if let Some(digest) = digest.as_ref().filter(|d| d.size_bytes > 0) {
            match fetcher.file(digest).await? {
                Some((blob, _)) => *slot = Some(blob),
                None => return Ok(None),
            }
        }
    }
    let [stdout, stderr] = both;
    Ok(Some((stdout, stderr)))
}

enum Found {
    Entry(Entry),
    Nothing,
    /// Of a kind that cannot be kept.
    Bad(String),
    Gone,
}

struct Fetcher<'a> {
    client: &'a Client,
    store: &'a Store,
    known: HashMap<Digest, (BlobId, u64)>,
}

impl Fetcher<'_> {
    async fn output(&mut self, output: &OutputSpec, result: &api::ActionResult) -> Result<Found, RemoteError> {
        let is_it = |path: &str| path.trim_end_matches('/') == &*output.path;
        #[expect(deprecated, reason = "older servers say links so")]
        let links = [&result.output_symlinks, &result.output_file_symlinks, &result.output_directory_symlinks];
        if let Some(link) = links.into_iter().flatten().find(|l| is_it(&l.path)) {
            return Ok(symlink(&output.path, &link.target));
        }
        if let Some(file) = result.output_files.iter().find(|f| is_it(&f.path)) {
            if output.kind == OutputKind::Dir {
                return Ok(Found::Bad("it is a file, not a directory".to_owned()));
            }
            let Some(digest) = &file.digest else { return Ok(Found::Gone) };
            return Ok(match self.file(digest).await? {
                Some((blob, size)) => Found::Entry(Entry::File { blob, size, exec: file.is_executable }),
                None => Found::Gone,
            });
        }
        if let Some(dir) = result.output_directories.iter().find(|d| is_it(&d.path)) {
            if output.kind == OutputKind::File {
                return Ok(Found::Bad("it is a directory, not a file".to_owned()));
            }
            let Some(digest) = &dir.tree_digest else { return Ok(Found::Gone) };
            return self.directory(&output.path, digest).await;
        }
        Ok(Found::Nothing)
    }

    /// Brings a file's content into the store under our own name for it; the server's is checked on the way.
    async fn file(&mut self, digest: &Digest) -> Result<Option<(BlobId, u64)>, RemoteError> {
        if let Some(known) = self.known.get(digest) {
            return Ok(Some(*known));
        }
        let Some((_, size)) = digests::parts(digest) else { return Ok(None) };
        let blob = if digest.size_bytes <= SMALL_BYTES {
            let Some(bytes) = self.bytes(digest).await? else { return Ok(None) };
            put(self.store, bytes)?
        } else {
            let own = |e: std::io::Error| RemoteError::Store(e.to_string());
            let dir = self.store.scratch_dir().map_err(own)?;
            let kept = self.large(digest, &dir.join("blob")).await;
            let _ = std::fs::remove_dir_all(&dir);
            let Some(blob) = kept? else { return Ok(None) };
            blob
        };
        self.known.insert(digest.clone(), (blob, size));
        Ok(Some((blob, size)))
    }

    async fn bytes(&self, digest: &Digest) -> Result<Option<Vec<u8>>, RemoteError> {
        let function = self.client.limits().await?.function;
        let mut bytes = vec![];
        let mut take = |chunk: &[u8]| {
            bytes.extend_from_slice(chunk);
            Ok(())
        };
        let whole = cas::read_stream(self.client, digest, &mut take).await?;
        Ok((whole && function.of(&bytes) == *digest).then_some(bytes))
    }

    async fn large(&self, digest: &Digest, path: &std::path::Path) -> Result<Option<BlobId>, RemoteError> {
        let own = |e: std::io::Error| RemoteError::Store(e.to_string());
        let function = self.client.limits().await?.function;
        let mut hasher = digests::Hasher::new(function);
        let mut file = std::fs::File::create_new(path).map_err(own)?;
        let mut take = |chunk: &[u8]| {
            hasher.update(chunk);
            file.write_all(chunk).map_err(own)
        };
        let whole = cas::read_stream(self.client, digest, &mut take).await?;
        drop(file);
        if !whole || hasher.finish() != *digest {
            return Ok(None);
        }
        Ok(Some(self.store.put_file(path, Take::Move)?.0))
    }

    /// A directory from the list of its contents. Lists differ between servers: only what is in them counts.
    async fn directory(&mut self, path: &str, digest: &Digest) -> Result<Found, RemoteError> {
        if digest.size_bytes > MAX_TREE_BYTES {
            return Ok(Found::Bad("its list of contents is too long".to_owned()));
        }
        let Some(bytes) = self.bytes(digest).await? else { return Ok(Found::Gone) };
        let Ok(list) = api::Tree::decode(&bytes[..]) else { return Ok(Found::Gone) };
        let function = self.client.limits().await?.function;
        let children: HashMap<Digest, &api::Directory> =
            list.children.iter().map(|d| (function.of(&d.encode_to_vec()), d)).collect();
        let root = list.root.clone().unwrap_or_default();
        let mut files = vec![];
        if let Err(why) = walk(&root, &children, 0, &mut |file| files.push(file.clone())) {
            return Ok(Found::Bad(why));
        }
        for digest in files {
            if self.file(&digest).await?.is_none() {
                return Ok(Found::Gone);
            }
        }
        match self.keep(path, &root, &children)? {
            Ok(entry) => Ok(Found::Entry(entry)),
            Err(why) => Ok(Found::Bad(why)),
        }
    }

    /// Stores a directory whose files are here.
    fn keep(
        &self,
        path: &str,
        dir: &api::Directory,
        children: &HashMap<Digest, &api::Directory>,
    ) -> Result<Result<Entry, String>, RemoteError> {
        let mut entries = vec![];
        let name = |text: &str| Name::new(text).map_err(|_| format!("`{}` is no name", text.escape_debug()));
        for file in &dir.files {
            let known = file.digest.as_ref().and_then(|d| self.known.get(d));
            match (name(&file.name), known) {
                (Ok(name), Some((blob, size))) => {
                    entries.push((name, Entry::File { blob: *blob, size: *size, exec: file.is_executable }));
                }
                (Err(why), _) => return Ok(Err(why)),
                (_, None) => return Ok(Err("a file in it has no content".to_owned())),
            }
        }
        for link in &dir.symlinks {
            let at = format!("{path}/{}", link.name);
            match (name(&link.name), symlink(&at, &link.target)) {
                (Ok(name), Found::Entry(entry)) => entries.push((name, entry)),
                (Err(why), _) | (_, Found::Bad(why)) => return Ok(Err(why)),
                _ => return Ok(Err("a link in it leads nowhere".to_owned())),
            }
        }
        for sub in &dir.directories {
            let Some(child) = sub.digest.as_ref().and_then(|d| children.get(d)) else {
                return Ok(Err("a directory in it is not listed".to_owned()));
            };
            let at = format!("{path}/{}", sub.name);
            let entry = match self.keep(&at, child, children)? {
                Ok(entry) => entry,
                Err(why) => return Ok(Err(why)),
            };
            match name(&sub.name) {
                Ok(name) => entries.push((name, entry)),
                Err(why) => return Ok(Err(why)),
            }
        }
        match Tree::new(entries) {
            Ok(tree) => Ok(Ok(Entry::Dir { tree: self.store.put_tree(&tree)? })),
            Err(e) => Ok(Err(e.to_string())),
        }
    }
}

/// Most entries of one output directory.
const MAX_ENTRIES: usize = 1_000_000;

/// Visits every file below a directory. Lists that nest too deep, or name themselves over and over, are refused.
fn walk(
    root: &api::Directory,
    children: &HashMap<Digest, &api::Directory>,
    depth: usize,
    file: &mut dyn FnMut(&Digest),
) -> Result<(), String> {
    let mut entries = 0;
    let mut todo = vec![(root, depth)];
    while let Some((dir, depth)) = todo.pop() {
        entries += 1 + dir.files.len() + dir.symlinks.len();
        if depth >= MAX_DEPTH || entries > MAX_ENTRIES {
            return Err("it is too deep, or has too much in it".to_owned());
        }
        dir.files.iter().filter_map(|f| f.digest.as_ref()).for_each(&mut *file);
        for sub in &dir.directories {
            let child = sub.digest.as_ref().and_then(|d| children.get(d));
            todo.push((child.ok_or("a directory in it is not listed")?, depth + 1));
        }
    }
    Ok(())
}

/// A link that stays inside of the workspace.
fn symlink(path: &str, target: &str) -> Found {
    let mut depth = path.split('/').count() as isize - 1;
    let escapes = target.starts_with('/')
        || target.is_empty()
        || target.split('/').any(|part| {
            depth += match part {
                ".." => -1,
                "" | "." => 0,
                _ => 1,
            };
            depth < 0
        });
    if escapes {
        return Found::Bad(format!("link `{path}` leads outside, to `{}`", target.escape_debug()));
    }
    Found::Entry(Entry::Symlink { target: target.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digests::Function;

    #[test]
    fn links_that_lead_outside_are_refused() {
        for (path, target) in [("a/b", "c"), ("a/b", "../c"), ("a/b", "./x/../../c"), ("b", "a/../c")] {
            assert!(matches!(symlink(path, target), Found::Entry(_)), "{path} -> {target}");
        }
        for (path, target) in [("b", "../c"), ("a/b", "../../c"), ("b", "/etc/passwd"), ("b", ""), ("b", "a/../../a")] {
            assert!(matches!(symlink(path, target), Found::Bad(_)), "{path} -> {target}");
        }
    }

    #[test]
    fn lists_that_name_themselves_over_and_over_are_refused() {
        // Sixty levels, each naming the next twice.
        let mut children = vec![api::Directory::default()];
        for _ in 0..60 {
            let digest = Some(Function::Sha256.of(&children.last().expect("begun").encode_to_vec()));
            let node = |name: &str| api::DirectoryNode { name: name.to_owned(), digest: digest.clone() };
            children.push(api::Directory { directories: vec![node("a"), node("b")], ..Default::default() });
        }
        let root = children.pop().expect("begun");
        let known: HashMap<Digest, &api::Directory> =
            children.iter().map(|d| (Function::Sha256.of(&d.encode_to_vec()), d)).collect();
        assert!(walk(&root, &known, 0, &mut |_| ()).is_err());
        assert!(walk(&children[1], &known, 0, &mut |_| ()).is_ok());
        assert!(walk(&root, &HashMap::new(), 0, &mut |_| ()).is_err());
    }
}
