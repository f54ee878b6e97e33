//! `RELIABILITY.md`: made of the figures that the long form of the tests left, and of the list of what they found.

use std::{fs, io, path::Path};

use serde_json::Value;

use crate::{
    disk::TRIALS,
    fuzz,
    ledger::{FIGURES, is_of, number},
    repo::Repo,
    soak::KINDS,
};

/// The page, by path from the root.
pub(crate) const PAGE: &str = "RELIABILITY.md";
/// What was found, written by people.
pub(crate) const FOUND: &str = "docs/soak/found.md";

const HEAD: &str = "# Reliability: what was tried, and what it found

Made by `cargo xtask soak report` from `docs/soak/figures.jsonl`, which the long form of the tests adds to, and
`docs/soak/found.md`. Change those, not this page: `cargo xtask tidy` compares.

The whole store (journal, records.db, views.db, blob files, second copies) runs on a simulated disk that keeps apart what is
on the platter and what is in the page cache. Power is lost before any call that changes the disk; of what was not synced
nothing, everything, a part, a part with one torn sector, or garbage is left. A list of acknowledgements, kept outside the
store, says what must be there. Every acknowledged record is looked for by its hash, whatever else is there must have been
sent and be there in whole groups, every chain is verified, every state is folded and compared, every blob is read. What a
store served after one loss of power is owed after the next.

A journal alone is opened a hundred times as fast, so there is more of it: bursts of groups, many to a frame, are looked for one
by one, those that records.db has left out.

A whole machine is the program as it is shipped, with its clients, as processes on ext4, on a loop device whose file is
served by a program of ours that keeps apart what was flushed and what was only written. When the power goes, every process
is killed, the file system is gone, and the disk holds what was flushed and nothing, everything, a part, or a prefix with a
torn end of the rest, by 512-byte sectors. ext4 replays its journal, the daemon starts, and what the clients had written down
elsewhere, synced, before their next request, is looked for.

Schedules are those of the log's own code (commit, spares, second copies, applier, readers, feeds) on locks that let one thread
go on at a time and draw which; each is a whole life of a journal or a store, with failed syncs and loss of power.

A *trial* is one disk image that was opened and checked (images equal byte for byte are opened once), or one history with an
error in it that was checked up to five times. *Acknowledged writes* counts each write of a history once, *checks* how often a
record of one was looked for. Under the whole store threads run freely: the same seed gives the same requests, not always the
same order of calls. The journal alone and the simulator have none: the same seed gives the same run.
";

const NOT_COVERED: &str = "
## What is not covered

A disk that acknowledges syncs it does not make, where no second copy exists; a whole store rolled back to an older copy of
itself; both copies of a range damaged. The directories of a store are durable at once on the simulated disk; its files' names
are not. The whole machine is a kernel that lives on while its file system dies: real machines and real disks that lose power
are not among these figures.
";

/// The page as it should be.
pub(crate) fn page(figures: &str, found: &str) -> String {
    let lines: Vec<Value> = figures.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut page = HEAD.to_owned();
    page.push_str("\n## In every run of `cargo xtask test`\n\n| | trials |\n|---|---:|\n");
    for (_, title, short) in tests() {
        page.push_str(&format!("| {title} | {} |\n", grouped(short)));
    }
    page.push_str("\n## The long form, all runs together\n\n");
    page.push_str("| | trials | acknowledged writes | checks of them | states | blobs | failed |\n");
    page.push_str("|---|---:|---:|---:|---:|---:|---:|\n");
    for (test, title, _) in tests() {
        let sum = |name: &str| {
            let of_test = lines.iter().filter(|line| is_of(line, test));
            grouped(of_test.map(|line| number(line, name)).sum())
        };
        let cells = ["trials", "writes", "checks", "states", "blobs", "failed"].map(sum).join(" | ");
        page.push_str(&format!("| {title} | {cells} |\n"));
    }
    let warm = grouped(lines.iter().map(|line| number(line, "warm")).sum());
    page.push_str(&format!(
        "\nIn {warm} of these the process had only died, or a sync had failed: the store was opened through "
    ));
    page.push_str("a page cache that was still warm, and power was lost after that.\n");
    page.push_str(&format!(
        "\n## Bytes from nowhere\n\nlibFuzzer, {} s of each target in every run; the long form:\n\n",
        fuzz::SHORT_S
    ));
    page.push_str("| target | inputs tried | s | panics |\n|---|---:|---:|---:|\n");
    for target in fuzz::TARGETS {
        let of_target =
            |line: &&Value| is_of(line, fuzz::TEST) && line.get("target").is_some_and(|name| name == target);
        let sum = |name: &str| grouped(lines.iter().filter(of_target).map(|line| number(line, name)).sum());
        page.push_str(&format!("| {target} | {} | {} | {} |\n", sum("trials"), sum("seconds"), sum("failed")));
    }
    page.push_str(
        "\n## The long form, run by run\n\n| date | commit | machine | test | seeds | trials | failed | s |\n",
    );
    page.push_str("|---|---|---|---|---|---:|---:|---:|\n");
    for line in lines.iter().filter(|line| !is_of(line, fuzz::TEST)) {
        page.push_str(&run(line));
    }
    page.push_str("\n## What was found this way\n\n");
    page.push_str(found.trim());
    page.push('\n');
    page.push_str(NOT_COVERED);
    page
}

/// Every test with figures: its name, what it does, how many trials there are of it in every run.
fn tests() -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let of_disk = TRIALS.iter().map(|trial| (trial.test, trial.title, trial.short));
    of_disk.chain(KINDS.into_iter().map(|kind| (kind.test, kind.title, kind.short)))
}

fn run(line: &Value) -> String {
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let title = tests().find(|(test, ..)| *test == text("test")).map_or(text("test"), |(_, title, _)| title.to_owned());
    let seeds: Vec<String> =
        line.get("seeds").and_then(Value::as_array).into_iter().flatten().map(ToString::to_string).collect();
    format!(
        "| {} | {} | {} | {title} | {} | {} | {} | {} |\n",
        text("date"),
        text("commit"),
        text("machine"),
        seeds.join(" to "),
        grouped(number(line, "trials")),
        grouped(number(line, "failed")),
        number(line, "seconds"),
    )
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn wanted(repo: &Repo) -> io::Result<String> {
    Ok(page(&repo.read(Path::new(FIGURES))?, &repo.read(Path::new(FOUND))?))
}

/// Makes the page.
pub(crate) fn write(repo: &Repo) -> io::Result<()> {
    fs::write(repo.root.join(PAGE), wanted(repo)?)
}

/// What is wrong with the page as it stands.
pub(crate) fn check(repo: &Repo) -> Vec<String> {
    let stands = repo.read(Path::new(PAGE)).unwrap_or_default();
    match wanted(repo) {
        Ok(wanted) if wanted == stands => Vec::new(),
        Ok(_) => vec![format!("{PAGE} is not what its figures make: `cargo xtask soak report`")],
        Err(error) => vec![format!("{PAGE} cannot be made: {error}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_added_up_and_every_run_is_told() {
        let test = TRIALS.first().unwrap().test;
        let line = |trials: u64| {
            format!(
                "{{\"test\":\"{test}\",\"seeds\":[5,9],\"trials\":{trials},\"checks\":1000000,\"commit\":\"abc\",\"failed\":0}}\n"
            )
        };
        let page = page(&(line(700) + &line(800)), "| nothing |");
        assert!(page.contains("| power lost, whole store | 1,500 | 0 | 2,000,000 | 0 | 0 | 0 |"), "{page}");
        assert!(page.contains("| abc |  | power lost, whole store | 5 to 9 | 800 | 0 | 0 |"), "{page}");
        assert!(page.contains("| nothing |"));
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
