//! What each step of a plan does. Every one may be done again, wholly or after it was interrupted.

use std::{io::Read, sync::Arc};

use bytes::{Bytes, BytesMut};
use swarmkeep_core::{
    BlobId, Epoch, Seq, SessionId, State,
    checkpoint::Checkpoint,
    limits,
    log::{Blob, Damage, Durability, Head, LogError, Remove},
    record,
    recovery::{Plan, Step},
};
use swarmkeep_sqlite::{BadRow, Mending, RecordsReader};

use super::{Mender, unkept};
use crate::{
    embedded::{
        lost,
        mend::Run,
        progress::Ask,
        refusal,
        sight::{Sight, TWICE, good_blob},
    },
    journal::Entry,
    recovery::Repair,
};

/// What repairing comes to: rows put in place of bad ones, then records that follow them, each with what is said of it.
struct Repairs {
    in_place: Option<(Mending, Vec<Repair>)>,
    behind: Option<(Mending, Vec<Repair>)>,
}

impl Mender {
    /// Copies into quarantine whatever a later step replaces, and what is whole and would be out of reach.
    pub(super) fn keep_bytes(&self, session: SessionId, plan: &Plan, sight: &Sight) -> Result<(), LogError> {
        let survey = &sight.survey;
        for (table, rows) in [("chunk", &survey.chunks), ("checkpoint", &survey.checkpoints), ("blob", &survey.blobs)] {
            for row in rows {
                let name = format!("records-{session}-{table}-{}", row.id);
                self.quarantine.put(&name, &row.stored).map_err(|error| unkept(&error))?;
            }
        }
        if let Some(row) = &survey.row {
            let name = format!(
                "records-{session}-session-{}",
                blake3::hash(row.as_bytes()).to_hex().get(..16).unwrap_or_default()
            );
            self.quarantine.put(&name, row.as_bytes()).map_err(|error| unkept(&error))?;
        }
        if plan.loss.state.is_empty() {
            return Ok(());
        }
        let reaches = plan.reaches.0;
        let rows = self.beyond(session, plan.reaches)?.into_iter();
        let copies = sight.runs.iter().chain([&sight.behind]).filter(|run| run.next() > reaches + 1);
        let copies = copies.filter_map(|run| Some((run.range()?.first.0, run.range()?.last.0, run.bytes())));
        for (first, last, bytes) in rows.chain(copies) {
            let name = format!("out-of-reach-{session}-{first}-{last}.records");
            self.quarantine.put(&name, &bytes).map_err(|error| unkept(&error))?;
        }
        if plan.steps.contains(&Step::StartFresh) { self.keep_the_rest(session, sight) } else { Ok(()) }
    }

    /// Copies into quarantine what else there is of a session that is given up: records that lead nowhere, and blobs.
    fn keep_the_rest(&self, session: SessionId, sight: &Sight) -> Result<(), LogError> {
        let keep = |name: String, bytes: &[u8]| self.quarantine.put(&name, bytes).map_err(|error| unkept(&error));
        let mut found = BytesMut::new();
        sight.found.records.values().for_each(|(bytes, _)| found.extend_from_slice(bytes));
        if !found.is_empty() {
            keep(format!("out-of-reach-{session}-found.records"), &found)?;
        }
        for (id, bytes) in self.read(|records| records.blobs_of(session))? {
            keep(format!("out-of-reach-{session}-blob-{id}"), &bytes)?;
        }
        for id in self.blobs.list(session).map_err(|error| unkept(&error))? {
            let bytes = self.blobs.stored(session, id).map_err(|error| unkept(&error))?;
            keep(format!("out-of-reach-{session}-blob-{id}"), &bytes)?;
        }
        Ok(())
    }

    /// Rows of records that verify beyond a seq.
    pub(super) fn beyond(&self, session: SessionId, after: Seq) -> Result<Vec<(u64, u64, Bytes)>, LogError> {
        self.read(|records| records.rows_after(session, after))
    }

    /// Puts back what was found of what is missing up to where the plan reaches: what stood between, in one transaction, then
    /// what follows.
    pub(super) async fn repair(
        self: &Arc<Self>,
        session: SessionId,
        plan: &Arc<Plan>,
        sight: &Arc<Sight>,
    ) -> Result<Vec<Repair>, LogError> {
        let (planned, seen) = (plan.clone(), sight.clone());
        let repairs = self
            .off(move |mender| {
                mender.keep_bytes(session, &planned, &seen)?;
                Ok(repairs(session, &planned, &seen))
            })
            .await?;
        let mut made = Vec::new();
        for (mending, repaired) in repairs.in_place.into_iter().chain(repairs.behind) {
            self.ask(|done| Ask::Mend(session, mending, done)).await?;
            made.extend(repaired);
        }
        Ok(made)
    }

    /// A session is what it is in RAM from now on, as far as records.db goes; what was there of it and cannot be used is kept
    /// aside.
    pub(super) async fn stand_by(
        self: &Arc<Self>,
        session: SessionId,
        state: Checkpoint,
        plan: &Arc<Plan>,
        sight: &Arc<Sight>,
    ) -> Result<Repair, LogError> {
        let seq = state.head.seq;
        tracing::warn!(%session, %seq, "what is in RAM of a damaged session stands for what is lost of it");
        let (planned, seen) = (plan.clone(), sight.clone());
        self.off(move |mender| mender.keep_bytes(session, &planned, &seen)).await?;
        let (drop_chunks, drop_checkpoints) = (ids(&sight.survey.chunks), ids(&sight.survey.checkpoints));
        let mending = Mending { stand: Some(state.into()), drop_chunks, drop_checkpoints, ..Mending::default() };
        self.ask(|done| Ask::Mend(session, mending, done)).await?;
        self.lanes.forget(session);
        Ok(Repair { session, what: "state".into(), first: None, last: Some(seq.0), from: "ram".into() })
    }

    /// The session ends at `to` from now on: that is where its rows end, its checkpoints, and what is known of it in RAM.
    pub(super) async fn roll_back(self: &Arc<Self>, session: SessionId, to: Seq) -> Result<(), LogError> {
        let mending = self.off(move |mender| mender.cut(session, to)).await?;
        self.ask(|done| Ask::Mend(session, mending, done)).await?;
        self.lanes.forget(session);
        Ok(())
    }

    /// Takes away what is left of a session of which nothing can be had. First its rows, whatever they are; then its removal
    /// is journalled, so that no replay and no copy brings it back, in its order before whatever comes under its name.
    pub(super) async fn give_up(self: &Arc<Self>, session: SessionId) -> Result<(), LogError> {
        let mending = Mending { erase: true, ..Mending::default() };
        self.ask(|done| Ask::Mend(session, mending, done)).await?;
        self.lanes.forget(session);
        let entry = Entry::Remove { session, epoch: Epoch(self.incarnation), what: Remove::All };
        let receipt = self.journal.append(entry, self.journal.generation(), Durability::Durable).map_err(refusal)?;
        receipt.await.map_err(lost)?;
        self.settle().await
    }

    fn cut(&self, session: SessionId, to: Seq) -> Result<Mending, LogError> {
        let survey = self.read(|records| records.survey(session))?;
        let ends = survey.good.iter().map(|(_, end)| *end).chain(survey.good_checkpoints.iter().map(|(head, _)| *head));
        let mut mending = Mending {
            cut: ends.into_iter().find(|end| end.seq == to),
            drop_chunks: ids(&survey.chunks),
            drop_checkpoints: ids(&survey.checkpoints),
            ..Mending::default()
        };
        if mending.cut.is_none()
            && let Some((end, before)) = self.within_a_row(session, to)?
        {
            mending.drop_chunks.extend(self.read(|records| records.rows_beyond(session, to))?);
            mending.runs.push(before);
            mending.cut = Some(end);
        }
        if mending.cut.is_none() {
            let what = format!("nothing verifies that ends at seq {to}");
            return Err(LogError::Corrupt(vec![Damage { session: Some(session), seqs: None, what }]));
        }
        Ok(mending)
    }

    /// A record in the middle of a row that verifies, and the row's records up to it: they get a row of their own.
    fn within_a_row(&self, session: SessionId, to: Seq) -> Result<Option<(Head, Bytes)>, LogError> {
        let rows = self.beyond(session, to)?;
        let Some((.., bytes)) = rows.into_iter().find(|(first, last, _)| (*first..*last).contains(&to.0)) else {
            return Ok(None);
        };
        let mut length = 0;
        for view in record::iter(&bytes).map_while(Result::ok) {
            length += view.bytes().len();
            if view.seq() == to {
                let end = Head { seq: to, hash: view.hash(), time_ms: view.time_ms() };
                return Ok(Some((end, bytes.slice(..length))));
            }
        }
        Ok(None)
    }

    /// Folds what is stored, from a checkpoint on, up to the head in the session's row; everything on the way is verified.
    pub(super) fn replay(&self, session: SessionId, from: Seq) -> Result<(State, u64), LogError> {
        let restored = self.records.read_unhurried(|connection| {
            let records = RecordsReader::new(connection);
            let mut base = |id: BlobId| {
                let stored = records.blob(session, id).map_err(|error| error.to_string())?;
                let packed = match stored {
                    Some(packed) => packed,
                    None => self.blobs.get(session, id).map_err(|error| error.to_string())?,
                };
                unpack_base(&packed)
            };
            records.replay(session, from, &mut base)
        });
        match restored.map_err(LogError::from) {
            Ok(restored) => Ok((restored.state, restored.replayed)),
            // Its row was another session's, and went.
            Err(LogError::NotFound) => Ok((State::empty(), 0)),
            Err(error) => Err(error),
        }
    }
}

fn ids(rows: &[BadRow]) -> Vec<i64> {
    rows.iter().map(|row| row.id).collect()
}

fn repairs(session: SessionId, plan: &Plan, sight: &Sight) -> Repairs {
    let (survey, found) = (&sight.survey, &sight.found);
    let mut mending = Mending::default();
    let mut repairs = Vec::new();
    let reaches = plan.reaches.0;
    let is_cut = !plan.loss.state.is_empty();
    let bring = |mending: &mut Mending, run: &Run| {
        // Those that were never applied bring their blobs; one that is there stays.
        let range = run.first..run.next();
        let blobs = found.blobs.iter().filter(|(_, (seq, ..))| range.contains(&seq.0));
        mending.blobs.extend(blobs.map(|(id, (seq, bytes, _))| (*seq, Blob { id: *id, bytes: bytes.clone() })));
    };
    for run in &sight.runs {
        let run = run.clone().through(reaches);
        if run.range().is_some() {
            repairs.extend(run.repairs(session));
            bring(&mut mending, &run);
            mending.runs.push(run.bytes());
        }
    }
    let repair = |what: String, from: &str| Repair { session, what, first: None, last: None, from: from.into() };
    if survey.row_is_bad && !is_cut {
        if survey.is_misnamed && mending.runs.is_empty() {
            // The row of another session, which has its records; that one gets a row when it is recovered.
            mending.drop_row = true;
            repairs.push(repair("row of a session without records".into(), "quarantine"));
        } else {
            mending.rebuild_row = true;
            repairs.push(repair("session row".into(), "records"));
        }
    }
    if !mending.runs.is_empty() || survey.gaps.is_empty() || mending.rebuild_row {
        mending.drop_chunks = ids(&survey.chunks);
    }
    if survey.gaps.is_empty() && !survey.chunks.is_empty() {
        repairs.push(repair(TWICE.into(), "records"));
    }
    for row in &survey.checkpoints {
        // It is made again by folding, when the next one is due.
        mending.drop_checkpoints.push(row.id);
        repairs.push(repair("checkpoint".into(), "records"));
    }
    for row in &survey.blobs {
        if row.blob.is_some_and(|id| found.files.contains_key(&id)) {
            mending.drop_blobs.push(row.id);
        } else if let Some((seq, blob, from)) = good_blob(row, found) {
            repairs.push(repair(format!("blob {}", blob.id), from));
            mending.drop_blobs.push(row.id);
            mending.blobs.push((seq, blob));
        }
    }
    for (id, seq) in &survey.missing {
        if let Some(len) = found.files.get(id) {
            repairs.push(repair(format!("blob {id}"), "blobs"));
            mending.files.push((*seq, *id, *len));
        } else if let Some((seq, bytes, from)) = found.blobs.get(id)
            && !mending.blobs.iter().any(|(_, blob)| blob.id == *id)
        {
            repairs.push(repair(format!("blob {id}"), from));
            mending.drop_blobs.extend(sight.fileless.get(id));
            mending.blobs.push((*seq, Blob { id: *id, bytes: bytes.clone() }));
        }
    }
    let in_place = (!repairs.is_empty() || !mending.drop_chunks.is_empty()).then_some((mending, repairs));
    let behind = sight.behind.clone().through(reaches);
    let behind = behind.range().is_some().then(|| {
        let mut mending = Mending { append: vec![behind.bytes()], ..Mending::default() };
        bring(&mut mending, &behind);
        (mending, behind.repairs(session))
    });
    Repairs { in_place, behind }
}

/// The state that a fork or a rewind carries with it.
pub(crate) fn unpack_base(packed: &[u8]) -> Result<State, String> {
    let mut bytes = Vec::new();
    let limit = 2 * limits::STATE_BYTES as u64;
    zstd::stream::read::Decoder::new(packed)
        .and_then(|decoder| decoder.take(limit).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    State::from_canonical(&bytes)
}
