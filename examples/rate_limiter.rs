//! A counter and a rate limiter: `add` counts every call exactly once, and the first one starts the
//! window.

use std::time::Duration;

use kvstore_core::{Embedded, Result, Service};

/// The calls allowed in a window.
const LIMIT: i64 = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// Counts a call of `client` and returns true if it is within the limit.
async fn allow(service: &Service, client: &str) -> Result<bool> {
    // The time to live counts from the call that creates the counter: later calls do not extend the
    // window.
    let calls = service
        .add(&format!("calls:{client}"), 1)
        .expires_after(WINDOW)
        .await?;
    Ok(calls.number().is_some_and(|calls| calls <= LIMIT))
}

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::open("memory:").await?;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let service = embedded.service().clone();
        tasks.push(tokio::spawn(async move { allow(&service, "ada").await }));
    }
    let mut allowed = 0;
    for task in tasks {
        allowed += usize::from(task.await.expect("it does not panic")?);
    }
    println!("{allowed} of 8 concurrent calls were allowed");
    assert_eq!(allowed, 5);
    embedded.close().await
}
