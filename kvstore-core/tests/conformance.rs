//! Does each backend keep the contracts? One line a backend; the cases are in `src/conformance`.

#[path = "support/behind.rs"]
mod behind;
#[path = "support/followed.rs"]
mod followed;
#[path = "support/redis.rs"]
mod redis_server;
mod support;

use behind::Behind;
use followed::Followed;
use redis_server::OnRedis;
use support::{Folder, Memory};

mod memory {
    use super::*;
    kvstore_core::store_conformance!(Memory::new(1));
    kvstore_core::queue_conformance!(Memory::new(1));
}

mod memory_partitioned {
    use super::*;
    kvstore_core::queue_conformance!(Memory::new(5));
}

mod json_file {
    use super::*;
    kvstore_core::store_conformance!(Folder::new());
    kvstore_core::queue_conformance!(Folder::new());
}

/// Written by one handle, read by another that only follows the files.
mod json_file_reader {
    use super::*;
    kvstore_core::store_conformance!(Followed::new());
}

/// The store of a folder, applied from a queue with partitions that stands elsewhere.
mod json_file_behind_redis {
    use super::*;
    kvstore_core::queue_conformance!(Behind::new());
}

mod redis {
    use super::*;
    kvstore_core::store_conformance!(OnRedis::new(4));
    kvstore_core::queue_conformance!(OnRedis::new(4));
}
