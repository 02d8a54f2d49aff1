//! An entry as it is stored: key, value, version and deadline in one allocation, so that a look-up
//! misses the cache once.

use std::str;

use bytes::Bytes;
use triomphe::ThinArc;

use crate::limits::KEY_CHARS_MAX;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::key::Key;
use crate::model::value::Value;

/// The number of a row in its table.
pub(super) type Id = u32;

/// Version (8 bytes), number (4) and key length (2); the deadline (8), if the uppermost bit of the
/// length is set; the key; the value, to the end. A clone shares the memory and takes eight bytes,
/// small enough for an index.
#[derive(Clone, Debug)]
pub(crate) struct Row(ThinArc<(), u8>);

/// The offset of the deadline, or of the key in a row without one.
const HEAD: usize = 14;

const HAS_DEADLINE: u16 = 1 << 15;
const _: () = assert!(4 * KEY_CHARS_MAX < HAS_DEADLINE as usize);

/// Values up to this many bytes are copied on a read: a reference count shared by all cores costs
/// more than a small copy.
const COPY_BYTES_MAX: usize = 4096;

impl Row {
    /// Creates a row. `scratch` is memory to assemble it in.
    pub(crate) fn new(
        scratch: &mut Vec<u8>,
        id: Id,
        key: &str,
        value: &[u8],
        version: Version,
        expires_at: Option<Timestamp>,
    ) -> Self {
        let has_deadline = expires_at.map_or(0, |_| HAS_DEADLINE);
        scratch.clear();
        scratch.extend_from_slice(&version.0.to_le_bytes());
        scratch.extend_from_slice(&id.to_le_bytes());
        scratch.extend_from_slice(&(key.len() as u16 | has_deadline).to_le_bytes());
        if let Some(deadline) = expires_at {
            scratch.extend_from_slice(&deadline.0.to_le_bytes());
        }
        scratch.extend_from_slice(key.as_bytes());
        scratch.extend_from_slice(value);
        Self(ThinArc::from_header_and_slice((), scratch))
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.0.slice[at..].first_chunk();
        *bytes.expect("a row has all its parts")
    }

    fn length(&self) -> u16 {
        u16::from_le_bytes(self.bytes(HEAD - 2))
    }

    fn key_place(&self) -> (usize, usize) {
        let length = self.length();
        let start = HEAD + usize::from(length & HAS_DEADLINE != 0) * 8;
        (start, start + usize::from(length & !HAS_DEADLINE))
    }

    pub(super) fn id(&self) -> Id {
        Id::from_le_bytes(self.bytes(8))
    }

    pub(crate) fn version(&self) -> Version {
        Version(u64::from_le_bytes(self.bytes(0)))
    }

    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        let has_deadline = self.length() & HAS_DEADLINE != 0;
        has_deadline.then(|| Timestamp(u64::from_le_bytes(self.bytes(HEAD))))
    }

    /// Returns true if its deadline, if any, has not passed.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at().is_none_or(|deadline| deadline > now)
    }

    /// Returns the key's bytes, whose order is that of keys.
    pub(crate) fn key_bytes(&self) -> &[u8] {
        let (start, end) = self.key_place();
        &self.0.slice[start..end]
    }

    pub(crate) fn key_str(&self) -> &str {
        str::from_utf8(self.key_bytes()).expect("it was text when it came")
    }

    pub(crate) fn starts_with(&self, prefix: &str) -> bool {
        // Comparing with an empty prefix is slow: it reads where the empty text points, which on
        // some processors costs 100 ns.
        prefix.is_empty() || self.key_bytes().starts_with(prefix.as_bytes())
    }

    pub(crate) fn key(&self) -> Key {
        Key::trusted(self.key_str())
    }

    pub(crate) fn value_bytes(&self) -> &[u8] {
        &self.0.slice[self.key_place().1..]
    }

    /// Returns the value for a caller to keep: small values are copied, larger ones shared.
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

    /// Returns the size of key and value, in bytes.
    pub(crate) fn size(&self) -> u64 {
        (self.0.slice.len() - self.key_place().0) as u64
    }
}

/// A row exposed as its value alone.
struct SharedValue(Row);

impl AsRef<[u8]> for SharedValue {
    fn as_ref(&self) -> &[u8] {
        self.0.value_bytes()
    }
}
