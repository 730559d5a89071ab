//! Numbers of things, in words.

/// A number of things: `1 file`, `2 files`.
pub fn count(number: impl Into<u64>, singular: &str) -> String {
    let number = number.into();
    if number == 1 { format!("1 {singular}") } else { format!("{number} {}", plural(singular)) }
}

/// The same of a `usize`.
pub fn count_of(number: usize, singular: &str) -> String {
    count(number as u64, singular)
}

/// More than one of a thing: `files`.
pub fn plural(singular: &str) -> String {
    match singular.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{singular}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_has_the_right_plural() {
        let counts = [(0_u64, "file"), (1, "file"), (2, "file"), (2, "summary"), (2, "day")].map(|(number, what)| count(number, what));
        assert_eq!(counts, ["0 files", "1 file", "2 files", "2 summaries", "2 days"]);
    }
}
