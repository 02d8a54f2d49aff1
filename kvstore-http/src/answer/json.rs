//! Writes JSON objects member by member, in the order of `docs/http-api.md`, and stored values byte
//! for byte.

use bytes::Bytes;
use kvstore_core::Version;
use serde::Serialize;

/// One JSON object under construction.
///
/// Not a `serde_json::Value`, which would have to parse each stored value and could not reproduce
/// its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// The enclosing text, the opening brace, and the members so far.
    text: Vec<u8>,
    /// Where the members start in `text`.
    start: usize,
}

impl Object {
    /// Creates an object without members.
    pub(crate) fn new() -> Self {
        Self::with_capacity(126)
    }

    /// Creates an object without members, with capacity for `bytes` bytes of them.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self::behind(Vec::with_capacity(bytes + 2))
    }

    fn behind(mut text: Vec<u8>) -> Self {
        text.push(b'{');
        let start = text.len();
        Self { text, start }
    }

    /// Adds a member. `name` needs no escaping.
    pub(crate) fn member(mut self, name: &'static str, value: impl Serialize) -> Self {
        self.name(name);
        serde_json::to_writer(&mut self.text, &value)
            .expect("texts, numbers and lists serialize, and writing to a vector succeeds");
        self
    }

    /// Adds a member whose value is already JSON text.
    pub(crate) fn raw(mut self, name: &'static str, json: &[u8]) -> Self {
        self.name(name);
        self.text.extend_from_slice(json);
        self
    }

    /// Adds the member `etag`: an entity tag, including its quotes.
    pub(crate) fn etag(mut self, version: Version) -> Self {
        self.name("etag");
        self.text.extend_from_slice(br#""\""#);
        let mut digits = itoa::Buffer::new();
        self.text
            .extend_from_slice(digits.format(version.0).as_bytes());
        self.text.extend_from_slice(br#"\"""#);
        self
    }

    /// Adds an array with an object for each of `items`; `describe` adds the members of each.
    pub(crate) fn array<T>(
        mut self,
        name: &'static str,
        items: impl IntoIterator<Item = T>,
        mut describe: impl FnMut(Self, T) -> Self,
    ) -> Self {
        self.name(name);
        self.text.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.text.push(b',');
            }
            self.text = describe(Self::behind(self.text), item).text;
            self.text.push(b'}');
        }
        self.text.push(b']');
        self
    }

    /// Adds the members of another object.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        let members = &other.text[other.start..];
        if !members.is_empty() {
            self.comma();
            self.text.extend_from_slice(members);
        }
        self
    }

    /// Closes the object and returns its text.
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
        if self.text.len() > self.start {
            self.text.push(b',');
        }
    }
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
            .array("of", [2, 3], |object, n| {
                object.member("n", n).etag(Version(n))
            })
            .array("none", [0; 0], |object, n| object.member("n", n))
            .finish();
        let of = r#"[{"n":2,"etag":"\"2\""},{"n":3,"etag":"\"3\""}]"#;
        let expected = format!(r#"{{"key":"a\"é","value":1.0,"n":1,"of":{of},"none":[]}}"#);
        assert_eq!(text, expected);
        assert_eq!(Object::new().finish(), "{}");
    }
}
