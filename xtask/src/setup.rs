//! What the tests need from the machine, and how it gets there.

use std::{path::Path, process::Command};

use crate::{
    repo::cargo,
    stage::{self, Count},
};

/// Oldest Python that the examples are written for.
const PYTHON: (u32, u32) = (3, 9);

/// Checks for each thing; installs what is missing where that is allowed, else says how.
pub(crate) fn run(root: &Path) -> Count {
    let mut count = Count::default();
    let mut note = |what: &str, outcome: Result<String, String>| match outcome {
        Ok(found) => {
            println!("   {what}: {found}");
            count.passed += 1;
        }
        Err(why) => {
            println!("   {what}: MISSING. {why}");
            count.failed += 1;
        }
    };
    note("python3", python(root));
    for component in ["rustfmt", "clippy"] {
        note(component, rust_component(root, component));
    }
    match said(Command::new(cargo()).args(["nextest", "--version"])) {
        Some(version) => println!("   nextest: {version}"),
        None => println!("   nextest: not installed (cargo install cargo-nextest); `cargo test` runs the tests"),
    }
    count
}

/// Whether `cargo nextest` is there.
pub(crate) fn has_nextest() -> bool {
    said(Command::new(cargo()).args(["nextest", "--version"])).is_some()
}

fn python(root: &Path) -> Result<String, String> {
    let need = format!("Python {}.{} or newer is needed for the replay and the client", PYTHON.0, PYTHON.1);
    let version = || said(Command::new("python3").arg("--version"));
    let found = match version() {
        Some(found) => found,
        None => {
            apt_install(root, "python3").map_err(|why| format!("{need}: {why}"))?;
            version().ok_or_else(|| format!("{need}: it does not run after apt-get installed it"))?
        }
    };
    let mut numbers = found.trim_start_matches("Python ").split('.').map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= PYTHON => Ok(found),
        _ => Err(format!("{need}; found {found}")),
    }
}

fn rust_component(root: &Path, component: &str) -> Result<String, String> {
    let program = if component == "rustfmt" { "fmt" } else { component };
    let version = || said(Command::new(cargo()).args([program, "--version"]));
    if let Some(found) = version() {
        return Ok(found);
    }
    stage::run(root, Command::new("rustup").args(["component", "add", component]));
    version().ok_or_else(|| format!("run `rustup component add {component}`"))
}

/// Installs a package where this user may; else says which command a person has to run.
fn apt_install(root: &Path, package: &str) -> Result<(), String> {
    let advice = format!("install the package `{package}`, e.g. `sudo apt-get install {package}`");
    let root_user = said(Command::new("id").arg("-u")).as_deref() == Some("0");
    if !root_user || said(Command::new("apt-get").arg("--version")).is_none() {
        return Err(advice);
    }
    let apt_get = |words: &[&str]| {
        stage::run(root, Command::new("apt-get").args(words).env("DEBIAN_FRONTEND", "noninteractive")).ok
    };
    // An old list of packages may still do.
    apt_get(&["update"]);
    if apt_get(&["install", "--yes", "--no-install-recommends", package]) { Ok(()) } else { Err(advice) }
}

/// First line of what a command says, if it runs and ends well.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}
