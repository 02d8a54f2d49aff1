//! The numbers of rows in the byte order of their keys, in pieces, so that one more or less moves only a few.

use std::ops::Bound;

use super::index::Id;

/// Most numbers of a piece.
const PIECE: usize = 512;

/// Numbers of rows in order of key. It holds no keys: who asks brings along what tells the key of a number.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// None is empty.
    pieces: Vec<Vec<Id>>,
}

impl Order {
    /// The numbers from 0 on, whose keys are in order.
    pub(super) fn of(count: usize) -> Self {
        let piece = |first| {
            (first..count.min(first + PIECE / 2))
                .map(|id| id as Id)
                .collect()
        };
        Self {
            pieces: (0..count).step_by(PIECE / 2).map(piece).collect(),
        }
    }

    /// The piece and the place in it of `key`; `Err` if it is not there and would have to go to that place.
    fn find<'a>(
        &self,
        key: &[u8],
        key_of: &impl Fn(Id) -> &'a [u8],
    ) -> Result<(usize, usize), (usize, usize)> {
        let behind = self.pieces.partition_point(|piece| key_of(piece[0]) <= key);
        let piece = behind.saturating_sub(1);
        let Some(ids) = self.pieces.get(piece) else {
            return Err((0, 0));
        };
        let place = ids.binary_search_by(|id| key_of(*id).cmp(key));
        place.map(|at| (piece, at)).map_err(|at| (piece, at))
    }

    /// The numbers from `start` on, in order.
    pub(super) fn from<'a>(
        &self,
        start: Bound<&[u8]>,
        key_of: impl Fn(Id) -> &'a [u8],
    ) -> impl Iterator<Item = Id> {
        let (piece, place) = match start {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) => self.find(key, &key_of).unwrap_or_else(|place| place),
            Bound::Excluded(key) => self
                .find(key, &key_of)
                .map_or_else(|place| place, |(piece, at)| (piece, at + 1)),
        };
        let first = self.pieces.get(piece).map_or(&[][..], |ids| &ids[place..]);
        let rest = self.pieces.get(piece + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flatten()).copied()
    }

    /// Adds `id`, whose key is not there yet.
    pub(super) fn insert<'a>(&mut self, id: Id, key: &[u8], key_of: impl Fn(Id) -> &'a [u8]) {
        let Err((piece, at)) = self.find(key, &key_of) else {
            return;
        };
        let Some(ids) = self.pieces.get_mut(piece) else {
            self.pieces.push(vec![id]);
            return;
        };
        ids.insert(at, id);
        if ids.len() > PIECE {
            // Keys that come in order fill their pieces: only what is in the midst of others is cut in halves.
            let half = if at + 1 == ids.len() {
                PIECE
            } else {
                PIECE / 2
            };
            let rest = ids.split_off(half);
            ids.shrink_to_fit();
            self.pieces.insert(piece + 1, rest);
        }
    }

    pub(super) fn remove<'a>(&mut self, key: &[u8], key_of: impl Fn(Id) -> &'a [u8]) {
        if let Ok((piece, at)) = self.find(key, &key_of) {
            self.pieces[piece].remove(at);
            if self.pieces[piece].is_empty() {
                self.pieces.remove(piece);
            }
        }
    }
}
