//! What a request asks for: from its line and headers to one of a few questions, or a refusal.
//!
//! Pure; unaware of connections and of stores.

use quipu_store::cid::{Codec, Link};

/// Content of no bytes, under an id that holds it: by asking for it a client finds out that this is a gateway.
pub(crate) const PROBE: &str = "bafkqaaa";
/// Ids in one request.
pub(crate) const MAX_IDS: usize = 1024;
/// The list of ids in a request.
pub(crate) const MAX_LIST_BYTES: usize = 80 * MAX_IDS;

const RAW: &str = "application/vnd.ipld.raw";
const CAR: &str = "application/vnd.ipld.car";
const JSON: &str = "application/json";

/// How blocks are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The block as it is.
    Raw,
    /// A CAR file with the block, and, when deep, with all below it.
    Car { deep: bool },
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What this is.
    Hello,
    /// Whether this is a gateway.
    Probe(Form),
    /// A block.
    Block(Link, Form),
    /// Receipts of one task or invocation, as a CAR file or else as JSON.
    Receipts(Link, bool),
    /// Receipts of all that are listed in the body, as a CAR file.
    ReceiptsOfMany,
}

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status code.
    pub(crate) status: u16,
    /// What a person should know.
    pub(crate) why: String,
}

pub(crate) fn refusal<T>(status: u16, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { status, why: why.into() })
}

/// Understands a request.
pub(crate) fn ask(method: &str, path: &str, query: &str, accept: Option<&str>) -> Result<Ask, Refusal> {
    let reads = matches!(method, "GET" | "HEAD");
    if path == "/quipu/v1/receipts" {
        return if method == "POST" { Ok(Ask::ReceiptsOfMany) } else { refusal(400, "ids are sent with POST") };
    }
    if !reads {
        return refusal(405, "this store is only read from");
    }
    if path == "/" {
        return Ok(Ask::Hello);
    }
    if let Some(id) = path.strip_prefix("/quipu/v1/receipts/") {
        let id = link(id)?;
        if id.codec != Codec::DagCbor {
            return refusal(400, "tasks and invocations have ids that begin with `bafyr4i`");
        }
        return Ok(Ask::Receipts(id, receipts_as_car(query, accept)?));
    }
    let Some(id) = path.strip_prefix("/ipfs/") else { return refusal(404, "there is nothing under this path") };
    if id.trim_end_matches('/').contains('/') {
        return refusal(400, "paths below an id are not followed: ask for the id of what is there");
    }
    let id = id.trim_end_matches('/');
    if id == PROBE {
        return Ok(Ask::Probe(form(query, accept)?));
    }
    let link = link(id)?;
    Ok(Ask::Block(link, form(query, accept)?))
}

/// An id of the one kind there is here. Other good ones name what is certainly not here.
fn link(text: &str) -> Result<Link, Refusal> {
    match text.parse() {
        Ok(link) => Ok(link),
        Err(quipu_store::cid::CidError::Unsupported(_)) => {
            refusal(404, "only content by BLAKE3-256 is kept here (`bafkr4i...`, `bafyr4i...`)")
        }
        Err(error) => refusal(400, error.to_string()),
    }
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, "")))
}

fn form(query: &str, accept: Option<&str>) -> Result<Form, Refusal> {
    let (mut format, mut deep) = (None, true);
    for (name, value) in parameters(query) {
        match (name, value) {
            ("format", "raw") => format = Some(false),
            ("format", "car") => format = Some(true),
            ("format", _) => return refusal(406, "`format` is `raw` or `car`"),
            ("dag-scope", "all") => deep = true,
            // There are no files in parts here.
            ("dag-scope", "entity" | "block") => deep = false,
            ("dag-scope", _) => return refusal(400, "`dag-scope` is `all`, `entity` or `block`"),
            ("entity-bytes", _) => return refusal(400, "`entity-bytes` is not supported"),
            ("car-version", "1") | ("car-order", "dfs" | "unk") | ("car-dups", "n") => {}
            ("car-version" | "car-order" | "car-dups", _) => return refusal(406, NO_SUCH_CAR),
            _ => {}
        }
    }
    let as_car = match format {
        Some(as_car) => as_car,
        None => match best(accept, &[RAW, CAR])? {
            Some(kind) => kind == CAR,
            None if accept.is_none() => return refusal(400, "say `?format=raw` or `?format=car`"),
            None => return refusal(406, "say `?format=raw` or `?format=car`: nothing else can be checked by its id"),
        },
    };
    Ok(if as_car { Form::Car { deep } } else { Form::Raw })
}

const NO_SUCH_CAR: &str = "CAR files are of version 1, in depth-first order, without duplicates";

fn receipts_as_car(query: &str, accept: Option<&str>) -> Result<bool, Refusal> {
    for (name, value) in parameters(query) {
        match (name, value) {
            ("format", "car") => return Ok(true),
            ("format", "json") => return Ok(false),
            ("format", _) => return refusal(406, "`format` is `car` or `json`"),
            _ => {}
        }
    }
    Ok(best(accept, &[CAR, JSON])? == Some(CAR))
}

/// What an `Accept` header wants most of what there is; wildcards name nothing.
fn best<'k>(accept: Option<&str>, kinds: &[&'k str]) -> Result<Option<&'k str>, Refusal> {
    let mut best: Option<(f32, &str)> = None;
    for one in accept.unwrap_or_default().split(',') {
        let mut parts = one.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let Some(kind) = kinds.iter().find(|kind| kind.eq_ignore_ascii_case(name)) else { continue };
        let (mut weight, mut fits) = (1.0_f32, true);
        for part in parts {
            match part.split_once('=').map(|(n, v)| (n.trim(), v.trim())) {
                Some(("q", v)) => weight = v.parse().ok().filter(|w| (0.0..=1.0).contains(w)).unwrap_or(0.0),
                Some(("version", v)) => fits &= v == "1",
                Some(("order", v)) => fits &= matches!(v, "dfs" | "unk"),
                Some(("dups", v)) => fits &= v == "n",
                _ => {}
            }
        }
        if !fits {
            // Others in the list may do.
            continue;
        }
        if weight > 0.0 && best.is_none_or(|(w, _)| weight > w) {
            best = Some((weight, kind));
        }
    }
    Ok(best.map(|(_, kind)| kind))
}

/// The ids in a body, one a line.
pub(crate) fn ids(body: &[u8]) -> Result<Vec<Link>, Refusal> {
    let Ok(text) = std::str::from_utf8(body) else { return refusal(400, "ids are text, one a line") };
    let ids = text.lines().filter(|line| !line.is_empty()).map(link).collect::<Result<Vec<Link>, _>>()?;
    if ids.len() > MAX_IDS { refusal(413, format!("more than {MAX_IDS} ids")) } else { Ok(ids) }
}

/// Whether one of the validators that a client has is this one.
pub(crate) fn matches_etag(if_none_match: &str, etag: &str) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    if_none_match.trim() == "*" || if_none_match.split(',').any(|tag| strong(tag) == strong(etag))
}

/// Whether a `Host` header names this machine itself. Others could be names of a page's own that its owner has pointed
/// here, so that the page may read what is answered.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<core::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_store::cid::{BlobId, TaskId};

    fn get(path: &str, accept: Option<&str>) -> Result<Ask, u16> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        ask("GET", path, query, accept).map_err(|r| r.status)
    }

    #[test]
    fn a_block_is_asked_for_by_parameter_or_header() {
        let id = BlobId::of(b"x").link();
        let block = |form| Ok(Ask::Block(id, form));
        let at = |query: &str| format!("/ipfs/{id}{query}");
        let (raw, car) = (Some(RAW), Some(CAR));
        assert_eq!(get(&at("?format=raw"), None), block(Form::Raw));
        assert_eq!(get(&at("/?format=raw"), None), block(Form::Raw));
        assert_eq!(get(&at(""), raw), block(Form::Raw));
        assert_eq!(get(&at(""), car), block(Form::Car { deep: true }));
        assert_eq!(get(&at("?format=car"), raw), block(Form::Car { deep: true }), "the parameter goes first");
        assert_eq!(get(&at("?format=car&dag-scope=block"), None), block(Form::Car { deep: false }));
        let long =
            "text/html, application/vnd.ipld.car;version=1;order=dfs;dups=n;q=0.5, application/vnd.ipld.raw;q=0.4";
        assert_eq!(get(&at(""), Some(long)), block(Form::Car { deep: true }));
        let other = "application/vnd.ipld.car;version=2, application/vnd.ipld.raw;q=0.1";
        assert_eq!(get(&at(""), Some(other)), block(Form::Raw), "the next best");
        assert_eq!(get(&format!("/ipfs/{PROBE}?format=raw"), None), Ok(Ask::Probe(Form::Raw)));
    }

    #[test]
    fn what_cannot_be_given_is_refused_with_the_right_code() {
        let id = BlobId::of(b"x").link();
        let at = |query: &str| format!("/ipfs/{id}{query}");
        for (path, accept, status) in [
            (at(""), None, 400),
            (at(""), Some("*/*"), 406),
            (at(""), Some("application/vnd.ipld.raw;q=0"), 406),
            (at("?format=tar"), None, 406),
            (at("?format=car&car-version=2"), None, 406),
            (at("?format=car&car-dups=y"), None, 406),
            (at("?format=car&dag-scope=some"), None, 400),
            (at("?format=car&entity-bytes=0:1"), None, 400),
            (at("/name?format=raw"), None, 400),
            ("/ipfs/nonsense?format=raw".into(), None, 400),
            ("/ipfs/?format=raw".into(), None, 400),
            (format!("/ipfs/{}?format=raw", id.to_string().to_uppercase()), None, 400),
            ("/ipfs/QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n?format=raw".into(), None, 404),
            ("/ipfs/..%2f..%2fetc?format=raw".into(), None, 400),
            ("/elsewhere".into(), None, 404),
            ("/ipns/name".into(), None, 404),
            (format!("/quipu/v1/receipts/{id}"), None, 400),
            ("/quipu/v1/receipts/x".into(), None, 400),
            ("/quipu/v1/receipts".into(), None, 400),
        ] {
            assert_eq!(get(&path, accept), Err(status), "{path} {accept:?}");
        }
        for method in ["PUT", "POST", "DELETE", "OPTIONS", "PATCH"] {
            assert_eq!(ask(method, &at(""), "format=raw", None).map_err(|r| r.status), Err(405), "{method}");
        }
    }

    #[test]
    fn receipts_are_json_for_people_and_car_for_programs() {
        let id = TaskId::of(b"t").link();
        let at = |query: &str| format!("/quipu/v1/receipts/{id}{query}");
        assert_eq!(get(&at(""), None), Ok(Ask::Receipts(id, false)));
        assert_eq!(get(&at(""), Some("*/*")), Ok(Ask::Receipts(id, false)));
        assert_eq!(get(&at(""), Some(CAR)), Ok(Ask::Receipts(id, true)));
        assert_eq!(get(&at("?format=car"), None), Ok(Ask::Receipts(id, true)));
        assert_eq!(get(&at("?format=raw"), None), Err(406));
        assert_eq!(ask("POST", "/quipu/v1/receipts", "", None), Ok(Ask::ReceiptsOfMany));
    }

    #[test]
    fn lists_are_bounded_and_nothing_but_ids() {
        let id = TaskId::of(b"t").link();
        assert_eq!(ids(format!("{id}\n\n{id}\n").as_bytes()), Ok(vec![id, id]));
        assert_eq!(ids(b""), Ok(vec![]));
        assert_eq!(ids(b"what").map_err(|r| r.status), Err(400));
        assert_eq!(ids(&[0xff]).map_err(|r| r.status), Err(400));
        let many = format!("{id}\n").repeat(MAX_IDS + 1);
        assert_eq!(ids(many.as_bytes()).map_err(|r| r.status), Err(413));
        assert!(format!("{id}\r\n").len() * MAX_IDS <= MAX_LIST_BYTES, "a full list fits");
    }

    #[test]
    fn hosts_and_validators() {
        for host in ["localhost", "LocalHost:80", "127.0.0.1:4610", "127.9.9.9", "[::1]:4610", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", "example.com", "localhost.example.com:80", "10.0.0.1:80", "[::2]:1", "127.0.0.1.nip.io", "::1x"]
        {
            assert!(!is_loopback(host), "{host}");
        }
        assert!(matches_etag("\"a\", W/\"b.raw\"", "\"b.raw\"") && matches_etag("*", "\"b\""));
        assert!(!matches_etag("\"a\"", "\"b\"") && !matches_etag("", "\"b\""));
    }
}
