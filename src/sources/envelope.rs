//! Finds stream records in what other services put around them: events and answers with a list of records, messages, notifications, log
//! events, on-failure objects; also one in another, as text or as base64.
//!
//! A document is recognised by its members, never by its origin, and only if its meaning is certain. Anything else is refused in words
//! that say what it is. No message holds data.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use aws_smithy_types::base64;
use projection_vocabulary::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Envelopes in envelopes: a message of SQS about a notification of SNS about an event of a bus has three.
const DEPTH_MAX: u32 = 8;

/// The fewest bytes of a record. A document with more records than its length allows was made to exhaust time and memory.
const RECORD_BYTES_MIN: usize = 128;

/// The most records of a document with shorter ones: Lambda's largest batch.
/// <https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-params.html>
const SHORT_RECORDS_MAX: usize = 10_000;

/// The members of an object, by name.
pub struct Members<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Members<'a> {
    /// The members of an object; `None` if the text is not an object, or has two members of one name.
    #[must_use]
    pub fn of(json: &'a RawValue) -> Option<Self> {
        // A map rather than a struct, because a derived struct would also accept a list.
        serde_json::from_str(json.get()).ok()
    }

    /// A member.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied()
    }

    /// All members, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A member that is neither missing nor null.
    fn given(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|value| value.get() != "null")
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    fn is_object(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.get().starts_with('{'))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("two members of one name"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// Borrowed unless it has escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Where something stands in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// 1-based.
    pub line: u64,
    /// 1-based, within the list that holds it; `None` if no list does.
    pub record: Option<usize>,
    /// Within a text or base64, whose lines are not lines of the file.
    within_text: bool,
}

impl Place {
    /// A document of its own, at this line.
    #[must_use]
    pub fn of_document(line: u64) -> Self {
        Self { line, record: None, within_text: false }
    }
}

/// What was found in an envelope.
pub struct Found {
    /// The record, unchanged; of an item, a record of its insertion.
    pub json: Box<RawValue>,
    /// Where it was found.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
}

/// What a document holds that is read as a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A stream record.
    Record,
    /// An item of the event store, as a scan or an export has it. It says that the event exists, not when it came.
    Item,
    /// An element of a list of records that is not recognised. The decoder says what is wrong with it.
    Unknown,
}

/// Why a document holds no record that can be read. Reads on after the document's place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing that is known here.
    #[error("is neither a stream record nor an event with Records; remove it or give another file")]
    Unknown,
    /// Of another kind of event.
    #[error("has a member `Records` that is not a list; capture the event again")]
    RecordsNotAList,
    /// Lambda's message to a destination that does not keep the payload.
    #[error(
        "is Lambda's message that {0}, without the records themselves (only an S3 destination keeps them); bring them back with \
         `projector catch-up --all --since DURATION` (a duration that reaches back to then), or with `projector capture` while the stream \
         has them (24 hours)"
    )]
    GivenUp(String),
    /// The text or object in an on-failure object.
    #[error("has a payload that is not an event with Records; copy the on-failure object again")]
    MalformedPayload,
    /// The content is of somebody else.
    #[error("is {0} that holds no DynamoDB stream record; remove it or give another file")]
    Other(&'static str),
    /// More envelopes than anybody makes.
    #[error("is wrapped more than {DEPTH_MAX} times; unwrap it")]
    TooDeep,
    /// One document made to exhaust memory.
    #[error("has more records than its length allows, one for {RECORD_BYTES_MIN} bytes; remove it or give another file")]
    TooMany,
    /// A full export, a scan, a query: they say what is, not what came.
    #[error(
        "is an item of a table, not a stream record; to project all items of the event store, use `projector rebuild-projection NAME \
         --from-export DIR` with a full export, or `projector events import FILE` and then `projector rebuild-projection NAME`"
    )]
    Item,
    /// As document clients write it.
    #[error("is an item without the types of its attributes; capture it in DynamoDB JSON (`{{\"S\": ...}}`)")]
    UntypedItem,
    /// `manifest-summary.json`, or a line of `manifest-files.json`.
    #[error("is the manifest of an export, not a stream record; use `projector rebuild-projection NAME --from-export DIR`")]
    Manifest,
    /// A line of `events append` or `events show`.
    #[error("is an event without a stream record; use `projector events append FILE`")]
    Event,
}

/// Finds the records of a document, in order, and what stands between them.
#[must_use]
pub fn open(json: &RawValue, place: &Place) -> Vec<Result<Found, (Place, Refused)>> {
    let mut opener = Opener { found: Vec::new(), left: (json.get().len() / RECORD_BYTES_MIN).max(SHORT_RECORDS_MAX) };
    opener.document(json, place, 0);
    opener.found
}

/// What a service delivers to a function for one record.
pub enum Delivered {
    /// A record of a DynamoDB stream.
    Stream,
    /// Nothing known; among stream records, a damaged one.
    Unknown,
    /// A record of a Kinesis stream, with its sequence number.
    Kinesis(String),
    /// A message of a queue.
    Sqs,
    /// A record of another service: its name, or `None` if it is none of AWS's names.
    Other(Option<String>),
}

/// Which service a record in a list of `Records` is of.
#[must_use]
pub fn delivered(json: &RawValue) -> Delivered {
    let Some(members) = Members::of(json) else { return Delivered::Unknown };
    if members.has("dynamodb") {
        return Delivered::Stream;
    }
    let kinesis = members.given("kinesis").and_then(Members::of);
    // EventBridge Pipes deliver a Kinesis record without its inner object.
    if let Some(sequence) = kinesis.as_ref().unwrap_or(&members).text("sequenceNumber") {
        return Delivered::Kinesis(sequence);
    }
    if members.has("messageId") && members.has("body") {
        return Delivered::Sqs;
    }
    let source = members.text("eventSource").or_else(|| members.text("EventSource"));
    match source {
        Some(source) if source == "aws:dynamodb" => Delivered::Stream,
        Some(source) => Delivered::Other(service(source)),
        None if ["Sns", "s3", "ses", "cf", "kinesis"].iter().any(|name| members.has(name)) => Delivered::Other(None),
        None => Delivered::Unknown,
    }
}

/// The name of a service, if it looks like one of AWS's: nothing else is shown.
#[must_use]
pub fn service(source: String) -> Option<String> {
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
    };
    source.strip_prefix("aws:").or_else(|| source.strip_prefix("aws.")).is_some_and(plain).then_some(source)
}

struct Opener {
    found: Vec<Result<Found, (Place, Refused)>>,
    /// How many more records the document may have.
    left: usize,
}

/// How an envelope holds what is within it.
#[derive(Clone, Copy)]
enum Coded {
    /// As an object, or as a text that holds its JSON.
    Json,
    Base64,
}

impl Opener {
    fn document(&mut self, json: &RawValue, place: &Place, depth: u32) {
        match json.get().as_bytes().first() {
            Some(b'[') => self.elements(json, place, depth, Self::record),
            Some(b'{') => {
                let opened = Members::of(json).is_some_and(|members| self.object(json, &members, place, depth));
                if !opened {
                    self.refuse(place, Refused::Unknown);
                }
            }
            _ => self.refuse(place, Refused::Unknown),
        }
    }

    /// Opens each element of a list.
    fn elements(&mut self, list: &RawValue, place: &Place, depth: u32, each: fn(&mut Self, &RawValue, &Place, u32)) {
        let Some(elements) = elements(list, self.left) else { return self.refuse(place, Refused::TooMany) };
        self.left -= elements.len();
        let mut place = place.clone();
        let mut passed = 0;
        // Of a list in a text, the record that holds the text says more.
        let is_numbered = !place.within_text || place.record.is_none();
        for (index, element) in elements.into_iter().enumerate() {
            if is_numbered {
                place.record = Some(index + 1);
            }
            if !place.within_text {
                let offset = offset_in(list, element);
                place.line += newlines(&list.get().as_bytes()[passed..offset]);
                passed = offset;
            }
            each(self, element, &place, depth);
            if matches!(self.found.last(), Some(Err((_, Refused::TooMany)))) {
                return;
            }
        }
    }

    /// An element of a list of records. It may itself be an envelope: `jq --slurp` makes such files, for example.
    fn record(&mut self, json: &RawValue, place: &Place, depth: u32) {
        let opened = match json.get().as_bytes().first() {
            Some(b'{') => Members::of(json).is_some_and(|members| self.object(json, &members, place, depth)),
            Some(b'"') => self.text_of_an_envelope(json, place, depth),
            _ => false,
        };
        if !opened {
            self.take(json.to_owned(), place, Kind::Unknown);
        }
    }

    /// A text in a list of records, if it holds something known, as JSON or as base64: `--query` of the AWS CLI leaves such lists.
    fn text_of_an_envelope(&mut self, json: &RawValue, place: &Place, depth: u32) -> bool {
        let Ok(mut text) = serde_json::from_str::<String>(json.get()) else { return false };
        if !text.trim_start().starts_with('{') {
            let Some(decoded) = base64::decode(&text).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else { return false };
            text = decoded;
        }
        let Ok(inner) = serde_json::from_str::<&RawValue>(&text) else { return false };
        let place = Place { within_text: true, ..place.clone() };
        Members::of(inner).is_some_and(|members| self.object(inner, &members, &place, depth + 1))
    }

    /// An element of a list of messages, which are nothing but envelopes.
    fn message(&mut self, json: &RawValue, place: &Place, depth: u32) {
        let opened = Members::of(json).is_some_and(|members| self.object(json, &members, place, depth));
        if !opened {
            self.refuse(place, Refused::Unknown);
        }
    }

    /// An element of a list of log events.
    fn log_event(&mut self, json: &RawValue, place: &Place, depth: u32) {
        match Members::of(json).and_then(|members| members.get("message")) {
            Some(message) => self.within(message, Coded::Json, "a log event", &at(json, message, place), depth),
            None => self.refuse(place, Refused::Other("a log event")),
        }
    }

    fn item(&mut self, json: &RawValue, place: &Place, _depth: u32) {
        let is_typed = Members::of(json).is_some_and(|members| members.iter().all(|(_, value)| value.get().starts_with('{')));
        if is_typed {
            self.take(record_of("INSERT", None, Some(json)), place, Kind::Item);
        } else {
            self.refuse(place, Refused::UntypedItem);
        }
    }

    /// Opens an object. `false` if it is nothing known.
    fn object(&mut self, json: &RawValue, members: &Members<'_>, place: &Place, depth: u32) -> bool {
        if members.has("dynamodb") {
            self.take(json.to_owned(), place, Kind::Record);
            return true;
        }
        if depth > DEPTH_MAX {
            self.refuse(place, Refused::TooDeep);
            return true;
        }
        let at = |part: &RawValue| at(json, part, place);
        let is_list = |list: &&RawValue| list.get().starts_with('[');
        if let Some(records) = members.get("Records").or_else(|| members.get("records").filter(is_list)) {
            if is_list(&records) {
                self.elements(records, &at(records), depth + 1, Self::record);
            } else {
                self.refuse(&at(records), Refused::RecordsNotAList);
            }
        } else if let Some(payload) = members.given("payload").or_else(|| members.given("requestPayload")) {
            self.payload(payload, &at(payload), depth + 1);
        } else if let Some(batch) = ["DDBStreamBatchInfo", "KinesisBatchInfo"].iter().find_map(|name| members.get(name)) {
            self.refuse(place, Refused::GivenUp(given_up(batch)));
        } else if let Some(messages) = members.get("Messages").filter(is_list) {
            self.elements(messages, &at(messages), depth + 1, Self::message);
        } else if let Some(events) = members.get("events").or_else(|| members.get("logEvents")).filter(is_list) {
            self.elements(events, &at(events), depth + 1, Self::log_event);
        } else if let Some((inner, coded, holder)) = wrapped(members) {
            self.within(inner, coded, holder, &at(inner), depth);
        } else {
            return self.table_data(json, members, place, depth);
        }
        true
    }

    /// Opens what a scan, a query or an export holds. `false` if it is nothing known.
    fn table_data(&mut self, json: &RawValue, members: &Members<'_>, place: &Place, depth: u32) -> bool {
        let at = |part: &RawValue| at(json, part, place);
        if let Some(items) = members.get("Items").filter(|items| items.get().starts_with('[')) {
            self.elements(items, &at(items), depth, Self::item);
        } else if let Some(item) = members.given("Item") {
            self.item(item, &at(item), depth);
        } else if members.is_object("Keys") && ["NewImage", "OldImage", "Metadata"].iter().any(|name| members.has(name)) {
            // An incremental export has each item that changed, with its last image. The event store is append-only.
            let (new, old) = (members.given("NewImage"), members.given("OldImage"));
            let change = match (new, old) {
                (Some(_), None) => "INSERT",
                (Some(_), Some(_)) => "MODIFY",
                (None, _) => "REMOVE",
            };
            self.take(record_of(change, members.get("Keys"), new), place, Kind::Record);
        } else if members.is_object("PK") && members.is_object("SK") {
            self.item(json, place, depth);
        } else if members.text("PK").is_some() && members.text("SK").is_some() {
            self.refuse(place, Refused::UntypedItem);
        } else if ["exportArn", "dataFileS3Key", "manifestFilesS3Key"].iter().any(|name| members.has(name)) {
            self.refuse(place, Refused::Manifest);
        } else if ["aggregateId", "eventType", "eventData"].iter().all(|name| members.has(name)) {
            self.refuse(place, Refused::Event);
        } else {
            return false;
        }
        true
    }

    /// The event that failed: an object, or a text that holds its JSON.
    fn payload(&mut self, payload: &RawValue, place: &Place, depth: u32) {
        let text = serde_json::from_str::<String>(payload.get()).ok();
        let inner = match &text {
            Some(text) => serde_json::from_str::<&RawValue>(text).ok(),
            None => Some(payload),
        };
        let place = Place { within_text: place.within_text || text.is_some(), ..place.clone() };
        let members = inner.and_then(Members::of).filter(|members| members.has("Records"));
        match (inner, members) {
            (Some(inner), Some(members)) => _ = self.object(inner, &members, &place, depth),
            _ => self.refuse(&place, Refused::MalformedPayload),
        }
    }

    /// What an envelope of one holds. Nothing but records is expected there.
    fn within(&mut self, content: &RawValue, coded: Coded, holder: &'static str, place: &Place, depth: u32) {
        let text = serde_json::from_str::<String>(content.get()).ok();
        let decoded = match (coded, &text) {
            (Coded::Json, None) => Some(Cow::Borrowed(content.get())),
            (Coded::Json, Some(text)) => Some(Cow::Borrowed(text.as_str())),
            (Coded::Base64, Some(text)) => base64::decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).map(Cow::Owned),
            (Coded::Base64, None) => None,
        };
        let place = Place { within_text: true, ..place.clone() };
        let before = self.found.len();
        match decoded.as_deref().and_then(|text| serde_json::from_str::<&RawValue>(text).ok()) {
            Some(inner) => self.document(inner, &place, depth + 1),
            None => self.refuse(&place, Refused::Other(holder)),
        }
        for found in &mut self.found[before..] {
            if matches!(found, Ok(Found { kind: Kind::Unknown, .. }) | Err((_, Refused::Unknown))) {
                *found = Err((place.clone(), Refused::Other(holder)));
            }
        }
    }

    fn take(&mut self, json: Box<RawValue>, place: &Place, kind: Kind) {
        self.found.push(Ok(Found { json, place: place.clone(), kind }));
    }

    fn refuse(&mut self, place: &Place, refused: Refused) {
        self.found.push(Err((place.clone(), refused)));
    }
}

/// What an envelope of one holds, how, and what the envelope is.
fn wrapped<'a>(members: &Members<'a>) -> Option<(&'a RawValue, Coded, &'static str)> {
    let kinesis = members.given("kinesis").and_then(Members::of).and_then(|kinesis| kinesis.get("data"));
    let is_one_of = |names: &[&str]| names.iter().any(|name| members.has(name));
    let streamed = || {
        let data = members.get("Data").or_else(|| members.get("data"))?;
        is_one_of(&["SequenceNumber", "sequenceNumber", "PartitionKey", "partitionKey", "recordId"]).then_some(data)
    };
    if let Some(data) = kinesis.or_else(streamed) {
        return Some((data, Coded::Base64, "a record of a Kinesis or Firehose stream"));
    }
    let queued = || {
        let body = members.get("Body").or_else(|| members.get("body"))?;
        is_one_of(&["MessageId", "messageId", "ReceiptHandle", "receiptHandle", "MD5OfBody", "md5OfBody"]).then_some(body)
    };
    if let Some(body) = queued() {
        return Some((body, Coded::Json, "a message of an SQS queue"));
    }
    let notification = members.given("Sns").and_then(Members::of).and_then(|sns| sns.get("Message"));
    let posted = || members.get("Message").filter(|_| members.has("Type"));
    if let Some(message) = notification.or_else(posted) {
        return Some((message, Coded::Json, "a notification of SNS"));
    }
    let detail = members.get("detail").filter(|_| is_one_of(&["detail-type", "source"]))?;
    Some((detail, Coded::Json, "an event of EventBridge"))
}

/// What Lambda says of the records that it gave up. The parts are shown only if they are what they should be.
fn given_up(batch: &RawValue) -> String {
    let members = Members::of(batch);
    let member = |name| members.as_ref()?.text(name);
    let records = members.as_ref().and_then(|members| serde_json::from_str::<usize>(members.get("batchSize")?.get()).ok());
    let records = records.filter(|records| *records <= SHORT_RECORDS_MAX);
    let is_shard = |id: &str| id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let shard = member("shardId").filter(|id| id.strip_prefix("shardId-0").is_some_and(is_shard));
    let first = member("approximateArrivalOfFirstRecord").filter(|first| Timestamp::parse(first).is_ok());
    let records = match records {
        None => "records".to_owned(),
        Some(1) => "1 record".to_owned(),
        Some(records) => format!("{records} records"),
    };
    let shard = shard.map_or_else(String::new, |shard| format!(" of shard {shard}"));
    let first = first.map_or_else(String::new, |first| format!(", the first of which arrived at {first}"));
    format!("it gave up {records}{shard}{first}")
}

fn record_of(change: &str, keys: Option<&RawValue>, image: Option<&RawValue>) -> Box<RawValue> {
    let member = |name: &str, value: Option<&RawValue>| value.map(|value| format!(r#""{name}":{}"#, value.get()));
    let members: Vec<_> = [member("Keys", keys), member("NewImage", image)].into_iter().flatten().collect();
    let record = format!(r#"{{"eventName":"{change}","dynamodb":{{{}}}}}"#, members.join(","));
    RawValue::from_string(record).expect("its parts are JSON")
}

/// The elements of a list; `None` if they are more than `max`.
fn elements(list: &RawValue, max: usize) -> Option<Vec<&RawValue>> {
    struct AtMost(usize);
    impl<'de> Visitor<'de> for AtMost {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = list.next_element()? {
                if elements.len() == self.0 {
                    return Err(A::Error::custom("too many"));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }
    serde_json::Deserializer::from_str(list.get()).deserialize_seq(AtMost(max)).ok()
}

fn at(whole: &RawValue, part: &RawValue, place: &Place) -> Place {
    if place.within_text {
        return place.clone();
    }
    Place { line: place.line + newlines(&whole.get().as_bytes()[..offset_in(whole, part)]), ..place.clone() }
}

/// The offset of a part that is borrowed from the whole.
fn offset_in(whole: &RawValue, part: &RawValue) -> usize {
    part.get().as_ptr().addr() - whole.get().as_ptr().addr()
}

/// How many lines end in a text.
#[must_use]
pub fn newlines(text: &[u8]) -> u64 {
    text.split(|byte| *byte == b'\n').skip(1).count() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    /// One line for each thing found: its place, and its JSON or why it is refused.
    fn found(document: &str) -> Vec<String> {
        let json = RawValue::from_string(document.to_owned()).unwrap();
        let shown = |place: Place| place.record.map_or(format!("{}", place.line), |record| format!("{}.{record}", place.line));
        let show = |found| match found {
            Ok(Found { json, place, kind: Kind::Record }) => format!("{} = {json}", shown(place)),
            Ok(Found { json, place, kind }) => format!("{} = {kind:?} {json}", shown(place)),
            Err((place, refused)) => format!("{} {refused}", shown(place)),
        };
        open(&json, &Place::of_document(1)).into_iter().map(show).collect()
    }

    const RECORD: &str = r#"{"dynamodb":{"x":1}}"#;

    fn base64_of(text: &str) -> String {
        base64::encode(text)
    }

    /// A record, each way that a service wraps one, and two services one in the other.
    fn envelopes(content: &str) -> Vec<(&'static str, Json)> {
        let text = content.to_owned();
        let as_json: Json = serde_json::from_str(content).unwrap_or_default();
        let notification = json!({ "Type": "Notification", "MessageId": "m", "Message": text });
        let event = json!({ "version": "0", "detail-type": "Event from pipe", "source": "Pipe p", "detail": as_json });
        vec![
            (
                "a Lambda event of Kinesis",
                json!({ "Records": [{ "kinesis": { "sequenceNumber": "1", "data": base64_of(content) }, "eventSource": "aws:kinesis" }] }),
            ),
            (
                "the output of kinesis get-records",
                json!({ "Records": [{ "SequenceNumber": "1", "Data": base64_of(content), "PartitionKey": "P" }] }),
            ),
            (
                "Kinesis in a pipe",
                json!([{ "sequenceNumber": "1", "partitionKey": "P", "data": base64_of(content), "eventSource": "aws:kinesis" }]),
            ),
            ("Firehose", json!({ "invocationId": "i", "records": [{ "recordId": "r", "data": base64_of(content) }] })),
            ("a Lambda event of SQS", json!({ "Records": [{ "messageId": "m", "body": text, "eventSource": "aws:sqs" }] })),
            ("the output of receive-message", json!({ "Messages": [{ "MessageId": "m", "Body": text }] })),
            ("one message", json!({ "MessageId": "m", "Body": text })),
            ("bodies alone", json!([text])),
            ("data alone", json!([base64_of(content)])),
            ("a Lambda event of SNS", json!({ "Records": [{ "EventSource": "aws:sns", "Sns": { "Message": text } }] })),
            ("a notification", notification.clone()),
            ("SNS in SQS", json!({ "Messages": [{ "MessageId": "m", "Body": notification.to_string() }] })),
            ("EventBridge", event.clone()),
            ("EventBridge in SQS", json!({ "Records": [{ "messageId": "m", "body": event.to_string() }] })),
            ("EventBridge with a text", json!({ "source": "s", "detail": text })),
            ("a pipe", json!([as_json])),
            ("a pipe with a template", json!({ "records": [as_json] })),
            ("filter-log-events", json!({ "events": [{ "timestamp": 1, "message": text }], "searchedLogStreams": [] })),
            ("a subscription of logs", json!({ "messageType": "DATA_MESSAGE", "logEvents": [{ "id": "1", "message": text }] })),
            ("an on-failure object", json!({ "DDBStreamBatchInfo": {}, "payload": json!({ "Records": [as_json] }).to_string() })),
            (
                "an on-failure object of Kinesis",
                json!({ "KinesisBatchInfo": {}, "payload": { "Records": [{ "kinesis": { "data": base64_of(content) } }] } }),
            ),
            (
                "an asynchronous destination",
                json!({ "version": "1.0", "requestPayload": { "Records": [as_json] }, "responsePayload": null }),
            ),
        ]
    }

    #[test]
    fn the_record_in_every_envelope_is_found() {
        for content in [RECORD, &format!("  {RECORD}\n")] {
            for (what, envelope) in envelopes(content) {
                let found = found(&envelope.to_string());
                assert_eq!(found.len(), 1, "{what}: {found:?}");
                assert!(found[0].ends_with(RECORD), "{what}: {found:?}");
            }
        }
        for (what, envelope) in envelopes(&format!(r#"{{"Records":[{RECORD},{RECORD}]}}"#)) {
            assert_eq!(found(&envelope.to_string()).len(), 2, "{what}");
        }
    }

    #[test]
    fn an_envelope_without_a_record_is_named_and_its_content_is_not_shown() {
        for content in ["secret", r#"{"secret":1}"#, r#"["secret"]"#, "", "5", r#"{"dynamodb"#] {
            for (what, envelope) in envelopes(content) {
                let found = found(&envelope.to_string());
                // Elements of a list of records, and of an event's own list, are left to the decoder.
                let unwrapped = found.iter().any(|found| found.contains("Unknown"));
                assert!(unwrapped || !found.concat().contains("secret"), "{what}: {found:?}");
            }
        }
        let message = |body: &str| found(&json!({ "Messages": [{ "MessageId": "m", "Body": body }] }).to_string());
        for body in ["secret", r#"{"secret":1}"#, r#"["secret",1]"#] {
            assert!(message(body)[0].starts_with("1.1 is a message of an SQS queue that holds no DynamoDB stream record"), "{body}");
        }
    }

    #[test]
    fn places_are_those_in_the_file() {
        let text = json!(format!("[\n{RECORD},\n{RECORD}]"));
        let document = format!("{{\n\"Messages\": [\n{{\"MessageId\":1,\n\"Body\":\n{text}}},\n{{\"MessageId\":2,\"Body\":\"x\"}}]}}");
        let found = found(&document);
        assert_eq!(found[..2], [format!("5.1 = {RECORD}"), format!("5.1 = {RECORD}")]);
        assert!(found[2].starts_with("6.2 is a message"), "{found:?}");
    }

    #[test]
    fn items_of_tables_are_told_from_records() {
        let item = r#"{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"}}"#;
        let inserted = format!(r#"{{"eventName":"INSERT","dynamodb":{{"NewImage":{item}}}}}"#);
        for document in [
            format!(r#"{{"Item":{item}}}"#),
            format!(r#"{{"Items":[{item}],"Count":1,"ScannedCount":1}}"#),
            format!("[{item}]"),
            item.to_owned(),
        ] {
            let found = found(&document);
            assert!(found.len() == 1 && found[0].ends_with(&format!("Item {inserted}")), "{document}: {found:?}");
        }
        for untyped in [r#"{"PK":"AGGREGATE#a","SK":"EVENT#0000000001"}"#, r#"{"Items":[{"PK":"a"}]}"#, r#"{"Item":{"id":5}}"#] {
            assert!(found(untyped)[0].contains("is an item without the types of its attributes"), "{untyped}");
        }
    }

    #[test]
    fn a_line_of_an_incremental_export_is_the_change_it_states() {
        let line = |images: &str| found(&format!(r#"{{"Metadata":{{"WriteTimestampMicros":{{"N":"1"}}}},"Keys":{{"PK":{{}}}}{images}}}"#));
        assert_eq!(line(r#","NewImage":{"a":{}}"#), [r#"1 = {"eventName":"INSERT","dynamodb":{"Keys":{"PK":{}},"NewImage":{"a":{}}}}"#]);
        assert_eq!(
            line(r#","NewImage":{"a":{}},"OldImage":{"b":{}}"#),
            [r#"1 = {"eventName":"MODIFY","dynamodb":{"Keys":{"PK":{}},"NewImage":{"a":{}}}}"#]
        );
        assert_eq!(line(""), [r#"1 = {"eventName":"REMOVE","dynamodb":{"Keys":{"PK":{}}}}"#]);
    }

    #[test]
    fn a_message_about_records_that_were_given_up_says_which_and_what_brings_them_back() {
        let message = |info: &str| found(&format!(r#"{{"requestContext":{{}},"DDBStreamBatchInfo":{info}}}"#)).concat();
        let full = message(
            r#"{"shardId":"shardId-00000001","batchSize":3,"approximateArrivalOfFirstRecord":"2026-03-01T10:00:01Z","startSequenceNumber":"100"}"#,
        );
        assert!(full.contains("gave up 3 records of shard shardId-00000001, the first of which arrived at 2026-03-01T10:00:01Z"), "{full}");
        assert!(full.contains("catch-up --all --since") && full.contains("projector capture"), "{full}");
        for odd in [
            "null",
            "5",
            "[]",
            r#"{"shardId":"a secret","batchSize":"secret","approximateArrivalOfFirstRecord":"secret"}"#,
            r#"{"shardId":"shardId-secret","batchSize":10001}"#,
        ] {
            let message = message(odd);
            assert!(message.contains("that it gave up records, without") && !message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn envelopes_in_envelopes_end_somewhere() {
        let mut wrapped = RECORD.to_owned();
        for _ in 0..4 {
            wrapped = json!({ "MessageId": "m", "Body": wrapped }).to_string();
        }
        assert_eq!(found(&wrapped).len(), 1);
        assert!(found(&wrapped)[0].ends_with(RECORD));
        for _ in 0..8 {
            wrapped = json!({ "MessageId": "m", "Body": wrapped }).to_string();
        }
        assert!(found(&wrapped)[0].contains("wrapped more than 8 times"), "{:?}", found(&wrapped));
    }

    #[test]
    fn a_document_has_a_limited_number_of_records_in_all_its_lists_together() {
        let list = |element: &str, elements: usize| format!("[{}{element}]", format!("{element},").repeat(elements - 1));
        let max = SHORT_RECORDS_MAX;
        assert_eq!(found(&list("1", max)).len(), max);
        let half = format!(r#"{{"Records":{}}}"#, list("1", max / 2));
        for many in [list("1", max + 1), list("{}", max + 1), list(RECORD, max + 1), list(&half, 3)] {
            let found = found(&many);
            assert!(found.last().unwrap().contains("has more records than its length allows"), "{:?}", found.last());
            assert!(found.len() <= max);
        }
        let long = format!(r#"{{"dynamodb":"{}"}}"#, "x".repeat(RECORD_BYTES_MIN));
        assert_eq!(found(&list(&long, 3 * max)).len(), 3 * max);
    }

    #[test]
    fn what_a_service_delivers_is_recognised_by_record() {
        let of = |json: Json| delivered(&serde_json::value::to_raw_value(&json).unwrap());
        for stream in [json!({ "dynamodb": {} }), json!({ "eventSource": "aws:dynamodb" })] {
            assert!(matches!(of(stream.clone()), Delivered::Stream), "{stream}");
        }
        for unknown in [json!({}), json!(5), json!([1]), json!("x"), json!({ "a": 1 })] {
            assert!(matches!(of(unknown.clone()), Delivered::Unknown), "{unknown}");
        }
        let kinesis = json!({ "kinesis": { "sequenceNumber": "7", "data": "" }, "eventSource": "aws:kinesis" });
        assert!(matches!(of(kinesis), Delivered::Kinesis(sequence) if sequence == "7"));
        assert!(matches!(of(json!({ "messageId": "m", "body": "" })), Delivered::Sqs));
        let name = |json| if let Delivered::Other(name) = of(json) { name } else { panic!("another service") };
        assert_eq!(name(json!({ "eventSource": "aws:s3", "s3": {} })).as_deref(), Some("aws:s3"));
        assert_eq!(name(json!({ "EventSource": "aws:sns", "Sns": {} })).as_deref(), Some("aws:sns"));
        assert_eq!(name(json!({ "eventSource": "a secret" })), None);
        assert_eq!(name(json!({ "cf": {} })), None);
    }
}
