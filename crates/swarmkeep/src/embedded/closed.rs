//! The damaged sessions of a store that nobody holds: what the next start would do about each. Reads only.

use std::{collections::BTreeSet, io, path::Path, sync::Arc};

use swarmkeep_core::{
    SessionId,
    log::{LogError, Position, Remove},
    recovery::{Plan, Policy, plan},
};
use swarmkeep_sqlite::{ReaderPool, RecordsReader};

use super::{
    case::Cases,
    keeper::{may_pass, named},
    lane::Lanes,
    quarantine::Quarantine,
    recover::unkept,
    sight::{EachKept, Places},
    unreported::Unreported,
};
use crate::{
    blobs::BlobFiles,
    disk::{Disk, OpenHow},
    journal::{
        Entry, Inspection, StoreId,
        kept::{self, KeptError, KeptFile},
    },
    recovery::{Damaged, Span},
};

/// What starts that were cut off had found, and what the next one finds: damage, and what may have been acknowledged.
pub(crate) fn found(
    disk: Arc<dyn Disk>,
    store_dir: &Path,
    inspection: &Inspection,
) -> io::Result<(Vec<Damaged>, Vec<Span>)> {
    let mut unreported = Unreported::look(disk.clone(), store_dir)?;
    unreported.note_inspection(inspection);
    let (mut damage, possibly_acknowledged) = unreported.told();
    let (cases, damaged) = Cases::look(disk, store_dir)?;
    damage.extend(cases.unknown(&damaged));
    Ok((damage, possibly_acknowledged))
}

/// The plans of all sessions that are not well, and how many were looked at.
pub(crate) fn plans(
    disk: Arc<dyn Disk>,
    store_dir: &Path,
    store: StoreId,
    records: &ReaderPool,
    found: &Inspection,
    policy: Policy,
) -> Result<(u64, Vec<Plan>), LogError> {
    let (lanes, quarantine) = (Lanes::new(), Quarantine::new(disk.clone(), store_dir));
    let (cases, _) = Cases::look(disk.clone(), store_dir).map_err(|error| unkept(&error))?;
    for damage in quarantine.sessions().map_err(|error| unkept(&error))? {
        lanes.set_aside(damage);
    }
    let mut leaving = BTreeSet::new();
    for entry in found.unapplied.iter().flat_map(|frame| &frame.entries) {
        match entry {
            Entry::Records(group) => {
                leaving.remove(&group.session);
                lanes.durable(group);
            }
            Entry::Remove { session, what: Remove::All, .. } => {
                leaving.insert(*session);
                lanes.leaves(*session);
            }
            _ => {}
        }
    }
    let mut unreported = Unreported::look(disk.clone(), store_dir).map_err(|error| unkept(&error))?;
    unreported.note_inspection(found);
    let noted = unreported.set_lost_aside(&lanes, &cases, |session, case| {
        cases.remember(session, case);
        Ok(())
    });
    noted.map_err(|error| unkept(&error))?;
    cases.aside().into_iter().for_each(|damage| lanes.set_aside(damage));

    let all = records.read_unhurried(|connection| RecordsReader::new(connection).session_ids())?;
    let mut sessions: BTreeSet<SessionId> = all.into_iter().chain(lanes.ahead()).collect();
    sessions.extend(lanes.all_aside().iter().filter_map(|damage| damage.session));
    let kept = |each: &mut EachKept<'_>| search_kept(disk.as_ref(), store_dir, store, each);
    let blobs = BlobFiles::at(disk.clone(), store_dir);
    let places = Places {
        disk: disk.as_ref(),
        store_dir,
        store,
        records,
        quarantine: &quarantine,
        blobs: &blobs,
        lanes: &lanes,
        extents: found.extents(),
        through: Position(found.next.0.saturating_sub(1)),
        kept: &kept,
        is_closed: true,
    };
    let mut plans = Vec::new();
    for session in sessions.iter().filter(|session| !leaving.contains(session)) {
        let case = cases.get(*session).unwrap_or_default();
        let Some(sight) = places.look(*session, &case)? else { continue };
        let made = plan(&sight.seen, policy);
        if !made.is_plain() || sight.is_aside {
            plans.push(made);
        }
    }
    Ok((sessions.len() as u64, plans))
}

/// The second copies, newest first; one that is damaged, or of another store, is none.
fn search_kept(disk: &dyn Disk, store_dir: &Path, store: StoreId, each: &mut EachKept<'_>) -> io::Result<()> {
    let folder = store_dir.join("kept");
    let mut names = match disk.list(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    names.retain(|name| kept::file_positions(name).is_some());
    names.sort_unstable();
    let mut failed = None;
    for name in names.iter().rev() {
        let file = disk.open(&folder.join(name), OpenHow::Read).map_err(KeptError::from);
        match file.and_then(|file| each(&KeptFile::read(file, store)?)) {
            Ok(true) => return Ok(()),
            Err(KeptError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(KeptError::Io(error)) if may_pass(&error) => failed = Some(named(name, &error)),
            _ => {}
        }
    }
    failed.map_or(Ok(()), Err)
}
