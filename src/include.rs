//! Remote workfiles that others include: from the store, or else from where they are.
//!
//! Their hash says what they are, so one that is in the store is asked for no more. Unaware of what is in them.

use quipu_runtime::workfile::MAX_FILE_BYTES;
use quipu_store::cid::{BlobId, Codec};

use crate::commands::Context;

/// The content of a blob that is at `url`.
pub(crate) fn get(context: &Context, url: &str, id: BlobId) -> Result<Vec<u8>, String> {
    let store = context.settings().and_then(|settings| settings.open_store()).map_err(|error| error.to_string())?;
    match store.get(id.link(), MAX_FILE_BYTES as u64) {
        Ok(Some(bytes)) => return Ok(bytes),
        Ok(None) => {}
        Err(error) => return Err(error.to_string()),
    }
    let bytes = quipu_fetch::read(url, &context.start, context.offline, MAX_FILE_BYTES as u64);
    let bytes = bytes.map_err(|problem| problem.to_string())?;
    if BlobId::of(&bytes) == id && store.can_be_written() {
        // Next time nobody needs to be asked; without it the next load asks again.
        let _ = store.put(Codec::Raw, bytes.clone());
        let _ = store.flush();
    }
    Ok(bytes)
}
