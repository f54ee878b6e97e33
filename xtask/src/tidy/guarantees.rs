//! Every guarantee names the test that proves it, and that test exists.
//!
//! In docs/guarantees.md a row or a section begins with `G1` … `G9`; up to the next one, paths in backticks are its proofs:
//! a file, or `path::function`.

use std::path::Path;

use super::Tree;

const PAGE: &str = "docs/guarantees.md";
const LAST: u32 = 9;

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let Some(page) = tree.text(PAGE) else {
        return vec![format!("there is no {PAGE}")];
    };
    let mut offences = Vec::new();
    let mut proofs = [0usize; LAST as usize + 1];
    let mut current = 0;
    for line in page.lines() {
        if let Some(guarantee) = begins(line) {
            current = guarantee;
        }
        let Some(proved) = proofs.get_mut(current).filter(|_| current > 0) else { continue };
        for proof in
            line.split('`').skip(1).step_by(2).filter(|code| code.contains('/') && !code.contains(char::is_whitespace))
        {
            match missing(tree, proof) {
                None => *proved += 1,
                Some(why) => offences.push(format!("{PAGE}: G{current} names `{proof}`: {why}")),
            }
        }
    }
    let unproved = proofs.iter().enumerate().skip(1).filter(|(_, proved)| **proved == 0);
    offences.extend(unproved.map(|(guarantee, _)| format!("{PAGE}: G{guarantee} names no test that exists")));
    offences
}

/// The guarantee that a row or heading is about.
fn begins(line: &str) -> Option<usize> {
    let text = line.trim_start_matches(|c: char| c.is_whitespace() || "|#*-[".contains(c)).strip_prefix('G')?;
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = text.split_at_checked(digits)?;
    let number: usize = number.parse().ok()?;
    let whole = !rest.starts_with(|c: char| c.is_alphanumeric());
    (whole && (1..=LAST as usize).contains(&number)).then_some(number)
}

/// Why a proof does not exist, if it does not.
fn missing(tree: &Tree, proof: &str) -> Option<&'static str> {
    let (path, function) = proof.split_once("::").map_or((proof, None), |(path, function)| (path, Some(function)));
    if !tree.has(Path::new(path)) {
        return Some("no such file");
    }
    let name = function?.rsplit("::").next()?;
    let text = tree.text(path).unwrap_or_default();
    let defined = ["fn ", "def "].iter().any(|keyword| {
        text.split(keyword).skip(1).any(|rest| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(['(', '<'])))
    });
    (!defined).then_some("no such function in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_a_file_or_a_function_that_exists() {
        let mut page = "# Guarantees\n| G1 Durable | `crates/a/tests/kill.rs::nothing_is_lost` |\n".to_owned();
        page += "| **G2** fold | `crates/a/tests/kill.rs::no_such` |\n\n## G3\nproved by `crates/gone.rs`\n";
        for guarantee in 4..=9 {
            page += &format!("- G{guarantee}: `crates/a/tests/kill.rs`\n");
        }
        let tree = Tree::sample(&[(PAGE, &page), ("crates/a/tests/kill.rs", "#[test]\nfn nothing_is_lost() {}\n")]);
        assert_eq!(
            check(&tree),
            [
                "docs/guarantees.md: G2 names `crates/a/tests/kill.rs::no_such`: no such function in it",
                "docs/guarantees.md: G3 names `crates/gone.rs`: no such file",
                "docs/guarantees.md: G2 names no test that exists",
                "docs/guarantees.md: G3 names no test that exists"
            ]
        );
    }
}
