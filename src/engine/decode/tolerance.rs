//! What the strict types of a stream record refuse: evened out where its meaning is certain, otherwise named by member and kind.
//!
//! A record may have 40 KB, so a reason without a member helps nobody. No reason holds a value, nor a name that may be one: names are shown
//! if the event store's contract has them, or if they are plain words before an attribute value.

use aws_smithy_types::base64;
use serde_json::{Map, Value as Json, json};

type Members = Map<String, Json>;

/// The types of an attribute value.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_AttributeValue.html>
const TYPES: [&str; 10] = ["S", "N", "B", "BOOL", "NULL", "SS", "NS", "BS", "L", "M"];
/// The attributes of an event: `projections/README.md`.
const ATTRIBUTES: [&str; 11] =
    ["PK", "SK", "GSI1PK", "GSI1SK", "eventId", "aggregateId", "eventType", "eventData", "eventVersion", "timestamp", "metadata"];
const IMAGES: [&str; 3] = ["Keys", "NewImage", "OldImage"];
/// A longer name of an attribute is not shown.
const NAME_LEN_MAX: usize = 64;

/// Evens out differences between captures that carry no meaning here: `get-records` has ISO dates and capitalised identities, records
/// written by hand lack the region, and Node.js writes bytes as lists of numbers.
pub fn even_out(record: &mut Members) {
    record.entry("eventID").or_insert_with(|| json!(""));
    record.entry("awsRegion").or_insert_with(|| json!(""));
    if let Some(Json::Object(identity)) = record.get_mut("userIdentity") {
        for (capitalised, name) in [("Type", "type"), ("PrincipalId", "principalId")] {
            if let Some(value) = identity.remove(capitalised) {
                identity.insert(name.into(), value);
            }
        }
    }
    if let Some(Json::Object(change)) = record.get_mut("dynamodb") {
        change.entry("SizeBytes").or_insert_with(|| json!(0));
        change.remove("ApproximateCreationDateTime");
        for image in IMAGES {
            if let Some(Json::Object(attributes)) = change.get_mut(image) {
                attributes.values_mut().for_each(bytes_to_base64);
            }
        }
    }
}

fn bytes_to_base64(attribute: &mut Json) {
    let Json::Object(types) = attribute else { return };
    for (name, content) in types {
        match (name.as_str(), content) {
            ("B", content) => to_base64(content),
            ("BS", Json::Array(all)) => all.iter_mut().for_each(to_base64),
            ("L", Json::Array(elements)) => elements.iter_mut().for_each(bytes_to_base64),
            ("M", Json::Object(members)) => members.values_mut().for_each(bytes_to_base64),
            _ => {}
        }
    }
}

fn to_base64(content: &mut Json) {
    if let Json::Object(members) = &content
        && let Some(bytes) = bytes_of(members)
    {
        *content = Json::String(base64::encode(bytes));
    }
}

/// The bytes of a `Buffer` or a `Uint8Array`, as `JSON.stringify` writes them: `{"type":"Buffer","data":[1,2]}`, `{"0":1,"1":2}`.
fn bytes_of(members: &Members) -> Option<Vec<u8>> {
    let byte = |number: &Json| u8::try_from(number.as_u64()?).ok();
    if members.get("type").is_some_and(|name| name == "Buffer") {
        return members.get("data").filter(|_| members.len() == 2)?.as_array()?.iter().map(byte).collect();
    }
    let bytes = || (0..members.len()).map(|at| byte(members.get(&at.to_string())?)).collect();
    if members.is_empty() { None } else { bytes() }
}

/// The first defect of a record that cannot be read, after it was evened out.
pub fn defect(record: &Members) -> String {
    let change = || match record.get("dynamodb") {
        None => Some(missing(record, "", "dynamodb")),
        Some(Json::Object(change)) => in_change(change),
        Some(other) => Some(wrong_kind("dynamodb", other, "an object")),
    };
    let first = required_text(record, "eventName").or_else(change).or_else(|| in_identity(record.get("userIdentity")?)).or_else(|| {
        let required = ["eventID", "awsRegion"].iter().find_map(|name| required_text(record, name));
        let optional = ["eventSource", "eventVersion", "eventSourceARN", "recordFormat", "tableName"];
        required.or_else(|| optional.iter().find_map(|name| text_or_null(record, "", name)))
    });
    first.unwrap_or_else(|| "a member is missing or of the wrong kind".to_owned())
}

/// How a record names its images otherwise than it should; `None` if it does not have them at all.
pub fn misspelt_images(record: &str) -> Option<String> {
    let record: Json = serde_json::from_str(record).ok()?;
    let change = record.get("dynamodb")?.as_object()?;
    let misspelt = |name: &&str| other_case(change, name).map(|other| format!("`{other}` and no `{name}`"));
    let misspelt: Vec<_> = IMAGES.iter().filter(|name| !change.contains_key(**name)).filter_map(misspelt).collect();
    (!misspelt.is_empty()).then(|| format!("`dynamodb` has {}", misspelt.join(", ")))
}

fn in_change(change: &Members) -> Option<String> {
    let image = |name: &&str| match change.get(*name) {
        None | Some(Json::Null) => None,
        Some(Json::Object(attributes)) => in_attributes(&format!("dynamodb.{name}"), attributes),
        Some(other) => Some(wrong_kind(&format!("dynamodb.{name}"), other, "an object")),
    };
    let size = || {
        let size = change.get("SizeBytes").filter(|size| size.as_i64().is_none())?;
        Some(wrong_kind("dynamodb.SizeBytes", size, "a whole number"))
    };
    let view = || change.get("StreamViewType")?.is_string().then(|| "`dynamodb.StreamViewType` is no type of a stream".to_owned());
    IMAGES
        .iter()
        .find_map(image)
        .or_else(|| text_or_null(change, "dynamodb.", "SequenceNumber"))
        .or_else(size)
        .or_else(|| text_or_null(change, "dynamodb.", "StreamViewType"))
        .or_else(view)
}

fn in_identity(identity: &Json) -> Option<String> {
    match identity {
        Json::Null => None,
        Json::Object(members) => ["type", "principalId"].iter().find_map(|name| {
            let value = members.get(*name).filter(|value| !value.is_string())?;
            Some(wrong_kind(&format!("userIdentity.{name}"), value, "a text"))
        }),
        other => Some(wrong_kind("userIdentity", other, "an object")),
    }
}

fn in_attributes(path: &str, attributes: &Members) -> Option<String> {
    attributes.iter().find_map(|(name, value)| in_attribute(&format!("{path}.{}", shown(name, value)), value))
}

fn in_attribute(path: &str, value: &Json) -> Option<String> {
    let Json::Object(types) = value else { return Some(wrong_kind(path, value, "an attribute value")) };
    let (name, content) = match (types.len(), types.iter().next()) {
        (1, Some(only)) => only,
        (count, _) => return Some(format!("`{path}` is an attribute value with {count} types, which has one")),
    };
    let texts = |is_right: fn(&str) -> bool, wrong: &str| {
        let Json::Array(elements) = content else { return Some(wrong_kind(path, content, "a list")) };
        elements.iter().find_map(|element| match element {
            Json::String(text) => (!is_right(text)).then(|| format!("`{path}`: an element of `{name}` is not {wrong}")),
            other => Some(format!("`{path}`: an element of `{name}` is {} where a text belongs", kind(other))),
        })
    };
    let is_base64 = |text: &str| base64::decode(text).is_ok();
    let content_is = |expected: &str| Some(format!("`{path}`: `{name}` is {} where {expected} belongs", kind(content)));
    match (name.as_str(), content) {
        ("S" | "N", Json::String(_)) | ("BOOL" | "NULL", Json::Bool(_)) => None,
        ("B", Json::String(text)) => (!is_base64(text)).then(|| format!("`{path}`: `B` is not base64")),
        ("S" | "N", _) => content_is("a text"),
        ("B", _) => content_is("base64 in a text"),
        ("BOOL" | "NULL", _) => content_is("a boolean"),
        ("SS" | "NS", _) => texts(|_| true, "a text"),
        ("BS", _) => texts(is_base64, "base64"),
        ("L", Json::Array(elements)) => {
            elements.iter().enumerate().find_map(|(at, element)| in_attribute(&format!("{path}[{at}]"), element))
        }
        ("L", _) => content_is("a list"),
        ("M", Json::Object(members)) => in_attributes(path, members),
        ("M", _) => content_is("an object"),
        _ => Some(format!("`{path}` has none of the types {}", TYPES.join(", "))),
    }
}

/// A name, or `*` if it may be data.
fn shown<'a>(name: &'a str, value: &Json) -> &'a str {
    let plain = name.len() <= NAME_LEN_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let typed = || value.as_object().is_some_and(|types| !types.is_empty() && types.keys().all(|name| TYPES.contains(&name.as_str())));
    if ATTRIBUTES.contains(&name) || (plain && typed()) { name } else { "*" }
}

fn required_text(members: &Members, name: &str) -> Option<String> {
    match members.get(name) {
        None => Some(missing(members, "", name)),
        Some(Json::String(_)) => None,
        Some(other) => Some(wrong_kind(name, other, "a text")),
    }
}

fn text_or_null(members: &Members, within: &str, name: &str) -> Option<String> {
    let value = members.get(name).filter(|value| !value.is_string() && !value.is_null())?;
    Some(wrong_kind(&format!("{within}{name}"), value, "a text"))
}

fn missing(members: &Members, within: &str, name: &str) -> String {
    match other_case(members, name) {
        Some(other) => format!("it has `{other}` and no `{name}`"),
        None => format!("`{within}{name}` is missing"),
    }
}

/// The name of a member that differs in nothing but upper and lower case.
fn other_case<'a>(members: &'a Members, name: &str) -> Option<&'a String> {
    members.keys().find(|other| other.eq_ignore_ascii_case(name) && *other != name)
}

fn wrong_kind(path: &str, value: &Json, expected: &str) -> String {
    format!("`{path}` is {} where {expected} belongs", kind(value))
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defect_of(record: Json) -> String {
        let Json::Object(mut record) = record else { panic!("an object") };
        even_out(&mut record);
        defect(&record)
    }

    fn in_image(attribute: &Json) -> String {
        defect_of(json!({ "eventName": "INSERT", "dynamodb": { "NewImage": { "metadata": { "M": { "trace": attribute } } } } }))
    }

    #[test]
    fn a_defect_is_named_by_member_and_kind() {
        for (record, expected) in [
            (json!({}), "`eventName` is missing"),
            (json!({ "EventName": "INSERT" }), "it has `EventName` and no `eventName`"),
            (json!({ "eventName": 7 }), "`eventName` is a number where a text belongs"),
            (json!({ "eventName": "INSERT" }), "`dynamodb` is missing"),
            (json!({ "eventName": "INSERT", "dynamodb": [] }), "`dynamodb` is a list where an object belongs"),
            (
                json!({ "eventName": "INSERT", "dynamodb": { "SequenceNumber": 100 } }),
                "`dynamodb.SequenceNumber` is a number where a text belongs",
            ),
            (
                json!({ "eventName": "INSERT", "dynamodb": { "SizeBytes": "1" } }),
                "`dynamodb.SizeBytes` is a text where a whole number belongs",
            ),
            (json!({ "eventName": "INSERT", "dynamodb": { "StreamViewType": "new" } }), "`dynamodb.StreamViewType` is no type of a stream"),
            (json!({ "eventName": "INSERT", "dynamodb": { "Keys": "" } }), "`dynamodb.Keys` is a text where an object belongs"),
            (
                json!({ "eventName": "INSERT", "dynamodb": { "Keys": { "PK": { "S": "a", "N": null } } } }),
                "`dynamodb.Keys.PK` is an attribute value with 2 types, which has one",
            ),
            (json!({ "eventName": "INSERT", "dynamodb": {}, "userIdentity": 1 }), "`userIdentity` is a number where an object belongs"),
            (
                json!({ "eventName": "INSERT", "dynamodb": {}, "userIdentity": { "type": "a", "PrincipalId": 1 } }),
                "`userIdentity.principalId` is a number where a text belongs",
            ),
            (json!({ "eventName": "INSERT", "dynamodb": {}, "eventID": null }), "`eventID` is null where a text belongs"),
            (json!({ "eventName": "INSERT", "dynamodb": {}, "tableName": 1 }), "`tableName` is a number where a text belongs"),
        ] {
            assert_eq!(defect_of(record.clone()), expected, "{record}");
        }
    }

    #[test]
    fn a_defect_of_an_attribute_is_named_with_its_path() {
        for (attribute, expected) in [
            (json!({ "B": "hello world!" }), "`dynamodb.NewImage.metadata.trace`: `B` is not base64"),
            (json!({ "B": 5 }), "`dynamodb.NewImage.metadata.trace`: `B` is a number where base64 in a text belongs"),
            (json!({ "N": 5 }), "`dynamodb.NewImage.metadata.trace`: `N` is a number where a text belongs"),
            (json!({ "BOOL": "true" }), "`dynamodb.NewImage.metadata.trace`: `BOOL` is a text where a boolean belongs"),
            (json!({ "SS": ["a", 1] }), "`dynamodb.NewImage.metadata.trace`: an element of `SS` is a number where a text belongs"),
            (json!({ "BS": ["*"] }), "`dynamodb.NewImage.metadata.trace`: an element of `BS` is not base64"),
            (json!({ "L": [{ "S": "a" }, { "S": 1 }] }), "`dynamodb.NewImage.metadata.trace[1]`: `S` is a number where a text belongs"),
            (json!({ "L": 5 }), "`dynamodb.NewImage.metadata.trace`: `L` is a number where a list belongs"),
            (json!({ "M": [] }), "`dynamodb.NewImage.metadata.trace`: `M` is a list where an object belongs"),
            (json!({ "X": "a" }), "`dynamodb.NewImage.metadata.*` has none of the types S, N, B, BOOL, NULL, SS, NS, BS, L, M"),
            (json!({}), "`dynamodb.NewImage.metadata.*` is an attribute value with 0 types, which has one"),
            (json!("a"), "`dynamodb.NewImage.metadata.*` is a text where an attribute value belongs"),
        ] {
            assert_eq!(in_image(&attribute), expected, "{attribute}");
        }
    }

    #[test]
    fn names_that_may_be_data_are_not_shown() {
        for name in ["ann@example.com", "4711", "a b", "", &"x".repeat(65)] {
            let record = json!({ "eventName": "INSERT", "dynamodb": { "NewImage": { name: { "S": 1 } } } });
            assert_eq!(defect_of(record), "`dynamodb.NewImage.*`: `S` is a number where a text belongs");
        }
    }

    #[test]
    fn the_bytes_of_node_are_read() {
        let evened = |content: Json| {
            let mut attribute = json!({ "L": [{ "M": { "a": { "B": content } } }] });
            bytes_to_base64(&mut attribute);
            attribute["L"][0]["M"]["a"]["B"].clone()
        };
        assert_eq!(evened(json!({ "type": "Buffer", "data": [1, 2, 255] })), "AQL/");
        let mut set = json!({ "BS": [{ "type": "Buffer", "data": [1, 2, 255] }, "AA=="] });
        bytes_to_base64(&mut set);
        assert_eq!(set, json!({ "BS": ["AQL/", "AA=="] }));
        assert_eq!(evened(json!({ "type": "Buffer", "data": [] })), "");
        assert_eq!(evened(json!({ "0": 1, "1": 2, "2": 255 })), "AQL/");
        for other in [json!({}), json!({ "type": "Buffer", "data": [256] }), json!({ "type": "Buffer" }), json!({ "1": 1 }), json!([1, 2])]
        {
            assert_eq!(evened(other.clone()), other, "it is not certain what this means");
        }
    }
}
