//! A store of your own: it rejects an `age:…` that is not a small number, and leaves the rest to
//! the inner store. The suite that every backend must pass runs when this runs, and case by case
//! under `cargo test --example custom_backend`.

use std::sync::Arc;

use kvstore_core::clock::{Clock, ManualClock};
use kvstore_core::conformance::StoreHarness;
use kvstore_core::memory::MemoryStore;
use kvstore_core::model::commit::{Commit, Committed};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::write::{Change, Write};
use kvstore_core::{Result, Store, StoreExt};

#[derive(Debug)]
struct Checked<S>(S);

#[async_trait::async_trait]
impl<S: Store> Store for Checked<S> {
    async fn commit(&self, commit: Commit) -> Result<Committed> {
        for Write { key, change } in &commit.writes {
            if let (true, Change::Set { value, .. }) = (key.as_str().starts_with("age:"), change) {
                value.to::<u8>()?; // before anything has happened: a commit is whole or absent
            }
        }
        self.0.commit(commit).await
    }

    kvstore_core::forward_store!(|self| &self.0; except commit);
}

/// How the suite reaches it: one value is one set of data, with a clock of its own.
struct Harness(Arc<dyn Store>, ManualClock);

fn harness() -> Harness {
    let clock = ManualClock::new(Timestamp(1_763_000_000_000));
    let inner = MemoryStore::new(Arc::new(clock.clone()));
    Harness(Arc::new(Checked(inner)), clock)
}

#[async_trait::async_trait]
impl StoreHarness for Harness {
    async fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }
    async fn restart(&self) {} // it keeps its data for as long as its handles live, and promises no more
    async fn now(&self) -> Timestamp {
        self.1.now()
    }
    async fn set_clock(&self, to: Timestamp) {
        self.1.set(to);
    }
}

kvstore_core::store_conformance!(harness());

fn main() {
    kvstore_core::conformance::run(async {
        let store = harness().0;
        store.set("age:ada", &36).await.unwrap();
        println!("{}", store.set("age:ada", "old").await.unwrap_err());
        assert_eq!(store.get_as("age:ada").await.unwrap(), Some(36));
    });
    store::run_all();
}
