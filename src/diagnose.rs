//! From any error to what people see: a heading, its causes, hints, and the exit code.
//!
//! The only place that decides these; unaware of how commands work.

use std::error::Error;
use std::fmt;

use quipu_runtime::drive::DriveError;
use quipu_runtime::workfile::{LoadError, SelectError};
use quipu_store::{GcError, OpenError, StoreError};

use crate::exit::Exit;

/// An error on its way to a person.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    /// Ends the process.
    pub(crate) exit: Exit,
    heading: String,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl Diagnosis {
    /// A user's mistake, in words of its own.
    pub(crate) fn usage(heading: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, heading: heading.into(), causes: vec![], hints: vec![] }
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
        Self { exit: Exit::System, heading, causes, hints: vec![] }
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
            LoadError::Faults(faults) => Self::usage(faults.render(crate::settings::stderr_has_colour())),
            _ => Self { exit: Exit::Usage, ..Self::system("", &error) },
        }
    }
}

impl From<SelectError> for Diagnosis {
    fn from(error: SelectError) -> Self {
        let base = Self::usage(error.message);
        match error.hint {
            Some(hint) => base.hint(hint),
            None => base,
        }
    }
}

impl From<OpenError> for Diagnosis {
    fn from(error: OpenError) -> Self {
        Self::system("cannot open the store", &error)
    }
}

impl From<StoreError> for Diagnosis {
    fn from(error: StoreError) -> Self {
        Self::system("the store", &error).hint("`quipu verify` says what is wrong with it")
    }
}

impl From<GcError> for Diagnosis {
    fn from(error: GcError) -> Self {
        Self::system("cannot collect garbage", &error)
    }
}

impl From<DriveError> for Diagnosis {
    fn from(error: DriveError) -> Self {
        Self::system("", &error)
    }
}
