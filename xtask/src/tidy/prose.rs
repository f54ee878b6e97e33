//! No line numbers in prose: they are wrong after the next change. Name the function instead.

use super::Tree;

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, text) in tree.ending(&["md", "rs"]) {
        let document = path.extension().is_some_and(|extension| extension == "md");
        let mut fenced = false;
        for line in text.lines() {
            let line = line.trim();
            if document && line.starts_with("```") {
                fenced = !fenced;
            }
            let prose = if document { !fenced } else { line.starts_with("//") };
            if prose && points_at_a_line(line) {
                offences.push(format!("{}: `{line}` points at a line number", path.display()));
            }
        }
    }
    offences
}

fn points_at_a_line(line: &str) -> bool {
    let digit_after = |mark: &str| line.split(mark).skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    [".rs:", ".py:", ".md:", ".rs#L", " on line ", " at line ", "(line "].iter().any(|mark| digit_after(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_number_is_found_in_prose_only() {
        let comment = format!("// see {}:{}\nlet place = \"{}:{}\";\n", "lib.rs", 12, "lib.rs", 12);
        let document = format!("see [it]({}#L{})\n```text\nerror at lib.rs:12\n```\n800 lines\n", "lib.rs", 3);
        let tree = Tree::sample(&[("a.rs", &comment), ("b.md", &document)]);
        let found = check(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
