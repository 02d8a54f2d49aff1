//! Entry points for fuzzers: nothing here may panic, whatever the bytes.
//!
//! Each function takes any bytes and asserts what must be true of them. The tests below feed it
//! with bytes from proptest, a few hundred cases or as many as configured; cargo-fuzz, with the
//! targets in `fuzz/`, searches for bytes that reach new code:
//!
//! ```text
//! PROPTEST_CASES=10000 cargo test -p kvstore-core
//! cargo +nightly fuzz run journal -- -max_total_time=600
//! ```

pub use crate::json_file::fuzz::{journal, snapshot};

/// Checks the JSON scanner: it accepts exactly what another strict reader accepts, drops only white
/// space, and reports an error at a place inside the text.
pub fn json(bytes: &[u8]) {
    let strict = serde_json::from_slice::<serde_json::Value>(bytes);
    match crate::model::json::compact(bytes) {
        Ok(compacted) => {
            let text = compacted.as_deref().unwrap_or(bytes);
            assert!(text.len() <= bytes.len());
            assert_eq!(
                crate::model::json::compact(text),
                Ok(None),
                "compact text is left as it is"
            );
            // This reader keeps numbers as text; one that does not would refuse 1e400.
            let raw = serde_json::from_slice::<&serde_json::value::RawValue>(text);
            assert_eq!(raw.map(|raw| raw.get().as_bytes()).ok(), Some(text));
            let value = crate::model::value::Value::parse(bytes).expect("it was accepted");
            assert_eq!(value.as_bytes(), text);
            if let Ok(strict) = strict {
                let again: serde_json::Value = value.to().expect("it was read before");
                assert_eq!(again, strict, "it means what it meant");
            }
        }
        Err(error) => {
            assert!(strict.is_err(), "JSON was refused: {error:?}");
            assert!(error.at <= bytes.len());
            let place = error.place(bytes);
            let lines = bytes.split(|&byte| byte == b'\n').count() as u64;
            assert!((1..=lines).contains(&place.line) && place.column >= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Generates bytes from fragments of the file formats, so that most inputs get past the first
    /// checks.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            4 => proptest::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
            2 => any::<u16>().prop_map(|number| number.to_string().into_bytes()),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(word, 0..24).prop_map(|words| words.concat())
    }

    const WORDS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\n",
        " ",
        "\"",
        "\"a\"",
        "\"b\":1",
        "\"é\"",
        "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud800\"",
        "null",
        "true",
        "-0",
        "1e400",
        "1.0",
        "{\"a\":1}",
        "[[],{}]",
        "\n\"c\":[1,2],",
        "\n\"d\":\"\"",
        "\"a/../b\"",
        "{\"v\":1,\"t\":2,\"w\":[[\"a\",1]]",
        "{\"v\":3,\"t\":2,\"x\":[\"a\"]",
        "{\"durable\":{\"length\":9,\"crc\":0}",
        "{\"v\":1,\"t\":2,\"w\":[[\"a\"],[\"b\",\"x\",9]]\n",
        "{\"n\":1,\"t\":2,\"job\":{\"set\":\"a\",\"value\":1}\n",
    ];

    proptest! {
        #[test]
        fn json_holds_for_any_bytes(bytes in bytes()) {
            super::json(&bytes);
        }

        #[test]
        fn journal_holds_for_any_bytes(bytes in bytes()) {
            super::journal(&bytes);
        }

        #[test]
        fn snapshot_holds_for_any_bytes(bytes in bytes()) {
            super::snapshot(&bytes);
        }
    }

    /// Checks valid input too, since most of what is generated above is refused.
    #[test]
    fn valid_input_holds_too() {
        for value in ["{}", "[1e400, {\"a\" : \"\\u0000\"}]", " \"é\" "] {
            super::json(value.as_bytes());
        }
        super::journal(b"{\"v\":1,\"t\":2,\"w\":[[\"a\",{\"b\":1}],[\"c\"]]\n{\"n\":1,\"t\":2,\"job\":{\"set\":\"a\",\"value\":1}}\n");
        for (text, entries) in [
            ("{}", 0),
            ("{\n\"a\":1,\n\"b\":[2]\n}\n", 2),
            ("{ \"b\" : 1, \"\\u0061\":2}", 2),
        ] {
            assert_eq!(super::snapshot(text.as_bytes()), Some(entries), "{text}");
        }
    }
}
