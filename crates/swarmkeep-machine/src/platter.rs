//! The disk itself: what is on the platter for good, and what was written since the last flush.

use std::collections::BTreeMap;

/// What a disk writes in one piece, in bytes.
pub(crate) const SECTOR: usize = 512;
const PAGE: usize = 4096;
/// The file system's superblock: ext4 takes it for granted that a write of it is whole.
const SUPERBLOCK: u64 = 4096;

/// Random numbers that come out the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// From a seed.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`; 0 when there is nothing below it.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    fn coin(&mut self) -> bool {
        self.number() & 1 == 1
    }
}

/// What loss of power leaves of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing of it.
    Nothing,
    /// All of it.
    Everything,
    /// Each sector by the toss of a coin.
    Subset,
    /// What was written first, up to some point; of the write there some sectors.
    Prefix,
}

impl Loss {
    /// One of them, by lot.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        match dice.below(4) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Subset,
            _ => Self::Prefix,
        }
    }

    /// In the figures.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing left",
            Self::Everything => "everything",
            Self::Subset => "a part",
            Self::Prefix => "a prefix, torn",
        }
    }
}

/// Pages that are not here are zeros.
#[derive(Debug, Clone, Default)]
struct Pages(BTreeMap<u64, Box<[u8]>>);

impl Pages {
    fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let (now, later) = bytes.split_at(bytes.len().min(PAGE - within));
            let page = self.0.entry(at / PAGE as u64).or_insert_with(|| vec![0; PAGE].into());
            if let Some(place) = page.get_mut(within..within + now.len()) {
                place.copy_from_slice(now);
            }
            at += now.len() as u64;
            bytes = later;
        }
    }

    fn read(&self, at: u64, bytes: &mut [u8]) {
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let length = rest.len().min(PAGE - within);
            let (now, later) = rest.split_at_mut(length);
            match self.0.get(&(at / PAGE as u64)).and_then(|page| page.get(within..within + length)) {
                Some(page) => now.copy_from_slice(page),
                None => now.fill(0),
            }
            at += length as u64;
            rest = later;
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Platter {
    durable: Pages,
    shown: Pages,
    /// Since the last flush, in order.
    unflushed: Vec<(u64, Box<[u8]>)>,
}

impl Platter {
    /// Writes; it may be lost until [`Platter::flush`].
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        self.shown.write(at, bytes);
        self.unflushed.push((at, bytes.into()));
    }

    /// What was written last.
    pub(crate) fn read(&self, at: u64, bytes: &mut [u8]) {
        self.shown.read(at, bytes);
    }

    /// All that was written is durable from here on.
    pub(crate) fn flush(&mut self) {
        for (at, bytes) in self.unflushed.drain(..) {
            self.durable.write(at, &bytes);
        }
    }

    /// Bytes that a loss of power may take.
    #[must_use]
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.unflushed.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// The disk as it may be after loss of power.
    #[must_use]
    pub(crate) fn lose_power(&self, loss: Loss, dice: &mut Dice) -> Self {
        let mut after = self.durable.clone();
        let cut = dice.below(self.unflushed.len() as u64 + 1);
        for (nth, (at, bytes)) in (0..).zip(&self.unflushed) {
            let by_sector = match loss {
                Loss::Nothing => continue,
                Loss::Everything => false,
                Loss::Subset => true,
                Loss::Prefix if nth > cut => break,
                Loss::Prefix => nth == cut,
            };
            if !by_sector || *at < SUPERBLOCK {
                if !by_sector || dice.coin() {
                    after.write(*at, bytes);
                }
                continue;
            }
            for (sector, bytes) in (0..).zip(bytes.chunks(SECTOR)) {
                if dice.coin() {
                    after.write(at + sector * SECTOR as u64, bytes);
                }
            }
        }
        Self { shown: after.clone(), durable: after, unflushed: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(platter: &Platter, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![9; length];
        platter.read(at, &mut bytes);
        bytes
    }

    #[test]
    fn only_what_was_flushed_is_there_for_certain() {
        let mut platter = Platter::default();
        platter.write(10_000, &[1; 6000]);
        platter.flush();
        platter.write(10_100, &[2; 4096]);
        assert_eq!(bytes(&platter, 10_099, 3), [1, 2, 2]);
        assert_eq!(platter.unflushed_bytes(), 4096);
        let after = |loss, seed| platter.lose_power(loss, &mut Dice::new(seed));
        assert_eq!(bytes(&after(Loss::Nothing, 1), 10_000, 6000), [1; 6000]);
        assert_eq!(bytes(&after(Loss::Everything, 1), 10_099, 3), [1, 2, 2]);
        let torn = bytes(&after(Loss::Subset, 3), 10_100, 4096);
        assert!(torn.contains(&1) && torn.contains(&2), "some sectors of it");
        assert!(torn.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "each of one piece");
        assert_eq!(bytes(&Platter::default(), 5, 3), [0; 3]);
    }

    #[test]
    fn a_prefix_ends_somewhere_and_has_nothing_behind_its_end() {
        let mut platter = Platter::default();
        for nth in 0..8u8 {
            platter.write(8192 + u64::from(nth) * 4096, &[nth + 1; 4096]);
        }
        for seed in 0..40 {
            let after = platter.lose_power(Loss::Prefix, &mut Dice::new(seed));
            let there: Vec<bool> =
                (0..8).map(|nth| bytes(&after, 8192 + nth * 4096, 4096).iter().all(|byte| *byte != 0)).collect();
            let whole = there.iter().take_while(|there| **there).count();
            assert!(there[whole..].iter().all(|there| !there), "{there:?}");
        }
    }

    #[test]
    fn a_superblock_is_written_as_a_whole() {
        let mut platter = Platter::default();
        platter.write(0, &[7; 4096]);
        for seed in 0..20 {
            let after = bytes(&platter.lose_power(Loss::Subset, &mut Dice::new(seed)), 0, 4096);
            assert!(after.iter().all(|byte| *byte == after[0]));
        }
    }
}
