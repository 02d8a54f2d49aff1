//! `/openapi.json`, and `/docs`: the same as an interactive page, which needs no other server.

use hyper::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
};
use hyper::{Response, StatusCode};

use super::context::Context;
use crate::answer::reply::{self, Body, NO_CACHE, Reply};

/// Swagger UI as published, compressed by `build.rs`; every browser accepts gzip.
const SWAGGER_UI_JS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.js.gz"));
const SWAGGER_UI_CSS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz"));

const PAGE: &[u8] = b"<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>kvstore</title>
<link rel=\"icon\" href=\"data:,\">
<link rel=\"stylesheet\" href=\"docs/swagger-ui.css\">
</head>
<body>
<div id=\"swagger-ui\"></div>
<noscript>This page needs JavaScript. <a href=\"openapi.json\">openapi.json</a> says the same.</noscript>
<script src=\"docs/swagger-ui.js\"></script>
<script src=\"docs/start.js\"></script>
</body>
</html>
";

/// Opens the document of this server, whatever prefix the path has. HEAD operations equal their GET
/// without the body and would only double the list, so they are left out.
const START_JS: &[u8] = b"window.addEventListener('load', async () => {
  const spec = await (await fetch(new URL('openapi.json', document.baseURI))).json();
  for (const path of Object.values(spec.paths)) delete path.head;
  SwaggerUIBundle({
    spec,
    dom_id: '#swagger-ui',
    deepLinking: true,
    displayRequestDuration: true,
    tryItOutEnabled: true,
  });
});
";

/// All resources come from this server, and only scripts in files run. Swagger UI sets inline
/// styles and embeds images in them.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

/// Answers `GET /openapi.json`.
pub(super) fn openapi(context: &Context<'_>) -> Reply {
    let mut reply = reply::json(StatusCode::OK, context.openapi.clone());
    reply.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    reply
}

/// Answers `GET /docs`.
pub(super) fn page() -> Reply {
    let mut reply = file_of("text/html; charset=utf-8", PAGE.into());
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    reply
}

/// Answers `GET /docs/{file}`.
pub(super) fn file(name: &str) -> Option<Reply> {
    let compressed = |media_type, bytes: &'static [u8]| {
        let mut reply = file_of(media_type, bytes.into());
        let gzip = HeaderValue::from_static("gzip");
        reply.headers_mut().insert(CONTENT_ENCODING, gzip);
        reply
    };
    match name {
        "swagger-ui.js" => Some(compressed(JAVASCRIPT, SWAGGER_UI_JS)),
        "swagger-ui.css" => Some(compressed(CSS, SWAGGER_UI_CSS)),
        "start.js" => Some(file_of(JAVASCRIPT, START_JS.into())),
        _ => None,
    }
}

fn file_of(media_type: &'static str, bytes: bytes::Bytes) -> Reply {
    let mut reply = Response::new(Body::whole(bytes));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, NO_CACHE);
    reply
}
