//! The table of routes, and a module with the handlers of each. [`dispatch`] calls the handler of a
//! request; [`context`] is what handlers work with.

mod batch;
mod clear;
pub(crate) mod context;
mod dead;
pub(crate) mod dispatch;
mod docs;
mod jobs;
mod kv;
mod list;
mod mget;
mod queue;
mod read;
mod service;
mod set_request;
mod simple;
mod watch;
mod write;

use kvstore_worker::admin;

pub(crate) use self::context::BODIES_BYTES_MAX;

/// All routes, with the part of the path that is a key or an id.
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
    ConsoleFile(&'a str),
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
    RetryAll,
    Queue,
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
            "/v1/jobs/retry" => Some(Self::RetryAll),
            "/v1/queue" => Some(Self::Queue),
            _ => below("/v1/kv/")
                .map(Self::Entry)
                .or_else(|| below("/get/").map(Self::Get))
                .or_else(|| below("/delete/").map(Self::Delete))
                .or_else(|| below("/v1/jobs/").map(Self::of_job))
                .or_else(|| below("/problems/").map(Self::Problem))
                .or_else(|| below("/docs/").map(Self::DocsFile))
                .or_else(|| below("/console/").map(Self::ConsoleFile)),
        }
    }

    /// Parses the path of one job. Ids contain no slash.
    fn of_job(path: &'a str) -> Self {
        match path.strip_suffix("/retry") {
            Some(id) => Self::Retry(id),
            None => Self::Job(path),
        }
    }

    /// Returns the methods of the route, in the form of `Allow`.
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
            | Self::ConsoleFile(_)
            | Self::Get(_)
            | Self::Watch
            | Self::Queue => "GET, HEAD",
            Self::Set | Self::Mget | Self::Batch | Self::Retry(_) | Self::RetryAll => "POST",
            Self::Delete(_) => "DELETE",
            Self::Entry(_) => "GET, HEAD, PUT, PATCH, POST, DELETE",
            Self::List | Self::Jobs | Self::Job(_) => "GET, HEAD, DELETE",
        }
    }

    /// Returns true if the route needs no token. Public routes serve no data: probes send no
    /// tokens, and a client must be able to look up why its token was refused.
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
                | Self::ConsoleFile(_)
        )
    }

    /// Returns the label of the route in the metrics.
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
            Self::ConsoleFile(_) => "/console/{file}",
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
            Self::RetryAll => "/v1/jobs/retry",
            Self::Queue => "/v1/queue",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::error::Face;
    use crate::config::Options;
    use crate::openapi;

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

    /// A path of each route. `is_in_paths` fails to compile until a new route is added.
    const PATHS: [&str; 23] = [
        "/",
        "/livez",
        "/readyz",
        "/metrics",
        "/problems",
        "/problems/{name}",
        "/openapi.json",
        "/docs",
        "/docs/{file}",
        "/console/{file}",
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
        "/v1/jobs/retry",
        "/v1/queue",
    ];

    fn is_in_paths(route: Route<'_>) -> bool {
        match route {
            Route::Root | Route::Probe | Route::Metrics | Route::Problems | Route::Problem(_) => {}
            Route::OpenApi | Route::Docs | Route::DocsFile(_) | Route::ConsoleFile(_) => {}
            Route::Set | Route::Get(_) | Route::Delete(_) => {}
            Route::Entry(_) | Route::List | Route::Mget | Route::Batch | Route::Watch => {}
            Route::Jobs | Route::Job(_) | Route::Retry(_) | Route::RetryAll | Route::Queue => {}
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
