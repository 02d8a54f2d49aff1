//! A page of a listing, merged from the parts of all partitions.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::error::Result;
use crate::model::id::Partition;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::redis::scripts::Script;
use crate::redis::session::Session;
use crate::redis::store::watch;
use crate::redis::text::{entry_parts, number, unexpected};
use crate::store::{ListRequest, Listed, Page, behind_prefix};

pub(crate) async fn page(session: &Session, request: &ListRequest) -> Result<Page> {
    request.check()?;
    // Each partition returns one more item than the page holds, so whatever a limit cuts off lies
    // behind the page.
    let parts = session
        .partitions
        .iter()
        .map(|partition| part(session, request, partition));
    // Several partitions may have the same common prefix.
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
            Some(listed) => page.entries.push(listed),
            None => page.prefixes.push(name),
        }
    }
    Ok(page)
}

/// Asks one partition for its latest version, the number of keys with the prefix, and its first
/// items.
async fn part(
    session: &Session,
    request: &ListRequest,
    partition: Partition,
) -> Result<(u64, u64, Vec<(String, Option<Listed>)>)> {
    // The bounds of the page, as `ZRANGEBYLEX` takes them.
    let first = match request.start() {
        Some(Bound::Included(first)) => format!("[{first}"),
        Some(Bound::Excluded(before)) => format!("({before}"),
        Some(Bound::Unbounded) => "-".to_owned(),
        None => "+".to_owned(),
    };
    let end = behind_prefix(&request.prefix);
    let end = end.map_or_else(|| "+".to_owned(), |end| format!("({end}"));
    let call = session.call(Script::List, partition).arg((
        session.skew(),
        session.keys.of(partition, "v:"),
        &request.prefix,
        first,
        end,
        request.limit + 1,
        request.delimiter.as_deref().unwrap_or_default(),
        u8::from(request.include_values),
        u8::from(request.count),
    ));
    let (latest, count, rows): (String, i64, Vec<Row>) = session.read(&call).await?;
    let items = rows.into_iter().map(|row| item(row, request));
    let items = items.collect::<Result<_>>()?;
    Ok((number(&latest)?, u64::try_from(count).unwrap_or(0), items))
}

/// A key or common prefix; for a key its text, perhaps without the value, and the value's size.
type Row = (Vec<u8>, Option<Vec<u8>>, usize);

/// Decodes an item of a page: an entry by its key, or a common prefix.
fn item((name, text, size): Row, request: &ListRequest) -> Result<(String, Option<Listed>)> {
    let name = String::from_utf8(name).map_err(|_| unexpected())?;
    let Some(text) = text else {
        return Ok((name, None));
    };
    let (version, expires_at, value) = entry_parts(&text)?;
    let listed = Listed {
        key: Key::new(&name)?,
        version,
        size,
        expires_at,
        value: match request.include_values {
            true => Some(Value::parse(value).map_err(|_| unexpected())?),
            false => None,
        },
    };
    Ok((name, Some(listed)))
}
