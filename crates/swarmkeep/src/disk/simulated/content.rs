//! A file's bytes in pages that copies share: a picture of a whole disk costs a few reference counts.

use std::sync::{Arc, LazyLock};

const PAGE: usize = 4096;
type Page = [u8; PAGE];

static ZEROS: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE]));

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pages: Vec<Arc<Page>>,
    len: usize,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn resize(&mut self, len: usize) {
        if len < self.len {
            // What is cut off reads as zeros when the file grows again.
            let (page, within) = (len / PAGE, len % PAGE);
            if within > 0
                && let Some(page) = self.pages.get_mut(page)
            {
                Arc::make_mut(page).iter_mut().skip(within).for_each(|byte| *byte = 0);
            }
        }
        self.pages.resize_with(len.div_ceil(PAGE), || Arc::clone(&ZEROS));
        self.len = len;
    }

    /// How many bytes there were to read.
    pub(super) fn read(&self, to: &mut [u8], offset: usize) -> usize {
        let count = to.len().min(self.len.saturating_sub(offset));
        let mut done = 0;
        while done < count {
            let (page, within) = ((offset + done) / PAGE, (offset + done) % PAGE);
            let step = (PAGE - within).min(count - done);
            if let (Some(page), Some(to)) = (self.pages.get(page), to.get_mut(done..done + step)) {
                to.copy_from_slice(page.get(within..within + step).unwrap_or_default());
            }
            done += step;
        }
        count
    }

    /// Grows the content if it must.
    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        if self.len < offset + bytes.len() {
            self.resize(offset + bytes.len());
        }
        let mut done = 0;
        while done < bytes.len() {
            let (page, within) = ((offset + done) / PAGE, (offset + done) % PAGE);
            let step = (PAGE - within).min(bytes.len() - done);
            if let (Some(page), Some(from)) = (self.pages.get_mut(page), bytes.get(done..done + step))
                && page.get(within..within + step) != Some(from)
                && let Some(to) = Arc::make_mut(page).get_mut(within..within + step)
            {
                to.copy_from_slice(from);
            }
            done += step;
        }
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(&mut bytes, 0);
        bytes
    }

    pub(super) fn hash(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.len as u64).to_le_bytes());
        for (index, page) in self.pages.iter().enumerate().filter(|(_, page)| !Arc::ptr_eq(page, &ZEROS)) {
            // By itself: a page that begins where a chunk of the hash does takes half the time.
            hasher.update(&(index as u64).to_le_bytes());
            hasher.update(blake3::hash(page.as_slice()).as_bytes());
        }
    }
}
