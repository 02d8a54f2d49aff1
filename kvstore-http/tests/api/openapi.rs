//! §9: `/openapi.json` describes the answers, and `/docs` shows it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::{Server, Setup};
use kvstore_testing::client::{Reply, Request, request};

/// Headers that HTTP itself defines for every answer, or for none in particular; no others are
/// exempt.
const OF_HTTP: [&str; 5] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "transfer-encoding",
];

async fn document(server: &Server) -> Value {
    let reply = server.ask(&request("GET", "/openapi.json")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.json()
}

/// Returns `at`, or the part of the document that it refers to.
fn resolved<'a>(document: &'a Value, at: &'a Value) -> &'a Value {
    match at["$ref"].as_str() {
        Some(place) => document.pointer(place.strip_prefix('#').unwrap()).unwrap(),
        None => at,
    }
}

/// Returns everything in the answer to `path` that the document does not describe.
fn undocumented(document: &Value, path: &str, method: &str, reply: &Reply) -> Vec<String> {
    let place = format!("{method} {path} {}", reply.status);
    let operation = &document["paths"][path][method.to_lowercase()];
    let answer = &operation["responses"][reply.status.to_string()];
    if answer.is_null() {
        return vec![format!("{place}: no such status")];
    }
    let answer = resolved(document, answer);
    let mut wrong = Vec::new();
    let headers = answer["headers"].as_object().unwrap();
    for (name, _) in &reply.headers {
        if !headers.contains_key(name) && !OF_HTTP.contains(&&**name) {
            wrong.push(format!("{place}: no header {name}"));
        }
    }
    for (name, header) in headers {
        let header = resolved(document, header);
        if header["required"] == true && reply.header(name).is_none() {
            wrong.push(format!("{place}: {name} is missing"));
        }
    }
    let Some(content) = answer["content"].as_object() else {
        if !reply.body.is_empty() {
            wrong.push(format!("{place}: a body"));
        }
        return wrong;
    };
    let media_type = reply.header("content-type").unwrap_or("none");
    let Some(kind) = content.get(media_type) else {
        wrong.push(format!("{place}: no {media_type}"));
        return wrong;
    };
    let schema = resolved(document, &kind["schema"]);
    for name in schema["required"].as_array().into_iter().flatten() {
        if reply.json().get(name.as_str().unwrap()).is_none() {
            wrong.push(format!("{place}: {name} is missing"));
        }
    }
    if let Some(known) = schema.get("properties") {
        let answer = reply.json();
        let members = answer.as_object().unwrap().keys();
        let unknown = members.filter(|name| known.get(name).is_none());
        wrong.extend(unknown.map(|name| format!("{place}: no member {name}")));
    }
    wrong
}

#[tokio::test]
async fn what_is_answered_stands_in_the_document() {
    let server = Server::start().await;
    let document = document(&server).await;
    let get = |target: &str| request("GET", target);
    let put = |body: &str| request("PUT", "/v1/kv/a").body(body);
    let post = |target: &str, body: &str| request("POST", target).body(body);
    let patch = |target: &str, body: &str| request("PATCH", target).body(body);
    let later = |request: Request| request.header("prefer", "respond-async");
    let entry = "/v1/kv/{key}";
    let cases: Vec<(&str, &str, Request, u16)> = vec![
        ("/", "GET", get("/"), 200),
        ("/", "GET", get("/").header("accept", "text/html"), 200),
        ("/console/{file}", "GET", get("/console/main.js"), 200),
        ("/console/{file}", "GET", get("/console/style.css"), 200),
        ("/console/{file}", "GET", get("/console/icon.svg"), 200),
        ("/console/{file}", "GET", get("/console/mod.rs"), 404),
        ("/livez", "GET", get("/livez"), 200),
        ("/readyz", "GET", get("/readyz"), 200),
        ("/metrics", "GET", get("/metrics"), 200),
        ("/problems", "GET", get("/problems"), 200),
        ("/problems/{name}", "GET", get("/problems/invalid"), 200),
        ("/problems/{name}", "GET", get("/problems/none"), 404),
        ("/docs", "GET", get("/docs"), 200),
        ("/docs/{file}", "GET", get("/docs/swagger-ui.js"), 200),
        ("/docs/{file}", "GET", get("/docs/swagger-ui.css"), 200),
        ("/docs/{file}", "GET", get("/docs/start.js"), 200),
        ("/docs/{file}", "GET", get("/docs/other.js"), 404),
        (
            "/openapi.json",
            "HEAD",
            request("HEAD", "/openapi.json"),
            200,
        ),
        (
            "/set",
            "POST",
            post("/set", r#"{"key":"a","value":1}"#),
            202,
        ),
        (
            "/set",
            "POST",
            post("/set", r#"{"key":"a","value":1}"#).header("prefer", "wait=5"),
            200,
        ),
        ("/set", "POST", post("/set", "{}"), 422),
        (
            "/set",
            "POST",
            post("/set", r#"{"key":"a","value":1}"#)
                .header("if-none-match", "*")
                .header("prefer", "wait=5"),
            412,
        ),
        (
            "/set",
            "POST",
            post("/set", "").header("content-type", "text/xml"),
            415,
        ),
        (entry, "PUT", put("1").header("idempotency-key", "k"), 200),
        (entry, "PUT", put("1").header("idempotency-key", "k"), 200),
        (entry, "PUT", put("2").header("idempotency-key", "k"), 422),
        (
            entry,
            "PUT",
            request("PUT", "/v1/kv/b?ttl=60").body("1"),
            201,
        ),
        (entry, "PUT", later(put("1")), 202),
        (entry, "PUT", put("1").header("if-match", "\"99\""), 412),
        (entry, "PUT", put("1").header("if-match", "99"), 400),
        (entry, "PUT", put(&"1".repeat(2 << 20)), 413),
        (entry, "GET", get("/v1/kv/b"), 200),
        (entry, "HEAD", request("HEAD", "/v1/kv/b"), 200),
        (entry, "HEAD", request("HEAD", "/v1/kv/none"), 404),
        (
            entry,
            "GET",
            get("/v1/kv/b").header("if-none-match", "*"),
            304,
        ),
        (
            entry,
            "GET",
            get("/v1/kv/b").header("if-match", "\"0\""),
            412,
        ),
        (entry, "GET", get("/v1/kv/none"), 404),
        (
            entry,
            "GET",
            get("/v1/kv/none").header("prefer", "wait=1"),
            404,
        ),
        (entry, "GET", get("/v1/kv//"), 422),
        ("/get/{key}", "GET", get("/get/a"), 200),
        ("/get/{key}", "GET", get("/get/none"), 404),
        ("/get/{key}", "GET", get("/get/a?after=x"), 400),
        (
            "/v1/kv",
            "GET",
            get("/v1/kv?include=value&count=1&limit=1"),
            200,
        ),
        ("/v1/kv", "GET", get("/v1/kv?limit=0"), 422),
        (entry, "PATCH", patch("/v1/kv/p", r#"{"a":1}"#), 201),
        (entry, "PATCH", patch("/v1/kv/p", r#"{"a":2}"#), 200),
        (entry, "PATCH", later(patch("/v1/kv/p", "{}")), 202),
        (entry, "PATCH", patch("/v1/kv/p?ttl=60", ""), 200),
        (entry, "PATCH", patch("/v1/kv/none?ttl=60", ""), 404),
        (entry, "PATCH", patch("/v1/kv/p", ""), 422),
        (
            entry,
            "PATCH",
            request("PATCH", "/v1/kv/p")
                .body("{}")
                .header("content-type", "text/xml"),
            415,
        ),
        (entry, "POST", request("POST", "/v1/kv/n?add=1"), 201),
        (entry, "POST", request("POST", "/v1/kv/n?add=-9"), 200),
        (entry, "POST", later(request("POST", "/v1/kv/n?add=1")), 202),
        (entry, "POST", request("POST", "/v1/kv/n"), 422),
        (entry, "POST", request("POST", "/v1/kv/p?add=1"), 422),
        (
            "/v1/kv",
            "DELETE",
            request("DELETE", "/v1/kv?prefix=p"),
            200,
        ),
        (
            "/v1/kv",
            "DELETE",
            later(request("DELETE", "/v1/kv?prefix=n")),
            202,
        ),
        ("/v1/kv", "DELETE", request("DELETE", "/v1/kv"), 422),
        (
            "/v1/mget",
            "POST",
            post("/v1/mget", r#"{"keys":["a","none"]}"#),
            200,
        ),
        (
            "/v1/batch",
            "POST",
            post("/v1/batch", r#"{"ops":[{"op":"set","key":"c","value":1}]}"#),
            200,
        ),
        (
            "/v1/batch",
            "POST",
            later(post("/v1/batch", r#"{"ops":[{"op":"delete","key":"c"}]}"#)),
            202,
        ),
        (
            "/v1/mget",
            "POST",
            post("/v1/mget", &json!({"keys": vec!["a"; 1001]}).to_string()),
            422,
        ),
        (
            "/get/{key}",
            "GET",
            get("/get/a").header("host", "other.example"),
            421,
        ),
        ("/v1/watch", "GET", get("/v1/watch"), 200),
        ("/v1/watch", "GET", get("/v1/watch?events=none"), 422),
        ("/v1/jobs", "GET", get("/v1/jobs?status=dead"), 200),
        ("/v1/jobs", "GET", get("/v1/jobs"), 200),
        ("/v1/jobs", "GET", get("/v1/jobs?status=done"), 422),
        (
            "/v1/jobs",
            "DELETE",
            request("DELETE", "/v1/jobs?status=dead"),
            200,
        ),
        ("/v1/jobs", "DELETE", request("DELETE", "/v1/jobs"), 422),
        (
            "/v1/jobs/{id}",
            "DELETE",
            request("DELETE", "/v1/jobs/none"),
            404,
        ),
        (
            "/v1/jobs/retry",
            "POST",
            request("POST", "/v1/jobs/retry?status=dead"),
            200,
        ),
        (
            "/v1/jobs/retry",
            "POST",
            request("POST", "/v1/jobs/retry"),
            422,
        ),
        ("/v1/queue", "GET", get("/v1/queue"), 200),
        ("/v1/jobs/{id}", "GET", get("/v1/jobs/none"), 404),
        (
            "/v1/jobs/{id}/retry",
            "POST",
            request("POST", "/v1/jobs/none/retry"),
            404,
        ),
        (entry, "DELETE", request("DELETE", "/v1/kv/a"), 200),
        (entry, "DELETE", later(request("DELETE", "/v1/kv/a")), 202),
        (
            "/delete/{key}",
            "DELETE",
            request("DELETE", "/delete/a"),
            202,
        ),
        (
            "/delete/{key}",
            "DELETE",
            request("DELETE", "/delete/a").header("prefer", "wait=5"),
            200,
        ),
    ];
    let mut wrong = Vec::new();
    for (path, method, request, status) in cases {
        let reply = server.ask(&request).await;
        assert_eq!(reply.status, status, "{request:?}: {reply:?}");
        wrong.extend(undocumented(&document, path, method, &reply));
        // An answer with a job id allows a look at the job.
        if let (202, Some(job)) = (status, reply.header("sync-token")) {
            let path = "/v1/jobs/{id}";
            let job = server.ask(&get(&format!("/v1/jobs/{job}?wait=5"))).await;
            wrong.extend(undocumented(&document, path, "GET", &job));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn answers_of_a_service_that_is_down_stand_in_the_document() {
    let server = Server::start_idle(Setup {
        queue: kvstore_core::queue::QueueOptions {
            jobs_max: 1,
            ..Default::default()
        },
        ..Setup::default()
    })
    .await;
    let document = document(&server).await;
    let set = request("POST", "/set").body(r#"{"key":"a","value":1}"#);
    assert_eq!(server.ask(&set).await.status, 202);
    let mut wrong = Vec::new();
    for (path, target) in [("/set", "/set"), ("/v1/batch", "/v1/batch")] {
        let body = match path {
            "/set" => r#"{"key":"a","value":1}"#,
            _ => r#"{"ops":[{"op":"delete","key":"a"}]}"#,
        };
        let reply = server.ask(&request("POST", target).body(body)).await;
        assert_eq!(reply.status, 503, "{reply:?}");
        wrong.extend(undocumented(&document, path, "POST", &reply));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn what_a_token_is_refused_stands_in_the_document() {
    let mut setup = Setup::default();
    let line = kvstore_http::token_line("guest", "secret", "r", "team/").unwrap();
    setup.options.tokens = Some(std::sync::Arc::new(
        kvstore_http::Tokens::parse(&line).unwrap(),
    ));
    let server = Server::start_idle(setup).await;
    let document = document(&server).await;
    // A dead letter that the token may see, but neither retry nor drop.
    let write = server.service.set("team/a", &1).wait(Duration::ZERO);
    let job = write.await.unwrap().id.to_string();
    server.bury_as(&job, "team/a").await;
    let (mut wrong, mut forbidden) = (Vec::new(), Vec::new());
    for (path, operations) in document["paths"].as_object().unwrap() {
        let target = path.replace("{key}", "other").replace("{id}", &job);
        let target = match path.starts_with("/v1/jobs") {
            true => target + "?status=dead",
            false => target,
        };
        for (method, operation) in operations.as_object().unwrap() {
            if operation["security"] == json!([]) {
                continue;
            }
            let method = method.to_uppercase();
            let target = match (&*method, &**path) {
                ("DELETE", "/v1/jobs/{id}") | ("POST", "/v1/jobs/{id}/retry") => {
                    target.trim_end_matches("?status=dead")
                }
                _ => &target,
            };
            let nobody = server.ask(&request(&method, target)).await;
            assert_eq!(nobody.status, 401, "{method} {path}");
            wrong.extend(undocumented(&document, path, &method, &nobody));
            let guest = request(&method, target).header("authorization", "Bearer secret");
            let guest = server.ask(&guest).await;
            wrong.extend(undocumented(&document, path, &method, &guest));
            if guest.status == 403 && method != "HEAD" {
                forbidden.push(format!("{method} {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for refused in [
        "GET /v1/queue",
        "DELETE /v1/jobs",
        "POST /v1/jobs/retry",
        "POST /v1/jobs/{id}/retry",
    ] {
        let is_refused = forbidden.iter().any(|it| it == refused);
        assert!(is_refused, "{refused} is not among {forbidden:?}");
    }
}

#[tokio::test]
async fn document_has_the_limits_in_force_and_says_whether_a_token_is_needed() {
    let mut setup = Setup::default();
    setup.options.watchers_max = 7;
    setup.service.value_bytes_max = 1000;
    let open = document(&Server::start_with(setup.clone()).await).await;
    assert_eq!(open["x-limits"]["watchers"], 7);
    assert_eq!(open["x-limits"]["value_bytes"], 1000);
    assert_eq!(open["security"], json!([]));
    assert_eq!(open["components"]["securitySchemes"], json!({}));
    let line = kvstore_http::token_line("a", "secret", "rw", "").unwrap();
    setup.options.tokens = Some(std::sync::Arc::new(
        kvstore_http::Tokens::parse(&line).unwrap(),
    ));
    setup.options.admin_routes = false;
    let closed = document(&Server::start_with(setup).await).await;
    assert_eq!(closed["security"], json!([{"bearer": []}]));
    assert!(closed["paths"].get("/livez").is_none());
}

#[tokio::test]
async fn docs_load_nothing_from_elsewhere() {
    let server = Server::start().await;
    let page = server.ask(&request("GET", "/docs")).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'"));
    let text = page.text();
    assert!(!text.contains("://"), "{text}");
    for part in text.split("=\"docs/").skip(1) {
        let (name, _) = part.split_once('"').unwrap();
        let file = server.ask(&request("GET", &format!("/docs/{name}"))).await;
        assert_eq!(file.status, 200, "{name}");
        let is_gzip = file.body.starts_with(&[0x1f, 0x8b]);
        assert_eq!(is_gzip, file.header("content-encoding") == Some("gzip"));
    }
}
