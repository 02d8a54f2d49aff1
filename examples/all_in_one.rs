//! Server and worker in your own process: one folder, one port, and your program alongside them. It
//! talks to itself over HTTP, reads the result without HTTP, and shuts down in order.

use std::error::Error;
use std::net::SocketAddr;

use kvstore_core::service::ServiceOptions;
use kvstore_core::{Key, Service, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let url = format!("file:{}", folder.path().display());
    let opened = open(&url.parse()?, None).await?;
    let service = Service::open(
        opened.store.clone(),
        opened.queue.clone(),
        ServiceOptions::default(),
    )
    .await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("serving {} on {address}", folder.path().display());

    // Server and worker each take a future that ends them. Here it is the drop of a sender; SIGTERM
    // would do as well.
    let (stop_server, server_stopped) = oneshot::channel::<()>();
    let (stop_worker, worker_stopped) = oneshot::channel::<()>();
    let server = kvstore_http::serve(
        listener,
        service.clone(),
        kvstore_http::Options::default(),
        async { drop(server_stopped.await) },
    );
    let worker = kvstore_core::worker::run(
        opened.store.clone(),
        opened.queue.clone(),
        kvstore_core::worker::Options::default(),
        async { drop(worker_stopped.await) },
    );
    let (server, worker) = (tokio::spawn(server), tokio::spawn(worker));

    let answer = ask(
        address,
        "PUT /v1/kv/user:1 HTTP/1.1",
        r#"{"name": "Ada", "height": 1.70}"#,
    )
    .await?;
    // 201: it is applied and durable. Every byte is kept except white space between tokens.
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let answer = ask(address, "GET /v1/kv/user:1 HTTP/1.1", "").await?;
    assert!(
        answer.ends_with(r#"{"name":"Ada","height":1.70}"#),
        "{answer}"
    );

    // The same store without HTTP.
    let entry = service.get(&Key::new("user:1")?).await?;
    println!("user:1 is {}", entry.expect("it was just set").value);

    // First the server, so that nothing more is accepted; then the worker, which applies the
    // waiting jobs; then the files.
    drop(stop_server);
    server.await??;
    drop(stop_worker);
    worker.await??;
    opened.close().await?;
    let data = std::fs::read_to_string(folder.path().join("data.json"))?;
    println!("data.json is {data}");
    assert!(data.contains(r#""user:1":{"name":"Ada","height":1.70}"#));
    Ok(())
}

/// Sends one request on a connection of its own, and returns the whole answer as text: the smallest
/// client possible.
async fn ask(address: SocketAddr, request: &str, body: &str) -> std::io::Result<String> {
    println!("> {request}");
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let request = format!(
        "{request}\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("< {}", answer.lines().next().unwrap_or_default());
    Ok(answer)
}
