//! §9: the server's description of itself.

use kvstore_http::Options;
use kvstore_worker::admin::PATHS;

use crate::support::server::{Server, Setup};
use kvstore_testing::client::request;

#[tokio::test]
async fn root_names_the_service_and_where_to_go() {
    let server = Server::start().await;
    let reply = server.ask(&request("GET", "/")).await;
    assert_eq!(
        (reply.status, &reply.json()["name"]),
        (200, &"kvstore".into())
    );
    assert_eq!(reply.json()["version"], env!("CARGO_PKG_VERSION"));
    let root = reply.json();
    let links = root["links"].as_object().unwrap();
    for face in [
        "set", "entry", "list", "mget", "batch", "watch", "jobs", "queue",
    ] {
        assert!(links.contains_key(face), "{face}");
    }
    // Every link leads somewhere: once its parameters are filled in, none is an unknown route.
    for (name, link) in links {
        let target = link
            .as_str()
            .unwrap()
            .replace("{key}", "a")
            .replace("{id}", "a");
        let answer = server.ask(&request("OPTIONS", &target)).await;
        assert_eq!(answer.status, 405, "{name}: {target}");
    }
}

#[tokio::test]
async fn probes_answer() {
    let server = Server::start().await;
    for probe in ["/livez", "/readyz"] {
        for method in ["GET", "HEAD"] {
            let reply = server.ask(&request(method, probe)).await;
            assert_eq!(
                (reply.status, reply.header("content-type")),
                (200, Some("application/json")),
                "{method} {probe}"
            );
        }
    }
}

#[tokio::test]
async fn metrics_say_what_waits() {
    let server = Server::start().await;
    let reply = server.ask(&request("GET", "/metrics")).await;
    let media_type = reply.header("content-type").unwrap_or_default();
    assert_eq!(reply.status, 200);
    assert!(
        media_type.starts_with("application/openmetrics-text;"),
        "{media_type}"
    );
    let text = String::from_utf8_lossy(&reply.body);
    assert!(text.contains("\nkvstore_queue_jobs 0\n"), "{text}");
}

#[tokio::test]
async fn probes_with_a_listener_of_their_own_are_not_here() {
    let options = Options {
        admin_routes: false,
        ..Options::default()
    };
    let server = Server::start_with(Setup {
        options,
        ..Setup::default()
    })
    .await;
    for probe in PATHS {
        assert_eq!(server.ask(&request("GET", probe)).await.status, 404);
    }
    assert_eq!(
        server.ask(&request("GET", "/")).await.json()["links"].get("live"),
        None
    );
}
