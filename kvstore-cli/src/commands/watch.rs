//! `watch`

use std::io::{self, Write as _};

use futures_util::TryStreamExt as _;
use kvstore_client::Event;
use kvstore_core::store::{ChangeKind, ListRequest};
use kvstore_core::{Key, Value, Version};
use serde_json::json;

use super::CommandContext;
use crate::args::WatchArgs;
use crate::failure::CommandFailure;
use crate::output::{etag, printable, raw, shortened};

pub(super) async fn watch(
    context: &CommandContext,
    watch: WatchArgs,
) -> Result<(), CommandFailure> {
    // A watch waits for an unreachable server indefinitely; if it was never reached, the URL is
    // more likely wrong.
    let first = ListRequest {
        prefix: watch.prefix.clone(),
        limit: 1,
        ..ListRequest::default()
    };
    context.client.store().list(&first).await?;
    let mut watching = context.client.watch(&watch.prefix);
    if watch.snapshot {
        watching = watching.snapshot();
    }
    if watch.values {
        watching = watching.values();
    }
    if !watch.events.is_empty() {
        watching = watching.kinds(&watch.events);
    }
    if let Some(since) = watch.since {
        watching = watching.since(since);
    }
    let mut events = watching.stream();
    while let Some(event) = events.try_next().await? {
        print(context, event)?;
        // Flushes each line, so that a pipe receives it at once as well.
        io::stdout().flush()?;
    }
    Ok(())
}

fn print(context: &CommandContext, event: Event) -> io::Result<()> {
    match event {
        Event::Present {
            key,
            version,
            value,
        } => entry(context, "present", None, &key, version, value.as_ref()),
        Event::Changed(change) => {
            let name = match change.kind {
                ChangeKind::Set => "set",
                ChangeKind::Delete => "delete",
                ChangeKind::Expire => "expire",
            };
            let id = Some(change.id.as_str());
            entry(
                context,
                name,
                id,
                &change.key,
                change.version,
                change.value.as_ref(),
            )
        }
        Event::Synced => context
            .output
            .one("-- changes from here on", &json!({"event": "synced"})),
        Event::Reset => context.output.one(
            "-- some history is lost: all current entries follow",
            &json!({"event": "reset"}),
        ),
    }
}

/// A change as one line of JSON.
#[derive(Debug, serde::Serialize)]
struct ChangeLine<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    key: &'a Key,
    etag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a serde_json::value::RawValue>,
}

fn entry(
    context: &CommandContext,
    event: &'static str,
    id: Option<&str>,
    key: &Key,
    version: Version,
    value: Option<&Value>,
) -> io::Result<()> {
    let object = ChangeLine {
        event,
        id,
        key,
        etag: etag(version),
        value: value.map(raw),
    };
    let text = format!(
        "{event:7}  {}  {}",
        printable(key.as_str()),
        shortened(value)
    );
    context.output.one(text.trim_end(), &object)
}
