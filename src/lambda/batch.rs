//! The records of a payload: from the stream itself, or in what Kinesis, SQS and EventBridge Pipes put around them.
//!
//! A payload is taken only if its answer can be exact. Lambda and the services take an answer for what the mapping says it is, so:
//!
//! | delivered by | a failed record is answered with |
//! |---|---|
//! | the DynamoDB stream | the lowest sequence number: everything from it on is delivered again |
//! | a Kinesis stream | the same, with Kinesis' own sequence numbers |
//! | an SQS queue, a pipe | a function error: the whole batch is delivered again. Which records failed has other names in each |
//!
//! SNS, S3 and rules of EventBridge invoke asynchronously and give up after two retries: they are refused, as is any other service.

use lambda_runtime::Diagnostic;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::tasks;
use crate::{
    engine::decode::{Body, Record, SequenceNumber, Unusable, decode},
    sources::envelope::{self, Delivered, Found, Kind, Members, Place},
};

/// A batch of stream records.
pub struct Batch {
    pub records: Vec<Record>,
    pub if_failed: IfFailed,
}

/// What makes failed records come again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum IfFailed {
    /// An answer with the lowest sequence number.
    NameLowest,
    /// A function error.
    Fail,
}

impl Batch {
    /// The batch in a payload; `None` if the payload is no list of records.
    ///
    /// # Errors
    /// A list of something else: none of it may count as processed.
    pub fn read(payload: &RawValue) -> Result<Option<Self>, Diagnostic> {
        let members = Members::of(payload);
        let member = |name| members.as_ref().and_then(|members| members.get(name));
        let (list, if_failed) = match (member("Records"), member("records")) {
            (Some(records), _) => (records, IfFailed::NameLowest),
            // A pipe delivers a bare list, and with an input template an object of the author's making.
            (None, Some(records)) => (records, IfFailed::Fail),
            (None, None) => (payload, IfFailed::Fail),
        };
        let Ok(elements) = serde_json::from_str::<Vec<Element<'_>>>(list.get()) else {
            return if if_failed == IfFailed::NameLowest { Err(unknown_payload(payload)) } else { Ok(None) };
        };
        if elements.is_empty() {
            // Only a stream has empty batches.
            return Ok((if_failed == IfFailed::NameLowest).then_some(Self { records: Vec::new(), if_failed }));
        }
        let records: Vec<Record> = elements.iter().map(|Element(json)| decode(json)).collect();
        if records.iter().all(|record| !matches!(record.body, Body::Poison(_))) {
            return Ok(Some(Self { records, if_failed }));
        }
        Self::of_services(&elements, records, if_failed)
    }

    /// Tells damaged stream records from records of other services.
    fn of_services(elements: &[Element<'_>], records: Vec<Record>, if_failed: IfFailed) -> Result<Option<Self>, Diagnostic> {
        let delivered: Vec<Delivered> = elements.iter().map(|Element(json)| envelope::delivered(json)).collect();
        if let Some(Delivered::Other(name)) = delivered.iter().find(|delivered| matches!(delivered, Delivered::Other(_))) {
            let name = name.as_deref().unwrap_or("another service");
            return Err(refused(&format!("the payload holds records of {name}")));
        }
        let is_stream = |delivered: &Delivered| matches!(delivered, Delivered::Stream);
        let is_own = |delivered: &Delivered| matches!(delivered, Delivered::Stream | Delivered::Unknown);
        if delivered.iter().all(is_own) {
            return Ok(delivered.iter().any(is_stream).then_some(Self { records, if_failed }));
        }
        let is_queue = |delivered: &Delivered| matches!(delivered, Delivered::Sqs);
        if delivered.iter().any(is_own) || (delivered.iter().any(is_queue) && !delivered.iter().all(is_queue)) {
            return Err(refused("the payload holds records of several services"));
        }
        let if_failed = if delivered.iter().any(is_queue) { IfFailed::Fail } else { if_failed };
        let mut records = Vec::new();
        for ((Element(json), delivered), number) in elements.iter().zip(delivered).zip(1..) {
            let sequence = if let Delivered::Kinesis(sequence) = &delivered { Some(SequenceNumber::from(sequence.as_str())) } else { None };
            for found in envelope::open(json, &Place::of_document(1)) {
                let Ok(Found { json, kind: Kind::Record, .. }) = found else {
                    let service = if sequence.is_some() { "Kinesis" } else { "SQS" };
                    return Err(refused(&format!(
                        "record {number} of the payload, delivered by {service}, holds no record of a DynamoDB stream"
                    )));
                };
                records.push(Record { sequence: sequence.clone(), ..decode(&json) });
            }
        }
        Ok(Some(Self { records, if_failed }))
    }

    /// Why none of the batch may be acknowledged: it comes from another table.
    pub fn of_another_table(&self) -> Option<String> {
        self.records.iter().find_map(|record| match &record.body {
            Body::Unusable(other @ Unusable::OtherTable { .. }) => Some(other.to_string()),
            _ => None,
        })
    }
}

/// An element of a list of records, not decoded yet. Each is decoded by itself, so that a malformed record does not fail the others.
#[derive(Deserialize)]
struct Element<'a>(#[serde(borrow)] &'a RawValue);

/// The error for records that are not a stream's.
fn refused(what: &str) -> Diagnostic {
    let error_message = format!(
        "{what}, and this function takes those of a DynamoDB stream, directly or through Kinesis, SQS or EventBridge Pipes: check what \
         invokes the function; nothing was processed"
    );
    Diagnostic { error_type: "NotABatch".to_owned(), error_message }
}

/// The error for a payload that is neither a batch nor a task. It names what it can tell, but no content.
pub fn unknown_payload(payload: &RawValue) -> Diagnostic {
    let members = Members::of(payload);
    let text =
        |name| members.as_ref().and_then(|members| members.get(name)).and_then(|text| serde_json::from_str::<String>(text.get()).ok());
    let service = ["eventSource", "source"].iter().find_map(|name| envelope::service(text(name)?));
    if let Some(service) = service {
        return refused(&format!("the payload is an event of {service}"));
    }
    let meant = members.as_ref().and_then(|members| members.iter().find_map(|(name, _)| tasks::meant(name)));
    let error_message = format!(
        "the payload is neither a batch of a DynamoDB stream (a list named Records) nor a known task ({}){}: check what invokes the function",
        tasks::NAMES.join(", "),
        meant.map_or_else(String::new, |meant| format!("; did you mean `{meant}`?")),
    );
    Diagnostic { error_type: "NotABatch".to_owned(), error_message }
}
