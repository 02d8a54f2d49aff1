//! An entry as it is kept: key, value, version and deadline in one piece of memory, so that a look-up waits for one.

use std::str;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::KEY_CHARS_MAX;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::key::Key;
use crate::model::value::Value;

/// Version and deadline, 8 bytes each, the key's length in 2, the key, and the value up to the end. A clone is the same memory.
/// That there is a deadline is told by the uppermost bit of the length.
#[derive(Clone, Debug)]
pub(crate) struct Row(Arc<[u8]>);

/// Where the key starts.
const HEAD: usize = 18;

const HAS_DEADLINE: u16 = 1 << 15;
const _: () = assert!(4 * KEY_CHARS_MAX < HAS_DEADLINE as usize);

/// Values up to this many bytes are copied out on a read: a counter that all cores share costs more than a small copy.
const COPY_BYTES_MAX: usize = 4096;

impl Row {
    /// A row of these. `scratch` is memory to put it together in.
    pub(crate) fn new(
        scratch: &mut Vec<u8>,
        key: &str,
        value: &[u8],
        version: Version,
        expires_at: Option<Timestamp>,
    ) -> Self {
        let deadline = if expires_at.is_some() {
            HAS_DEADLINE
        } else {
            0
        };
        let length = key.len() as u16 | deadline;
        scratch.clear();
        scratch.extend_from_slice(&version.0.to_le_bytes());
        scratch.extend_from_slice(&expires_at.unwrap_or_default().0.to_le_bytes());
        scratch.extend_from_slice(&length.to_le_bytes());
        scratch.extend_from_slice(key.as_bytes());
        scratch.extend_from_slice(value);
        Self(scratch.as_slice().into())
    }

    fn number(&self, at: usize) -> u64 {
        let bytes = self.0[at..at + 8].try_into();
        u64::from_le_bytes(bytes.expect("eight bytes are eight bytes"))
    }

    fn length(&self) -> u16 {
        u16::from_le_bytes([self.0[HEAD - 2], self.0[HEAD - 1]])
    }

    fn value_start(&self) -> usize {
        HEAD + usize::from(self.length() & !HAS_DEADLINE)
    }

    pub(crate) fn version(&self) -> Version {
        Version(self.number(0))
    }

    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        (self.length() & HAS_DEADLINE != 0).then(|| Timestamp(self.number(8)))
    }

    /// Whether its deadline, if it has one, is still ahead.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at().is_none_or(|deadline| deadline > now)
    }

    /// The key's bytes: their order is that of keys.
    pub(crate) fn key_bytes(&self) -> &[u8] {
        &self.0[HEAD..self.value_start()]
    }

    pub(crate) fn key_str(&self) -> &str {
        str::from_utf8(self.key_bytes()).expect("it was text when it came")
    }

    pub(crate) fn starts_with(&self, prefix: &str) -> bool {
        // Nothing compared with nothing is slow: where an empty text points is read, and on some processors that costs 100 ns.
        prefix.is_empty() || self.key_bytes().starts_with(prefix.as_bytes())
    }

    pub(crate) fn key(&self) -> Key {
        Key::trusted(self.key_str())
    }

    pub(crate) fn value_bytes(&self) -> &[u8] {
        &self.0[self.value_start()..]
    }

    /// The value for somebody else to keep: small ones copied, larger ones shared.
    pub(crate) fn value(&self) -> Value {
        let value = self.value_bytes();
        Value::trusted(if value.len() <= COPY_BYTES_MAX {
            Bytes::copy_from_slice(value)
        } else {
            Bytes::from_owner(SharedValue(self.clone()))
        })
    }

    pub(crate) fn entry(&self) -> Entry {
        Entry {
            value: self.value(),
            version: self.version(),
            expires_at: self.expires_at(),
        }
    }

    /// Key and value, in bytes.
    pub(crate) fn size(&self) -> u64 {
        (self.0.len() - HEAD) as u64
    }
}

/// A row of which only the value is seen.
struct SharedValue(Row);

impl AsRef<[u8]> for SharedValue {
    fn as_ref(&self) -> &[u8] {
        self.0.value_bytes()
    }
}
