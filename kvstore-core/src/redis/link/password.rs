//! A password in a file, which another program may replace while this one runs. It is read for each
//! new connection, and from time to time for those that are open.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{StreamExt, unfold};
use redis::auth::{BasicAuth, StreamingCredentialsProvider};
use redis::{Client, ConnectionInfo, ErrorKind, RedisError, RedisResult};
use tokio::time::interval;

use crate::error::{Error, Result};
use crate::redis::options::Options;

/// How often the file is read for a connection that is open.
const READ_PERIOD: Duration = Duration::from_secs(30);

/// The file, and the user whose password it holds.
#[derive(Clone)]
pub(crate) struct PasswordFile {
    path: PathBuf,
    user: String,
}

impl PasswordFile {
    /// Returns the file of `options` for the user of `node`.
    ///
    /// # Errors
    /// [`Error::Config`] if it cannot be read now.
    pub(crate) fn of(options: &Options, node: &ConnectionInfo) -> Result<Option<Self>> {
        let Some(path) = options.password_file.clone() else {
            return Ok(None);
        };
        let user = node.redis_settings().username().unwrap_or("default");
        let user = user.to_owned();
        let file = Self { path, user };
        match file.read() {
            Ok(_) => Ok(Some(file)),
            Err(error) => Err(Error::Config(error.detail().unwrap_or_default().to_owned())),
        }
    }

    fn read(&self) -> RedisResult<String> {
        let failed = |reason| {
            let reason = format!("password_file {} {reason}", self.path.display());
            RedisError::from((
                ErrorKind::AuthenticationFailed,
                "there is no password",
                reason,
            ))
        };
        let text = std::fs::read(&self.path)
            .map_err(|error| failed(format!("cannot be read: {error}")))?;
        let text = String::from_utf8(text).map_err(|_| failed("is not UTF-8".to_owned()))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Returns `client` with the present password.
    pub(crate) fn log_in(&self, client: &Client) -> RedisResult<Client> {
        let info = client.get_connection_info();
        let login = info.redis_settings().clone();
        let login = login.set_password(self.read()?);
        Client::open(info.clone().set_redis_settings(login))
    }
}

impl StreamingCredentialsProvider for PasswordFile {
    /// Streams the password as it is now, then each that differs from the last.
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send + 'static>> {
        let state = (self.clone(), interval(READ_PERIOD), None);
        let passwords = unfold(state, |(file, mut reads, last)| async move {
            loop {
                // The first time is now.
                reads.tick().await;
                let read = file.read();
                let password = Some(read.clone().ok());
                if password != last {
                    let auth = read.map(|password| BasicAuth::new(file.user.clone(), password));
                    return Some((auth, (file, reads, password)));
                }
            }
        });
        passwords.boxed()
    }
}
