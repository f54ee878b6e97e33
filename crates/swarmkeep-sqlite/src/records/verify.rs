//! Proving that what is stored is what was written.

use std::collections::BTreeSet;

use swarmkeep_core::{BlobId, Seq, SessionId, log::Damage};

use super::{RecordsReader, chunk::Chunk, read, row::SessionRow};
use crate::error::{Result, SqliteError};

/// What a session's verification came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionReport {
    /// Records whose hashes and chain hold.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Checkpoints that verify.
    pub checkpoints: u64,
    /// Blobs that verify; those in files of their own are not looked at.
    pub blobs: u64,
    /// All that have a row.
    pub held: BTreeSet<BlobId>,
    /// Blobs that are in files of their own, with their lengths, for whoever has the files.
    pub files: Vec<(BlobId, u64)>,
    /// Everything that does not hold.
    pub damage: Vec<Damage>,
}

impl RecordsReader<'_> {
    /// Reads everything of a session and checks it.
    ///
    /// # Errors
    /// `NotFound`; whatever SQLite says. Damage is in the report.
    pub fn verify(&self, session: SessionId) -> Result<SessionReport> {
        let mut report = SessionReport::default();
        let row = match SessionRow::load(self.connection(), session) {
            Ok(Some(row)) => row,
            Ok(None) => return Err(SqliteError::NotFound(format!("session {session}"))),
            Err(SqliteError::Damaged(damage)) => {
                report.damage = damage;
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        let (mut records, mut bytes) = (0, 0);
        let walked = self.walk(session, &row, row.base.seq, Chunk::read, |view, _| {
            records += 1;
            bytes += view.bytes().len() as u64;
            true
        });
        (report.records, report.bytes) = (records, bytes);
        match walked {
            Ok(()) => {}
            Err(SqliteError::Damaged(damage)) => report.damage.extend(damage),
            Err(error) => return Err(error),
        }
        let damaged = self.damaged_checkpoints(session)?;
        let count: i64 =
            self.connection()
                .query_row("SELECT count(*) FROM checkpoints WHERE session = ?1", [session.0], |row| row.get(0))?;
        report.checkpoints = count.cast_unsigned() - damaged.len() as u64;
        for (seq, what) in damaged {
            report.damage.push(Damage { session: Some(session), seqs: Some(seq..=seq), what });
        }
        self.verify_blobs(session, &mut report)?;
        Ok(report)
    }

    fn verify_blobs(&self, session: SessionId, report: &mut SessionReport) -> Result<()> {
        let mut statement = self
            .connection()
            .prepare_cached("SELECT raw_len, codec, bytes, blob FROM blobs WHERE session = ?1 ORDER BY blob")?;
        let mut rows = statement.query([session.0])?;
        while let Some(found) = rows.next()? {
            let id = BlobId(super::row::fixed(found, 3)?);
            report.held.insert(id);
            match read::read_blob(session, id, found) {
                Ok(Some(_)) => report.blobs += 1,
                Ok(None) => report.files.push((id, super::row::unsigned(found, 0)?)),
                Err(SqliteError::Damaged(damage)) => report.damage.extend(damage),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks what belongs to no session alone: the file's own structure, the anchor, markers, reports, observations, and
    /// that no row belongs to a session that does not exist.
    ///
    /// # Errors
    /// Whatever SQLite says; damage is in the answer.
    pub fn verify_file(&self) -> Result<Vec<Damage>> {
        let mut damage = Vec::new();
        let mut note = |outcome: Result<()>| match outcome {
            Err(SqliteError::Damaged(found)) => {
                damage.extend(found);
                Ok(())
            }
            other => other,
        };
        note(self.structure())?;
        note(self.anchor().map(drop))?;
        note(self.removals(swarmkeep_core::log::Position(0)).map(drop))?;
        note(self.recoveries(usize::MAX).map(drop))?;
        note(self.all_observations())?;
        for table in ["chunks", "checkpoints", "blobs", "observations"] {
            let sql = format!(
                "SELECT count(*) FROM (SELECT DISTINCT session FROM {table}) WHERE session NOT IN (SELECT id FROM sessions)"
            );
            let strays: i64 = self.connection().query_row(&sql, [], |row| row.get(0))?;
            if strays > 0 {
                note(Err(SqliteError::damaged(
                    None,
                    None,
                    format!("{table}: rows of {strays} sessions that do not exist"),
                )))?;
            }
        }
        Ok(damage)
    }

    fn structure(&self) -> Result<()> {
        let mut statement = self.connection().prepare("PRAGMA integrity_check(16)")?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let line: String = row.get(0)?;
            if line != "ok" {
                found.push(Damage { session: None, seqs: None, what: format!("records.db: {line}") });
            }
        }
        if found.is_empty() { Ok(()) } else { Err(SqliteError::Damaged(found)) }
    }

    fn all_observations(&self) -> Result<()> {
        let mut after = 0;
        loop {
            let rows = self.observations(after, swarmkeep_core::log::Position(0), 1024)?;
            match rows.last() {
                Some(last) => after = last.id,
                None => return Ok(()),
            }
        }
    }

    /// The record at a seq is there, as `hash`: for somebody who wrote an acknowledgement down.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn has(&self, session: SessionId, seq: Seq, hash: swarmkeep_core::Hash) -> Result<bool> {
        Ok(self.hash_at(session, seq)? == Some(hash))
    }
}
