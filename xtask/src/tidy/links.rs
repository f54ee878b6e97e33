//! Links and paths in documents lead to files that exist.

use std::path::{Component, Path, PathBuf};

use super::Tree;

/// A path in backticks that begins with one of these is meant to be a file of ours.
const OURS: &[&str] = &["crates/", "docs/", "examples/", "xtask/", "packaging/", "fixtures/"];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (document, text) in tree.ending(&["md"]) {
        let folder = document.parent().unwrap_or(Path::new(""));
        for link in links(text) {
            let target = link.split(['#', '?']).next().unwrap_or_default();
            if !target.is_empty() && !joined(folder, target).is_some_and(|path| tree.has(&path)) {
                offences.push(format!("{}: the link to {link} leads nowhere", document.display()));
            }
        }
        for path in quoted(text) {
            if !tree.has(Path::new(path.trim_end_matches('/'))) {
                offences.push(format!("{}: there is no {path}", document.display()));
            }
        }
    }
    offences
}

/// Targets of `[text](target)` inside the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|target| {
        !target.contains("://")
            && !target.starts_with('#')
            && !target.starts_with("mailto:")
            && !target.contains(char::is_whitespace)
    })
}

/// Paths of ours in backticks; patterns and placeholders are not paths.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .map(|code| code.split("::").next().unwrap_or(code))
        .filter(|code| {
            OURS.iter().any(|folder| code.starts_with(folder))
                && !code.contains(|c: char| c.is_whitespace() || c.is_ascii_uppercase() || "*{}<>…()".contains(c))
        })
}

/// `folder/target` without `.` and `..`; none if it leaves the repository.
fn joined(folder: &Path, target: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in folder.join(target).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_and_paths_are_found() {
        let text = "[a](../README.md#top) [b](gone.md) [c](https://example.org/x) [d](#here) `crates/x/src/lib.rs::name` \
                    `crates/x/src/gone.rs` `crates/*/src` `crates/x/` [e](../../outside.md)";
        let tree = Tree::sample(&[("docs/a.md", text), ("README.md", ""), ("crates/x/src/lib.rs", "")]);
        let found = check(&tree);
        assert_eq!(
            found,
            [
                "docs/a.md: the link to gone.md leads nowhere",
                "docs/a.md: the link to ../../outside.md leads nowhere",
                "docs/a.md: there is no crates/x/src/gone.rs"
            ]
        );
    }
}
