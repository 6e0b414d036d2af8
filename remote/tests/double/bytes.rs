//! Large blobs of the server that stands for all servers: read and written in pieces.
//!
//! Unaware of small ones, and of what is executed.

use super::*;

/// Name space, hash and size of a resource that is read, or written when `upload`, and how it is compressed.
fn resource(name: &str, upload: bool) -> Result<(String, api::Digest, i32), Status> {
    let bad = || Status::invalid_argument(format!("`{name}` names no blob"));
    let (before, after) = name.split_once("blobs/").ok_or_else(bad)?;
    let (before, compressor) = before.strip_suffix("compressed-").map_or((before, 0), |before| (before, ZSTD));
    let after = if compressor == 0 { after } else { after.strip_prefix("zstd/").ok_or_else(bad)? };
    let mut parts = after.strip_prefix("blake3/").unwrap_or(after).split('/');
    let (Some(hash), Some(size), None) = (parts.next(), parts.next(), parts.next()) else { return Err(bad()) };
    let instance = if upload { before.split_once("uploads/").ok_or_else(bad)?.0 } else { before };
    let size_bytes = size.parse().map_err(|_| bad())?;
    Ok((instance.trim_end_matches('/').to_owned(), api::Digest { hash: hash.to_owned(), size_bytes }, compressor))
}

#[tonic::async_trait]
impl bs::byte_stream_server::ByteStream for Service {
    type ReadStream = Many<bs::ReadResponse>;

    async fn read(&self, request: Request<bs::ReadRequest>) -> Answer<Self::ReadStream> {
        let (instance, digest, compressor) = resource(&request.get_ref().resource_name, false)?;
        let ill = self.0.enter("Read", Verb::Fetch, &instance, &request).await?;
        let request = request.into_inner();
        if request.read_limit != 0 {
            // As a real server answers.
            return Err(Status::data_loss("limits are not my thing"));
        }
        let found = self.0.blob(&digest).filter(|_| ill != Some(Ill::Gone));
        let found = found.ok_or_else(|| Status::not_found("no such blob"))?;
        let bytes = spoilt(ill, self.0.in_form(compressor, found)?);
        let offset = usize::try_from(request.read_offset).map_err(|_| Status::out_of_range("no such offset"))?;
        let rest = bytes.get(offset..).ok_or_else(|| Status::out_of_range("no such offset"))?;
        let mut chunks: Vec<Result<bs::ReadResponse, Status>> =
            rest.chunks(100_000).map(|c| Ok(bs::ReadResponse { data: c.to_vec() })).collect();
        match ill {
            Some(Ill::Break) => {
                chunks.truncate(1);
                chunks.push(Err(broken()));
            }
            Some(Ill::Mixed) => chunks.reverse(),
            _ => {}
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn write(&self, mut request: Request<Streaming<bs::WriteRequest>>) -> Answer<bs::WriteResponse> {
        let Some(first) = request.get_mut().next().await.transpose()? else {
            return Err(Status::invalid_argument("nothing is written"));
        };
        let (instance, digest, compressor) = resource(&first.resource_name, true)?;
        let ill = self.0.enter("Write", Verb::Push, &instance, &request).await?;
        let (mut bytes, mut finished, mut next) = (vec![], false, Some(first));
        while let Some(message) = next {
            if finished || message.write_offset != bytes.len() as i64 {
                return Err(Status::invalid_argument("out of order"));
            }
            bytes.extend_from_slice(&message.data);
            finished = message.finish_write;
            if ill == Some(Ill::Break) {
                return Err(broken());
            }
            next = request.get_mut().next().await.transpose()?;
        }
        if !finished {
            return Err(Status::invalid_argument("it has no end"));
        }
        let committed_size = if ill == Some(Ill::Short) { bytes.len() as i64 / 2 } else { bytes.len() as i64 };
        if !matches!(ill, Some(Ill::Gone | Ill::Short)) {
            self.0.take(&digest, self.0.plain(compressor, spoilt(ill, bytes))?)?;
        }
        Ok(Response::new(bs::WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        _: Request<bs::QueryWriteStatusRequest>,
    ) -> Answer<bs::QueryWriteStatusResponse> {
        Err(Status::unimplemented("uploads begin again"))
    }
}
