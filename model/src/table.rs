//! A map of few entries that is made once and read often.

use std::{borrow::Borrow, collections::BTreeMap, fmt, iter, slice};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Entries in the order of their keys, in one allocation of exactly their size; empty it has none.
///
/// There are tens of thousands of workloads in a View, each with a map or two of one entry: a B-tree's smallest
/// node has room for eleven. An insertion copies all.
#[derive(Clone, PartialEq, Eq)]
pub struct Table<K, V>(Box<[(K, V)]>);

type Pair<K, V> = for<'a> fn(&'a (K, V)) -> (&'a K, &'a V);

impl<K, V> Table<K, V> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> iter::Map<slice::Iter<'_, (K, V)>, Pair<K, V>> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<K: Ord, V> Table<K, V> {
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.0.binary_search_by(|(own, _)| own.borrow().cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Puts an entry in, instead of one with an equal key.
    pub fn insert(&mut self, key: K, value: V) {
        self.extend([(key, value)]);
    }
}

impl<K: Ord, V> Extend<(K, V)> for Table<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        *self = std::mem::take(self).into_iter().chain(entries).collect();
    }
}

impl<K, V> Table<K, V> {
    /// `each` must leave a key equal to what it was.
    pub(crate) fn each_key(&mut self, mut each: impl FnMut(&mut K)) {
        self.0.iter_mut().for_each(|(key, _)| each(key));
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for Table<K, V> {
    fn from(entries: BTreeMap<K, V>) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for Table<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Table<K, V> {
    /// Of entries with equal keys the last one stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        entries.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl<'a, K, V> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = iter::Map<slice::Iter<'a, (K, V)>, Pair<K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K, V> IntoIterator for Table<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl<K: Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self)
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(d).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_as_a_map_does_whatever_the_order_of_insertions() {
        for order in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
            let mut table = Table::new();
            for key in order {
                table.insert(key, key * 10);
            }
            table.insert(2, 7);
            assert_eq!(table, Table::from([(1, 10), (2, 7), (3, 30)]));
            assert_eq!((table.get(&2), table.get(&4)), (Some(&7), None));
        }
    }
}
