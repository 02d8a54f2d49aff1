//! The stored JSON text, checked once on input and byte-exact from then on.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, Subject};
use crate::model::json;

/// A checked JSON text (RFC 8259) without white space between tokens, so it is always one line.
///
/// Everything else is preserved: digits (`1.0`, `1e400`, forty digits), escapes, the order of
/// members, repeated members. Two values are equal if their bytes are. Cheap to clone, and written
/// to a socket without a copy.
///
/// ```
/// use kvstore_core::Value;
///
/// let value = Value::parse(r#"{"price": 1.0}"#)?;
/// assert_eq!(value.as_bytes(), br#"{"price":1.0}"#);
/// assert!(Value::parse("{price: 1}").is_err());
/// # Ok::<(), kvstore_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Value(Bytes);

impl Value {
    /// Checks `text`, and drops the white space between its tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] with line, column and what was expected there.
    ///
    /// # Cost
    /// One pass over the text, and one copy of exactly its size: a stored value never keeps a
    /// larger buffer alive, such as that of the connection it arrived on.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self> {
        let text = text.as_ref();
        match json::compact(text) {
            Ok(None) => Ok(Self(Bytes::copy_from_slice(text))),
            Ok(Some(compacted)) => Ok(Self(compacted.into_boxed_slice().into())),
            Err(error) => Err(Error::invalid(
                Subject::Value,
                format!(
                    "it is not JSON: expected {} at {}",
                    error.expected,
                    error.place(text)
                ),
            )),
        }
    }

    /// Serialises `value` as JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has no JSON form (a map whose keys are not text) or is nested too
    /// deeply.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let text = serde_json::to_vec(value)
            .map_err(|error| Error::invalid(Subject::Value, error.to_string()))?;
        Self::parse(text)
    }

    /// Wraps text that was checked before it was written to where it comes from.
    pub(crate) fn trusted(text: Bytes) -> Self {
        debug_assert_eq!(json::compact(&text), Ok(None));
        Self(text)
    }

    /// Deserialises it as a `T`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is something else.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.0)
            .map_err(|error| Error::invalid(Subject::Value, error.to_string()))
    }

    /// Returns the text as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text. This takes a pass over it; [`Value::as_bytes`] does not.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }

    /// Returns the text without copying it.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Returns the length in bytes, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "no JSON text is empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self(number.to_string().into())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
