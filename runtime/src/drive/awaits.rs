//! Tasks that are done elsewhere: looking for what somebody delivered.
//!
//! Unaware of who delivers, and how.

use std::time::Duration;

use super::{Drive, DriveError};
use crate::run::step::Event;

/// How often to look.
pub(super) const EVERY: Duration = Duration::from_millis(200);

impl Drive {
    /// Whether nothing is left to do but to wait for others.
    pub(super) fn has_only_awaits(&self) -> bool {
        !self.awaits.is_empty() && self.working.is_empty() && self.run.only_awaits(self.awaits.len())
    }

    /// Settles what was delivered. With a last look, the run ends without the rest.
    pub(super) fn look_for_deliveries(&mut self, is_last: bool) -> Result<(), DriveError> {
        let awaits: Vec<_> = self.awaits.iter().map(|(task, (epoch, id))| (*task, *epoch, *id)).collect();
        let ids: Vec<_> = awaits.iter().map(|(_, _, id)| *id).collect();
        let found = self.engine.store.find_invocations(&ids)?;
        for ((task, epoch, _), found) in awaits.into_iter().zip(found) {
            let candidates = self.candidates(&found)?;
            if is_last || !candidates.is_empty() {
                self.awaits.remove(&task);
                self.run.on(Event::Awaited { task, epoch, candidates });
            }
        }
        Ok(())
    }
}
