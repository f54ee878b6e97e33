//! Crates are built on each other as ARCHITECTURE.md says, and in no other way.
//!
//! The page has one line for each crate, with names in backticks: `` `swarmkeep` → `swarmkeep-sqlite`, `swarmkeep-core` ``,
//! or `` `swarmkeep-core` → nothing ``. Dev-dependencies do not count.

use std::collections::BTreeMap;

use super::Tree;
use crate::repo::Member;

const PAGE: &str = "ARCHITECTURE.md";

pub(super) fn check(tree: &Tree, members: &[Member]) -> Vec<String> {
    let Some(page) = tree.text(PAGE) else {
        return vec![format!("there is no {PAGE}")];
    };
    let mut offences = Vec::new();
    let mut said = BTreeMap::new();
    for (name, built_on) in promises(page) {
        if !members.iter().any(|member| member.name == name) {
            offences.push(format!("{PAGE} speaks of a crate `{name}`, which the workspace does not have"));
        } else if said.insert(name, built_on).is_some() {
            offences.push(format!("{PAGE} has two lines for `{name}`"));
        }
    }
    for member in members {
        match said.get(member.name.as_str()) {
            None => offences.push(format!("{PAGE} has no line `{}` → …", member.name)),
            Some(built_on) if *built_on != member.built_on => {
                let list = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                offences.push(format!(
                    "`{}` is built on {}; {PAGE} says {}",
                    member.name,
                    list(&member.built_on),
                    list(built_on)
                ));
            }
            Some(_) => {}
        }
    }
    offences
}

/// The lines with an arrow that begin with one name in backticks (after a list mark or a table's bar).
fn promises(page: &str) -> impl Iterator<Item = (&str, Vec<String>)> {
    page.lines().filter_map(|line| {
        let (left, right) = line.split_once('→')?;
        let left = left.trim_matches(|c: char| c.is_whitespace() || "-*|".contains(c));
        let name = left.strip_prefix('`')?.strip_suffix('`')?;
        if name.contains(|c: char| !(c.is_ascii_lowercase() || c == '-')) || right.contains('→') {
            return None;
        }
        let mut built_on: Vec<String> = right.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        built_on.sort();
        (!built_on.is_empty() || right.contains("nothing")).then_some((name, built_on))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, built_on: &[&str]) -> Member {
        Member { name: name.into(), built_on: built_on.iter().map(|&name| name.into()).collect() }
    }

    #[test]
    fn the_page_and_the_workspace_agree() {
        let page = "write: client → surface → log\n\n- `core` → nothing\n- `engine` → `sqlite`, `core`\n| `sqlite` → `core` |\n";
        let tree = Tree::sample(&[(PAGE, page)]);
        let members = [member("core", &[]), member("engine", &["core", "sqlite"]), member("sqlite", &["core"])];
        assert!(check(&tree, &members).is_empty());
    }

    #[test]
    fn a_new_arrow_a_missing_line_and_a_dead_name_are_found() {
        let tree = Tree::sample(&[(PAGE, "- `core` → nothing\n- `gone` → `core`\n")]);
        let found = check(&tree, &[member("core", &["engine"]), member("engine", &[])]);
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md speaks of a crate `gone`, which the workspace does not have",
                "`core` is built on engine; ARCHITECTURE.md says nothing",
                "ARCHITECTURE.md has no line `engine` → …"
            ]
        );
        assert_eq!(check(&Tree::sample(&[]), &[]), ["there is no ARCHITECTURE.md"]);
    }
}
