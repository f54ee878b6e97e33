//! Where a store is: `--store`, else `SWARMKEEP_HOME`, else `PERSISTENT_STATE_DIR`, else the platform's data folder.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use swarmkeep::lock;

use crate::{failure::Failure, hint};

/// Where a store is, and who said so.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The folder, absolute.
    pub(crate) dir: PathBuf,
    /// `--store`, a variable's name, or `platform`.
    pub(crate) said_by: &'static str,
}

/// What the holder of a store wrote into its lock file for people. Nothing is decided by it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LockHint {
    pub(crate) pid: Option<u32>,
    pub(crate) address: Option<String>,
    pub(crate) started_at_ms: Option<u64>,
}

impl Place {
    /// Finds it. `variable` reads the environment.
    pub(crate) fn find(flag: Option<PathBuf>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let (dir, said_by) = if let Some(dir) = flag {
            (dir, "--store")
        } else if let Some(dir) = set("SWARMKEEP_HOME") {
            (dir, "SWARMKEEP_HOME")
        } else if let Some(dir) = set("PERSISTENT_STATE_DIR") {
            (dir, "PERSISTENT_STATE_DIR")
        } else {
            (data_folder(&set)?.join("swarmkeep"), "platform")
        };
        let dir = std::path::absolute(&dir).map_err(|error| {
            Failure::usage(format!("store folder `{}`: {error}", dir.display()), "give a folder with --store")
        })?;
        if dir.to_str().is_none() {
            // It goes through addresses, settings and JSON, which are text: some would mean this folder, others another.
            return Err(Failure::usage(
                format!("the store folder `{}` ({said_by}) has a name that is not UTF-8", dir.display()),
                "give the folder a name that is, or another folder with --store DIR",
            ));
        }
        Ok(Self { dir, said_by })
    }

    /// Whether a store is there. A folder with nothing but settings in it is none yet.
    pub(crate) fn is_a_store(&self) -> bool {
        is_a_store(&self.dir)
    }

    /// Refuses where there is no store: a name that was mistyped must not become a new one.
    pub(crate) fn must_be_a_store(&self) -> Result<(), Failure> {
        if self.is_a_store() {
            return Ok(());
        }
        Err(Failure::refused(
            "no_store",
            format!("there is no store in {} ({})", self.dir.display(), self.said_by),
            "is the folder spelled right? to make a store there: `swarmkeep serve`, or `swarmkeep session create NAME`",
        ))
    }

    /// Refuses a file where a folder must be.
    pub(crate) fn must_not_be_a_file(&self) -> Result<(), Failure> {
        if !self.dir.exists() || self.dir.is_dir() {
            return Ok(());
        }
        Err(Failure::usage(
            format!("{} ({}) is not a folder", self.dir.display(), self.said_by),
            "a store is a folder: give one with --store DIR",
        ))
    }

    /// The folder, to be pasted into a shell: with `~` for the home folder, and quotes where they are needed.
    pub(crate) fn shown(&self) -> String {
        shown(&self.dir)
    }

    /// The option that makes a call mean this store; `None`: every call in this environment does.
    pub(crate) fn option(&self) -> Option<String> {
        (self.said_by == "--store").then(|| format!("--store {}", self.shown()))
    }

    /// The program, with what makes it mean this store when it is pasted.
    pub(crate) fn program(&self) -> String {
        match self.option() {
            Some(option) => format!("{} {option}", hint::program()),
            None => hint::program().to_owned(),
        }
    }

    /// Makes the folder, for its owner alone.
    pub(crate) fn make(&self) -> Result<(), Failure> {
        make_private(&self.dir)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Where MCP clients are answered.
    pub(crate) fn mcp_socket(&self) -> PathBuf {
        self.dir.join("mcp.sock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        self.dir.join("swarmkeep.toml")
    }

    /// Who says to hold the store; `None`: nobody ever did.
    pub(crate) fn lock_hint(&self) -> Option<LockHint> {
        let text = fs::read_to_string(lock::file(&self.dir)).ok()?;
        serde_json::from_str(text.trim_end_matches(['\0', '\n', ' '])).ok()
    }
}

/// Whether a store is in this folder.
pub(crate) fn is_a_store(dir: &Path) -> bool {
    let home = lock::home(dir);
    home.join("records.db").exists() || home.join("journal").exists()
}

/// A path, to be pasted into a shell.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let home = std::env::var("HOME").unwrap_or_default();
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    match text.strip_prefix(&home).filter(|_| home.len() > 1) {
        Some(rest) if rest.starts_with('/') && plain(rest) => format!("~{rest}"),
        _ if plain(&text) => text,
        _ => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// The platform's folder for a program's data.
pub(crate) fn data_folder(set: &impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Failure> {
    let home = || {
        set("HOME").ok_or_else(|| {
            Failure::usage("no home folder: HOME is not set", "say where the store is: --store DIR, or SWARMKEEP_HOME")
        })
    };
    if cfg!(target_os = "macos") {
        return Ok(home()?.join("Library/Application Support"));
    }
    match set("XDG_DATA_HOME").filter(|dir| dir.is_absolute()) {
        Some(dir) => Ok(dir),
        None => Ok(home()?.join(".local/share")),
    }
}

/// Makes a folder and those above it; the last one is readable by its owner alone, also when it was there.
pub(crate) fn make_private(dir: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::unavailable(
            format!("cannot make the store folder `{}`: {error}", dir.display()),
            "choose a folder you may write to with --store DIR, or free some room",
        )
    };
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent() {
        fs::create_dir_all(above).map_err(failed)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(flag: Option<&str>, variables: &[(&str, &str)]) -> Place {
        Place::find(flag.map(PathBuf::from), |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
        .unwrap()
    }

    #[test]
    fn a_folder_whose_name_is_no_text_is_refused_by_name() {
        use std::os::unix::ffi::OsStringExt;

        let dir = PathBuf::from(OsString::from_vec(b"/a/st\xffore".to_vec()));
        let failure = Place::find(Some(dir), |_| None).unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
        assert!(failure.what.contains("/a/st") && failure.what.contains("--store"), "{failure:?}");
    }

    #[test]
    fn the_first_that_is_said_counts() {
        let all = [("SWARMKEEP_HOME", "/b"), ("PERSISTENT_STATE_DIR", "/c"), ("XDG_DATA_HOME", "/d"), ("HOME", "/e")];
        assert_eq!(find(Some("/a"), &all).dir, Path::new("/a"));
        assert_eq!(find(None, &all).said_by, "SWARMKEEP_HOME");
        assert_eq!(find(None, &all[1..]).said_by, "PERSISTENT_STATE_DIR");
        if !cfg!(target_os = "macos") {
            assert_eq!(find(None, &all[2..]).dir, Path::new("/d/swarmkeep"));
            assert_eq!(find(None, &all[3..]).dir, Path::new("/e/.local/share/swarmkeep"));
        }
        assert_eq!(
            find(None, &[("SWARMKEEP_HOME", ""), ("PERSISTENT_STATE_DIR", "/c")]).said_by,
            "PERSISTENT_STATE_DIR"
        );
    }
}
