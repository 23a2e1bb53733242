//! What an index finds under one key: nearly always one thing.

use std::{slice, sync::Arc};

/// A set of at least one value, in order. One needs no allocation of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Few<T> {
    One(T),
    Many(Arc<[T]>),
}

/// What is left of a set after a removal.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Left {
    Some,
    None,
}

impl<T: Ord + Clone> Few<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn insert(&mut self, value: T) {
        if let Err(at) = self.as_slice().binary_search(&value) {
            let (before, after) = self.as_slice().split_at(at);
            *self = Self::Many([before, &[value], after].concat().into());
        }
    }

    /// The set must not be kept when nothing is left.
    pub(super) fn remove(&mut self, value: &T) -> Left {
        let rest: Vec<_> = self.as_slice().iter().filter(|own| *own != value).cloned().collect();
        match <[T; 1]>::try_from(rest) {
            Ok([one]) => *self = Self::One(one),
            Err(rest) if rest.is_empty() => return Left::None,
            Err(rest) => *self = Self::Many(rest.into()),
        }
        Left::Some
    }
}

impl<'a, T: Ord + Clone> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.as_slice().iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_order_and_has_each_value_once() {
        let mut few = Few::One(2);
        for value in [3, 1, 2, 3] {
            few.insert(value);
        }
        assert_eq!(few.as_slice(), [1, 2, 3]);
        assert_eq!(
            (few.remove(&2), few.remove(&1), few.remove(&1)),
            (Left::Some, Left::Some, Left::Some)
        );
        assert_eq!(few.as_slice(), [3]);
        assert_eq!(few.remove(&3), Left::None);
    }
}
