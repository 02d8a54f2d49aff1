//! Schemas of bodies and of their members.

use kvstore_core::limits::{TTL_MAX, TTL_MIN};
use kvstore_core::service::ServiceOptions;
use serde_json::{Map, Value, json};

use crate::config::Options;

/// All rules for a key except its length: no control characters; as a path, no segment that is
/// empty, `.` or `..`.
const KEY_PATTERN: &str =
    r"^(?!\.{1,2}(/|$))[^\x00-\x1f\x7f-\x9f/]+(/(?!\.{1,2}(/|$))[^\x00-\x1f\x7f-\x9f/]+)*$";

/// A comma-separated list of entity tags.
const TAG_LIST_PATTERN: &str = r##"^(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*"){0,15}$"##;

/// `*` or such a list.
const TAGS_PATTERN: &str = r##"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*"){0,15})$"##;

/// A version, including the quotes of an entity tag.
pub(super) const VERSION_PATTERN: &str = r#"^"[0-9]+"$"#;

pub(super) fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Describes an object with these members; a `?` after a name makes it optional.
pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema) in members {
        match name.strip_suffix('?') {
            Some(name) => properties.insert(name.to_owned(), schema),
            None => {
                required.push(name);
                properties.insert(name.to_owned(), schema)
            }
        };
    }
    json!({ "type": "object", "required": required, "properties": properties })
}

/// Forbids other members.
fn closed(mut object: Value) -> Value {
    object["additionalProperties"] = false.into();
    object
}

pub(super) fn all(options: &Options, limits: &ServiceOptions) -> Value {
    let text = || json!({ "type": "string" });
    let flag = || json!({ "type": "boolean" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let version = || schema("ETag");
    let job = || schema("JobId");
    let key = || schema("Key");
    let value = || schema("Value");
    let moment = || json!({ "type": ["string", "null"], "format": "date-time" });
    let list = |items: Value| json!({ "type": "array", "items": items });
    let is = |text: &str| json!({ "const": text });
    let seconds =
        || json!({ "type": "integer", "minimum": TTL_MIN.as_secs(), "maximum": TTL_MAX.as_secs() });
    let or_null = |name: &str| json!({ "oneOf": [schema(name), { "type": "null" }] });
    let no_absent = || {
        json!({ "oneOf": [
        { "type": "string", "pattern": TAG_LIST_PATTERN },
        { "type": "null" },
    ] })
    };
    let mut schemas = json!({
        "Key": {
            "type": "string",
            "minLength": 1,
            "maxLength": limits.key_chars_max,
            "pattern": KEY_PATTERN,
            "description": "Compared byte for byte. In a path / may be sent as / or %2F",
            "examples": ["user:1"],
        },
        "Value": {
            "description": "Any JSON text. It comes back byte for byte, except for white space between tokens",
        },
        "ETag": {
            "type": "string",
            "pattern": VERSION_PATTERN,
            "description": "The version of an entry, with its quotes: opaque, and never used twice for a key",
            "examples": ["\"42\""],
        },
        "Tags": {
            "type": "string",
            "pattern": TAGS_PATTERN,
            "description": "* or at most 16 entity tags with commas between them",
            "examples": ["*", "\"42\"", "\"1\", W/\"2\""],
        },
        "JobId": {
            "type": "string",
            "minLength": 1,
            "description": "The id of an accepted write: opaque. It is also the sync token for reads that must show the write",
        },
        "Ttl": {
            "description": "Seconds from now until the entry expires, or keep for its current deadline",
            "oneOf": [
                seconds(),
                { "const": "keep" },
            ],
        },
        "Integer": {
            "type": "integer",
            "minimum": i64::MIN,
            "maximum": i64::MAX,
            "description": "A 64-bit integer. Readers that keep numbers in floating point lose digits beyond 2^53",
        },
        "Set": object([
            ("key", key()),
            ("value", value()),
            ("ttl?", json!({ "oneOf": [schema("Ttl"), { "type": "null" }] })),
        ]),
        "SetApplied": object([
            ("message", text()),
            ("key", key()),
            ("job_id", job()),
            ("status", is("succeeded")),
            ("etag?", version()),
        ]),
        "DeleteApplied": object([
            ("message", text()),
            ("key", key()),
            ("job_id", job()),
            ("status", is("succeeded")),
            ("deleted?", flag()),
        ]),
        "Got": object([("key", key()), ("value", value())]),
        "Put": object([("key", key()), ("job_id", job()), ("etag?", version()), ("created?", flag())]),
        "Changed": object([
            ("key", key()),
            ("job_id", job()),
            ("value?", json!({ "allOf": [schema("Integer")], "description": "The sum of an addition" })),
            ("etag?", version()),
            ("created?", flag()),
            ("expires_at?", json!({ "allOf": [moment()], "description": "The deadline, if only the deadline was changed" })),
        ]),
        "Cleared": object([
            ("prefix", text()),
            ("deleted", json!({ "type": "integer", "minimum": 0 })),
            ("job_ids", list(job())),
        ]),
        "ClearQueued": object([("prefix", text()), ("job_ids", list(job())), ("status", is("queued"))]),
        "Deleted": object([("key", key()), ("job_id", job()), ("etag?", version()), ("deleted?", flag())]),
        "Page": object([
            (
                "keys",
                list(object([
                    ("key", key()),
                    ("etag", version()),
                    ("size", json!({ "type": "integer", "minimum": 1, "description": "Bytes of the value" })),
                    ("expires_at", moment()),
                    ("value?", value()),
                ])),
            ),
            ("prefixes", list(text())),
            ("cursor?", json!({ "type": "string", "description": "The start of the next page; absent on the last page" })),
            ("count?", json!({ "type": "integer", "minimum": 0, "description": "The number of keys with the prefix, if requested" })),
            ("as_of", json!({ "type": "string", "description": "A watch with this as since misses nothing after this page; for a whole listing, use the value of the first page" })),
        ]),
        "Mget": object([(
            "keys",
            json!({ "type": "array", "items": key(), "maxItems": options.mget_keys_max }),
        )]),
        "Entries": object([
            ("entries", list(object([("key", key()), ("value", value()), ("etag", version()), ("expires_at", moment())]))),
            ("missing", list(key())),
        ]),
        "Batch": closed(object([(
            "ops",
            json!({
                "type": "array",
                "maxItems": limits.batch_operations_max,
                "description": "Each key at most once; all of them in one partition",
                "items": { "oneOf": [
                    schema("BatchSet"),
                    schema("BatchDelete"),
                    schema("BatchAdd"),
                    schema("BatchMerge"),
                    schema("BatchTouch"),
                    schema("BatchCheck"),
                ] },
            }),
        )])),
        "BatchSet": closed(object([
            ("op", is("set")),
            ("key", key()),
            ("value", value()),
            ("ttl?", or_null("Ttl")),
            ("if_match?", or_null("Tags")),
            ("if_none_match?", or_null("Tags")),
        ])),
        "BatchAdd": closed(object([
            ("op", is("add")),
            ("key", key()),
            ("by", schema("Integer")),
            ("ttl?", or_null("Ttl")),
            ("if_match?", or_null("Tags")),
            ("if_none_match?", or_null("Tags")),
        ])),
        "BatchMerge": closed(object([
            ("op", is("merge")),
            ("key", key()),
            ("patch", value()),
            ("ttl?", or_null("Ttl")),
            ("if_match?", or_null("Tags")),
            ("if_none_match?", or_null("Tags")),
        ])),
        "BatchTouch": closed(object([
            ("op", is("touch")),
            ("key", key()),
            ("ttl", seconds()),
            ("if_match?", or_null("Tags")),
            ("if_none_match?", no_absent()),
        ])),
        "BatchCheck": {
            "allOf": [
                closed(object([
                    ("op", is("check")),
                    ("key", key()),
                    ("if_match?", schema("Tags")),
                    ("if_none_match?", schema("Tags")),
                ])),
                { "anyOf": [{ "required": ["if_match"] }, { "required": ["if_none_match"] }] },
            ],
        },
        "BatchDelete": closed(object([
            ("op", is("delete")),
            ("key", key()),
            ("if_match?", or_null("Tags")),
            ("if_none_match?", no_absent()),
        ])),
        "BatchApplied": object([
            // Of a batch without operations there is no job.
            ("job_id", or_null("JobId")),
            (
                "results",
                list(object([
                    ("op", json!({ "enum": ["set", "delete", "add", "merge", "touch", "check"] })),
                    ("key", key()),
                    ("value?", schema("Integer")),
                    ("expires_at?", moment()),
                    ("etag?", version()),
                    ("created?", flag()),
                    ("deleted?", flag()),
                ])),
            ),
        ]),
        "Job": object([
            ("id", job()),
            ("op", json!({ "type": ["string", "null"], "description": "set, delete, add, merge, touch, check or batch" })),
            ("key", json!({ "type": ["string", "null"], "description": "The first key of a batch" })),
            ("status", json!({ "enum": ["queued", "succeeded", "failed", "dead"] })),
            ("attempts", json!({ "type": ["integer", "null"] })),
            ("result", json!({ "type": ["object", "null"], "description": "The answer that a waiting client would have received; empty for a batch" })),
            ("error", json!({ "type": ["object", "null"], "description": "type and detail of the problem" })),
            ("accepted_at?", moment()),
            ("dead_at?", moment()),
        ]),
        "Jobs": object([("jobs", list(schema("Job"))), ("cursor?", text())]),
        "Retried": object([("id", job()), ("job_id", job()), ("status", is("queued"))]),
        "AllRetried": object([("retried", count())]),
        "Forgotten": object([("id", job()), ("forgotten", json!({ "const": true }))]),
        "AllForgotten": object([("forgotten", count())]),
        "Queue": object([
            ("jobs", count()),
            ("bytes", count()),
            ("oldest_age_seconds", json!({ "type": ["number", "null"], "minimum": 0, "description": "Null if nothing waits" })),
            ("dead", count()),
            ("partitions", json!({ "type": "integer", "minimum": 1 })),
            ("limits", json!({ "type": "object", "additionalProperties": { "type": "number" }, "description": "The same as x-limits of this document" })),
        ]),
        "Status": object([("status", text())]),
    });
    let all = schemas.as_object_mut().expect("schemas are an object");
    all.extend(queued());
    all.extend(service());
    all.extend(problems());
    schemas
}

/// Returns the bodies of 202.
fn queued() -> Map<String, Value> {
    let status = || ("status", json!({ "const": "queued" }));
    let job = || ("job_id", schema("JobId"));
    let key = || ("key", schema("Key"));
    let message = ("message", json!({ "type": "string" }));
    Map::from_iter([
        (
            "SimpleQueued".to_owned(),
            object([message, key(), job(), status()]),
        ),
        ("Queued".to_owned(), object([key(), job(), status()])),
        ("BatchQueued".to_owned(), object([job(), status()])),
    ])
}

fn service() -> Map<String, Value> {
    let access = object([
        ("write", json!({ "type": "boolean" })),
        ("prefix", json!({ "type": "string" })),
    ]);
    let service = object([
        ("name", json!({ "const": "kvstore" })),
        ("version", json!({ "type": "string" })),
        (
            "access",
            json!({ "anyOf": [schema("Access"), { "type": "null" }] }),
        ),
        ("links", json!({ "type": "object" })),
    ]);
    Map::from_iter([
        ("Access".to_owned(), access),
        ("Service".to_owned(), service),
    ])
}

fn problems() -> Map<String, Value> {
    let text = || json!({ "type": "string" });
    let list = |items: Value| json!({ "type": "array", "items": items });
    // The members that some problems have, on either face.
    let with_others = |mut problem: Value| {
        let others = object([
            ("key?", schema("Key")),
            (
                "current_etag?",
                json!({ "type": ["string", "null"], "pattern": VERSION_PATTERN }),
            ),
            ("current_value?", schema("Value")),
            ("failed_op?", json!({ "type": "integer", "minimum": 0 })),
            ("host?", text()),
            ("limit?", json!({ "type": "integer", "minimum": 0 })),
            ("limit_bytes?", json!({ "type": "integer", "minimum": 0 })),
            ("job_id?", schema("JobId")),
            ("request_id?", text()),
        ]);
        let others = others["properties"].as_object().cloned();
        let members = problem["properties"].as_object_mut();
        members
            .expect("an object has members")
            .extend(others.expect("an object has members"));
        problem
    };
    let problems = [
        (
            "Problem",
            with_others(object([
                (
                    "type",
                    json!({ "type": "string", "format": "uri-reference" }),
                ),
                ("title", text()),
                ("status", json!({ "type": "integer" })),
                ("detail", text()),
                ("errors?", list(schema("FieldError"))),
            ])),
        ),
        (
            "SimpleProblem",
            with_others(object([(
                "detail",
                json!({ "oneOf": [{ "type": "string" }, { "type": "array", "items": schema("FieldError") }] }),
            )])),
        ),
        (
            "FieldError",
            object([
                ("type", text()),
                ("loc", list(json!({ "type": ["string", "integer"] }))),
                ("msg", text()),
                ("input?", json!({})),
                ("ctx?", json!({ "type": "object" })),
            ]),
        ),
    ];
    problems
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}
