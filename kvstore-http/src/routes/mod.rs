//! The table of routes, and what holds for every request whichever it takes: an id, a bound on its time, and an answer even if a
//! handler panics.

mod batch;
mod dead;
mod docs;
mod jobs;
mod kv;
mod list;
mod mget;
mod read;
mod service;
mod set_request;
mod simple;
mod watch;
mod write;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::poll_immediate;
use hyper::body::{Body, Incoming};
use hyper::header::{HOST, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Request, Version};
use kvstore_core::Service;
use kvstore_worker::admin::{self, Health};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use self::watch::Watchers;
use crate::access::token::Access;
use crate::answer::error::{Face, Problem, Result};
use crate::answer::problems::{self, Kind};
use crate::answer::reply::{Reply, X_REQUEST_ID};
use crate::config::{ENVELOPE_BYTES, Options};
use crate::metrics::Metrics;
use crate::openapi;
use crate::request::headers::request_id;
use crate::request::target::Query;

pub(crate) use self::batch::BODY_BYTES_MAX as BATCH_BODY_BYTES_MAX;
pub(crate) use self::mget::KEYS_MAX as MGET_KEYS_MAX;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) service: Service,
    pub(crate) options: Options,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) watchers: Watchers,
    /// The text of the OpenAPI document.
    openapi: Bytes,
}

impl App {
    pub(crate) fn new(service: Service, options: Options, health: Health) -> Self {
        Self {
            metrics: health.register(Metrics::new),
            watchers: Watchers::new(options.watchers_max),
            openapi: openapi::document(&options, service.options())
                .to_string()
                .into(),
            service,
            options,
            health,
        }
    }
}

/// What a handler works with: it is one request's.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) service: &'a Service,
    pub(crate) options: &'a Options,
    pub(crate) health: &'a Health,
    pub(crate) watchers: &'a Watchers,
    openapi: &'a Bytes,
    /// What the request may touch: to be asked before anything is touched.
    pub(crate) access: Access,
}

impl<'a> Context<'a> {
    fn new(app: &'a App, access: Access) -> Self {
        Self {
            service: &app.service,
            options: &app.options,
            health: &app.health,
            watchers: &app.watchers,
            openapi: &app.openapi,
            access,
        }
    }

    /// The largest body that a request with one value may have.
    fn body_bytes_max(&self) -> usize {
        self.options
            .body_bytes_max
            .unwrap_or(self.service.options().value_bytes_max + ENVELOPE_BYTES)
    }
}

/// Everything that is served, with the part of the path that is a key or an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Root,
    Probe,
    Metrics,
    Problems,
    Problem(&'a str),
    OpenApi,
    Docs,
    DocsFile(&'a str),
    Set,
    Get(&'a str),
    Delete(&'a str),
    Entry(&'a str),
    List,
    Mget,
    Batch,
    Watch,
    Jobs,
    Job(&'a str),
    Retry(&'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let below = |prefix: &str| path.strip_prefix(prefix);
        match path {
            "/" => Some(Self::Root),
            admin::METRICS => Some(Self::Metrics),
            path if admin::PATHS.contains(&path) => Some(Self::Probe),
            "/problems" => Some(Self::Problems),
            "/openapi.json" => Some(Self::OpenApi),
            "/docs" => Some(Self::Docs),
            "/set" | "/set/" => Some(Self::Set),
            "/v1/kv" => Some(Self::List),
            "/v1/mget" => Some(Self::Mget),
            "/v1/batch" => Some(Self::Batch),
            "/v1/watch" => Some(Self::Watch),
            "/v1/jobs" => Some(Self::Jobs),
            _ => below("/v1/kv/")
                .map(Self::Entry)
                .or_else(|| below("/get/").map(Self::Get))
                .or_else(|| below("/delete/").map(Self::Delete))
                .or_else(|| below("/v1/jobs/").map(Self::of_job))
                .or_else(|| below("/problems/").map(Self::Problem))
                .or_else(|| below("/docs/").map(Self::DocsFile)),
        }
    }

    /// Of one job. No id has a slash.
    fn of_job(path: &'a str) -> Self {
        match path.strip_suffix("/retry") {
            Some(id) => Self::Retry(id),
            None => Self::Job(path),
        }
    }

    /// The methods that it has, as `Allow` lists them.
    fn allow(self) -> &'static str {
        match self {
            Self::Root
            | Self::Probe
            | Self::Metrics
            | Self::Problems
            | Self::Problem(_)
            | Self::OpenApi
            | Self::Docs
            | Self::DocsFile(_)
            | Self::Get(_)
            | Self::List
            | Self::Watch
            | Self::Jobs
            | Self::Job(_) => "GET, HEAD",
            Self::Set | Self::Mget | Self::Batch | Self::Retry(_) => "POST",
            Self::Delete(_) => "DELETE",
            Self::Entry(_) => "GET, HEAD, PUT, DELETE",
        }
    }

    /// Whether whoever reaches the server may ask. There is no data in it: probes carry no tokens, and neither does whoever looks
    /// up why a token was refused. Everything else needs one, where there are any.
    fn is_public(self) -> bool {
        matches!(
            self,
            Self::Root
                | Self::Probe
                | Self::Problems
                | Self::Problem(_)
                | Self::OpenApi
                | Self::Docs
                | Self::DocsFile(_)
        )
    }

    /// What the metrics call it.
    fn pattern(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Probe => "/livez, /readyz",
            Self::Metrics => "/metrics",
            Self::Problems => "/problems",
            Self::Problem(_) => "/problems/{name}",
            Self::OpenApi => "/openapi.json",
            Self::Docs => "/docs",
            Self::DocsFile(_) => "/docs/{file}",
            Self::Set => "/set",
            Self::Get(_) => "/get/{key}",
            Self::Delete(_) => "/delete/{key}",
            Self::Entry(_) => "/v1/kv/{key}",
            Self::List => "/v1/kv",
            Self::Mget => "/v1/mget",
            Self::Batch => "/v1/batch",
            Self::Watch => "/v1/watch",
            Self::Jobs => "/v1/jobs",
            Self::Job(_) => "/v1/jobs/{id}",
            Self::Retry(_) => "/v1/jobs/{id}/retry",
        }
    }
}

/// What the metrics call everything that is no route.
const NO_ROUTE: &str = "none";

async fn dispatch(
    app: &App,
    route: Option<Route<'_>>,
    parts: &Parts,
    body: Incoming,
) -> Result<Reply> {
    check_host(parts)?;
    check_framing(parts)?;
    let route = route.ok_or_else(Problem::no_route)?;
    if let Some(answer) = app.options.cors.preflight(parts, route.allow()) {
        return Ok(answer);
    }
    let access = match &app.options.tokens {
        _ if route.is_public() => Access::Nothing,
        None => Access::Everything,
        Some(tokens) => match route {
            // No header can be given to a browser's EventSource.
            Route::Watch => {
                let query = Query::new(parts.uri.query());
                tokens.admit_by(&parts.headers, query.get("access_token")?.as_deref())?
            }
            _ => tokens.admit(&parts.headers)?,
        },
    };
    let context = &Context::new(app, access);
    // hyper sends the head of an answer to HEAD, and keeps the body to itself.
    let method = match &parts.method {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    match (route, method) {
        (Route::Root, &Method::GET) => Ok(service::root(context)),
        (Route::Probe | Route::Metrics, _) if !context.options.admin_routes => {
            Err(Problem::no_route())
        }
        (Route::Probe | Route::Metrics, &Method::GET) => service::admin(context, parts).await,
        (Route::Problems, &Method::GET) => Ok(problems::index()),
        (Route::Problem(name), &Method::GET) => problems::page(name).ok_or_else(Problem::no_route),
        (Route::OpenApi, &Method::GET) => Ok(docs::openapi(context)),
        (Route::Docs, &Method::GET) => Ok(docs::page()),
        (Route::DocsFile(name), &Method::GET) => docs::file(name).ok_or_else(Problem::no_route),
        (Route::Set, &Method::POST) => simple::set(context, parts, body).await,
        (Route::Get(key), &Method::GET) => simple::get(context, parts, key).await,
        (Route::Delete(key), &Method::DELETE) => simple::delete(context, parts, key).await,
        (Route::Entry(key), &Method::GET) => kv::get(context, parts, key).await,
        (Route::Entry(key), &Method::PUT) => kv::put(context, parts, body, key).await,
        (Route::Entry(key), &Method::DELETE) => kv::delete(context, parts, key).await,
        (Route::List, &Method::GET) => list::get(context, parts).await,
        (Route::Mget, &Method::POST) => mget::post(context, parts, body).await,
        (Route::Batch, &Method::POST) => batch::post(context, parts, body).await,
        (Route::Watch, &Method::GET) => watch::get(context, parts).await,
        (Route::Jobs, &Method::GET) => dead::list(context, parts).await,
        (Route::Retry(id), &Method::POST) => dead::retry(context, parts, id).await,
        (Route::Job(id), &Method::GET) => jobs::get(context, parts, id).await,
        (route, _) => Err(Problem::method_not_allowed(route.allow())),
    }
}

/// A request of HTTP/1.1 names its host exactly once (RFC 9112 §3.2).
fn check_host(parts: &Parts) -> Result<()> {
    let hosts = parts.headers.get_all(HOST).iter().count();
    if hosts == 1 || (hosts == 0 && parts.version < Version::HTTP_11) {
        Ok(())
    } else {
        Err(Problem::malformed("a request must have one Host header"))
    }
}

/// A body has no encoding but `chunked`, once (RFC 9112 §6.1). hyper takes others before that one, and where something between client
/// and server takes them otherwise, what one of them reads as the end of a body is to the other a request that nobody has sent.
/// Where there is a length, too, hyper drops that and closes the connection after its answer, as the RFC has it.
fn check_framing(parts: &Parts) -> Result<()> {
    let mut encodings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else {
        return Ok(());
    };
    let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if is_chunked && encodings.next().is_none() {
        Ok(())
    } else {
        Err(Problem::ambiguous_body())
    }
}

/// The answer to `request`, and whether some of its body may still be under way.
pub(crate) async fn handle(app: &App, request: Request<Incoming>) -> (Reply, bool) {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let id = request_id(&parts.headers);
    let route = Route::of(parts.uri.path());
    let handling = AssertUnwindSafe(dispatch(app, route, &parts, body)).catch_unwind();
    let result = match within(app.options.request_timeout, handling).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => {
            app.metrics.panics.inc();
            Err(Problem::internal())
        }
        Err(_elapsed) => Err(out_of_time(&parts.method)),
    };
    let is_refused = result.is_err();
    let mut reply =
        result.unwrap_or_else(|problem| problem.into_reply(Face::of(parts.uri.path()), &id));
    tracing::debug!(
        request_id = ?id, method = %parts.method, path = parts.uri.path(), status = reply.status().as_u16(), "answered"
    );
    app.metrics.request(
        route.map_or(NO_ROUTE, Route::pattern),
        &parts.method,
        reply.status(),
        begun.elapsed(),
    );
    reply.headers_mut().insert(X_REQUEST_ID, id);
    app.options.cors.mark(&parts.headers, reply.headers_mut());
    (reply, has_body && is_refused)
}

/// What `future` comes to, unless that takes longer than `limit`. Most answers are ready at once, and need no timer.
async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    match poll_immediate(&mut future).await {
        Some(output) => Ok(output),
        None => timeout(limit, future).await,
    }
}

fn out_of_time(method: &Method) -> Box<Problem> {
    if method.is_safe() {
        Problem::unavailable(Kind::Unavailable, "the service did not answer in time")
    } else {
        Problem::unknown(
            "the service did not answer in time, so it is not known whether this took effect: \
             repeat it with the same Idempotency-Key, or read before repeating",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_are_the_whole_rest_of_the_path() {
        for (path, route) in [
            ("/", Some(Route::Root)),
            ("/set/", Some(Route::Set)),
            ("/set/a", None),
            ("/get", None),
            ("/get/", Some(Route::Get(""))),
            ("/get/a/b", Some(Route::Get("a/b"))),
            ("/delete/a%2Fb", Some(Route::Delete("a%2Fb"))),
            ("/v1/kv/v1/kv/a", Some(Route::Entry("v1/kv/a"))),
            ("/v1/kv", Some(Route::List)),
            ("/v1/kv/", Some(Route::Entry(""))),
            ("/v1/mget", Some(Route::Mget)),
            ("/v1/watch", Some(Route::Watch)),
            ("/v1/jobs", Some(Route::Jobs)),
            ("/v1/jobs/x", Some(Route::Job("x"))),
            ("/v1/jobs/x/retry", Some(Route::Retry("x"))),
            ("/v1/jobs/x/y", Some(Route::Job("x/y"))),
            ("/docs", Some(Route::Docs)),
            ("/docs/start.js", Some(Route::DocsFile("start.js"))),
            ("//v1/kv/a", None),
            ("/livez/", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    /// A path of every route. Whoever adds a route adds one here: the compiler asks for it.
    const PATHS: [&str; 20] = [
        "/",
        "/livez",
        "/readyz",
        "/metrics",
        "/problems",
        "/problems/{name}",
        "/openapi.json",
        "/docs",
        "/docs/{file}",
        "/set",
        "/get/{key}",
        "/delete/{key}",
        "/v1/kv/{key}",
        "/v1/kv",
        "/v1/mget",
        "/v1/batch",
        "/v1/watch",
        "/v1/jobs",
        "/v1/jobs/{id}",
        "/v1/jobs/{id}/retry",
    ];

    fn is_in_paths(route: Route<'_>) -> bool {
        match route {
            Route::Root | Route::Probe | Route::Metrics | Route::Problems | Route::Problem(_) => {}
            Route::OpenApi | Route::Docs | Route::DocsFile(_) => {}
            Route::Set | Route::Get(_) | Route::Delete(_) => {}
            Route::Entry(_) | Route::List | Route::Mget | Route::Batch | Route::Watch => {}
            Route::Jobs | Route::Job(_) | Route::Retry(_) => {}
        }
        PATHS.iter().any(|path| Route::of(path) == Some(route))
    }

    #[test]
    fn document_has_every_route_with_its_methods_and_no_other() {
        let document = openapi::document(&Options::default(), &Default::default());
        let paths = document["paths"].as_object().unwrap();
        let mut named: Vec<_> = paths.keys().map(String::as_str).collect();
        let mut known = PATHS.to_vec();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
        for (path, methods) in paths {
            let route = Route::of(path).unwrap();
            assert!(is_in_paths(route));
            let mut said: Vec<_> = methods
                .as_object()
                .unwrap()
                .keys()
                .map(|it| it.to_uppercase())
                .collect();
            let mut allowed: Vec<_> = route.allow().split(", ").map(str::to_owned).collect();
            said.sort_unstable();
            allowed.sort_unstable();
            assert_eq!(said, allowed, "{path}");
            let is_public = methods
                .as_object()
                .unwrap()
                .values()
                .all(|it| it["security"] == serde_json::json!([]));
            assert_eq!(is_public, route.is_public(), "{path}");
        }
    }

    #[test]
    fn faces_are_told_by_the_path() {
        for (path, face) in [
            ("/v1", Face::Resource),
            ("/v1/", Face::Resource),
            ("/v1/x", Face::Resource),
            ("/v1x", Face::Simple),
            ("/get/v1/x", Face::Simple),
            ("*", Face::Simple),
        ] {
            assert_eq!(Face::of(path), face, "{path}");
        }
    }
}
