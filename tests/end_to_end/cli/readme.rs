//! The output that the README shows of its first command.
//!
//! `UPDATE_EXPECT=1 cargo test --test end_to_end cli::readme` writes a changed output into the README.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

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
    if without_time(shown) != without_time(&output) {
        assert!(std::env::var_os("UPDATE_EXPECT").is_some(), "UPDATE_EXPECT=1 accepts this output:\n{output}");
        let begin = end - shown.len();
        fs::write(&path, [&readme[..begin], &output, &readme[end..]].concat()).expect("written");
    }
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
