//! Exports of the event store's table, written as DynamoDB writes them.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_types::base64;
use flate2::{Compression, write::GzEncoder};
use md5::{Digest as _, Md5};
use serde_dynamo::Item;
use serde_json::json;

pub const ID: &str = "01693685827463-2d8752fd";

pub const TABLE: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/event-store";

/// Writes an export of these items into a copied bucket, distributed in turn over this number of data files. Returns its folder.
pub fn write_export(bucket: &Path, files: usize, items: &[HashMap<String, AttributeValue>]) -> PathBuf {
    let mut texts = vec![String::new(); files];
    for (at, item) in items.iter().enumerate() {
        writeln!(texts[at % files], "{}", json!({ "Item": Item::from(item.clone()) })).expect("written");
    }
    let files: Vec<_> = texts.iter().map(|text| (text.lines().count(), gzip(text.as_bytes()))).collect();
    write(bucket, &files)
}

/// Writes an export with these data files (`0.json.gz`, `1.json.gz`, ...), each with the number of items its manifest states.
pub fn write(bucket: &Path, files: &[(usize, Vec<u8>)]) -> PathBuf {
    let key = format!("AWSDynamoDB/{ID}");
    let folder = bucket.join(&key);
    fs::create_dir_all(folder.join("data")).expect("created");
    let mut entries = String::new();
    for (at, (items, content)) in files.iter().enumerate() {
        fs::write(data_file(&folder, at), content).expect("written");
        let (md5, data_key) = (base64::encode(Md5::digest(content)), format!("{key}/data/{at}.json.gz"));
        let entry = json!({ "itemCount": items, "md5Checksum": md5, "etag": "e-1", "dataFileS3Key": data_key });
        writeln!(entries, "{entry}").expect("written");
    }
    let items: usize = files.iter().map(|(items, _)| items).sum();
    let summary = json!({
        "version": "2020-06-30", "exportArn": format!("{TABLE}/export/{ID}"),
        "startTime": "2026-01-05T09:00:01.028Z", "endTime": "2026-01-05T09:05:43.897Z",
        "tableArn": TABLE, "tableId": "12345a12-abcd-123a-ab12-1234abc12345", "exportTime": "2026-01-05T09:00:00.028Z",
        "s3Bucket": "exports", "s3Prefix": null, "s3SseAlgorithm": "AES256", "s3SseKmsKeyId": null,
        "manifestFilesS3Key": format!("{key}/manifest-files.json"),
        "billedSizeBytes": 0, "itemCount": items, "outputFormat": "DYNAMODB_JSON", "exportType": "FULL_EXPORT",
    });
    seal(&folder.join("manifest-summary.json"), &summary.to_string());
    seal(&folder.join("manifest-files.json"), &entries);
    fs::write(folder.join("_started"), "").expect("written");
    folder
}

/// Writes a manifest and its checksum.
pub fn seal(manifest: &Path, text: &str) {
    fs::write(manifest, text).expect("written");
    fs::write(manifest.with_extension("md5"), base64::encode(Md5::digest(text))).expect("written");
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("written");
    encoder.finish().expect("written")
}

pub fn data_file(folder: &Path, at: usize) -> PathBuf {
    folder.join(format!("data/{at}.json.gz"))
}
