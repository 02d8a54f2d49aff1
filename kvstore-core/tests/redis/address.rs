//! A stable address in front of Redis servers, like a virtual IP or a service: it leads to one of
//! them, and later to another.

use std::path::PathBuf;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

use kvstore_testing::redis::RedisServer;

/// The address, while this value lives.
pub(crate) struct Address {
    port: u16,
    to: watch::Sender<PathBuf>,
}

impl Address {
    pub(crate) async fn of(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, led) = watch::channel(server.socket());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut led = led.clone();
                tokio::spawn(async move {
                    let path = led.borrow_and_update().clone();
                    let Ok(mut server) = UnixStream::connect(path).await else {
                        return;
                    };
                    tokio::select! {
                        // Ends with either side.
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = led.changed() => {}
                    }
                });
            }
        });
        Self { port, to }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Cuts all connections; the next ones lead to `server`.
    pub(crate) fn lead_to(&self, server: &RedisServer) {
        self.to.send_replace(server.socket());
    }
}
