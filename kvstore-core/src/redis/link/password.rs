//! A password in a file, which another program may replace while this one runs. It is read for each
//! new connection, and from time to time for those that are open.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{StreamExt, unfold};
use redis::auth::{BasicAuth, StreamingCredentialsProvider};
use redis::{Client, ConnectionInfo, ErrorKind, RedisError, RedisResult};

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
        file.read().map_err(Error::Config)?;
        Ok(Some(file))
    }

    fn read(&self) -> Result<String, String> {
        let path = self.path.display();
        let text = std::fs::read(&self.path)
            .map_err(|error| format!("password_file {path} cannot be read: {error}"))?;
        let text =
            String::from_utf8(text).map_err(|_| format!("password_file {path} is not UTF-8"))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn current(&self) -> RedisResult<String> {
        let failed = |reason| {
            let kind = ErrorKind::AuthenticationFailed;
            RedisError::from((kind, "there is no password", reason))
        };
        self.read().map_err(failed)
    }

    /// Returns `client` with the present password.
    pub(crate) fn log_in(&self, client: &Client) -> RedisResult<Client> {
        let info = client.get_connection_info();
        let login = info.redis_settings().clone();
        let login = login.set_password(self.current()?);
        Client::open(info.clone().set_redis_settings(login))
    }
}

impl StreamingCredentialsProvider for PasswordFile {
    /// Streams the password as it is now, then each that differs from the last.
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send + 'static>> {
        let passwords = unfold((self.clone(), None), |(file, mut last)| async move {
            loop {
                if last.is_some() {
                    tokio::time::sleep(READ_PERIOD).await;
                }
                let read = file.current();
                let is_new = last.replace(read.clone().ok()) != Some(read.clone().ok());
                if is_new {
                    let auth = read.map(|password| BasicAuth::new(file.user.clone(), password));
                    return Some((auth, (file, last)));
                }
            }
        });
        passwords.boxed()
    }
}
