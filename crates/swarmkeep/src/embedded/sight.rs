//! A damaged session, looked at from outside the damage: what reads, what stands elsewhere, what is known of its end. What
//! is seen is what a plan is made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use bytes::Bytes;
use swarmkeep_core::{
    BlobId, Event, Json, Seq, SessionId, limits,
    log::{Blob, Head, LogError, Position},
    record,
    recovery::{Finding, FindingKind, Plan, Range, Ranges, Seen, SeenCheckpoint, SeenPart},
    tabulate,
};
use swarmkeep_sqlite::{BadRow, Gap, ReaderPool, RecordsReader, Survey};

use super::{
    case::Case,
    lane::Lanes,
    mend::{Found, Run, fill, unread},
    quarantine::Quarantine,
    recover::Mender,
};
use crate::{
    blobs::BlobFiles,
    disk::Disk,
    journal::{
        Extent, StoreId,
        kept::{KeptError, KeptFile},
    },
    recovery::{OldHead, SessionRecovery},
};

/// Rows whose records stand in others that verify.
pub(super) const TWICE: &str = "rows of records that stand twice";
/// Entities listed as lost; more are counted by their records.
const ENTITIES: usize = 200;
/// Bytes of records of effects that are carried over: they are one group, with the doubts they end in.
const EFFECT_BYTES: usize = limits::GROUP_BYTES / 4 * 3;
/// What a doubt takes up in that group, at most, besides the effect's key.
const DOUBT_BYTES: usize = 512;

/// What is told of each second copy; true: that was enough.
pub(super) type EachKept<'a> = dyn FnMut(&KeptFile) -> Result<bool, KeptError> + 'a;

/// Where a session is looked for: an open store's places, or those of one that nobody holds.
pub(super) struct Places<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) store_dir: &'a Path,
    pub(super) store: StoreId,
    pub(super) records: &'a ReaderPool,
    pub(super) quarantine: &'a Quarantine,
    pub(super) blobs: &'a BlobFiles,
    pub(super) lanes: &'a Lanes,
    /// Where segments of the journal end, as far as that is known.
    pub(super) extents: Vec<Extent>,
    /// The last frame of the journal that counts.
    pub(super) through: Position,
    /// Goes through the second copies; the error is one that may pass, of one that may have what was not found.
    pub(super) kept: &'a dyn Fn(&mut EachKept<'_>) -> io::Result<()>,
    /// Nobody applies what is in the lanes: it belongs to what there is.
    pub(super) is_closed: bool,
}

/// What was seen of a session.
pub(super) struct Sight {
    pub(super) survey: Survey,
    /// Rows of blobs whose files are gone.
    pub(super) fileless: BTreeMap<BlobId, i64>,
    pub(super) found: Found,
    /// What fills the gaps in its rows.
    pub(super) runs: Vec<Run>,
    /// What follows the head in its row.
    pub(super) behind: Run,
    pub(super) groups: Vec<(String, u64, Bytes)>,
    pub(super) is_aside: bool,
    pub(super) seen: Seen,
}

impl Mender {
    /// [`Places::look`] at the places of this store.
    pub(super) fn look(&self, session: SessionId, case: &Case) -> Result<Option<Sight>, LogError> {
        let kept = |each: &mut EachKept<'_>| self.keeper.as_ref().map_or(Ok(()), |keeper| keeper.search(each));
        let places = Places {
            disk: self.disk.as_ref(),
            store_dir: &self.store_dir,
            store: self.store,
            records: &self.records,
            quarantine: &self.quarantine,
            blobs: &self.blobs,
            lanes: &self.lanes,
            extents: self.journal.extents(),
            through: self.journal.durable(),
            kept: &kept,
            is_closed: false,
        };
        places.look(session, case)
    }

    pub(super) fn groups(&self, session: SessionId) -> Result<Vec<(String, u64, Bytes)>, LogError> {
        self.quarantine.groups(session).map_err(|error| unread(&error))
    }
}

impl Places<'_> {
    /// What is to be seen of a session from outside its damage; `None`: records.db has nothing of it and nobody misses it.
    pub(super) fn look(&self, session: SessionId, case: &Case) -> Result<Option<Sight>, LogError> {
        let survey = match self.read(|records| records.survey(session)) {
            Err(LogError::NotFound) => None,
            survey => Some(survey?),
        };
        let groups = self.quarantine.groups(session).map_err(|error| unread(&error))?;
        let aside = self.lanes.aside(session);
        if survey.is_none() && groups.is_empty() && aside.is_none() {
            // All of it is in the journal, or nothing.
            return Ok(None);
        }
        let mut survey = survey.unwrap_or_default();
        let fileless = survey.miss_files(|id| self.blobs.may_be_there(session, id));
        let end = if survey.row_is_bad { None } else { Some(survey.head.unwrap_or_default()) };
        let named = groups.iter().map(|(_, last, _)| *last).max().unwrap_or_default();
        let missed = named.max(case.known_head.0);
        let after =
            end.filter(|end| missed > end.seq.0).map(|end| Gap { first: end.seq.0 + 1, before: end.hash, last: None });
        let gaps: Vec<Gap> = survey.gaps.iter().cloned().chain(after.clone()).collect();
        let found = self.gather(session, &survey, &gaps, &groups)?;
        let runs: Vec<Run> = survey.gaps.iter().flat_map(|gap| fill(gap, &found)).collect();
        let behind = after.as_ref().map(|gap| found.forwards(gap.first, gap.before, missed)).unwrap_or_default();
        found.must_be_all(&survey, after.as_ref(), runs.iter().chain([&behind]), case)?;
        let is_aside = aside.is_some();
        let mut seen =
            Seen { session, attempts: case.attempts, lost_before: case.history_lost.clone(), ..Seen::default() };
        let on_its_way = self.on_its_way(session, end);
        let good = survey.good.iter().map(|(first, end)| Range { first: Seq(*first), last: end.seq });
        let readable: Ranges = good.chain(on_its_way).collect();
        seen.readable = readable.without(&self.without_base(session, &survey, &found)?);
        seen.removed_through = removed_through(&survey, &runs);
        let kept = groups.iter().filter_map(|(.., bytes)| verified(session, bytes));
        seen.copies = runs.iter().chain([&behind]).filter_map(Run::range).chain(kept).collect();
        let heads = survey.head.into_iter().chain(self.lanes.head(session).filter(|_| is_aside || survey.row_is_bad));
        let missed = missed.max(on_its_way.map_or(0, |range| range.last.0));
        let gap_ends = survey.gaps.iter().filter_map(|gap| gap.last).map(|(last, _)| last);
        seen.known_head = Seq(heads.map(|head| head.seq.0).chain(gap_ends).max().unwrap_or_default().max(missed));
        let trusted = |head: &Head| !case.distrusted.contains(&head.seq);
        seen.checkpoints = survey
            .good_checkpoints
            .iter()
            .map(|(head, _)| SeenCheckpoint { seq: head.seq, is_valid: trusted(head) })
            .chain(
                survey
                    .checkpoints
                    .iter()
                    .map(|row| SeenCheckpoint { seq: row.seq.unwrap_or_default(), is_valid: false }),
            )
            .collect();
        let newest = survey.good_checkpoints.iter().filter(|(head, _)| trusted(head)).max_by_key(|(head, _)| head.seq);
        seen.state_bytes = newest.map_or(0, |(_, bytes)| *bytes);
        seen.parts = parts(&survey, &found, case);
        seen.findings = findings(&survey, &seen);
        Ok(Some(Sight { survey, fileless, found, runs, behind, groups, is_aside, seen }))
    }

    /// Records that begin from a state which nobody has any more: from a checkpoint behind them on, or not at all, the session
    /// goes on.
    fn without_base(&self, session: SessionId, survey: &Survey, found: &Found) -> Result<Ranges, LogError> {
        let mut lost = Vec::new();
        for (id, seq) in &survey.bases {
            let is_bad = survey.blobs.iter().any(|row| row.blob == Some(*id) && good_blob(row, found).is_none());
            let is_there = match self.read(|records| records.blob(session, *id)) {
                Ok(Some(_)) => true,
                Ok(None) => self.blobs.is_whole(session, *id).map_err(|error| unread(&error))?,
                Err(LogError::NotFound | LogError::Corrupt(_)) => false,
                Err(error) => return Err(error),
            };
            if (is_bad || !is_there) && !found.has_blob(id) {
                lost.push(Range { first: *seq, last: *seq });
            }
        }
        Ok(lost.into_iter().collect())
    }

    /// Records that follow what records.db has, and that the next start would apply.
    fn on_its_way(&self, session: SessionId, end: Option<Head>) -> Option<Range> {
        let tail = self.lanes.tail(session, end?.seq, usize::MAX).filter(|_| self.is_closed)?;
        verified(session, &tail.bytes).filter(|range| Some(range.first) == end.map(|end| end.seq.next()))
    }

    fn read<T>(&self, read: impl Fn(&RecordsReader<'_>) -> swarmkeep_sqlite::Result<T>) -> Result<T, LogError> {
        Ok(self.records.read_unhurried(|connection| read(&RecordsReader::new(connection)))?)
    }
}

/// The contiguous records of a session at the beginning of these bytes.
fn verified(session: SessionId, bytes: &Bytes) -> Option<Range> {
    let mut range: Option<Range> = None;
    for view in record::iter(bytes).map_while(Result::ok) {
        let seq = view.seq();
        let fits = range.is_none_or(|range| range.last.next() == seq);
        if view.session() != session || view.body().is_err() || !fits {
            break;
        }
        range = Some(Range { first: range.map_or(seq, |range| range.first), last: seq });
    }
    range
}

/// Records that were removed below a checkpoint: said by the row, or, where that is bad, by a gap from the first record on
/// of which nothing is left and above which a checkpoint stands.
pub(super) fn removed_through(survey: &Survey, runs: &[Run]) -> Seq {
    if !survey.row_is_bad {
        return survey.base;
    }
    let Some(Gap { first: 1, last: Some((last, _)), .. }) = survey.gaps.first() else { return Seq::ZERO };
    let is_empty = !runs.iter().any(|run| run.first <= *last);
    let stands = survey.good_checkpoints.iter().any(|(head, _)| head.seq.0 >= *last);
    if is_empty && stands { Seq(*last) } else { Seq::ZERO }
}

pub(super) fn good_blob(row: &BadRow, found: &Found) -> Option<(Seq, Blob, &'static str)> {
    match row.blob.and_then(|id| Some((id, found.blobs.get(&id)?))) {
        Some((id, (seq, bytes, from))) => Some((*seq, Blob { id, bytes: bytes.clone() }, from)),
        // Its name was damaged, not its content: the kept copies know of such a blob.
        None => {
            let salvaged = Blob::new(row.salvaged.clone().into());
            found.blobs.get(&salvaged.id).map(|(seq, ..)| (*seq, salvaged, "row"))
        }
    }
}

fn parts(survey: &Survey, found: &Found, case: &Case) -> Vec<SeenPart> {
    let mut parts = Vec::new();
    if survey.row_is_bad {
        parts.push(SeenPart { what: "session row".into(), has_copy: true });
    }
    if survey.gaps.is_empty() && !survey.chunks.is_empty() {
        parts.push(SeenPart { what: TWICE.into(), has_copy: true });
    }
    for row in &survey.blobs {
        let part = SeenPart {
            what: format!("blob {}", row.blob.unwrap_or_default()),
            has_copy: good_blob(row, found).is_some() || row.blob.is_some_and(|id| found.files.contains_key(&id)),
        };
        if part.has_copy || !case.parts_lost.contains(&part.what) {
            parts.push(part);
        }
    }
    let is_bad = |blob: &&BlobId| survey.blobs.iter().any(|row| row.blob.as_ref() == Some(*blob));
    // One of which no copy is known may never have been there: whoever needs it says so.
    for blob in survey.missing.keys().filter(|blob| found.has_blob(blob) && !is_bad(blob)) {
        parts.push(SeenPart { what: format!("blob {blob}"), has_copy: true });
    }
    parts
}

fn findings(survey: &Survey, seen: &Seen) -> Vec<Finding> {
    let gaps: Ranges = survey
        .gaps
        .iter()
        .map(|gap| {
            let last = gap.last.map_or(seen.known_head, |(last, _)| Seq(last));
            Range { first: Seq(gap.first), last }
        })
        .collect();
    let gaps = gaps.without(&seen.lost_before);
    let gaps = gaps.iter().filter(|range| range.first > seen.removed_through && range.first <= range.last);
    let gaps = gaps.map(|range| format!("records {range} are damaged or missing in records.db"));
    let checkpoints = survey.checkpoints.iter().map(|_| "a checkpoint is not what was written".to_owned());
    let parts = seen.parts.iter().map(|part| format!("{} is not what was written", part.what));
    gaps.chain(checkpoints).chain(parts).map(|what| Finding { kind: FindingKind::Integrity, what }).collect()
}

pub(super) fn old_head(plan: &Plan, sight: &Sight) -> OldHead {
    let seq = plan.known_head;
    let row = sight.survey.head.filter(|head| head.seq == seq).map(|head| head.hash);
    let end = sight.survey.good.iter().map(|(_, end)| end).find(|end| end.seq == seq).map(|end| end.hash);
    let copy = sight.found.records.keys().find(|(at, _)| *at == seq.0).map(|(_, hash)| *hash);
    OldHead { seq, hash: row.or(end).or(copy) }
}

/// Of the records that are given up, as far as they can still be read.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    /// What they were about.
    entities: Vec<String>,
    /// What they say about effects, in their order, as far as it is carried over.
    effects: Vec<Event>,
    /// Records about effects that are too much to be carried over.
    effects_left_out: u64,
}

impl GivenUp {
    pub(super) fn say_in(self, recovery: &mut SessionRecovery) {
        recovery.entities_lost = self.entities;
        recovery.effects_lost = self.effects;
        recovery.effects_left_out = self.effects_left_out;
    }
}

pub(super) fn given_up(session: SessionId, plan: &Plan, sight: &Sight, rows: &[(u64, u64, Bytes)]) -> GivenUp {
    let copies = sight.runs.iter().chain([&sight.behind]).map(Run::bytes);
    let kept = sight.groups.iter().map(|(.., bytes)| bytes.clone());
    let rows = rows.iter().map(|(.., bytes)| bytes.clone());
    let (mut entities, mut effects) = (BTreeSet::new(), BTreeMap::new());
    for bytes in rows.chain(copies).chain(kept) {
        for view in record::iter(&bytes).map_while(Result::ok) {
            if view.session() != session || view.seq() <= plan.reaches {
                continue;
            }
            let seq = view.seq();
            let Some(body) = view.decode().ok().and_then(|record| record.body) else { continue };
            let (aggregate, id) = tabulate::aggregate(&body.event);
            if entities.len() < ENTITIES {
                entities.insert(format!("{aggregate} {id}"));
            }
            if aggregate == "effect" {
                effects.insert(seq, (view.bytes().len(), body.event));
            }
        }
    }
    let read = effects.len();
    let effects = bounded(effects.into_values().collect(), EFFECT_BYTES);
    GivenUp { entities: entities.into_iter().collect(), effects_left_out: (read - effects.len()) as u64, effects }
}

/// As much as fits: that they were begun before how they ended, since what nobody knows to be begun would be carried out again;
/// and what was asked for at the last.
fn bounded(effects: Vec<(usize, Event)>, mut room: usize) -> Vec<Event> {
    let mut fits = |bytes: usize| {
        let rest = room.checked_sub(bytes);
        room = rest.unwrap_or(room);
        rest.is_some()
    };
    let mut kept = BTreeMap::new();
    for (at, (bytes, event)) in effects.iter().enumerate() {
        if let Event::EffectBegun { effect, request, .. } = event {
            let bare = bytes.saturating_sub(request.as_str().len()) + effect.as_str().len() + DOUBT_BYTES;
            if fits(bare) {
                kept.insert(at, event.clone());
            }
        }
    }
    for (at, (bytes, event)) in effects.iter().enumerate() {
        if !matches!(event, Event::EffectBegun { .. }) && fits(*bytes) {
            kept.insert(at, event.clone());
        }
    }
    for event in kept.values_mut() {
        if let Event::EffectBegun { request, .. } = event
            && !fits(request.as_str().len())
        {
            *request = Json::null();
        }
    }
    kept.into_values().collect()
}
