//! The output that the README shows of its first command.
//!
//! A line `…` in the README stands for lines that it leaves out. `UPDATE_EXPECT=1 cargo test --test end_to_end cli::readme` writes a
//! changed output into the README, in full.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The README leaves lines out here.
const LEFT_OUT: &str = "…\n";

#[test]
fn the_readme_shows_the_output_of_its_first_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("README.md");
    let readme = fs::read_to_string(&path).expect("a README");
    let section = readme.find("## Two commands").expect("the section");
    let (command, after) = block(&readme, "```sh\n", section);
    let arguments = command.strip_prefix("cargo run -- ").expect("it runs the projector").split_whitespace();
    let mut projector = Command::new(env!("CARGO_BIN_EXE_projector"));
    let output = projector.args(arguments).current_dir(root).env_clear().stdin(Stdio::null()).output().expect("projector runs");
    assert_eq!(output.status.code(), Some(0));
    let output = String::from_utf8(output.stdout).expect("UTF-8");

    let (shown, end) = block(&readme, "```text\n", after);
    if !is_shown(&without_time(shown), &without_time(&output)) {
        assert!(std::env::var_os("UPDATE_EXPECT").is_some(), "UPDATE_EXPECT=1 accepts this output:\n{output}");
        let begin = end - shown.len();
        fs::write(&path, [&readme[..begin], &output, &readme[end..]].concat()).expect("written");
    }
}

/// Whether an output is this one, in which the lines `…` stand for any number of lines.
fn is_shown(shown: &str, output: &str) -> bool {
    let Some((first, others)) = shown.split_once(LEFT_OUT) else { return shown == output };
    let Some(mut rest) = output.strip_prefix(first) else { return false };
    let (middle, last) = others.rsplit_once(LEFT_OUT).unwrap_or(("", others));
    let in_order = middle.split(LEFT_OUT).all(|piece| rest.split_once(piece).map(|(_, after)| rest = after).is_some());
    in_order && rest.ends_with(last)
}

#[test]
fn lines_may_be_left_out_and_none_may_differ() {
    let output = "a\nb\nc\nd\ne\n";
    for (shown, is) in [("a\n…\nc\n…\ne\n", true), ("a\nb\n…\n", true), ("…\ne\n", true), ("a\n…\nx\n…\ne\n", false)] {
        assert_eq!(is_shown(shown, output), is, "{shown}");
    }
    for shown in ["b\n…\ne\n", "a\n…\nd\n", "a\nb\nc\nd\n", "a\n…\nd\n…\nc\n…\ne\n"] {
        assert!(!is_shown(shown, output), "{shown}");
    }
    assert!(is_shown(output, output));
}

/// The first block of this kind after a position, and where it ends.
fn block<'a>(text: &'a str, fence: &str, from: usize) -> (&'a str, usize) {
    let begin = from + text[from..].find(fence).expect("a block") + fence.len();
    let end = begin + text[begin..].find("```").expect("its end");
    (&text[begin..end], end)
}

/// The output with another duration in its first line: `55 records in 0.05 s: ...`.
fn without_time(output: &str) -> String {
    let (before, rest) = output.split_once(" in ").unwrap_or((output, ""));
    let (_, after) = rest.split_once(" s:").unwrap_or(("", rest));
    format!("{before} in T s:{after}")
}
