//! The HTTP below the protocol's client: requests that are carried out on the calling thread, each with an end.
//!
//! Knows connections, deadlines and busy services; unaware of buckets and signatures. Futures that are made of these
//! requests never wait for anything else, so that no runtime is needed to finish them.

use std::future::Future;
use std::io::{self, Read};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, BodyReader};

use crate::config::{Config, ConfigError};

/// Requests at once.
pub(crate) const CALLS: usize = 16;
/// What is read at once.
const PART_BYTES: usize = 128 << 10;
/// Answers that are no content: errors, and what is said of an upload.
const MAX_WORDS_BYTES: u64 = 1 << 20;
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Shorter than services keep a connection that nothing is asked on.
const IDLE: Duration = Duration::from_secs(4);
/// Before a request is made once more.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a request may take in all, when its own size does not say it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most(pub(crate) Duration);

/// Connections to a service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    agent: Agent,
    deadline: Duration,
}

impl Wire {
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let deadline = config.deadline()?;
        let tls = TlsConfig::builder()
            .root_certs(roots(config)?)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Whoever answers is who was asked.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .max_response_header_size(MAX_HEAD_BYTES)
            .max_idle_age(IDLE)
            .max_idle_connections(CALLS)
            .max_idle_connections_per_host(CALLS)
            .timeout_connect(Some(deadline))
            .timeout_recv_response(Some(deadline))
            .timeout_per_read(Some(deadline))
            .timeout_per_write(Some(deadline))
            .tls_config(tls)
            .user_agent("quipu")
            .build()
            .into();
        Ok(Self { agent, deadline })
    }

    /// Makes a request; once more where the connection was lost or the service is busy, as long as there is time.
    fn make(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let bytes = collect(body)?;
        let most = match head.extensions.get::<Most>() {
            Some(Most(most)) => *most,
            None => self.deadline + quipu_store::remote::workers::time_for(bytes.len() as u64),
        };
        let ends = Instant::now() + most;
        let mut again = true;
        loop {
            let mut copy = Request::new(&bytes[..]);
            *copy.method_mut() = head.method.clone();
            *copy.uri_mut() = head.uri.clone();
            *copy.headers_mut() = head.headers.clone();
            let left = ends.saturating_duration_since(Instant::now());
            let request = self.agent.configure_request(copy).timeout_global(Some(left)).build();
            let pause = match self.agent.run(request) {
                Ok(answer) if again && is_busy(answer.status()) => {
                    let pause = asked_to_wait(answer.headers()).unwrap_or(PAUSE);
                    if Instant::now() + pause >= ends {
                        return Ok(given(&head.method, answer));
                    }
                    pause
                }
                Ok(answer) => return Ok(given(&head.method, answer)),
                Err(error) => {
                    let error = failed(error);
                    if !again || error.kind() == HttpErrorKind::Timeout || Instant::now() + PAUSE >= ends {
                        return Err(error);
                    }
                    PAUSE
                }
            };
            again = false;
            std::thread::sleep(pause);
        }
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Wire {
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move { self.make(request) })
    }
}

/// Whom we believe when they say who they are.
fn roots(config: &Config) -> Result<RootCerts, ConfigError> {
    let Some(path) = &config.ca else {
        let system = rustls_native_certs::load_native_certs().certs;
        let all = system.iter().map(|der| Certificate::from_der(der).to_owned()).collect::<Vec<_>>();
        return Ok(RootCerts::new_with_certs(&all));
    };
    let wrong = |why: &dyn std::fmt::Display| ConfigError::Certificates { path: path.clone(), why: why.to_string() };
    let text = std::fs::read(path).map_err(|e| wrong(&e))?;
    let mut all = vec![];
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| wrong(&e))? {
            all.push(certificate);
        }
    }
    if all.is_empty() { Err(wrong(&"there is no certificate in it")) } else { Ok(RootCerts::new_with_certs(&all)) }
}

/// Services say so of themselves, too: asked once more, they mostly answer.
fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

/// When a busy service wants to be asked again.
fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}

fn collect(mut body: impl HttpBody<Data = Bytes, Error = HttpError> + Unpin) -> Result<Vec<u8>, HttpError> {
    let mut all = vec![];
    while let Some(frame) = finish(std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context))) {
        if let Ok(bytes) = frame?.into_data() {
            all.extend_from_slice(&bytes);
        }
    }
    Ok(all)
}

/// An answer in the form of the protocol's client, read as it asks for it.
fn given(method: &Method, answer: hyper::Response<ureq::Body>) -> HttpResponse {
    let (head, body) = answer.into_parts();
    let limit = if method == Method::GET && head.status.is_success() { u64::MAX } else { MAX_WORDS_BYTES };
    let reader = body.into_with_config().limit(u64::MAX).reader().take(limit);
    HttpResponse::from_parts(head, HttpResponseBody::new(Answer(Mutex::new(reader))))
}

struct Answer(Mutex<io::Take<BodyReader<'static>>>);

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let mut reader = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut part = vec![0; PART_BYTES];
        loop {
            match reader.read(&mut part) {
                Ok(0) => return Poll::Ready(None),
                Ok(n) => {
                    part.truncate(n);
                    return Poll::Ready(Some(Ok(Frame::data(part.into()))));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Some(Err(cut(e)))),
            }
        }
    }
}

/// Why an answer broke off.
fn cut(error: io::Error) -> HttpError {
    if error.kind() == io::ErrorKind::TimedOut {
        return HttpError::new(HttpErrorKind::Timeout, error);
    }
    match error.downcast::<ureq::Error>() {
        Ok(inner) => failed(inner),
        Err(error) => HttpError::new(HttpErrorKind::Interrupted, error),
    }
}

fn failed(error: ureq::Error) -> HttpError {
    let kind = match &error {
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => HttpErrorKind::Timeout,
        ureq::Error::Io(_) => HttpErrorKind::Interrupted,
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

/// Waits for a future on this thread.
pub(crate) fn finish<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut context, mut future) = (Context::from_waker(&waker), pin!(future));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
