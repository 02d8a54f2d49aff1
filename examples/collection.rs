//! A typed collection: structs under a common prefix, found, changed and listed by id.

use futures_util::TryStreamExt;
use kvstore_core::{Embedded, Result, StoreExt};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct User {
    name: String,
    logins: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::open("memory:").await?;
    let users = embedded.store().collection::<User>("users/");

    for name in ["ada", "grace"] {
        let user = User {
            name: name.to_owned(),
            logins: 0,
        };
        users.create(name, &user).await?;
    }
    let ada = users
        .update("ada", |user| User {
            name: "ada".to_owned(),
            logins: user.map_or(0, |user| user.logins) + 1,
        })
        .await?;
    assert_eq!(ada.logins, 1);

    // In byte order of their ids, page by page.
    let all: Vec<(String, User)> = users.entries().try_collect().await?;
    for (id, user) in &all {
        println!("{id}: {} logins", user.logins);
    }
    assert_eq!(all.len(), 2);
    assert!(users.delete("grace").await?);
    assert_eq!(users.count().await?, 1);
    embedded.close().await
}
