//! `list`

use std::io;

use futures_util::TryStreamExt as _;
use kvstore_core::limits::PAGE_ENTRIES_MAX;
use kvstore_core::store::{ListRequest, Listed};
use serde_json::json;

use super::CommandContext;
use super::entries::EntryObject;
use crate::args::ListArgs;
use crate::failure::CommandFailure;
use crate::output::{deadline, etag, line, printable, raw, shortened};

pub(super) async fn list(context: &CommandContext, list: ListArgs) -> Result<(), CommandFailure> {
    if list.tree && context.output.is_json_asked_for() {
        let text = "a tree is for people: leave out either --tree or --output json";
        return Err(CommandFailure::Usage(text.to_owned()));
    }
    if list.count {
        return count(context, &list.prefix).await;
    }
    if let Some(delimiter) = list.fold {
        return fold(context, list.prefix, delimiter, list.limit).await;
    }
    let mut listed = context.client.store().listed(&list.prefix, list.values);
    let mut left = list.limit.unwrap_or(usize::MAX);
    let names: &[&str] = match list.values {
        true => &["KEY", "ETAG", "SIZE", "EXPIRES", "VALUE"],
        false => &["KEY", "ETAG", "SIZE", "EXPIRES"],
    };
    let mut rows = context.output.rows(names);
    let mut tree = Tree::default();
    while left > 0
        && let Some(entry) = listed.try_next().await?
    {
        left -= 1;
        if list.tree {
            tree.print(&entry)?;
            continue;
        }
        let object = EntryObject {
            key: &entry.key,
            etag: etag(entry.version),
            size: Some(entry.size),
            expires_at: entry.expires_at.map(|moment| moment.to_string()),
            value: entry.value.as_ref().map(raw),
        };
        let mut cells = vec![
            entry.key.to_string(),
            entry.version.to_string(),
            entry.size.to_string(),
            deadline(entry.expires_at),
        ];
        if list.values {
            cells.push(shortened(entry.value.as_ref()));
        }
        rows.row(cells, &object)?;
    }
    Ok(rows.flush()?)
}

async fn count(context: &CommandContext, prefix: &str) -> Result<(), CommandFailure> {
    let request = ListRequest {
        prefix: prefix.to_owned(),
        limit: 1,
        count: true,
        ..ListRequest::default()
    };
    let page = context.client.store().list(&request).await?;
    let count = page.count.unwrap_or_default();
    let object = json!({"prefix": prefix, "count": count});
    Ok(context.output.one(&count.to_string(), &object)?)
}

/// Prints keys and common prefixes together, in byte order.
async fn fold(
    context: &CommandContext,
    prefix: String,
    delimiter: String,
    limit: Option<usize>,
) -> Result<(), CommandFailure> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut request = ListRequest {
        prefix,
        delimiter: Some(delimiter),
        ..ListRequest::default()
    };
    while left > 0 {
        request.limit = left.min(PAGE_ENTRIES_MAX);
        let page = context.client.store().list(&request).await?;
        let keys = page.entries.iter().map(|entry| (entry.key.as_str(), "key"));
        let prefixes = page
            .prefixes
            .iter()
            .map(|prefix| (prefix.as_str(), "prefix"));
        let mut both: Vec<_> = keys.chain(prefixes).collect();
        both.sort_unstable();
        left -= both.len().min(left);
        for (text, kind) in both {
            let object = json!({ kind: text });
            context.output.one(&printable(text), &object)?;
        }
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    Ok(())
}

/// The parts of keys between slashes, printed as they come: keys are in byte order, so parts that
/// keys share are adjacent.
#[derive(Debug, Default)]
struct Tree {
    /// The folders of the previous key.
    folders: Vec<String>,
}

impl Tree {
    fn print(&mut self, entry: &Listed) -> io::Result<()> {
        let mut parts: Vec<&str> = entry.key.as_str().split('/').collect();
        let name = parts.pop().unwrap_or_default();
        let shared = parts
            .iter()
            .zip(&self.folders)
            .take_while(|(new, old)| *new == old);
        let shared = shared.count();
        self.folders.truncate(shared);
        for part in &parts[shared..] {
            let depth = self.folders.len();
            line(format!("{}{}/", "  ".repeat(depth), printable(part)).as_bytes())?;
            self.folders.push((*part).to_owned());
        }
        let depth = self.folders.len();
        let value = match &entry.value {
            Some(value) => format!("  {}", shortened(Some(value))),
            None => format!("  {} B", entry.size),
        };
        line(format!("{}{}{value}", "  ".repeat(depth), printable(name)).as_bytes())
    }
}
