//! Does each backend keep the contracts? One line a backend; the cases are in `src/conformance`.

mod support;

use support::Memory;

mod memory {
    use super::*;
    kvstore_core::store_conformance!(Memory::new(1));
    kvstore_core::queue_conformance!(Memory::new(1));
}

mod memory_partitioned {
    use super::*;
    kvstore_core::queue_conformance!(Memory::new(5));
}
