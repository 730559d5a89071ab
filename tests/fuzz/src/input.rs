//! A capture in any of its formats.

use std::{fs, io::Write as _, path::PathBuf};

use flate2::{Compression, write::GzEncoder};
use projection_worker::internals::sources::input::sources;
use tempfile::TempDir;

use crate::tells_no_data;

/// The first two bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const GOOD: &[u8] = br#"{"dynamodb":{}}"#;

thread_local! {
    static FILE: (TempDir, PathBuf) = {
        let folder = tempfile::tempdir().expect("a folder for captures");
        let file = folder.path().join("capture");
        (folder, file)
    };
}

pub fn check(bytes: &[u8]) {
    let items = read(bytes);
    // Compressing takes ten times as long as everything else, so only some inputs are compressed.
    if bytes.len().is_multiple_of(8) && !bytes.starts_with(&GZIP_MAGIC) {
        assert_eq!(read(&gzip(bytes)), items, "compressed it reads the same");
    }
    let line: Vec<u8> = bytes.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect();
    let items = read(&[GOOD, b"\n", &line, b"\n", GOOD].concat());
    let good = |line: u64| Ok((line, String::from_utf8_lossy(GOOD).into_owned()));
    assert_eq!((items.first(), items.last()), (Some(&good(1)), Some(&good(3))), "a broken line breaks alone");
}

/// The line and the text of each record, or the message.
fn read(bytes: &[u8]) -> Vec<Result<(u64, String), String>> {
    FILE.with(|(_, file)| {
        fs::write(file, bytes).expect("written");
        let source = sources(std::slice::from_ref(file)).expect("it exists").remove(0);
        let mut items = Vec::new();
        let (mut line, mut ended) = (1, false);
        for item in source.records().expect("it opens") {
            assert!(!ended, "nothing follows a fatal error");
            items.push(match item {
                Ok(record) => {
                    assert!(record.origin.line >= line, "records come in the order of the file");
                    line = record.origin.line;
                    Ok((line, record.json.get().to_owned()))
                }
                Err(error) => {
                    tells_no_data(&error);
                    ended = error.is_fatal();
                    Err(error.to_string())
                }
            });
        }
        items
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("memory takes it");
    packed.finish().expect("memory takes it")
}
