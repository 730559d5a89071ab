//! What the compiler says of operations that rows do not have.
//!
//! rustc compiles each line against the crate as Cargo has just built it, so this needs no crate and no build of its own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Compiles a rule whose result is this expression.
fn compile(library: &Path, expression: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("rule.rs");
    let program = format!(
        "#![crate_type = \"lib\"]\nuse projection_vocabulary::*;\n\
         pub fn rule(shop: &str, event: &Recorded<'_, u8>) -> Change {{ let _ = event; {expression}.into() }}\n"
    );
    fs::write(&source, program).expect("written");
    Command::new(option_env!("RUSTC").unwrap_or("rustc"))
        .args(["--edition=2024", "--emit=metadata", "--out-dir"])
        .arg(folder.path())
        .arg(format!("--extern=projection_vocabulary={}", library.display()))
        .arg(format!("-Ldependency={}", library.parent().expect("a folder").display()))
        .arg(&source)
        .output()
        .expect("rustc runs")
}

/// The crate as this test is linked with it. Cargo does not say which file that is, and older builds lie beside it: the newest one
/// that rustc can use.
fn library() -> PathBuf {
    let folder = env::current_exe().expect("this test");
    let beside = fs::read_dir(folder.parent().expect("a folder")).expect("a folder").flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libprojection_vocabulary-") && Path::new(name).extension().is_some_and(|extension| extension == "rlib")
    };
    let mut found: Vec<_> = beside.filter(named).collect();
    found.sort_by_key(|path| fs::metadata(path).and_then(|file| file.modified()).ok());
    let usable = |path: &PathBuf| compile(path, "shared(shop).add(\"n\", 1)").status.success();
    found.into_iter().rev().find(usable).expect("the crate is built, and a valid rule compiles")
}

#[test]
fn an_operation_that_rows_do_not_have_is_explained_by_the_compiler() {
    let library = library();
    for (expression, said) in [
        ("shared(shop).set(\"name\", shop)", "a shared row has no `set`: events of different aggregates arrive in no particular order"),
        ("shared(shop).add(\"n\", 1).set(\"at\", event.timestamp)", "a shared row has no `set`"),
        ("shared(shop).remove(\"name\")", "a shared row has no `remove`"),
        ("shared(shop).min(\"first\", event.timestamp)", "a shared row has no `min`: use `max` with a value that sorts the other way"),
        ("shared(shop).min(\"lowest\", 1)", "a shared row has no `min`"),
        ("own().max(\"peak\", 1)", "`own()` has no `max` and no `min`"),
        ("own().min(\"low\", event.timestamp)", "`own()` has no `max` and no `min`"),
        ("own().insert(\"tags\", shop)", "`own()` has no `insert`"),
    ] {
        let output = compile(&library, expression);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{expression} compiles");
        assert!(text.contains(&format!("error[E0277]: {said}")), "{expression}\n{text}");
        assert_eq!(text.matches("error[").count(), 1, "{expression}\n{text}");
        assert!(!text.contains("Iterator") && !text.contains("help: there is a method"), "{expression}\n{text}");
    }
}
