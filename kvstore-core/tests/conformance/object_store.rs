//! Does a store pass the tests that `object_store` has for stores of objects, including five
//! writers that count by compare-and-swap?
//!
//! The test's own adapter stores objects as entries: the bytes as base64 text, with the time of the
//! write. The tests for multipart uploads, attributes, tags and old versions are left out, since
//! entries have no counterpart. The tests are not a stable interface of that crate, so its version
//! is pinned.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use kvstore_core::clock::{Clock, SystemClock};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::write::{Change, Condition, Write};
use kvstore_core::store::ListRequest;
use kvstore_core::{Entry, Error as StoreError, Key, Store, Value, Version, open};
use kvstore_testing::redis::RedisServer;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, integration,
};

/// Objects in a store.
#[derive(Clone, Debug)]
struct Objects(Arc<dyn Store>);

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Objects")
    }
}

fn key(path: &Path) -> Result<Key> {
    Key::new(path.as_ref()).map_err(failed)
}

fn failed(error: StoreError) -> Error {
    Error::Generic {
        store: "kvstore",
        source: Box::new(error),
    }
}

fn tag(version: Version) -> String {
    format!("\"{version}\"")
}

fn version_of(tag: &str) -> Option<Version> {
    tag.trim_matches('"').parse().ok().map(Version)
}

/// Decodes an entry into its object and the object's metadata.
fn object(path: Path, version: Version, value: &Value) -> (ObjectMeta, Bytes) {
    let (millis, text): (i64, String) =
        serde_json::from_slice(value.as_bytes()).expect("what was put");
    let bytes = Bytes::from(STANDARD.decode(text).expect("what was put"));
    let meta = ObjectMeta {
        location: path,
        last_modified: DateTime::<Utc>::from_timestamp_millis(millis).expect("a time"),
        size: bytes.len() as u64,
        e_tag: Some(tag(version)),
        version: None,
    };
    (meta, bytes)
}

impl Objects {
    async fn find(&self, path: &Path) -> Result<Entry> {
        let missing = || Error::NotFound {
            path: path.to_string(),
            source: "there is no such key".into(),
        };
        // What is not a key, such as the root, is not an object.
        let Ok(key) = key(path) else {
            return Err(missing());
        };
        let found = self.0.get(&key).await.map_err(failed)?;
        found.ok_or_else(missing)
    }

    /// Lists everything under `prefix`, page by page.
    async fn pages(&self, prefix: Option<&Path>, delimiter: Option<&str>) -> Result<ListResult> {
        let prefix = match prefix.map(Path::as_ref) {
            None | Some("") => String::new(),
            Some(prefix) => format!("{prefix}/"),
        };
        let mut request = ListRequest {
            prefix,
            delimiter: delimiter.map(str::to_owned),
            include_values: true,
            // Few, so that there are several pages.
            limit: 3,
            ..ListRequest::default()
        };
        let mut all = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
            extensions: Default::default(),
        };
        loop {
            let page = self.0.list(&request).await.map_err(failed)?;
            for listed in page.entries {
                let path = Path::parse(listed.key.as_str())?;
                let value = listed.value.expect("values were asked for");
                all.objects.push(object(path, listed.version, &value).0);
            }
            for prefix in page.prefixes {
                all.common_prefixes.push(Path::parse(prefix)?);
            }
            match page.next {
                Some(next) => request.after = Some(next),
                None => return Ok(all),
            }
        }
    }
}

#[async_trait]
impl ObjectStore for Objects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let condition = match &options.mode {
            PutMode::Overwrite => Condition::Any,
            PutMode::Create => Condition::Absent,
            PutMode::Update(version) => {
                let known = version.e_tag.as_deref().and_then(version_of);
                Condition::Version(known.expect("a tag of ours"))
            }
        };
        let key = key(location)?;
        let millis = SystemClock.now().0;
        let text = STANDARD.encode(Bytes::from(payload));
        let value = Value::parse(format!("[{millis},\"{text}\"]")).expect("JSON");
        let commit = Commit {
            checks: vec![(key.clone(), condition)],
            writes: vec![Write {
                key,
                change: Change::Set {
                    value,
                    expires_at: None,
                },
            }],
            advance: None,
        };
        let path = location.to_string();
        match self.0.commit(commit).await {
            Ok(committed) => Ok(PutResult {
                e_tag: Some(tag(committed.first_version)),
                version: None,
                extensions: Default::default(),
            }),
            Err(error @ StoreError::Conflict { .. }) => Err(match options.mode {
                PutMode::Create => Error::AlreadyExists {
                    path,
                    source: Box::new(error),
                },
                _ => Error::Precondition {
                    path,
                    source: Box::new(error),
                },
            }),
            Err(error) => Err(failed(error)),
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented {
            operation: "uploads in parts".to_owned(),
            implementer: self.to_string(),
        })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let entry = self.find(location).await?;
        let (meta, bytes) = object(location.clone(), entry.version, &entry.value);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            None => 0..meta.size,
            Some(wanted) => range(&wanted, meta.size)?,
        };
        let part = bytes.slice(range.start as usize..range.end as usize);
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter([Ok(part)]).boxed()),
            meta,
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let objects = self.clone();
        let delete = move |path: Path| {
            let objects = objects.clone();
            async move {
                let write = Write {
                    key: key(&path)?,
                    change: Change::Delete,
                };
                let commit = Commit {
                    writes: vec![write],
                    ..Commit::default()
                };
                objects.0.commit(commit).await.map_err(failed)?;
                Ok(path)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (objects, prefix) = (self.clone(), prefix.cloned());
        let all = async move {
            let all = objects.pages(prefix.as_ref(), None).await?;
            Ok::<_, Error>(stream::iter(all.objects.into_iter().map(Ok)))
        };
        stream::once(all).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pages(prefix, Some("/")).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let entry = self.find(from).await?;
        let (_, bytes) = object(from.clone(), entry.version, &entry.value);
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.put_opts(to, bytes.into(), mode.into()).await?;
        Ok(())
    }
}

fn range(wanted: &GetRange, size: u64) -> Result<Range<u64>> {
    wanted.as_range(size).map_err(|error| Error::Generic {
        store: "kvstore",
        source: Box::new(error),
    })
}

async fn passes(store: Arc<dyn Store>) {
    let objects = Objects(store);
    integration::put_get_delete_list(&objects).await;
    integration::list_uses_directories_correctly(&objects).await;
    integration::list_with_delimiter(&objects).await;
    integration::list_with_offset_exclusivity(&objects).await;
    integration::rename_and_copy(&objects).await;
    integration::copy_if_not_exists(&objects).await;
    integration::copy_rename_nonexistent_object(&objects).await;
    integration::get_opts(&objects).await;
    integration::put_opts(&objects, true).await;
    let missing = integration::get_nonexistent_object(&objects, None).await;
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
}

#[tokio::test]
async fn memory_passes_the_tests_of_object_stores() {
    passes(open(&"memory:".parse().unwrap(), None).await.unwrap().store).await;
}

#[tokio::test]
async fn json_file_passes_the_tests_of_object_stores() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().display());
    let opened = open(&url.parse().unwrap(), None).await.unwrap();
    passes(Arc::clone(&opened.store)).await;
    opened.close().await.unwrap();
}

#[tokio::test]
async fn redis_passes_the_tests_of_object_stores() {
    let server = RedisServer::start();
    passes(
        open(&server.url().parse().unwrap(), None)
            .await
            .unwrap()
            .store,
    )
    .await;
}
