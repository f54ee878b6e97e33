//! A table of entities: a persistent map that serialises as a list and knows its weight.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something a [`Table`] holds.
pub trait Entity: Clone + PartialEq {
    /// What it is found by.
    type Key: Ord + Clone;

    /// Where it stands in an order that is asked for often (see [`Table::ranked`]). A rank names its entity, so that no
    /// two entities share one; `()` for what is only found by its key.
    type Rank: Ord + Clone;

    /// Its key, as it stands in itself.
    fn key(&self) -> Self::Key;

    /// Where it stands, by its own contents.
    fn ranks(&self) -> Vec<Self::Rank> {
        Vec::new()
    }

    /// About how many bytes it takes.
    fn weight(&self) -> usize;
}

/// Entities by key. A clone shares everything with its original.
#[derive(Debug, Clone)]
pub struct Table<T: Entity> {
    rows: imbl::OrdMap<T::Key, Arc<T>>,
    /// Follows from `rows`; never stored.
    ranks: imbl::OrdMap<T::Rank, T::Key>,
    weight: usize,
}

impl<T: Entity> Default for Table<T> {
    fn default() -> Self {
        Self { rows: imbl::OrdMap::new(), ranks: imbl::OrdMap::new(), weight: 0 }
    }
}

impl<T: Entity> PartialEq for Table<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rows.len() == other.rows.len()
            && self
                .rows
                .iter()
                .zip(other.rows.iter())
                .all(|(mine, theirs)| Arc::ptr_eq(mine.1, theirs.1) || mine.1 == theirs.1)
    }
}

impl<T: Entity> Table<T> {
    /// The entity of this key.
    #[must_use]
    pub fn get(&self, key: &T::Key) -> Option<&Arc<T>> {
        self.rows.get(key)
    }

    /// Whether there is one.
    #[must_use]
    pub fn contains(&self, key: &T::Key) -> bool {
        self.rows.contains_key(key)
    }

    /// Puts an entity in, in place of the one with its key.
    pub fn insert(&mut self, row: T) {
        let key = row.key();
        self.remove(&key);
        self.weight += row.weight();
        self.ranks.extend(row.ranks().into_iter().map(|rank| (rank, key.clone())));
        self.rows.insert(key, Arc::new(row));
    }

    /// Changes an entity in place (not its key); false: there is none.
    pub fn change(&mut self, key: &T::Key, change: impl FnOnce(&mut T)) -> bool {
        let Some(row) = self.rows.get_mut(key) else { return false };
        let before = row.ranks();
        let row = Arc::make_mut(row);
        self.weight -= row.weight();
        change(row);
        self.weight += row.weight();
        let after = row.ranks();
        if before != after {
            for rank in &before {
                self.ranks.remove(rank);
            }
            self.ranks.extend(after.into_iter().map(|rank| (rank, key.clone())));
        }
        true
    }

    /// Takes an entity out.
    pub fn remove(&mut self, key: &T::Key) -> Option<Arc<T>> {
        let old = self.rows.remove(key)?;
        self.weight -= old.weight();
        for rank in old.ranks() {
            self.ranks.remove(&rank);
        }
        Some(old)
    }

    /// Ranks from `from` on, each with its entity, in order.
    pub fn ranked(&self, from: T::Rank) -> impl Iterator<Item = (&T::Rank, &Arc<T>)> {
        self.ranks.range::<_, T::Rank>(from..).filter_map(|(rank, key)| Some((rank, self.rows.get(key)?)))
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<T>> {
        self.rows.values()
    }

    /// Those from `key` on, in order.
    pub fn from(&self, key: &T::Key) -> impl Iterator<Item = &Arc<T>> {
        self.rows.range::<_, T::Key>(key..).map(|(_, row)| row)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// About how many bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Keys whose entity differs between `self` and `other`: added, removed or changed, in order. Entities the two share
    /// are skipped without being compared.
    #[must_use]
    pub fn differing_keys(&self, other: &Self) -> Vec<T::Key> {
        let mut keys: Vec<T::Key> = self
            .rows
            .iter()
            .filter(|(key, row)| other.rows.get(*key).is_none_or(|theirs| !Arc::ptr_eq(theirs, row) && theirs != *row))
            .map(|(key, _)| key.clone())
            .collect();
        keys.extend(other.rows.keys().filter(|key| !self.rows.contains_key(*key)).cloned());
        keys.sort();
        keys
    }
}

impl<T: Entity + Serialize> Serialize for Table<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.values().map(|row| &**row))
    }
}

impl<'de, T: Entity + Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Self::default();
        for row in Vec::<T>::deserialize(deserializer)? {
            table.insert(row);
        }
        Ok(table)
    }
}
