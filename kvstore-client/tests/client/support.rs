//! Clients of the real server, relays in front of it (a Unix socket, and one that loses answers),
//! and a server that only has the answers of a list.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kvstore_client::{Client, Options};
use kvstore_testing::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as Listener, TcpStream};

/// Clients of a server.
pub(crate) trait Clients {
    fn client(&self) -> Client {
        self.client_with(Options::default())
    }

    fn client_with(&self, options: Options) -> Client;
}

impl Clients for Server {
    fn client_with(&self, options: Options) -> Client {
        Client::open_with(&self.url().parse().unwrap(), options).unwrap()
    }
}

/// Accepts connections on a Unix socket and forwards them.
pub(crate) fn relay_unix(path: &Path, to: SocketAddr) {
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
}

/// Forwards connections, and closes every other one when its first answer arrives: the request was
/// served, and its client does not know.
pub(crate) async fn relay_losing_answers(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let lost = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lost);
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut near, _)) = listener.accept().await {
            number += 1;
            let (is_lossy, count) = (number % 2 == 1, Arc::clone(&count));
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let mut buffer = vec![0; 1 << 16];
                loop {
                    let read = near.read(&mut buffer).await.unwrap_or(0);
                    if read == 0 || far.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                    // Requests and answers of these tests fit into one read.
                    let answered = far.read(&mut buffer).await.unwrap_or(0);
                    if is_lossy {
                        count.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    if near.write_all(&buffer[..answered]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, lost)
}

/// A server that gives the answers of a list, one per connection, and records the requests.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// Starts a server that gives `answers` in turn. After the last one it accepts no more
    /// connections.
    pub(crate) async fn start(answers: &[String]) -> Self {
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (Arc::clone(&requests), answers.to_vec());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 1 << 16];
                let read = stream.read(&mut buffer).await.unwrap();
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                seen.lock().unwrap().push(text);
                // The client may have gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, requests }
    }

    pub(crate) fn client(&self, options: Options) -> Client {
        Client::open_with(
            &format!("http://{}", self.address).parse().unwrap(),
            options,
        )
        .unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Returns an answer after which the connection is closed.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

/// Returns a problem as the server would send it.
pub(crate) fn problem(status: u16, name: &str) -> String {
    let body = format!(r#"{{"type":"/problems/{name}","status":{status},"detail":"words"}}"#);
    answer(status, "", &body)
}
