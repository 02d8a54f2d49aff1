//! Writes JSON objects member by member, in the order of `docs/http-api.md`, and stored values byte
//! for byte.

use bytes::Bytes;
use serde::Serialize;

/// One JSON object on its way.
///
/// Not `serde_json::Value`: that one would have to parse a stored value, and could not give the same bytes back.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// The opening brace and the members so far.
    text: Vec<u8>,
}

impl Object {
    /// Without members.
    pub(crate) fn new() -> Self {
        Self::with_capacity(126)
    }

    /// Without members, and with room for `bytes` bytes of them.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut text = Vec::with_capacity(bytes + 2);
        text.push(b'{');
        Self { text }
    }

    /// Adds a member; `name` is one of ours and needs no escaping.
    pub(crate) fn member(mut self, name: &'static str, value: impl Serialize) -> Self {
        self.name(name);
        serde_json::to_writer(&mut self.text, &value)
            .expect("texts, numbers and lists of them have a JSON form, and a vector takes it");
        self
    }

    /// Adds a member whose value is JSON text already.
    pub(crate) fn raw(mut self, name: &'static str, json: &[u8]) -> Self {
        self.name(name);
        self.text.extend_from_slice(json);
        self
    }

    /// Adds the members of another object.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        if other.text.len() > 1 {
            self.comma();
            self.text.extend_from_slice(&other.text[1..]);
        }
        self
    }

    /// The whole text.
    pub(crate) fn finish(mut self) -> Bytes {
        self.text.push(b'}');
        self.text.into()
    }

    fn name(&mut self, name: &str) {
        self.comma();
        self.text.push(b'"');
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":");
    }

    fn comma(&mut self) {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
    }
}

/// The text of an array of `objects`.
pub(crate) fn array(objects: impl Iterator<Item = Object>) -> Vec<u8> {
    let mut text = vec![b'['];
    for object in objects {
        if text.len() > 1 {
            text.push(b',');
        }
        text.extend_from_slice(&object.finish());
    }
    text.push(b']');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_in_the_order_given_and_raw_text_is_kept() {
        let more = Object::new().member("n", 1);
        let text = Object::new()
            .member("key", "a\"é")
            .raw("value", b"1.0")
            .and(&more)
            .and(&Object::new())
            .finish();
        assert_eq!(text, r#"{"key":"a\"é","value":1.0,"n":1}"#);
        assert_eq!(Object::new().finish(), "{}");
    }
}
