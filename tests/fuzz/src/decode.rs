//! One stream record: how it is classified, and that an event survives the way through its item and its record.

use projection_worker::internals::{
    engine::decode::{Body, Poison, appended_item, decode, decode_any},
    store::item::{Malformed, decode_event, encode_event},
};
use serde_dynamo::Item;
use serde_json::{json, value::RawValue};

use crate::{MARKED, tells_no_data};

/// Longer names would not fit into the key of the parking table.
const RECORD_ID_LEN_MAX: usize = 256;

pub fn check(bytes: &[u8]) {
    let Ok(raw) = serde_json::from_slice::<&RawValue>(bytes) else { return };
    let record = decode(raw);
    assert_eq!(record, decode_any(raw), "the short way reads what the long one reads");
    match record.body {
        Body::Event(event) => {
            let item = Item::from(encode_event(&event));
            let again = decode_event(&item);
            // A set of numbers or bytes becomes a list, whose elements are one level deeper. At DynamoDB's limit they still fit.
            if matches!(again, Err(Malformed::TooDeep(_))) && [r#""NS""#, r#""BS""#].iter().any(|tag| raw.get().contains(tag)) {
                return;
            }
            assert_eq!(again.as_ref(), Ok(&event), "an event survives its item");
            let keys = json!({ "PK": item.get("PK"), "SK": item.get("SK") });
            let record = json!({ "eventName": "INSERT", "dynamodb": { "Keys": keys, "NewImage": item } });
            let record = serde_json::value::to_raw_value(&record).expect("an item is JSON");
            let Body::Event(again) = decode(&record).body else { panic!("the record of an event is one") };
            assert_eq!(again, event, "an event survives its record");
            let (aggregate, version, _) = appended_item(raw).expect("it can be read").expect("an event was appended");
            assert_eq!((aggregate, version), (event.aggregate, event.version));
        }
        Body::Poison(Poison { event, reason, payload, record_id, .. }) => {
            if !names_a_marked_member(raw.get()) {
                tells_no_data(&reason);
            }
            assert_eq!(payload, raw.get(), "nothing of a record is lost");
            assert!((1..=RECORD_ID_LEN_MAX).contains(&record_id.len()));
            assert!(event.is_none_or(|(aggregate, version)| version.0 > 0 && !aggregate.as_str().is_empty()));
        }
        Body::Rewritten { aggregate, version, how } => {
            assert!(version.0 > 0 && !aggregate.as_str().is_empty());
            assert!(!MARKED.iter().any(|word| how.to_string().contains(word)));
        }
        Body::Ignored(reason) => assert!(!MARKED.iter().any(|word| reason.to_string().contains(word))),
        Body::Unusable(reason) => {
            if !names_a_marked_member(raw.get()) {
                tells_no_data(&reason);
            }
        }
    }
}

/// Names of attributes are shown where they look like names, so a mutation that makes data a name is no leak.
fn names_a_marked_member(raw: &str) -> bool {
    let dense: String = raw.chars().filter(|char| !char.is_whitespace()).collect();
    MARKED
        .iter()
        .any(|word| dense.match_indices(word).any(|(at, _)| dense[at..].split_once('"').is_some_and(|(_, rest)| rest.starts_with(':'))))
}
