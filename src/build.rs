//! Tells the programs the commit that they are built from, for `--version`. Without git, or outside a checkout, there is none to tell.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // A package inside another project's checkout is not of that project's commit.
    let own_checkout = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    let Some(commit) = git(&["rev-parse", "--short=7", "HEAD"]).filter(|_| own_checkout) else { return };
    println!("cargo::rustc-env=PROJECTOR_COMMIT={commit}");
    // Every commit and checkout appends to the log of HEAD.
    for file in ["logs/HEAD", "HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
