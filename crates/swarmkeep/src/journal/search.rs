//! Segments read again after their time: for the second copy, for repairs, and to say what the journal still holds.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use swarmkeep_core::log::Position;

use super::{
    Extent, Frame, StoreId,
    frame::{Header as FrameHeader, Key, Kind, Span},
    segment::{ALIGNMENT, FRAMES_AT, HEADER_BYTES, Header, SEGMENT_BYTES_MAX, file_name, file_number},
};
use crate::disk::{Disk, OpenHow};

/// A segment's bytes, as far as they may be believed.
#[derive(Debug)]
pub struct Segment {
    key: Key,
    bytes: Bytes,
    /// No frame beyond this position is durable.
    through: Position,
    /// The frame with entries before its first.
    before: Position,
}

impl Segment {
    /// Reads a segment of this store; `None`: there is none, or neither copy of its header can be read.
    ///
    /// `through`: the last position that is durable; for a segment that is being written nothing else says where it ends.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read(
        disk: &dyn Disk,
        store_dir: &Path,
        store: StoreId,
        extent: Extent,
        through: Position,
    ) -> io::Result<Option<Self>> {
        let path = store_dir.join("journal").join(file_name(extent.number));
        let file = match disk.open(&path, OpenHow::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let end = file.len()?.min(SEGMENT_BYTES_MAX).min(extent.end.unwrap_or(u64::MAX));
        let mut bytes = vec![0; usize::try_from(end.max(FRAMES_AT)).map_err(io::Error::other)?];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        let header = [0, HEADER_BYTES].iter().find_map(|at| {
            let header = Header::decode(bytes.get(*at..at + HEADER_BYTES)?).ok()?;
            (header.number == extent.number && header.store == store).then_some(header)
        });
        let before = |header: &Header| header.data_position;
        Ok(header.map(|header| Self { key: Key::of(&header), bytes: bytes.into(), through, before: before(&header) }))
    }

    /// The position of the frame with entries before its first.
    #[must_use]
    pub fn before(&self) -> Position {
        self.before
    }

    /// Its frames with entries that verify, in order; damaged ones are passed over, and counted.
    #[must_use]
    pub fn frames(&self) -> (Vec<Arc<Frame>>, u64) {
        let mut frames = Vec::new();
        let damaged = self.walk(|header, offset| {
            let Some(frame) = header.verify(&self.bytes, offset, &self.key) else { return false };
            if header.kind == Kind::Entries {
                frames.push(frame);
            }
            true
        });
        (frames, damaged)
    }

    /// What its frames after `beyond` held that do not verify, as far as their directories can be read, and whether there are some
    /// of which that cannot be told.
    #[must_use]
    pub fn damaged(&self, beyond: Position) -> (Vec<Span>, bool) {
        let (mut spans, mut is_more) = (Vec::new(), false);
        let mut previous: Option<Position> = None;
        self.walk(|header, offset| {
            let is_beyond = header.position > beyond;
            // Between the two there is a frame of which not even the header can be read.
            is_more |= previous.is_some_and(|previous| {
                header.position.0 > previous.0.saturating_add(1) && header.position.0 > beyond.0.saturating_add(1)
            });
            previous = Some(header.position);
            let is_whole = header.verify(&self.bytes, offset, &self.key).is_some();
            if !is_whole && is_beyond {
                match header.spans(&self.bytes, offset, &self.key) {
                    Some(found) => spans.extend(found),
                    None => is_more = true,
                }
            }
            is_whole
        });
        (spans, is_more)
    }

    /// What its frames hold, by their directories alone: a body that is damaged is not found here.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        self.walk(|header, offset| match header.spans(&self.bytes, offset, &self.key) {
            Some(found) => {
                spans.extend(found);
                true
            }
            None => false,
        });
        spans
    }

    /// Every frame header that can be read; gives the number of places where `each` said no, or none could be.
    fn walk(&self, mut each: impl FnMut(&FrameHeader, u64) -> bool) -> u64 {
        let (mut offset, end) = (FRAMES_AT, self.bytes.len() as u64);
        let (mut damaged, mut expected) = (0, None);
        let mut lost = false;
        while offset < end {
            let header = FrameHeader::read(&self.bytes, offset, &self.key)
                .filter(|header| offset + header.bytes as u64 <= end)
                .filter(|header| header.position <= self.through)
                .filter(|header| expected.is_none_or(|expected| header.position.0 >= expected));
            let Some(header) = header else {
                // A damaged header, or the end: only a frame further on tells.
                lost = true;
                offset += ALIGNMENT as u64;
                continue;
            };
            damaged += u64::from(std::mem::take(&mut lost));
            if !each(&header, offset) {
                damaged += 1;
            }
            expected = Some(header.position.0.saturating_add(1));
            offset += header.bytes as u64;
        }
        damaged
    }
}

/// The segments in a store's folder, oldest first: those in `known` as far as it says, others as being written.
///
/// # Errors
/// What the disk says.
pub fn extents(disk: &dyn Disk, store_dir: &Path, known: &[Extent]) -> io::Result<Vec<Extent>> {
    let names = disk.list(&store_dir.join("journal"))?;
    let numbers = names.iter().filter_map(|name| file_number(name));
    Ok(numbers
        .map(|number| {
            known.iter().find(|extent| extent.number == number).copied().unwrap_or(Extent { number, end: None })
        })
        .collect())
}
