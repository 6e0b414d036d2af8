//! Remote workfiles that others include: from the store, or else from where they are.
//!
//! Their hash says what they are, so one that is in the store is asked for no more. Unaware of what is in them.

use std::process::Command;

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
    let bytes = fetch(url)?;
    if BlobId::of(&bytes) == id && store.can_be_written() {
        // Next time nobody needs to be asked; without it the next load asks again.
        let _ = store.put(Codec::Raw, bytes.clone());
        let _ = store.flush();
    }
    Ok(bytes)
}

/// Asks with `curl`, which is nearly everywhere and knows the machine's proxies and certificates.
fn fetch(url: &str) -> Result<Vec<u8>, String> {
    if !["http://", "https://", "file://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err("its URL starts with none of `https://`, `http://`, `file://`".to_owned());
    }
    let limit = MAX_FILE_BYTES.to_string();
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--max-time", "60", "--max-filesize", &limit]);
    curl.args(["--proto", "=http,https,file", "--proto-redir", "=http,https", "--url", url]);
    let output = curl.output().map_err(|error| format!("curl cannot be started: {error}"))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
