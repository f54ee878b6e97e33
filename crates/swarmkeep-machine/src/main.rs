//! Loss of power of a whole machine: the shipped daemon and its loaded clients, on ext4, on a disk that forgets what was not
//! flushed.
//!
//! ```text
//! swarmkeep-machine --binary PATH [--trials N] [--seconds N] [--seed N]
//! ```
//!
//! A *trial* is one loss of power after which the machine came back, and everything that was ever acknowledged on that disk was
//! looked for. Some go while the file system or the daemon is still coming back from the one before. The processes run
//! freely: the same seed draws the same moments, not the same order of calls.
//!
//! Exit code 4: something was wrong, and the folder is left there. Where root, FUSE, loop devices or the programs for them are
//! missing it says `skipped:` with the reason, and ends well. All of it happens in namespaces of its own: however this
//! program ends, no mount, no loop device and no process is left.

#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod platter;
#[cfg(target_os = "linux")]
mod trial;

use std::{path::PathBuf, process::ExitCode};

const USAGE: &str = "swarmkeep-machine --binary PATH [--trials N] [--seconds N] [--seed N]";

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    binary: PathBuf,
    trials: u64,
    /// It ends after so many, whatever is left of the trials.
    seconds: u64,
    seed: u64,
    /// It runs in its own namespaces already, with its files below this folder.
    within: Option<PathBuf>,
}

impl Options {
    fn parse(words: &[String]) -> Option<Self> {
        let mut options = Self { binary: PathBuf::new(), trials: 30, seconds: u64::MAX, seed: 1, within: None };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--binary" => options.binary = words.next()?.into(),
                "--trials" => options.trials = words.next()?.parse().ok()?,
                "--seconds" => options.seconds = words.next()?.parse().ok()?,
                "--seed" => options.seed = words.next()?.parse().ok()?,
                "--within" => options.within = Some(words.next()?.into()),
                _ => return None,
            }
        }
        (options.binary.is_file() && options.trials > 0).then_some(options)
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = Options::parse(&words) else {
        eprintln!("{USAGE}\nthe binary must be there");
        return ExitCode::from(2);
    };
    run(&options, &words)
}

#[cfg(target_os = "linux")]
fn run(options: &Options, words: &[String]) -> ExitCode {
    if let Some(dir) = &options.within {
        return trial::run(options, dir);
    }
    if let Err(why) = possible() {
        println!("skipped: {why}");
        return ExitCode::SUCCESS;
    }
    let dir = std::env::temp_dir().join(format!("swarmkeep-machine-{}", std::process::id()));
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // In this process's place: whoever ends it ends all of it.
    let error = std::os::unix::process::CommandExt::exec(apart().arg(own).args(words).arg("--within").arg(&dir));
    eprintln!("unshare: {error}");
    ExitCode::FAILURE
}

#[cfg(not(target_os = "linux"))]
fn run(_: &Options, _: &[String]) -> ExitCode {
    println!("skipped: FUSE and loop devices of Linux are needed");
    ExitCode::SUCCESS
}

/// A program in namespaces of its own: its mounts are seen by nobody else, and what it started ends with it.
#[cfg(target_os = "linux")]
fn apart() -> std::process::Command {
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

/// Whether this machine can do it; else why not.
#[cfg(target_os = "linux")]
fn possible() -> Result<(), String> {
    // A process's entry belongs to whom it runs as.
    let owner = std::fs::metadata("/proc/self").map(|entry| std::os::unix::fs::MetadataExt::uid(&entry));
    if owner.is_ok_and(|uid| uid != 0) {
        return Err("only root may mount".into());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !std::path::Path::new(device).exists() {
            return Err(format!("there is no {device}"));
        }
    }
    let tried = |command: &mut std::process::Command, package: &str| {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.stdin(std::process::Stdio::null()).output();
        match output {
            Err(error) => Err(format!("{program}: {error} (Debian: apt-get install {package})")),
            Ok(output) if !output.status.success() => {
                Err(format!("{program} does not work here: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            Ok(_) => Ok(()),
        }
    };
    tried(std::process::Command::new("mkfs.ext4").arg("-V"), "e2fsprogs")?;
    tried(std::process::Command::new("mount").arg("--version"), "mount")?;
    tried(apart().arg("true"), "util-linux")?;
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match file_systems.contains("ext4") {
        true => Ok(()),
        false => Err("this kernel has no ext4".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let binary = std::env::current_exe().unwrap();
        let parse = |words: &str| {
            let words = words.replace("BINARY", binary.to_str().unwrap());
            Options::parse(&words.split(' ').map(str::to_owned).collect::<Vec<_>>())
        };
        let options = parse("--binary BINARY --trials 5 --seed 9").unwrap();
        assert_eq!((options.trials, options.seed, options.seconds), (5, 9, u64::MAX));
        for wrong in
            ["--trials 5", "--binary /nowhere", "--binary BINARY --trials", "--binary BINARY --trials 0", "--what"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
