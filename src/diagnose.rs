//! From any error to what people see: a heading, its causes, hints, and the exit code.
//!
//! The only place that decides these; unaware of how commands work.

use std::error::Error;
use std::fmt;
use std::io::Write as _;

use quipu_runtime::deliver::DeliverError;
use quipu_runtime::drive::DriveError;
use quipu_runtime::exec::sandbox;
use quipu_runtime::project::ProjectError;
use quipu_runtime::workfile::{LoadError, SelectError};
use quipu_store::{CommitError, GcError, OpenError, StoreError};

use crate::exit::Exit;

/// An error on its way to a person.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    /// Ends the process.
    pub(crate) exit: Exit,
    heading: String,
    lines: Vec<String>,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl Diagnosis {
    /// A user's mistake, in words of its own.
    pub(crate) fn usage(heading: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, heading: heading.into(), lines: vec![], causes: vec![], hints: vec![] }
    }

    /// The world's failure.
    pub(crate) fn system(doing: &str, error: &dyn Error) -> Self {
        let mut causes = vec![];
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            // Many errors already say what their source says.
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            source = error.source();
        }
        let heading = if doing.is_empty() { error.to_string() } else { format!("{doing}: {error}") };
        causes.retain(|cause| !heading.contains(cause.as_str()));
        Self { exit: Exit::System, heading, lines: vec![], causes, hints: vec![] }
    }

    /// Tasks cannot be isolated as they ask to be. Nothing is chosen in their place.
    pub(crate) fn not_isolated(why: &str) -> Self {
        let mut found = Self { exit: Exit::System, ..Self::usage(why) };
        if let Some(remedy) = sandbox::remedy() {
            found = found.hint(format!("so that it works: {remedy}"));
        }
        if sandbox::landlock().is_ok() {
            found = found.hint(
                "or `QUIPU_SANDBOX=landlock` (`sandbox = \"landlock\"` in the workfile): what a task does not \
                 declare is refused, not hidden",
            );
        }
        found.hint(
            "or `QUIPU_SANDBOX=none` (`sandbox = \"none\"`): a task sees the workspace as it is, and a change of what \
                    it does not declare goes unnoticed",
        )
    }

    /// What was asked for is not there, or means several things.
    pub(crate) fn ambiguous(heading: impl Into<String>, all: impl IntoIterator<Item = String>) -> Self {
        Self::usage(heading).list(all)
    }

    /// Nobody reads the result any more: the end, without a word.
    pub(crate) fn nobody_reads() -> Self {
        Self { exit: Exit::ClosedPipe, heading: String::new(), lines: vec![], causes: vec![], hints: vec![] }
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.heading.is_empty()
    }

    /// With further lines, one for each thing that is meant.
    pub(crate) fn list(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines.extend(lines);
        self
    }

    /// With another exit code.
    pub(crate) fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// Adds a way on.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.heading.contains('\n') {
            // Errors with places are laid out already.
            write!(f, "{}", self.heading.trim_end())?;
        } else {
            write!(f, "error: {}", self.heading)?;
        }
        for line in &self.lines {
            write!(f, "\n  {line}")?;
        }
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        for hint in &self.hints {
            write!(f, "\nhelp: {hint}")?;
        }
        Ok(())
    }
}

impl From<LoadError> for Diagnosis {
    fn from(error: LoadError) -> Self {
        match &error {
            LoadError::NotFound(start) => Self::usage(format!("no quipu.toml in `{}` or above it", start.display()))
                .hint("`quipu init` writes one to begin with"),
            LoadError::Given { message, hint } => {
                let base = Self::usage(message.clone());
                match hint {
                    Some(hint) => base.hint(hint.clone()),
                    None => base,
                }
            }
            LoadError::Faults(faults) => Self::usage(faults.render(crate::settings::stderr_has_colour())),
            _ => Self { exit: Exit::Usage, ..Self::system("", &error) },
        }
    }
}

impl From<SelectError> for Diagnosis {
    fn from(error: SelectError) -> Self {
        // The message begins with the selector: "`x`, which is not defined".
        let base = Self::usage(format!("asked for {}", error.message));
        base.hint(error.hint.unwrap_or_else(|| "`quipu list` lists the tasks there are".to_owned()))
    }
}

impl From<OpenError> for Diagnosis {
    fn from(error: OpenError) -> Self {
        Self::system("cannot open the store", &error)
    }
}

impl From<StoreError> for Diagnosis {
    fn from(error: StoreError) -> Self {
        let base = Self::system("cannot read the store", &error);
        // The text of a damaged index says already what to do.
        if matches!(error, StoreError::Index { .. }) {
            base
        } else {
            base.hint("`quipu verify` says what is wrong with it")
        }
    }
}

impl From<DeliverError> for Diagnosis {
    fn from(error: DeliverError) -> Self {
        match error {
            DeliverError::Store(error) => error.into(),
            DeliverError::Commit(error) => error.into(),
            other => Self::usage(other.to_string()),
        }
    }
}

impl From<CommitError> for Diagnosis {
    fn from(error: CommitError) -> Self {
        let base = Self::system("cannot write to the store", &error);
        match error {
            CommitError::Index { .. } => base.hint("`quipu verify --repair` moves the index aside and rebuilds it"),
            _ => base,
        }
    }
}

impl From<GcError> for Diagnosis {
    fn from(error: GcError) -> Self {
        Self::system("cannot collect garbage", &error)
    }
}

impl From<DriveError> for Diagnosis {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Store(error) => error.into(),
            DriveError::Commit(error) => error.into(),
            other => Self::system("", &other),
        }
    }
}

impl From<ProjectError> for Diagnosis {
    fn from(error: ProjectError) -> Self {
        match error {
            ProjectError::Load(error) => error.into(),
            ProjectError::Store(error) => error.into(),
            ProjectError::Tool { .. } => Self::usage(error.to_string())
                .hint("install it, or set PATH in the task's `env`, or take it out of `tools`"),
            ProjectError::Ring { .. } => {
                Self::usage(error.to_string()).hint("let them differ in something that they do, or take out an `after`")
            }
            ProjectError::Scan { .. } | ProjectError::Vanished(_) => Self::system("", &error),
            other => Self::usage(other.to_string()),
        }
    }
}

/// What is wrong with a text that is no TOML, on one line.
pub(crate) fn not_toml(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message().replace('\n', ", "))
}

/// Says what an unforeseen end looks like to a person. What a damaged index makes its library panic at is caught
/// and becomes an error with words of its own, so nothing is said here.
pub(crate) fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // What the store catches becomes an error with words of its own.
        if quipu_store::is_guarded() {
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no reason given");
        let _ = writeln!(std::io::stderr(), "error: this is a bug in quipu: {text} ({place})");
    }));
}
