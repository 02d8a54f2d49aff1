//! Where entries come from and go to: a store by its URL, a file in a portable form, or standard input or output.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::{self, LocalBoxStream, StreamExt, TryStreamExt};
use kvstore_core::json_file::Inspection;
use kvstore_core::open::StoreUrl;
use kvstore_core::portable::{Form, PortableEntry};
use kvstore_core::process::{Failure, Fallback, Setting, Settings};
use kvstore_core::{Store, StoreExt};

/// Entries, one after the other.
pub(super) type Entries<'a> = LocalBoxStream<'a, Result<PortableEntry, Failure>>;

/// Which form, where the name of a file does not say it.
pub(super) const FORMAT: Setting = Setting {
    flag: "format",
    value: "FORMAT",
    default: Fallback::Absent("ndjson for a file *.ndjson or *.jsonl, json otherwise"),
    allowed: "json or ndjson",
    help: "One JSON object as in data.json, or an object a line with key, value, version and deadline",
};

/// The form in which entries stand in `path`, or in standard input or output where there is none.
pub(super) fn read_form(settings: &mut Settings, path: Option<&Path>) -> Option<Form> {
    let given = settings.get_optional(&FORMAT, str::parse)?;
    let extension = path.and_then(Path::extension);
    let is_lines = extension.is_some_and(|it| it == "ndjson" || it == "jsonl");
    Some(given.unwrap_or(if is_lines { Form::Lines } else { Form::Object }))
}

/// Where entries are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard input or output, written `-`.
    Standard,
    /// A file.
    File(PathBuf),
    /// A store, by its URL.
    Store(Box<StoreUrl>),
}

impl Place {
    /// `-`, a URL, or else a path: a path never looks like a URL once it begins with `./`.
    pub(super) fn parse(text: &str) -> kvstore_core::Result<Self> {
        if text == "-" {
            Ok(Self::Standard)
        } else if StoreUrl::is_url(text) {
            text.parse().map(Box::new).map(Self::Store)
        } else {
            Ok(Self::File(text.into()))
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
            Self::Store(url) => url.fmt(f),
        }
    }
}

/// A store to read all of.
#[derive(Debug)]
pub(super) enum Source {
    /// One in files, as it was at one moment; a server may have it open.
    Folder(Box<Inspection>),
    /// Any other one, read by pages.
    Opened(Arc<dyn Store>),
}

impl Source {
    pub(super) async fn open(url: &StoreUrl) -> Result<Self, Failure> {
        let Some(folder) = url.folder() else {
            return Ok(Self::Opened(kvstore_core::open(url, None).await?.store));
        };
        let found = Inspection::of(folder)?;
        match found.problems().first() {
            None => Ok(Self::Folder(Box::new(found))),
            Some(problem) => Err(format!("it is damaged, and verify says how: {problem}").into()),
        }
    }

    /// How many entries there are, where that is known beforehand.
    pub(super) fn total(&self) -> Option<u64> {
        match self {
            Self::Folder(found) => Some(found.summary().entries),
            Self::Opened(_) => None,
        }
    }

    /// In byte order of their keys.
    pub(super) fn entries(&self) -> Entries<'_> {
        match self {
            Self::Folder(found) => {
                stream::iter(found.entries().map(|entry| Ok(entry.into()))).boxed_local()
            }
            Self::Opened(store) => store
                .entries("")
                .map_ok(Into::into)
                .err_into()
                .boxed_local(),
        }
    }
}

#[cfg(test)]
mod tests {
    use kvstore_core::memory::MemoryStore;

    use super::*;

    #[test]
    fn path_is_told_from_url() {
        let store = |url: &str| Place::Store(Box::new(url.parse().unwrap()));
        for (text, place) in [
            ("-", Place::Standard),
            ("file:database", store("file:database")),
            ("memory:", store("memory:")),
            ("data.json", Place::File("data.json".into())),
            ("./a:b", Place::File("./a:b".into())),
            ("/x/a:b", Place::File("/x/a:b".into())),
            ("data.2:json", Place::File("data.2:json".into())),
        ] {
            assert_eq!(Place::parse(text).unwrap(), place);
        }
        for text in ["redish://localhost", "file:", "a:b.json"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn pages_hold_every_entry_once() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let keys: Vec<String> = (1000..3500).map(|number| number.to_string()).collect();
        for key in &keys {
            store.set(key, &1).await.unwrap();
        }
        let found: Vec<_> = Source::Opened(store).entries().try_collect().await.unwrap();
        let found: Vec<&str> = found.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(found, keys);
    }
}
