//! Thousands of malformed or unusual records. Each is a complete record with one realistic defect and an aggregate of its own.
//!
//! They are generated for each run instead of being kept as files: the defects are products (every member times every value that
//! could replace it), which a page of code expresses better than megabytes of JSON.

use std::fmt::Display;

use projection_vocabulary::{AggregateId, RecordedEvent, Timestamp, Value, data};
use serde_json::{Value as Json, json, value::RawValue};

use crate::support::world::{record, recorded};

/// Markers in the data of each event, whole or in part. No message may repeat one.
pub const MARKERS: [&str; 2] = ["swordfish", "47114711"];

/// A record, with what must hold for it, known without decoding it.
pub struct Malformed {
    /// The defect.
    pub what: String,
    pub record: Box<RawValue>,
    /// The event without the defect.
    pub event: RecordedEvent,
    pub claim: Claim,
}

/// The required outcome of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// Never applied.
    Refused,
    /// May be applied, because the defect is in a place that has no meaning for a row.
    Meaningless,
    /// Applied as this event: unusual, but DynamoDB can store it.
    Event(RecordedEvent),
}

pub fn malformed_records() -> Vec<Malformed> {
    let mut all = Generator(Vec::new());
    all.members();
    all.tags();
    all.numbers();
    all.ids();
    all.versions();
    all.timestamps();
    all.names();
    all.contradictions();
    all.spellings();
    all.sizes();
    all.0
}

const IMAGE: &str = "/dynamodb/NewImage";
const DEPOSIT: &str = "/dynamodb/NewImage/eventData/M/initialDeposit";

/// Members without which the record is not an event, or not this one.
const ESSENTIAL: [&str; 10] = [
    "/eventName",
    "/dynamodb/Keys/PK",
    "/dynamodb/Keys/SK",
    "/dynamodb/NewImage/PK",
    "/dynamodb/NewImage/SK",
    "/dynamodb/NewImage/aggregateId",
    "/dynamodb/NewImage/eventType",
    "/dynamodb/NewImage/eventVersion",
    "/dynamodb/NewImage/timestamp",
    DEPOSIT,
];

/// Whether replacing the member at this place destroys the event.
fn is_essential(place: &str) -> bool {
    // If `Keys` is missing as a whole, the image still has them.
    place != "/dynamodb/Keys" && ESSENTIAL.iter().any(|essential| essential.starts_with(place) || place.starts_with(essential))
}

struct Generator(Vec<Malformed>);

impl Generator {
    /// The event from which the next record is made.
    fn event(&self) -> RecordedEvent {
        let id = format!("malformed-{:04}", self.0.len());
        let data = data! {
            initialDeposit: 4711.47114711, note: "swordfish",
            owner: { "name": "swordfish", "tags": ["swordfish", null, true], "since": 4711471147114711 },
        };
        let mut event = recorded([(id.as_str(), "AccountOpened", data)]).remove(0);
        event.metadata = Some(data! { user: "swordfish" });
        event
    }

    /// Adds a record changed as text.
    fn spelled(&mut self, what: impl Display, claim: Claim, change: impl FnOnce(String) -> String) {
        let event = self.event();
        let text = change(record(&event, self.0.len() as u64 + 1).get().to_owned());
        let record = RawValue::from_string(text).unwrap_or_else(|_| panic!("{what} is JSON"));
        self.0.push(Malformed { what: what.to_string(), record, event, claim });
    }

    /// Adds a record changed as JSON.
    fn changed(&mut self, what: impl Display, claim: Claim, change: impl FnOnce(&mut Json)) {
        self.spelled(what, claim, |text| {
            let mut json = serde_json::from_str(&text).expect("a record");
            change(&mut json);
            json.to_string()
        });
    }

    /// Every member, replaced by every other kind of value, and removed.
    fn members(&mut self) {
        let others = [
            json!(null),
            json!(true),
            json!(-1),
            json!(1.5),
            json!(""),
            json!("swordfish"),
            json!("\u{0}"),
            json!([]),
            json!(["swordfish"]),
            json!({}),
            json!({ "S": "swordfish" }),
            json!({ "N": "swordfish" }),
            json!({ "M": { "M": { "S": "swordfish" } } }),
            json!({ "NULL": true }),
            json!({ "swordfish": 4_711_471_147_114_711_u64 }),
        ];
        for place in places(&json_of(&self.event())) {
            let claim = || if is_essential(&place) { Claim::Refused } else { Claim::Meaningless };
            for other in &others {
                self.changed(format_args!("{other} at {place:?}"), claim(), |json| *at(json, &place) = other.clone());
            }
            if let Some((holder, name)) = place.rsplit_once('/') {
                self.changed(format_args!("nothing at {place}"), claim(), |json| remove(at(json, holder), name));
            }
        }
    }

    /// Every attribute under every other type, with content that fits that type and with its own content.
    fn tags(&mut self) {
        let contents = [
            ("S", json!("swordfish")),
            ("N", json!("4711471147114711")),
            ("B", json!("c3dvcmRmaXNo")),
            ("SS", json!(["swordfish"])),
            ("NS", json!(["4711471147114711"])),
            ("BS", json!(["c3dvcmRmaXNo"])),
            ("M", json!({ "swordfish": { "S": "swordfish" } })),
            ("L", json!([{ "S": "swordfish" }])),
            ("NULL", json!(true)),
            ("BOOL", json!(true)),
            ("X", json!("swordfish")),
            ("s", json!("swordfish")),
        ];
        let event = json_of(&self.event());
        for place in places(&event).iter().filter(|place| place.starts_with(IMAGE)) {
            let Some(Json::Object(attribute)) = event.pointer(place) else { continue };
            let Some((tag, content)) = attribute.iter().next().filter(|(tag, _)| contents.iter().any(|(name, _)| name == tag)) else {
                continue;
            };
            let claim = || if is_essential(place) { Claim::Refused } else { Claim::Meaningless };
            for (other, right) in contents.iter().filter(|(other, _)| other != tag) {
                self.changed(format_args!("{other} at {place}"), claim(), |json| *at(json, place) = json!({ *other: right }));
                self.changed(format_args!("{tag} as {other} at {place}"), claim(), |json| *at(json, place) = json!({ *other: content }));
            }
            self.changed(format_args!("two types at {place}"), claim(), |json| at(json, place)["NULL"] = json!(true));
        }
    }

    fn numbers(&mut self) {
        for text in VALID_NUMBERS {
            let mut event = self.event();
            let Value::Map(data) = &mut event.data else { unreachable!("data is a map") };
            data.insert("initialDeposit".into(), Value::Number(text.parse().expect("DynamoDB holds it")));
            self.changed(format_args!("a deposit of {text}"), Claim::Event(event), |json| *at(json, DEPOSIT) = json!({ "N": text }));
        }
        for text in INVALID_NUMBERS {
            for place in ["initialDeposit", "note", "owner/M/since"] {
                let place = format!("{IMAGE}/eventData/M/{place}");
                self.changed(format_args!("{text:?} at {place}"), Claim::Refused, |json| *at(json, &place) = json!({ "N": text }));
            }
            let place = format!("{IMAGE}/eventVersion");
            self.changed(format_args!("version {text:?}"), Claim::Refused, |json| *at(json, &place) = json!({ "N": text }));
            let set = json!({ "NS": ["1", text] });
            self.changed(format_args!("{text:?} in a set"), Claim::Refused, |json| *at(json, &format!("{IMAGE}/eventData/M/note")) = set);
        }
    }

    fn ids(&mut self) {
        for id in IDS {
            let event = RecordedEvent { aggregate: id.into(), ..self.event() };
            self.changed(format_args!("the id {id:?}"), Claim::Event(event), |json| rename(json, id));
        }
        for id in [String::new(), "x".repeat(2_039), "é".repeat(1_020), "x".repeat(100_000)] {
            self.changed(format_args!("an id of {} bytes", id.len()), Claim::Refused, |json| rename(json, &id));
        }
        for id in IDS {
            // The id of another aggregate, which no other record has.
            let id = format!("{id}-{}", self.0.len());
            let image = format!("{IMAGE}/aggregateId/S");
            self.changed(format_args!("the id {id:?} in the image"), Claim::Refused, |json| *at(json, &image) = json!(id));
            for place in ["/dynamodb/Keys/PK/S", "/dynamodb/NewImage/PK/S"] {
                self.changed(format_args!("the id {id:?} at {place}"), Claim::Refused, |json| {
                    *at(json, place) = json!(format!("AGGREGATE#{id}"));
                });
                self.changed(format_args!("the bare id {id:?} at {place}"), Claim::Refused, |json| *at(json, place) = json!(id));
            }
        }
    }

    fn versions(&mut self) {
        let keys = ["/dynamodb/Keys/SK/S", "/dynamodb/NewImage/SK/S"];
        let sort_at = |json: &mut Json, places: &[&str], sort: &str| {
            for place in places {
                *at(json, place) = json!(sort);
            }
        };
        for sort in SORT_KEYS {
            for places in [&keys[..], &keys[..1], &keys[1..]] {
                self.changed(format_args!("{sort:?} at {places:?}"), Claim::Refused, |json| sort_at(json, places, sort));
            }
        }
        let stated = format!("{IMAGE}/eventVersion/N");
        for version in ["0", "2", "9999999999", "10000000000", "18446744073709551615", "18446744073709551616", "1.5", "1e1"] {
            self.changed(format_args!("version {version} by itself"), Claim::Refused, |json| *at(json, &stated) = json!(version));
            // A consistent version waits for the versions before it, which do not exist.
            self.changed(format_args!("version {version}, and keys that agree"), Claim::Refused, |json| {
                *at(json, &stated) = json!(version);
                sort_at(json, &keys, &format!("EVENT#{version:0>10}"));
            });
        }
        // Another spelling of the same version is unusual, not wrong.
        for version in ["+1", "01", "1.0", "1e0", "1E+0", "0.1e1"] {
            let event = self.event();
            self.changed(format_args!("version {version}"), Claim::Event(event), |json| *at(json, &stated) = json!(version));
        }
    }

    fn timestamps(&mut self) {
        let place = format!("{IMAGE}/timestamp/S");
        for (text, instant) in TIMESTAMPS {
            let event = RecordedEvent { timestamp: Timestamp::parse(instant).expect("an instant"), ..self.event() };
            self.changed(format_args!("at {text}"), Claim::Event(event), |json| *at(json, &place) = json!(text));
        }
        for text in INVALID_TIMESTAMPS {
            self.changed(format_args!("at {text:?}"), Claim::Refused, |json| *at(json, &place) = json!(text));
        }
    }

    /// Names of the change and of the event type.
    fn names(&mut self) {
        for name in ["insert", "Insert", "INSERT ", "UPSERT", "DELETE", "MODIFY", "REMOVE", "swordfish", "\u{0}", "IN\u{200b}SERT"] {
            self.changed(format_args!("a change named {name:?}"), Claim::Refused, |json| json["eventName"] = json!(name));
        }
        for name in [
            "accountopened",
            "AccountOpened ",
            " AccountOpened",
            "Account\u{200b}Opened",
            "EVENT#AccountOpened",
            "swordfish",
            "\u{0}",
            "AccountOpened\u{301}",
        ] {
            self.changed(format_args!("an event of type {name:?}"), Claim::Refused, |json| {
                *at(json, &format!("{IMAGE}/eventType/S")) = json!(name);
            });
        }
        for view in ["KEYS_ONLY", "OLD_IMAGE", "NEW_IMAGE", "NEW_AND_OLD_IMAGES", "", "swordfish"] {
            self.changed(format_args!("no image in a stream of {view:?}"), Claim::Refused, |json| {
                remove(&mut json["dynamodb"], "NewImage");
                json["dynamodb"]["StreamViewType"] = json!(view);
            });
        }
    }

    /// Members that contradict each other.
    fn contradictions(&mut self) {
        let swap = |one: &'static str, two: &'static str| {
            move |json: &mut Json| {
                let (first, second) = (at(json, one).clone(), at(json, two).clone());
                (*at(json, one), *at(json, two)) = (second, first);
            }
        };
        for (one, two) in [
            ("/dynamodb/Keys/PK", "/dynamodb/Keys/SK"),
            ("/dynamodb/NewImage/PK", "/dynamodb/NewImage/SK"),
            ("/dynamodb/NewImage/eventData", "/dynamodb/NewImage/timestamp"),
            ("/dynamodb/NewImage/eventVersion", "/dynamodb/NewImage/aggregateId"),
            ("/dynamodb/Keys", "/dynamodb/NewImage"),
            ("/dynamodb/NewImage/eventType", "/dynamodb/NewImage/aggregateId"),
            ("/dynamodb", "/eventID"),
        ] {
            self.changed(format_args!("{one} for {two}"), Claim::Refused, swap(one, two));
        }
        self.changed("an event without its index keys", Claim::Event(self.event()), |json| {
            remove(&mut json["dynamodb"]["NewImage"], "GSI1PK");
            remove(&mut json["dynamodb"]["NewImage"], "GSI1SK");
        });
        self.changed("keys only in the image", Claim::Event(self.event()), |json| remove(&mut json["dynamodb"], "Keys"));
        self.changed("an additional key attribute", Claim::Event(self.event()), |json| {
            json["dynamodb"]["Keys"]["swordfish"] = json!({ "S": "swordfish" });
        });
        self.changed("an unknown attribute", Claim::Event(self.event()), |json| {
            json["dynamodb"]["NewImage"]["swordfish"] = json!({ "N": "0.5" });
        });
        self.changed("an old image along with the new one", Claim::Event(self.event()), |json| {
            json["dynamodb"]["OldImage"] = json!({ "swordfish": { "S": "swordfish" } });
        });
        self.changed("an image as JSON text", Claim::Refused, |json| {
            json["dynamodb"]["NewImage"] = json!(json["dynamodb"]["NewImage"].to_string());
        });
        self.changed("an image without types", Claim::Refused, |json| {
            json["dynamodb"]["NewImage"] = json!({ "PK": "AGGREGATE#x", "SK": "EVENT#0000000001", "eventData": { "note": "swordfish" } });
        });
        self.changed("an event that holds a batch", Claim::Refused, |json| *json = json!({ "Records": [json.take()] }));
        self.changed("a record in a list", Claim::Refused, |json| *json = json!([json.take()]));
        self.changed("a record as JSON text", Claim::Refused, |json| *json = json!(json.to_string()));
    }

    /// Defects that only JSON text can hold: duplicate names, escapes that are not characters, numbers beyond any type.
    fn spellings(&mut self) {
        let event = json_of(&self.event());
        for place in places(&event) {
            if !event.pointer(&place).is_some_and(Json::is_string) {
                continue;
            }
            for spelling in [r#""\ud800""#, r#""\udc00\ud800""#, "1e999", "-0", r#""swordfish\u0000""#] {
                let claim = if is_essential(&place) { Claim::Refused } else { Claim::Meaningless };
                self.spelled(format_args!("{spelling} at {place}"), claim, |record| spell(&record, &place, spelling));
            }
        }
        for (what, twice) in [
            ("dynamodb null first", r#"{"dynamodb":null,"#),
            ("another eventName first", r#"{"eventName":"REMOVE","#),
            ("another eventID first", r#"{"eventID":"swordfish","#),
            ("an unknown list", r#"{"swordfish":[[[]]],"#),
        ] {
            self.spelled(what, Claim::Meaningless, |record| record.replacen('{', twice, 1));
        }
        for (what, twice) in [
            ("dynamodb null last", r#","dynamodb":null}"#),
            ("another eventName last", r#","eventName":"REMOVE"}"#),
            ("an empty change last", r#","dynamodb":{}}"#),
        ] {
            self.spelled(what, Claim::Refused, |record| format!("{}{twice}", &record[..record.len() - 1]));
        }
        for name in ["PK", "SK", "eventId", "aggregateId", "eventType", "eventData", "eventVersion", "timestamp", "metadata"] {
            for twice in ["null", r#"{"S":"swordfish"}"#, r#"{"N":"1"}"#] {
                let claim = Claim::Meaningless;
                let there = r#""NewImage":{"#;
                self.spelled(format_args!("{name} twice, {twice} first"), claim, |record| {
                    record.replace(there, &format!("{there}\"{name}\":{twice},"))
                });
            }
        }
        for json in ["null", "true", "0", "-1", "1e999", r#""""#, r#""swordfish""#, "[]", "{}", "[[]]", r#"{"swordfish":1}"#, r#""\ud800""#]
        {
            self.spelled(format_args!("{json} for a record"), Claim::Refused, |_| json.to_owned());
        }
    }

    /// Deeply nested and very long records.
    fn sizes(&mut self) {
        for depth in [32, 33, 60, 61, 62, 63, 64, 100, 126, 127, 128, 1_000, 20_000] {
            for (open, close) in [(r#"{"L":["#, "]}"), (r#"{"M":{"swordfish":"#, "}}"), ("[", "]"), (r#"{"swordfish":"#, "}")] {
                let deep = format!("{}{}{}", open.repeat(depth), r#"{"S":"swordfish"}"#, close.repeat(depth));
                for place in ["/dynamodb/NewImage/eventData/M/note", "/dynamodb/NewImage/note", "/note"] {
                    // DynamoDB's limit on nesting: the map of the data is the first level.
                    let claim = if place == "/dynamodb/NewImage/eventData/M/note" { Claim::Refused } else { Claim::Meaningless };
                    self.spelled(format_args!("{depth} of {open} at {place}"), claim, |record| spell(&record, place, &deep));
                }
            }
        }
        let long = "swordfish".repeat(30_000);
        for place in [
            "/eventID",
            "/eventName",
            "/dynamodb/SequenceNumber",
            "/dynamodb/NewImage/eventId/S",
            "/dynamodb/NewImage/eventType/S",
            "/dynamodb/NewImage/SK/S",
            DEPOSIT,
        ] {
            let claim = if is_essential(place) { Claim::Refused } else { Claim::Meaningless };
            let long = if place == DEPOSIT { json!({ "N": long }) } else { json!(long) };
            self.changed(format_args!("a long text at {place}"), claim, |json| *at(json, place) = long);
        }
    }
}

fn json_of(event: &RecordedEvent) -> Json {
    serde_json::from_str(record(event, 1).get()).expect("a record")
}

fn at<'a>(json: &'a mut Json, place: &str) -> &'a mut Json {
    json.pointer_mut(place).expect("records have this place")
}

/// The record with raw text at a place, for text that a JSON value cannot hold.
fn spell(record: &str, place: &str, spelling: &str) -> String {
    let mut json: Json = serde_json::from_str(record).expect("a record");
    let (holder, name) = place.rsplit_once('/').expect("a place within");
    let holder = at(&mut json, holder);
    match name.parse::<usize>() {
        Ok(index) => holder[index] = json!("~here~"),
        Err(_) => holder[name] = json!("~here~"),
    }
    json.to_string().replace(r#""~here~""#, spelling)
}

fn remove(holder: &mut Json, name: &str) {
    match holder {
        Json::Object(members) => drop(members.remove(name)),
        Json::Array(elements) => drop(elements.remove(name.parse().expect("an index"))),
        _ => unreachable!("a place is in an object or a list"),
    }
}

/// The whole record, renamed to another aggregate.
fn rename(json: &mut Json, id: &str) {
    for keys in ["Keys", "NewImage"] {
        json["dynamodb"][keys]["PK"] = json!({ "S": format!("AGGREGATE#{id}") });
    }
    json["dynamodb"]["NewImage"]["aggregateId"] = json!({ "S": AggregateId::from(id).as_str() });
}

/// The JSON pointers of every value in a document, including the document itself.
fn places(json: &Json) -> Vec<String> {
    let within: Vec<(String, &Json)> = match json {
        Json::Object(members) => members.iter().map(|(name, member)| (name.clone(), member)).collect(),
        Json::Array(elements) => elements.iter().enumerate().map(|(at, element)| (at.to_string(), element)).collect(),
        _ => Vec::new(),
    };
    let below = within.iter().flat_map(|(name, member)| places(member).into_iter().map(move |place| format!("/{name}{place}")));
    std::iter::once(String::new()).chain(below).collect()
}

pub const VALID_NUMBERS: [&str; 26] = [
    "0",
    "-0",
    "0.0",
    "0E-200",
    "1",
    "-1",
    "+1",
    "007",
    "1.00",
    "0.50",
    ".5",
    "5.",
    "1e3",
    "1E+3",
    "1e-3",
    "1E+125",
    "-1E+125",
    "1E-130",
    "-1E-130",
    "9.9999999999999999999999999999999999999E+125",
    "-9.9999999999999999999999999999999999999E+125",
    "99999999999999999999999999999999999999",
    "0.00000000000000000000000000000000000001",
    "12345678901234567890.123456789012345678",
    "100000000000000000000000000000000000000000",
    "1E+0000000003",
];

/// Each contains a marker where it is long enough.
const INVALID_NUMBERS: [&str; 34] = [
    "",
    " ",
    " 4711471147114711",
    "4711471147114711 ",
    "swordfish",
    "NaN",
    "nan",
    "Infinity",
    "-Infinity",
    "inf",
    "0x4711471147114711",
    "4711_471147114711",
    "4711,47",
    "4711.47.11",
    "--4711",
    "+-4711",
    "47-11",
    "e5",
    "4711e",
    "4711e+",
    "4711e5.5",
    "4711e5e5",
    ".",
    "-",
    "+",
    "1E+126",
    "1E-131",
    "1e999",
    "1E+99999999999999999999",
    "471147114711471147114711471147114711471",
    "-471147114711471147114711471147114711471",
    "0.471147114711471147114711471147114711471",
    "４７１１",
    "4711\u{0}",
];

const IDS: [&str; 20] = [
    "#",
    "a#b",
    "AGGREGATE#a",
    "EVENT#0000000001",
    "record#a",
    "VERSION",
    " ",
    "a ",
    "a\u{0}b",
    "a\nb",
    "\"",
    "\\",
    "é",
    "e\u{301}",
    "ﬁ",
    "אב",
    "\u{202e}abc",
    "🏳️‍🌈",
    "\u{feff}",
    "\u{10ffff}",
];

const SORT_KEYS: [&str; 22] = [
    "EVENT#",
    "EVENT#0",
    "EVENT#1",
    "EVENT#000000001",
    "EVENT#00000000001",
    "EVENT#0000000000",
    "EVENT#-000000001",
    "EVENT#+000000001",
    "EVENT#000000001 ",
    "EVENT# 000000001",
    "EVENT#00000000x1",
    "EVENT#0x00000001",
    "EVENT#00000001.0",
    "EVENT#000000001e",
    "EVENT#٠٠٠٠٠٠٠٠٠١",
    "EVENT#0000000001#",
    "EVENT#EVENT#0000000001",
    "EVENT#swordfish",
    "event#0000000001",
    "VERSION",
    "",
    "swordfish",
];

const TIMESTAMPS: [(&str, &str); 9] = [
    ("2026-01-05T09:00:00Z", "2026-01-05T09:00:00.000Z"),
    ("2026-01-05T09:00:00.9999999Z", "2026-01-05T09:00:00.999Z"),
    ("2026-01-05T10:00:00+01:00", "2026-01-05T09:00:00.000Z"),
    ("2026-01-05T09:00:00-00:00", "2026-01-05T09:00:00.000Z"),
    ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000Z"),
    ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
    ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ("2026-01-05T00:00:00+23:59", "2026-01-04T00:01:00.000Z"),
    ("2026-01-05t09:00:00z", "2026-01-05T09:00:00.000Z"),
];

const INVALID_TIMESTAMPS: [&str; 36] = [
    "",
    " ",
    "swordfish",
    "4711471147114711",
    "1767603600",
    "1767603600.5",
    "2026",
    "2026-01",
    "2026-01-05",
    "09:00:00Z",
    "2026-01-05T09",
    "2026-01-05T09:00Z",
    "2026-01-05T09:00:00",
    "2026-01-05T09:00:00 Z",
    "2026-01-05T09:00:00+01",
    "2026-01-05T09:00:00+0100",
    "2026-01-05T09:00:00+24:00",
    "2026-01-05T09:00:00.Z",
    "2026-01-05T09:00:00,5Z",
    "2026-01-05T24:00:00Z",
    "2026-01-05T09:60:00Z",
    "2026-01-05T09:00:61Z",
    "2026-13-05T09:00:00Z",
    "2026-00-05T09:00:00Z",
    "2026-01-32T09:00:00Z",
    "2026-02-29T09:00:00Z",
    "26-01-05T09:00:00Z",
    "+2026-01-05T09:00:00Z",
    "-2026-01-05T09:00:00Z",
    "12026-01-05T09:00:00Z",
    "20260105T090000Z",
    "05.01.2026 09:00",
    "01/05/2026",
    "Mon, 05 Jan 2026 09:00:00 GMT",
    "0000-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59-00:01",
];
