//! Dispatches a request to the handler of its route. Every request gets an id, a time limit, and an
//! answer even if its handler panics.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_RANGE, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Request};

use super::context::{App, Context};
use super::{Route, batch, clear, dead, docs, jobs, kv, list, mget, queue, service, simple, watch};
use crate::access::token::Access;
use crate::answer::error::{Face, Problem, Result};
use crate::answer::problems::{self, Kind};
use crate::answer::reply::{Reply, X_REQUEST_ID};
use crate::console;
use crate::request::headers::{rare, request_id};
use crate::request::target::Query;
use crate::server::connection::Phase;

/// The label of requests without a route in the metrics.
const NO_ROUTE: &str = "none";

async fn dispatch(
    app: &App,
    phase: &Arc<Phase>,
    route: Option<Route<'_>>,
    parts: &Parts,
    rare: &HeaderMap,
    body: Incoming,
) -> Result<Reply> {
    if phase.is_refused {
        return Err(Problem::no_connections());
    }
    let has_fragment = phase.has_fragment();
    app.options.hosts.check(parts, phase.asked_by)?;
    check_framing(rare)?;
    check_range(&parts.method, rare)?;
    if has_fragment {
        return Err(Problem::malformed(
            "a request target has no #: as a part of a key it is sent as %23",
        )
        .closing());
    }
    let route = route.ok_or_else(Problem::no_route)?;
    if let Some(answer) = app.options.cors.preflight(parts, route.allow()) {
        return Ok(answer);
    }
    let access = match &app.options.tokens {
        _ if route.is_public() => Access::Nothing,
        None => Access::Everything,
        Some(tokens) => match route {
            // A browser's `EventSource` cannot send headers.
            Route::Watch => {
                let query = Query::new(parts.uri.query());
                tokens.admit_by(&parts.headers, query.get("access_token")?.as_deref())?
            }
            _ => tokens.admit(&parts.headers)?,
        },
    };
    app.places.share(phase, &access)?;
    let Some(service) = app.service.get() else {
        return starting(app, route, parts).await;
    };
    let context = &Context::new(app, service, phase, rare, access);
    // hyper sends only the head of an answer to HEAD.
    let method = match &parts.method {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    match (route, method) {
        (Route::Root, &Method::GET) => Ok(service::root(context, parts)),
        (Route::Probe | Route::Metrics, _) if !context.options.admin_routes => {
            Err(Problem::no_route())
        }
        (Route::Probe | Route::Metrics, &Method::GET) => {
            service::admin(context.health, parts).await
        }
        (Route::Problems, &Method::GET) => Ok(problems::index()),
        (Route::Problem(name), &Method::GET) => problems::page(name).ok_or_else(Problem::no_route),
        (Route::OpenApi, &Method::GET) => Ok(docs::openapi(context)),
        (Route::Docs, &Method::GET) => Ok(docs::page()),
        (Route::DocsFile(name), &Method::GET) => docs::file(name).ok_or_else(Problem::no_route),
        (Route::ConsoleFile(name), &Method::GET) => {
            console::file(name).ok_or_else(Problem::no_route)
        }
        (Route::Set, &Method::POST) => simple::set(context, parts, body).await,
        (Route::Get(key), &Method::GET) => simple::get(context, parts, key).await,
        (Route::Delete(key), &Method::DELETE) => simple::delete(context, key).await,
        (Route::Entry(key), &Method::GET) => kv::get(context, parts, key).await,
        (Route::Entry(key), &Method::PUT) => kv::put(context, parts, body, key).await,
        (Route::Entry(key), &Method::PATCH) => kv::patch(context, parts, body, key).await,
        (Route::Entry(key), &Method::POST) => kv::add(context, parts, body, key).await,
        (Route::Entry(key), &Method::DELETE) => kv::delete(context, parts, key).await,
        (Route::List, &Method::GET) => list::get(context, parts).await,
        (Route::List, &Method::DELETE) => clear::delete(context, parts).await,
        (Route::Mget, &Method::POST) => mget::post(context, parts, body).await,
        (Route::Batch, &Method::POST) => batch::post(context, parts, body).await,
        (Route::Watch, &Method::GET) => watch::get(context, parts).await,
        (Route::Jobs, &Method::GET) => queue::list(context, parts).await,
        (Route::Jobs, &Method::DELETE) => dead::forget_all(context, parts).await,
        (Route::Job(id), &Method::DELETE) => dead::forget(context, parts, id).await,
        (Route::Retry(id), &Method::POST) => dead::retry(context, parts, id).await,
        (Route::RetryAll, &Method::POST) => dead::retry_all(context, parts).await,
        (Route::Queue, &Method::GET) => queue::get(context).await,
        (Route::Job(id), &Method::GET) => jobs::get(context, parts, id).await,
        // Includes OPTIONS.
        (Route::Entry(_), _) => Err(Problem::method_not_allowed(route.allow()).patchable()),
        (route, _) => Err(Problem::method_not_allowed(route.allow())),
    }
}

/// Answers a request that arrives before the store is open.
async fn starting(app: &App, route: Route<'_>, parts: &Parts) -> Result<Reply> {
    match route {
        Route::Probe | Route::Metrics if !app.options.admin_routes => Err(Problem::no_route()),
        Route::Probe | Route::Metrics => service::admin(&app.health, parts).await,
        _ => {
            let detail = "the service is starting: its store cannot be used yet";
            Err(Problem::unavailable(Kind::Unavailable, detail))
        }
    }
}

/// Refuses transfer encodings other than a single `chunked` (RFC 9112 §6.1). hyper accepts others
/// before it. If an intermediary interprets them differently, the end of a body for one party is,
/// for the other, the start of a request that no client sent. If there is also a length, hyper
/// ignores it and closes the connection after the answer, as the RFC requires.
fn check_framing(headers: &HeaderMap) -> Result<()> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
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

/// Refuses a write of a part of a value. Writes replace the whole value, so a body that declares
/// itself a part must not be accepted (RFC 9110 §14.5).
fn check_range(method: &Method, headers: &HeaderMap) -> Result<()> {
    match method.is_safe() || !headers.contains_key(CONTENT_RANGE) {
        true => Ok(()),
        false => Err(Problem::malformed(
            "Content-Range: a part of a value cannot be written, send all of it",
        )),
    }
}

/// Answers `request`.
pub(crate) async fn handle(app: Arc<App>, phase: Arc<Phase>, request: Request<Incoming>) -> Reply {
    phase.begin();
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let rare = rare(&parts.headers);
    let id = request_id(rare);
    let route = Route::of(parts.uri.path());
    let handled = {
        // Pinned here, since it is large and would be moved otherwise.
        let dispatching = pin!(dispatch(&app, &phase, route, &parts, rare, body));
        let handling = AssertUnwindSafe(dispatching).catch_unwind();
        let limit = app.options.request_timeout;
        phase.timer.within(limit, handling).await
    };
    let result = match handled {
        Some(Ok(result)) => result,
        Some(Err(_panic)) => {
            app.metrics.panics.inc();
            Err(Problem::internal())
        }
        None => Err(out_of_time(&parts.method, route)),
    };
    let result = match result {
        Err(problem) if route == Some(Route::Watch) => watch::put_off(&parts, problem),
        result => result,
    };
    let result = match result {
        Ok(reply) if reply.body().uncounted_bytes() > 0 => app.in_flight.hold_reply(reply).await,
        result => result,
    };
    let is_read =
        result.is_ok() && matches!(parts.method, Method::PUT | Method::POST | Method::PATCH);
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
    if app.health.is_draining() {
        // The client should reconnect, to another server.
        let headers = reply.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // Only a successful request with a body is certain to have read it to the end.
    phase.end(has_body && !is_read);
    reply
}

fn out_of_time(method: &Method, route: Option<Route<'_>>) -> Box<Problem> {
    if method.is_safe() || route == Some(Route::Mget) {
        Problem::unavailable(Kind::Unavailable, "the service did not answer in time")
    } else {
        Problem::unknown(
            "the service did not answer in time, so it is not known whether this took effect: \
             repeat it with the same Idempotency-Key, or read before repeating",
        )
    }
}
