//! One function, any backend: the URL selects it when the program starts, not when it is written.

use std::sync::Arc;

use kvstore_core::{Result, Store, StoreExt, open};

/// Counts its own runs in any store that it is given; it knows no backend.
async fn count_run(store: &Arc<dyn Store>) -> Result<u32> {
    store
        .update("runs", |runs: Option<u32>| runs.unwrap_or(0) + 1)
        .await
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = format!("file:{}", folder.path().display());

    // Memory forgets when it is closed, files do not.
    for (url, expected) in [("memory:", [1, 1]), (&file, [1, 2])] {
        for expected in expected {
            let opened = open(&url.parse()?, None).await?;
            let runs = count_run(&opened.store).await?;
            println!("{url} has seen {runs}");
            assert_eq!(runs, expected);
            opened.close().await?;
        }
    }
    Ok(())
}
