//! Unsafe code stands in a few places that are known.

use super::Tree;

/// Where a lint's exception may stand: what cannot be said in safe code, each place with its reason.
const PLACES: &[&str] = &["crates/swarmkeep/src/allocator.rs", "crates/swarmkeep-vfs/src/"];
/// Written in two pieces, so that this file does not find itself.
const EXCEPTION: &str = concat!("(unsafe", "_code");

pub(super) fn check(tree: &Tree) -> Vec<String> {
    tree.ending(&["rs"])
        .filter(|(_, text)| text.contains(EXCEPTION))
        .filter(|(path, _)| !PLACES.iter().any(|place| path.starts_with(place)))
        .map(|(path, _)| format!("{}: unsafe code has its places; this is none of them", path.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_elsewhere_is_found() {
        let text = "#![allow(unsafe\u{5f}code, reason = \"speed\")]";
        let tree = Tree::sample(&[("crates/swarmkeep/src/allocator.rs", text), ("crates/swarmkeep/src/keep.rs", text)]);
        assert_eq!(check(&tree).len(), 1);
    }
}
