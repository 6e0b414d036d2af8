//! Objects of a bucket: read, looked at, put under conditions, and large ones in parts.
//!
//! Knows the protocol's client and its errors; unaware of receipts and of what a key means.

use std::error::Error as _;
use std::io::Read;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    Error, Extensions, GetOptions, MultipartUpload as _, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    RetryConfig, UpdateVersion,
};
use quipu_store::remote::RemoteError;
use tokio_stream::StreamExt as _;

use crate::config::{Config, ConfigError};
use crate::wire::{Most, Wire, finish};

/// Objects larger than this are sent in parts of this size. Services take parts of five megabytes and more.
const PART_BYTES: u64 = 8 << 20;

/// A bucket, or the part of one below a prefix.
pub(crate) struct Objects {
    s3: AmazonS3,
    bucket: String,
    prefix: Path,
    pub(crate) deadline: Duration,
}

/// How an object came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    /// To its end; which version it is, where the service says it.
    Whole(Option<String>),
    /// It is larger than it may be, or has another size than it must have.
    OtherSize(Option<String>),
    /// There is none.
    Nothing,
}

/// Under which condition an object is put.
#[derive(Debug, Clone, Copy)]
pub(crate) enum If<'v> {
    Always,
    Absent,
    Still(&'v str),
}

impl Objects {
    pub(crate) fn new(config: &Config, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let (bucket, prefix) = config.bucket()?;
        // Whatever is to be done again is done by `wire`, which knows how much time is left.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket)
            .with_region(config.region(env))
            .with_retry(retry)
            .with_http_connector(Wire::new(config)?);
        if let Some(endpoint) = config.endpoint(env)? {
            builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
        }
        builder = match config.credentials(env)? {
            None => builder.with_skip_signature(true),
            Some(who) => {
                let signed =
                    builder.with_access_key_id(who.access_key_id).with_secret_access_key(who.secret_access_key);
                match who.session_token {
                    Some(token) => signed.with_token(token),
                    None => signed,
                }
            }
        };
        let s3 = builder.build().map_err(|e| ConfigError::Other(e.to_string()))?;
        Ok(Self { s3, bucket, prefix: Path::from(prefix), deadline: config.deadline()? })
    }

    /// The key of an object of a kind.
    pub(crate) fn key(&self, kind: &str, name: &str) -> Path {
        self.prefix.clone().join(kind).join(name)
    }

    /// Reads an object of at most `limit` bytes, exactly `size` when that is known, within `most`.
    pub(crate) fn read(
        &self,
        key: &Path,
        size: Option<u64>,
        limit: u64,
        most: Duration,
        take: &mut dyn FnMut(&[u8]) -> Result<(), RemoteError>,
    ) -> Result<Got, RemoteError> {
        let mut extensions = Extensions::new();
        extensions.insert(Most(most));
        let options = GetOptions::default().with_extensions(extensions);
        let answer = match finish(self.s3.get_opts(key, options)) {
            Ok(answer) => answer,
            Err(error) => return self.absent(error).map(|()| Got::Nothing),
        };
        let version = answer.meta.e_tag.clone();
        if answer.meta.size > limit || size.is_some_and(|size| size != answer.meta.size) {
            return Ok(Got::OtherSize(version));
        }
        let (mut parts, mut left) = (answer.into_stream(), limit);
        while let Some(part) = finish(parts.next()) {
            let part = part.map_err(|e| self.error(&e))?;
            let Some(rest) = left.checked_sub(part.len() as u64) else { return Ok(Got::OtherSize(version)) };
            left = rest;
            take(&part)?;
        }
        Ok(Got::Whole(version))
    }

    /// The size of an object.
    pub(crate) fn size(&self, key: &Path) -> Result<Option<u64>, RemoteError> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match finish(self.s3.get_opts(key, options)) {
            Ok(answer) => Ok(Some(answer.meta.size)),
            Err(error) => self.absent(error).map(|()| None),
        }
    }

    /// Puts an object, unless the condition does not hold: `false`.
    pub(crate) fn put(&self, key: &Path, bytes: Vec<u8>, condition: If<'_>) -> Result<bool, RemoteError> {
        let mode = match condition {
            If::Always => PutMode::Overwrite,
            If::Absent => PutMode::Create,
            If::Still(version) => PutMode::Update(UpdateVersion { e_tag: Some(version.to_owned()), version: None }),
        };
        match finish(self.s3.put_opts(key, bytes.into(), PutOptions::from(mode))) {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// Puts a large object, in parts; takes it back when `is_good` does not agree to all that was read.
    pub(crate) fn put_parts(
        &self,
        key: &Path,
        size: u64,
        mut from: impl Read,
        mut see: impl FnMut(&[u8]),
        is_good: impl FnOnce() -> bool,
    ) -> Result<bool, RemoteError> {
        let wrong = |e: Error| self.error(&e);
        let mut upload = finish(self.s3.put_multipart(key)).map_err(wrong)?;
        let sent = (|| {
            let mut left = size;
            while left > 0 {
                let mut part = vec![0; usize::try_from(left.min(PART_BYTES)).unwrap_or(0)];
                from.read_exact(&mut part).map_err(|e| RemoteError::Store(e.to_string()))?;
                see(&part);
                left -= part.len() as u64;
                finish(upload.put_part(part.into())).map_err(wrong)?;
            }
            Ok(is_good())
        })();
        match sent {
            Ok(true) => finish(upload.complete()).map_err(wrong).map(|_| true),
            other => {
                // Parts that nobody completes cost somebody money.
                let _ = finish(upload.abort());
                other
            }
        }
    }

    /// Whether an object of this size is sent in parts.
    pub(crate) fn is_large(size: u64) -> bool {
        size > PART_BYTES
    }

    /// Nothing where there is no such object; not, where there is no such bucket.
    fn absent(&self, error: Error) -> Result<(), RemoteError> {
        match error {
            Error::NotFound { .. } if !error.to_string().contains("NoSuchBucket") => Ok(()),
            Error::NotFound { .. } => Err(RemoteError::Denied(format!("there is no bucket `{}`", self.bucket))),
            other => Err(self.error(&other)),
        }
    }

    /// What a failure means for the run.
    fn error(&self, error: &Error) -> RemoteError {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(http) = inner.downcast_ref::<HttpError>() {
                let text = || format!("`{}` cannot be reached: {}", self.bucket, innermost(http));
                return match http.kind() {
                    HttpErrorKind::Timeout => RemoteError::Slow(self.deadline),
                    HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Interrupted => {
                        RemoteError::Unreachable(text())
                    }
                    _ => RemoteError::Odd(text()),
                };
            }
            cause = inner.source();
        }
        let text = said(&error.to_string());
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => RemoteError::Denied(text),
            Error::NotImplemented { .. } | Error::NotSupported { .. } => RemoteError::Denied(text),
            _ => RemoteError::Odd(text),
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What a service says in its own words, else what the client makes of it; short.
fn said(text: &str) -> String {
    let between = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    };
    let words = match (between("Code"), between("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.rsplit(" - ").next().unwrap_or(text).to_owned(),
    };
    words.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_quoted_shortly() {
        let xml = "Error performing GET http://a/b in 3ms - Server returned non-2xx status code: 403 Forbidden: \
                   <?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code><Message>Access\nDenied</Message></Error>";
        assert_eq!(said(xml), "AccessDenied: AccessDenied");
        assert_eq!(said("Error performing PUT http://a - Server returned 501"), "Server returned 501");
        assert_eq!(said(&"x".repeat(1000)).len(), 200);
    }
}
