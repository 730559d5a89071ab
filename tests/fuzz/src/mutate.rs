//! Small changes of an input: as JSON, so that it remains a record of some kind, or as bytes.

use fastrand::Rng;
use serde_json::{Value as Json, json};

/// Values that no writer sends on purpose. Numbers are strings, as in DynamoDB's JSON.
const TEXTS: [&str; 38] = [
    "",
    " ",
    "0",
    "-0",
    "1",
    "2",
    "-1",
    "007",
    "+1",
    "1.0",
    "1e3",
    "1E+125",
    "1E-130",
    "1E126",
    "1E-131",
    "1e999999999999",
    "NaN",
    "Infinity",
    "0x10",
    "1_000",
    "99999999999999999999999999999999999999",
    "999999999999999999999999999999999999990",
    "123456789012345678901234567890123456789",
    "0.1",
    "4711471147114711",
    "\0",
    "\u{feff}",
    "e\u{301}",
    "🏳️‍🌈",
    "\u{202e}",
    "#",
    "swordfish",
    "EVENT#0000000002",
    "EVENT#9999999999",
    "VERSION",
    "AGGREGATE#",
    "9999-12-31T23:59:60Z",
    "0000-01-01T00:00:00+00:01",
];
/// The tags of DynamoDB's JSON.
const TAGS: [&str; 11] = ["S", "N", "B", "SS", "NS", "BS", "M", "L", "NULL", "BOOL", "X"];
/// Deeper than DynamoDB allows.
const DEPTH: usize = 40;

/// One change of either kind.
#[must_use]
pub fn any(bytes: &[u8], random: &mut Rng) -> Vec<u8> {
    random.bool().then(|| json(bytes, random)).flatten().unwrap_or_else(|| raw(bytes, random))
}

/// One change of a JSON document.
#[must_use]
pub fn json(bytes: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
    let mut document: Json = serde_json::from_slice(bytes).ok()?;
    let mut places = Vec::new();
    note_places(&document, &mut String::new(), &mut places);
    let place = random.choice(&places)?.clone();
    let other = document.pointer(random.choice(&places)?)?.clone();
    change(document.pointer_mut(&place)?, other, random);
    serde_json::to_vec(&document).ok()
}

/// The JSON pointers of everything in a document.
fn note_places(json: &Json, place: &mut String, places: &mut Vec<String>) {
    places.push(place.clone());
    let members: Vec<(String, &Json)> = match json {
        Json::Object(members) => members.iter().map(|(name, member)| (name.replace('~', "~0").replace('/', "~1"), member)).collect(),
        Json::Array(elements) => elements.iter().enumerate().map(|(at, element)| (at.to_string(), element)).collect(),
        _ => return,
    };
    let len = place.len();
    for (name, member) in members {
        place.push('/');
        place.push_str(&name);
        note_places(member, place, places);
        place.truncate(len);
    }
}

fn change(json: &mut Json, other: Json, random: &mut Rng) {
    match (json, random.u8(..8)) {
        (Json::Object(members), 0) => {
            let name = random.choice(members.keys()).cloned().unwrap_or_default();
            members.remove(&name);
        }
        (Json::Object(members), 1 | 2) => {
            let name = random.choice(members.keys()).cloned().unwrap_or_default();
            let member = members.remove(&name).unwrap_or_default();
            members.insert((*random.choice(&TAGS).expect("there are tags")).to_owned(), member);
        }
        (Json::Object(members), 3) => {
            members.insert((*random.choice(&TEXTS).expect("there are texts")).to_owned(), other);
        }
        (Json::Array(elements), 0..=3) => elements.insert(random.usize(..=elements.len()), other),
        (json, 4) => *json = other,
        (json, 5) => {
            let deep = random.usize(..DEPTH);
            let mut wrap = |inner| if random.bool() { json!({ "M": { "m": inner } }) } else { json!({ "L": [inner] }) };
            *json = std::iter::repeat_n((), deep).fold(json.take(), |inner, ()| wrap(inner));
        }
        (json, 6) => {
            let odd = [Json::Null, json!(true), json!(-1), json!(1.5), json!([]), json!({})];
            *json = random.choice(odd).unwrap_or_default();
        }
        (json, _) => *json = json!(random.choice(&TEXTS)),
    }
}

/// One change of the bytes.
fn raw(bytes: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = random.usize(..=bytes.len());
    match random.u8(..6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.u8(..)),
        2 => bytes.insert(at, *random.choice(b"\"{}[]:,\\\n0-eE.#").expect("there are some")),
        3 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
        4 => {
            let end = random.usize(at..=bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let end = random.usize(at..=bytes.len().min(at + 200));
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
    }
    bytes
}
