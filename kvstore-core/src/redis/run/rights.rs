//! Checks that the user has the rights that the scripts need, before the first write: a script that
//! fails halfway for lack of a right would leave half of a change.

use redis::{Pipeline, RedisResult, Script};

use crate::redis::link::Servers;

const SCRIPT: &str = concat!(
    "#!lua flags=no-writes\n",
    include_str!("../scripts/rights.lua")
);

/// Returns what the user lacks on the server that has `slot`, for keys and channels that start with
/// `prefix`, and what to do; `None` if it lacks nothing.
pub(crate) async fn missing(
    link: &mut Servers,
    slot: u16,
    prefix: &str,
) -> RedisResult<Option<String>> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("SCRIPT").arg("LOAD").arg(SCRIPT);
    let script = Script::new(SCRIPT);
    pipeline
        .cmd("EVALSHA")
        .arg(script.get_hash())
        .arg(0)
        .arg(prefix);
    let mut rights: Vec<String> = Vec::new();
    for answer in link.ask(slot, &pipeline).await? {
        // The first answer is the script's hash, which is overwritten.
        rights = redis::from_redis_value(answer.extract_error()?)?;
    }
    Ok((!rights.is_empty()).then(|| {
        format!(
            "the Redis user lacks rights: add them, on each server, with ACL SETUSER and its name before {}",
            rights.join(" ")
        )
    }))
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
            super::SCRIPT
                .split(|letter: char| !letter.is_ascii_uppercase())
                .any(|word| word == command)
        };
        let missing: Vec<_> = used.iter().filter(|command| !is_checked(command)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
