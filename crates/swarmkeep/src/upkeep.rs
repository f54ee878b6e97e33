//! A store that is closed, looked at: what the next open would find and do, and the versions of its databases. Reads only.

use std::{path::Path, sync::Arc};

use serde::Serialize;
use swarmkeep_core::{
    Error, ErrorKind, SessionId, SessionName,
    recovery::{Plan as SessionPlan, Policy},
};
use swarmkeep_sqlite::{Anchor, Found, ReaderPool, RecordsReader, Schema, SqliteError};
pub use swarmkeep_sqlite::{RECORDS_SCHEMA, VIEWS_SCHEMA};

use crate::{
    SystemClock, damage,
    disk::RealDisk,
    embedded,
    journal::{self, Inspection, OpenError, StoreId, Vouch},
    lock,
    recovery::{Damaged, DataLoss, Span},
};

/// What the next open of a store would find and do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// It was parked: there is nothing to settle.
    pub clean: bool,
    /// How far records.db has come.
    pub records_position: u64,
    /// Where the journal ends.
    pub journal_position: u64,
    /// Frames that records.db lacks and that would be applied.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The last of them has nothing that vouches for it; it would be kept.
    pub last_is_unvouched: bool,
    /// At the end of the journal, unreadable, perhaps acknowledged: would go to quarantine. Whose, where that can be read.
    pub possibly_acknowledged: Vec<Span>,
    /// Damage, and whether anything would be lost by it.
    pub damage: Vec<Damaged>,
    /// records.db is made again first: which sessions lack records, and how many, is known after that.
    pub is_made_again: bool,
    /// What would be done, in order.
    pub steps: Vec<String>,
}

impl Plan {
    /// How much of the damage takes something with it: for certain, perhaps, not at all.
    #[must_use]
    pub fn damaged(&self, loss: DataLoss) -> u64 {
        self.damage.iter().filter(|damage| damage.loss == loss).count() as u64
    }
}

/// Plans the next open of the store in `folder`, which nobody holds. Nothing is changed.
///
/// # Errors
/// `unavailable` when it cannot be read or is newer than this program; `corrupt` when its files do not belong together;
/// `not_found` when there is no store.
pub fn plan(folder: &Path) -> Result<Plan, Error> {
    let folder = &lock::home(folder);
    let before = beforehand(folder)?;
    let (position, found) = match &before {
        Some((_, vouch)) => {
            let found = journal::inspect(&RealDisk, folder, Some(*vouch)).map_err(|error| unreadable(folder, error))?;
            (vouch.position, found)
        }
        None => {
            let (_, anchor, found) = look(folder)?;
            (anchor.position, found)
        }
    };
    let (damage, possibly_acknowledged) =
        embedded::closed_found(Arc::new(RealDisk), folder, &found).map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("{}: {error}", folder.display())).caused_by(error)
        })?;
    let frames: Vec<_> = found.unapplied.iter().filter(|frame| frame.position > position).collect();
    let mut plan = Plan {
        clean: before.is_none() && found.sealed && damage.is_empty() && found.doubts.is_empty(),
        records_position: position.0,
        journal_position: found.next.0.saturating_sub(1),
        frames: frames.len() as u64,
        bytes: frames.iter().map(|frame| frame.bytes as u64).sum(),
        last_is_unvouched: found.carried,
        possibly_acknowledged,
        damage,
        is_made_again: before.is_some(),
        steps: Vec::new(),
    };
    plan.steps = steps(&plan, found.doubts.len() + found.damage.len(), has_views(folder));
    if let Some((what, _)) = before {
        plan.damage.insert(0, Damaged::in_records(DataLoss::Possible, what.clone()));
        plan.steps.insert(0, what);
    }
    Ok(plan)
}

/// What would be done about each session of the store in `folder` that is not well, when somebody meets its damage, and how
/// many sessions were looked at. Nobody holds the store; every byte of it is read, and nothing is changed. `policy`: what its
/// settings allow.
///
/// # Errors
/// As [`plan`]; what records.db says.
pub fn session_plans(folder: &Path, policy: Policy) -> Result<(u64, Vec<SessionPlan>), Error> {
    let folder = &lock::home(folder);
    if beforehand(folder)?.is_some() {
        // Which they are is known when records.db was made again.
        return Ok((0, Vec::new()));
    }
    let (readers, anchor, found) = look(folder)?;
    let store = StoreId(anchor.store_id);
    embedded::closed_plans(Arc::new(RealDisk), folder, store, &readers, &found, policy).map_err(damage::log)
}

/// What is to be done about records.db before the journal can be compared with it.
fn beforehand(folder: &Path) -> Result<Option<(String, Vouch)>, Error> {
    if !folder.join("journal").exists() {
        return Ok(None);
    }
    embedded::beforehand(folder, Arc::new(SystemClock::new()))
}

fn look(folder: &Path) -> Result<(ReaderPool, Anchor, Inspection), Error> {
    let records_path = folder.join("records.db");
    if !records_path.exists() && !folder.join("journal").exists() {
        return Err(Error::new(ErrorKind::NotFound, format!("{} has no store in it yet", folder.display()))
            .hint("give the store's folder"));
    }
    RECORDS_SCHEMA.look(&records_path).map_err(|error| database(&records_path, error))?;
    let readers = ReaderPool::open(&records_path, 1, Arc::new(SystemClock::new()))
        .map_err(|error| database(&records_path, error))?;
    let anchor = readers
        .read(|connection| RecordsReader::new(connection).anchor())
        .map_err(|error| database(&records_path, error))?;
    let vouch = Vouch {
        store: StoreId(anchor.store_id),
        position: anchor.position,
        frame_hash: anchor.frame_hash,
        incarnation: anchor.incarnation,
    };
    let found = journal::inspect(&RealDisk, folder, Some(vouch)).map_err(|error| unreadable(folder, error))?;
    Ok((readers, anchor, found))
}

/// The names of these sessions, by records.db of the store in `folder`; those it does not know are left out.
///
/// # Errors
/// `unavailable` when records.db cannot be opened. Of a session whose row cannot be read there is no name.
pub fn session_names(folder: &Path, ids: &[SessionId]) -> Result<Vec<(SessionId, SessionName)>, Error> {
    let path = lock::home(folder).join("records.db");
    let readers = ReaderPool::open(&path, 1, Arc::new(SystemClock::new())).map_err(|error| database(&path, error))?;
    let mut names = Vec::new();
    for id in ids {
        let found = readers.read(|connection| RecordsReader::new(connection).session(*id)).ok().flatten();
        names.extend(found.and_then(|session| session.name).map(|name| (*id, name)));
    }
    Ok(names)
}

/// Whether there are views that can be gone on with.
fn has_views(folder: &Path) -> bool {
    matches!(VIEWS_SCHEMA.look(&folder.join("views.db")), Ok(Found::Version(_)))
}

fn steps(plan: &Plan, to_quarantine: usize, has_views: bool) -> Vec<String> {
    let mut steps = vec!["begin another journal segment: nothing of the old ones is written to again".to_owned()];
    if to_quarantine > 0 {
        let s = if to_quarantine == 1 { "" } else { "s" };
        // Whether anything is lost by it is said beside: records.db may have what they held.
        steps.push(format!("copy to quarantine/ what cannot be used, {to_quarantine} range{s}, and go on without"));
    }
    if plan.last_is_unvouched {
        steps.push(
            "carry the last frame over into the new segment: nothing vouches for it, and it may have been acknowledged"
                .into(),
        );
    }
    if plan.frames > 0 {
        let s = if plan.frames == 1 { "" } else { "s" };
        steps.push(format!("apply {} frame{s} to records.db, while serving", plan.frames));
    }
    steps.push(
        if has_views {
            "bring views.db up to records.db, while serving"
        } else {
            "build views.db from records.db, while serving"
        }
        .into(),
    );
    steps.push(
        "read and verify every live session: newest checkpoint, then its tail; those asked for come first".into(),
    );
    steps
}

/// How the schema of one database stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaStanding {
    /// Its file name.
    pub file: &'static str,
    /// Its version; absent: there is no file, or nothing in it yet.
    pub version: Option<i64>,
    /// The version this program brings it to.
    pub known: i64,
    /// Steps this program knows: number, name, whether it is in the file, whether it can be taken back.
    pub steps: Vec<Step>,
    /// Why it cannot be opened by this program; absent: it can.
    pub refused: Option<String>,
}

/// A migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Counts from 1.
    pub version: i64,
    /// For people.
    pub name: &'static str,
    /// It is in the file.
    pub applied: bool,
    /// There is a way back.
    pub has_down: bool,
}

/// How the schemas of the store in `folder` stand. Nothing is changed.
#[must_use]
pub fn schemas(folder: &Path) -> Vec<SchemaStanding> {
    let folder = &lock::home(folder);
    [("records.db", RECORDS_SCHEMA), ("views.db", VIEWS_SCHEMA)]
        .map(|(file, schema)| standing(folder, file, &schema))
        .into()
}

fn standing(folder: &Path, file: &'static str, schema: &Schema) -> SchemaStanding {
    let (version, refused) = match schema.look(&folder.join(file)) {
        Ok(Found::Version(version)) => (Some(version), None),
        Ok(Found::Empty) | Err(SqliteError::NotFound(_)) => (None, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let steps = schema
        .migrations
        .iter()
        .map(|step| Step {
            version: step.version,
            name: step.name,
            applied: version.is_some_and(|version| version >= step.version),
            has_down: step.down.is_some(),
        })
        .collect();
    SchemaStanding { file, version, known: schema.known(), steps, refused }
}

fn database(path: &Path, error: SqliteError) -> Error {
    let kind = match &error {
        SqliteError::Damaged(_) | SqliteError::Foreign { .. } | SqliteError::NotFound(_) => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, damage::of_file(path, &error))
        .hint("`swarmkeep doctor` says what to do; nothing was changed")
        .caused_by(error)
}

fn unreadable(folder: &Path, error: OpenError) -> Error {
    let kind = if matches!(error, OpenError::Mixed { .. }) { ErrorKind::Corrupt } else { ErrorKind::Unavailable };
    Error::new(kind, format!("{}: {error}", folder.display()))
        .hint("`swarmkeep doctor` says what to do; nothing was changed")
        .caused_by(error)
}
