//! A stage: a child process or a check, run, timed, counted.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

/// Longest time without a line of output before a child is taken for stuck. A link of everything on two cores stays far
/// below it.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// How many things passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

/// What all stages came to.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<(String, Duration, Count)>,
}

/// A child that ended: whether well, and every line it wrote.
pub(crate) struct Ended {
    pub(crate) ok: bool,
    pub(crate) lines: Vec<String>,
}

impl Report {
    /// Runs a stage and notes what it came to.
    pub(crate) fn stage(&mut self, name: &str, run: impl FnOnce() -> Count) {
        println!("── {name}");
        let began = now();
        let count = run();
        let took = now().duration_since(began);
        println!("── {name}: {} passed, {} failed, {:.1} s", count.passed, count.failed, took.as_secs_f64());
        self.lines.push((name.to_owned(), took, count));
    }

    /// A stage that is one child process: it counts what the child says it tested, else itself as one.
    pub(crate) fn child(&mut self, name: &str, root: &Path, command: &mut Command) {
        self.stage(name, || {
            let ended = run(root, command);
            count(&ended)
        });
    }

    /// How many things failed.
    pub(crate) fn failed(&self) -> usize {
        self.lines.iter().map(|(_, _, count)| count.failed).sum()
    }

    /// The table of stages, and the last line.
    pub(crate) fn print(&self) {
        println!();
        for (name, took, count) in &self.lines {
            let verdict = if count.failed == 0 { "ok    " } else { "FAILED" };
            println!(
                "{verdict} {:>7.1} s  {name}  ({} passed, {} failed)",
                took.as_secs_f64(),
                count.passed,
                count.failed
            );
        }
        let passed: usize = self.lines.iter().map(|(_, _, count)| count.passed).sum();
        println!("{passed} passed, {} failed", self.failed());
    }
}

#[expect(clippy::disallowed_methods, reason = "this program only tells how long something took")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Runs a child to its end, its output shown as it comes and kept. A child that is silent for too long is ended, by its
/// own id.
pub(crate) fn run(root: &Path, command: &mut Command) -> Ended {
    let shown = format!("{command:?}").replace('"', "");
    println!("   {shown}");
    let spawned = command.current_dir(root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Ended { ok: false, lines: vec![told(format!("{shown}: {error}"))] },
    };
    let (sender, receiver) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|stdout| read(stdout, sender.clone())),
        child.stderr.take().map(|stderr| read(stderr, sender)),
    ];
    let mut lines = Vec::new();
    loop {
        match receiver.recv_timeout(SILENCE) {
            Ok(line) => lines.push(told(line)),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                lines.push(told(format!("silent for {} minutes: ended", SILENCE.as_secs() / 60)));
                end(&mut child);
                return Ended { ok: false, lines };
            }
        }
    }
    for reader in readers.into_iter().flatten() {
        // A reader only ends by the end of its pipe; it has nothing to report.
        drop(reader.join());
    }
    Ended { ok: child.wait().is_ok_and(|status| status.success()), lines }
}

fn end(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        eprintln!("cannot end process {}: {error}", child.id());
    }
}

fn told(line: String) -> String {
    println!("{line}");
    line
}

fn read(pipe: impl Read + Send + 'static, sender: mpsc::Sender<String>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while pipe.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                return;
            }
        }
    })
}

/// What a child's output says it tested: nextest's summary, libtest's results, Python's unittest. A child that says nothing
/// of the kind is one thing; one that failed without naming a failed test has failed once.
pub(crate) fn count(ended: &Ended) -> Count {
    let mut count = Count::default();
    let mut python: usize = 0;
    for line in &ended.lines {
        let line = plain(line);
        let words: Vec<&str> = line.split([' ', ',', ';', '(', ')', '=']).filter(|word| !word.is_empty()).collect();
        let before = |what: &str| {
            words.windows(2).find_map(|pair| match pair {
                [number, word] if *word == what => number.parse::<usize>().ok(),
                _ => None,
            })
        };
        if (line.contains("Summary [") && line.contains("run:")) || line.starts_with("test result:") {
            count.passed += before("passed").unwrap_or(0);
            count.failed += before("failed").unwrap_or(0) + before("timed").unwrap_or(0);
        } else if let ["Ran", number, "tests" | "test", ..] = words.as_slice() {
            python = number.parse().unwrap_or(0);
        } else if python > 0 && line.starts_with("FAILED (") {
            let after = |what: &str| {
                words.windows(2).find_map(|pair| match pair {
                    [word, number] if *word == what => number.parse::<usize>().ok(),
                    _ => None,
                })
            };
            count.failed += after("failures").unwrap_or(0) + after("errors").unwrap_or(0);
            python = python.saturating_sub(count.failed);
        }
    }
    count.passed += python;
    if !ended.ok && count.failed == 0 {
        count.failed = 1;
    } else if ended.ok && count.passed == 0 {
        count.passed = 1;
    }
    count
}

/// A line without colour codes.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            for code in characters.by_ref() {
                if code.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            text.push(character);
        }
    }
    text.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(ok: bool, lines: &[&str]) -> (usize, usize) {
        let count = count(&Ended { ok, lines: lines.iter().map(|&line| line.to_owned()).collect() });
        (count.passed, count.failed)
    }

    #[test]
    fn tests_are_counted_whatever_runs_them() {
        let nextest = "\u{1b}[32;1m     Summary\u{1b}[0m [   1.2s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 3 skipped";
        assert_eq!(counted(false, &[nextest]), (10, 2));
        let libtest = "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(counted(true, &[libtest, libtest]), (14, 0));
        assert_eq!(counted(true, &["Ran 5 tests in 0.010s", "", "OK"]), (5, 0));
        assert_eq!(counted(false, &["Ran 5 tests in 0.010s", "", "FAILED (failures=1, errors=2)"]), (2, 3));
    }

    #[test]
    fn a_child_that_counts_nothing_is_one_thing() {
        assert_eq!(counted(true, &["Finished"]), (1, 0));
        assert_eq!(counted(false, &["error: could not compile"]), (0, 1));
        assert_eq!(counted(false, &["test result: ok. 7 passed; 0 failed"]), (7, 1));
    }

    #[test]
    fn a_child_runs_to_its_end_and_a_missing_one_fails() {
        let ended = run(Path::new("."), Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
        let mut lines = ended.lines;
        lines.sort();
        assert_eq!((ended.ok, lines), (false, vec!["err".to_owned(), "out".to_owned()]));
        assert!(!run(Path::new("."), &mut Command::new("no-such-program-anywhere")).ok);
    }
}
