//! A stored event as people read it: its attributes without their DynamoDB types, the telling ones first.

use std::collections::BTreeMap;

use serde_json::{Value as Json, value::RawValue};

/// The attributes that tell most, in this order. Others follow by name, keys last.
const FIRST: [&str; 7] = ["eventType", "eventVersion", "aggregateId", "timestamp", "eventId", "eventData", "metadata"];
const LAST: [&str; 4] = ["PK", "SK", "GSI1PK", "GSI1SK"];

/// An item in DynamoDB's JSON as plain JSON, with all digits of its numbers. `None` if it is something else. An attribute that plain JSON
/// cannot show without doubt keeps its type.
pub fn item(json: &str) -> Option<String> {
    let attributes: BTreeMap<String, Json> = serde_json::from_str(json).ok()?;
    if attributes.is_empty() || !attributes.values().all(|value| matches!(value, Json::Object(typed) if typed.len() == 1)) {
        return None;
    }
    let rank = |name: &str| match FIRST.iter().position(|first| *first == name) {
        Some(at) => at,
        None if LAST.contains(&name) => FIRST.len() + 1,
        None => FIRST.len(),
    };
    let mut attributes: Vec<_> = attributes.iter().collect();
    attributes.sort_by_key(|(name, _)| rank(name));
    Some(object(attributes))
}

fn object<'a>(members: impl IntoIterator<Item = (&'a String, &'a Json)>) -> String {
    let members: Vec<_> = members.into_iter().map(|(name, value)| format!("{}:{}", Json::from(name.as_str()), plain(value))).collect();
    format!("{{{}}}", members.join(","))
}

fn plain(value: &Json) -> String {
    let typed = value.as_object().filter(|typed| typed.len() == 1).and_then(|typed| typed.iter().next());
    match typed.map(|(tag, content)| (tag.as_str(), content)) {
        Some(("S", Json::String(_)) | ("BOOL", Json::Bool(_))) => typed.map_or_else(String::new, |(_, content)| content.to_string()),
        Some(("NULL", Json::Bool(true))) => "null".to_owned(),
        // Only what is a number in JSON, too, is shown without quotes.
        Some(("N", Json::String(number))) if serde_json::from_str::<serde_json::Number>(number).is_ok() => {
            RawValue::from_string(number.clone()).map_or_else(|_| value.to_string(), |number| number.get().to_owned())
        }
        Some(("M", Json::Object(members))) => object(members),
        Some(("L", Json::Array(elements))) => format!("[{}]", elements.iter().map(plain).collect::<Vec<_>>().join(",")),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_shown_without_types_and_with_the_event_first() {
        let stored = r#"{"SK":{"S":"EVENT#1"},"a":{"N":"1.00000000000000000000000000000000000001"},"eventData":{"M":{"x":{"L":[{"NULL":true},{"BOOL":false}]}}},
            "b":{"N":"+1"},"eventType":{"S":"Opened"},"c":{"SS":["x"]}}"#;
        let shown = r#"{"eventType":"Opened","eventData":{"x":[null,false]},"a":1.00000000000000000000000000000000000001,"b":{"N":"+1"},"c":{"SS":["x"]},"SK":"EVENT#1"}"#;
        assert_eq!(item(stored).as_deref(), Some(shown));
    }

    #[test]
    fn what_is_no_item_is_not_shown_as_one() {
        assert_eq!(["{}", "[]", "5", "not JSON", r#"{"eventID":"x"}"#, r#"{"dynamodb":{"a":1,"b":2}}"#].map(item), [const { None }; 6]);
    }
}
