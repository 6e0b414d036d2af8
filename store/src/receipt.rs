//! Receipts: what a signed record of a finished invocation says, and its one encoding.
//!
//! Knows the claim (`ran`, `out`) and the measurements beside it; unaware of keys' trust, of stores and of
//! how the work was done. Normative text: `docs/formats/receipt.md`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cid::{BlobId, InvocationId, Link, OutputId, ReceiptId, TaskId};
use crate::dag::{self, DagError};
use crate::tree::{self, Entry};

/// Largest encoded receipt, in bytes: a task that awaits 20,000 others fits.
pub const MAX_RECEIPT_BYTES: usize = 4 << 20;
/// Version of the `quipu` part of a receipt.
pub const VERSION: u64 = 1;

/// What came out of an invocation that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// What it wrote, by declared path (or by the paths a declared glob matched).
    pub artifacts: BTreeMap<Box<str>, Entry>,
    /// What it printed.
    pub stdout: Option<BlobId>,
    /// What it complained of.
    pub stderr: Option<BlobId>,
}

impl Output {
    /// Id of what others can await: artifacts and standard output.
    pub fn id(&self) -> OutputId {
        let wire = WireOut { ok: Some(WireOk::from_output(self, None)), error: None };
        OutputId::of(&dag::encode(&wire).expect("links and texts have a canonical form"))
    }

    /// Every block named here; the content of directories is not followed.
    pub fn links(&self) -> impl Iterator<Item = Link> + '_ {
        let artifacts = self.artifacts.values().filter_map(|entry| match entry {
            Entry::File { blob, .. } => Some(blob.link()),
            Entry::Dir { tree } => Some(tree.link()),
            Entry::Symlink { .. } => None,
        });
        artifacts.chain(self.stdout.map(BlobId::link)).chain(self.stderr.map(BlobId::link))
    }
}

/// Which kind of failure.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// It ended with an exit code other than zero.
    Exit {
        /// The exit code.
        code: i32,
    },
    /// It was ended by a signal nobody here sent.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It ran longer than its `timeout` and was ended.
    Timeout {
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// The kernel ended it for want of memory.
    OutOfMemory,
    /// It succeeded without writing a declared output.
    MissingOutput {
        /// The output that is not there.
        path: String,
    },
    /// It wrote a file it did not declare.
    UndeclaredOutput {
        /// The file nobody expected.
        path: String,
    },
    /// An output is of a kind that cannot be kept (device, socket, link that leads outside, ...).
    BadOutput {
        /// The output.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file it reads changed while it ran: the result belongs to neither state.
    InputChanged {
        /// The input.
        path: String,
    },
    /// It could not be started.
    Spawn {
        /// What the system said.
        why: String,
    },
    /// It awaits the branch that a task it depends on did not take.
    BranchMismatch {
        /// The task that took the other branch.
        on: TaskId,
    },
    /// It is done elsewhere, and whoever did it says that it failed.
    Delivered {
        /// What they say.
        why: String,
    },
    /// A service that it needs ended while it ran.
    Service {
        /// Which, and how it ended.
        why: String,
    },
    /// The executor itself failed.
    Executor {
        /// What went wrong.
        why: String,
    },
}

impl FailureKind {
    /// The kind's name in receipts, events and `--json`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exit { .. } => "exit",
            Self::Signal { .. } => "signal",
            Self::Timeout { .. } => "timeout",
            Self::OutOfMemory => "out-of-memory",
            Self::MissingOutput { .. } => "missing-output",
            Self::UndeclaredOutput { .. } => "undeclared-output",
            Self::BadOutput { .. } => "bad-output",
            Self::InputChanged { .. } => "input-changed",
            Self::Spawn { .. } => "spawn",
            Self::BranchMismatch { .. } => "branch-mismatch",
            Self::Delivered { .. } => "delivered",
            Self::Service { .. } => "service",
            Self::Executor { .. } => "executor",
        }
    }

    /// Whether a receipt may record it: what happened to the task, not to this run of quipu.
    pub fn is_recorded(&self) -> bool {
        !matches!(
            self,
            Self::InputChanged { .. } | Self::BranchMismatch { .. } | Self::Service { .. } | Self::Executor { .. }
        )
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { code } => write!(f, "exit code {code}"),
            Self::Signal { signal } => write!(f, "ended by signal {signal}"),
            Self::Timeout { limit_ms: ms @ 0..=999 } => write!(f, "timed out after {ms} ms"),
            Self::Timeout { limit_ms } => write!(f, "timed out after {} s", *limit_ms as f64 / 1000.0),
            Self::OutOfMemory => f.write_str("ran out of memory"),
            Self::MissingOutput { path } => write!(f, "did not write its declared output `{path}`"),
            Self::UndeclaredOutput { path } => write!(f, "wrote `{path}`, which it does not declare"),
            Self::BadOutput { path, why } => write!(f, "output `{path}` cannot be kept: {why}"),
            Self::InputChanged { path } => write!(f, "input `{path}` changed while it ran"),
            Self::Spawn { why } => write!(f, "could not be started: {why}"),
            Self::BranchMismatch { on } => write!(f, "awaits a branch that {on} did not take"),
            Self::Delivered { why } | Self::Service { why } | Self::Executor { why } => f.write_str(why),
        }
    }
}

/// What came out of an invocation that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which kind of failure.
    pub kind: FailureKind,
    /// What it printed.
    pub stdout: Option<BlobId>,
    /// What it complained of.
    pub stderr: Option<BlobId>,
}

impl Failure {
    /// Id of what others can await: the kind and its particulars.
    pub fn id(&self) -> OutputId {
        let error = WireError { stdout: None, stderr: None, ..WireError::from_failure(self) };
        let wire = WireOut { ok: None, error: Some(error) };
        OutputId::of(&dag::encode(&wire).expect("links and texts have a canonical form"))
    }
}

impl From<FailureKind> for Failure {
    fn from(kind: FailureKind) -> Self {
        Self { kind, stdout: None, stderr: None }
    }
}

/// The awaited outputs a result was made from: direct awaits only.
pub type Via = BTreeMap<TaskId, OutputId>;

/// What was measured and said beside the claim. Decides nothing but the order of work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// The tasks this receipt settles, each with the awaited outputs it was made from.
    pub settles: BTreeMap<TaskId, Via>,
    /// Receipts of the inputs.
    pub ins: Vec<ReceiptId>,
    /// Wall time, in milliseconds.
    pub wall_ms: u64,
    /// User and system time, in milliseconds.
    pub cpu_ms: u64,
    /// Peak resident memory, in bytes.
    pub rss_bytes: u64,
    /// How isolated the run was: `ns`, `wasm`, `landlock`, `none` or `native`.
    pub tier: String,
    /// Name of the machine, when its owner lets it be said.
    pub host: Option<String>,
}

/// What a receipt says, apart from who says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The invocation that ran.
    pub ran: InvocationId,
    /// What came out.
    pub out: Result<Output, Failure>,
    /// When it was issued, in seconds since 1970.
    pub issued_at: u64,
    /// When it stops counting, in seconds since 1970.
    pub expires_at: Option<u64>,
    /// Measurements and hints.
    pub meta: Meta,
}

/// Why bytes are no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Not canonical, too large, or of another shape.
    #[error("receipt: {0}")]
    Dag(#[from] DagError),
    /// A UCAN of another command than `/ucan/assert/receipt`, or with another header.
    #[error("receipt: {0}")]
    Unexpected(String),
    /// The signature is not that of the issuer over these bytes.
    #[error("receipt: signature does not verify")]
    Signature,
    /// Made by a newer quipu.
    #[error("receipt: version {0} is newer than this quipu understands")]
    Version(u64),
}

// The wire: field names and shapes as in the UCAN 1.0 invocation, order left to the canonical encoding.

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WirePayload {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) cmd: String,
    args: WireArgs,
    prf: Vec<Link>,
    #[serde(with = "serde_bytes")]
    nonce: Vec<u8>,
    exp: Option<u64>,
    iat: u64,
    meta: WireMeta,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireArgs {
    ran: InvocationId,
    out: WireOut,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireOut {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<WireOk>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<WireError>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireOk {
    outputs: BTreeMap<Box<str>, WireArtifact>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout: Option<BlobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr: Option<BlobId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireArtifact {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cid: Option<Link>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Box<str>>,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Dir,
    Symlink,
}

#[derive(Serialize, Deserialize, Default, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
struct WireError {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout: Option<BlobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr: Option<BlobId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireMeta {
    quipu: WireQuipu,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireQuipu {
    v: u64,
    r#for: BTreeMap<String, BTreeMap<String, OutputId>>,
    ins: Vec<ReceiptId>,
    ms: u64,
    cpu_ms: u64,
    rss: u64,
    tier: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
}

/// The UCAN command of every receipt.
pub(crate) const COMMAND: &str = "/ucan/assert/receipt";

impl WirePayload {
    pub(crate) fn new(receipt: &Receipt, issuer: &str) -> Self {
        let out = match &receipt.out {
            Ok(output) => WireOut { ok: Some(WireOk::from_output(output, output.stderr)), error: None },
            Err(failure) => WireOut { ok: None, error: Some(WireError::from_failure(failure)) },
        };
        let meta = &receipt.meta;
        let via = |via: &Via| via.iter().map(|(task, out)| (task.to_string(), *out)).collect();
        let quipu = WireQuipu {
            v: VERSION,
            r#for: meta.settles.iter().map(|(task, v)| (task.to_string(), via(v))).collect(),
            ins: meta.ins.clone(),
            ms: meta.wall_ms,
            cpu_ms: meta.cpu_ms,
            rss: meta.rss_bytes,
            tier: meta.tier.clone(),
            host: meta.host.clone(),
        };
        Self {
            iss: issuer.to_owned(),
            sub: issuer.to_owned(),
            cmd: COMMAND.to_owned(),
            args: WireArgs { ran: receipt.ran, out },
            prf: vec![],
            nonce: vec![],
            exp: receipt.expires_at,
            iat: receipt.issued_at,
            meta: WireMeta { quipu },
        }
    }

    pub(crate) fn into_receipt(self) -> Result<Receipt, ReceiptError> {
        let odd = |what: &str| ReceiptError::Unexpected(what.to_owned());
        if self.cmd != COMMAND || self.iss != self.sub {
            return Err(odd("not an assertion by its own subject"));
        }
        if !self.prf.is_empty() || !self.nonce.is_empty() {
            return Err(odd("proofs and nonces have no place here"));
        }
        let quipu = self.meta.quipu;
        if quipu.v != VERSION {
            return Err(ReceiptError::Version(quipu.v));
        }
        for n in [Some(self.iat), self.exp, Some(quipu.ms), Some(quipu.cpu_ms), Some(quipu.rss)] {
            if n.is_some_and(|n| !is_safe(n)) {
                return Err(odd("an integer is beyond 2^53-1"));
            }
        }
        let out = match (self.args.out.ok, self.args.out.error) {
            (Some(ok), None) => Ok(ok.into_output()?),
            (None, Some(error)) => Err(error.into_failure()?),
            _ => return Err(odd("`out` is neither ok nor error")),
        };
        let task = |text: &String| text.parse::<TaskId>().map_err(|e| odd(&e.to_string()));
        let mut settles = BTreeMap::new();
        for (id, via) in &quipu.r#for {
            let via = via.iter().map(|(t, out)| Ok((task(t)?, *out))).collect::<Result<Via, ReceiptError>>()?;
            settles.insert(task(id)?, via);
        }
        Ok(Receipt {
            ran: self.args.ran,
            out,
            issued_at: self.iat,
            expires_at: self.exp,
            meta: Meta {
                settles,
                ins: quipu.ins,
                wall_ms: quipu.ms,
                cpu_ms: quipu.cpu_ms,
                rss_bytes: quipu.rss,
                tier: quipu.tier,
                host: quipu.host,
            },
        })
    }
}

impl WireOk {
    fn from_output(output: &Output, stderr: Option<BlobId>) -> Self {
        let outputs = output.artifacts.iter().map(|(path, entry)| {
            let mut wire = WireArtifact { kind: Kind::File, cid: None, size: None, exec: None, target: None };
            match entry {
                Entry::File { blob, size, exec } => {
                    (wire.cid, wire.size, wire.exec) = (Some(blob.link()), Some(*size), exec.then_some(true));
                }
                Entry::Dir { tree } => (wire.kind, wire.cid) = (Kind::Dir, Some(tree.link())),
                Entry::Symlink { target } => (wire.kind, wire.target) = (Kind::Symlink, Some(target.clone())),
            }
            (path.clone(), wire)
        });
        Self { outputs: outputs.collect(), stdout: output.stdout, stderr }
    }

    fn into_output(self) -> Result<Output, ReceiptError> {
        let mut artifacts = BTreeMap::new();
        for (path, wire) in self.outputs {
            if !is_inner_path(&path) {
                return Err(ReceiptError::Unexpected(format!("output path `{path}` leads outside")));
            }
            let odd = || ReceiptError::Unexpected(format!("output `{path}` is not one of file, dir, symlink"));
            let entry = match (wire.kind, wire.cid, wire.size, wire.exec, wire.target) {
                (Kind::File, Some(cid), Some(size), exec @ (None | Some(true)), None) if is_safe(size) => {
                    Entry::File { blob: cid.try_into().map_err(|_| odd())?, size, exec: exec.is_some() }
                }
                (Kind::Dir, Some(cid), None, None, None) => Entry::Dir { tree: cid.try_into().map_err(|_| odd())? },
                (Kind::Symlink, None, None, None, Some(target)) if tree::is_target(&target) => {
                    Entry::Symlink { target }
                }
                _ => return Err(odd()),
            };
            artifacts.insert(path, entry);
        }
        Ok(Output { artifacts, stdout: self.stdout, stderr: self.stderr })
    }
}

/// Whether other implementations can hold `n`: blocks have no integer beyond 2^53-1.
fn is_safe(n: u64) -> bool {
    n <= dag::MAX_INT as u64
}

/// Whether `path` is relative, in normal form, and stays below the directory it is joined to.
pub fn is_inner_path(path: &str) -> bool {
    path.len() <= 4096 && path.split('/').all(|part| crate::tree::Name::new(part).is_ok())
}

impl WireError {
    fn from_failure(failure: &Failure) -> Self {
        let mut wire = Self { kind: failure.kind.name().to_owned(), ..Self::default() };
        (wire.stdout, wire.stderr) = (failure.stdout, failure.stderr);
        match failure.kind.clone() {
            FailureKind::Exit { code } => wire.code = Some(code.into()),
            FailureKind::Signal { signal } => wire.code = Some(signal.into()),
            FailureKind::Timeout { limit_ms } => wire.code = Some(i64::try_from(limit_ms).unwrap_or(dag::MAX_INT)),
            FailureKind::OutOfMemory => {}
            FailureKind::MissingOutput { path }
            | FailureKind::UndeclaredOutput { path }
            | FailureKind::InputChanged { path } => {
                wire.path = Some(path);
            }
            FailureKind::BadOutput { path, why } => (wire.path, wire.why) = (Some(path), Some(why)),
            FailureKind::Spawn { why }
            | FailureKind::Delivered { why }
            | FailureKind::Service { why }
            | FailureKind::Executor { why } => {
                wire.why = Some(why);
            }
            FailureKind::BranchMismatch { on } => wire.on = Some(on),
        }
        wire
    }

    fn into_failure(self) -> Result<Failure, ReceiptError> {
        let given = self.clone();
        let odd = || ReceiptError::Unexpected("`out.error` has not the fields of its kind".to_owned());
        let small = |n: Option<i64>| n.and_then(|n| i32::try_from(n).ok()).ok_or_else(odd);
        let kind = match self.kind.as_str() {
            "exit" => FailureKind::Exit { code: small(self.code)? },
            "signal" => FailureKind::Signal { signal: small(self.code)? },
            "timeout" => {
                FailureKind::Timeout { limit_ms: self.code.and_then(|n| u64::try_from(n).ok()).ok_or_else(odd)? }
            }
            "out-of-memory" => FailureKind::OutOfMemory,
            "missing-output" => FailureKind::MissingOutput { path: self.path.ok_or_else(odd)? },
            "undeclared-output" => FailureKind::UndeclaredOutput { path: self.path.ok_or_else(odd)? },
            "bad-output" => FailureKind::BadOutput { path: self.path.ok_or_else(odd)?, why: self.why.ok_or_else(odd)? },
            "spawn" => FailureKind::Spawn { why: self.why.ok_or_else(odd)? },
            "delivered" => FailureKind::Delivered { why: self.why.ok_or_else(odd)? },
            _ => return Err(ReceiptError::Unexpected("`out.error` is of a kind no receipt records".to_owned())),
        };
        let failure = Failure { kind, stdout: self.stdout, stderr: self.stderr };
        // A field that its kind has no use for would be signed and lost.
        if Self::from_failure(&failure) == given { Ok(failure) } else { Err(odd()) }
    }
}
