//! Sessions that did not come back plainly: what was tried, what came of it, what is waited for. One file each,
//! `recovery/SESSION.json`, durable before whatever it announces is begun: an attempt that ends the process is counted.
//!
//! The first line is the BLAKE3 hash of the rest. There is a second copy, `recovery/SESSION.twin`: what a session waits for may
//! stand nowhere else. A file that does not verify is put aside, and made again from the other.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use swarmkeep_core::{
    Seq, SessionId,
    log::Damage,
    recovery::{Ranges, STABLE_MS, Step},
};

use crate::{
    disk::{self, Disk, OpenHow, about, free_name, is_no_file_of_ours, read_whole},
    recovery::{Damaged, DataLoss, Ending, SessionRecovery, StepTaken},
};

/// How the names of the files end.
const CASE: &str = ".json";
const TWIN: &str = ".twin";
/// A longer file is not one of these.
const CASE_BYTES: u64 = 16 << 20;

/// What is known of a session that was, or is, in trouble.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Case {
    /// Attempts that count.
    pub(super) attempts: u32,
    /// The highest seq that something spoke of which may be gone by now: a frame's directory.
    pub(super) known_head: Seq,
    /// The first seq that the journal lost; 0: it lost none, or that was settled.
    #[serde(default)]
    pub(super) missing_from: Seq,
    /// Which losses of the journal are part of this already: a start that is cut off is followed by one that has them again.
    #[serde(default)]
    pub(super) told: Vec<String>,
    /// Checkpoints that verify and from which nothing could be folded.
    pub(super) distrusted: Vec<Seq>,
    /// Records that were listed as lost, by this recovery or an earlier one.
    pub(super) history_lost: Ranges,
    /// Parts that were listed as lost.
    pub(super) parts_lost: Vec<String>,
    /// The newest recovery; absent: damage was met, and nothing was tried yet.
    #[serde(default)]
    pub(super) recovery: Option<SessionRecovery>,
    /// What was met.
    #[serde(default)]
    pub(super) cause: String,
    /// It is in the session's own history.
    #[serde(default)]
    pub(super) is_noted: bool,
    /// It is in the history of recoveries.
    #[serde(default)]
    pub(super) is_reported: bool,
}

impl Case {
    /// The same session, of which records from `first` to `last` are missing as well: what it came to before is void, unless
    /// it waits.
    pub(super) fn lacking(self, first: Seq, last: Seq, cause: &str) -> Self {
        let recovery = if self.waits() { self.recovery } else { None };
        Self {
            known_head: self.known_head.max(last),
            missing_from: if self.missing_from == Seq::ZERO { first } else { self.missing_from.min(first) },
            cause: cause.to_owned(),
            recovery,
            ..self
        }
    }

    pub(super) fn waits(&self) -> bool {
        self.recovery.as_ref().is_some_and(SessionRecovery::waits)
    }

    /// Something is to be done: an attempt was begun and not ended, or damage was met and nothing was tried.
    pub(super) fn is_open(&self) -> bool {
        self.recovery.as_ref().is_none_or(|recovery| recovery.event == Ending::Unfinished)
    }

    /// Counts from zero again what has stood for long enough.
    pub(super) fn settle(&mut self, now_ms: u64) {
        let ended =
            self.recovery.as_ref().filter(|recovery| !recovery.waits()).and_then(|recovery| recovery.ended_at_ms);
        if ended.is_some_and(|ended_ms| now_ms.saturating_sub(ended_ms) >= STABLE_MS) {
            self.attempts = 0;
            self.distrusted.clear();
        }
    }

    pub(super) fn begin(&mut self, steps: &[Step], now_ms: u64) {
        let attempt = self.attempts;
        let Some(recovery) = &mut self.recovery else { return };
        recovery.steps.extend(steps.iter().map(|step| StepTaken {
            step: step.clone(),
            attempt,
            begun_at_ms: now_ms,
            done_at_ms: None,
            failed: None,
        }));
    }

    /// The steps that were begun last came to this.
    pub(super) fn end(&mut self, failed: Option<&str>, now_ms: u64) {
        let steps = self.recovery.iter_mut().flat_map(|recovery| &mut recovery.steps);
        for step in steps.rev().take_while(|step| step.done_at_ms.is_none() && step.failed.is_none()) {
            match failed {
                None => step.done_at_ms = Some(now_ms),
                Some(why) => step.failed = Some(why.to_owned()),
            }
        }
    }
}

/// All of them, and their files.
pub(super) struct Cases {
    disk: Arc<dyn Disk>,
    store: PathBuf,
    all: Mutex<BTreeMap<SessionId, Case>>,
    /// Asked on the way of every write, and rarely true.
    any: AtomicBool,
}

impl Cases {
    /// What is to be said of damaged files of which the second copy cannot be had either, before they are put aside.
    pub(super) fn unknown(&self, damaged: &[(SessionId, String)]) -> Vec<Damaged> {
        let is_unknown = |(session, name): &&(SessionId, String)| self.get(*session).is_none() && name.ends_with(CASE);
        let said = |(session, name): &(SessionId, String)| {
            let what = format!(
                "recovery/{name}: what was known of a damaged session cannot be read, nor can its second copy; put aside in \
                 quarantine/. Whether records of it are missing cannot be told"
            );
            Damaged { sessions: vec![*session], ..Damaged::in_records(DataLoss::Possible, what) }
        };
        damaged.iter().filter(is_unknown).map(said).collect()
    }

    /// Puts aside what is damaged; where its second copy is whole, it is made again from that.
    pub(super) fn mend(&self, damaged: Vec<(SessionId, String)>) -> io::Result<()> {
        for (session, name) in damaged {
            self.put_aside(&name)?;
            if let Some(case) = self.get(session) {
                self.put(session, &case)?;
            }
        }
        Ok(())
    }

    /// Reads what is there, and what is damaged, by name. Changes nothing.
    pub(super) fn look(disk: Arc<dyn Disk>, store: &Path) -> io::Result<(Self, Vec<(SessionId, String)>)> {
        let cases = Self { disk, store: store.to_owned(), all: Mutex::default(), any: AtomicBool::new(false) };
        let mut damaged = Vec::new();
        let folder = cases.folder();
        let mut names = match cases.disk.list(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|error| about("recovery", &error))?,
        };
        // The first copy is never the older one: where it is whole it counts.
        names.sort_by_key(|name| name.ends_with(TWIN));
        for name in names {
            let stem = name.strip_suffix(CASE).or_else(|| name.strip_suffix(TWIN));
            let Some(session) = stem.and_then(|id| id.parse::<SessionId>().ok()) else { continue };
            let file = cases.disk.open(&folder.join(&name), OpenHow::Read);
            let read = file.and_then(|file| read_whole(file.as_ref(), CASE_BYTES));
            match read.map(|bytes| unhashed::<Case>(&bytes)) {
                Ok(Some(_)) if cases.get(session).is_some() => {}
                Ok(Some(case)) => cases.remember(session, case),
                Ok(None) => damaged.push((session, name)),
                Err(error) if is_no_file_of_ours(&error) => damaged.push((session, name)),
                // It may be read another time, and what it says must not be forgotten.
                Err(error) => return Err(about(format_args!("recovery/{name}"), &error)),
            }
        }
        Ok((cases, damaged))
    }

    /// Knows it from now on, until the end of this process.
    pub(super) fn remember(&self, session: SessionId, case: Case) {
        self.all.lock().insert(session, case);
        self.any.store(true, Ordering::Release);
    }

    /// Why each session takes nothing of which the last life of the store left something to be done, or to be decided.
    pub(super) fn aside(&self) -> Vec<Damage> {
        self.each(|session, case| {
            (case.waits() || case.is_open()).then(|| {
                let first = case.recovery.as_ref().map_or(case.missing_from.0.max(1), |last| last.reaches.0 + 1);
                let waits = "the session waits for a decision";
                let what = if case.waits() { waits.to_owned() } else { case.cause.clone() };
                Damage { session: Some(session), seqs: Some(first..=case.known_head.0.max(first)), what }
            })
        })
    }

    fn put_aside(&self, name: &str) -> io::Result<()> {
        tracing::error!(name, "the record of a recovery is damaged; put aside");
        let (folder, quarantine) = (self.folder(), self.store.join("quarantine"));
        self.disk.create_dir(&quarantine)?;
        let aside = free_name(self.disk.as_ref(), &quarantine, &format!("recovery-{name}"))?;
        self.disk.rename(&folder.join(name), &quarantine.join(aside))?;
        self.disk.sync_dir(&quarantine)?;
        self.disk.sync_dir(&folder)
    }

    fn folder(&self) -> PathBuf {
        self.store.join("recovery")
    }

    /// What is known of a session.
    pub(super) fn get(&self, session: SessionId) -> Option<Case> {
        self.see(session, Case::clone)
    }

    pub(super) fn see<T>(&self, session: SessionId, look: impl FnOnce(&Case) -> T) -> Option<T> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.all.lock().get(&session).map(look)
    }

    /// Every session of which something is known, and of that what `look` takes.
    pub(super) fn each<T>(&self, mut look: impl FnMut(SessionId, &Case) -> Option<T>) -> Vec<T> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.all.lock().iter().filter_map(|(session, case)| look(*session, case)).collect()
    }

    /// Keeps it, durably, in the place of what was known before.
    pub(super) fn put(&self, session: SessionId, case: &Case) -> io::Result<()> {
        let bytes = hashed(case)?;
        let folder = self.folder();
        self.disk.create_dir(&folder)?;
        self.disk.sync_dir(&self.store)?;
        for end in [CASE, TWIN] {
            disk::replace(self.disk.as_ref(), &folder, &format!("{session}{end}"), &bytes)?;
        }
        self.remember(session, case.clone());
        Ok(())
    }
}

/// JSON with its BLAKE3 hash in a line before it.
pub(super) fn hashed(of: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(of).map_err(io::Error::other)?;
    Ok([blake3::hash(&body).to_hex().as_bytes(), b"\n", &body].concat())
}

/// What was written so, if it is what was written.
pub(super) fn unhashed<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (hash, body) = bytes.split_at_checked(64)?;
    let body = body.strip_prefix(b"\n")?;
    let said = std::str::from_utf8(hash).ok()?;
    (blake3::hash(body).to_hex().as_str() == said).then_some(())?;
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn attempts_count_from_zero_again_after_a_stable_period_and_never_while_it_waits() {
        let recovery = |event: &str| {
            serde_json::from_value(serde_json::json!({
                "id": "recovery-1-1", "session": SessionId([7; 16]), "event": event, "cause": "", "begun_at_ms": 1,
                "ended_at_ms": 1_000, "took_ms": 1, "attempts": 2, "steps": [], "restored": [], "from": 0,
                "records_replayed": 0, "reaches": 9, "lost": [], "history_lost": [], "parts_lost": [],
                "entities_lost": [], "data_loss_percent": 0.0,
                "plan": swarmkeep_core::recovery::plan(&Default::default(), Default::default()),
            }))
        };
        for (event, after_ms, left) in [
            ("session_recovered", STABLE_MS - 1, 2),
            ("session_recovered", STABLE_MS, 0),
            ("session_recovered_with_loss", STABLE_MS, 0),
            ("session_needs_decision", 10 * STABLE_MS, 2),
        ] {
            let recovery = Some(recovery(event).unwrap());
            let mut case = Case { attempts: 2, distrusted: vec![Seq(5)], recovery, ..Case::default() };
            case.settle(1_000 + after_ms);
            assert_eq!((case.attempts, case.distrusted.is_empty()), (left, left == 0), "{event} after {after_ms}");
        }
    }

    #[test]
    fn a_case_comes_back_from_either_of_its_copies() {
        let folder = tempfile::tempdir().unwrap();
        let opened = || {
            let (cases, damaged) = Cases::look(Arc::new(RealDisk), folder.path()).unwrap();
            let unknown = cases.unknown(&damaged);
            cases.mend(damaged).unwrap();
            (cases, unknown)
        };
        let open = || opened().0;
        let session = SessionId([7; 16]);
        let case = Case { attempts: 2, known_head: Seq(9), cause: "met".into(), ..Case::default() };
        assert!(open().get(session).is_none());
        open().put(session, &case).unwrap();
        let read = open().get(session).unwrap();
        assert_eq!((read.attempts, read.known_head, read.cause.as_str()), (2, Seq(9), "met"));
        assert!(read.is_open() && !read.waits());
        let at = |end: &str| folder.path().join(format!("recovery/{session}.{end}"));
        let whole = std::fs::read(at("json")).unwrap();
        for (end, other) in [("json", "twin"), ("twin", "json")] {
            for place in [0, 64, 70, whole.len() - 1] {
                let mut bytes = whole.clone();
                bytes[place] ^= 4;
                std::fs::write(at(end), bytes).unwrap();
                let (cases, unknown) = opened();
                assert_eq!((cases.get(session).unwrap().known_head, unknown.len()), (Seq(9), 0), "{end} {place}");
                assert!(folder.path().join(format!("quarantine/recovery-{session}.{end}")).exists());
                assert_eq!(std::fs::read(at(end)).unwrap(), whole, "made again");
            }
            std::fs::remove_file(at(end)).unwrap();
            assert_eq!(open().get(session).unwrap().known_head, Seq(9), "the other is enough");
            open().put(session, &case).unwrap();
            assert_eq!(std::fs::read(at(other)).unwrap(), whole);
        }
        // Both: that is said, as nobody knows any more what was waited for.
        std::fs::write(at("json"), &whole[..20]).unwrap();
        std::fs::write(at("twin"), b"").unwrap();
        let (cases, unknown) = opened();
        assert!(cases.get(session).is_none() && unknown.len() == 1, "{unknown:?}");
        assert!(unknown[0].what.starts_with(&format!("recovery/{session}.json")) && unknown[0].sessions == [session]);
        let (path, count) = (at("json"), || std::fs::read_dir(folder.path().join("quarantine")).unwrap().count());
        let before = count();
        std::fs::create_dir(&path).unwrap();
        assert!(open().get(session).is_none(), "a folder is none, and keeps no store from opening");
        assert_eq!(count(), before + 1, "none was written over by another");
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let error = Cases::look(Arc::new(RealDisk), folder.path()).err().unwrap();
        assert!(error.to_string().contains(&format!("recovery/{session}.json")), "it is named: {error}");
    }
}
