//! Corruption of every kind of file: a place flipped, zeroed, swapped with another, cut off, filled with foreign bytes, or
//! a file put back as it was earlier. Nothing wrong is served, nothing acknowledged is gone in silence, and what stands a
//! second time is put right.
//!
//! Detection is counted as a confusion matrix. Positive: the harm changed what the store needs. Harm to bytes that nobody
//! reads (free pages, what lies behind a segment's end) is counted apart: everything was there, and nothing had to be said.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use swarmkeep::{
    Settings, Swarmkeep,
    disk::simulated::{Loss, SimDisk},
    embedded::EmbeddedLog,
    journal::inspect,
};
use swarmkeep_core::{
    Seq, SessionId,
    log::{Head, Log},
    record,
    testing::Draw,
};
use tokio::runtime::Runtime;

use super::{
    check::Checked,
    figures::{self, images, now_ms, runtime, seed, spread},
    power::History,
    world::{Fixed, Owed, STORE, Story, open},
};

/// Bytes of a segment's header.
const HEADER: usize = 4096;

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    /// One bit.
    Flip,
    /// A run of bytes becomes zeros.
    Zero,
    /// Two runs of bytes change places.
    Swap,
    /// The rest of the file is gone.
    Cut,
    /// The file is as it was earlier in its life.
    Old,
    /// A run of bytes comes from somewhere else.
    Foreign,
}

impl Harm {
    const ALL: [Self; 6] = [Self::Flip, Self::Zero, Self::Swap, Self::Cut, Self::Old, Self::Foreign];
}

/// What became of a harmed store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Not opened, with a typed error that says why.
    Refused(String),
    /// Said, and something stays damaged: what it is. Whether everything that is owed is served all the same.
    Found(String, bool),
    /// Said, and everything is there again.
    Repaired,
    /// Nothing was said, and everything is there.
    Unread,
}

/// A store as it lies on a disk, with what is owed of it, and its files as they were earlier.
pub struct Base {
    disk: SimDisk,
    story: Arc<Story>,
    kept: bool,
    owed: BTreeMap<SessionId, Owed>,
    /// The oldest first.
    earlier: Vec<SimDisk>,
    name: String,
}

impl Base {
    /// Stores of one history: some whose process died, and one that was parked.
    pub fn of(seed: u64, opens: usize, steps: usize, most: usize) -> Vec<Self> {
        let history = History::of(seed, opens, steps);
        let (story, moments) = (Arc::new(history.story), history.moments);
        let step = (moments.len() / 60).max(1);
        let base = |disk: SimDisk, at: usize, noted: u64, name: String| Self {
            disk,
            earlier: moments[..at].iter().step_by(step).cloned().collect(),
            owed: story.owed(usize::try_from(noted).unwrap()),
            story: story.clone(),
            kept: history.kept,
            name,
        };
        let mut bases = Vec::new();
        for nth in 1..=most {
            let at = nth * (moments.len() - 1) / most;
            let killed = moments[at].fork().crash(Loss::Everything, 0);
            bases.push(base(killed, at, moments[at].noted(), format!("seed {seed}, moment {at}")));
        }
        let parked = moments[moments.len() - 1].fork().crash(Loss::Everything, 0);
        let log = open(&parked, history.kept, seed + 77).unwrap();
        log.close().unwrap();
        drop(log);
        let noted = moments[moments.len() - 1].noted();
        bases.push(base(parked.crash(Loss::Everything, 0), moments.len(), noted, format!("seed {seed}, parked")));
        bases
    }
}

fn kind(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    let name = path.file_name().unwrap().to_string_lossy();
    match () {
        () if name.ends_with(".segment") => "segment",
        () if name.starts_with("spare-") => "spare",
        () if name.ends_with("-shm") => "shm",
        () if name == "records.db" => "records.db",
        () if name == "records.db-wal" => "records.db-wal",
        () if name == "views.db" => "views.db",
        () if name == "views.db-wal" => "views.db-wal",
        () if text.contains("/blobs/") => "blob file",
        () if text.contains("/kept/") => "kept copy",
        () if text.contains("/quarantine/") => "quarantine",
        () => "other",
    }
}

/// Harms a file of a fork of the base; `None`: nothing is other than before.
fn harm(base: &Base, disk: &SimDisk, path: &Path, how: Harm, draw: &mut Draw) -> Option<Vec<u8>> {
    let before = disk.contents(path)?;
    let mut after = before.clone();
    // Most of a segment's size are zeros that were never written: what is harmed lies where something is.
    let used = before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let used = before.len().min(used + 512);
    let run = [1, 16, 512, 4096][draw.below(4)].min(used.max(1));
    // Sectors and pages go as a whole.
    let step = if run >= 512 { run } else { 1 };
    let at = draw.below(used + 1 - run.min(used)) / step * step;
    match how {
        Harm::Flip => *after.get_mut(draw.below(used.max(1)))? ^= 1 << draw.below(8),
        Harm::Zero => after.get_mut(at..at + run)?.fill(0),
        Harm::Foreign => {
            let mut bytes = vec![0; run];
            blake3::Hasher::new().update(&draw.number().to_le_bytes()).finalize_xof().fill(&mut bytes);
            after.get_mut(at..at + run)?.copy_from_slice(&bytes);
        }
        Harm::Swap => {
            let other = draw.below(used + 1 - run.min(used)) / step * step;
            let (here, there) = (before.get(at..at + run)?, before.get(other..other + run)?);
            if at.abs_diff(other) < run {
                return None;
            }
            after.get_mut(at..at + run)?.copy_from_slice(there);
            after.get_mut(other..other + run)?.copy_from_slice(here);
        }
        Harm::Cut => after.truncate(at),
        Harm::Old => {
            let versions: BTreeSet<Vec<u8>> = base.earlier.iter().filter_map(|disk| disk.contents(path)).collect();
            after = versions.into_iter().nth(draw.below(8))?;
        }
    }
    if after == before {
        return None;
    }
    disk.alter(path, |bytes| bytes.clone_from(&after));
    Some(after)
}

/// Whether the harm made the newest segment what it once was, so that the end of the journal is an earlier end: nothing
/// vouches for what came after but records.db, as far as that had come.
fn is_an_earlier_end(base: &Base, job: &Job, after: &[u8]) -> bool {
    let newest = base.disk.files().into_iter().rfind(|file| kind(file) == "segment");
    let Some(whole) = base.disk.contents(&job.path).filter(|_| newest.as_ref() == Some(&job.path)) else {
        return false;
    };
    if job.how == Harm::Old {
        return true;
    }
    if whole.len() != after.len() {
        return false;
    }
    let changed: Vec<usize> = (0..after.len()).filter(|at| whole[*at] != after[*at]).collect();
    let Some(beyond) = changed.last().map(|last| last + 1) else { return false };
    // Zeros, as in a file that nobody has written that far, or has not in this use of it: what lies beyond is of another.
    let is_of_another_use = |file: &PathBuf, disk: &SimDisk| {
        disk.contents(file).is_some_and(|other| {
            other.len() == after.len() && other[beyond..] == after[beyond..] && other[..HEADER] != whole[..HEADER]
        })
    };
    // Zeros through where it ended: what is left is a segment that was written that far, and what an earlier use left.
    let number = job.path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
    let seen = inspect(&base.disk, Path::new(STORE), None).ok();
    let end = seen.and_then(|seen| seen.extents().into_iter().find(|extent| Some(extent.number) == number)?.end);
    let are_zeros = changed.iter().all(|at| after[*at] == 0);
    if are_zeros && end.is_some_and(|end| beyond as u64 >= end) {
        return true;
    }
    // Bytes of another segment look as what an earlier use of this one left.
    (job.how == Harm::Foreign || are_zeros)
        && (after[beyond..].iter().all(|byte| *byte == 0)
            || base.earlier.iter().any(|disk| disk.files().iter().any(|file| is_of_another_use(file, disk))))
}

/// What was found when everything that is owed was asked for.
#[derive(Debug, Default)]
struct Asked {
    /// Answers that say that something is damaged.
    said: Vec<String>,
    /// What is not there, without an answer that says so.
    gone: Vec<String>,
    /// Where each session ends.
    ends: BTreeMap<SessionId, u64>,
    checked: Checked,
}

impl Asked {
    fn is_whole(&self) -> bool {
        self.said.is_empty() && self.gone.is_empty()
    }
}

/// Reads all sessions. `Err`: something was served that is not what was written. Beyond where sessions ended when they were
/// asked for `before` an engine has written: that agents are overdue, that effects are in doubt.
async fn ask(log: &EmbeddedLog, base: &Base, before: Option<&Asked>) -> Result<Asked, String> {
    let mut asked = Asked::default();
    for (id, owed) in &base.owed {
        let ended = before.map(|before| before.ends.get(id).copied().unwrap_or(owed.acknowledged));
        session(log, *id, base, owed, ended, &mut asked)
            .await
            .map_err(|error| format!("session {id}, {owed:?}: {error}"))?;
    }
    Ok(asked)
}

async fn session(
    log: &EmbeddedLog,
    id: SessionId,
    base: &Base,
    owed: &Owed,
    ended: Option<u64>,
    asked: &mut Asked,
) -> Result<(), String> {
    let life = &base.story.lives[&id];
    let head = match log.head(id).await {
        Err(error) => {
            asked.said.push(format!("head: {error:?}"));
            return Ok(());
        }
        Ok(None) => {
            if owed.acknowledged > 0 && !owed.removing {
                asked.gone.push(format!("session {id}"));
            }
            return Ok(());
        }
        Ok(Some(head)) => head,
    };
    let seq = head.seq.0;
    if owed.removed {
        // As bad as one that is gone: where the commit that took it away is in damaged pages, the store has to say so.
        asked.gone.push(format!("session {id}: it was removed, and is back"));
        return Ok(());
    }
    if seq < owed.acknowledged && !owed.removing {
        asked.gone.push(format!("session {id} after {seq}"));
    }
    let known = ended.unwrap_or(seq);
    if seq < known {
        asked.gone.push(format!("session {id} after {seq}, which had been served through {known}"));
    }
    asked.ends.insert(id, seq.min(known));
    if seq <= known && (!life.ends.contains(&seq) || life.records[seq as usize - 1] != head.hash) {
        return Err(format!("it ends at {seq} with {}, where no group does", head.hash));
    }
    let checkpoint = match log.load(id, head.seq).await {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            asked.said.push(format!("checkpoint: {error:?}"));
            return Ok(());
        }
    };
    let stands = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.head.seq.0);
    if let Some(checkpoint) = checkpoint.as_ref().filter(|_| stands <= known) {
        let state = checkpoint.state()?;
        asked.checked.states += 1;
        if life.states.get(&stands).is_none_or(|known| *known != state.hash()) {
            return Err(format!("the checkpoint at {stands} is another state"));
        }
    }
    let floor = owed.trimmed.iter().copied().filter(|seq| *seq <= stands).max().unwrap_or(0);
    let bytes = match log.read(id, Seq(floor), usize::MAX).await {
        Ok(bytes) => bytes,
        Err(error) => {
            asked.said.push(format!("read: {error:?}"));
            return Ok(());
        }
    };
    let previous = floor.checked_sub(1).map(|at| life.records[at as usize]).unwrap_or_default();
    let mut at = Head { seq: Seq(floor), hash: previous, time_ms: 0 };
    for view in record::iter(&bytes) {
        let view = view.map_err(|error| error.to_string())?;
        at = view.follows(id, at).map_err(|error| error.to_string())?;
        if at.seq.0 <= known && life.records.get(at.seq.0 as usize - 1) != Some(&at.hash) {
            return Err(format!("record {} is another one", at.seq));
        }
        asked.checked.acknowledged += u64::from(at.seq.0 <= owed.acknowledged);
    }
    // An engine that writes meanwhile may have gone on since.
    if at.seq < head.seq {
        asked.gone.push(format!("session {id}: records end at {}, the head is at {seq}", at.seq));
    }
    for (introduced, blob) in life.blobs.iter().filter(|(at, _)| *at <= seq.min(known) && *at > floor) {
        match log.blob(id, *blob).await {
            Ok(bytes) if blake3::hash(&bytes).as_bytes() == &blob.0 => asked.checked.blobs += 1,
            Ok(_) => return Err(format!("blob {blob} is another one")),
            Err(swarmkeep_core::log::LogError::NotFound) => asked.gone.push(format!("blob of seq {introduced}")),
            Err(error) => asked.said.push(format!("blob: {error:?}")),
        }
    }
    Ok(())
}

/// What the store says by itself at a start.
fn announced(log: &EmbeddedLog) -> Vec<String> {
    let (report, standing) = (log.opening_report(), log.standing());
    let mut said: Vec<String> = report.damage.into_iter().map(|damage| damage.what).collect();
    said.extend(report.possibly_acknowledged.iter().map(|span| format!("possibly acknowledged: {span:?}")));
    said.extend(report.views_rebuilt.then(|| "views rebuilt".into()));
    said.extend(standing.set_aside.iter().map(|aside| format!("set aside: {}", aside.what)));
    said.extend(standing.kept.lost.iter().map(|lost| format!("second copy: {lost}")));
    said.extend(standing.trouble.map(|trouble| format!("trouble: {trouble}")));
    said.extend(standing.views_trouble.map(|trouble| format!("views: {trouble}")));
    said
}

async fn engine(log: Arc<EmbeddedLog>, fixed: Arc<Fixed>) -> Swarmkeep {
    Swarmkeep::over_embedded(log, Settings::default(), fixed.clone(), fixed).await.unwrap()
}

/// Opens the store, asks for everything, has it verified and repaired, and asks again; once in a while after another start.
async fn live(disk: &SimDisk, base: &Base, again: bool, seed: u64) -> Result<(Verdict, Checked), String> {
    let log = match open(disk, base.kept, seed) {
        Ok(log) => Arc::new(log),
        Err(error) => return Ok((Verdict::Refused(error.to_string()), Checked::default())),
    };
    let mut said = announced(&log);
    let first = ask(&log, base, None).await?;
    let keep = engine(log.clone(), Fixed::new(seed + 1)).await;
    let repaired = keep.repair(None, |_| {}).await;
    match &repaired {
        Err(error) => said.push(format!("verify: {error}")),
        Ok(report) => {
            said.extend(report.findings.iter().map(|finding| format!("{}: {}", finding.place, finding.what)));
            said.extend(report.made_again.iter().map(|made| format!("made again: {made}")));
            said.extend(report.repaired.iter().map(|repair| format!("repaired {} from {}", repair.what, repair.from)));
            said.extend(report.behind.iter().map(|behind| format!("behind: {behind}")));
        }
    }
    said.extend(announced(&log));
    said.extend(log.made_again());
    let mut checked = first.checked;
    said.extend(first.said.iter().cloned());
    let mut rest: Vec<String> = Vec::new();
    let mut second = None;
    if !said.is_empty() || !first.is_whole() {
        let asked = ask(&log, base, Some(&first)).await?;
        checked += asked.checked;
        match keep.verify(None, |_| {}).await {
            Ok(report) => {
                rest.extend(report.findings.iter().map(|finding| format!("{}: {}", finding.place, finding.what)))
            }
            Err(error) => rest.push(format!("verify: {error}")),
        }
        rest.extend(asked.said.iter().chain(&asked.gone).cloned());
        second = Some(asked);
    }
    if figures::number("SWARMKEEP_DISK_ONLY", 0) != 0 && !said.is_empty() {
        println!("SAID {said:#?}\nREST {rest:#?}");
    }
    let second = second.as_ref().unwrap_or(&first);
    if said.iter().any(|line| line.contains("panic")) {
        return Err(format!("a panic: {said:?}"));
    }
    if said.is_empty() && !second.is_whole() {
        return Err(format!("LOST, and nothing says so: {:?}", second.gone));
    }
    let whole_all_the_same = second.is_whole();
    if again {
        let whole = rest.is_empty();
        keep.close().await.ok();
        drop((keep, log));
        let log = open(disk, base.kept, seed + 2).map_err(|error| format!("the second start: {error:?}"))?;
        let third = ask(&log, base, Some(second)).await.map_err(|error| format!("the second start: {error}"))?;
        checked += third.checked;
        if whole && !third.is_whole() {
            return Err(format!("whole, and after another start not: {third:?}, {:?}", announced(&log)));
        }
    }
    let verdict = match (said.is_empty(), rest.into_iter().next()) {
        (true, None) => Verdict::Unread,
        (_, None) => Verdict::Repaired,
        (_, Some(rest)) => Verdict::Found(rest, whole_all_the_same),
    };
    Ok((verdict, checked))
}

/// One corruption to try.
struct Job {
    base: usize,
    path: PathBuf,
    how: Harm,
    seed: u64,
}

fn jobs(bases: &[Base], most: usize, seed: u64, wanted: impl Fn(&str) -> bool) -> Vec<Job> {
    let mut draw = Draw::new(seed ^ 0x5eed);
    let mut jobs = Vec::new();
    let by_kind: Vec<BTreeMap<&str, Vec<PathBuf>>> = bases
        .iter()
        .map(|base| {
            let mut kinds: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
            for path in base.disk.files().into_iter().filter(|path| wanted(kind(path))) {
                if base.disk.contents(&path).is_some_and(|bytes| !bytes.is_empty()) {
                    kinds.entry(kind(&path)).or_default().push(path);
                }
            }
            kinds
        })
        .collect();
    while jobs.len() < most {
        let base = draw.below(bases.len());
        let kinds: Vec<_> = by_kind[base].values().collect();
        if kinds.is_empty() {
            continue;
        }
        let files = kinds[draw.below(kinds.len())];
        let path = files[draw.below(files.len())].clone();
        jobs.push(Job { base, path, how: Harm::ALL[draw.below(Harm::ALL.len())], seed: draw.number() });
    }
    jobs
}

/// What came of a number of corruptions.
#[derive(Default)]
struct Matrix {
    by: BTreeMap<(&'static str, Harm), [u64; 6]>,
    /// What stays damaged, how often, and one job of those with all it says.
    rest: BTreeMap<String, (u64, u64, String)>,
    clean: u64,
    alarms: Vec<String>,
    unchanged: u64,
}

/// Without what differs from trial to trial.
fn reason(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    text.split('#')
        .filter(|part| part.len() > 2)
        .take(3)
        .collect::<Vec<_>>()
        .join("#")
        .replace('\n', " ")
        .chars()
        .take(110)
        .collect()
}

fn count(matrix: &Matrix, column: usize) -> u64 {
    matrix.by.values().map(|row| row[column]).sum()
}

const REFUSED: usize = 0;
const FOUND: usize = 1;
const REPAIRED: usize = 2;
const UNREAD: usize = 3;
const EARLIER_END: usize = 4;
const SERVED: usize = 5;

fn attempt(runtime: &Runtime, base: &Base, job: &Job, matrix: &Mutex<Matrix>) -> Option<Result<Checked, String>> {
    let disk = base.disk.fork().crash(Loss::Everything, 0);
    let mut draw = Draw::new(job.seed);
    let Some(after) = harm(base, &disk, &job.path, job.how, &mut draw) else {
        matrix.lock().unwrap().unchanged += 1;
        return None;
    };
    let outcome = runtime.block_on(live(&disk, base, draw.one_in(6), job.seed >> 8));
    let _ = disk.kill();
    let at = (kind(&job.path), job.how);
    let add = |column: usize, rest: Option<String>| {
        let mut matrix = matrix.lock().unwrap();
        matrix.by.entry(at).or_default()[column] += 1;
        if let Some(rest) = rest {
            let (times, one, whole) = matrix.rest.entry(format!("{}: {}", at.0, reason(&rest))).or_default();
            *times += 1;
            (*one, *whole) = (job.seed, rest);
        }
    };
    if figures::number("SWARMKEEP_DISK_ONLY", 0) != 0 {
        println!("{outcome:?}");
    }
    match outcome {
        Ok((verdict, checked)) => {
            match verdict {
                Verdict::Refused(why) => add(REFUSED, Some(format!("refused: {why}"))),
                Verdict::Found(rest, true) => add(SERVED, Some(format!("served: {rest}"))),
                Verdict::Found(rest, false) => add(FOUND, Some(format!("not whole: {rest}"))),
                Verdict::Repaired => add(REPAIRED, None),
                Verdict::Unread => add(UNREAD, None),
            }
            Some(Ok(checked))
        }
        Err(error) if error.starts_with("LOST") && is_an_earlier_end(base, job, &after) => {
            add(EARLIER_END, None);
            Some(Ok(Checked::default()))
        }
        Err(error) => Some(Err(error)),
    }
}

fn trials(test: &str, bases: &[Base], jobs: &[Job], seed: u64) -> Matrix {
    let began = now_ms();
    let matrix = Mutex::new(Matrix::default());
    let panics = Arc::new(AtomicUsize::new(0));
    let (counted, before) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|location| location.file().contains("tests/")) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        eprintln!("{info}");
    }));
    let only = figures::number("SWARMKEEP_DISK_ONLY", 0);
    let tally = spread(jobs, |runtime, job, tally| {
        if only != 0 && job.seed != only {
            return;
        }
        let base = &bases[job.base];
        let name = || format!("{}, {} {:?}, SWARMKEEP_DISK_ONLY={}", base.name, job.path.display(), job.how, job.seed);
        match attempt(runtime, base, job, &matrix) {
            None => tally.repeated += 1,
            Some(outcome) => tally.take(outcome, name),
        }
    });
    // And as many stores again, some of them, that nobody harmed.
    let clean: Vec<usize> = (0..bases.len() * 4).collect();
    let _ = spread(&clean, |runtime, nth, _| {
        let base = &bases[nth % bases.len()];
        let disk = base.disk.fork().crash(Loss::Everything, 0);
        let outcome = runtime.block_on(live(&disk, base, nth % 2 == 0, 900 + *nth as u64));
        let _ = disk.kill();
        let mut matrix = matrix.lock().unwrap();
        matrix.clean += 1;
        match outcome {
            Ok((Verdict::Unread, _)) => {}
            other => matrix.alarms.push(format!("{}: {other:?}", base.name)),
        }
    });
    std::panic::set_hook(before);
    let matrix = matrix.into_inner().unwrap();
    say(test, &matrix, seed, bases, &tally, now_ms().saturating_sub(began));
    assert_eq!(panics.load(Ordering::SeqCst), 0, "something panicked");
    for failed in tally.failed.iter().take(10) {
        println!("  WRONG {failed}");
    }
    assert!(tally.failed.is_empty(), "{} of {} corruptions: something wrong", tally.failed.len(), tally.trials);
    matrix
}

fn say(test: &str, matrix: &Matrix, seed: u64, bases: &[Base], tally: &figures::Tally, ms: u64) {
    println!("{:16} {:8} refused  found served repaired unread earlier-end", "", "");
    for ((kind, how), row) in &matrix.by {
        let how = format!("{how:?}");
        let [refused, found, repaired, unread, earlier, served] = row;
        println!("{kind:16} {how:8} {refused:7} {found:6} {served:6} {repaired:8} {unread:6} {earlier:6}");
    }
    for (rest, (count, one, whole)) in &matrix.rest {
        println!("  {count:5} {rest} ({one}: {whole})");
    }
    let wrong = tally.failed.len() as u64;
    let noticed = count(matrix, REFUSED) + count(matrix, FOUND) + count(matrix, SERVED) + count(matrix, REPAIRED);
    let (alarms, clean) = (matrix.alarms.len() as u64, matrix.clean);
    let accuracy = (noticed + clean - alarms) as f64 / (noticed + wrong + clean).max(1) as f64;
    let (unread, earlier) = (count(matrix, UNREAD), count(matrix, EARLIER_END));
    println!(
        "{test}: seed {seed}, {} stores, {} corruptions ({} more changed nothing): {noticed} noticed (true positives), of \
         them {} repaired; {wrong} wrong or lost in silence (false negatives); {unread} changed what nobody reads; {earlier} \
         made the journal's end an earlier one; {clean} clean stores, {alarms} false alarms; accuracy {:.2} %; {ms} ms",
        bases.len(),
        tally.trials,
        matrix.unchanged,
        count(matrix, REPAIRED),
        accuracy * 100.0
    );
    for alarm in matrix.alarms.iter().take(5) {
        println!("  FALSE ALARM {alarm}");
    }
    let Ok(path) = std::env::var("SWARMKEEP_DISK_FIGURES") else { return };
    let line = serde_json::json!({
        "test": test, "seed": seed, "writes": 0, "trials": tally.trials, "repeated": matrix.unchanged,
        "checks": tally.checked.acknowledged, "states": tally.checked.states, "blobs": tally.checked.blobs,
        "failed": wrong, "ms": ms, "noticed": noticed, "repaired": count(matrix, REPAIRED), "unread": unread,
        "earlier_end": earlier, "clean": clean, "false_alarms": alarms, "accuracy": accuracy,
    });
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

fn check_accuracy(matrix: &Matrix) {
    assert!(matrix.alarms.len() as u64 * 100 < matrix.clean, "false alarms: {:?}", matrix.alarms);
}

/// The first of so many corruptions of one kind of file that is served, or loses something in silence; with its number.
pub fn first_wrong(seed: u64, most: usize, kind: &str) -> Option<(u64, String)> {
    let (bases, matrix, runtime) = (Base::of(seed, 3, 40, 12), Mutex::default(), runtime());
    let jobs = jobs(&bases, most, seed, |other| other == kind);
    jobs.iter().zip(1..).find_map(|(job, trial)| {
        let base = &bases[job.base];
        let error = attempt(&runtime, base, job, &matrix)?.err()?;
        Some((trial, format!("{}, {} {:?}, seed {}: {error}", base.name, job.path.display(), job.how, job.seed)))
    })
}

#[test]
fn no_corruption_of_any_file_is_served_or_loses_anything_in_silence() {
    let seed = seed();
    let bases: Vec<Base> = [0, 1].iter().flat_map(|n| Base::of(seed + n, 3, 40, 12)).collect();
    let jobs = jobs(&bases, images(600), seed, |kind| kind != "shm");
    let matrix = trials("no_corruption_of_any_file_is_served_or_loses_anything_in_silence", &bases, &jobs, seed);
    check_accuracy(&matrix);
}

/// Stores of which nothing stands once but large blobs: everything was copied before the journal gave it up.
fn standing_twice(seed: u64) -> Vec<Base> {
    let mut bases = Base::of(seed | 1, 3, 40, 24);
    assert!(bases[0].kept);
    bases.retain(|base| {
        let disk = base.disk.fork().crash(Loss::Everything, 0);
        let log = open(&disk, true, 99).unwrap();
        runtime().block_on(log.records_settled()).unwrap();
        let once = log.one_copy().unwrap();
        let _ = disk.kill();
        once.once == 0 && once.records > 0
    });
    bases
}

#[test]
fn what_stands_twice_is_repaired() {
    let seed = seed();
    let bases = standing_twice(seed);
    assert!(bases.len() > 8, "{}", bases.len());
    // A blob of more than 64 KiB is a file, and there is one of it. Segments hold what was not applied yet.
    let wanted = |kind: &str| !matches!(kind, "shm" | "blob file" | "segment" | "spare");
    let jobs = jobs(&bases, images(600), seed, wanted);
    let matrix = trials("what_stands_twice_is_repaired", &bases, &jobs, seed);
    check_accuracy(&matrix);
    let [refused, lost, served] = [REFUSED, FOUND, SERVED].map(|column| count(&matrix, column));
    println!(
        "{} were repaired or changed nothing that is read; not repaired: {refused} were not opened, {lost} not whole, \
         {served} served whole; the reasons are above",
        count(&matrix, REPAIRED) + count(&matrix, UNREAD)
    );
    assert_eq!((refused, lost, served), (0, 0, 0), "{:#?}", matrix.rest);
}

#[test]
fn whatever_the_lock_file_says_the_store_opens() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime();
    for bytes in [&b""[..], b"{", b"{\"pid\":99999999999999999999}", &[0; 4096], &[0xff; 9000]] {
        let keep = runtime.block_on(Swarmkeep::open(folder.path().to_str().unwrap())).unwrap();
        runtime.block_on(keep.close()).unwrap();
        drop(keep);
        std::fs::write(folder.path().join("lock"), bytes).unwrap();
    }
    drop(runtime.block_on(Swarmkeep::open(folder.path().to_str().unwrap())).unwrap());
}
