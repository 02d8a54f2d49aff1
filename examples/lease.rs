//! A lease: a lock that ends by itself if its holder dies. It relies on two promises of the store:
//! a condition is evaluated at the moment of the write, and past its deadline an entry is absent.

use std::sync::Arc;
use std::time::Duration;

use kvstore_core::model::entry::Version;
use kvstore_core::model::write::Condition;
use kvstore_core::{Embedded, Error, Result, Store, StoreExt};

const TTL: Duration = Duration::from_secs(10);

/// A lease that is held. Its version is a fencing token: pass it along with each effect on other
/// systems, and let them reject a smaller one, since a holder that was paused cannot know that its
/// lease has ended.
#[derive(Debug)]
struct Lease {
    store: Arc<dyn Store>,
    key: String,
    version: Version,
}

impl Lease {
    /// Takes the lease if it is free, and returns `None` if another holder has it.
    async fn take(store: &Arc<dyn Store>, key: &str, holder: &str) -> Result<Option<Self>> {
        let taken = store
            .batch()
            .check(key, Condition::Absent)
            .set_for(key, holder, TTL);
        match taken.commit().await {
            Ok(committed) => Ok(Some(Self {
                store: store.clone(),
                key: key.to_owned(),
                version: committed.first_version,
            })),
            Err(Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Releases the lease, unless it has ended and another holder has it.
    async fn release(self) -> Result<bool> {
        let release = self
            .store
            .batch()
            .check(&self.key, Condition::Version(self.version))
            .delete(&self.key);
        match release.commit().await {
            Ok(_) => Ok(true),
            Err(Error::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::open("memory:").await?;
    let store = embedded.store();
    let ada = Lease::take(store, "lock:report", "ada")
        .await?
        .expect("it is free");
    assert!(Lease::take(store, "lock:report", "grace").await?.is_none());
    println!("ada has the lease, and grace has to wait");
    assert!(ada.release().await?);
    let grace = Lease::take(store, "lock:report", "grace")
        .await?
        .expect("it is free again");
    println!("grace has it now, with fencing token {}", grace.version);
    embedded.close().await
}
