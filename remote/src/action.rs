//! An invocation in the protocol's words: a command, an input root, an action.
//!
//! Says what cannot be put so, and why; reads files to name them and sends nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use prost::Message;
use quipu_runtime::exec::Job;
use quipu_runtime::process::{OutputKind, ProcessSpec, Tier};
use quipu_runtime::run::values::entry_of;
use quipu_runtime::value::Value;
use quipu_store::cid::{BlobId, Link, TreeId};
use quipu_store::tree::{self, Entry};
use quipu_store::{Blob, Store};

use crate::api;
use crate::api::Digest;
use crate::cas::Source;
use crate::digests::{self, Function};

/// Longest text that an argument may take from another task's output, in bytes.
const ARGUMENT_BYTES: u64 = 128 << 10;
/// Where standard input stands in the input root when it comes from another task.
const STDIN: &str = ".quipu-stdin";

/// Why an invocation is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// It runs here: this cannot be said in the protocol, or not be promised by a worker.
    Here(&'static str),
    /// Bytes of these inputs are not here.
    Gone(Vec<String>),
    /// Source files are not what they were when the task got its id.
    Changed(Vec<String>),
    /// It cannot be carried out anywhere.
    Broken(String),
}

/// What workers are like, as their user says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workers {
    /// Properties they are asked for.
    pub(crate) platform: BTreeMap<String, String>,
    /// Whether they have the tools that tasks name, as this machine has them.
    pub(crate) same_tools: bool,
}

/// An action with every blob it needs.
pub(crate) struct Prepared {
    pub(crate) spec: ProcessSpec,
    pub(crate) action: Digest,
    pub(crate) blobs: HashMap<Digest, Source>,
}

/// Puts an invocation in the protocol's words.
pub(crate) fn prepare(
    job: &Job,
    root: &std::path::Path,
    workers: &Workers,
    function: Function,
) -> Result<Prepared, NotSent> {
    let spec = ProcessSpec::from_args(&job.invocation.args).map_err(|e| NotSent::Broken(e.to_string()))?;
    fits(&spec, workers)?;
    let mut input = Input { store: &job.store, root, function, blobs: HashMap::new(), gone: vec![], changed: vec![] };
    let mut top = Dir::default();
    if let Some(tree) = spec.sources {
        input.add_tree(&mut top, "", tree, true)?;
    }
    for (path, value) in &spec.inputs {
        let no_artifact = || NotSent::Broken(format!("input `{path}` is not an artifact"));
        if path.starts_with('@') {
            let Value::Map(outputs) = value else { return Err(no_artifact()) };
            for (path, value) in outputs.iter() {
                input.add(&mut top, path, &entry_of(value).ok_or_else(no_artifact)?, false)?;
            }
        } else {
            let entry = match value {
                Value::Link(link) => stream(&job.store, **link).ok_or_else(|| NotSent::Gone(vec![path.to_string()]))?,
                value => entry_of(value).ok_or_else(no_artifact)?,
            };
            input.add(&mut top, path, &entry, false)?;
        }
    }
    let stdin = match &spec.stdin {
        None => None,
        Some(Value::Text(path)) => Some(path.to_string()),
        Some(value) => {
            let entry = match value {
                Value::Link(link) => stream(&job.store, **link),
                value => entry_of(value),
            };
            let entry = entry.ok_or_else(|| NotSent::Gone(vec!["standard input".to_owned()]))?;
            input.add(&mut top, STDIN, &entry, false)?;
            Some(STDIN.to_owned())
        }
    };
    if !spec.dir.is_empty() {
        // It may have nothing in it yet.
        top.at(&spec.dir);
    }
    let input_root = top.encode(&mut input);
    let Input { gone, changed, mut blobs, .. } = input;
    if !gone.is_empty() {
        return Err(NotSent::Gone(gone));
    }
    if !changed.is_empty() {
        return Err(NotSent::Changed(changed));
    }
    let command = command(&job.store, &spec, stdin.as_deref(), workers)?.encode_to_vec();
    let mut salt = b"quipu/exec/1/".to_vec();
    salt.extend_from_slice(job.id.digest());
    let action = api::Action {
        command_digest: Some(function.of(&command)),
        input_root_digest: Some(input_root),
        timeout: job.timeout.map(|t| bazel_remote_apis::google::protobuf::Duration {
            seconds: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(t.subsec_nanos()).unwrap_or(0),
        }),
        salt,
        platform: Some(platform(workers)),
        ..api::Action::default()
    };
    let action = action.encode_to_vec();
    let digest = function.of(&action);
    for bytes in [command, action] {
        blobs.insert(function.of(&bytes), Source::Here(bytes));
    }
    Ok(Prepared { spec, action: digest, blobs })
}

/// Whether a worker can keep what the invocation's id promises.
fn fits(spec: &ProcessSpec, workers: &Workers) -> Result<(), NotSent> {
    if spec.tier != Tier::Ns {
        return Err(NotSent::Here("only sandboxed tasks are sent"));
    }
    if !spec.services.is_empty() {
        return Err(NotSent::Here("it needs services, which run here"));
    }
    if !spec.secrets.is_empty() {
        return Err(NotSent::Here("it is given a secret"));
    }
    if spec.network {
        return Err(NotSent::Here("it uses the network"));
    }
    if !spec.tools.is_empty() && !workers.same_tools {
        return Err(NotSent::Here("it names tools, and workers may have others"));
    }
    if spec.outputs.iter().any(|o| o.kind == OutputKind::Glob) {
        return Err(NotSent::Here("it declares outputs by a pattern"));
    }
    if spec.stdin.as_ref().is_some_and(|stdin| matches!(stdin, Value::Map(_)) && entry_of(stdin).is_none()) {
        return Err(NotSent::Here("it takes what came of a task that may have failed"));
    }
    if (&*spec.platform.0, &*spec.platform.1) != (std::env::consts::OS, std::env::consts::ARCH) {
        return Err(NotSent::Here("it is for another platform than this machine's"));
    }
    Ok(())
}

fn platform(workers: &Workers) -> api::Platform {
    // The protocol wants them sorted, which the map is.
    let property =
        |(name, value): (&String, &String)| api::platform::Property { name: name.clone(), value: value.clone() };
    api::Platform { properties: workers.platform.iter().map(property).collect() }
}

fn command(store: &Store, spec: &ProcessSpec, stdin: Option<&str>, workers: &Workers) -> Result<api::Command, NotSent> {
    let mut steps = vec![];
    for argv in &spec.steps {
        steps.push(argv.iter().map(|v| text(store, v)).collect::<Result<Vec<String>, NotSent>>()?);
    }
    let arguments = match &steps[..] {
        [argv] if spec.dir.is_empty() && stdin.is_none() => argv.clone(),
        _ => {
            // Outputs are named from the directory a command starts in: that stays the root.
            let stdin = stdin.map(|path| format!(" < \"$root\"/{}", quoted(path))).unwrap_or_default();
            let mut script = vec!["root=$(pwd)".to_owned()];
            if !spec.dir.is_empty() {
                script.push(format!("cd {}", quoted(&spec.dir)));
            }
            for argv in &steps {
                let words: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
                script.push(format!("{}{stdin}", words.join(" ")));
            }
            vec!["/bin/sh".to_owned(), "-c".to_owned(), script.join(" && ")]
        }
    };
    let mut environment_variables = vec![];
    for (name, value) in &spec.env {
        let value = text(store, value)?;
        environment_variables.push(api::command::EnvironmentVariable { name: name.to_string(), value });
    }
    let mut output_paths: Vec<String> = spec.outputs.iter().map(|o| o.path.to_string()).collect();
    output_paths.retain(|path| Some(path.as_str()) != spec.stdout.as_deref());
    output_paths.sort();
    output_paths.dedup();
    let of_kind = |kind| {
        let mut paths: Vec<String> =
            spec.outputs.iter().filter(|o| o.kind == kind).map(|o| o.path.to_string()).collect();
        paths.retain(|path| output_paths.contains(path));
        paths.sort();
        paths
    };
    #[expect(deprecated, reason = "older servers look at nothing else")]
    Ok(api::Command {
        arguments,
        environment_variables,
        output_files: of_kind(OutputKind::File),
        output_directories: of_kind(OutputKind::Dir),
        output_paths,
        platform: Some(platform(workers)),
        ..api::Command::default()
    })
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A value as text, as it is here: what another task printed stands without the blanks around it, and the parts of a list are
/// put together.
fn text(store: &Store, value: &Value) -> Result<String, NotSent> {
    let read = |link: Link| match store.get(link, ARGUMENT_BYTES) {
        Ok(Some(bytes)) => {
            let text = String::from_utf8(bytes).map_err(|_| NotSent::Broken("an argument is not text".to_owned()))?;
            Ok(text.trim().to_owned())
        }
        Ok(None) => Err(NotSent::Gone(vec!["an argument".to_owned()])),
        Err(e) => Err(NotSent::Broken(e.to_string())),
    };
    match value {
        Value::Text(text) => Ok(text.to_string()),
        Value::Int(number) => Ok(number.to_string()),
        Value::Link(link) => read(**link),
        Value::List(parts) => parts.iter().map(|part| text(store, part)).collect(),
        other => match entry_of(other) {
            Some(Entry::File { blob, .. }) => read(blob.link()),
            _ => Err(NotSent::Here("it takes what came of a task that may have failed")),
        },
    }
}

/// What another task printed, as a file.
fn stream(store: &Store, link: Link) -> Option<Entry> {
    let blob = BlobId::try_from(link).ok()?;
    let size = match store.blob(blob).ok()?? {
        Blob::Inline(bytes) => bytes.len() as u64,
        Blob::File { size, .. } => size,
    };
    Some(Entry::File { blob, size, exec: false })
}

/// A directory of the input root.
#[derive(Default)]
struct Dir {
    dirs: BTreeMap<String, Self>,
    files: BTreeMap<String, (Digest, bool)>,
    links: BTreeMap<String, String>,
}

impl Dir {
    /// The directory at a path, made when it is not there.
    fn at(&mut self, path: &str) -> &mut Self {
        path.split('/').filter(|p| !p.is_empty()).fold(self, |dir, name| dir.dirs.entry(name.to_owned()).or_default())
    }

    fn encode(self, input: &mut Input<'_>) -> Digest {
        let mut directory = api::Directory::default();
        for (name, dir) in self.dirs {
            let digest = Some(dir.encode(input));
            directory.directories.push(api::DirectoryNode { name, digest });
        }
        for (name, (digest, is_executable)) in self.files {
            directory.files.push(api::FileNode { name, digest: Some(digest), is_executable, node_properties: None });
        }
        for (name, target) in self.links {
            directory.symlinks.push(api::SymlinkNode { name, target, node_properties: None });
        }
        let bytes = directory.encode_to_vec();
        let digest = input.function.of(&bytes);
        input.blobs.insert(digest.clone(), Source::Here(bytes));
        digest
    }
}

/// What is known of the input root's blobs so far.
struct Input<'a> {
    store: &'a Store,
    root: &'a std::path::Path,
    function: Function,
    blobs: HashMap<Digest, Source>,
    gone: Vec<String>,
    changed: Vec<String>,
}

impl Input<'_> {
    fn add(&mut self, top: &mut Dir, path: &str, entry: &Entry, source: bool) -> Result<(), NotSent> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        match entry {
            Entry::Dir { tree } => {
                top.at(path);
                return self.add_tree(top, path, *tree, source);
            }
            Entry::Symlink { target } => drop(top.at(parent).links.insert(name.to_owned(), target.to_string())),
            Entry::File { blob, exec, .. } => {
                if let Some(digest) = self.file(path, *blob, source)? {
                    top.at(parent).files.insert(name.to_owned(), (digest, *exec));
                }
            }
        }
        Ok(())
    }

    fn add_tree(&mut self, top: &mut Dir, path: &str, id: TreeId, source: bool) -> Result<(), NotSent> {
        if path.split('/').count() > tree::MAX_DEPTH {
            return Err(NotSent::Broken(format!("`{path}` is too deep")));
        }
        let found = self.store.tree(id).map_err(|e| NotSent::Broken(e.to_string()))?;
        let Some(tree) = found else {
            self.gone.push(if path.is_empty() { "its sources".to_owned() } else { path.to_owned() });
            return Ok(());
        };
        for (name, entry) in tree.entries() {
            let path = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
            self.add(top, &path, entry, source)?;
        }
        Ok(())
    }

    /// The server's name for a file's content; its bytes are in the store, or still where the person has them.
    fn file(&mut self, path: &str, blob: BlobId, source: bool) -> Result<Option<Digest>, NotSent> {
        let failed = |e: quipu_store::StoreError| NotSent::Broken(e.to_string());
        let link = blob.link();
        if let Some(digest) = digests::compute(self.store, self.function, link).map_err(failed)? {
            self.blobs.insert(digest.clone(), Source::Block(link));
            return Ok(Some(digest));
        }
        if !source {
            self.gone.push(path.to_owned());
            return Ok(None);
        }
        let file: PathBuf = self.root.join(path);
        match digests::compute_file(self.store, self.function, link, &file).map_err(failed)? {
            Some(digest) => {
                self.blobs.insert(digest.clone(), Source::Path(file));
                Ok(Some(digest))
            }
            None => {
                self.changed.push(path.to_owned());
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_store::cid::Codec;
    use quipu_store::sign::Signer;
    use quipu_store::tree::{Name, Tree};
    use quipu_store::{Options, SignerSource};

    fn store() -> Store {
        Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))))
    }

    fn spec(steps: &[&[&str]]) -> ProcessSpec {
        let steps = steps.iter().map(|argv| argv.iter().map(|a| Value::from(*a)).collect()).collect();
        let env = [("B".into(), "2".into()), ("A".into(), "1".into())].into();
        ProcessSpec {
            env,
            ..ProcessSpec::new(steps, Tier::Ns, (std::env::consts::OS.into(), std::env::consts::ARCH.into()))
        }
    }

    #[test]
    fn what_a_worker_cannot_promise_stays_here() {
        let workers = Workers::default();
        assert_eq!(fits(&spec(&[&["true"]]), &workers), Ok(()));
        let with = |change: &dyn Fn(&mut ProcessSpec)| {
            let mut spec = spec(&[&["true"]]);
            change(&mut spec);
            matches!(fits(&spec, &workers), Err(NotSent::Here(_)))
        };
        assert!(with(&|s| s.tier = Tier::None));
        assert!(with(&|s| s.network = true));
        assert!(with(&|s| s.secrets = vec!["TOKEN".into()]));
        assert!(with(&|s| s.services = vec![Value::Null]));
        assert!(with(&|s| s.platform.1 = "pdp11".into()));
        assert!(with(&|s| s.tools = [("cc".into(), BlobId::of(b"cc"))].into()));
        let glob = quipu_runtime::process::OutputSpec { path: "a*".into(), kind: OutputKind::Glob, optional: false };
        assert!(with(&|s| s.outputs.push(glob.clone())));
        let mut tools = spec(&[&["cc"]]);
        tools.tools.insert("cc".into(), BlobId::of(b"cc"));
        assert_eq!(fits(&tools, &Workers { same_tools: true, ..workers.clone() }), Ok(()));
    }

    #[test]
    fn one_plain_step_is_the_command_and_all_else_goes_through_a_shell() {
        let workers = Workers { platform: [("os".to_owned(), "linux".to_owned())].into(), same_tools: false };
        let made = |spec: &ProcessSpec, stdin| command(&store(), spec, stdin, &workers).expect("texts");
        let plain = made(&spec(&[&["cc", "it's", "-c"]]), None);
        assert_eq!(plain.arguments, ["cc", "it's", "-c"]);
        let names: Vec<_> = plain.environment_variables.iter().map(|v| v.name.as_str()).collect();
        assert_eq!((names, plain.working_directory.as_str()), (vec!["A", "B"], ""));
        let mut several = spec(&[&["a", "it's"], &["b"]]);
        several.dir = "sub dir".into();
        let shell = made(&several, Some("in"));
        let expected = "root=$(pwd) && cd 'sub dir' && 'a' 'it'\\''s' < \"$root\"/'in' && 'b' < \"$root\"/'in'";
        assert_eq!(shell.arguments, ["/bin/sh", "-c", expected]);
    }

    #[test]
    fn the_input_root_has_directories_links_and_executables_in_order() {
        let store = store();
        let put = |text: &str| -> BlobId {
            store.put(Codec::Raw, text.as_bytes().to_vec()).expect("stored").try_into().expect("raw")
        };
        let name = |n: &str| Name::new(n).expect("valid");
        let tree = Tree::new(vec![
            (name("run"), Entry::File { blob: put("x"), size: 1, exec: true }),
            (name("link"), Entry::Symlink { target: "run".into() }),
        ]);
        let tree = store.put_tree(&tree.expect("valid")).expect("stored");
        let function = Function::Sha256;
        let root = std::path::Path::new("/nowhere");
        let mut input = Input { store: &store, root, function, blobs: HashMap::new(), gone: vec![], changed: vec![] };
        let mut top = Dir::default();
        input.add(&mut top, "out/dir", &Entry::Dir { tree }, false).expect("added");
        let lost = Entry::File { blob: BlobId::of(b"lost"), size: 4, exec: false };
        input.add(&mut top, "lost", &lost, false).expect("noted");
        input.add(&mut top, "edited", &lost, true).expect("noted");
        assert_eq!((&input.gone[..], &input.changed[..]), (&["lost".to_owned()][..], &["edited".to_owned()][..]));
        let digest = top.encode(&mut input);
        let read = |input: &Input<'_>, digest: &Digest| match &input.blobs[digest] {
            Source::Here(bytes) => api::Directory::decode(&bytes[..]).expect("a directory"),
            _ => panic!("a directory"),
        };
        let top = read(&input, &digest);
        let out = read(&input, top.directories[0].digest.as_ref().expect("named"));
        let dir = read(&input, out.directories[0].digest.as_ref().expect("named"));
        assert_eq!((dir.files[0].name.as_str(), dir.files[0].is_executable), ("run", true));
        assert_eq!((dir.symlinks[0].name.as_str(), dir.symlinks[0].target.as_str()), ("link", "run"));
        assert!(input.blobs.contains_key(&function.of(b"x")));
    }
}
