//! All routes with their methods: parameters, bodies and answers.

use kvstore_core::limits::PAGE_ENTRIES_MAX;
use serde_json::{Value, json};

use super::answers::{Answer, problem, without_bodies};
use super::schemas::schema;
use crate::answer::error::{Face, MERGE_PATCH};
use crate::config::Options;
use crate::console;
use crate::request::headers::SYNC_TOKENS_MAX;

/// Statuses of problems on every route that touches data.
const ALWAYS: [u16; 5] = [400, 401, 422, 500, 503];
/// On every route: decided before the route is known.
const HOST: [u16; 2] = [400, 421];
/// On routes that touch keys, or count them.
const KEYS: [u16; 1] = [403];
const READ: [u16; 2] = [404, 412];
const WRITE: [u16; 3] = [412, 504, 507];
const BODY: [u16; 3] = [408, 413, 415];

/// Visible characters and spaces, or the same as a structured field string.
const IDEMPOTENCY_KEY_PATTERN: &str = r#"^([!#-~]([ -~]{0,253}[!-~])?|"([ !#-\[\]-~]|\\["\\]){1,255}"( *; *window=0*[1-9][0-9]{0,17})?)$"#;

/// One method of a route.
struct PathOperation {
    id: &'static str,
    summary: &'static str,
    tag: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<Answer>,
    problems: Vec<u16>,
    is_public: bool,
}

impl PathOperation {
    fn new(tag: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            tag,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: Vec::new(),
            is_public: false,
        }
    }

    fn takes(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    fn body(self, schema: Value) -> Self {
        self.body_of(true, json!({ "application/json": { "schema": schema } }))
    }

    /// Sets the body, by media type.
    fn body_of(self, required: bool, content: Value) -> Self {
        let body = json!({ "required": required, "content": content });
        Self {
            body: Some(body),
            ..self
        }
    }

    fn answers<const N: usize>(mut self, answers: [Answer; N]) -> Self {
        self.answers.extend(answers);
        self
    }

    fn fails(mut self, lists: &[&[u16]]) -> Self {
        self.problems.extend(lists.iter().copied().flatten());
        self
    }

    /// Exempts the operation from tokens.
    fn public(self) -> Self {
        Self {
            is_public: true,
            ..self
        }
    }

    fn into_json(self) -> Value {
        let face = match self.tag {
            "simple" | "service" => Face::Simple,
            _ => Face::Resource,
        };
        let mut answers = json!({});
        for status in self.problems.into_iter().chain(HOST) {
            answers[status.to_string()] = problem(face, status);
        }
        // hyper answers this before a handler runs, so it carries none of this server's headers.
        answers["431"] =
            json!({ "description": "The head of the request is larger than x-limits allows" });
        for answer in self.answers {
            let status = answer.status.to_string();
            answers[status] = answer.into_json();
        }
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [self.tag],
            "parameters": self.parameters,
            "responses": answers,
        });
        if let Some(body) = self.body {
            operation["requestBody"] = body;
        }
        if self.is_public {
            operation["security"] = json!([]);
        }
        operation
    }

    /// Returns the operations `get` and `head`, which differ in the body only.
    fn into_get_and_head(self) -> Value {
        let get = self.into_json();
        let mut head = get.clone();
        let id = get["operationId"]
            .as_str()
            .expect("every operation has a name");
        head["operationId"] = format!("{id}Head").into();
        head["responses"] = without_bodies(&get["responses"]);
        json!({ "get": get, "head": head })
    }
}

fn in_path(name: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

fn in_query(name: &str, description: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

fn in_header(name: &str, description: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "header", "description": description, "schema": schema })
}

fn text() -> Value {
    json!({ "type": "string" })
}

/// Describes a switch in the query.
fn switch(name: &str, description: &str) -> Value {
    in_query(
        name,
        description,
        json!({ "type": "string", "enum": ["1", "0", "true", "false"] }),
    )
}

fn key() -> Value {
    in_path("key", schema("Key"))
}

fn after() -> [Value; 2] {
    let description = "Job ids: the answer shows their writes, or is 503 not-yet-visible";
    let jobs = json!({ "type": "array", "items": schema("JobId"), "maxItems": SYNC_TOKENS_MAX });
    let header = format!("{description}; several with commas between them");
    [
        in_query("after", description, jobs),
        in_header("Sync-Token", &header, schema("JobId")),
    ]
}

fn prefer(description: &str) -> Value {
    let mut prefer = in_header("Prefer", description, text());
    prefer["examples"] = json!({ "wait": { "value": "wait=5" } });
    prefer
}

fn limit() -> Value {
    in_query(
        "limit",
        "The maximum number of items on a page, up to page_entries of x-limits",
        json!({ "type": "integer", "minimum": 1, "maximum": PAGE_ENTRIES_MAX, "default": 100 }),
    )
}

fn include() -> Value {
    in_query(
        "include",
        "value to include values",
        json!({ "type": "string", "enum": ["value"] }),
    )
}

/// Describes the headers of a read of one entry.
fn read_headers() -> [Value; 2] {
    [
        in_header(
            "If-None-Match",
            "Entity tags that the client has: 304 if the entry is one of them",
            schema("Tags"),
        ),
        in_header(
            "If-Match",
            "Entity tags that the client wants: 412 if the entry is none of them",
            schema("Tags"),
        ),
    ]
}

/// Describes the headers of a write of one entry.
fn condition_headers() -> [Value; 2] {
    [
        in_header(
            "If-Match",
            "The version that the entry must have, several of which it must have one, or * for any version",
            schema("Tags"),
        ),
        in_header(
            "If-None-Match",
            "* if there must be no entry, or versions that it must not have",
            schema("Tags"),
        ),
    ]
}

/// Describes the headers of every write.
fn write_headers() -> [Value; 2] {
    [
        prefer(
            "wait=N to wait for the outcome, respond-async not to; return=representation to get the current value with a 412",
        ),
        in_header(
            "Idempotency-Key",
            "The same request with the same key is the same job, so it is safe to repeat. After the quoted key, ;window=SECONDS shortens the time for which it is remembered",
            json!({ "type": "string", "pattern": IDEMPOTENCY_KEY_PATTERN }),
        ),
    ]
}

/// Describes the answer to a write that is not waited for, with the body `schema`.
fn accepted(schema: &str) -> Answer {
    Answer::new(
        202,
        "Accepted: the write is durably queued, and its job reports its outcome",
    )
    .json(schema)
    .written()
    .headers(&["location", "retry-after"])
}

pub(super) fn all(options: &Options) -> Value {
    let mut paths = json!({});
    simple(&mut paths);
    entries(&mut paths);
    several(&mut paths);
    jobs(&mut paths);
    service(&mut paths, options);
    paths
}

fn simple(paths: &mut Value) {
    let tag = "simple";
    let set = PathOperation::new(tag, "set", "Write a value under a key")
        .takes(condition_headers())
        .takes(write_headers())
        .body(schema("Set"))
        .answers([
            accepted("SimpleQueued"),
            Answer::new(200, "Applied and durable")
                .json("SetApplied")
                .written()
                .headers(&["etag?"]),
        ])
        .fails(&[&ALWAYS, &KEYS, &WRITE, &BODY]);
    paths["/set"] = json!({ "post": set.into_json() });
    let get = PathOperation::new(tag, "get", "Read the value under a key")
        .takes([key()])
        .takes(after())
        .takes(read_headers())
        .takes([prefer(LONG_POLL)])
        .answers([
            Answer::new(200, "Key and value")
                .json("Got")
                .headers(&ENTRY_HEADERS),
            Answer::new(304, "The client has the current version").headers(&ENTRY_HEADERS),
        ])
        .fails(&[&ALWAYS, &KEYS, &READ]);
    paths["/get/{key}"] = get.into_get_and_head();
    let delete = PathOperation::new(tag, "delete", "Delete a key")
        .takes([key()])
        .takes(condition_headers())
        .takes(write_headers())
        .answers([
            accepted("SimpleQueued"),
            Answer::new(200, "Applied and durable")
                .json("DeleteApplied")
                .written(),
        ])
        .fails(&[&ALWAYS, &KEYS, &WRITE]);
    paths["/delete/{key}"] = json!({ "delete": delete.into_json() });
}

const ENTRY_HEADERS: [&str; 4] = ["etag", "cache-control", "x-ttl?", "preference-applied?"];

const LONG_POLL: &str = "wait=N: wait so many seconds for a change instead of answering 304 at once, and without If-None-Match for a missing key instead of answering 404";

fn entries(paths: &mut Value) {
    let tag = "entries";
    let get = PathOperation::new(tag, "getEntry", "Read an entry; the body is the value")
        .takes([
            key(),
            switch(
                "meta",
                "Send an object with key, value, etag and expires_at instead",
            ),
        ])
        .takes(after())
        .takes(read_headers())
        .takes([prefer(LONG_POLL)])
        .answers([
            Answer::new(200, "The value")
                .json("Value")
                .headers(&ENTRY_HEADERS),
            Answer::new(
                304,
                "The client has the current version, or nothing has changed within the wait",
            )
            .headers(&ENTRY_HEADERS),
        ])
        .fails(&[&ALWAYS, &KEYS, &READ]);
    let put = PathOperation::new(tag, "putEntry", "Write an entry; the body is the value")
        .takes([
            key(),
            in_query("ttl", "When the entry expires", schema("Ttl")),
        ])
        .takes(condition_headers())
        .takes(write_headers())
        .body(schema("Value"))
        .answers([
            Answer::new(200, "Replaced and durable")
                .json("Put")
                .written()
                .headers(&["etag?"]),
            Answer::new(201, "Created and durable")
                .json("Put")
                .written()
                .headers(&["etag?"]),
            accepted("Queued"),
        ])
        .fails(&[&ALWAYS, &KEYS, &WRITE, &BODY]);
    let delete = PathOperation::new(tag, "deleteEntry", "Delete an entry")
        .takes([key()])
        .takes(condition_headers())
        .takes(write_headers())
        .answers([
            Answer::new(200, "The key is absent, durably")
                .json("Deleted")
                .written(),
            accepted("Queued"),
        ])
        .fails(&[&ALWAYS, &KEYS, &WRITE]);
    let written = |status, what| {
        Answer::new(status, what)
            .json("Changed")
            .written()
            .headers(&["etag?"])
    };
    let patch = PathOperation::new(
        tag,
        "patchEntry",
        "Merge the body into the value (RFC 7396); without a body, give the entry a new deadline",
    )
    .takes([
        key(),
        in_query(
            "ttl",
            "When the entry expires. The default is keep with a body; without a body, it must be a number",
            schema("Ttl"),
        ),
    ])
    .takes(condition_headers())
    .takes(write_headers())
    .body_of(
        false,
        json!({
            MERGE_PATCH: { "schema": schema("Value") },
            "application/json": { "schema": schema("Value") },
        }),
    )
    .answers([
        written(200, "Changed and durable"),
        written(201, "Created and durable"),
        accepted("Queued"),
    ])
    .fails(&[&ALWAYS, &KEYS, &[404], &WRITE, &BODY]);
    let mut by = in_query(
        "add",
        "The number to add; negative to subtract",
        schema("Integer"),
    );
    by["required"] = true.into();
    let add = PathOperation::new(
        tag,
        "addToEntry",
        "Add to the 64-bit integer under a key; an absent key counts as 0",
    )
    .takes([
        key(),
        by,
        in_query(
            "ttl",
            "When the entry expires, if this creates it; an existing deadline stays",
            schema("Ttl"),
        ),
    ])
    .takes(condition_headers())
    .takes(write_headers())
    .answers([
        written(200, "Changed and durable"),
        written(201, "Created and durable"),
        accepted("Queued"),
    ])
    .fails(&[&ALWAYS, &KEYS, &WRITE, &[415]]);
    let mut entry = get.into_get_and_head();
    entry["put"] = put.into_json();
    entry["patch"] = patch.into_json();
    entry["post"] = add.into_json();
    entry["delete"] = delete.into_json();
    paths["/v1/kv/{key}"] = entry;
}

fn several(paths: &mut Value) {
    let tag = "entries";
    let prefix = || in_query("prefix", "Only keys with this prefix", text());
    let list = PathOperation::new(tag, "listEntries", "List keys in byte order, page by page")
        .takes([
            prefix(),
            limit(),
            in_query(
                "cursor",
                "The cursor of the previous page, with the same prefix and delimiter",
                text(),
            ),
            include(),
            in_query(
                "delimiter",
                "Fold keys that contain it after the prefix into common prefixes",
                text(),
            ),
            switch("count", "1 to count all keys with the prefix"),
        ])
        .takes(after())
        .answers([Answer::new(200, "A page")
            .json("Page")
            .headers(&["cache-control"])])
        .fails(&[&ALWAYS, &KEYS]);
    let clear = PathOperation::new(
        tag,
        "deleteEntries",
        "Delete the keys with a prefix, in jobs of at most 1,000; not atomic, and safe to repeat",
    )
    .takes([
        prefix(),
        switch(
            "all",
            "1 to delete every key; required if the prefix is empty",
        ),
        prefer("wait=N to wait for the outcome, respond-async not to"),
    ])
    .answers([
        Answer::new(200, "All keys found are absent, durably")
            .json("Cleared")
            .headers(&["preference-applied?"]),
        Answer::new(202, "Accepted: the jobs are durably queued")
            .json("ClearQueued")
            .headers(&["retry-after", "preference-applied?"]),
    ])
    .fails(&[&ALWAYS, &KEYS, &[504, 507]]);
    let mut collection = list.into_get_and_head();
    collection["delete"] = clear.into_json();
    paths["/v1/kv"] = collection;
    let mget = PathOperation::new(tag, "getEntries", "Read several entries as of one moment")
        .takes(after())
        .body(schema("Mget"))
        .answers([Answer::new(200, "The entries found, and the missing keys")
            .json("Entries")
            .headers(&["cache-control"])])
        .fails(&[&ALWAYS, &KEYS, &BODY]);
    paths["/v1/mget"] = json!({ "post": mget.into_json() });
    let batch = PathOperation::new(
        tag,
        "batch",
        "Apply several writes, which take effect together or not at all",
    )
    .takes(write_headers())
    .body(schema("Batch"))
    .answers([
        Answer::new(200, "All applied, and durable")
            .json("BatchApplied")
            // None of them comes with a batch without operations.
            .headers(&[
                "sync-token?",
                "idempotency-replayed?",
                "preference-applied?",
            ])
            .linked(),
        accepted("BatchQueued"),
    ])
    .fails(&[&ALWAYS, &KEYS, &[404], &WRITE, &BODY]);
    paths["/v1/batch"] = json!({ "post": batch.into_json() });
    let watch = PathOperation::new(
        tag,
        "watch",
        "Watch changes as they become visible, as server-sent events",
    )
    .takes([
        prefix(),
        in_query(
            "events",
            "The kinds of changes, separated by commas",
            json!({ "type": "string", "pattern": "^(set|delete|expire)(,(set|delete|expire))*$" }),
        ),
        include(),
        switch(
            "snapshot",
            "1 to send the existing entries first, and then the event synced",
        ),
        in_query("since", "The id of the last event received", text()),
        in_header("Last-Event-ID", "The same, as browsers send it", text()),
        in_query(
            "access_token",
            "The token, for clients that cannot send a header",
            text(),
        ),
    ])
    .takes(after())
    .answers([Answer::new(
        200,
        "Events set, delete, expire and synced, each with key, etag and, if requested, value as JSON. With Accept: text/event-stream, an event reset with a reason replaces 410, and a stream that ends with retry replaces 503",
    )
    .content("text/event-stream", text())
    .headers(&["cache-control", "x-accel-buffering"])])
    .fails(&[&ALWAYS, &KEYS, &[410]]);
    paths["/v1/watch"] = watch.into_get_and_head();
}

fn jobs(paths: &mut Value) {
    let tag = "jobs";
    let id = || in_path("id", schema("JobId"));
    let job = PathOperation::new(tag, "getJob", "Read the state of a write")
        .takes([
            id(),
            in_query(
                "wait",
                "Seconds to wait until the job is finished; x-limits has the maximum",
                json!({ "type": "integer", "minimum": 0 }),
            ),
        ])
        .answers([Answer::new(200, "The job, even if it failed")
            .json("Job")
            .headers(&["cache-control", "retry-after?"])])
        .fails(&[&ALWAYS, &[404]]);
    let forget = PathOperation::new(tag, "forgetJob", "Drop a dead letter")
        .takes([id()])
        .answers([Answer::new(200, "Dropped").json("Forgotten")])
        .fails(&[&ALWAYS, &KEYS, &[404, 504, 507]]);
    let mut one = job.into_get_and_head();
    one["delete"] = forget.into_json();
    paths["/v1/jobs/{id}"] = one;
    let list = PathOperation::new(
        tag,
        "listJobs",
        "List the waiting jobs, by partition and position, or the dead letters",
    )
    .takes([
        in_query(
            "status",
            "The default is the waiting jobs",
            json!({ "type": "string", "enum": ["queued", "dead"] }),
        ),
        limit(),
        in_query("cursor", "The cursor of the previous page", text()),
    ])
    .answers([Answer::new(200, "A page")
        .json("Jobs")
        .headers(&["cache-control"])])
    .fails(&[&ALWAYS]);
    let all_dead = || {
        let mut status = in_query(
            "status",
            "All dead letters",
            json!({ "type": "string", "enum": ["dead"] }),
        );
        status["required"] = true.into();
        status
    };
    let forget_all = PathOperation::new(tag, "forgetJobs", "Drop all dead letters")
        .takes([all_dead()])
        .answers([Answer::new(200, "Dropped").json("AllForgotten")])
        .fails(&[&ALWAYS, &KEYS, &[504, 507]]);
    let mut jobs = list.into_get_and_head();
    jobs["delete"] = forget_all.into_json();
    paths["/v1/jobs"] = jobs;
    let retry_all = PathOperation::new(
        tag,
        "retryJobs",
        "Retry all dead letters, at the end of the order",
    )
    .takes([all_dead()])
    .answers([Answer::new(200, "Queued again, as new jobs").json("AllRetried")])
    .fails(&[&ALWAYS, &KEYS, &[415, 504, 507]]);
    paths["/v1/jobs/retry"] = json!({ "post": retry_all.into_json() });
    let queue = PathOperation::new(tag, "getQueue", "Read how much waits, and for how long")
        .answers([Answer::new(200, "The queue")
            .json("Queue")
            .headers(&["cache-control"])])
        .fails(&[&ALWAYS, &KEYS]);
    paths["/v1/queue"] = queue.into_get_and_head();
    let retry = PathOperation::new(
        tag,
        "retryJob",
        "Retry a dead letter, at the end of the order",
    )
    .takes([id()])
    .answers([Answer::new(200, "Queued again, as a new job")
        .json("Retried")
        .headers(&["sync-token", "location"])
        .linked()])
    .fails(&[&ALWAYS, &KEYS, &[404, 415, 504, 507]]);
    paths["/v1/jobs/{id}/retry"] = json!({ "post": retry.into_json() });
}

fn service(paths: &mut Value, options: &Options) {
    let tag = "service";
    let html = || json!({ "type": "string" });
    let page = |id, summary| {
        PathOperation::new(tag, id, summary)
            .public()
            .fails(&[&[400, 500, 503]])
    };
    let root = page(
        "root",
        "Read the name, the version, the caller's rights and links; a browser gets the console",
    )
    .answers([Answer::new(200, "The service").json("Service").headers(&[
        "cache-control",
        "content-security-policy?",
        "vary",
    ])]);
    let mut root = root.into_get_and_head();
    root["get"]["responses"]["200"]["content"]["text/html; charset=utf-8"] =
        json!({ "schema": html() });
    paths["/"] = root;
    let console_file = page("consoleFile", "Read a file of the console")
        .takes([in_path(
            "file",
            json!({ "type": "string", "enum": console::FILES.map(|(name, ..)| name) }),
        )])
        .answers([Answer::new(200, "The file")
            .content("text/javascript; charset=utf-8", html())
            .headers(&["cache-control"])])
        .fails(&[&[404]]);
    let mut console_file = console_file.into_get_and_head();
    for media_type in ["text/css; charset=utf-8", "image/svg+xml"] {
        console_file["get"]["responses"]["200"]["content"][media_type] =
            json!({ "schema": html() });
    }
    paths["/console/{file}"] = console_file;
    let document = page("openapi", "Read this document").answers([Answer::new(200, "OpenAPI 3.1")
        .content("application/json", json!({ "type": "object" }))
        .headers(&["cache-control"])]);
    paths["/openapi.json"] = document.into_get_and_head();
    let docs = page("docs", "Read this document as an interactive page").answers([Answer::new(
        200, "The page",
    )
    .content("text/html; charset=utf-8", html())
    .headers(&["cache-control", "content-security-policy"])]);
    paths["/docs"] = docs.into_get_and_head();
    let asset = page("docsFile", "Read a file of that page")
        .takes([in_path(
            "file",
            json!({ "type": "string", "enum": ["swagger-ui.js", "swagger-ui.css", "start.js"] }),
        )])
        .answers([Answer::new(200, "The file")
            .content("text/javascript; charset=utf-8", html())
            .headers(&["cache-control", "content-encoding?"])])
        .fails(&[&[404]]);
    let mut asset = asset.into_get_and_head();
    asset["get"]["responses"]["200"]["content"]["text/css; charset=utf-8"] =
        json!({ "schema": html() });
    paths["/docs/{file}"] = asset;
    let problems =
        page("problems", "List the problems that an answer can name").answers([Answer::new(
            200, "The page",
        )
        .content("text/html; charset=utf-8", html())
        .headers(&["cache-control", "content-security-policy"])]);
    paths["/problems"] = problems.into_get_and_head();
    let problem = page("problem", "Read what a problem means, and what to do")
        .takes([in_path("name", text())])
        .answers([Answer::new(200, "The page")
            .content("text/html; charset=utf-8", html())
            .headers(&["cache-control", "content-security-policy"])])
        .fails(&[&[404]]);
    paths["/problems/{name}"] = problem.into_get_and_head();
    if !options.admin_routes {
        return;
    }
    let live = page("livez", "Check that the process answers").answers([Answer::new(
        200,
        "The process answers",
    )
    .json("Status")
    .headers(&["cache-control?"])]);
    paths["/livez"] = live.into_get_and_head();
    let ready = PathOperation::new(
        tag,
        "readyz",
        "Check that the server is ready: store and queue answer, and no shutdown has begun",
    )
    .public()
    .answers([
        Answer::new(200, "The server is ready")
            .json("Status")
            .headers(&["cache-control?"]),
        Answer::new(
            503,
            "Store or queue does not answer, or the server is shutting down",
        )
        .json("Status")
        .headers(&["retry-after?", "cache-control?"]),
    ])
    .fails(&[&[400, 500]]);
    paths["/readyz"] = ready.into_get_and_head();
    let metrics = PathOperation::new(
        tag,
        "metrics",
        "Read the metrics, in the text format of Prometheus",
    )
    .answers([Answer::new(200, "The metrics")
        .content(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            text(),
        )
        .headers(&["cache-control"])])
    .fails(&[&[400, 401, 500, 503]]);
    paths["/metrics"] = metrics.into_get_and_head();
}
