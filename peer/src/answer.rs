//! Answers: from a request to a response, with what is in the store.
//!
//! Knows the protocol's words; unaware of connections.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use quipu_store::car::{self, Below, MAX_DAG_BYTES};
use quipu_store::cid::{BlobHasher, BlobId, Codec, Link};
use quipu_store::sign::SignedReceipt;
use quipu_store::{Blob, Store, StoreError};
use serde_json::json;

use crate::ask::{self, Ask, Form, MAX_LIST_BYTES, PROBE, Refusal, is_loopback, matches_etag};
use crate::body::{Body, Cut, PART_BYTES};
use crate::serve::Token;
use crate::shelf::Shelf;

/// How long a request may take to say what it asks for.
pub(crate) const REQUEST_TIME: Duration = Duration::from_secs(10);
/// For content that cannot be other.
const FOR_EVER: &str = "max-age=29030400, immutable";
const CAR_TYPE: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=n";
/// A CAR file without blocks whose root is the probe.
const PROBE_CAR: &[u8] = b"\x19\xa2\x65roots\x81\xd8\x2a\x45\x00\x01\x55\x00\x00\x67version\x01";
const HELLO: &str = "\
This is a store of quipu. It can be read:
  /ipfs/ID?format=raw         a block, as it is
  /ipfs/ID?format=car         a block with all below it, as a CAR file
  /quipu/v1/receipts/ID       receipts of a task or an invocation
";

/// What all answers go by.
pub(crate) struct Desk {
    pub(crate) shelf: Shelf,
    pub(crate) token: Option<Token>,
}

/// Answers a request, whatever it is.
pub(crate) async fn answer(desk: Arc<Desk>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is_head = request.method() == Method::HEAD;
    let mut response = match try_answer(&desk, request).await {
        Ok(response) => response,
        Err(refusal) => refused(&refusal),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if desk.token.is_some()
        && let Some(cached) = headers.get(header::CACHE_CONTROL).and_then(|v| v.to_str().ok())
        && let Ok(private) = HeaderValue::from_str(&format!("private, {cached}"))
    {
        headers.insert(header::CACHE_CONTROL, private);
    }
    if is_head {
        if let Some(len) = response.body().size_hint().exact()
            && !response.headers().contains_key(header::CONTENT_LENGTH)
        {
            response.headers_mut().insert(header::CONTENT_LENGTH, len.into());
        }
        *response.body_mut() = Body::empty();
    }
    Ok(response)
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = text(format!("{}\n", refusal.why));
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match refusal.status {
        401 => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        405 => drop(headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"))),
        _ => {}
    }
    response
}

fn text(text: String) -> Response<Body> {
    let mut response = Response::new(Body::Whole(text.into()));
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    let value = HeaderValue::from_str(value).expect("made of ids and constants");
    response.headers_mut().insert(name, value);
}

/// A failure of ours: what it was is nobody's business but the log's of who runs this.
fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal { status: 500, why: format!("the store cannot be read: {error}") }
}

async fn try_answer(desk: &Arc<Desk>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let header = |name: HeaderName| {
        let values = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.map(str::to_owned).reduce(|all, one| format!("{all}, {one}"))
    };
    match &desk.token {
        Some(token) if !header(header::AUTHORIZATION).is_some_and(|said| token.is_shown_by(&said)) => {
            return ask::refusal(401, "a token is asked for");
        }
        None if !header(header::HOST).is_some_and(|host| is_loopback(&host)) => {
            return ask::refusal(421, "this store answers to the names of its own machine only");
        }
        _ => {}
    }
    let (accept, etag) = (header(header::ACCEPT), header(header::IF_NONE_MATCH));
    let uri = request.uri();
    let asked = ask::ask(request.method().as_str(), uri.path(), uri.query().unwrap_or_default(), accept.as_deref())?;
    if asked == Ask::ReceiptsOfMany {
        let ids = ask::ids(&read(request.into_body()).await?)?;
        return on_shelf(desk, move |shelf| receipts(shelf, &ids, None)).await;
    }
    match asked {
        Ask::Hello => Ok(text(HELLO.to_owned())),
        Ask::Probe(form) => Ok(probe(form)),
        Ask::Receipts(id, as_car) => on_shelf(desk, move |shelf| receipts(shelf, &[id], (!as_car).then_some(id))).await,
        Ask::Block(link, form) => on_shelf(desk, move |shelf| block(&shelf.store, link, form, etag.as_deref())).await,
        Ask::ReceiptsOfMany => unreachable!("answered above"),
    }
}

/// Reads the store on a thread that may wait.
async fn on_shelf(
    desk: &Arc<Desk>,
    look: impl FnOnce(&Shelf) -> Result<Response<Body>, Refusal> + Send + 'static,
) -> Result<Response<Body>, Refusal> {
    let shelf = desk.shelf.clone();
    let looked = tokio::task::spawn_blocking(move || look(&shelf)).await;
    looked.unwrap_or_else(|_| ask::refusal(500, "this store has a bug"))
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, Refusal> {
    let mut all = vec![];
    let reading = async {
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let Ok(frame) = frame else { return ask::refusal(400, "the request ends too soon") };
            if let Some(bytes) = frame.data_ref() {
                if all.len() + bytes.len() > MAX_LIST_BYTES {
                    return ask::refusal(413, format!("more than {MAX_LIST_BYTES} bytes"));
                }
                all.extend_from_slice(bytes);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(REQUEST_TIME, reading).await {
        Ok(read) => read.map(|()| all),
        Err(_) => ask::refusal(408, "the request takes too long"),
    }
}

/// The answer to who asks whether this is a gateway.
fn probe(form: Form) -> Response<Body> {
    let mut response = match form {
        Form::Raw => Response::new(Body::empty()),
        Form::Car { .. } => Response::new(Body::Whole(Bytes::from_static(PROBE_CAR))),
    };
    name(&mut response, PROBE, form);
    set(&mut response, header::ETAG, &format!("\"{PROBE}\""));
    response
}

/// Says what a block's answer is, and what to call it.
fn name(response: &mut Response<Body>, id: &str, form: Form) {
    let (kind, suffix) = match form {
        Form::Raw => ("application/vnd.ipld.raw", "bin"),
        Form::Car { .. } => (CAR_TYPE, "car"),
    };
    set(response, header::CONTENT_TYPE, kind);
    set(response, header::CONTENT_DISPOSITION, &format!("attachment; filename=\"{id}.{suffix}\""));
    set(response, header::CACHE_CONTROL, FOR_EVER);
    set(response, header::VARY, "Accept, Authorization");
    set(response, HeaderName::from_static("x-ipfs-path"), &format!("/ipfs/{id}"));
    set(response, HeaderName::from_static("x-ipfs-roots"), id);
}

fn block(store: &Store, link: Link, form: Form, known: Option<&str>) -> Result<Response<Body>, Refusal> {
    let gone = || Refusal { status: 404, why: format!("{link} is not here") };
    let id = link.to_string();
    let (etag, keeps, body) = match form {
        Form::Raw => {
            let body = raw(store, link).map_err(failed)?.ok_or_else(gone)?;
            (format!("\"{id}.raw\""), true, body)
        }
        Form::Car { deep } => {
            let below = Below::find(store, link, deep).map_err(failed)?.ok_or_else(gone)?;
            let mut etag = format!("\"{id}.car.{}.", if deep { "all" } else { "block" });
            for byte in &below.digest()[..16] {
                let _ = write!(etag, "{byte:02x}");
            }
            let (keeps, store) = (below.is_whole(), store.clone());
            let body = Body::written(None, move |to| below.write(&store, to).map(drop).map_err(|_| Cut));
            (etag + "\"", keeps, body)
        }
    };
    let mut response = Response::new(body);
    name(&mut response, &id, form);
    set(&mut response, header::ETAG, &etag);
    if !keeps {
        // What is missing today may be there tomorrow.
        set(&mut response, header::CACHE_CONTROL, "no-cache");
    }
    if known.is_some_and(|known| matches_etag(known, &etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
    }
    Ok(response)
}

/// A block as it is. A large one is hashed on its way, and its last part is kept back until that was right.
fn raw(store: &Store, link: Link) -> Result<Option<Body>, StoreError> {
    if link.codec == Codec::DagCbor {
        return Ok(store.get(link, MAX_DAG_BYTES)?.map(|bytes| Body::Whole(bytes.into())));
    }
    let (path, size) = match store.blob(BlobId::from_digest(link.digest))? {
        None => return Ok(None),
        Some(Blob::Inline(bytes)) => return Ok(Some(Body::Whole(bytes.into()))),
        Some(Blob::File { path, size }) => (path, size),
    };
    // Collected since: as if it had never been here.
    let Ok(file) = File::open(path) else { return Ok(None) };
    let store = store.clone();
    Ok(Some(Body::written(Some(size), move |to| {
        let (mut file, mut hasher) = (file.take(size), BlobHasher::default());
        let mut part = vec![0; PART_BYTES];
        loop {
            let n = file.read(&mut part).map_err(|_| Cut)?;
            if n == 0 {
                break;
            }
            hasher.update(&part[..n]);
            to.write_all(&part[..n]).map_err(|_| Cut)?;
        }
        if hasher.id().link() == link {
            return Ok(());
        }
        store.corrupt(link);
        Err(Cut)
    })))
}

/// Receipts, as JSON about the one id or as a CAR file.
fn receipts(shelf: &Shelf, ids: &[Link], listed: Option<Link>) -> Result<Response<Body>, Refusal> {
    let found = shelf.receipts(ids).map_err(failed)?;
    let mut response = match listed {
        Some(id) => {
            let receipts: Vec<_> = found.iter().map(|signed| described(signed)).collect();
            let body = json!({ "id": id.to_string(), "receipts": receipts });
            let mut response = Response::new(Body::Whole(format!("{body:#}\n").into()));
            set(&mut response, header::CONTENT_TYPE, "application/json");
            response
        }
        // A file has roots.
        None if found.is_empty() => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        None => {
            let mut file = vec![];
            car::pack(&found, &mut file).map_err(failed)?;
            let mut response = Response::new(Body::Whole(file.into()));
            set(&mut response, header::CONTENT_TYPE, CAR_TYPE);
            response
        }
    };
    set(&mut response, header::CACHE_CONTROL, "no-store");
    Ok(response)
}

fn described(signed: &SignedReceipt) -> serde_json::Value {
    let receipt = &signed.receipt;
    json!({
        "id": signed.id.to_string(),
        "issuer": signed.issuer.to_string(),
        "invocation": receipt.ran.to_string(),
        "tasks": receipt.meta.settles.keys().map(ToString::to_string).collect::<Vec<_>>(),
        "issued_at": receipt.issued_at,
        "isolation": receipt.meta.tier,
    })
}
