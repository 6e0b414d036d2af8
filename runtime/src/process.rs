//! Process tasks: the typed form of the arguments of `/quipu/process`, both ways.
//!
//! Knows which arguments there are and how they are written; unaware of how processes are started.
//! Normative text: `docs/formats/task.md`.

use std::collections::BTreeMap;

use quipu_store::cid::{BlobId, TreeId};

use crate::narrow::{DEPFILE, Depfile};
use crate::value::{Text, Value, ValueError};

/// How a process is kept from what it did not declare. Part of the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Namespaces of its own: what it did not declare is not there.
    Ns,
    /// Landlock: what it did not declare is refused.
    Landlock,
    /// Nothing: it runs in the workspace.
    None,
}

impl Tier {
    /// The name in ids, receipts and workfiles.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Landlock => "landlock",
            Self::None => "none",
        }
    }

    /// The tier of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Ns, Self::Landlock, Self::None].into_iter().find(|t| t.name() == name)
    }
}

/// The argument that holds the services a process needs.
pub const SERVICES: &str = "services";

/// Where a process in namespaces of its own sees its workspace, whatever it is outside.
pub const SANDBOX_ROOT: &str = "/ws";

/// What an output is declared to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutputKind {
    /// One file (or a link).
    File,
    /// A directory with all below it.
    Dir,
    /// Every file that matches a pattern.
    Glob,
}

impl OutputKind {
    /// The name in ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Glob => "glob",
        }
    }
}

/// A declared output. Paths are relative to the workspace root, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutputSpec {
    /// Path or pattern.
    pub path: Text,
    /// What it is.
    pub kind: OutputKind,
    /// Whether it may be missing.
    pub optional: bool,
}

/// The arguments of a process task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Command lines, run in sequence until one fails. One for `run`, several for `steps`.
    pub steps: Vec<Vec<Value>>,
    /// The whole environment it sees.
    pub env: BTreeMap<Text, Value>,
    /// Where it runs, relative to the workspace root; empty for the root.
    pub dir: Text,
    /// What it reads from standard input: an artifact, or the path of a source file as text.
    pub stdin: Option<Value>,
    /// Path its standard output is written to, an output like any other.
    pub stdout: Option<Text>,
    /// Where it says which of its inputs it read, an output like any other; the others need not be as they were.
    pub depfile: Option<Depfile>,
    /// Source files, as one tree.
    pub sources: Option<TreeId>,
    /// What comes from other tasks: path to artifact, or `@name` to a map of artifacts by path.
    pub inputs: BTreeMap<Text, Value>,
    /// What it makes.
    pub outputs: Vec<OutputSpec>,
    /// Operating system and processor it is for.
    pub platform: (Text, Text),
    /// The content of the tools it names.
    pub tools: BTreeMap<Text, BlobId>,
    /// How it is isolated.
    pub tier: Tier,
    /// Whether it may use the network.
    pub network: bool,
    /// Names of variables whose values it is handed, and which are part of nothing; sorted.
    pub secrets: Vec<Text>,
    /// The arguments of the services that run while it does.
    pub services: Vec<Value>,
}

/// Why arguments are not those of a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// A field is missing or of another shape.
    #[error("arguments of a process: `{0}` is missing or of the wrong shape")]
    Field(&'static str),
    /// No canonical form.
    #[error("arguments of a process: {0}")]
    Value(#[from] ValueError),
}

/// Whether a process with these arguments is handed nothing that they do not hold: neither the network nor a secret.
pub fn is_closed(args: &Value) -> bool {
    let is_closed_service = |service: &Value| service.get("process").is_some_and(is_closed);
    args.get("network").is_none()
        && args.get("secrets").is_none()
        && !matches!(args.get(SERVICES), Some(Value::List(services)) if !services.iter().all(is_closed_service))
}

/// Whether work with these arguments is done in the workspace itself, among what other tasks have put there.
pub fn is_in_place(args: &Value) -> bool {
    let tier = args.get("sandbox").and_then(Value::as_text).and_then(Tier::from_name);
    matches!(tier, Some(Tier::None | Tier::Landlock))
}

impl ProcessSpec {
    /// A process with these command lines on a machine of this kind, which is given nothing and makes nothing.
    pub fn new(steps: Vec<Vec<Value>>, tier: Tier, platform: (Text, Text)) -> Self {
        Self {
            steps,
            env: BTreeMap::new(),
            dir: "".into(),
            stdin: None,
            stdout: None,
            depfile: None,
            sources: None,
            inputs: BTreeMap::new(),
            outputs: Vec::new(),
            platform,
            tools: BTreeMap::new(),
            tier,
            network: false,
            secrets: Vec::new(),
            services: Vec::new(),
        }
    }

    /// The arguments as a value.
    pub fn to_args(&self) -> Result<Value, ProcessError> {
        let steps = self.steps.iter().map(|argv| Value::list(argv.iter().cloned()));
        let output = |o: &OutputSpec| {
            let mut pairs = vec![("path", Value::Text(o.path.clone())), ("kind", o.kind.name().into())];
            if o.optional {
                pairs.push(("optional", Value::Bool(true)));
            }
            Value::map(pairs)
        };
        let mut inputs: Vec<(Text, Value)> = self.inputs.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        if let Some(tree) = self.sources {
            inputs.push(("".into(), tree.link().into()));
        }
        let (os, arch) = &self.platform;
        let mut pairs = vec![
            ("steps", Value::list(steps)),
            ("env", Value::map(self.env.iter().map(|(k, v)| (k.clone(), v.clone())))?),
            ("dir", Value::Text(self.dir.clone())),
            ("inputs", Value::map(inputs)?),
            ("outputs", Value::list(self.outputs.iter().map(output).collect::<Result<Vec<_>, _>>()?)),
            ("platform", Value::map([("os", Value::Text(os.clone())), ("arch", Value::Text(arch.clone()))])?),
            ("tools", Value::map(self.tools.iter().map(|(k, id)| (k.clone(), id.link().into())))?),
            ("sandbox", self.tier.name().into()),
        ];
        if self.network {
            pairs.push(("network", Value::Bool(true)));
        }
        if !self.secrets.is_empty() {
            pairs.push(("secrets", Value::list(self.secrets.iter().cloned().map(Value::Text))));
        }
        if !self.services.is_empty() {
            pairs.push((SERVICES, Value::list(self.services.iter().cloned())));
        }
        if let Some(depfile) = &self.depfile {
            pairs.push((DEPFILE, depfile.to_value()));
        }
        if let Some(stdin) = &self.stdin {
            pairs.push(("stdin", stdin.clone()));
        }
        if let Some(stdout) = &self.stdout {
            pairs.push(("stdout", Value::Text(stdout.clone())));
        }
        Ok(Value::map(pairs)?)
    }

    /// Reads arguments back, with or without promises in them.
    pub fn from_args(args: &Value) -> Result<Self, ProcessError> {
        let field = |key: &'static str| args.get(key).ok_or(ProcessError::Field(key));
        let text = |v: &Value, key| match v {
            Value::Text(t) => Ok(t.clone()),
            _ => Err(ProcessError::Field(key)),
        };
        let pairs = |key: &'static str| match field(key)? {
            Value::Map(pairs) => Ok(pairs.clone()),
            _ => Err(ProcessError::Field(key)),
        };
        let list = |v: &Value, key| match v {
            Value::List(items) => Ok(items.clone()),
            _ => Err(ProcessError::Field(key)),
        };
        let mut sources = None;
        let mut inputs = BTreeMap::new();
        for (path, value) in pairs("inputs")?.iter() {
            match value {
                Value::Link(link) if path.is_empty() => {
                    sources = Some((**link).try_into().map_err(|_| ProcessError::Field("inputs"))?);
                }
                _ if path.is_empty() => return Err(ProcessError::Field("inputs")),
                _ => drop(inputs.insert(path.clone(), value.clone())),
            }
        }
        let outputs = list(field("outputs")?, "outputs")?;
        let outputs = outputs.iter().map(|o| {
            let bad = || ProcessError::Field("outputs");
            let path = text(o.get("path").ok_or_else(bad)?, "outputs")?;
            let kind = o.get("kind").and_then(Value::as_text);
            let kind =
                [OutputKind::File, OutputKind::Dir, OutputKind::Glob].into_iter().find(|k| Some(k.name()) == kind);
            let optional = o.get("optional") == Some(&Value::Bool(true));
            Ok(OutputSpec { path, kind: kind.ok_or_else(bad)?, optional })
        });
        let tools = pairs("tools")?;
        let tools = tools.iter().map(|(name, v)| match v {
            Value::Link(link) => Ok((name.clone(), (**link).try_into().map_err(|_| ProcessError::Field("tools"))?)),
            _ => Err(ProcessError::Field("tools")),
        });
        let secrets = args.get("secrets").map_or(Ok([].into()), |v| list(v, "secrets"))?;
        let secrets = secrets.iter().map(|name| text(name, "secrets")).collect::<Result<Vec<_>, _>>()?;
        if !secrets.is_sorted_by(|a, b| a < b) {
            return Err(ProcessError::Field("secrets"));
        }
        let platform = field("platform")?;
        let part = |key| platform.get(key).ok_or(ProcessError::Field("platform")).and_then(|v| text(v, "platform"));
        let steps = list(field("steps")?, "steps")?;
        let steps =
            steps.iter().map(|argv| Ok(list(argv, "steps")?.to_vec())).collect::<Result<Vec<_>, ProcessError>>()?;
        if steps.is_empty() || steps.iter().any(Vec::is_empty) {
            return Err(ProcessError::Field("steps"));
        }
        Ok(Self {
            steps,
            env: pairs("env")?.iter().cloned().collect(),
            dir: text(field("dir")?, "dir")?,
            stdin: args.get("stdin").cloned(),
            stdout: args.get("stdout").map(|v| text(v, "stdout")).transpose()?,
            depfile: match args.get(DEPFILE) {
                Some(_) => Some(Depfile::of(args).ok_or(ProcessError::Field(DEPFILE))?),
                None => None,
            },
            sources,
            inputs,
            outputs: outputs.collect::<Result<_, ProcessError>>()?,
            platform: (part("os")?, part("arch")?),
            tools: tools.collect::<Result<_, _>>()?,
            tier: field("sandbox")?.as_text().and_then(Tier::from_name).ok_or(ProcessError::Field("sandbox"))?,
            network: args.get("network") == Some(&Value::Bool(true)),
            secrets,
            services: args.get(SERVICES).map_or(Ok([].into()), |v| list(v, SERVICES))?.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_use_the_network_or_a_secret_is_not_closed() {
        let closed = |more: &[(&str, Value)]| {
            let pairs = [("steps", Value::list([]))].into_iter().chain(more.iter().cloned());
            is_closed(&Value::map(pairs).expect("keys differ"))
        };
        assert!(closed(&[]));
        assert!(!closed(&[("network", Value::Bool(true))]));
        assert!(!closed(&[("secrets", Value::list(["TOKEN".into()]))]));
        let service = |more: &[(&str, Value)]| {
            let process = Value::map(more.iter().cloned()).expect("keys differ");
            (SERVICES, Value::list([Value::map([("process", process)]).expect("one key")]))
        };
        assert!(closed(&[service(&[])]));
        assert!(!closed(&[service(&[("network", Value::Bool(true))])]), "nor is what a service may use");
    }
}
