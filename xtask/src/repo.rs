//! Where things are: the checkout, its files, what cargo knows about it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Folders that hold nothing of ours.
const SKIPPED: &[&str] = &[".git", "target", "__pycache__", "node_modules"];

/// The checkout.
pub(crate) struct Repo {
    /// Its root.
    pub(crate) root: PathBuf,
    /// `cargo metadata --no-deps`.
    metadata: Value,
}

/// A crate of the workspace, and which others it is built on (dev-dependencies do not count).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) built_on: Vec<String>,
}

impl Repo {
    /// The checkout that this program was started in. Where it was built does not tell: checkouts may share what they build.
    pub(crate) fn find() -> Result<Self, String> {
        let here = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("start it with `cargo xtask`")?;
        let root = Path::new(&here).parent().unwrap_or(Path::new(&here)).to_path_buf();
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&root)
            .output()
            .map_err(|error| format!("cargo metadata: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let metadata = serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
        Ok(Self { root, metadata })
    }

    /// The crates of the workspace, by name.
    pub(crate) fn members(&self) -> Vec<Member> {
        let empty = Vec::new();
        let packages = self.metadata.get("packages").and_then(Value::as_array).unwrap_or(&empty);
        let name = |package: &Value| package.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let names: Vec<String> = packages.iter().map(name).collect();
        let mut members: Vec<Member> = packages
            .iter()
            .map(|package| {
                let mut built_on: Vec<String> = package
                    .get("dependencies")
                    .and_then(Value::as_array)
                    .unwrap_or(&empty)
                    .iter()
                    // A normal dependency has no kind.
                    .filter(|dependency| dependency.get("kind").is_none_or(Value::is_null))
                    .map(name)
                    .filter(|dependency| names.contains(dependency))
                    .collect();
                built_on.sort();
                built_on.dedup();
                Member { name: name(package), built_on }
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// The `swarmkeep` program of a profile's folder (`debug`, `release`), built or not.
    pub(crate) fn binary(&self, profile: &str) -> PathBuf {
        let target = self.metadata.get("target_directory").and_then(Value::as_str).unwrap_or("target");
        Path::new(target).join(profile).join("swarmkeep")
    }

    /// Every file of ours, relative to the root, in order.
    pub(crate) fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        walk(&self.root, Path::new(""), &mut found)?;
        found.sort();
        Ok(found)
    }

    /// The text of a file, by its path from the root.
    pub(crate) fn read(&self, path: &Path) -> io::Result<String> {
        fs::read(self.root.join(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn walk(root: &Path, below: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name();
        if SKIPPED.iter().any(|skipped| name.to_str() == Some(skipped)) {
            continue;
        }
        let path = below.join(&name);
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(root, &path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// The cargo that runs us.
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}
