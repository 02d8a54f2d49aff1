//! Answers of operations: their statuses, headers and bodies.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::schemas::{VERSION_PATTERN, schema};
use crate::answer::error::Face;
use crate::answer::problems;

/// One answer of an operation.
pub(super) struct Answer {
    pub(super) status: u16,
    description: &'static str,
    headers: Vec<(&'static str, bool)>,
    content: Option<(&'static str, Value)>,
    links: bool,
}

impl Answer {
    pub(super) fn new(status: u16, description: &'static str) -> Self {
        Self {
            status,
            description,
            headers: Vec::new(),
            content: None,
            links: false,
        }
    }

    /// Sets the body to the schema `name`.
    pub(super) fn json(self, name: &str) -> Self {
        self.content("application/json", schema(name))
    }

    pub(super) fn content(self, media_type: &'static str, schema: Value) -> Self {
        Self {
            content: Some((media_type, schema)),
            ..self
        }
    }

    /// Adds headers; a `?` after a name makes it optional.
    pub(super) fn headers(mut self, names: &[&'static str]) -> Self {
        self.headers.extend(names.iter().map(|name| {
            let required = !name.ends_with('?');
            (name.trim_end_matches('?'), required)
        }));
        self
    }

    /// Adds the headers of every answer to a write.
    pub(super) fn written(self) -> Self {
        self.headers(&["sync-token", "idempotency-replayed?", "preference-applied?"])
            .linked()
    }

    /// Adds links to the job, and to the key if the body names one.
    pub(super) fn linked(self) -> Self {
        Self {
            links: true,
            ..self
        }
    }

    pub(super) fn into_json(self) -> Value {
        let mut headers = Map::new();
        for (name, required) in self.headers.into_iter().chain([("x-request-id", true)]) {
            headers.insert(name.to_owned(), header(name, required));
        }
        let mut answer = json!({ "description": self.description, "headers": headers });
        if self.links {
            // An answer that only accepts the write has links, too: its job exists from then on.
            let by_key = self.content.as_ref().is_some_and(|(_, schema)| {
                let name = schema["$ref"].as_str().unwrap_or_default();
                !name.contains("/Batch") && !name.ends_with("/Retried")
            });
            answer["links"] = links(by_key);
        }
        if let Some((media_type, schema)) = self.content {
            answer["content"] = json!({ media_type: { "schema": schema } });
        }
        answer
    }
}

/// Returns the links from a write to its job and entry.
fn links(by_key: bool) -> Value {
    let mut links = json!({
        "job": { "operationId": "getJob", "parameters": { "id": "$response.body#/job_id" } },
    });
    if by_key {
        let key = json!({ "key": "$response.body#/key" });
        links["entry"] = json!({ "operationId": "getEntry", "parameters": key });
        links["get"] = json!({ "operationId": "get", "parameters": key });
        links["delete"] = json!({ "operationId": "deleteEntry", "parameters": key });
    }
    links
}

/// Returns a reference to the answer of a problem, by face and status.
pub(super) fn problem(face: Face, status: u16) -> Value {
    json!({ "$ref": format!("#/components/responses/{}", problem_name(face, status)) })
}

fn problem_name(face: Face, status: u16) -> String {
    match face {
        Face::Simple => format!("Simple{status}"),
        Face::Resource => format!("Problem{status}"),
    }
}

/// Returns the answers of all problems, by face and status.
pub(super) fn problems() -> Value {
    let statuses: BTreeSet<u16> = problems::statuses().collect();
    let mut responses = Map::new();
    for status in statuses {
        responses.insert(format!("Head{status}"), described(status));
        for face in [Face::Simple, Face::Resource] {
            let mut answer = described(status);
            let (media_type, name) = match face {
                Face::Simple => ("application/json", "SimpleProblem"),
                Face::Resource => ("application/problem+json", "Problem"),
            };
            answer["content"] = json!({ media_type: { "schema": schema(name) } });
            responses.insert(problem_name(face, status), answer);
        }
    }
    responses.into()
}

/// Returns the answer of a problem without its body.
fn described(status: u16) -> Value {
    let mut names = vec![("cache-control", true), ("x-request-id", true)];
    match status {
        401 | 403 => names.push(("www-authenticate", true)),
        405 => names.push(("allow", true)),
        404 | 412 => names.push(("preference-applied", false)),
        415 => names.extend([("accept-patch", false), ("accept-encoding", false)]),
        503 | 507 => names.push(("retry-after", true)),
        _ => {}
    }
    // A failed job that the request waited for adds these.
    if matches!(status, 404 | 412 | 413 | 422 | 500 | 504) {
        names.extend([("sync-token", false), ("idempotency-replayed", false)]);
    }
    let headers: Map<_, _> = names
        .into_iter()
        .map(|(name, required)| (name.to_owned(), header(name, required)))
        .collect();
    json!({ "description": problems::meanings(status).join(" Or: "), "headers": headers })
}

/// Converts answers to those of a HEAD request.
pub(super) fn without_bodies(answers: &Value) -> Value {
    let mut heads = Map::new();
    for (status, answer) in answers.as_object().expect("answers are an object") {
        let mut head = answer.clone();
        let members = head.as_object_mut().expect("an answer is an object");
        if members.contains_key("$ref") {
            members["$ref"] = format!("#/components/responses/Head{status}").into();
        }
        members.remove("content");
        members.remove("links");
        heads.insert(status.clone(), head);
    }
    heads.into()
}

/// Returns a reference to a header.
fn header(name: &str, required: bool) -> Value {
    let component = component_of(name, required);
    json!({ "$ref": format!("#/components/headers/{component}") })
}

fn component_of(name: &str, required: bool) -> String {
    match required {
        true => name.to_owned(),
        false => format!("{name}.optional"),
    }
}

/// Returns all headers, each in a required and an optional form.
pub(super) fn headers() -> Value {
    let mut headers = Map::new();
    for (name, description, schema) in all_headers() {
        for required in [true, false] {
            let header =
                json!({ "description": description, "required": required, "schema": schema });
            headers.insert(component_of(name, required), header);
        }
    }
    headers.into()
}

fn all_headers() -> [(&'static str, &'static str, Value); 17] {
    let text = || json!({ "type": "string" });
    let seconds = || json!({ "type": "integer", "minimum": 1 });
    [
        (
            "accept-encoding",
            "The accepted encodings of a body",
            text(),
        ),
        ("accept-patch", "The accepted types of a patch", text()),
        ("allow", "The methods of the route", text()),
        ("cache-control", "How the answer may be cached", text()),
        (
            "content-encoding",
            "The encoding of the body",
            json!({ "const": "gzip" }),
        ),
        (
            "content-security-policy",
            "The sources from which the page may load",
            text(),
        ),
        (
            "etag",
            "The version of the entry",
            json!({ "type": "string", "pattern": VERSION_PATTERN }),
        ),
        (
            "idempotency-replayed",
            "The Idempotency-Key was used before: the answer is about the job of the first request",
            json!({ "const": "true" }),
        ),
        (
            "location",
            "The job",
            json!({ "type": "string", "format": "uri-reference" }),
        ),
        (
            "preference-applied",
            "The preferences that were applied",
            text(),
        ),
        (
            "retry-after",
            "Seconds to wait before the next attempt",
            seconds(),
        ),
        (
            "sync-token",
            "The job id: a read with it shows the write",
            text(),
        ),
        (
            "vary",
            "The request headers on which the answer depends",
            text(),
        ),
        ("www-authenticate", "The required authentication", text()),
        (
            "x-accel-buffering",
            "Keeps proxies from buffering events",
            json!({ "const": "no" }),
        ),
        (
            "x-request-id",
            "The request's own id, or a generated one",
            text(),
        ),
        (
            "x-ttl",
            "Seconds until the entry expires, if it does",
            seconds(),
        ),
    ]
}
