//! What a journal that was found on disk means. Reads, touches nothing: the answer is a value that can be printed
//! (`recover --dry-run`) before `open` acts on it.
//!
//! # Rules
//!
//! - Segments are chained through their headers: each names where the one before logically ends. What lies beyond that end
//!   is never read as a frame again.
//! - A frame counts when its header, its directory and its hash verify under its segment's nonce, at its own offset.
//! - A bad frame is **damage** when something vouches for it: a later frame of the segment (a seal too), the next segment's
//!   header, or records.db's position. Reading goes on after it.
//! - Else it is **tail**: the journal ends before it. A sync that had returned would have been followed by a seal within
//!   [`super::Settings::seal_after_ms`], so it is at most *possibly* acknowledged, and is reported so ([`Doubt`]). So is the
//!   end of a file that is shorter than its header says: a segment has its full size before its first frame.
//! - The last frame, when nothing vouches for it, is accepted but not trusted: what this reads may be in the page cache
//!   alone. It is carried over into the next segment ([`Inspection::carried`]).
//! - A seal that ends the journal is no part of it from then on: it may be in the page cache alone too. It has told what it
//!   had to tell (the sync of the frame before it had returned), and the next segment begins at its position.
//! - Files of several stores, or of one store at several times, are refused with advice ([`OpenError::Mixed`]).

use std::{collections::BTreeMap, io, ops::RangeInclusive, path::Path, sync::Arc};

use bytes::Bytes;
use swarmkeep_core::{Hash, log::Position};

use super::{
    Extent, Frame, OpenError, StoreId, Vouch,
    frame::{self, FRAME_BYTES_MAX, Header as FrameHeader, Key, Kind, SEAL_BYTES, Span},
    segment::{
        ALIGNMENT, FORMAT_VERSION, FRAMES_AT, HEADER_BYTES, Header, HeaderError, SEGMENT_BYTES_MAX, file_number,
        spare_number,
    },
};
use crate::disk::{Disk, OpenHow, read_whole};

/// Of a frame, as much as has its header.
const BEGINNING: usize = 4096;

/// Bytes behind the journal's end that were, or may have been, a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// In which segment.
    pub segment: u64,
    /// Where.
    pub bytes: RangeInclusive<u64>,
    /// Its position, where that can be read.
    pub position: Option<Position>,
    /// What it held, where that can be read; `None`: it cannot be told.
    pub spans: Option<Vec<Span>>,
    /// True: callers had been told `Unknown` (or nothing) before the store went on without it. False: it was the very end,
    /// and may have been acknowledged just before the crash.
    pub abandoned: bool,
}

/// Bytes that were durable once and are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In which segment.
    pub segment: u64,
    /// Where; `None`: the whole file, or no file.
    pub bytes: Option<RangeInclusive<u64>>,
    /// Which frames; empty: none is missing.
    pub positions: RangeInclusive<u64>,
    /// What they held, where that can be read; `None`: it cannot be told.
    pub spans: Option<Vec<Span>>,
    /// Whether records.db has all of it: nothing is lost then.
    pub in_records: bool,
    /// What is the matter.
    pub what: String,
}

impl Damage {
    fn unreadable(segment: u64, positions: RangeInclusive<u64>, in_records: bool) -> Self {
        let what = "both copies of the segment's header are unreadable".into();
        Self { segment, bytes: None, positions, spans: None, in_records, what }
    }

    /// The name of the file in `quarantine/` that keeps the bytes.
    #[must_use]
    pub fn quarantine_name(&self) -> String {
        quarantine_name(self.segment, self.bytes.as_ref())
    }
}

impl Doubt {
    /// The name of the file in `quarantine/` that keeps the bytes.
    #[must_use]
    pub fn quarantine_name(&self) -> String {
        quarantine_name(self.segment, Some(&self.bytes))
    }
}

fn quarantine_name(segment: u64, bytes: Option<&RangeInclusive<u64>>) -> String {
    match bytes {
        Some(bytes) => format!("journal-{segment:016}-{}", bytes.start()),
        None => format!("journal-{segment:016}-whole"),
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Inspection {
    /// The store the segments belong to; `None`: there are none that can be read.
    pub store: Option<StoreId>,
    /// The highest incarnation found.
    pub incarnation: u64,
    /// Verified frames beyond records.db's position, in order; what must be applied.
    pub unapplied: Vec<Arc<Frame>>,
    /// Whether the last of them has nothing that vouches for it, and is carried over.
    pub carried: bool,
    /// The tail, where it is not clean.
    pub doubts: Vec<Doubt>,
    /// What was damaged.
    pub damage: Vec<Damage>,
    /// The journal ended with a seal, or had nothing to seal.
    pub sealed: bool,
    /// Position of the next frame, the carried one not counted.
    pub next: Position,
    /// Hash of the frame before.
    pub last_hash: Hash,
    /// The last frame with entries, the carried one not counted.
    pub(super) data: (Position, Hash),
    /// Number and logical end of the last segment.
    pub(super) last: Option<(u64, u64)>,
    /// The highest number that any segment file has.
    pub(super) number: u64,
    /// Segments, oldest first: number, bytes, last position with entries, logical end (0: not known).
    pub(super) segments: Vec<(u64, u64, Position, u64)>,
    pub(super) spares: Vec<u64>,
}

impl Inspection {
    /// Where the segments end, as far as that is known.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        let end = |end: u64| (end > 0).then_some(end);
        self.segments.iter().map(|(number, .., at)| Extent { number: *number, end: end(*at) }).collect()
    }

    /// Frames that were acknowledged and that neither the journal nor records.db has.
    pub fn lost(&self) -> impl Iterator<Item = &Damage> {
        self.damage.iter().filter(|damage| !damage.in_records)
    }
}

struct Found {
    header: Header,
    bytes: u64,
}

/// Reads the journal of the store in `store_dir`.
///
/// # Errors
/// `Newer` or `Mixed`: it must not be opened. `Io`: it could not be read.
pub fn inspect(disk: &dyn Disk, store_dir: &Path, vouch: Option<Vouch>) -> Result<Inspection, OpenError> {
    let dir = store_dir.join("journal");
    let names = match disk.list(&dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(OpenError::io(&dir)(error)),
    };
    let records = vouch.map_or(Position(0), |vouch| vouch.position);
    let mut inspection = Inspection {
        spares: names.iter().filter_map(|name| spare_number(name)).collect(),
        sealed: true,
        next: Position(records.0.saturating_add(1)),
        last_hash: vouch.map_or(Hash::default(), |vouch| vouch.frame_hash),
        data: (records, vouch.map_or(Hash::default(), |vouch| vouch.frame_hash)),
        incarnation: vouch.map_or(0, |vouch| vouch.incarnation),
        ..Inspection::default()
    };
    let quarantined = disk.list(&store_dir.join("quarantine")).unwrap_or_default();
    let mut found = BTreeMap::new();
    let mut unreadable = Vec::new();
    for name in &names {
        let Some(number) = file_number(name) else { continue };
        inspection.number = inspection.number.max(number);
        match read_header(disk, &dir.join(name), number, &names, &mut inspection)? {
            Some(segment) => drop(found.insert(number, segment)),
            None => unreadable.push(number),
        }
    }
    one_store(&found, vouch, &mut inspection)?;
    let chain = chain(found, &mut inspection);
    let Some(last) = chain.last() else {
        return nothing_readable(inspection, vouch, &unreadable);
    };
    inspection.incarnation = inspection.incarnation.max(last.header.incarnation);

    // The newest segment before which everything has been applied. By the last frame with entries, not by its own first
    // position: seals have positions too, and an older segment whose successor was retired without it has no known end.
    let start = chain.iter().rposition(|found| found.header.data_position.0 <= records.0).unwrap_or(0);
    for (found, next) in chain.iter().zip(chain.iter().skip(1)).take(start) {
        let end = if next.header.previous_number == found.header.number { next.header.previous_end } else { 0 };
        inspection.segments.push((found.header.number, found.bytes, next.header.data_position, end));
    }
    let mut reading = Reading::new(disk, &dir, vouch, inspection);
    for (index, found) in chain.iter().enumerate().skip(start) {
        if index == start {
            reading.begin(&found.header, &unreadable)?;
        }
        reading.segment(found, chain.get(index + 1).map(|next| &next.header))?;
    }
    let mut inspection = reading.end(&unreadable)?;
    for (found, next) in chain.iter().zip(chain.iter().skip(1)) {
        let path = dir.join(super::segment::file_name(found.header.number));
        let beyond = written_beyond(disk, &path, &found.header, &next.header).map_err(OpenError::io(&path))?;
        inspection.doubts.extend(beyond);
    }
    for number in unreadable {
        if !inspection.damage.iter().any(|damage| damage.segment == number) {
            inspection.damage.push(Damage::unreadable(number, empty(), true));
        }
    }
    // What lies in quarantine was reported when it was put there.
    inspection.damage.retain(|damage| !quarantined.contains(&damage.quarantine_name()));
    inspection.doubts.retain(|doubt| !quarantined.contains(&doubt.quarantine_name()));
    Ok(inspection)
}

/// How far back a journal reaches by itself.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Whose it is.
    pub store: StoreId,
    /// The last frame with entries before its oldest segment, and that frame's hash: what is applied has to stand there at
    /// least.
    pub before: Position,
    /// See `before`.
    pub hash: Hash,
    /// The highest incarnation found.
    pub incarnation: u64,
    /// There are segments of which neither copy of the header can be read.
    pub has_unreadable: bool,
}

/// How far back the journal of the store in `store_dir` reaches; `None`: there is none that can be read.
///
/// # Errors
/// As [`inspect`].
pub fn reach(disk: &dyn Disk, store_dir: &Path) -> Result<Option<Reach>, OpenError> {
    let dir = store_dir.join("journal");
    let names = match disk.list(&dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(&dir)(error)),
    };
    let (mut found, mut inspection, mut has_unreadable) = (BTreeMap::new(), Inspection::default(), false);
    for name in &names {
        let Some(number) = file_number(name) else { continue };
        match read_header(disk, &dir.join(name), number, &names, &mut inspection)? {
            Some(segment) => drop(found.insert(number, segment)),
            None => has_unreadable = true,
        }
    }
    one_store(&found, None, &mut inspection)?;
    let incarnation = found.values().map(|found| found.header.incarnation).max().unwrap_or_default();
    let chain = chain(found, &mut inspection);
    let oldest = chain.first().map(|found| &found.header);
    Ok(oldest.map(|header| Reach {
        store: header.store,
        before: header.data_position,
        hash: header.data_hash,
        incarnation,
        has_unreadable,
    }))
}

#[expect(clippy::reversed_empty_ranges, reason = "no positions")]
fn empty() -> RangeInclusive<u64> {
    1..=0
}

fn read_header(
    disk: &dyn Disk,
    path: &Path,
    number: u64,
    names: &[String],
    inspection: &mut Inspection,
) -> Result<Option<Found>, OpenError> {
    let file = disk.open(path, OpenHow::Read).map_err(OpenError::io(path))?;
    let mut blocks = vec![0; 2 * HEADER_BYTES];
    let read = file.read_at(&mut blocks, 0).map_err(OpenError::io(path))?;
    blocks.truncate(read);
    let bytes = file.len().map_err(OpenError::io(path))?;
    let (first, second) = blocks.split_at(read.min(HEADER_BYTES));
    let (first, second) = (Header::decode(first), Header::decode(second));
    for header in [&first, &second] {
        if let Err(HeaderError::Newer(found)) = header {
            return Err(OpenError::Newer { file: path.to_owned(), found: found.clone(), known: FORMAT_VERSION });
        }
    }
    let damaged = first.is_err() || second.is_err();
    let header = first.or(second).ok();
    if let Some(other) = header.as_ref().map(|header| header.number).filter(|other| *other != number)
        && names.iter().any(|name| file_number(name) == Some(other))
    {
        // One that was taken for reuse has an older header for a moment, and then there is no file of that number any more.
        return Err(OpenError::Mixed {
            what: format!(
                "the file of segment {number} says that it is segment {other}, and there is another of that name"
            ),
            advice: "give the journal's files their own names back, or restore the whole folder from one copy",
        });
    }
    let header = header.filter(|header| header.number == number);
    if damaged && header.is_some() {
        inspection.damage.push(Damage {
            segment: number,
            bytes: Some(0..=FRAMES_AT - 1),
            positions: empty(),
            spans: None,
            in_records: true,
            what: "one copy of the segment's header is unreadable; the other was used".into(),
        });
    }
    Ok(header.map(|header| Found { header, bytes }))
}

fn one_store(found: &BTreeMap<u64, Found>, vouch: Option<Vouch>, inspection: &mut Inspection) -> Result<(), OpenError> {
    for segment in found.values() {
        let store = segment.header.store;
        if let Some(other) = inspection.store.replace(store).filter(|other| *other != store) {
            return Err(OpenError::Mixed {
                what: format!("journal segments of two stores, {other} and {store}, lie in one folder"),
                advice: "restore the whole folder from one copy",
            });
        }
    }
    match (inspection.store, vouch) {
        (Some(store), Some(vouch)) if vouch.store != store => Err(OpenError::Mixed {
            what: format!("the journal belongs to store {store}, records.db to store {}", vouch.store),
            advice: "put back the files that belong together: copy or restore a store's folder as a whole",
        }),
        _ => Ok(()),
    }
}

/// The segments that hang together, oldest first: from the newest backwards, each by the header of the one after it. Where
/// that one is gone, the newest older one goes on, and `Reading` says what is missing between. A segment that no later one
/// names was given up before its first frame.
fn chain(mut found: BTreeMap<u64, Found>, inspection: &mut Inspection) -> Vec<Found> {
    let mut chain = Vec::new();
    let mut next = found.keys().next_back().copied();
    while let Some(segment) = next.and_then(|number| found.remove(&number)) {
        let previous = segment.header.previous_number.min(segment.header.number.saturating_sub(1));
        next = found.range(..=previous).next_back().map(|(number, _)| *number);
        chain.push(segment);
    }
    inspection.segments.extend(found.values().map(|orphan| (orphan.header.number, orphan.bytes, Position(0), 0)));
    chain.reverse();
    chain
}

fn nothing_readable(
    mut inspection: Inspection,
    vouch: Option<Vouch>,
    unreadable: &[u64],
) -> Result<Inspection, OpenError> {
    match vouch {
        None if unreadable.is_empty() => Ok(inspection),
        None => Err(OpenError::Mixed {
            what: "no segment of the journal can be read, and there is no records.db".into(),
            advice: "restore the store's folder from a backup",
        }),
        Some(vouch) if unreadable.is_empty() && vouch.position.0 == 0 => Ok(inspection),
        Some(vouch) if unreadable.is_empty() => Err(OpenError::Mixed {
            what: format!("records.db stands at position {} and there is no journal beside it", vouch.position.0),
            advice: "a store is its whole folder: bring back the folder `journal` that belongs to this records.db, or restore \
                     a complete copy",
        }),
        Some(_) => {
            for &segment in unreadable {
                inspection.damage.push(Damage::unreadable(segment, inspection.next.0..=u64::MAX, false));
            }
            Ok(inspection)
        }
    }
}

/// Goes through the segments from the first that may hold something that was not applied.
struct Reading<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    vouch: Option<Vouch>,
    records: u64,
    inspection: Inspection,
    /// The position that comes next.
    expected: u64,
    /// The hash that the next frame must name; `None` after damage, when it is not known.
    hash: Option<Hash>,
    /// records.db's position was found with records.db's hash.
    confirmed: bool,
    /// The last frame, if it has entries and nothing vouches for it.
    unvouched: Option<Unvouched>,
    /// The last frame, if it is a seal: its offset, its position, and the hash before it.
    seal: Option<(u64, Position, Hash)>,
    tail: Option<Tail>,
    /// The end of the last segment's file is not there: whatever else is known, nobody knows what that held.
    cut: Option<Tail>,
}

struct Unvouched {
    offset: u64,
    position: Position,
    previous: Hash,
    data: (Position, Hash),
}

struct Tail {
    segment: u64,
    bytes: RangeInclusive<u64>,
    position: Option<Position>,
    spans: Option<Vec<Span>>,
}

impl<'a> Reading<'a> {
    fn new(disk: &'a dyn Disk, dir: &'a Path, vouch: Option<Vouch>, inspection: Inspection) -> Self {
        let records = vouch.map_or(0, |vouch| vouch.position.0);
        Self {
            disk,
            dir,
            vouch,
            records,
            inspection,
            expected: 0,
            hash: None,
            confirmed: records == 0,
            unvouched: None,
            seal: None,
            tail: None,
            cut: None,
        }
    }

    fn begin(&mut self, header: &Header, unreadable: &[u64]) -> Result<(), OpenError> {
        self.expected = header.first_position.0;
        self.hash = Some(header.previous_hash);
        let data = header.data_position.0;
        if data == self.records && data != 0 {
            self.confirm(header.data_hash)?;
        }
        if data <= self.records {
            return Ok(());
        }
        // What lies between records.db's position and this segment is not here.
        if let Some(&segment) = unreadable.iter().rfind(|number| **number < header.number) {
            self.inspection.damage.push(Damage::unreadable(segment, self.records.saturating_add(1)..=data, false));
            self.confirmed = true;
            return Ok(());
        }
        Err(match self.vouch {
            Some(_) => OpenError::Mixed {
                what: format!(
                    "records.db stands at position {} and the journal begins after {data}: records.db is older",
                    self.records
                ),
                advice: "put back the records.db that belongs to this journal, or restore the whole folder from one copy",
            },
            None => OpenError::Mixed {
                what: format!(
                    "the journal begins after position {data} and there is no records.db with what came before"
                ),
                advice: "a store is its whole folder: bring back its records.db, or restore a complete copy",
            },
        })
    }

    fn confirm(&mut self, hash: Hash) -> Result<(), OpenError> {
        self.confirmed = true;
        match self.vouch {
            Some(vouch) if vouch.frame_hash != hash => Err(OpenError::Mixed {
                what: format!(
                    "records.db and the journal both know position {}, with different contents",
                    self.records
                ),
                advice: "they come from two copies of the store that went separate ways: restore the whole folder from one of them",
            }),
            _ => Ok(()),
        }
    }

    fn segment(&mut self, found: &Found, next: Option<&Header>) -> Result<(), OpenError> {
        let header = &found.header;
        let key = Key::of(header);
        let path = self.dir.join(super::segment::file_name(header.number));
        let bytes = read_segment(self.disk, &path, header.size).map_err(OpenError::io(&path))?;
        let follows = next.filter(|next| next.previous_number == header.number);
        let limit = follows.map_or(bytes.len() as u64, |next| next.previous_end.min(bytes.len() as u64));
        self.inspection.data = (header.data_position, header.data_hash);
        self.inspection.sealed = true;
        self.unvouched = None;
        self.seal = None;
        let mut offset = FRAMES_AT;
        while offset < limit {
            if let Some((frame, entries)) = self.frame(&bytes, offset, limit, &key) {
                self.accept(&frame, entries, offset)?;
                offset += frame.bytes as u64;
                continue;
            }
            // A later frame vouches for what should be here; without one it is the end, or what the next segment vouches for.
            let Some((at, position)) = later(&bytes, offset, limit, &key, self.expected) else { break };
            self.damaged(
                header.number,
                &bytes,
                offset..=at - 1,
                &key,
                position,
                position <= self.records.saturating_add(1),
            );
            offset = at;
        }
        match next {
            Some(next) => {
                if self.expected < next.first_position.0 {
                    let applied = next.data_position.0 <= self.records;
                    let segment = if follows.is_some() { header.number } else { next.previous_number };
                    let end = limit.max(offset + 1) - 1;
                    self.damaged(segment, &bytes, offset..=end, &key, next.first_position.0, applied);
                }
                self.expected = next.first_position.0;
                self.hash = Some(next.previous_hash);
                if follows.is_some() && !next.carried {
                    // A seal there was only left out.
                    let beyond = FrameHeader::read(&bytes, limit, &key)
                        .is_none_or(|header| header.kind != Kind::Seal)
                        .then(|| remains(&bytes, limit, &key, true, header.number))
                        .flatten();
                    self.inspection.doubts.extend(beyond.map(|tail| tail.doubt(true)));
                }
                let end = follows.map_or(0, |next| next.previous_end);
                self.inspection.segments.push((header.number, found.bytes, next.data_position, end));
            }
            None => {
                self.tail = remains(&bytes, offset, &key, header.recycled, header.number);
                self.cut = cut_off(bytes.len() as u64, header);
                self.inspection.last = Some((header.number, offset));
            }
        }
        Ok(())
    }

    fn frame(&self, bytes: &Bytes, offset: u64, limit: u64, key: &Key) -> Option<(FrameHeader, Arc<Frame>)> {
        let header = FrameHeader::read(bytes, offset, key)?;
        let fits = offset + header.bytes as u64 <= limit;
        let follows = header.position.0 == self.expected && self.hash.is_none_or(|hash| hash == header.previous);
        let frame = (fits && follows).then(|| header.verify(bytes, offset, key))??;
        Some((header, frame))
    }

    fn accept(&mut self, header: &FrameHeader, frame: Arc<Frame>, offset: u64) -> Result<(), OpenError> {
        self.expected = header.position.0.saturating_add(1);
        self.hash = Some(header.hash);
        self.inspection.sealed = header.kind == Kind::Seal;
        self.unvouched = None;
        self.seal = None;
        if header.kind == Kind::Seal {
            self.seal = Some((offset, header.position, header.previous));
            return Ok(());
        }
        if header.position.0 == self.records {
            self.confirm(header.hash)?;
        }
        let data = std::mem::replace(&mut self.inspection.data, (header.position, header.hash));
        if header.position.0 > self.records {
            self.unvouched = Some(Unvouched { offset, position: header.position, previous: header.previous, data });
            self.inspection.unapplied.push(frame);
        }
        Ok(())
    }

    /// Takes down that the frames from the expected one to before `resume` are damaged, and goes on there.
    fn damaged(
        &mut self,
        segment: u64,
        bytes: &[u8],
        at: RangeInclusive<u64>,
        key: &Key,
        resume: u64,
        in_records: bool,
    ) {
        let positions = self.expected..=resume.saturating_sub(1);
        let one = positions.start() == positions.end();
        let spans = FrameHeader::read(bytes, *at.start(), key)
            .filter(|_| one)
            .and_then(|header| header.spans(bytes, *at.start(), key));
        if let Some(vouch) = self.vouch.filter(|vouch| positions.contains(&vouch.position.0)) {
            self.confirmed = true;
            // The next segment's header says so, too: at the start after this one there is nothing else that would.
            self.inspection.data = (vouch.position, vouch.frame_hash);
        }
        let what =
            if one { "a frame is damaged".into() } else { format!("{} frames are damaged", resume - self.expected) };
        self.inspection.damage.push(Damage { segment, bytes: Some(at), positions, spans, in_records, what });
        self.expected = resume;
        self.hash = None;
        self.unvouched = None;
        self.seal = None;
    }

    fn end(mut self, unreadable: &[u64]) -> Result<Inspection, OpenError> {
        let last = self.inspection.last.map_or(0, |(number, _)| number);
        let newer_unreadable = unreadable.iter().copied().filter(|number| *number > last).collect::<Vec<_>>();
        let ended = self.expected.saturating_sub(1);
        if let Some(vouch) = self.vouch.filter(|_| self.records > ended) {
            let tail = self.tail.take();
            if tail.is_none() && self.cut.is_none() && newer_unreadable.is_empty() {
                return Err(OpenError::Mixed {
                    what: format!(
                        "records.db stands at position {} and the journal ends at {ended}: the journal is older",
                        self.records
                    ),
                    advice: "put back the journal that belongs to this records.db, or restore the whole folder from one copy",
                });
            }
            let what = if tail.is_some() { "a frame is damaged" } else { "frames are gone with the end of the file" };
            self.inspection.damage.extend(tail.as_ref().or(self.cut.as_ref()).map(|tail| Damage {
                segment: tail.segment,
                bytes: Some(tail.bytes.clone()),
                positions: self.expected..=self.records,
                spans: tail.spans.clone(),
                in_records: true,
                what: what.into(),
            }));
            // Frames that records.db has are gone, and with them whatever came after.
            let breaks_off = tail.filter(|tail| self.cut.is_none() && tail.position != Some(Position(self.records)));
            self.inspection.damage.extend(breaks_off.map(|tail| Damage {
                segment: tail.segment,
                bytes: Some(tail.bytes),
                positions: self.records.saturating_add(1)..=u64::MAX,
                spans: None,
                in_records: false,
                what: "it breaks off, and what may have been acknowledged after what records.db has is gone".into(),
            }));
            self.seal = None;
            self.expected = self.records.saturating_add(1);
            self.hash = Some(vouch.frame_hash);
            self.inspection.data = (vouch.position, vouch.frame_hash);
            self.confirmed = true;
        }
        if !self.confirmed {
            return Err(OpenError::Mixed {
                what: format!("records.db stands at position {}, which the journal does not have", self.records),
                advice: "restore the whole folder from one copy",
            });
        }
        for segment in newer_unreadable {
            self.inspection.damage.push(Damage::unreadable(segment, self.expected..=u64::MAX, false));
        }
        self.inspection.sealed &= self.tail.is_none() && self.cut.is_none();
        let tails = [self.tail.take(), self.cut.take()];
        self.inspection.doubts.extend(tails.into_iter().flatten().map(|tail| tail.doubt(false)));
        self.inspection.next = Position(self.expected);
        self.inspection.last_hash = self.hash.unwrap_or_default();
        if let Some((offset, position, previous)) = self.seal {
            self.inspection.next = position;
            self.inspection.last_hash = previous;
            self.inspection.last = Some((last, offset));
        }
        if let Some(unvouched) = self.unvouched {
            self.inspection.carried = true;
            self.inspection.next = unvouched.position;
            self.inspection.last_hash = unvouched.previous;
            self.inspection.data = unvouched.data;
            self.inspection.last = Some((last, unvouched.offset));
        }
        if let Some((number, end)) = self.inspection.last {
            let bytes = self
                .disk
                .open(&self.dir.join(super::segment::file_name(number)), OpenHow::Read)
                .and_then(|file| file.len());
            self.inspection.segments.push((number, bytes.unwrap_or(0), self.inspection.data.0, end));
        }
        Ok(self.inspection)
    }
}

impl Tail {
    fn doubt(self, abandoned: bool) -> Doubt {
        Doubt { segment: self.segment, bytes: self.bytes, position: self.position, spans: self.spans, abandoned }
    }
}

/// The file is shorter than it was made: what lay behind its last frame is gone, if there was something.
fn cut_off(bytes: u64, header: &Header) -> Option<Tail> {
    // One that was made longer than others, for a frame that was carried over, has no blocks for its seal yet.
    let made = if header.carried { header.size.saturating_sub(SEAL_BYTES as u64) } else { header.size };
    (bytes < made).then(|| Tail { segment: header.number, bytes: bytes..=made - 1, position: None, spans: None })
}

/// What a holder went on to write after the next one had begun where it saw the end: two had the store at once. The next
/// holder's own start has told of what lay there by then.
fn written_beyond(disk: &dyn Disk, path: &Path, header: &Header, next: &Header) -> io::Result<Option<Doubt>> {
    let is_other_holder = next.previous_number == header.number && next.incarnation != header.incarnation;
    if !is_other_holder || next.carried {
        return Ok(None);
    }
    let (key, start) = (Key::of(header), next.previous_end);
    let file = disk.open(path, OpenHow::Read)?;
    if start < FRAMES_AT || start >= file.len()?.min(SEGMENT_BYTES_MAX) {
        return Ok(None);
    }
    // Of nearly all of them there is nothing: its beginning is enough to see that.
    let mut bytes = vec![0; usize::try_from(start).map_err(io::Error::other)?.saturating_add(BEGINNING)];
    let from = bytes.len() - BEGINNING;
    file.read_at(bytes.get_mut(from..).unwrap_or_default(), start)?;
    if FrameHeader::read(&bytes, start, &key).is_none() {
        return Ok(None);
    }
    let bytes = read_segment(disk, path, header.size)?;
    let (mut offset, mut spans, mut first) = (start, Vec::new(), None);
    while let Some(frame) = FrameHeader::read(&bytes, offset, &key) {
        if frame.kind != Kind::Seal {
            first.get_or_insert((offset, frame.position));
            spans.extend(frame.spans(&bytes, offset, &key).unwrap_or_default());
        }
        offset += frame.bytes as u64;
    }
    Ok(first.map(|(start, position)| Doubt {
        segment: header.number,
        bytes: start..=offset.min(bytes.len() as u64).saturating_sub(1),
        position: Some(position),
        spans: Some(spans),
        abandoned: false,
    }))
}

fn read_segment(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<Bytes> {
    let file = disk.open(path, OpenHow::Read)?;
    let limit = size.min(SEGMENT_BYTES_MAX);
    if file.len()? <= limit {
        return read_whole(file.as_ref(), limit).map(Bytes::from);
    }
    // Somebody made the file longer: what was appended is not ours.
    let mut bytes = vec![0; usize::try_from(limit).map_err(io::Error::other)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes.into())
}

/// The next frame header of this use of the file at or after `offset` whose position is beyond the expected one.
fn later(bytes: &[u8], offset: u64, limit: u64, key: &Key, expected: u64) -> Option<(u64, u64)> {
    (offset..limit).step_by(ALIGNMENT).find_map(|at| {
        let header = FrameHeader::read(bytes, at, key)?;
        (header.position.0 > expected).then_some((at, header.position.0))
    })
}

/// What lies at the logical end of a segment and is not clean: a frame by its header or its trailer, or, in a file that was
/// never used before, anything but zeros.
fn remains(bytes: &[u8], offset: u64, key: &Key, recycled: bool, segment: u64) -> Option<Tail> {
    if let Some(header) = FrameHeader::read(bytes, offset, key) {
        let spans = header.spans(bytes, offset, key);
        let end = (offset + header.bytes as u64).min(bytes.len() as u64);
        let spans = if header.kind == Kind::Seal { Some(Vec::new()) } else { spans };
        return Some(Tail { segment, bytes: offset..=end - 1, position: Some(header.position), spans });
    }
    if let Some((position, length)) = frame::betrayed(bytes, offset, key) {
        return Some(Tail {
            segment,
            bytes: offset..=offset + length as u64 - 1,
            position: Some(position),
            spans: None,
        });
    }
    if recycled {
        return None;
    }
    let start = usize::try_from(offset).ok()?;
    let reach = bytes.len().min(start.saturating_add(FRAME_BYTES_MAX));
    let last = bytes.get(start..reach)?.iter().rposition(|byte| *byte != 0)?;
    Some(Tail { segment, bytes: offset..=offset + last as u64, position: None, spans: None })
}
