//! The arguments of a process with nothing left to look up: texts and artifacts.
//!
//! Knows what values may stand where; unaware of how processes are run.

use quipu_store::checkout::CheckoutError;
use quipu_store::cid::{BlobId, Link};
use quipu_store::receipt::FailureKind;
use quipu_store::tree::Entry;
use quipu_store::{Blob, Store};

use super::sandbox::EnterError;
use crate::dag_json;
use crate::process::ProcessSpec;
use crate::run::values::entry_of;
use crate::value::Value;

/// Longest text that an argument may take from another task's output, in bytes.
const ARGUMENT_BYTES: u64 = 128 << 10;

/// The arguments with every value made plain.
pub(super) struct Plain {
    pub(super) spec: ProcessSpec,
    pub(super) steps: Vec<Vec<String>>,
    pub(super) env: Vec<(String, String)>,
    pub(super) artifacts: Vec<(String, Entry)>,
}

/// Why nothing ran, or nothing more.
pub(super) enum Halt {
    Failed(FailureKind),
    /// Bytes of these inputs are not in the store.
    Gone(Vec<String>),
}

impl From<FailureKind> for Halt {
    fn from(kind: FailureKind) -> Self {
        Self::Failed(kind)
    }
}

impl From<EnterError> for Halt {
    fn from(error: EnterError) -> Self {
        match error {
            EnterError::Input { path, source } => Self::input(path, source),
            other => Self::Failed(other.into()),
        }
    }
}

impl Halt {
    pub(super) fn input(path: String, error: CheckoutError) -> Self {
        match error {
            CheckoutError::Missing { .. } | CheckoutError::Corrupt(_) => Self::Gone(vec![path]),
            other => Self::Failed(FailureKind::Executor { why: format!("input `{path}`: {other}") }),
        }
    }
}

impl Plain {
    /// Reads the arguments of an invocation.
    pub(super) fn read(store: &Store, args: &Value) -> Result<Self, Halt> {
        let failed = |why: String| Halt::Failed(FailureKind::Executor { why });
        let spec = ProcessSpec::from_args(args).map_err(|e| failed(e.to_string()))?;
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        if (&*spec.platform.0, &*spec.platform.1) != (os, arch) {
            let (for_os, for_arch) = &spec.platform;
            let why = format!("it is for {for_os}/{for_arch}, this machine is {os}/{arch}");
            return Err(FailureKind::Spawn { why }.into());
        }
        let mut steps = Vec::with_capacity(spec.steps.len());
        for (i, argv) in spec.steps.iter().enumerate() {
            let texts = argv.iter().enumerate();
            let texts = texts.map(|(j, v)| text(store, v, &|| format!("argument {j} of step {}", i + 1)));
            steps.push(texts.collect::<Result<Vec<_>, _>>()?);
        }
        let mut env = Vec::with_capacity(spec.env.len());
        for (name, value) in &spec.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(failed(format!("`{name}` cannot be the name of an environment variable")));
            }
            env.push((name.to_string(), text(store, value, &|| format!("environment variable `{name}`"))?));
        }
        let mut artifacts = Vec::new();
        for (path, value) in &spec.inputs {
            if let Some(task) = path.strip_prefix('@') {
                let Value::Map(outputs) = value else { return Err(no_artifact(task)) };
                for (path, value) in outputs.iter() {
                    artifacts.push((path.to_string(), entry_of(value).ok_or_else(|| no_artifact(path))?));
                }
            } else {
                artifacts.push((path.to_string(), input(store, path, value)?));
            }
        }
        // The same thing by two ways is one thing; two things at one path are a mistake found before.
        artifacts.sort_by(|a, b| a.0.cmp(&b.0));
        artifacts.dedup();
        Ok(Self { spec, steps, env, artifacts })
    }

    /// Where programs are looked for.
    pub(super) fn path(&self) -> &str {
        self.env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value)
    }
}

fn no_artifact(path: &str) -> Halt {
    Halt::Failed(FailureKind::Executor { why: format!("input `{path}` is not an artifact") })
}

/// An input: an artifact, or a link to a stream another task printed.
fn input(store: &Store, path: &str, value: &Value) -> Result<Entry, Halt> {
    let Value::Link(link) = value else { return entry_of(value).ok_or_else(|| no_artifact(path)) };
    let blob = BlobId::try_from(**link).map_err(|_| no_artifact(path))?;
    let size = match store.blob(blob) {
        Ok(Some(Blob::Inline(bytes))) => bytes.len() as u64,
        Ok(Some(Blob::File { size, .. })) => size,
        Ok(None) => return Err(Halt::Gone(vec![path.to_owned()])),
        Err(error) => return Err(Halt::Failed(FailureKind::Executor { why: format!("input `{path}`: {error}") })),
    };
    Ok(Entry::File { blob, size, exec: false })
}

/// What came of a task, where that may be a failure: its error, or either outcome, as DAG-JSON.
pub(super) fn result_text(value: &Value) -> Option<String> {
    let Value::Map(pairs) = value else { return None };
    let keys: Vec<&str> = pairs.iter().map(|(key, _)| &**key).collect();
    let is_result = matches!(keys[..], ["kind", "message"] | ["ok"] | ["error"]);
    is_result.then(|| dag_json::of_value(value).to_string())
}

/// A value as text: what another task printed stands without the blanks and line ends around it; the parts of a list
/// are put together. `what` names it where that fails.
fn text(store: &Store, value: &Value, what: &dyn Fn() -> String) -> Result<String, Halt> {
    let failed = |why: &str| Halt::Failed(FailureKind::Executor { why: format!("{}: {why}", what()) });
    let blob = |link: Link| match store.get(link, ARGUMENT_BYTES) {
        Ok(Some(bytes)) => {
            let text = String::from_utf8(bytes).map_err(|_| failed("it is not text"))?;
            Ok(text.trim().to_owned())
        }
        Ok(None) => Err(Halt::Gone(vec![what()])),
        Err(e) => Err(failed(&e.to_string())),
    };
    let text = match value {
        Value::Text(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Link(link) => blob(**link)?,
        Value::List(parts) => parts
            .iter()
            .map(|part| match part {
                Value::List(_) => Err(failed("a part of it is a list")),
                part => text(store, part, what),
            })
            .collect::<Result<String, _>>()?,
        other => match entry_of(other) {
            Some(Entry::File { blob: id, .. }) => blob(id.link())?,
            _ => result_text(other).ok_or_else(|| failed("it is neither text nor a file"))?,
        },
    };
    if text.contains('\0') { Err(failed("it has a NUL byte in it")) } else { Ok(text) }
}
