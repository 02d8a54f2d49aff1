//! Checks, by its settings, that a server keeps what it acknowledges, and that the user has the
//! rights that the scripts need: a script that fails halfway for lack of a right would leave half
//! of a change.

use std::collections::HashMap;

use redis::cluster_routing::Route;
use redis::{ErrorKind, Pipeline, RedisResult, Value};

use crate::redis::link::Servers;
use crate::redis::options::Options;
use crate::redis::scripts::{Call, Script};

/// The name used for the run of a server that does not show it and is accepted all the same. Its
/// numbers are never raised.
const HIDDEN: &str = "hidden";

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
    /// Its run, which changes at each start, and its history, which also changes when it becomes a
    /// primary; or [`HIDDEN`].
    pub(crate) run: String,
    /// How many replicas are connected to it.
    pub(crate) replicas: usize,
    /// Why it cannot be used, and what to do.
    pub(crate) refusal: Option<String>,
}

impl Look {
    /// Asks the server at the end of `route`.
    pub(crate) async fn at(link: &Servers, route: Route, options: &Options) -> RedisResult<Self> {
        let rights = Call::new(Script::Rights).arg(&options.prefix);
        let mut pipeline = Pipeline::new();
        pipeline.add_command(rights.load());
        pipeline.add_command(rights.command());
        pipeline.cmd("INFO").arg(&["server", "replication"]);
        let settings = pipeline.cmd("CONFIG").arg("GET");
        settings.arg(&NEEDED.map(|(name, ..)| name));
        let answers = link.ask(route, &pipeline).await?;
        let Ok([loaded, rights, info, settings]) = <[Value; 4]>::try_from(answers) else {
            let kind = ErrorKind::UnexpectedReturnType;
            return Err((kind, "it does not answer as Redis does").into());
        };
        loaded.extract_error()?;
        let rights: Vec<String> = redis::from_redis_value(rights.extract_error()?)?;
        // A server may refuse these two.
        let info: String = redis::from_redis_value(info).unwrap_or_default();
        let settings: HashMap<String, String> =
            redis::from_redis_value(settings).unwrap_or_default();
        let fields = info.lines().filter_map(|line| line.split_once(':'));
        let info: HashMap<&str, &str> = fields.collect();
        let run = info.get("run_id").filter(|run| is_name(run));
        let history = info.get("master_replid").filter(|history| is_name(history));
        let replicas = info.get("connected_slaves");
        let mut problems = Vec::new();
        if run.is_none() {
            problems.push("it does not show its run_id (INFO server)".to_owned());
        }
        for (name, needed, otherwise) in NEEDED {
            match settings.get(name) {
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
            run: match (run, history) {
                // Longer values would make Redis keep the partition's hashes in a slower form.
                (Some(run), Some(history)) => format!("{run:.20}-{history:.20}"),
                (run, _) => run.copied().unwrap_or(HIDDEN).to_owned(),
            },
            replicas: replicas.and_then(|count| count.parse().ok()).unwrap_or(0),
            refusal: match &rights[..] {
                [] if options.relaxed_durability || problems.is_empty() => None,
                [] => Some(format!(
                    "the Redis server may lose what it acknowledges: {}; or take it as it is, with durability=relaxed",
                    problems.join("; ")
                )),
                rights => Some(format!(
                    "the Redis user lacks rights: add them, on each server, with ACL SETUSER and its name before {}",
                    rights.join(" ")
                )),
            },
        })
    }
}

/// Returns true if `run` may become part of a script's text.
fn is_name(run: &str) -> bool {
    !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Returns the words that follow `start` in `text`, each up to the next quote.
    fn words<'t>(text: &'t str, start: &'t str) -> impl Iterator<Item = &'t str> {
        let behind = text.split(start).skip(1);
        behind.filter_map(|rest| rest.split('\'').next())
    }

    #[test]
    fn every_command_of_a_script_is_checked() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/redis/scripts");
        let mut used = BTreeSet::new();
        for file in folder.read_dir().unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for start in ["redis.call('", "redis.pcall('", "call_in_parts('"] {
                used.extend(words(&text, start).map(str::to_owned));
            }
        }
        assert!(
            used.contains("PUBLISH") && used.contains("MSET"),
            "{used:?}"
        );
        let is_checked = |command: &str| {
            include_str!("../scripts/rights.lua")
                .split(|letter: char| !letter.is_ascii_uppercase())
                .any(|word| word == command)
        };
        let missing: Vec<_> = used.iter().filter(|command| !is_checked(command)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
