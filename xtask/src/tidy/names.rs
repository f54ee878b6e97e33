//! A file's name says what belongs in it. These say nothing.

use super::Tree;

const BANNED: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "misc", "types", "manager", "managers", "service", "services"];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    tree.paths
        .iter()
        .filter(|path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_lowercase();
            // A unit file's ending is `.service`; its name is not.
            stem.split(['_', '-', '.']).any(|word| BANNED.contains(&word))
        })
        .map(|path| format!("{}: name it after what it holds", path.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_say_nothing_are_found_inside_names() {
        let tree = Tree::sample(&[
            ("src/utils.rs", ""),
            ("src/session_manager.rs", ""),
            ("packaging/swarmkeep.service", ""),
            ("src/journal.rs", ""),
        ]);
        let found = check(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
