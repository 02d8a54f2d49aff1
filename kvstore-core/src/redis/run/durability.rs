//! Checks, by its settings, that a server keeps what it acknowledges.

use redis::{Pipeline, RedisResult, Value};

use crate::redis::link::Servers;

/// The required value of each setting, and the consequence of any other.
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

/// What a server reports about itself.
pub(crate) struct Look {
    /// Its run, which changes at each start. `None` if the server does not show it.
    pub(crate) run: Option<String>,
    /// How many replicas are connected to it.
    pub(crate) replicas: usize,
    /// Why it may lose what it acknowledges; empty if it keeps everything.
    pub(crate) problems: Vec<String>,
}

impl Look {
    /// Asks the server that has `slot`.
    pub(crate) async fn at(link: &mut Servers, slot: u16) -> RedisResult<Self> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("INFO").arg("server");
        pipeline.cmd("INFO").arg("replication");
        for (name, ..) in NEEDED {
            pipeline.cmd("CONFIG").arg("GET").arg(name);
        }
        let answers = link.ask(slot, &pipeline).await?;
        let [server, replication, settings @ ..] = &answers[..] else {
            return Ok(Self::default());
        };
        let run = info(server, "run_id").filter(|run| is_name(run));
        let replicas = info(replication, "connected_slaves");
        let mut problems = Vec::new();
        if run.is_none() {
            problems.push("it does not show its run_id (INFO server)".to_owned());
        }
        for ((name, needed, otherwise), answer) in NEEDED.into_iter().zip(settings) {
            match setting(answer) {
                Some(value) if value == needed => {}
                Some(value) => problems.push(format!(
                    "{name} is {value}, set it to {needed} (otherwise {otherwise})"
                )),
                None => problems.push(format!(
                    "it does not show its setting {name} (CONFIG GET), which has to be {needed}"
                )),
            }
        }
        Ok(Self {
            run: run.map(str::to_owned),
            replicas: replicas.and_then(|count| count.parse().ok()).unwrap_or(0),
            problems,
        })
    }

    /// Formats all problems as one message.
    pub(crate) fn refusal(&self) -> String {
        format!(
            "the Redis server may lose what it acknowledges: {}; or take it as it is, with durability=relaxed",
            self.problems.join("; ")
        )
    }
}

impl Default for Look {
    fn default() -> Self {
        Self {
            run: None,
            replicas: 0,
            problems: vec!["it does not answer as Redis does".to_owned()],
        }
    }
}

/// Extracts a field from the answer to INFO.
fn info<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    let text = match answer {
        Value::BulkString(text) => std::str::from_utf8(text).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = fields.filter(|(field, _)| *field == name);
    values.next().map(|(_, value)| value)
}

/// Extracts the value from the answer to CONFIG GET.
fn setting(answer: &Value) -> Option<String> {
    let pair: Vec<String> = redis::from_redis_value(answer.clone()).ok()?;
    pair.into_iter().nth(1)
}

/// Returns true if `run` may become part of a script's text.
fn is_name(run: &str) -> bool {
    !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
