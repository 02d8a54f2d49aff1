//! A page of a listing, merged from the parts of all partitions.

use std::collections::BTreeMap;

use crate::error::{Error, Result, Subject};
use crate::limits::PAGE_ENTRIES_MAX;
use crate::model::entry::{Timestamp, Version};
use crate::model::id::Partition;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::redis::scripts::Script;
use crate::redis::session::Session;
use crate::redis::store::watch;
use crate::redis::text::{number, unexpected};
use crate::store::{ListRequest, Listed, Page};

/// An item of a page: an entry, or a common prefix, which several partitions may have.
enum Item {
    Entry(Listed),
    Prefix,
}

pub(crate) async fn page(session: &Session, request: &ListRequest) -> Result<Page> {
    if request.limit == 0 || request.limit > PAGE_ENTRIES_MAX {
        return Err(Error::invalid(
            Subject::Limit,
            format!("it must be from 1 to {PAGE_ENTRIES_MAX}"),
        ));
    }
    if request.delimiter.as_deref() == Some("") {
        return Err(Error::invalid(Subject::Delimiter, "it must not be empty"));
    }
    let range = Range::new(request);
    // Each partition returns one more item than the page holds, so whatever a limit cuts off lies
    // behind the page.
    let parts = session
        .partitions
        .iter()
        .map(|partition| part(session, request, &range, partition));
    let mut items = BTreeMap::new();
    let mut count = request.count.then_some(0);
    let mut shown = Vec::with_capacity(usize::from(session.partitions.get()));
    for (latest, counted, part) in futures_util::future::try_join_all(parts).await? {
        shown.push(latest);
        count = count.map(|count| count + counted);
        items.extend(part);
    }
    let mut page = Page {
        count,
        ..Page::empty(watch::id(&shown))
    };
    let mut last = None;
    for (name, item) in items {
        if page.entries.len() + page.prefixes.len() == request.limit {
            page.next = last;
            break;
        }
        last = Some(name.clone());
        match item {
            Item::Entry(listed) => page.entries.push(listed),
            Item::Prefix => page.prefixes.push(name),
        }
    }
    Ok(page)
}

/// The bounds of the request, as `ZRANGEBYLEX` takes them.
struct Range {
    /// The start of the page.
    first: Vec<u8>,
    /// The start of the prefix.
    start: Vec<u8>,
    end: Vec<u8>,
}

impl Range {
    fn new(request: &ListRequest) -> Self {
        let start = match request.prefix.as_bytes() {
            [] => b"-".to_vec(),
            prefix => [b"[", prefix].concat(),
        };
        let end = match request.prefix.as_bytes() {
            [] => b"+".to_vec(),
            prefix => [b"(", &*behind(prefix)].concat(),
        };
        let first = match &request.after {
            Some(after) if after.as_str() >= request.prefix.as_str() => {
                let folded = request.delimiter.as_ref().is_some_and(|delimiter| {
                    after
                        .strip_prefix(request.prefix.as_str())
                        .is_some_and(|rest| {
                            rest.ends_with(delimiter.as_str())
                                && rest.find(delimiter.as_str())
                                    == Some(rest.len() - delimiter.len())
                        })
                });
                if folded {
                    // It was a common prefix, and every key under it lies before this page.
                    [b"[", &*behind(after.as_bytes())].concat()
                } else {
                    [b"(", after.as_bytes()].concat()
                }
            }
            _ => start.clone(),
        };
        Self { first, start, end }
    }
}

/// Returns the first text that sorts after everything that starts with `text`, which is not empty.
/// UTF-8 has no byte 255.
fn behind(text: &[u8]) -> Vec<u8> {
    let mut behind = text.to_vec();
    if let Some(last) = behind.last_mut() {
        *last += 1;
    }
    behind
}

/// Asks one partition for its latest version, the number of keys with the prefix, and its first
/// items.
async fn part(
    session: &Session,
    request: &ListRequest,
    range: &Range,
    partition: Partition,
) -> Result<(u64, u64, Vec<(String, Item)>)> {
    let call = session.call(Script::List, partition).arg((
        session.skew(),
        session.keys.entries(partition),
        &request.prefix,
        &range.first,
        &range.end,
        request.limit + 1,
        request.delimiter.as_deref().unwrap_or_default(),
        u8::from(request.include_values),
        u8::from(request.count),
        &range.start,
    ));
    let (latest, count, rows): (String, i64, Vec<Vec<Vec<u8>>>) = session.read(&call).await?;
    let items = rows.into_iter().map(|row| item(row, request));
    let items = items.collect::<Result<_>>()?;
    Ok((number(&latest)?, u64::try_from(count).unwrap_or(0), items))
}

fn item(row: Vec<Vec<u8>>, request: &ListRequest) -> Result<(String, Item)> {
    let mut row = row.into_iter();
    let mut text =
        || String::from_utf8(row.next().ok_or_else(unexpected)?).map_err(|_| unexpected());
    let name = text()?;
    let Ok(version) = text() else {
        return Ok((name, Item::Prefix));
    };
    let deadline = number(&text()?)?;
    let size = number(&text()?)? as usize;
    let value = text()?;
    let listed = Listed {
        key: Key::new(&name)?,
        version: Version(number(&version)?),
        size,
        expires_at: (deadline != 0).then_some(Timestamp(deadline)),
        value: match request.include_values {
            true => Some(Value::parse(value).map_err(|_| unexpected())?),
            false => None,
        },
    };
    Ok((name, Item::Entry(listed)))
}
