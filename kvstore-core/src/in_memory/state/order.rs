//! The numbers of rows in the byte order of their keys, in pieces, so that an insertion or removal
//! moves only a few.

use std::cmp::Ordering;
use std::ops::Bound;

use super::row::Id;

/// The maximum size of a piece.
pub(super) const PIECE: usize = 512;

/// Numbers of rows in key order. Callers pass a function that returns the key of a number.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// None is empty.
    pub(super) pieces: Vec<OrderPiece>,
}

#[derive(Debug)]
pub(super) struct OrderPiece {
    /// The key of the first number. The first keys of all pieces stay in the processor's cache,
    /// where rows do not.
    first: Box<[u8]>,
    /// The length of the prefix that all keys share.
    same: usize,
    /// The four bytes after that prefix: most comparisons need no row.
    heads: Vec<u32>,
    ids: Vec<Id>,
}

/// Returns the bytes of `key` from `start` that are compared first. Keys contain no zero bytes, so
/// a shorter one comes first.
fn head(key: &[u8], start: usize) -> u32 {
    let mut head = [0; 4];
    for (to, byte) in head.iter_mut().zip(key.iter().skip(start)) {
        *to = *byte;
    }
    u32::from_be_bytes(head)
}

/// Returns the length of the common prefix of both.
fn same(one: &[u8], other: &[u8]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

impl OrderPiece {
    /// Creates a piece from numbers in key order.
    pub(super) fn new<'a>(ids: Vec<Id>, key_of: impl Fn(Id) -> &'a [u8]) -> Self {
        let (first, last) = (key_of(ids[0]), key_of(ids[ids.len() - 1]));
        let same = same(first, last);
        Self {
            first: first.into(),
            same,
            heads: ids.iter().map(|id| head(key_of(*id), same)).collect(),
            ids,
        }
    }

    /// Returns the index of `key`, or `Err` with the index where it would be inserted.
    fn find<'a>(&self, key: &[u8], key_of: &impl Fn(Id) -> &'a [u8]) -> Result<usize, usize> {
        let prefix = &key[..self.same.min(key.len())];
        match prefix.cmp(&self.first[..self.same]) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.ids.len()),
            Ordering::Equal => {}
        }
        let head = head(key, self.same);
        let start = self.heads.partition_point(|it| *it < head);
        let count = self.heads[start..].partition_point(|it| *it == head);
        let found = self.ids[start..start + count].binary_search_by(|id| key_of(*id).cmp(key));
        found.map(|at| start + at).map_err(|at| start + at)
    }
}

impl Order {
    /// Returns the piece of `key` and its index there, or `Err` with those where it would be
    /// inserted.
    fn find<'a>(
        &self,
        key: &[u8],
        key_of: &impl Fn(Id) -> &'a [u8],
    ) -> Result<(usize, usize), (usize, usize)> {
        let behind = self.pieces.partition_point(|piece| *piece.first <= *key);
        let number = behind.saturating_sub(1);
        let Some(piece) = self.pieces.get(number) else {
            return Err((0, 0));
        };
        let place = piece.find(key, key_of);
        place.map(|at| (number, at)).map_err(|at| (number, at))
    }

    /// Returns the numbers from `start` on, in order.
    pub(super) fn from<'a>(
        &self,
        start: Bound<&[u8]>,
        key_of: impl Fn(Id) -> &'a [u8],
    ) -> impl Iterator<Item = Id> {
        let (piece, place) = match start {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) => self.find(key, &key_of).unwrap_or_else(|place| place),
            Bound::Excluded(key) => match self.find(key, &key_of) {
                Ok((piece, at)) => (piece, at + 1),
                Err(place) => place,
            },
        };
        let first = self.pieces.get(piece);
        let first = first.map_or(&[][..], |piece| &piece.ids[place..]).iter();
        let rest = self.pieces.get(piece + 1..).unwrap_or_default().iter();
        first.chain(rest.flat_map(|piece| &piece.ids)).copied()
    }

    /// Returns how many keys come before `key`: two binary searches, and the lengths of the pieces
    /// before, which hold hundreds of keys each.
    pub(super) fn rank<'a>(&self, key: &[u8], key_of: impl Fn(Id) -> &'a [u8]) -> usize {
        let (piece, at) = self.find(key, &key_of).unwrap_or_else(|place| place);
        let before = self.pieces.iter().take(piece);
        before.map(|piece| piece.ids.len()).sum::<usize>() + at
    }

    /// Inserts `id`, the number of `key`, which is not present yet.
    pub(super) fn insert<'a>(&mut self, id: Id, key: &[u8], key_of: impl Fn(Id) -> &'a [u8]) {
        let Err((number, at)) = self.find(key, &key_of) else {
            return;
        };
        let Some(piece) = self.pieces.get_mut(number) else {
            self.pieces.push(OrderPiece::new(vec![id], key_of));
            return;
        };
        piece.ids.insert(at, id);
        if piece.ids.len() > PIECE {
            // Keys inserted in ascending order fill their pieces: only an insertion between others
            // splits one in half.
            let is_last = at + 1 == piece.ids.len();
            let rest = piece.ids.split_off(if is_last { PIECE } else { PIECE / 2 });
            *piece = OrderPiece::new(std::mem::take(&mut piece.ids), &key_of);
            self.pieces
                .insert(number + 1, OrderPiece::new(rest, key_of));
        } else if same(&piece.first, key) < piece.same {
            *piece = OrderPiece::new(std::mem::take(&mut piece.ids), key_of);
        } else {
            piece.heads.insert(at, head(key, piece.same));
            if at == 0 {
                piece.first = key.into();
            }
        }
    }

    /// Removes `key`, whose row must still be there.
    pub(super) fn remove<'a>(&mut self, key: &[u8], key_of: impl Fn(Id) -> &'a [u8]) {
        if let Ok((number, at)) = self.find(key, &key_of) {
            let piece = &mut self.pieces[number];
            piece.ids.remove(at);
            piece.heads.remove(at);
            match piece.ids.first() {
                None => _ = self.pieces.remove(number),
                Some(first) if at == 0 => piece.first = key_of(*first).into(),
                Some(_) => {}
            }
        }
    }
}
