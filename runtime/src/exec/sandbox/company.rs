//! Companies: services and the tasks that need them, each in a cell of its own, all in one network of their own.
//!
//! The network has nothing in it but what they open there. It belongs to the user namespace of the cell that was made with it,
//! so that the others are made within that, too. Unaware of who is in which company.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use super::cell::{Cell, CellError, Network, Template};

/// A network, and cells in it that wait for a task.
pub(super) struct Company {
    user: OwnedFd,
    network: OwnedFd,
    idle: Mutex<Vec<Cell>>,
}

impl Company {
    /// A new one, with its first cell.
    pub(super) fn found(template: &Template) -> Result<Self, CellError> {
        let first = Cell::new(template, Network::Own)?;
        let network = first.namespaces.network.as_ref().ok_or(io::Error::from(io::ErrorKind::NotFound))?.try_clone()?;
        let user = first.namespaces.user.try_clone()?;
        Ok(Self { user, network, idle: Mutex::new(vec![first]) })
    }

    /// A cell for a task.
    pub(super) fn cell(&self, template: &Template) -> Result<Cell, CellError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| Cell::new(template, Network::Of { user: &self.user, network: &self.network }), Ok)
    }

    /// Takes a cell back that has been cleaned.
    pub(super) fn give_back(&self, cell: Cell) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(cell);
    }
}
