//! Sources and destinations of entries: a file, a folder, a store on Redis, a server.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use futures_util::future;
use futures_util::stream::{self, LocalBoxStream, StreamExt as _, TryStreamExt as _};
use kvstore_client::{Client, ServerUrl};
use kvstore_core::json_file::Inspection;
use kvstore_core::open::{Opened, StoreUrl};
use kvstore_core::portable::PortableEntry;
use kvstore_core::store::ListRequest;
use kvstore_core::{Error, StoreExt as _};

use crate::failure::CommandFailure;

/// A stream of entries.
pub(super) type EntryStream<'a> = LocalBoxStream<'a, Result<PortableEntry, CommandFailure>>;

/// A source or destination of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// Standard input or output, written `-`.
    Standard,
    /// A file.
    File(PathBuf),
    /// A store: a folder, a Redis server, or memory.
    Store(Box<StoreUrl>),
    /// A server.
    Server(ServerUrl),
}

impl FromStr for Location {
    type Err = Error;

    /// Parses `-`, a URL, the path of a folder, or else the path of a file. A path that begins with
    /// `./` is never taken for a URL.
    fn from_str(text: &str) -> Result<Self, Error> {
        let path = Path::new(text);
        Ok(if text == "-" {
            Self::Standard
        } else if ServerUrl::is_url(text) {
            Self::Server(text.parse()?)
        } else if StoreUrl::is_url(text) {
            Self::Store(Box::new(text.parse()?))
        } else if path.is_dir() {
            let url: StoreUrl = format!("file:{text}").parse()?;
            match url.folder() == Some(path) {
                true => Self::Store(Box::new(url)),
                false => {
                    let text = format!("{text:?} has to be written as the URL of a folder, file:…");
                    return Err(Error::Config(text));
                }
            }
        } else {
            Self::File(path.to_owned())
        })
    }
}

/// An opened source of entries.
#[derive(Debug)]
pub(super) enum EntrySource {
    /// A store in files, as it was at one moment; a server may have it open.
    Folder(Box<Inspection>),
    /// Any other store, read page by page.
    Store(Opened),
    /// A server, read page by page.
    Server(Client),
}

impl EntrySource {
    pub(super) async fn open(url: &StoreUrl) -> Result<Self, CommandFailure> {
        let Some(folder) = url.folder() else {
            return Ok(Self::Store(kvstore_core::open(url, None).await?));
        };
        let found = Inspection::of(folder)?;
        match found.problems().first() {
            None => Ok(Self::Folder(Box::new(found))),
            Some(problem) => Err(CommandFailure::Failed(format!(
                "it is damaged, and `kvstore verify` says how: {problem}"
            ))),
        }
    }

    /// Returns the number of entries, if it is known beforehand.
    pub(super) async fn total(&self, prefix: &str) -> Result<Option<u64>, CommandFailure> {
        match self {
            Self::Folder(found) if prefix.is_empty() => Ok(Some(found.summary().entries)),
            Self::Folder(_) | Self::Store(_) => Ok(None),
            Self::Server(client) => {
                let request = ListRequest {
                    prefix: prefix.to_owned(),
                    limit: 1,
                    count: true,
                    ..ListRequest::default()
                };
                Ok(client.store().list(&request).await?.count)
            }
        }
    }

    /// Streams the entries whose keys start with `prefix`, in byte order.
    pub(super) fn entries<'a>(&'a self, prefix: &'a str) -> EntryStream<'a> {
        let entries = match self {
            Self::Folder(found) => {
                let entries = stream::iter(found.entries());
                return entries
                    .filter(move |(key, _)| future::ready(key.as_str().starts_with(prefix)))
                    .map(|entry| Ok(entry.into()))
                    .boxed_local();
            }
            Self::Store(opened) => opened.store.entries(prefix),
            Self::Server(client) => client.store().entries(prefix),
        };
        entries.map_ok(Into::into).err_into().boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_distinguished() {
        let store = |url: &str| Location::Store(Box::new(url.parse().unwrap()));
        for (text, place) in [
            ("-", Location::Standard),
            ("file:database", store("file:database")),
            ("memory:", store("memory:")),
            ("src", store("file:src")),
            ("data.json", Location::File("data.json".into())),
            ("./a:b", Location::File("./a:b".into())),
            ("/x/a:b", Location::File("/x/a:b".into())),
            ("data.2:json", Location::File("data.2:json".into())),
            (
                "http://[::1]:80",
                Location::Server("http://[::1]:80".parse().unwrap()),
            ),
            ("unix:/s", Location::Server("unix:/s".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<Location>().unwrap(), place);
        }
        for text in ["redish://localhost", "file:", "a:b.json", "http://"] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
    }
}
