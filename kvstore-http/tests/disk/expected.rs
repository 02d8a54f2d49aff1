//! The expected content of a key, from the requests sent to it and their answers. Only one client
//! writes to a key, one request after the other, so after a kill at most its last write is
//! unanswered.

use std::collections::BTreeMap;

use kvstore_testing::client::Reply;

/// The content of a key. Each value is sent only once, so it identifies its write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    /// `None` if the key is absent.
    value: Option<String>,
    /// The number in its entity tag, if an answer has contained it.
    version: Option<u64>,
}

/// A key and its history.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) key: String,
    /// Number of values created for it.
    made: u64,
    /// The result of the acknowledged writes.
    content: Content,
    /// The result if the unanswered write took effect.
    unanswered: Option<Content>,
    /// Number of writes that took effect.
    applied: u64,
    /// Every version seen so far, with its value.
    seen: BTreeMap<u64, String>,
    /// The last job that was accepted and not waited for.
    pub(crate) job: Option<String>,
}

impl Expected {
    pub(crate) fn new(key: String) -> Self {
        Self {
            key,
            made: 0,
            content: Content {
                value: None,
                version: None,
            },
            unanswered: None,
            applied: 0,
            seen: BTreeMap::new(),
            job: None,
        }
    }

    /// Creates a value that was never sent before.
    pub(crate) fn make_value(&mut self, padding: usize) -> String {
        self.made += 1;
        let (key, number, padding) = (&self.key, self.made, "x".repeat(padding));
        format!(r#"{{"key":"{key}","number":{number},"padding":"{padding}"}}"#)
    }

    pub(crate) fn is_present(&self) -> bool {
        self.content.value.is_some()
    }

    pub(crate) fn value(&self) -> Option<&str> {
        self.content.value.as_deref()
    }

    /// Returns the current version, if an answer has contained it.
    pub(crate) fn version(&self) -> Option<u64> {
        self.content.version
    }

    /// Returns a previous version.
    pub(crate) fn past_version(&self) -> Option<u64> {
        let current = self.content.version?;
        self.seen
            .range(..current)
            .next()
            .map(|(version, _)| *version)
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Records that a write of `value` is about to be sent.
    pub(crate) fn sending(&mut self, value: Option<String>) {
        self.unanswered = Some(Content {
            value,
            version: None,
        });
    }

    /// Records that the write was acknowledged, with its version if it was waited for.
    pub(crate) fn acknowledged(&mut self, version: Option<u64>) {
        self.content = self.unanswered.take().expect("a write under way");
        self.applied += 1;
        if let Some(version) = version {
            self.see(version);
        }
    }

    /// Records that the write was refused.
    pub(crate) fn refused(&mut self) {
        self.unanswered = None;
    }

    /// Checks the result of a read, once everything accepted is applied.
    pub(crate) fn check(&mut self, reply: &Reply) {
        let found = match reply.status {
            200 => Some(reply.text().to_owned()),
            404 => None,
            _ => panic!("{}: {reply:?}", self.key),
        };
        let unanswered = self.unanswered.take();
        match unanswered {
            _ if found == self.content.value => {}
            Some(unanswered) if found == unanswered.value => {
                self.content = unanswered;
                self.applied += 1;
            }
            unanswered => panic!(
                "{} holds {found:?}, and should hold {:?}, or what was not answered: {unanswered:?}",
                self.key, self.content
            ),
        }
        if let Some(tag) = reply.header("etag") {
            self.see(tag_number(tag));
        }
    }

    /// Records the version of the current content.
    fn see(&mut self, version: u64) {
        let Content {
            value,
            version: known,
        } = &mut self.content;
        assert!(
            known.is_none_or(|known| known == version),
            "{}: {known:?} has become {version}",
            self.key
        );
        *known = Some(version);
        let value = value.clone().expect("only what is there has a version");
        if let Some((latest, latest_value)) = self.seen.last_key_value() {
            let is_new = version > *latest && value != *latest_value;
            let is_same = version == *latest && value == *latest_value;
            assert!(
                is_new || is_same,
                "{}: {version} comes after {latest}",
                self.key
            );
        }
        self.seen.insert(version, value);
    }
}

/// Parses the number in an entity tag.
pub(crate) fn tag_number(tag: &str) -> u64 {
    tag.trim_matches('"').parse().expect("a tag of this store")
}
