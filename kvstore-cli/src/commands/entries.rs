//! `get set delete add merge touch`

use kvstore_core::Key;
use kvstore_core::model::command::{Expiry, Operation};
use kvstore_core::model::job::JobState;
use kvstore_core::service::Submitted;
use serde_json::{Map, Value as Json, json};

use super::CommandContext;
use crate::args::{AddArgs, DeleteArgs, GetArgs, MergeArgs, SetArgs, TouchArgs, WriteArgs};
use crate::failure::CommandFailure;
use crate::output::{deadline, etag, line, raw, shortened};

pub(super) async fn get(context: &CommandContext, get: GetArgs) -> Result<(), CommandFailure> {
    let entries = match get.keys.as_slice() {
        [key] => vec![context.client.store().get(key).await?],
        keys => context.client.store().get_many(keys).await?,
    };
    // Several keys need their names; for one key the value alone was asked for.
    let is_plain = !get.meta && (get.keys.len() == 1 || get.raw);
    let mut absent = Vec::new();
    let mut rows = context.output.rows(&["KEY", "ETAG", "EXPIRES", "VALUE"]);
    for (key, entry) in get.keys.iter().zip(&entries) {
        let Some(entry) = entry else {
            absent.push(key.as_str());
            continue;
        };
        if is_plain {
            match (get.raw, entry.value.to::<String>()) {
                (true, Ok(text)) => line(text.as_bytes())?,
                _ => line(entry.value.as_bytes())?,
            }
            continue;
        }
        let object = EntryObject {
            key,
            etag: etag(entry.version),
            expires_at: entry.expires_at.map(|moment| moment.to_string()),
            value: Some(raw(&entry.value)),
            size: None,
        };
        let cells = vec![
            key.to_string(),
            entry.version.to_string(),
            deadline(entry.expires_at),
            shortened(Some(&entry.value)),
        ];
        rows.row(cells, &object)?;
    }
    rows.flush()?;
    match absent.as_slice() {
        [] => Ok(()),
        keys => Err(CommandFailure::Absent(format!(
            "no such key: {}",
            keys.join(", ")
        ))),
    }
}

/// An entry as one line of JSON.
#[derive(Debug, serde::Serialize)]
pub(super) struct EntryObject<'a> {
    pub(super) key: &'a Key,
    pub(super) etag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<usize>,
    pub(super) expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a serde_json::value::RawValue>,
}

pub(super) async fn set(context: &CommandContext, set: SetArgs) -> Result<(), CommandFailure> {
    let value = match set.text {
        true => set.value.text()?,
        false => set.value.json()?,
    };
    let operation = Operation {
        expiry: set.ttl.unwrap_or_default(),
        ..Operation::set(set.key, value)
    };
    let operation = match set.if_absent {
        true => operation.if_absent(),
        false => operation,
    };
    write(context, operation, &set.write).await
}

pub(super) async fn delete(
    context: &CommandContext,
    delete: DeleteArgs,
) -> Result<(), CommandFailure> {
    if let Some(prefix) = delete.prefix {
        if prefix.is_empty() && !delete.all {
            let text = "an empty prefix means every key of the server: add --all to confirm";
            return Err(CommandFailure::Usage(text.to_owned()));
        }
        let deleted = context.client.store().delete_all(&prefix).await?;
        let object = json!({"prefix": prefix, "deleted": deleted});
        return Ok(context.output.one(&format!("{deleted} deleted"), &object)?);
    }
    for key in delete.keys {
        write(context, Operation::delete(key), &delete.write).await?;
    }
    Ok(())
}

pub(super) async fn add(context: &CommandContext, add: AddArgs) -> Result<(), CommandFailure> {
    let operation = Operation {
        expiry: add.ttl.unwrap_or_default(),
        ..Operation::add(add.key, add.by)
    };
    write(context, operation, &add.write).await
}

pub(super) async fn merge(
    context: &CommandContext,
    merge: MergeArgs,
) -> Result<(), CommandFailure> {
    let operation = Operation {
        expiry: merge.ttl.unwrap_or(Expiry::Keep),
        ..Operation::merge(merge.key, merge.patch.json()?)
    };
    write(context, operation, &merge.write).await
}

pub(super) async fn touch(
    context: &CommandContext,
    touch: TouchArgs,
) -> Result<(), CommandFailure> {
    let operation = Operation::touch(touch.key, touch.ttl);
    write(context, operation, &touch.write).await
}

/// Sends one operation and prints what it did.
async fn write(
    context: &CommandContext,
    operation: Operation,
    write: &WriteArgs,
) -> Result<(), CommandFailure> {
    let (key, name) = (operation.key.clone(), operation.action.name());
    let operation = match &write.if_match {
        Some(condition) => operation.under(condition.clone()),
        None => operation,
    };
    let submitted = context.submit(operation, &write.sending).await?;
    let mut object = Map::new();
    object.insert("key".to_owned(), key.as_str().into());
    describe(&mut object, name, &submitted, 0);
    object.insert("job_id".to_owned(), submitted.id.to_string().into());
    Ok(context
        .output
        .one(&sentence(name, &key, &submitted), &object)?)
}

/// Adds the members that report the effect of the write with number `index`.
pub(super) fn describe(
    object: &mut Map<String, Json>,
    name: &str,
    submitted: &Submitted,
    index: usize,
) {
    let mut member = |name: &str, value: Json| object.insert(name.to_owned(), value);
    if submitted.state == JobState::Queued {
        member("status", "queued".into());
        return;
    }
    let Some(applied) = submitted.applied().get(index) else {
        return;
    };
    if let Some(number) = applied.computed.number {
        member("value", number.into());
    }
    member("etag", etag(applied.version).into());
    match name {
        "delete" => member("deleted", applied.existed.into()),
        "touch" => {
            let moment = applied.computed.expires_at.map(|moment| moment.to_string());
            member("expires_at", moment.into())
        }
        _ => member("created", (!applied.existed).into()),
    };
}

/// Describes the effect of a write, for people.
fn sentence(name: &str, key: &Key, submitted: &Submitted) -> String {
    if submitted.state == JobState::Queued {
        return format!("{key} queued as job {}", submitted.id);
    }
    let Some(applied) = submitted.applied().first() else {
        return format!("{key} applied");
    };
    let version = applied.version;
    match (name, applied.existed) {
        ("add", _) => applied.computed.number.unwrap_or_default().to_string(),
        ("delete", true) => format!("{key} deleted"),
        ("delete", false) => format!("{key} was absent"),
        ("touch", _) => format!("{key} expires {}", deadline(applied.computed.expires_at)),
        (_, true) => format!("{key} replaced, etag {version}"),
        (_, false) => format!("{key} created, etag {version}"),
    }
}
