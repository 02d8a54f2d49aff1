//! Rows in ascending key order, and what a table has to know of them, gathered while each row is
//! still in the cache.

use super::index::{Hasher, TABLES, table_of};
use super::order::{OrderPiece, PIECE};
use super::row::{Id, Row};
use super::table::key_of;
use crate::model::entry::{Timestamp, Version};

/// A part of the rows of one table. Each part can be filled by its own thread.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    pub(super) hasher: Hasher,
    /// The number of its first row.
    first: usize,
    pub(super) rows: Vec<Option<Row>>,
    /// Its rows for each table of an index, with their hashes.
    pub(super) hashed: Vec<Vec<(u64, Row)>>,
    /// Its rows in order, except the latest ones.
    pub(super) pieces: Vec<OrderPiece>,
    pub(super) deadlines: Vec<(Timestamp, Id)>,
    /// The size of keys and values, in bytes.
    pub(super) bytes: u64,
    is_out_of_order: bool,
    scratch: Vec<u8>,
}

impl Sorted {
    /// Creates empty parts of one table, with capacity for the given numbers of rows.
    pub(crate) fn parts(counts: &[usize]) -> Vec<Self> {
        let hasher = Hasher::default();
        let mut first = 0;
        let parts = counts.iter().map(|count| {
            let (tables, share) = (0..TABLES, count / TABLES * 9 / 8);
            let part = Self {
                hasher: hasher.clone(),
                first,
                rows: Vec::with_capacity(*count),
                // Some tables get more than others.
                hashed: tables.map(|_| Vec::with_capacity(share)).collect(),
                ..Self::default()
            };
            first += count;
            part
        });
        parts.collect()
    }

    pub(crate) fn push(
        &mut self,
        key: &str,
        value: &[u8],
        version: Version,
        expires_at: Option<Timestamp>,
    ) {
        let id = Id::try_from(self.first + self.rows.len()).expect("row ids fit in u32");
        let row = Row::new(&mut self.scratch, id, key, value, version, expires_at);
        let last = self.rows.last().and_then(Option::as_ref);
        self.is_out_of_order |= last.is_some_and(|last| last.key_bytes() >= row.key_bytes());
        let hash = self.hasher.hash(row.key_bytes());
        self.hashed[table_of(hash)].push((hash, row.clone()));
        self.deadlines
            .extend(expires_at.map(|deadline| (deadline, id)));
        self.bytes += row.size();
        self.rows.push(Some(row));
        if self.rows.len().is_multiple_of(PIECE / 2) {
            self.end_piece();
        }
    }

    /// Moves the latest rows into the order.
    pub(super) fn end_piece(&mut self) {
        let start = self.pieces.len() * (PIECE / 2);
        let ids = start..self.rows.len();
        let ids: Vec<Id> = ids.map(|number| (self.first + number) as Id).collect();
        if !ids.is_empty() {
            let key_of = key_of(&self.rows);
            let piece = OrderPiece::new(ids, |id| key_of(id - self.first as Id));
            self.pieces.push(piece);
        }
    }

    /// Returns true if each key comes after the one before it, from the first part to the last.
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
