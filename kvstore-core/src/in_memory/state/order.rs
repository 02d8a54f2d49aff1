//! The numbers of rows in the byte order of their keys, in pieces, so that one more or less moves only a few.

use std::ops::Bound;

use super::index::Id;

/// Most numbers of a piece.
const PIECE: usize = 512;

/// Numbers of rows in order of key. Who asks brings along what tells the key of a number.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// None is empty.
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    /// The key of the first number: all pieces' together stay in the processor's cache, where rows don't.
    first: Box<[u8]>,
    ids: Vec<Id>,
}

impl Piece {
    fn new<'a>(ids: Vec<Id>, key_of: impl Fn(Id) -> &'a [u8]) -> Self {
        Self {
            first: key_of(ids[0]).into(),
            ids,
        }
    }
}

impl Order {
    /// The numbers from 0 on, whose keys are in order.
    pub(super) fn of<'a>(count: usize, key_of: impl Fn(Id) -> &'a [u8]) -> Self {
        let piece = |first| {
            let ids = first..count.min(first + PIECE / 2);
            Piece::new(ids.map(|id| id as Id).collect(), &key_of)
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
        let behind = self.pieces.partition_point(|piece| *piece.first <= *key);
        let piece = behind.saturating_sub(1);
        let Some(found) = self.pieces.get(piece) else {
            return Err((0, 0));
        };
        let place = found.ids.binary_search_by(|id| key_of(*id).cmp(key));
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
        let first = self
            .pieces
            .get(piece)
            .map_or(&[][..], |piece| &piece.ids[place..]);
        let rest = self.pieces.get(piece + 1..).unwrap_or_default();
        first
            .iter()
            .chain(rest.iter().flat_map(|piece| &piece.ids))
            .copied()
    }

    /// Returns how many keys come before `key`: two binary searches, and the lengths of the pieces before,
    /// which hold hundreds of keys each.
    pub(super) fn rank<'a>(&self, key: &[u8], key_of: impl Fn(Id) -> &'a [u8]) -> usize {
        let (piece, at) = self.find(key, &key_of).unwrap_or_else(|place| place);
        let before = self.pieces.iter().take(piece);
        before.map(|piece| piece.ids.len()).sum::<usize>() + at
    }

    /// Adds `id`, the number of `key`, which is not there yet.
    pub(super) fn insert<'a>(&mut self, id: Id, key: &[u8], key_of: impl Fn(Id) -> &'a [u8]) {
        let Err((number, at)) = self.find(key, &key_of) else {
            return;
        };
        let Some(piece) = self.pieces.get_mut(number) else {
            self.pieces.push(Piece::new(vec![id], key_of));
            return;
        };
        piece.ids.insert(at, id);
        if at == 0 {
            piece.first = key.into();
        }
        if piece.ids.len() > PIECE {
            // Keys that come in order fill their pieces: only what is in the midst of others is cut in halves.
            let is_last = at + 1 == piece.ids.len();
            let rest = piece.ids.split_off(if is_last { PIECE } else { PIECE / 2 });
            piece.ids.shrink_to_fit();
            self.pieces.insert(number + 1, Piece::new(rest, key_of));
        }
    }

    /// Takes `key` out, whose row is still there.
    pub(super) fn remove<'a>(&mut self, key: &[u8], key_of: impl Fn(Id) -> &'a [u8]) {
        if let Ok((number, at)) = self.find(key, &key_of) {
            let piece = &mut self.pieces[number];
            piece.ids.remove(at);
            match piece.ids.first() {
                None => _ = self.pieces.remove(number),
                Some(first) if at == 0 => piece.first = key_of(*first).into(),
                Some(_) => {}
            }
        }
    }
}
