//! A report as people read it: a screen, or Markdown. Both say the same lines.

use std::fmt::Write as _;

use swarmkeep_server::report::{LISTED, Report, Thing, Waiting};

use crate::{
    moment::{self, counted},
    paint::Paint,
    progress,
    table::{cut, printable},
};

/// One question of the morning, with its answer.
struct Section {
    title: &'static str,
    mark: char,
    mood: Mood,
    /// In one line.
    answer: String,
    /// What stands below it.
    lines: Vec<String>,
}

#[derive(Clone, Copy)]
enum Mood {
    Good,
    Asks,
    Bad,
    Quiet,
}

fn sections(found: &Report) -> Vec<Section> {
    let quiet = |mood, is_quiet: bool| if is_quiet { Mood::Quiet } else { mood };
    let done = &found.done;
    let mut said = vec![counted(done.tasks, "task")];
    said.extend((done.failed > 0).then(|| format!("{} failed", done.failed)));
    said.extend((done.running > 0).then(|| format!("{} at work", done.running)));
    said.extend((done.open > 0).then(|| format!("{} to go", done.open)));
    let mut lines: Vec<String> = done.newest.iter().map(|thing| line_of(found, thing)).collect();
    lines.extend(more(done.tasks, done.newest.len()));
    lines.extend(done.failures.iter().map(|thing| format!("failed: {}", line_of(found, thing))));
    let is_quiet = done.tasks + done.failed == 0;
    let mood = if done.failed > 0 { Mood::Asks } else { quiet(Mood::Good, is_quiet) };
    let mut all = vec![Section { title: "done", mark: '✓', mood, answer: said.join(" · "), lines }];

    let broke = &found.interrupted;
    let mut said = Vec::new();
    if broke.deaths > 0 {
        let deaths = if broke.deaths == 1 { "1 death".to_owned() } else { format!("{} deaths", broke.deaths) };
        said.push(format!("{deaths} of the daemon, back after {} ms at worst", moment::thousands(broke.back_ms)));
    }
    said.extend((broke.leases > 0).then(|| format!("{} taken from silent agents", counted(broke.leases, "task"))));
    said.extend((broke.turns > 0).then(|| format!("{} closed", counted(broke.turns, "half-written turn"))));
    let mut lines: Vec<String> = broke
        .closed
        .iter()
        .map(|turn| with_session(found, &turn.session, format!("{} {}", turn.what, turn.id)))
        .collect();
    lines.extend(more(broke.turns, broke.closed.len()));
    let is_quiet = said.is_empty();
    let answer = if is_quiet { "nothing".to_owned() } else { said.join(" · ") };
    all.push(Section { title: "interrupted", mark: '↻', mood: quiet(Mood::Good, is_quiet), answer, lines });

    let count = found.waiting.len() as u64;
    let mut lines: Vec<String> = found.waiting.iter().take(LISTED).map(|waiting| asks(found, waiting)).collect();
    lines.extend(more(count, lines.len()));
    let answer = if count == 0 { "nothing".to_owned() } else { counted(count, "question") };
    all.push(Section { title: "waiting for you", mark: '?', mood: quiet(Mood::Asks, count == 0), answer, lines });

    let paid = &found.not_paid_twice;
    let mut said = Vec::new();
    said.extend((paid.once > 0).then(|| format!("{} done once", counted(paid.once, "effect"))));
    said.extend((paid.held > 0).then(|| format!("{} in doubt, not repeated", paid.held)));
    said.extend((paid.settled > 0).then(|| format!("{} settled", counted(paid.settled, "doubt"))));
    said.extend((paid.again > 0).then(|| format!("{} done again, being safe", paid.again)));
    let is_quiet = said.is_empty();
    let answer = if is_quiet { "nothing was at stake".to_owned() } else { said.join(" · ") };
    all.push(Section {
        title: "not paid twice",
        mark: '=',
        mood: quiet(Mood::Good, is_quiet),
        answer,
        lines: Vec::new(),
    });

    let mut answer = match found.lost.len() as u64 {
        0 => "nothing".to_owned(),
        1 => "1 thing".to_owned(),
        count => format!("{count} things"),
    };
    if found.put_right > 0 {
        let _ = write!(answer, " · {} put right", counted(found.put_right, "damaged range"));
    }
    let mut lines: Vec<String> = found
        .lost
        .iter()
        .take(LISTED)
        .map(|lost| match &lost.session {
            Some(session) => with_session(found, session, without_name(&lost.what, session)),
            None => lost.what.clone(),
        })
        .collect();
    lines.extend(more(found.lost.len() as u64, lines.len()));
    let mood = if found.lost.is_empty() { Mood::Good } else { Mood::Bad };
    all.push(Section { title: "lost", mark: if found.lost.is_empty() { '✓' } else { '✗' }, mood, answer, lines });
    all
}

/// What is said of a session need not begin with its name again.
fn without_name(what: &str, session: &str) -> String {
    let rest = what.strip_prefix("session ").and_then(|rest| rest.strip_prefix(session));
    rest.map_or(what, |rest| rest.trim_start_matches([':', ',', ' '])).to_owned()
}

/// A line about something in a session; which one goes without saying where the report is of one.
fn with_session(found: &Report, session: &str, what: String) -> String {
    if found.session.is_some() || session.is_empty() { what } else { format!("{session}  {what}") }
}

fn line_of(found: &Report, thing: &Thing) -> String {
    let by = if thing.by.is_empty() { String::new() } else { format!("{}, ", thing.by) };
    let when = moment::ago(thing.at_ms, found.until_ms);
    with_session(found, &thing.session, format!("{} ({by}{when})", thing.what))
}

fn asks(found: &Report, waiting: &Waiting) -> String {
    let what = if waiting.what.is_empty() { String::new() } else { format!(" {}", waiting.what) };
    let why = if waiting.why.is_empty() { String::new() } else { format!("; {}", waiting.why) };
    let since = moment::ago(waiting.since_ms, found.until_ms);
    let line = match waiting.kind.as_str() {
        "effect" => format!("{}{what} ({since}{why})", waiting.id),
        _ => format!("is{what} ({since}{why})"),
    };
    with_session(found, &waiting.session, line)
}

fn more(count: u64, listed: usize) -> Option<String> {
    let more = count.saturating_sub(listed as u64);
    (more > 0).then(|| format!("and {more} more"))
}

/// Which sessions, and of what time.
fn heading(found: &Report) -> String {
    let since = match found.since_ms {
        0 => "from the beginning".to_owned(),
        since_ms => format!("since {}", moment::utc(since_ms)),
    };
    let whose = match &found.session {
        Some(session) => session.clone(),
        None => {
            let count = found.sessions.values().sum();
            let by: Vec<String> = found.sessions.iter().map(|(status, count)| format!("{count} {status}")).collect();
            let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
            format!("{}{by}", counted(count, "session"))
        }
    };
    format!("{whose}, {since}")
}

/// One screen. `width`: of the terminal; lines are cut to it.
pub(super) fn screen(found: &Report, width: Option<usize>, paint: Paint) -> String {
    let width = width.unwrap_or(usize::MAX);
    let room = |indent: usize| width.saturating_sub(indent).max(20);
    let mut out = format!("\n  {}\n\n", cut(&printable(&heading(found)), room(2)));
    for section in sections(found) {
        let painted = |text: String| match section.mood {
            Mood::Good => paint.bold(text),
            Mood::Asks => paint.yellow(text),
            Mood::Bad => paint.red(text),
            Mood::Quiet => paint.dim(text),
        };
        let mark = match section.mood {
            Mood::Good => paint.green(section.mark),
            _ => painted(section.mark.to_string()),
        };
        for (nth, part) in folded(&printable(&section.answer), room(ANSWER)).into_iter().enumerate() {
            if nth == 0 {
                let _ = writeln!(out, "  {mark} {:<16} {}", section.title, painted(part));
            } else {
                let _ = writeln!(out, "{:ANSWER$}{}", "", painted(part));
            }
        }
        for line in section.lines {
            let _ = writeln!(out, "      {}", paint.dim(cut(&printable(&line), room(6))));
        }
    }
    if !found.next.is_empty() {
        let _ = writeln!(out, "\n  how to continue");
        for step in &found.next {
            // A command is never cut: it is there to be pasted.
            let _ = writeln!(out, "    {}", step.command);
            let _ = writeln!(out, "      {}", paint.dim(cut(&printable(&step.why), room(6))));
        }
    }
    if let Some(line) = progress::still_looked_at(found.being_looked_at) {
        let _ = writeln!(out, "\n  {}", paint.yellow(line));
    }
    if !found.is_whole {
        let _ = writeln!(out, "\n  {}", paint.dim("not all was looked at: the counts are of the newest"));
    }
    out.push('\n');
    out
}

/// Where answers stand: behind the mark and the title.
const ANSWER: usize = 21;

/// An answer in lines of at most `room` columns, broken between its parts.
fn folded(answer: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in answer.split(" · ") {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 3 + part.chars().count() <= room => {
                line.push_str(" · ");
                line.push_str(part);
            }
            _ => lines.push(cut(part, room)),
        }
    }
    lines
}

/// The same as Markdown.
pub(super) fn markdown(found: &Report) -> String {
    let mut out = format!("# Report: {}\n", escaped(&heading(found)));
    for section in sections(found) {
        let _ = write!(out, "\n**{}**: {}\n", section.title, escaped(&section.answer));
        if !section.lines.is_empty() {
            out.push('\n');
        }
        for line in section.lines {
            let _ = writeln!(out, "- {}", escaped(&line));
        }
    }
    if !found.next.is_empty() {
        out.push_str("\n**how to continue**\n\n```sh\n");
        for step in &found.next {
            let _ = writeln!(out, "{}  # {}", step.command, printable(&step.why));
        }
        out.push_str("```\n");
    }
    if let Some(line) = progress::still_looked_at(found.being_looked_at) {
        let _ = writeln!(out, "\n{line}");
    }
    if !found.is_whole {
        out.push_str("\nNot all was looked at: the counts are of the newest.\n");
    }
    out
}

/// What callers wrote is text here, not Markdown.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in printable(text).chars() {
        if "\\`*_[]<>#|".contains(char) {
            out.push('\\');
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use swarmkeep_server::report::{Done, Lost, NotPaidTwice, Step};

    use super::*;

    fn night() -> Report {
        let at_ms = 1_795_273_731_000;
        let thing = |id: &str, what: &str, by: &str| Thing {
            session: "default/night".into(),
            id: id.into(),
            what: what.into(),
            by: by.into(),
            at_ms: at_ms - 180_000,
        };
        Report {
            since_ms: at_ms - 86_400_000,
            until_ms: at_ms,
            sessions: [("live".to_owned(), 2), ("closed".to_owned(), 1)].into(),
            done: Done {
                tasks: 132,
                newest: vec![thing("t1", "split the *parser*", "coder")],
                failed: 1,
                failures: vec![thing("t2", "sign the release", "no key")],
                running: 2,
                open: 4,
            },
            waiting: vec![Waiting {
                session: "default/night".into(),
                kind: "effect".to_owned(),
                id: "pay-17".into(),
                what: "the invoice".into(),
                why: "no answer before the deadline".into(),
                since_ms: at_ms - 7_200_000,
                settle: vec!["swarmkeep effect resolve default/night pay-17 --done".into()],
            }],
            not_paid_twice: NotPaidTwice { once: 40, settled: 2, held: 1, again: 3 },
            lost: vec![Lost {
                session: Some("default/old".into()),
                what: "session default/old: seq 3 to 4\x1b[31m".into(),
            }],
            next: vec![Step { why: "look".into(), command: "swarmkeep session show default/old".into() }],
            is_whole: true,
            ..Report::default()
        }
    }

    #[test]
    fn a_night_on_one_screen() {
        let text = screen(&night(), Some(80), Paint::plain());
        let expected = "
  3 sessions (1 closed, 2 live), since 2026-11-20 15:08:51Z

  ✓ done             132 tasks · 1 failed · 2 at work · 4 to go
      default/night  split the *parser* (coder, 3 min ago)
      and 131 more
      failed: default/night  sign the release (no key, 3 min ago)
  ↻ interrupted      nothing
  ? waiting for you  1 question
      default/night  pay-17 the invoice (2 h ago; no answer before the deadline)
  = not paid twice   40 effects done once · 1 in doubt, not repeated
                     2 doubts settled · 3 done again, being safe
  ✗ lost             1 thing
      default/old  seq 3 to 4·[31m

  how to continue
    swarmkeep session show default/old
      look

";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_quiet_night_says_so_and_what_callers_wrote_is_no_markdown() {
        let quiet = screen(&Report { is_whole: true, ..Report::default() }, None, Paint::plain());
        for said in ["0 sessions, from the beginning", "done             0 tasks", "lost             nothing"] {
            assert!(quiet.contains(said), "{quiet}");
        }
        let early = Report { being_looked_at: 3, is_whole: true, ..Report::default() };
        for text in [screen(&early, None, Paint::plain()), markdown(&early)] {
            assert!(text.contains("3 sessions are still being looked at"), "{text}");
        }
        assert!(!quiet.contains("looked at"), "{quiet}");
        let text = markdown(&night());
        assert!(text.contains(r"split the \*parser\* (coder, 3 min ago)"), "{text}");
        assert!(text.contains("**lost**: 1 thing") && text.contains("```sh\nswarmkeep session show"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
