//! A report as people read it: a screen, or Markdown. Both say the same lines.

use std::fmt::Write as _;

use swarmkeep_server::report::{LISTED, Lost, Report, Thing, Waiting};

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
    said.extend((broke.deaths > 0).then(|| format!("{} of the daemon", counted(broke.deaths, "death"))));
    said.extend((broke.taken_over > 0).then(|| format!("{} of the store", counted(broke.taken_over, "take-over"))));
    if let Some(last) = said.last_mut() {
        let _ = write!(last, ", back after {} ms at worst", moment::thousands(broke.back_ms));
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
    let answer = if count == 0 { "nothing".to_owned() } else { questions(&found.waiting) };
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

    all.push(lost(found));
    all
}

fn lost(found: &Report) -> Section {
    let may_be = found.lost.iter().filter(|lost| lost.may_be).count();
    let certain = found.lost.len() - may_be;
    let mut said = Vec::new();
    said.extend((certain > 0).then(|| counted(certain as u64, "thing")));
    said.extend((may_be > 0).then(|| format!("{} may be", counted(may_be as u64, "thing"))));
    let is_known = found.behind.is_none() && found.being_looked_at == 0;
    if said.is_empty() {
        said.push(if is_known { "nothing" } else { "nothing that is known yet" }.to_owned());
    }
    said.extend((found.put_right > 0).then(|| format!("{} put right", counted(found.put_right, "damaged range"))));
    let mut lines: Vec<String> = found.lost.iter().take(LISTED).map(|lost| loss(found, lost)).collect();
    lines.extend(more(found.lost.len() as u64, lines.len()));
    let (mark, mood) = match (certain, may_be) {
        (0, 0) if is_known => ('✓', Mood::Good),
        (0, 0) => ('✓', Mood::Quiet),
        (0, _) => ('?', Mood::Asks),
        _ => ('✗', Mood::Bad),
    };
    Section { title: "lost", mark, mood, answer: said.join(" · "), lines }
}

fn loss(found: &Report, lost: &Lost) -> String {
    let accepted = match &lost.accepted_by {
        Some(by) if by == "accept_loss" => "; accepted by the setting accept_loss".to_owned(),
        Some(by) => format!("; accepted by {by}"),
        None => String::new(),
    };
    match &lost.session {
        Some(session) => with_session(found, session, without_name(&lost.what, session) + &accepted),
        None => lost.what.clone() + &accepted,
    }
}

/// What a word settles, and what must be mended outside.
fn questions(waiting: &[Waiting]) -> String {
    let gone = waiting.iter().filter(|one| matches!(one.kind.as_str(), "agent" | "connection")).count();
    let asked = waiting.len() - gone;
    let mut said = Vec::new();
    said.extend((asked > 0).then(|| counted(asked as u64, "question")));
    said.extend((gone > 0).then(|| format!("{gone} silent or gone")));
    said.join(" · ")
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
    let line = match (waiting.kind.as_str(), waiting.what.as_str()) {
        ("effect", _) => format!("{}{what} ({since}{why})", waiting.id),
        ("agent", _) => format!("{} is silent, and{what} ({since}{why})", waiting.id),
        ("connection", _) => format!("{} cannot be reached ({since}{why})", waiting.id),
        (_, "needs_decision") => format!("needs a decision ({since}{why})"),
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
            let known = if found.behind.is_some() { ", as far as the views have come" } else { "" };
            format!("{}{by}{known}", counted(count, "session"))
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
    if let Some(line) = not_all(found) {
        let _ = writeln!(out, "\n  {}", paint.yellow(printable(&line)));
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

/// What the counts leave out.
fn not_all(found: &Report) -> Option<String> {
    match &found.behind {
        Some(why) => Some(format!(
            "the views do not have all that was acknowledged, and the counts are of what they have: {why}"
        )),
        None if found.is_whole => None,
        None => Some("not all was looked at: the counts are of the newest".to_owned()),
    }
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
    if let Some(line) = not_all(found) {
        let _ = writeln!(out, "\n{}", escaped(&line));
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
                settle: vec!["swarmkeep effect resolve default/night pay-17 --done --value 'JSON'".into()],
            }],
            not_paid_twice: NotPaidTwice { once: 40, settled: 2, held: 1, again: 3 },
            lost: vec![Lost {
                session: Some("default/old".into()),
                what: "session default/old: seq 3 to 4\x1b[31m".into(),
                may_be: false,
                accepted_by: Some("user:anna".into()),
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
      default/old  seq 3 to 4·[31m; accepted by user:anna

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
            assert!(text.contains("nothing that is known yet"), "{text}");
        }
        assert!(!quiet.contains("looked at"), "{quiet}");
        assert!(quiet.contains("✓ lost             nothing\n"), "{quiet}");
        let blind = Report { behind: Some("the disk is full".into()), ..Report::default() };
        for text in [screen(&blind, None, Paint::plain()), markdown(&blind)] {
            for said in ["0 sessions, as far as the views have come", "nothing that is known yet", "the disk is full"] {
                assert!(text.contains(said), "{said}: {text}");
            }
        }
        let mut doubtful = night();
        doubtful.lost[0].may_be = true;
        let text = screen(&doubtful, None, Paint::plain());
        assert!(text.contains("? lost             1 thing may be"), "{text}");
        let text = markdown(&night());
        assert!(text.contains(r"split the \*parser\* (coder, 3 min ago)"), "{text}");
        assert!(text.contains("**lost**: 1 thing") && text.contains("```sh\nswarmkeep session show"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
