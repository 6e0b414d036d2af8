//! A store in a directory.

use std::path::Path;
use std::sync::Arc;

use crate::counters::Counting;
use crate::error::OpenError;
use crate::memory::Memory;
use crate::store::Options;

pub(crate) struct Local;

impl Local {
    pub(crate) fn open(_dir: &Path, options: Options, counting: Arc<Counting>) -> Result<Memory, OpenError> {
        Ok(Memory::new(options, counting))
    }
}
