//! A file on the simulated disk: what the page cache shows, what is on the platter, and what lies between.

use std::collections::BTreeMap;

use super::{Dice, Loss, SECTOR, content::Content};

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) cached: Content,
    pub(super) durable: Content,
    /// Sectors that a sync will write, and when each was last written.
    dirty: BTreeMap<usize, u64>,
    writes: u64,
    length_dirty: bool,
    /// The cache shows what no sync will write.
    diverged: bool,
}

impl Inode {
    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        self.length_dirty |= self.cached.len() < end;
        self.cached.write(bytes, offset);
        if !bytes.is_empty() {
            for sector in offset / SECTOR..=(end - 1) / SECTOR {
                self.writes += 1;
                self.dirty.insert(sector, self.writes);
            }
        }
    }

    pub(super) fn set_len(&mut self, bytes: usize) {
        self.length_dirty |= self.cached.len() != bytes;
        self.cached.resize(bytes);
        self.dirty.retain(|sector, _| sector * SECTOR < bytes);
    }

    fn sector<'a>(content: &Content, sector: usize, buffer: &'a mut [u8; SECTOR]) -> &'a mut [u8] {
        let count = content.read(buffer, sector * SECTOR);
        buffer.get_mut(..count).unwrap_or_default()
    }

    pub(super) fn sync(&mut self) {
        // Not a copy of the cache: pages that a failed sync marked clean are not written.
        let mut buffer = [0; SECTOR];
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let bytes = Self::sector(&self.cached, sector, &mut buffer);
            self.durable.write(bytes, sector * SECTOR);
        }
        if std::mem::take(&mut self.length_dirty) {
            self.durable.resize(self.cached.len());
        }
    }

    /// A sync failed, and the pages count as written.
    pub(super) fn mark_clean(&mut self) {
        self.diverged = true;
        self.dirty.clear();
    }

    /// A sync failed, and the cache shows the platter again.
    pub(super) fn drop_pages(&mut self) {
        self.dirty.clear();
        self.cached = self.durable.clone();
        self.length_dirty = false;
    }

    /// Whether loss of power can change it.
    pub(super) fn is_dirty(&self) -> bool {
        self.length_dirty || self.diverged || !self.dirty.is_empty()
    }

    pub(super) fn lose(&mut self, loss: Loss, dice: &Dice) {
        let (mut new, mut old) = ([0; SECTOR], [0; SECTOR]);
        let mut dirty: Vec<(u64, usize)> =
            std::mem::take(&mut self.dirty).into_iter().map(|(sector, at)| (at, sector)).collect();
        dirty.sort_unstable();
        // Writing the same bytes again is harmless.
        dirty.retain(|(_, sector)| {
            Self::sector(&self.cached, *sector, &mut new) != Self::sector(&self.durable, *sector, &mut old)
        });
        let cut = dice.below(dirty.len());
        for (index, (_, sector)) in dirty.into_iter().enumerate() {
            let bytes = Self::sector(&self.cached, sector, &mut new);
            let kept = match loss {
                Loss::Nothing => false,
                Loss::Everything => true,
                Loss::Subset | Loss::Garbage => dice.coin(),
                Loss::Prefix => index <= cut,
            };
            if kept {
                let torn = if loss == Loss::Prefix && index == cut { dice.below(bytes.len()) } else { bytes.len() };
                self.durable.write(bytes.get(..torn).unwrap_or_default(), sector * SECTOR);
            } else if loss == Loss::Garbage && dice.coin() {
                bytes.iter_mut().for_each(|byte| *byte = dice.next().to_le_bytes()[0]);
                self.durable.write(bytes, sector * SECTOR);
            }
        }
        let length_kept = loss == Loss::Everything || (loss != Loss::Nothing && dice.coin());
        if std::mem::take(&mut self.length_dirty) && length_kept {
            self.durable.resize(self.cached.len());
        }
        self.cached = self.durable.clone();
        self.diverged = false;
    }

    /// Changes the bytes in the cache and on the platter, as rot does.
    pub(super) fn alter(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.cached.to_vec();
        change(&mut bytes);
        self.cached.resize(bytes.len());
        self.cached.write(&bytes, 0);
        self.durable.resize(bytes.len());
        self.durable.write(&bytes, 0);
    }
}
