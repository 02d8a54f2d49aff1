//! Queued writes in your own program: accepted durably, applied in order, exactly once in effect.

use std::time::Duration;

use kvstore_core::{Embedded, Error, Result, StoreExt};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let embedded = Embedded::open(&format!("file:{}", folder.path().display())).await?;
    let service = embedded.service();

    // Waits until the write is applied and durable.
    let first = service.set("user:1", "Ada").await?;
    println!("user:1 has version {:?}", first.version());

    // Returns as soon as the write is durable in the queue; the job id is also the token for
    // waiting until it is visible.
    let later = service.set("user:2", "Grace").wait(Duration::ZERO).await?;
    service.wait_visible(&later.id).await?;
    assert_eq!(
        embedded.store().get_as("user:2").await?,
        Some("Grace".to_owned())
    );

    // A retry under the same idempotency key is the same job.
    let pay = || service.add("balance:1", -30).idempotency_key("payment-17");
    let (once, again) = (pay().await?, pay().await?);
    println!("the balance is {:?}, also after a retry", again.number());
    assert_eq!((once.id, again.number()), (again.id, Some(-30)));

    // A condition that does not hold is an error, and nothing happens.
    match service.set("user:1", "Eve").if_absent().await {
        Err(Error::Conflict { key, current, .. }) => {
            println!("{key} is there already: {current:?}")
        }
        other => panic!("it should have failed, and was {other:?}"),
    }
    embedded.close().await
}
