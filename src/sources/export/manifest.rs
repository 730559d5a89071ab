//! Finds an export, and reads from its manifests what was exported and into which files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aws_smithy_types::base64;
use md5::{Digest, Md5};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Deserializer;

use super::{ExportError, data_file::DataFile};

const SUMMARY: &str = "manifest-summary.json";
const FILES: &str = "manifest-files.json";
/// File extensions of a manifest's checksum: the one in DynamoDB's documentation, and the one in its buckets.
const CHECKSUM_ENDINGS: [&str; 2] = ["checksum", "md5"];

/// How deep a copied bucket is searched: `AWSDynamoDB`, the id, and a prefix of several parts.
const FOLDER_DEPTH_MAX: usize = 8;

/// What was exported.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    pub table_arn: String,
    pub export_time: String,
    pub item_count: u64,
}

/// Checked first: the other fields may differ in other kinds of exports.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    output_format: String,
    /// `None` in exports from before DynamoDB introduced incremental ones.
    export_type: Option<String>,
}

/// One line of the list of files.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    item_count: u64,
    md5_checksum: String,
    data_file_s3_key: String,
}

/// The folder of the one export within `folder`.
pub(super) fn find(folder: &Path) -> Result<PathBuf, ExportError> {
    let mut exports = Vec::new();
    search(folder, FOLDER_DEPTH_MAX, &mut exports)?;
    match exports.len() {
        0 => Err(ExportError::NoExport { folder: folder.into() }),
        1 => Ok(exports.remove(0)),
        _ => {
            exports.sort();
            let within = exports.iter().map(|export| export.strip_prefix(folder).unwrap_or(export).into());
            Err(ExportError::SeveralExports { folder: folder.into(), exports: within.collect() })
        }
    }
}

fn search(folder: &Path, depth: usize, exports: &mut Vec<PathBuf>) -> Result<(), ExportError> {
    if folder.join(SUMMARY).is_file() {
        exports.push(folder.into());
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(ExportError::unreadable(folder))? {
        let entry = entry.map_err(ExportError::unreadable(folder))?;
        // Links are not followed: one may lead back up, and copies of buckets have none.
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            search(&entry.path(), depth - 1, exports)?;
        }
    }
    Ok(())
}

/// Reads the manifests in an export's folder, and finds the files that they list.
pub(super) fn read(folder: &Path) -> Result<(Summary, Vec<DataFile>), ExportError> {
    let (path, text) = verified(folder, SUMMARY)?;
    let kind: Kind = parsed(&path, &text)?;
    if let Some(export_type) = kind.export_type.filter(|export_type| export_type != "FULL_EXPORT") {
        return Err(ExportError::NotFull { summary: path, export_type });
    }
    if kind.output_format != "DYNAMODB_JSON" {
        return Err(ExportError::OtherFormat { summary: path, format: kind.output_format });
    }
    let summary: Summary = parsed(&path, &text)?;

    let (path, text) = verified(folder, FILES)?;
    let entries: Result<Vec<Entry>, _> = Deserializer::from_slice(&text).into_iter().collect();
    let entries = entries.map_err(|error| ExportError::BrokenManifest { manifest: path.clone(), line: error.line() })?;
    // Saturating is enough: a sum that overflows cannot equal the total either.
    let listed = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.item_count));
    if listed != summary.item_count {
        return Err(ExportError::OtherTotal { manifest: path, listed, stated: summary.item_count });
    }

    let mut missing = Vec::new();
    let mut files = Vec::new();
    for entry in entries {
        // The key is relative to the bucket, of which the folder may be a part. DynamoDB puts the files next to the manifests.
        let name = entry.data_file_s3_key.rsplit('/').next().unwrap_or_default();
        let file = folder.join("data").join(name);
        match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => {
                files.push(DataFile {
                    file,
                    bytes: metadata.len(),
                    items: entry.item_count,
                    md5: entry.md5_checksum,
                    stated_in: path.clone(),
                });
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ExportError::unreadable(&file)(error)),
            _ => missing.push(file),
        }
    }
    let more = missing.len().saturating_sub(1);
    missing.into_iter().next().map_or(Ok((summary, files)), |file| Err(ExportError::Missing { file, more }))
}

/// A manifest, verified against its checksum if that was copied, too.
fn verified(folder: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), ExportError> {
    let path = folder.join(name);
    let text = present(&path)?.ok_or_else(|| ExportError::Missing { file: path.clone(), more: 0 })?;
    for ending in CHECKSUM_ENDINGS {
        let stated_in = path.with_extension(ending);
        if let Some(stated) = present(&stated_in)?
            && stated.trim_ascii() != base64::encode(Md5::digest(&text)).as_bytes()
        {
            return Err(ExportError::Damaged { file: path, stated_in });
        }
    }
    Ok((path, text))
}

fn present(path: &Path) -> Result<Option<Vec<u8>>, ExportError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(ExportError::unreadable(path)),
    }
}

fn parsed<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, ExportError> {
    serde_json::from_slice(text).map_err(|error| ExportError::BrokenManifest { manifest: path.into(), line: error.line() })
}
