//! The shortest program: open a folder, set, get, and find the entry again as JSON.

use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::{Result, StoreExt};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct User {
    name: String,
    born: u16,
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = JsonFile::open(folder.path(), Options::default()).await?;
    let store = file.store();

    // Atomic, and durable when it returns.
    let ada = User {
        name: "Ada".into(),
        born: 1815,
    };
    store.set("user:1", &ada).await?;
    store.set("visits", &1).await?;

    let user: Option<User> = store.get_as("user:1").await?;
    println!("user:1 is {user:?}");
    assert_eq!(user, Some(ada));
    assert_eq!(store.get_as::<User>("user:2").await?, None);

    // Closing brings data.json up to date: a plain JSON object, one entry per line.
    file.close().await?;
    let text = std::fs::read_to_string(folder.path().join("data.json")).expect("it is written");
    print!("data.json holds\n{text}");
    assert_eq!(
        text,
        "{\n\"user:1\":{\"name\":\"Ada\",\"born\":1815},\n\"visits\":1\n}\n"
    );
    Ok(())
}
