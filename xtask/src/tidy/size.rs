//! No Rust file of more than 800 lines without its tests: that many mean a concept that has not been found yet. (The
//! Python client is one file by design: it is there to be copied.)

use super::Tree;

const LIMIT: usize = 800;

pub(super) fn check(tree: &Tree) -> Vec<String> {
    tree.ending(&["rs"])
        .filter(|(path, _)| !is_test(&path.to_string_lossy()))
        .map(|(path, text)| (path, lines_of_code(text)))
        .filter(|(_, lines)| *lines > LIMIT)
        .map(|(path, lines)| format!("{}: {lines} lines without tests, at most {LIMIT}", path.display()))
        .collect()
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Lines up to a test module at the end.
fn lines_of_code(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests =
        lines.windows(2).position(|pair| matches!(pair, ["#[cfg(test)]", module] if module.starts_with("mod ")));
    tests.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts() {
        let code = "x\n".repeat(LIMIT);
        let tested = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        let tree = Tree::sample(&[
            ("a/src/fits.rs", &tested),
            ("a/tests/long.rs", &code.repeat(2)),
            ("a/src/hub.rs", &format!("{code}x\n")),
        ]);
        assert_eq!(check(&tree), ["a/src/hub.rs: 801 lines without tests, at most 800"]);
    }
}
