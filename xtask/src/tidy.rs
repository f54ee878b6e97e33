//! The rules of the house that no compiler knows. Each is a function from texts to sentences, so that each is tested
//! without a checkout.

mod graph;
mod guarantees;
mod links;
mod names;
mod prose;
mod size;
mod unsafe_code;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    reliability,
    repo::Repo,
    stage::{Count, Report},
};

/// The texts that the rules are about: documents and programs, by path from the root; and the paths of everything else.
pub(crate) struct Tree {
    texts: BTreeMap<PathBuf, String>,
    paths: Vec<PathBuf>,
}

impl Tree {
    fn of(repo: &Repo) -> std::io::Result<Self> {
        let paths = repo.files()?;
        let read = |path: &PathBuf| Ok((path.clone(), repo.read(path)?));
        let texts =
            paths.iter().filter(|path| is(path, &["rs", "md", "py"])).map(read).collect::<std::io::Result<_>>()?;
        Ok(Self { texts, paths })
    }

    /// A text by its path.
    fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(Path::new(path)).map(String::as_str)
    }

    /// The texts whose name ends in one of these.
    fn ending<'a>(&'a self, extensions: &'a [&str]) -> impl Iterator<Item = (&'a Path, &'a str)> {
        self.texts.iter().map(|(path, text)| (path.as_path(), text.as_str())).filter(|(path, _)| is(path, extensions))
    }

    /// Whether there is a file or folder of this path.
    fn has(&self, path: &Path) -> bool {
        self.paths.iter().any(|file| file.starts_with(path))
    }
}

fn is(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| extensions.contains(&extension))
}

/// Checks every rule: each is one thing that passes or fails.
pub(crate) fn run(repo: &Repo, report: &mut Report) {
    report.stage("tidy", || {
        let tree = match Tree::of(repo) {
            Ok(tree) => tree,
            Err(error) => {
                println!("   cannot read the checkout: {error}");
                return Count { passed: 0, failed: 1 };
            }
        };
        let rules: [(&str, Vec<String>); 8] = [
            ("no file is a hub", size::check(&tree)),
            ("dependencies point as ARCHITECTURE.md says", graph::check(&tree, &repo.members())),
            ("file names say something", names::check(&tree)),
            ("links lead somewhere", links::check(&tree)),
            ("every guarantee names its proof", guarantees::check(&tree)),
            ("no line numbers in prose", prose::check(&tree)),
            ("RELIABILITY.md is what its figures make", reliability::check(repo)),
            ("unsafe code stands where it may", unsafe_code::check(&tree)),
        ];
        let mut count = Count::default();
        for (rule, offences) in rules {
            println!("   {} {rule}", if offences.is_empty() { "ok    " } else { "FAILED" });
            for offence in &offences {
                println!("          {offence}");
            }
            *(if offences.is_empty() { &mut count.passed } else { &mut count.failed }) += 1;
        }
        count
    });
}

#[cfg(test)]
impl Tree {
    /// A tree of texts, for tests.
    fn sample(texts: &[(&str, &str)]) -> Self {
        let texts: BTreeMap<PathBuf, String> =
            texts.iter().map(|&(path, text)| (path.into(), text.to_owned())).collect();
        Self { paths: texts.keys().cloned().collect(), texts }
    }
}
