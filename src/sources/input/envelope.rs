//! Unwraps records from their envelope: a list, a Lambda event, or an on-failure object that holds the event.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::documents::{Document, newlines};
use super::{InputError, Origin, RawRecord};

type Opened = Vec<Result<RawRecord, InputError>>;

/// The members that distinguish the shapes.
#[derive(Deserialize)]
struct Envelope<'a> {
    /// Of a Lambda event, and of the output of `get-records`.
    #[serde(borrow, rename = "Records", default, deserialize_with = "present")]
    records: Option<&'a RawValue>,
    /// Of a stream record.
    #[serde(borrow, default, deserialize_with = "present")]
    dynamodb: Option<&'a RawValue>,
    /// Of an on-failure object: the event that failed. Null counts as missing.
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    /// Of an on-failure object of any destination.
    #[serde(borrow, rename = "DDBStreamBatchInfo", default, deserialize_with = "present")]
    batch_info: Option<&'a RawValue>,
}

/// Distinguishes a null member from a missing one.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// `None` if the text is not an object: a derived struct would also be filled from a list, by position.
fn envelope(text: &str) -> Option<Envelope<'_>> {
    let is_object = text.trim_ascii_start().starts_with('{');
    is_object.then(|| serde_json::from_str(text).ok())?
}

/// The records of one document, in order, or an error.
pub(super) fn open(document: Document) -> Opened {
    let Document { json, at } = document;
    if let Some(elements) = elements(&json, &at) {
        return elements.into_iter().flat_map(open_element).collect();
    }
    let Some(envelope) = envelope(json.get()) else {
        return vec![Err(InputError::NotStreamData { at })];
    };
    if let Some(records) = envelope.records {
        return listed(records, &place_in(&json, records, &at));
    }
    if envelope.dynamodb.is_some() {
        return vec![Ok(RawRecord { json, origin: at })];
    }
    if let Some(payload) = envelope.payload {
        return open_payload(payload, place_in(&json, payload, &at));
    }
    if envelope.batch_info.is_some() {
        return vec![Err(InputError::NoPayload { at })];
    }
    vec![Err(InputError::NotStreamData { at })]
}

/// A list may also hold whole events: `jq --slurp` makes such files, for example.
fn open_element(element: RawRecord) -> Opened {
    let holds_more = envelope(element.json.get())
        .is_some_and(|envelope| envelope.dynamodb.is_none() && (envelope.records.is_some() || envelope.payload.is_some()));
    if holds_more {
        let RawRecord { json, origin } = element;
        open(Document { json, at: origin })
    } else {
        vec![Ok(element)]
    }
}

/// The failed event is an object, or a string that holds its JSON.
fn open_payload(payload: &RawValue, at: Origin) -> Opened {
    let string = serde_json::from_str::<String>(payload.get()).ok();
    let text = string.as_deref().unwrap_or(payload.get());
    let Some(records) = envelope(text).and_then(|envelope| envelope.records) else {
        return vec![Err(InputError::MalformedPayload { at })];
    };
    if string.is_none() {
        return listed(records, &place_in(payload, records, &at));
    }
    let mut opened = listed(records, &at);
    // Lines within a string are not lines of the file.
    for record in opened.iter_mut().flatten() {
        record.origin.line = at.line;
    }
    opened
}

fn listed(records: &RawValue, at: &Origin) -> Opened {
    match elements(records, at) {
        Some(elements) => elements.into_iter().map(Ok).collect(),
        None => vec![Err(InputError::RecordsNotAList { at: at.clone() })],
    }
}

/// The elements of a list, or `None` if it is not a list.
fn elements(list: &RawValue, at: &Origin) -> Option<Vec<RawRecord>> {
    let elements: Vec<&RawValue> = serde_json::from_str(list.get()).ok()?;
    let mut origin = at.clone();
    let mut passed = 0;
    let mut records = Vec::with_capacity(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        let offset = offset_in(list, element);
        origin.line += newlines(&list.get().as_bytes()[passed..offset]);
        origin.record = Some(index + 1);
        passed = offset;
        records.push(RawRecord { json: element.to_owned(), origin: origin.clone() });
    }
    Some(records)
}

fn place_in(whole: &RawValue, part: &RawValue, at: &Origin) -> Origin {
    let before = &whole.get().as_bytes()[..offset_in(whole, part)];
    let line = at.line + newlines(before);
    Origin { line, ..at.clone() }
}

/// The offset of a part that is borrowed from the whole.
fn offset_in(whole: &RawValue, part: &RawValue) -> usize {
    part.get().as_ptr().addr() - whole.get().as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;

    #[test]
    fn a_record_that_is_not_an_object_is_left_to_the_decoder() {
        let items = read(r#"{"Records":[5, null, {}, [[{"Records":[]}]]]}"#);
        let expected = ["f:1 (record 1) = 5", "f:1 (record 2) = null", "f:1 (record 3) = {}", r#"f:1 (record 4) = [[{"Records":[]}]]"#];
        assert_eq!(items, expected);
    }

    #[test]
    fn a_bare_list_is_read_like_records() {
        let items = read("[null,\n[1], {\"dynamodb\":null,\"Records\":[7]}]");
        let expected = ["f:1 (record 1) = null", "f:2 (record 2) = [1]", r#"f:2 (record 3) = {"dynamodb":null,"Records":[7]}"#];
        assert_eq!(items, expected);
    }

    #[test]
    fn records_that_are_not_a_list_are_an_error_and_the_next_document_is_read() {
        for records in ["null", "5", "{}", r#""[]""#] {
            let items = read(format!("{{\"Records\":{records}}}\n{{\"Records\":[1]}}"));
            let error = "the Records member at f:1 is not a list; capture the event again";
            assert_eq!(items, [error, "f:2 (record 1) = 1"], "{records}");
        }
    }

    #[test]
    fn an_unrelated_object_is_an_error_and_the_next_document_is_read() {
        for other in ["{}", r#"{"Item":{}}"#, r#"{"Records":[],"Records":[1]}"#] {
            let items = read(format!("{other}\n{{\"Records\":[1]}}"));
            assert!(items[0].starts_with("f:1 is neither a stream record nor an event"));
            assert_eq!(items[1], "f:2 (record 1) = 1");
        }
    }

    /// An object as Lambda writes it to the bucket, shortened.
    fn on_failure_object(payload: &str) -> String {
        let context = r#""requestContext": {"condition": "RetryAttemptsExhausted"}"#;
        let batch = r#""DDBStreamBatchInfo": {"shardId": "shardId-1", "batchSize": 2}"#;
        format!("{{\n  {context},\n  \"version\": \"1.0\",\n  {batch}{payload}\n}}")
    }

    #[test]
    fn an_on_failure_object_gives_the_event_in_its_payload() {
        let object = ",\n  \"payload\": {\"Records\": [\n1,\n2\n]}";
        let items = read(on_failure_object(object));
        assert_eq!(items, ["f:6 (record 1) = 1", "f:7 (record 2) = 2"]);
        let string = r#", "payload": "{\"Records\":\n[1,\n\"\u20ac\"]}""#;
        let items = read(on_failure_object(string));
        assert_eq!(items, ["f:4 (record 1) = 1", r#"f:4 (record 2) = "€""#]);
    }

    #[test]
    fn an_on_failure_object_without_payload_names_the_destination_that_keeps_it() {
        for payload in ["", ", \"payload\": null"] {
            let items = read(on_failure_object(payload));
            assert_eq!(items.len(), 1);
            let start = "the on-failure object at f:1 has no payload; only an S3 destination keeps";
            assert!(items[0].starts_with(start));
        }
    }

    #[test]
    fn a_payload_that_is_not_an_event_is_an_error() {
        for payload in ["5", "[[1],2,3,4]", r#""""#, r#""{\"Rec""#, r#""[[1],2,3,4]""#, r#"{"payload":{"Records":[]}}"#] {
            let items = read(on_failure_object(&format!(", \"payload\": {payload}")));
            assert_eq!(items.len(), 1, "{payload}");
            assert!(items[0].starts_with("the payload at f:4 is not an event with Records"));
        }
        let items = read(on_failure_object(r#", "payload": {"Records":null}"#));
        assert!(items[0].starts_with("the Records member at f:4 is not a list"));
    }
}
