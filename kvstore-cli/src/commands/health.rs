//! `health`: checks that a server or worker is ready, for a supervisor in an image without a shell.

use std::time::Duration;

use kvstore_client::{Client, Options, ServerUrl};
use kvstore_core::error::in_one_line;

use crate::args::{HealthArgs, ServerArgs};
use crate::failure::CommandFailure;
use crate::output::line;

/// The timeout for each step. Longer than a process gives its own store and queue to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn health(server: ServerArgs, health: HealthArgs) -> Result<(), CommandFailure> {
    let listens = health.admin_listen.or(health.listen);
    let url = match (&server.url, listens) {
        (None, Some(listens)) => url(&listens)?,
        _ => server.url(),
    };
    let options = Options {
        connect_timeout: PATIENCE,
        request_timeout: PATIENCE,
        retry_for: Duration::ZERO,
        ca_file: server.ca_file,
        ..Options::default()
    };
    let client = Client::open_with(&url, options)?;
    match client.service().ping().await {
        Ok(()) => Ok(line(b"ready")?),
        Err(error) => Err(CommandFailure::Failed(format!(
            "{url} is not ready: {}",
            in_one_line(&error)
        ))),
    }
}

/// Returns the URL at which a program that listens on `text` is reached on this machine.
fn url(text: &str) -> Result<ServerUrl, CommandFailure> {
    // It may be a list. All addresses give the same answer, and a Unix socket gives it without TLS.
    let places = || text.split(',').map(str::trim);
    let socket = places().find(|place| place.starts_with("unix:"));
    let text = socket.or(places().next()).unwrap_or_default();
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let here = match text.rsplit_once(':') {
        _ if ServerUrl::is_url(text) => text.to_owned(),
        None if is_port(text) => format!("http://127.0.0.1:{text}"),
        Some(("" | "0.0.0.0", port)) => format!("http://127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("http://[::1]:{port}"),
        _ => format!("http://{text}"),
    };
    Ok(here.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_listener_is_reached_on_this_machine() {
        for (listens, expected) in [
            ("127.0.0.1:80", "http://127.0.0.1:80"),
            ("localhost:80", "http://localhost:80"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            (":80", "http://127.0.0.1:80"),
            ("80", "http://127.0.0.1:80"),
            ("[::]:80", "http://[::1]:80"),
            ("unix:/run/kv", "unix:/run/kv"),
            (":80, unix:/run/kv", "unix:/run/kv"),
            (":80, [::1]:80", "http://127.0.0.1:80"),
        ] {
            let expected: ServerUrl = expected.parse().unwrap();
            assert_eq!(url(listens).unwrap(), expected, "{listens}");
        }
        assert!(url("").is_err());
    }
}
