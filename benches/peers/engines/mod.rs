//! Each database, used as its own documentation advises for speed.

pub(crate) mod fjall;
pub(crate) mod heed;
pub(crate) mod kvstore;
pub(crate) mod map;
pub(crate) mod pickledb;
pub(crate) mod redb;
pub(crate) mod rusqlite;
pub(crate) mod sled;
