//! `RELIABILITY.md`: made of the figures that the long form of the tests left, and of the list of what they found.

use std::{fs, io, path::Path};

use serde_json::Value;

use crate::{
    disk::{FIGURES, TRIALS, number},
    repo::Repo,
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

A *trial* is one disk image that was opened and checked (images equal byte for byte are opened once), or one history with an
error in it that was checked up to five times. *Acknowledged writes* counts each write of a history once, *checks* how often a
record of one was looked for. The threads of the store run freely: the same seed gives the same requests, not always the same
order of calls.
";

const NOT_COVERED: &str = "
## What is not covered

A disk that acknowledges syncs it does not make, where no second copy exists; a whole store rolled back to an older copy of
itself; both copies of a range damaged. The directories of a store are durable at once on the simulated disk; its files' names
are not. Machines that really lose power are not among these figures.
";

/// The page as it should be.
pub(crate) fn page(figures: &str, found: &str) -> String {
    let lines: Vec<Value> = figures.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut page = HEAD.to_owned();
    page.push_str("\n## In every run of `cargo xtask test`\n\n| | trials |\n|---|---:|\n");
    for trial in &TRIALS {
        page.push_str(&format!("| {} | {} |\n", trial.title, grouped(trial.short)));
    }
    page.push_str("\n## The long form, all runs together\n\n");
    page.push_str("| | trials | acknowledged writes | checks of them | states | blobs | failed |\n");
    page.push_str("|---|---:|---:|---:|---:|---:|---:|\n");
    for trial in &TRIALS {
        let sum = |name: &str| {
            let of_test = lines.iter().filter(|line| line.get("test").and_then(Value::as_str) == Some(trial.test));
            grouped(of_test.map(|line| number(line, name)).sum())
        };
        let cells = ["trials", "writes", "checks", "states", "blobs", "failed"].map(sum).join(" | ");
        page.push_str(&format!("| {} | {cells} |\n", trial.title));
    }
    let warm = grouped(lines.iter().map(|line| number(line, "warm")).sum());
    page.push_str(&format!(
        "\nIn {warm} of these the process had only died, or a sync had failed: the store was opened through "
    ));
    page.push_str("a page cache that was still warm, and power was lost after that.\n");
    page.push_str(
        "\n## The long form, run by run\n\n| date | commit | machine | test | seeds | trials | failed | s |\n",
    );
    page.push_str("|---|---|---|---|---|---:|---:|---:|\n");
    for line in &lines {
        page.push_str(&run(line));
    }
    page.push_str("\n## What was found this way\n\n");
    page.push_str(found.trim());
    page.push('\n');
    page.push_str(NOT_COVERED);
    page
}

fn run(line: &Value) -> String {
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let title =
        TRIALS.iter().find(|trial| trial.test == text("test")).map_or(text("test"), |trial| trial.title.to_owned());
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
