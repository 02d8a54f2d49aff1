//! Rows that come in ascending order of key, and what a table has to know of them, gathered while a row is still in the cache.

use super::index::{Hash, Hasher};
use super::row::Row;
use crate::model::entry::{Timestamp, Version};

/// A part of the rows of one table. Each part can be filled by a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    pub(super) hasher: Hasher,
    pub(super) rows: Vec<Option<Row>>,
    pub(super) hashes: Vec<Hash>,
    /// The deadlines, and the numbers of their rows.
    pub(super) deadlines: Vec<(Timestamp, usize)>,
    /// Keys and values, in bytes.
    pub(super) bytes: u64,
    is_out_of_order: bool,
    scratch: Vec<u8>,
}

impl Sorted {
    /// `count` empty parts of one table.
    pub(crate) fn parts(count: usize) -> Vec<Self> {
        let hasher = Hasher::default();
        let part = |_| Self {
            hasher: hasher.clone(),
            ..Self::default()
        };
        (0..count).map(part).collect()
    }

    pub(crate) fn reserve(&mut self, rows: usize) {
        self.rows.reserve_exact(rows);
        self.hashes.reserve_exact(rows);
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn push(
        &mut self,
        key: &str,
        value: &[u8],
        version: Version,
        expires_at: Option<Timestamp>,
    ) {
        let row = Row::new(&mut self.scratch, key, value, version, expires_at);
        let last = self.rows.last().and_then(Option::as_ref);
        self.is_out_of_order |= last.is_some_and(|last| last.key_bytes() >= row.key_bytes());
        self.hashes.push(self.hasher.hash(row.key_bytes()));
        self.deadlines
            .extend(expires_at.map(|deadline| (deadline, self.rows.len())));
        self.bytes += row.size();
        self.rows.push(Some(row));
    }

    /// Whether each key is behind the one before it, from the first part to the last.
    pub(super) fn are_in_order(parts: &[Self]) -> bool {
        let ends = parts.iter().filter_map(|part| {
            let (first, last) = (part.rows.first()?.as_ref()?, part.rows.last()?.as_ref()?);
            Some([first.key_bytes(), last.key_bytes()])
        });
        let ends: Vec<_> = ends.collect();
        parts.iter().all(|part| !part.is_out_of_order)
            && ends.windows(2).all(|pair| pair[0][1] < pair[1][0])
    }
}
