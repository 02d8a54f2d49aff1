//! `batch`

use std::time::Duration;

use kvstore_core::model::command::{Command, Expiry, Operation};
use kvstore_core::model::write::Condition;
use kvstore_core::{Key, Value};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, json};

use super::CommandContext;
use super::entries::describe;
use crate::args::BatchArgs;
use crate::failure::CommandFailure;
use crate::input::condition;

/// An operation, in the form of the API.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenOperation {
    op: String,
    key: Key,
    #[serde(default, deserialize_with = "some")]
    value: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "some")]
    patch: Option<Box<RawValue>>,
    by: Option<i64>,
    ttl: Option<TtlArgument>,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

/// Seconds, or `keep`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TtlArgument {
    Seconds(u64),
    Word(String),
}

/// Parses a field that is present, so that `null` is a value.
fn some<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(json).map(Some)
}

pub(super) async fn batch(
    context: &CommandContext,
    batch: BatchArgs,
) -> Result<(), CommandFailure> {
    let operations = operations(&batch.operations.read()?)?;
    let names: Vec<_> = operations
        .iter()
        .map(|operation| (operation.key.clone(), operation.action.name()))
        .collect();
    let submitted = context
        .submit(Command::Batch(operations), &batch.sending)
        .await?;
    let mut rows = context.output.rows(&["OP", "KEY", "RESULT"]);
    let mut index = 0;
    for (key, name) in names {
        let mut object = Map::new();
        if name != "check" {
            describe(&mut object, name, &submitted, index);
            index += 1;
        }
        let result = object.iter().map(|(name, value)| format!("{name} {value}"));
        let result = result
            .collect::<Vec<_>>()
            .join(", ")
            .replace("\\\"", "")
            .replace('"', "");
        let cells = vec![name.to_owned(), key.to_string(), result];
        object.insert("op".to_owned(), name.into());
        object.insert("key".to_owned(), key.as_str().into());
        object.insert("job_id".to_owned(), json!(submitted.id));
        rows.row(cells, &object)?;
    }
    Ok(rows.flush()?)
}

/// Parses operations: an array, the body of the API's request, or one object per line.
fn operations(text: &[u8]) -> Result<Vec<Operation>, CommandFailure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct BatchBody {
        ops: Vec<GivenOperation>,
    }
    let given = match (
        serde_json::from_slice(text),
        serde_json::from_slice::<BatchBody>(text),
    ) {
        (Ok(given), _) => given,
        (_, Ok(body)) => body.ops,
        (Err(error), _) => {
            let lines = serde_json::Deserializer::from_slice(text).into_iter::<GivenOperation>();
            let lines: Result<Vec<GivenOperation>, _> = lines.collect();
            lines.map_err(|by_line| {
                // The error of an array says more than the error of its first line.
                let is_array = text.trim_ascii_start().starts_with(b"[");
                let error = if is_array { error } else { by_line };
                CommandFailure::Usage(format!("the operations cannot be read: {error}"))
            })?
        }
    };
    given
        .into_iter()
        .enumerate()
        .map(|(number, given)| {
            let refused = |rule| CommandFailure::Usage(format!("operation {number}: {rule}"));
            operation(given).map_err(refused)
        })
        .collect()
}

fn operation(given: GivenOperation) -> Result<Operation, String> {
    let article = if given.op == "add" { "an" } else { "a" };
    let needs = |name: &str| format!("{article} {} needs a {name}", given.op);
    let value = |json: Option<&RawValue>, name| {
        let json = json.ok_or_else(|| needs(name))?;
        Value::parse(json.get()).map_err(|error| error.to_string())
    };
    let expiry = match &given.ttl {
        None => None,
        Some(TtlArgument::Seconds(seconds)) => Some(Expiry::After(Duration::from_secs(*seconds))),
        Some(TtlArgument::Word(word)) => Some(crate::input::expiry(word)?),
    };
    let key = given.key.clone();
    let has = [
        ("value", given.value.is_some()),
        ("patch", given.patch.is_some()),
        ("by", given.by.is_some()),
        ("ttl", expiry.is_some()),
    ];
    let (operation, takes): (_, &[&str]) = match given.op.as_str() {
        "set" => (
            Operation {
                expiry: expiry.unwrap_or_default(),
                ..Operation::set(key, value(given.value.as_deref(), "value")?)
            },
            &["value", "ttl"],
        ),
        "delete" => (Operation::delete(key), &[]),
        "add" => (
            Operation {
                expiry: expiry.unwrap_or_default(),
                ..Operation::add(key, given.by.ok_or_else(|| needs("by"))?)
            },
            &["by", "ttl"],
        ),
        "merge" => (
            Operation {
                expiry: expiry.unwrap_or(Expiry::Keep),
                ..Operation::merge(key, value(given.patch.as_deref(), "patch")?)
            },
            &["patch", "ttl"],
        ),
        "touch" => match expiry {
            Some(Expiry::After(ttl)) => (Operation::touch(key, ttl), &["ttl"]),
            _ => return Err("a touch needs a ttl in seconds".to_owned()),
        },
        "check" => (Operation::check(key), &[]),
        _ => return Err("op must be set, delete, add, merge, touch or check".to_owned()),
    };
    if let Some((name, _)) = has
        .iter()
        .find(|(name, given)| *given && !takes.contains(name))
    {
        return Err(format!("{article} {} takes no {name}", given.op));
    }
    let condition = match (given.if_match.as_deref(), given.if_none_match.as_deref()) {
        (None, None) if given.op == "check" => {
            return Err("a check needs if_match or if_none_match".to_owned());
        }
        (None, None) => Condition::Any,
        (Some(tag), None) => condition(tag)?,
        (None, Some("*")) => Condition::Absent,
        _ => return Err("its condition is if_match, or if_none_match with *".to_owned()),
    };
    Ok(operation.under(condition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_in_each_of_their_forms() {
        let lines = "{\"op\":\"set\",\"key\":\"a\",\"value\":null}\n{\"op\":\"check\",\"key\":\"b\",\"if_none_match\":\"*\"}\n";
        let array = format!("[{}]", lines.trim_end().replace('\n', ","));
        let body = format!("{{\"ops\":{array}}}");
        for text in [lines, &array, &body] {
            let operations = operations(text.as_bytes()).unwrap();
            let value = Value::parse("null").unwrap();
            assert_eq!(operations[0], Operation::set(Key::new("a").unwrap(), value));
            assert_eq!(
                operations[1],
                Operation::check(Key::new("b").unwrap()).if_absent()
            );
        }
    }

    #[test]
    fn invalid_operations_are_rejected() {
        for (text, words) in [
            ("x", "cannot be read"),
            (
                r#"{"op":"set","key":"a"}"#,
                "operation 0: a set needs a value",
            ),
            (r#"{"op":"put","key":"a"}"#, "op must be"),
            (r#"{"op":"set","key":"a//b","value":1}"#, "cannot be read"),
            (
                r#"{"op":"set","key":"a","value":1,"tll":1}"#,
                "unknown field",
            ),
            (r#"{"op":"delete","key":"a","ttl":1}"#, "takes no ttl"),
            (
                r#"{"op":"add","key":"a","value":1,"by":1}"#,
                "takes no value",
            ),
            (r#"{"op":"touch","key":"a"}"#, "needs a ttl"),
            (r#"{"op":"check","key":"a"}"#, "needs if_match"),
            (
                r#"{"op":"delete","key":"a","if_none_match":"\"1\""}"#,
                "its condition",
            ),
        ] {
            match operations(text.as_bytes()) {
                Err(CommandFailure::Usage(said)) => assert!(said.contains(words), "{text}: {said}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
