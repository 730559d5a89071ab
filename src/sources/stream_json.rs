//! Writes events as stream records, as if they had just been inserted.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::Path,
};

use projection_vocabulary::{RecordedEvent, Timestamp};
use serde::Serialize;
use serde_dynamo::Item;
use serde_json::{Value as Json, json};

use crate::store::item::encode_event;

/// A Lambda event of stream records.
#[derive(Serialize)]
pub struct LambdaEvent {
    #[serde(rename = "Records")]
    pub records: Vec<Json>,
}

/// A new file for records, which only its owner may read: they hold event data.
///
/// # Errors
/// It exists, or cannot be created.
pub fn new_file(path: &Path) -> io::Result<BufWriter<File>> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(BufWriter::new)
}

/// The stream record of an event's insertion, at a position in the stream.
pub fn inserted(event: &RecordedEvent, position: u64) -> Json {
    let image = json!(Item::from(encode_event(event)));
    json!({
        "eventID": format!("{position:032x}"),
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": epoch_s(&event.timestamp),
            "Keys": { "PK": image["PK"], "SK": image["SK"] },
            "SizeBytes": image.to_string().len(),
            "SequenceNumber": format!("{}", 100_000_000_000_000_000_000_u128 + u128::from(position)),
            "StreamViewType": "NEW_IMAGE",
            "NewImage": image,
        },
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/event-store/stream/2026-01-01T00:00:00.000",
    })
}

fn epoch_s(timestamp: &Timestamp) -> i64 {
    timestamp.epoch_ms() / 1_000
}
