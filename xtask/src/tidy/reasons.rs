//! Whoever switches a lint or a test off says why.

use super::{Finding, Sources};

pub(super) fn check(sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.files() {
        for (line, what) in without_reason(&source.code) {
            findings.push(Finding::new(format!("{}:{line}", source.path.display()), what));
        }
    }
    findings
}

/// Attributes without a reason, by line.
fn without_reason(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("#[").chain(code.match_indices("#![")) {
        let attribute = code.get(at..).and_then(|rest| rest.split_once(']')).map_or("", |(a, _)| a);
        let inside = attribute.trim_start_matches(['#', '!', '[']);
        let silent = (inside.starts_with("allow(") || inside.starts_with("expect("))
            && !inside.contains("reason");
        if silent || inside == "ignore" {
            let line = code.get(..at).map_or(0, |before| before.lines().count().max(1));
            let line = line + usize::from(code.get(..at).is_some_and(|b| b.ends_with('\n')));
            found.push((line, format!("{inside} has no reason")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::without_reason;

    #[test]
    fn an_attribute_that_switches_off_needs_a_reason() {
        let code = "fn a() {}\n#[ignore]\n#[ignore = \"   \"]\n#[allow(dead_code)]\n#[expect(x, reason = \"  \")]\n";
        let found = without_reason(code);
        let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 4], "{found:?}");
    }
}
