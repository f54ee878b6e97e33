//! Files of copies of a store are damaged, one place a copy; then a daemon is started on it and asked for everything.

use std::{
    fs::{self, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use super::{cannot, copy, prove, until_up};
use crate::{
    client::Client,
    failure::{Exit, Failure},
    swarm::{check, dice::Dice, folder::Folder, process::Daemon, show::Show},
    verb::{entries, field, number},
};

/// Copies that are damaged, at least.
const TRIALS_MIN: u64 = 12;
/// Every so many copies one stays as it is: an alarm there is a false one.
const CLEAN_EVERY: u64 = 4;
/// The exit codes of a daemon that refuses a store and says why.
const REFUSED: [i32; 3] = [Exit::Refused as i32, Exit::Unavailable as i32, Exit::Corrupt as i32];

/// How well damage was noticed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Detection {
    /// Copies with a damaged place.
    pub(crate) damaged: u64,
    /// Of those: it was found, and said.
    pub(crate) found: u64,
    /// Of the found: every acknowledged record was there all the same.
    pub(crate) without_loss: u64,
    /// Of the damaged: the bytes made no difference (padding, free pages), and every answer was right.
    pub(crate) without_effect: u64,
    /// Of the damaged: an answer was wrong, or something was gone, and nothing was said.
    pub(crate) missed: u64,
    /// Copies that were left as they are.
    pub(crate) clean: u64,
    /// Of those: an alarm.
    pub(crate) false_alarms: u64,
    /// `100 × (found + without effect + clean - false alarms) ÷ (damaged + clean)`.
    pub(crate) accuracy_percent: f64,
    /// What is wrong.
    #[serde(skip)]
    pub(crate) wrong: Vec<String>,
}

impl Detection {
    pub(crate) fn trials(&self) -> u64 {
        self.damaged + self.clean
    }

    pub(crate) fn is_good(&self) -> bool {
        self.missed == 0 && self.false_alarms == 0
    }

    #[allow(clippy::cast_precision_loss, reason = "a percentage of small counts")]
    fn count(&mut self) {
        let right = self.found + self.without_effect + self.clean - self.false_alarms;
        self.accuracy_percent = 100.0 * right as f64 / self.trials().max(1) as f64;
    }
}

/// What a daemon made of a copy.
#[derive(Debug, Default)]
struct Seen {
    /// It said that something is damaged, in one way or another.
    alarm: Option<String>,
    /// What was acknowledged is not what is there.
    harm: Option<String>,
}

/// Tries copies of the run's store, which nobody holds, for about `seconds`.
pub(super) async fn run(folder: &Folder, seconds: u64, seed: u64, json: bool) -> Result<Detection, Failure> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let show = Show::new(json, seconds, &[]);
    let began = Instant::now();
    let mut dice = Dice::new(seed ^ 0x000c_0fff_ee00);
    let mut detection = Detection::default();
    let copied = folder.store.with_file_name("copy");
    while detection.trials() < TRIALS_MIN || Instant::now() < end {
        let trial = Folder { store: copied.clone(), notes: folder.notes.clone() };
        clear(&copied).and_then(|()| copy(&folder.store, &copied)).map_err(|error| cannot(&copied, &error))?;
        let is_clean = detection.trials() % CLEAN_EVERY == CLEAN_EVERY - 1;
        let place = if is_clean {
            "nothing".to_owned()
        } else {
            damage(&copied, &mut dice).map_err(|error| cannot(&copied, &error))?
        };
        let seen = look(&trial).await?;
        match (is_clean, &seen.alarm, &seen.harm) {
            (true, None, None) => detection.clean += 1,
            (true, alarm, harm) => {
                detection.clean += 1;
                detection.false_alarms += 1;
                let what = alarm.as_ref().or(harm.as_ref()).cloned().unwrap_or_default();
                detection.wrong.push(format!("an alarm about a copy that was not touched: {what}"));
            }
            (false, Some(_), harm) => {
                detection.damaged += 1;
                detection.found += 1;
                detection.without_loss += u64::from(harm.is_none());
            }
            (false, None, None) => {
                detection.damaged += 1;
                detection.without_effect += 1;
            }
            (false, None, Some(harm)) => {
                detection.damaged += 1;
                detection.missed += 1;
                detection.wrong.push(format!("{place}: nothing was said, and {harm}"));
            }
        }
        show.time(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
    show.end();
    if detection.is_good() {
        clear(&copied).map_err(|error| cannot(&copied, &error))?;
    }
    detection.count();
    Ok(detection)
}

/// Starts a daemon on the copy and asks it for everything.
async fn look(folder: &Folder) -> Result<Seen, Failure> {
    let mut daemon = Daemon::start(folder, &[]).map_err(|error| cannot(&folder.store, &error))?;
    let mut client = match until_up(folder, &mut daemon).await {
        Ok(client) => client,
        Err(how) => {
            // A refusal is an answer; a crash is none.
            let refused = REFUSED.iter().any(|code| how.ends_with(&format!("exit status: {code}")));
            let said = format!("the daemon ended: {how}");
            return Ok(if refused {
                Seen { alarm: Some(said), harm: Some("the store does not open".into()) }
            } else {
                Seen { alarm: None, harm: Some(said) }
            });
        }
    };
    let mut seen = Seen::default();
    match check::check(folder, &folder.socket()).await {
        Ok(verdict) if verdict.is_good() => {}
        Ok(verdict) => seen.harm = Some(verdict.wrong.join("; ")),
        Err(failure) if failure.exit == Exit::Corrupt => {
            seen.alarm = Some(failure.what.clone());
            seen.harm = Some(failure.what);
        }
        Err(failure) => seen.harm = Some(failure.what),
    }
    match alarms(&mut client, &folder.store).await {
        Ok(Some(alarm)) => seen.alarm = Some(alarm),
        Ok(None) => {}
        Err(failure) if failure.exit == Exit::Corrupt => seen.alarm = Some(failure.what),
        Err(failure) => seen.harm = Some(failure.what),
    }
    daemon.kill().await.map_err(|error| cannot(&folder.store, &error))?;
    Ok(seen)
}

/// What the store says of damage: at its start, when all of it is read, and by what it put aside.
async fn alarms(client: &mut Client, store: &Path) -> Result<Option<String>, Failure> {
    let proof = prove(client).await?;
    for list in ["findings", "repaired"] {
        if let Some(first) = entries(field(&proof, list), "").first() {
            return Ok(Some(format!("{list}: {first}")));
        }
    }
    let answer = check::get(client, "/v1/recoveries").await?;
    if let Some(last) = entries(&answer, "recoveries").first() {
        for list in ["damage", "possibly_acknowledged"] {
            if let Some(first) = entries(field(last, list), "").first() {
                return Ok(Some(format!("{list}: {first}")));
            }
        }
        if number(last, "sessions_failed") > 0 {
            return Ok(Some("a session did not come back".into()));
        }
    }
    let aside = fs::read_dir(store.join("quarantine")).into_iter().flatten().flatten().next();
    Ok(aside.map(|entry| format!("put aside: {}", entry.file_name().to_string_lossy())))
}

/// Damages one place of one file, and says which and how.
fn damage(store: &Path, dice: &mut Dice) -> io::Result<String> {
    let mut files = Vec::new();
    list(store, &mut files)?;
    files.sort();
    // Kinds first: there are many segments, and one records.db.
    let kinds = ["records.db", "views.db", "journal/", "kept/", "blobs/", "-wal"];
    let kind = kinds.get(usize::try_from(dice.between(0, kinds.len() as u64)).unwrap_or(0)).copied().unwrap_or("");
    let of_kind: Vec<PathBuf> = files
        .iter()
        .filter(|file| file.strip_prefix(store).unwrap_or(file).to_string_lossy().contains(kind))
        .cloned()
        .collect();
    let Some(path) = dice.pick(if of_kind.is_empty() { &files } else { &of_kind }).cloned() else {
        return Err(io::Error::other("there is no file to damage"));
    };
    let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
    let length = file.metadata()?.len();
    let at = dice.between(0, length.max(1));
    let how = match dice.between(0, 3) {
        0 => {
            let mut byte = [0];
            file.read_at(&mut byte, at)?;
            file.write_at(&byte.map(|byte| byte ^ (1 << dice.between(0, 8))), at)?;
            "a bit flipped"
        }
        1 => {
            let zeros = usize::try_from(length.saturating_sub(at).min(512)).unwrap_or(512);
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&vec![0; zeros])?;
            "512 bytes zeroed"
        }
        _ => {
            file.set_len(at)?;
            "cut off"
        }
    };
    Ok(format!("{}: {how} at byte {at} of {length}", path.strip_prefix(store).unwrap_or(&path).display()))
}

/// Files with content; what a daemon makes for itself is left out.
fn list(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            list(&entry.path(), files)?;
        } else if metadata.is_file() && metadata.len() > 0 && entry.file_name() != "lock" {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn clear(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_changes_one_file_and_says_which() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("journal")).unwrap();
        let files = ["records.db", "journal/1.segment"].map(|name| dir.path().join(name));
        for seed in 0..60 {
            for file in &files {
                fs::write(file, [0xa5; 2048]).unwrap();
            }
            let said = damage(dir.path(), &mut Dice::new(seed)).unwrap();
            let changed: Vec<_> = files.iter().filter(|file| fs::read(file).unwrap() != [0xa5; 2048]).collect();
            assert_eq!(changed.len(), 1, "{said}");
            assert!(said.starts_with(changed[0].strip_prefix(dir.path()).unwrap().to_str().unwrap()), "{said}");
        }
    }

    #[test]
    fn what_was_missed_or_invented_counts_against_it() {
        let mut detection =
            Detection { damaged: 6, found: 4, without_effect: 1, missed: 1, clean: 2, ..Detection::default() };
        detection.count();
        assert!(!detection.is_good());
        assert!((detection.accuracy_percent - 87.5).abs() < 1e-9, "{detection:?}");
    }
}
