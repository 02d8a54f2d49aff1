//! What one key must hold, by what was sent to it and what was answered. Only one client writes to
//! a key, one request after the other, so after a kill at most its last write is unanswered.

use std::collections::BTreeMap;

use kvstore_testing::client::Reply;

/// What a key holds; a value is never sent twice, so it tells the write that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    /// `None` if the key is absent.
    value: Option<String>,
    /// The number in its entity tag, where an answer has said it.
    version: Option<u64>,
}

/// One key and its past.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) key: String,
    /// How many values were made for it.
    made: u64,
    /// What the acknowledged writes have left.
    content: Content,
    /// What the write that was not answered would leave.
    unanswered: Option<Content>,
    /// How many writes took effect.
    applied: u64,
    /// Every version that was ever seen, with its value.
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

    /// A value that was never sent before.
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

    /// The version that it has, if an answer has said it.
    pub(crate) fn version(&self) -> Option<u64> {
        self.content.version
    }

    /// A version that it had once.
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

    /// A write is about to be sent that leaves `value`.
    pub(crate) fn sending(&mut self, value: Option<String>) {
        self.unanswered = Some(Content {
            value,
            version: None,
        });
    }

    /// That write was acknowledged, and has this version if it was waited for.
    pub(crate) fn acknowledged(&mut self, version: Option<u64>) {
        self.content = self.unanswered.take().expect("a write under way");
        self.applied += 1;
        if let Some(version) = version {
            self.see(version);
        }
    }

    /// That write was refused.
    pub(crate) fn refused(&mut self) {
        self.unanswered = None;
    }

    /// Looks at what a read has shown, once everything accepted is applied.
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

    /// The content has this version.
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

/// The number in an entity tag.
pub(crate) fn tag_number(tag: &str) -> u64 {
    tag.trim_matches('"').parse().expect("a tag of this store")
}
