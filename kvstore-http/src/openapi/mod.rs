//! `GET /openapi.json`: parameters and answers of every route as OpenAPI 3.1
//! (<https://spec.openapis.org/oas/v3.1.0>), with the limits in force.
//!
//! Tests compare it with the table of routes, with the server's answers, and with the copy in
//! `openapi.json`.

mod answers;
mod paths;
mod schemas;

use kvstore_core::limits::{PAGE_VALUE_BYTES_MAX, TTL_MAX, VALUE_DEPTH_MAX};
use kvstore_core::service::ServiceOptions;
use serde_json::{Value, json};

use crate::config::{ENVELOPE_BYTES, Options};
use crate::routes::BODIES_BYTES_MAX;

/// The introduction of the document, and of the page that shows it.
const PROMISES: &str = "\
## What an answer promises
* **202**: the write is in the durable queue, has its place in its key's order, and will be applied exactly once in effect, even if \
the server or the worker is killed; unless its own condition fails or it becomes a dead letter, and then its job says so. A read \
need not show it yet.
* **200** or **201** on a write: it is applied and durable, and every later read shows it.
* **503** with `Retry-After`: the write is not in the queue. Send it again later.
* **504**: it is not known whether the write is in the queue, since something broke in between. Repeating it with the same \
`Idempotency-Key` is safe.
* A read shows every applied write, never half of one, and never an expired value.
";

/// Builds the document for a server with these settings.
pub(crate) fn document(options: &Options, service: &ServiceOptions) -> Value {
    // Without tokens, the page must not show padlocks.
    let (security, schemes) = match options.tokens {
        None => (json!([]), json!({})),
        Some(_) => (
            json!([{ "bearer": [] }]),
            json!({ "bearer": { "type": "http", "scheme": "bearer" } }),
        ),
    };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "kvstore",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "JSON values under keys, written through a durable queue",
            "description": PROMISES,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The server that this document came from" }],
        "security": security,
        "tags": [
            { "name": "simple", "description": "Three plain routes, with errors in the shape of FastAPI's" },
            { "name": "entries", "description": "One entry is one resource, with its version as entity tag" },
            { "name": "jobs", "description": "The state of accepted writes" },
            { "name": "service", "description": "Information about the service" },
        ],
        "paths": paths::all(options),
        "components": {
            "schemas": schemas::all(options, service),
            "headers": answers::headers(),
            "responses": answers::problems(),
            "securitySchemes": schemes,
        },
        "x-limits": limits(options, service),
    })
}

/// Returns all limits that a client can reach, in bytes, seconds or as a number.
pub(crate) fn limits(options: &Options, service: &ServiceOptions) -> Value {
    let body = options.body_bytes_max;
    let with_value = body.unwrap_or(service.value_bytes_max + ENVELOPE_BYTES);
    let mut limits = json!({
        "key_characters": service.key_chars_max,
        "value_bytes": service.value_bytes_max,
        "value_nesting": VALUE_DEPTH_MAX,
        "body_bytes": with_value,
        "batch_body_bytes": body.unwrap_or(with_value.max(BODIES_BYTES_MAX)),
        "batch_operations": service.batch_operations_max,
        "mget_keys": options.mget_keys_max,
        "page_entries": options.page_items_max,
        "page_value_bytes": PAGE_VALUE_BYTES_MAX,
        "ttl_seconds": TTL_MAX.as_secs(),
        "wait_seconds": options.wait_max.as_secs(),
        "visible_wait_seconds": service.visible_wait.as_secs_f64(),
        "idempotency_window_seconds": service.idempotency_window.as_secs(),
        "idempotency_minimum_seconds": service.idempotency_minimum.as_secs(),
        "watchers": options.watchers_max,
        "connections": options.connections_max,
        "in_flight_bytes": options.in_flight_bytes_max,
        "head_bytes": options.head_bytes_max,
        "header_lines": options.headers_max,
        "head_seconds": options.head_timeout.as_secs_f64(),
        "body_seconds": options.body_timeout.as_secs_f64(),
        "request_seconds": options.request_timeout.as_secs_f64(),
        "write_seconds": options.write_timeout.as_secs_f64(),
        "idle_seconds": options.idle_timeout.as_secs_f64(),
    });
    // Some limits depend on the machine: a server knows them, the committed copy omits them.
    let members = limits.as_object_mut().expect("limits are an object");
    members.retain(|_, limit| !limit.is_null());
    let bounds = options.store_bounds.iter();
    members.extend(bounds.map(|(name, bound)| (String::from(*name), json!(bound))));
    limits
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Returns the text of the committed copy.
    fn text() -> String {
        let document = document(&Options::default(), &ServiceOptions::default());
        serde_json::to_string_pretty(&document).unwrap() + "\n"
    }

    #[test]
    fn committed_copy_is_the_document_of_a_server_as_it_comes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        if std::env::var_os("KVSTORE_WRITE_OPENAPI").is_some() {
            std::fs::write(&path, text()).unwrap();
        }
        let copy = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            copy == text(),
            "{} is not what the server says: KVSTORE_WRITE_OPENAPI=1 cargo test -p kvstore-http --lib committed_copy",
            path.display()
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn look(at: &Value, document: &Value, found: &mut usize) {
            match at {
                Value::Object(members) => {
                    for (name, member) in members {
                        if let ("$ref", Value::String(to)) = (&**name, member) {
                            let place = to.strip_prefix('#').expect("references begin with #");
                            assert!(document.pointer(place).is_some(), "{to} is not there");
                            *found += 1;
                        }
                        look(member, document, found);
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| look(item, document, found)),
                _ => {}
            }
        }
        let document = document(&Options::default(), &ServiceOptions::default());
        let mut found = 0;
        look(&document, &document, &mut found);
        assert!(found > 50, "{found}");
    }

    #[test]
    fn every_answer_with_a_sync_token_links_to_its_job() {
        let document = document(&Options::default(), &ServiceOptions::default());
        let paths = document["paths"].as_object().unwrap();
        let mut found = 0;
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().unwrap() {
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    if answer["headers"].get("sync-token").is_some() {
                        let job = &answer["links"]["job"];
                        assert_eq!(job["operationId"], "getJob", "{method} {path} {status}");
                        found += 1;
                    }
                }
            }
        }
        // Two each for the plain writes, `DELETE` and the batch; three each for `PUT`, `PATCH` and
        // `POST`; one for a retry.
        assert_eq!(found, 18);
    }

    #[test]
    fn names_of_operations_are_unique() {
        let document = document(&Options::default(), &ServiceOptions::default());
        let paths = document["paths"].as_object().unwrap();
        let operations = paths
            .values()
            .flat_map(|path| path.as_object().unwrap().values());
        let mut names: Vec<_> = operations
            .map(|it| it["operationId"].as_str().unwrap())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
