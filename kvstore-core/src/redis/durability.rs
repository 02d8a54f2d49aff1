//! Does the server keep what it acknowledges? Its settings say so, or it is refused.

use redis::{RedisResult, Value};

use super::connection::not_reached;
use super::link::Link;
use crate::error::{Error, Result};

/// What each setting has to be, and what happens otherwise.
const NEEDED: [(&str, &str, &str); 4] = [
    (
        "appendonly",
        "yes",
        "a crash loses what was acknowledged since the last snapshot",
    ),
    (
        "appendfsync",
        "always",
        "a crash loses what was acknowledged in the last second or two",
    ),
    (
        "no-appendfsync-on-rewrite",
        "no",
        "a crash during a rewrite of the append-only file loses what was acknowledged meanwhile",
    ),
    (
        "maxmemory-policy",
        "noeviction",
        "a full server throws data away",
    ),
];

/// # Errors
/// [`Error::Config`] with every setting that has to be another.
pub(super) async fn check(server: &mut Link) -> Result<()> {
    let mut problems = Vec::new();
    for (name, needed, otherwise) in NEEDED {
        let answer: RedisResult<Vec<String>> = redis::cmd("CONFIG")
            .arg("GET")
            .arg(name)
            .query_async(server)
            .await;
        match answer {
            Ok(pair) if pair.get(1).is_some_and(|value| value == needed) => {}
            Ok(pair) => problems.push(format!(
                "{name} is {}, set it to {needed} (otherwise {otherwise})",
                pair.get(1).map_or("hidden", String::as_str)
            )),
            Err(error) if error.code().is_some() => problems.push(format!(
                "it does not show its setting {name}, which has to be {needed}"
            )),
            Err(error) => return Err(not_reached(error)),
        }
    }
    let role: Vec<Value> = redis::cmd("ROLE")
        .query_async(server)
        .await
        .map_err(not_reached)?;
    let is_primary = matches!(role.first(), Some(Value::BulkString(role)) if role == b"master");
    if !is_primary {
        problems.push("it is a replica, give the address of its primary".to_owned());
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Config(format!(
        "the Redis server may lose what it acknowledges: {}; or take it as it is, with durability=relaxed",
        problems.join("; ")
    )))
}
