//! A look at a store before anything of it is opened for writing: whether it can be opened, is to be refused, or has a
//! records.db that must be made again first.

use std::{io, path::Path, sync::Arc};

use swarmkeep_core::{Error, ErrorKind, clock::Clock, log::Position};
use swarmkeep_sqlite::{
    Anchor, Found, RECORDS_SCHEMA, ReaderPool, RecordsDb, RecordsReader, Schema, SqliteError, VIEWS_SCHEMA,
};

use super::{
    super::{
        copying::{self, Copying},
        remake::{self, Broken},
    },
    database, journal_error, unusable,
};
use crate::{
    disk::{Disk, RealDisk},
    journal::{self, Inspection, OpenError, StoreId, Vouch},
};

/// What a look at a store found, with the connections that looked: they become its readers, and while they are open what a
/// write-ahead log holds is found out once.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) found: Option<Found>,
    pub(super) records: Option<ReaderPool>,
    pub(super) views: Option<(ReaderPool, Found)>,
    /// The journal, and what records.db said when it was read.
    pub(super) inspected: Option<(Anchor, Inspection)>,
}

/// What a look at a store leads to.
pub(super) enum Look {
    /// It can be opened, or made; and what was marked as being copied.
    Found(Option<Box<Looked>>, copying::Found),
    /// records.db has to be made again first.
    Broken(Broken, String),
    /// SQLite's log goes aside first: [`OTHER_LOG`].
    OtherLog,
    /// What there is of records.db goes aside first, and is made anew: [`UNBORN`].
    Unborn,
}

pub(super) const UNBORN: &str =
    "a start was making it when it was cut off, and it cannot be used; nothing was ever written to this store";

pub(super) const OTHER_LOG: &str = "the write-ahead log beside it is not the one that was begun upon it";

/// What the next open would do about records.db before anything else, in words; and what the journal is then read with.
/// Changes nothing.
pub(crate) fn beforehand(folder: &Path, clock: Arc<dyn Clock>) -> Result<Option<(String, Vouch)>, Error> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let reach = || -> Result<Vouch, Error> {
        let reach = journal::tail::reach(disk.as_ref(), folder).map_err(|error| journal_error(folder, error))?;
        let reach = reach.ok_or_else(|| unusable(folder, io::Error::other("no segment of the journal can be read")))?;
        Ok(Vouch { store: reach.store, position: reach.before, frame_hash: reach.hash, incarnation: reach.incarnation })
    };
    if disk.exists(&folder.join("records.made")).map_err(|error| unusable(folder, error))? {
        let what = "put records.made, which an earlier start made of what could be had, in the place of records.db (which goes to \
                    quarantine/)";
        return Ok(Some((what.into(), reach()?)));
    }
    Ok(match look_marked(disk.as_ref(), folder, 1, &clock, &Copying::new(disk.clone(), folder))? {
        Look::Found(..) => None,
        Look::Broken(how, why) => {
            let reached = reach()?;
            if remake::is_of_another(disk.as_ref(), folder, how, reached.store) {
                let what = format!("{}: {}", folder.join("records.db").display(), remake::OF_ANOTHER);
                return Err(Error::new(ErrorKind::Corrupt, what).hint(
                    "put back the files that belong together: a store is its whole folder; nothing was changed",
                ));
            }
            let what = match why.as_str() {
                GONE => format!("records.db: {why}; make it again from the kept copies and the journal"),
                _ => format!(
                    "records.db: {why}; put it aside in quarantine/, and make it again from its rows that verify, the kept copies \
                     and the journal"
                ),
            };
            Some((what, reached))
        }
        Look::OtherLog => {
            let what =
                format!("records.db: {OTHER_LOG}; put the log aside in quarantine/, and apply the journal again");
            Some((what, reach()?))
        }
        // There is nothing to compare with a journal, and nothing to lose.
        Look::Unborn => None,
    })
}

/// Why a records.db that is not there has to be made again.
pub(in crate::embedded) const GONE: &str = "it is not there";

/// [`look`], after what the mark beside records.db says.
pub(super) fn look_marked(
    disk: &dyn Disk,
    folder: &Path,
    readers: usize,
    clock: &Arc<dyn Clock>,
    copying: &Copying,
) -> Result<Look, Error> {
    let path = folder.join("records.db");
    let has_records = disk.exists(&path).map_err(|error| unusable(&path, error))?;
    let main = || RecordsDb::main_stamp(disk.vfs(), &path).ok().filter(|_| has_records);
    let copied = copying.look(main).map_err(|error| unusable(folder, error))?;
    let is_usable = matches!(copied, copying::Found::Idle | copying::Found::Whole);
    if !is_usable && copying.has() == Position(0) && !has_journal(disk, folder)? {
        // The journal is made when records.db is durable, and nothing is acknowledged without it.
        return Ok(Look::Unborn);
    }
    match copied {
        copying::Found::Idle | copying::Found::Whole => {}
        copying::Found::Differs(position) => {
            let what =
                "SQLite's write-ahead log was being copied into it when the process ended, and is not what it was";
            return Ok(Look::Broken(Broken::Torn(Position(position)), what.into()));
        }
        copying::Found::PutBack => {
            let what = "it is of another time than what is written beside it (records.copying)";
            return Ok(Look::Broken(Broken::PutBack, what.into()));
        }
        copying::Found::OtherLog => return Ok(Look::OtherLog),
    }
    look(disk, folder, readers, clock, copied)
}

/// Whether there is any segment of a journal.
fn has_journal(disk: &dyn Disk, folder: &Path) -> Result<bool, Error> {
    let journal = folder.join("journal");
    match disk.list(&journal) {
        Ok(names) => Ok(names.iter().any(|name| name.ends_with(".segment"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unusable(&journal, error)),
    }
}

/// Looks before anything is opened for writing, so that a store that is refused is as it was. `None`: neither records.db nor
/// a journal, a new store.
fn look(
    disk: &dyn Disk,
    folder: &Path,
    readers: usize,
    clock: &Arc<dyn Clock>,
    copied: copying::Found,
) -> Result<Look, Error> {
    let (records, views) = (folder.join("records.db"), folder.join("views.db"));
    let has_journal = has_journal(disk, folder)?;
    let broken = |why: String| Ok(Look::Broken(Broken::Unreadable, why));
    let through = |schema: &Schema, path: &Path| {
        let pool = ReaderPool::open_on(disk.vfs(), path, readers, clock.clone())?;
        let found = schema.look_through(&pool, path)?;
        Ok((pool, found))
    };
    // A crash while records.db was being made leaves an empty one, or one that waits to be rolled back to that, or one with
    // tables and nothing in them. The journal is made when records.db is durable, so there is none then.
    let looked = match disk.exists(&records).map_err(|error| unusable(&records, error))? {
        false if has_journal => return broken(GONE.into()),
        false => None,
        true => match through(&RECORDS_SCHEMA, &records) {
            Ok((_, Found::Empty)) if has_journal => return broken("it is empty".into()),
            Ok((_, Found::Empty)) => None,
            Ok(looked) => Some(looked),
            Err(SqliteError::ReadOnly(_)) if !has_journal => None,
            Err(error) if has_journal && is_broken(&error) => return broken(error.to_string()),
            Err(error) => return Err(database(&records, error)),
        },
    };
    let unborn = |reader: &ReaderPool| reader.read(|connection| RecordsReader::new(connection).is_unborn());
    let Some((reader, found)) = looked.filter(|(reader, _)| has_journal || !unborn(reader).unwrap_or(false)) else {
        return Ok(Look::Found(None, copied));
    };
    let anchor = match reader.read(|connection| RecordsReader::new(connection).anchor()) {
        Err(error) if has_journal && is_broken(&error) => return broken(error.to_string()),
        anchor => anchor.map_err(|error| database(&records, error))?,
    };
    // A crash between making the two leaves a records.db in which nothing was ever applied.
    if !has_journal && anchor.position != Position(0) {
        let message = format!("{} has records.db but no journal: this is half of a store", folder.display());
        return Err(Error::new(ErrorKind::Corrupt, message).hint(
            "bring back journal from where records.db came from, or move the folder away and begin a new store; nothing was changed",
        ));
    }
    let looked_views = match through(&VIEWS_SCHEMA, &views) {
        Ok((_, Found::Empty)) => None,
        Ok(looked) => Some(looked),
        Err(error @ SqliteError::Newer { .. }) => return Err(database(&views, error)),
        Err(_) => None,
    };
    let inspection = match journal::inspect(disk, folder, Some(vouch(&anchor))) {
        Err(error @ OpenError::Mixed { .. }) => {
            let reach = journal::tail::reach(disk, folder).ok().flatten();
            let is_older = |reach: &journal::tail::Reach| {
                reach.store.0 == anchor.store_id && reach.before > anchor.position && !reach.has_unreadable
            };
            return match reach.filter(is_older) {
                Some(reach) => broken(format!(
                    "it stands at position {}, and the journal begins after {}: it is of an earlier time",
                    anchor.position.0, reach.before.0
                )),
                None => Err(journal_error(folder, error)),
            };
        }
        inspection => inspection.map_err(|error| journal_error(folder, error))?,
    };
    let looked = Looked {
        found: Some(found),
        records: Some(reader),
        views: looked_views,
        inspected: Some((anchor, inspection)),
    };
    Ok(Look::Found(Some(Box::new(looked)), copied))
}

/// Whether a records.db that says this has to be made again: it is not what it was.
pub(super) fn is_broken(error: &SqliteError) -> bool {
    matches!(
        error,
        SqliteError::Damaged(_) | SqliteError::Foreign { .. } | SqliteError::Changed { .. } | SqliteError::Sql(_)
    )
}

pub(super) fn vouch(anchor: &Anchor) -> Vouch {
    Vouch {
        store: StoreId(anchor.store_id),
        position: anchor.position,
        frame_hash: anchor.frame_hash,
        incarnation: anchor.incarnation,
    }
}
