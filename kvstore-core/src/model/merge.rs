//! JSON Merge Patch (RFC 7396) on text.
//!
//! A member that the patch does not name is copied byte for byte: its digits, its escapes, its
//! place, and its repetitions. That is why this works on the text and not on a parsed value.
//!
//! If a name in the patch is repeated, in the target or in the patch, the last occurrence counts,
//! as in most readers of JSON; earlier occurrences in the target are removed. A replaced member
//! keeps its place and the spelling of its name; a new one is appended.
//!
//! Cost: one pass over each text. Each object of the target is walked once, and each member of the
//! patch is applied at most once, whatever is nested or repeated.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use crate::model::json::Scanner;
use crate::model::value::Value;

/// Returns the result of applying `patch` to `target`, or to an absent value.
///
/// The result is never nested deeper than the deeper of the two, and never longer than both
/// together.
pub(super) fn merge(target: Option<&Value>, patch: &Value) -> Value {
    let mut reader = Reader::new(patch);
    let Some(patch) = reader.patch() else {
        return patch.clone();
    };
    let target = target.map_or(&b""[..], Value::as_bytes);
    let pieces = match target.first() {
        Some(b'{') => Reader::of(target).pieces(&patch),
        _ => Vec::new(),
    };
    let mut writer = PatchWriter {
        out: Vec::with_capacity(target.len() + reader.text.len()),
        target,
        source: reader.text,
    };
    writer.object(&pieces, &patch);
    Value::trusted(writer.out.into_boxed_slice().into())
}

/// An object of the patch. Its members are in order, and each name occurs once.
#[derive(Default)]
struct Patch<'a> {
    members: Vec<PatchMember<'a>>,
    places: HashMap<Cow<'a, str>, usize>,
}

struct PatchMember<'a> {
    /// The name, with its quotes.
    name: Range<usize>,
    change: MemberChange<'a>,
}

enum MemberChange<'a> {
    Remove,
    Replace(Range<usize>),
    Merge(Patch<'a>),
}

/// A part of an object of the target.
enum PatchPiece {
    /// Members that the patch does not name, with the commas between them.
    Kept(Range<usize>),
    /// A member that the patch names, as its member number `place`.
    Named {
        place: usize,
        name: Range<usize>,
        /// The pieces of its value, if both are objects.
        inner: Vec<PatchPiece>,
    },
}

/// Walks over checked text without white space.
struct Reader<'a> {
    text: &'a [u8],
    scanner: Scanner<'a>,
}

const CHECKED: &str = "a value is checked when it is made";

impl<'a> Reader<'a> {
    fn new(value: &'a Value) -> Self {
        Self::of(value.as_bytes())
    }

    fn of(text: &'a [u8]) -> Self {
        let scanner = Scanner::new(text).expect(CHECKED);
        Self { text, scanner }
    }

    /// Steps over an object: calls `member` with the range of each name, which then steps over the
    /// value.
    fn object(&mut self, mut member: impl FnMut(&mut Self, Range<usize>)) {
        self.scanner.expect(b'{', "").expect(CHECKED);
        if self.scanner.peek() == b'}' {
            return self.scanner.expect(b'}', "").expect(CHECKED);
        }
        loop {
            let name = self.scanner.string().expect(CHECKED);
            self.scanner.colon().expect(CHECKED);
            member(self, name);
            if !self.scanner.comma_or(b'}', "").expect(CHECKED) {
                return;
            }
        }
    }

    /// Steps over a value and returns its range.
    fn value(&mut self) -> Range<usize> {
        let start = self.scanner.at();
        self.scanner.value().expect(CHECKED);
        start..self.scanner.at()
    }

    /// Returns the meaning of a name: equal for all spellings of it.
    fn name(&self, range: &Range<usize>) -> Cow<'a, str> {
        let text = std::str::from_utf8(&self.text[range.clone()]).expect(CHECKED);
        match text.contains('\\') {
            true => serde_json::from_str::<String>(text).expect(CHECKED).into(),
            false => text[1..text.len() - 1].into(),
        }
    }

    /// Reads an object of the patch; `None` if another kind of value is next.
    fn patch(&mut self) -> Option<Patch<'a>> {
        if self.scanner.peek() != b'{' {
            return None;
        }
        let mut patch = Patch::default();
        self.object(|reader, name| {
            let meaning = reader.name(&name);
            let change = match reader.patch() {
                Some(inner) => MemberChange::Merge(inner),
                None => match reader.value() {
                    value if &reader.text[value.clone()] == b"null" => MemberChange::Remove,
                    value => MemberChange::Replace(value),
                },
            };
            let member = PatchMember { name, change };
            match patch.places.get(&meaning) {
                Some(&place) => patch.members[place] = member,
                None => {
                    patch.places.insert(meaning, patch.members.len());
                    patch.members.push(member);
                }
            }
        });
        Some(patch)
    }

    /// Reads an object of the target into pieces, separating the members that `patch` names.
    fn pieces(&mut self, patch: &Patch<'_>) -> Vec<PatchPiece> {
        let mut pieces = Vec::new();
        self.object(|reader, name| {
            let Some(&place) = patch.places.get(&reader.name(&name)) else {
                let end = reader.value().end;
                match pieces.last_mut() {
                    Some(PatchPiece::Kept(range)) => range.end = end,
                    _ => pieces.push(PatchPiece::Kept(name.start..end)),
                }
                return;
            };
            let inner = match &patch.members[place].change {
                MemberChange::Merge(inner) if reader.scanner.peek() == b'{' => reader.pieces(inner),
                _ => {
                    reader.value();
                    Vec::new()
                }
            };
            pieces.push(PatchPiece::Named { place, name, inner });
        });
        pieces
    }
}

/// Writes the result, from the texts of the target and of the patch.
struct PatchWriter<'a> {
    out: Vec<u8>,
    target: &'a [u8],
    source: &'a [u8],
}

impl PatchWriter<'_> {
    /// Writes the object made of `pieces`, with `patch` applied to it.
    fn object(&mut self, pieces: &[PatchPiece], patch: &Patch<'_>) {
        // The last piece of each name.
        let mut last = vec![None; patch.members.len()];
        for (number, piece) in pieces.iter().enumerate() {
            if let PatchPiece::Named { place, .. } = piece {
                last[*place] = Some(number);
            }
        }
        self.out.push(b'{');
        let start = self.out.len();
        for (number, piece) in pieces.iter().enumerate() {
            match piece {
                PatchPiece::Kept(range) => self.text(start, &self.target[range.clone()]),
                PatchPiece::Named { place, name, inner } if last[*place] == Some(number) => {
                    let name = &self.target[name.clone()];
                    self.member(start, name, inner, &patch.members[*place].change);
                }
                PatchPiece::Named { .. } => {}
            }
        }
        for (new, last) in patch.members.iter().zip(last) {
            if last.is_none() {
                self.member(start, &self.source[new.name.clone()], &[], &new.change);
            }
        }
        self.out.push(b'}');
    }

    /// Writes a member whose value is made of `inner`, with `change` applied to it.
    fn member(
        &mut self,
        start: usize,
        name: &[u8],
        inner: &[PatchPiece],
        change: &MemberChange<'_>,
    ) {
        match change {
            MemberChange::Remove => {}
            MemberChange::Replace(value) => {
                self.text(start, name);
                self.out.push(b':');
                self.out.extend_from_slice(&self.source[value.clone()]);
            }
            MemberChange::Merge(patch) => {
                self.text(start, name);
                self.out.push(b':');
                self.object(inner, patch);
            }
        }
    }

    /// Writes `text`, after a comma unless it is the first of the object that starts at `start`.
    fn text(&mut self, start: usize, text: &[u8]) {
        if self.out.len() > start {
            self.out.push(b',');
        }
        self.out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Map;
    use serde_json::Value as Json;

    use super::*;
    use crate::limits::VALUE_DEPTH_MAX;

    fn merged(target: &str, patch: &str) -> String {
        let value = |text: &str| Value::parse(text).unwrap();
        let result = merge(Some(&value(target)), &value(patch));
        // The result is trusted, so it must equal what a check would return.
        assert_eq!(Value::parse(result.as_bytes()).unwrap(), result);
        result.as_str().to_owned()
    }

    /// Checks the examples of RFC 7396, appendix A, and the one of section 3.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (
                r#"{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],"content":"This will be unchanged"}"#,
                r#"{"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]}"#,
                r#"{"title":"Hello!","author":{"givenName":"John"},"tags":["example"],"content":"This will be unchanged","phoneNumber":"+01-123-456-7890"}"#,
            ),
        ] {
            assert_eq!(merged(target, patch), result, "{patch} on {target}");
        }
    }

    #[test]
    fn an_absent_value_counts_as_an_empty_object() {
        let patch = Value::parse(r#"{"a":{"b":null,"c":1.0},"d":null}"#).unwrap();
        assert_eq!(merge(None, &patch).as_str(), r#"{"a":{"c":1.0}}"#);
        let patch = Value::parse("null").unwrap();
        assert_eq!(merge(None, &patch), patch);
    }

    #[test]
    fn members_that_the_patch_does_not_name_keep_their_bytes() {
        for (target, patch, result) in [
            (
                r#"{"x":1.0,"a":1,"x":1e400,"\u0078":-0,"y":[1,{"a":2}]}"#,
                r#"{"a":2}"#,
                r#"{"x":1.0,"a":2,"x":1e400,"\u0078":-0,"y":[1,{"a":2}]}"#,
            ),
            // Names are compared by meaning, and keep their spelling.
            (
                r#"{"\u0061":1,"b":2}"#,
                r#"{"a":3}"#,
                r#"{"\u0061":3,"b":2}"#,
            ),
            (r#"{"a":1}"#, r#"{"\u0061":3}"#, r#"{"a":3}"#),
            (r#"{"é":1}"#, r#"{"\u00e9":{}}"#, r#"{"é":{}}"#),
            (
                r#"{"o":{"k":40,"a":1,"k":41},"z":0}"#,
                r#"{"o":{"a":null}}"#,
                r#"{"o":{"k":40,"k":41},"z":0}"#,
            ),
        ] {
            assert_eq!(merged(target, patch), result, "{patch} on {target}");
        }
    }

    #[test]
    fn the_last_of_a_repeated_name_counts() {
        for (target, patch, result) in [
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":4}"#, r#"{"b":2,"a":4}"#),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":null}"#, r#"{"b":2}"#),
            (
                r#"{"a":{"x":1},"a":{"y":2}}"#,
                r#"{"a":{"z":3}}"#,
                r#"{"a":{"y":2,"z":3}}"#,
            ),
            (
                r#"{"a":{"x":1},"a":2}"#,
                r#"{"a":{"z":3}}"#,
                r#"{"a":{"z":3}}"#,
            ),
            ("{}", r#"{"a":1,"b":2,"a":null}"#, r#"{"b":2}"#),
            (
                "{}",
                r#"{"a":null,"b":2,"\u0061":1}"#,
                r#"{"\u0061":1,"b":2}"#,
            ),
        ] {
            assert_eq!(merged(target, patch), result, "{patch} on {target}");
        }
    }

    #[test]
    fn the_deepest_nesting_allowed_stays_allowed() {
        let nested = |inner: &str| {
            let depth = VALUE_DEPTH_MAX - 1;
            format!("{}{inner}{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
        };
        let result = merged(&nested(r#"{"b":1}"#), &nested(r#"{"c":2}"#));
        assert_eq!(result, nested(r#"{"b":1,"c":2}"#));
    }

    /// Implements the pseudocode of RFC 7396, section 2.
    fn model(target: Option<Json>, patch: Json) -> Json {
        let Json::Object(patch) = patch else {
            return patch;
        };
        let mut target = match target {
            Some(Json::Object(target)) => target,
            _ => Map::new(),
        };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(&name);
            } else {
                let merged = model(target.remove(&name), value);
                target.insert(name, merged);
            }
        }
        Json::Object(target)
    }

    /// Generates texts with few names, so that they collide: spelled in several ways, repeated, and
    /// with numbers whose digits no parser of numbers would keep.
    fn text() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(
            &["null", "1", "1.0", "-0", "\"é\"", "\"\\u00e9\"", "[]", "{}"][..],
        )
        .prop_map(str::to_owned);
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(","))),
                4 => object(inner),
            ]
        })
    }

    /// Generates objects whose values are `value`.
    fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        let names = &["\"a\"", "\"\\u0061\"", "\"b\"", "\"\"", "\"c\""][..];
        let member = (prop::sample::select(names), value);
        prop::collection::vec(member, 0..6).prop_map(|members| {
            let members: Vec<_> = members
                .iter()
                .map(|(name, value)| format!("{name}:{value}"))
                .collect();
            format!("{{{}}}", members.join(","))
        })
    }

    /// Returns the members of an object in the order of the text: the meaning of each name, and the
    /// bytes.
    fn members(text: &str) -> Vec<(String, String)> {
        let mut reader = Reader::of(text.as_bytes());
        let mut members = Vec::new();
        reader.object(|reader, name| {
            let (meaning, start) = (reader.name(&name).into_owned(), name.start);
            let end = reader.value().end;
            members.push((meaning, text[start..end].to_owned()));
        });
        members
    }

    proptest! {
        #[test]
        fn the_result_means_what_the_rfc_says(target in text(), patch in text()) {
            let json = |text: &str| serde_json::from_str::<Json>(text).unwrap();
            let result = merged(&target, &patch);
            prop_assert_eq!(json(&result), model(Some(json(&target)), json(&patch)));
            prop_assert!(result.len() <= target.len() + patch.len());
        }

        #[test]
        fn members_that_are_not_named_keep_their_bytes_and_order(
            target in object(text()),
            patch in object(text()),
        ) {
            let named: Vec<_> = members(&patch).into_iter().map(|(name, _)| name).collect();
            let untouched = |text: &str| {
                let mut members = members(text);
                members.retain(|(name, _)| !named.contains(name));
                members
            };
            prop_assert_eq!(untouched(&merged(&target, &patch)), untouched(&target));
        }
    }
}
