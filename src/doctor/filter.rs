//! Which records a filter lets through, as Lambda decides it (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html>).
//!
//! A pattern may depend on what nobody knows here, such as the region. It is then taken once as if that part held and once as if it did
//! not: what both agree on is certain.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{RecordedEvent, Timestamp, Value, Version};
use quamina::Quamina;
use serde_json::{Map, Value as Json, json};

use super::Setting;
use crate::{sources::stream_json::inserted, store::item::VERSION_SK};

/// Lambda's limits (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>), and that of EventBridge for `$or`.
const PATTERNS_MAX: usize = 10;
const PATTERN_LEN_MAX: usize = 4_096;
const ALTERNATIVES_MAX: usize = 1_000;
const OR: &str = "$or";
/// Operators that the matcher knows and Lambda's documentation does not.
const NOT_OF_LAMBDA: [&str; 5] = ["cidr", "regex", "regexp", "shellstyle", "wildcard"];
/// How a template refers to its region.
pub(super) const OWN_REGION: &str = "${AWS::Region}";

/// What is known of the stream whose records are filtered. A text with `${...}` is known only as this reference.
pub(super) struct Stream<'a> {
    /// Its ARN.
    pub arn: &'a Setting<String>,
    /// Its view: `NEW_IMAGE`.
    pub view: &'a Setting<String>,
}

/// Why a filter cannot be judged.
#[derive(Debug)]
pub(super) enum Unjudged {
    /// Lambda refuses it, for this reason.
    Refused(String),
    /// It cannot be evaluated here, for this reason.
    Unknown(String),
}

/// The filter patterns of a mapping.
pub(super) struct Filter {
    /// Lets through what passes whatever the unknown parts are.
    certainly: Matcher,
    /// Lets through what passes if the unknown parts hold.
    possibly: Matcher,
    /// What it depends on that is not known.
    unknown: BTreeSet<String>,
    /// The fields that are the same in each record, and known.
    known: Vec<(Path, String)>,
}

type Path = Vec<String>;
/// Conditions that must all hold: the values that a field may have, by its path. Null for a field that must be absent.
type Conditions = BTreeMap<Path, Json>;

/// Alternatives, of which a record must match one.
#[derive(Default)]
struct Matcher {
    /// Those with conditions on fields that exist, by their position.
    matcher: Quamina<usize>,
    /// For each, whether it has such conditions, and the fields that must be absent. The crate takes a missing object for one that has
    /// everything if other fields of its parent are conditions, too.
    alternatives: Vec<(bool, Vec<Path>)>,
}

impl Filter {
    /// Reads the patterns of a filter. A record must match at least one.
    pub fn read(patterns: &[String], stream: &Stream<'_>) -> Result<Self, Unjudged> {
        if patterns.len() > PATTERNS_MAX {
            return Err(Unjudged::Refused(format!("has more than {PATTERNS_MAX} patterns")));
        }
        let known = known_fields(stream);
        let mut filter = Self { certainly: Matcher::default(), possibly: Matcher::default(), unknown: BTreeSet::new(), known };
        for (at, pattern) in patterns.iter().enumerate() {
            let refused = |why: &str| Unjudged::Refused(format!("has a pattern that Lambda refuses, number {}: {why}", at + 1));
            if pattern.len() > PATTERN_LEN_MAX {
                return Err(refused(&format!("it is longer than {PATTERN_LEN_MAX} characters")));
            }
            let pattern: Json = serde_json::from_str(pattern).map_err(|_| refused("it is not JSON"))?;
            let members = pattern.as_object().ok_or_else(|| refused("it is not an object"))?;
            for conditions in alternatives(members).map_err(|why| refused(&why))? {
                filter.add(at, conditions?)?;
            }
        }
        Ok(filter)
    }

    fn add(&mut self, at: usize, mut conditions: Conditions) -> Result<(), Unjudged> {
        let mut unknown = BTreeSet::new();
        conditions.retain(|path, values| match self.is_unknown(path, values) {
            Some(true) => {
                unknown.insert(path.join("."));
                false
            }
            Some(false) => false,
            None => true,
        });
        if unknown.is_empty() {
            self.certainly.add(at, &conditions)?;
        }
        self.unknown.extend(unknown);
        self.possibly.add(at, &conditions)
    }

    /// Whether a condition is about a field that is not known; false if it holds all the same; `None` if the field is known.
    fn is_unknown(&self, path: &Path, values: &Json) -> Option<bool> {
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        let differs = matches!(
            path.as_slice(),
            ["awsRegion" | "eventSourceARN" | "eventID"]
                | ["dynamodb", "StreamViewType" | "SequenceNumber" | "SizeBytes" | "ApproximateCreationDateTime"]
        );
        if !differs {
            return None;
        }
        let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
        let known = self.known.iter().find(|(known, _)| known == &path).map(|(_, value)| value.as_str());
        let same = |value: &Json| Some(value) == known.map(Json::from).as_ref() || (path == ["awsRegion"] && value == OWN_REGION);
        if values.contains(&json!({ "exists": true })) || values.iter().any(same) {
            return Some(false);
        }
        // A reference is not the value that records have.
        if known.is_some_and(|known| !known.contains("${")) { None } else { Some(true) }
    }

    /// What it withholds of the events, if anything. Tried with records as DynamoDB writes them, of types and ids that no template can
    /// know.
    ///
    /// # Errors
    /// It depends on this.
    pub fn withheld_event(&self) -> Result<Option<String>, String> {
        let withheld = |matcher: &Matcher| {
            let found = SAMPLES.into_iter().find(|sample| !matcher.passes(&self.record(*sample, "INSERT")));
            found.map(|(_, version, event_type)| format!("withholds events, for example one of version {version} and type `{event_type}`"))
        };
        self.if_certain(withheld(&self.possibly), withheld(&self.certainly).is_none())
    }

    /// What passes although it is not the insertion of an event, if anything.
    ///
    /// # Errors
    /// It depends on this.
    pub fn needless_record(&self) -> Result<Option<String>, String> {
        let needless = |matcher: &Matcher| {
            let found = OTHERS.into_iter().find(|(name, is_event)| matcher.passes(&self.other_record(name, *is_event)));
            found.map(|(name, is_event)| passes(name, is_event))
        };
        self.if_certain(needless(&self.certainly), needless(&self.possibly).is_none())
    }

    fn if_certain(&self, found: Option<String>, is_none: bool) -> Result<Option<String>, String> {
        if found.is_some() || is_none {
            return Ok(found);
        }
        let fields: Vec<_> = self.unknown.iter().map(String::as_str).collect();
        Err(format!("the filter depends on {}, which is unknown here", fields.join(" and ")))
    }

    /// The record of an event of an aggregate, a version and a type.
    fn record(&self, (aggregate, version, event_type): (&str, u64, &str), name: &str) -> Json {
        let event = RecordedEvent {
            aggregate: aggregate.into(),
            version: Version(version),
            event_id: format!("{aggregate}-{version}").into(),
            event_type: event_type.into(),
            data: Value::Map(BTreeMap::new()),
            timestamp: Timestamp::from_epoch_ms(0).expect("the epoch is a timestamp"),
            metadata: None,
        };
        let mut record = inserted(&event, version);
        record["eventName"] = name.into();
        for (path, value) in &self.known {
            *field_of(&mut record, path) = value.as_str().into();
        }
        record
    }

    /// A record with nothing to project: a change of an event, or any record of a VERSION item.
    fn other_record(&self, name: &str, is_event: bool) -> Json {
        let mut record = self.record(SAMPLES[0], name);
        let change = &mut record["dynamodb"];
        if !is_event {
            let keys = json!({ "PK": change["Keys"]["PK"], "SK": { "S": VERSION_SK } });
            change["NewImage"] = json!({ "PK": keys["PK"], "SK": keys["SK"], "version": { "N": "1" } });
            change["Keys"] = keys;
        }
        if name != "INSERT" && change["StreamViewType"] == "NEW_AND_OLD_IMAGES" {
            change["OldImage"] = change["NewImage"].clone();
        }
        if name == "REMOVE" {
            change.as_object_mut().expect("it was built as an object").remove("NewImage");
        }
        record
    }
}

/// Events to try a filter with: aggregate, version and type.
const SAMPLES: [(&str, u64, &str); 3] = [("a", 1, "Opened"), ("b#2", 2, "Closed"), ("VERSION", 9_999_999_999, "EVENT#")];
/// Records with nothing to project: what happened, and whether to an event or to a VERSION item.
const OTHERS: [(&str, bool); 4] = [("INSERT", false), ("MODIFY", false), ("MODIFY", true), ("REMOVE", true)];

/// What passes without a filter.
pub(super) fn without_filter() -> String {
    let (name, is_event) = OTHERS[0];
    passes(name, is_event)
}

fn passes(name: &str, is_event: bool) -> String {
    format!("passes {name} records of {}", if is_event { "an event" } else { "an aggregate's VERSION item" })
}

fn known_fields(stream: &Stream<'_>) -> Vec<(Path, String)> {
    let arn = if let Setting::Value(arn) = stream.arn { Some(arn.clone()) } else { None };
    // arn:aws:dynamodb:REGION:...
    let region = arn.as_ref().and_then(|arn| arn.strip_prefix("arn:")?.split(':').nth(2).map(str::to_owned));
    let view = if let Setting::Value(view) = stream.view { Some(view.clone()) } else { None };
    let fields = [(&["eventSourceARN"][..], arn), (&["awsRegion"], region), (&["dynamodb", "StreamViewType"], view)];
    let known = fields.into_iter().filter_map(|(path, value)| Some((path.iter().map(ToString::to_string).collect(), value?)));
    known.collect()
}

/// The alternatives of a pattern: `$or` has one for each of its members. `Err` for what Lambda refuses; an alternative that cannot be
/// evaluated is an error by itself.
fn alternatives(members: &Map<String, Json>) -> Result<Vec<Result<Conditions, Unjudged>>, String> {
    let mut all: Vec<Result<Conditions, Unjudged>> = vec![Ok(Conditions::new())];
    for (name, value) in members {
        let of_member = match value {
            Json::Array(choices) if name == OR && !choices.is_empty() && choices.iter().all(Json::is_object) => {
                let mut of_choices = Vec::new();
                for choice in choices.iter().filter_map(Json::as_object) {
                    of_choices.extend(alternatives(choice)?);
                }
                of_choices
            }
            Json::Array(values) if values.is_empty() => return Err(format!("the list of `{name}` is empty")),
            Json::Array(values) => {
                let operators = values.iter().filter_map(Json::as_object).flat_map(Map::keys);
                if let Some(operator) = operators.into_iter().find(|operator| NOT_OF_LAMBDA.contains(&operator.as_str())) {
                    vec![Err(Unjudged::Unknown(format!("Lambda does not document the operator `{operator}`")))]
                } else {
                    let (absent, present): (Vec<_>, Vec<_>) = values.iter().partition(|value| **value == json!({ "exists": false }));
                    let present = (!present.is_empty()).then(|| present.into_iter().cloned().collect::<Json>());
                    let choices = present.into_iter().chain((!absent.is_empty()).then_some(Json::Null));
                    choices.map(|choice| Ok(Conditions::from([(vec![name.clone()], choice)]))).collect()
                }
            }
            Json::Object(inner) if inner.is_empty() => return Err(format!("the object `{name}` is empty")),
            Json::Object(inner) => {
                let below = |(path, values): (Path, Json)| ([vec![name.clone()], path].concat(), values);
                let inner = alternatives(inner)?.into_iter();
                inner.map(|conditions| Ok(conditions?.into_iter().map(below).collect())).collect()
            }
            _ => return Err(format!("the value of `{name}` is not a list")),
        };
        if all.len() * of_member.len() > ALTERNATIVES_MAX {
            return Err(format!("it has more than {ALTERNATIVES_MAX} alternatives"));
        }
        all = all.iter().flat_map(|one| of_member.iter().map(move |other| both(one, other))).collect();
    }
    Ok(all)
}

fn both(one: &Result<Conditions, Unjudged>, other: &Result<Conditions, Unjudged>) -> Result<Conditions, Unjudged> {
    let (one, other) = match (one, other) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(Unjudged::Refused(why)), _) | (_, Err(Unjudged::Refused(why))) => return Err(Unjudged::Refused(why.clone())),
        (Err(Unjudged::Unknown(why)), _) | (_, Err(Unjudged::Unknown(why))) => return Err(Unjudged::Unknown(why.clone())),
    };
    let mut all = one.clone();
    for (path, values) in other {
        let related = |known: &&Path| known.starts_with(path) || path.starts_with(known);
        match one.keys().find(related) {
            Some(known) if known == path && one[known] == *values => {}
            Some(known) => return Err(Unjudged::Unknown(format!("it has two conditions on `{}`", known.join(".")))),
            None => _ = all.insert(path.clone(), values.clone()),
        }
    }
    Ok(all)
}

impl Matcher {
    fn add(&mut self, at: usize, conditions: &Conditions) -> Result<(), Unjudged> {
        let (absent, present): (Vec<_>, Vec<_>) = conditions.iter().partition(|(_, values)| values.is_null());
        if !present.is_empty() {
            let mut pattern = json!({});
            for (path, values) in &present {
                *field_of(&mut pattern, path) = (*values).clone();
            }
            let unknown = |error| Unjudged::Unknown(format!("pattern {} cannot be evaluated here: {error}", at + 1));
            self.matcher.add_pattern(self.alternatives.len(), &pattern.to_string()).map_err(unknown)?;
        }
        self.alternatives.push((!present.is_empty(), absent.into_iter().map(|(path, _)| path.clone()).collect()));
        Ok(())
    }

    fn passes(&self, record: &Json) -> bool {
        let matched = self.matcher.matches_for_event(record.to_string().as_bytes()).expect("a record is JSON");
        // An object is not a field: only what it contains is.
        let is_absent = |path: &Path| path.iter().try_fold(record, |value, name| value.get(name)).is_none_or(Json::is_object);
        let mut alternatives = self.alternatives.iter().enumerate();
        alternatives.any(|(at, (has_conditions, absent))| (!has_conditions || matched.contains(&at)) && absent.iter().all(is_absent))
    }
}

/// The field at a path, made if it is missing.
fn field_of<'a>(value: &'a mut Json, path: &[String]) -> &'a mut Json {
    path.iter().fold(value, |value, name| &mut value[name.as_str()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it withholds and lets through, in short.
    fn short(patterns: &[&str], arn: &str, view: &str) -> String {
        let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
        let setting = |text: &str| if text.is_empty() { Setting::Unset } else { Setting::Value(text.to_owned()) };
        let word = |found: Result<Option<String>, String>| match found {
            Ok(None) => "nothing".to_owned(),
            Ok(Some(found)) => found.replace("for example one of ", ""),
            Err(why) => why,
        };
        match Filter::read(&patterns, &Stream { arn: &setting(arn), view: &setting(view) }) {
            Ok(filter) => format!("{}; {}", word(filter.withheld_event()), word(filter.needless_record())),
            Err(Unjudged::Refused(why)) => format!("refused: {why}"),
            Err(Unjudged::Unknown(why)) => format!("unknown: {why}"),
        }
    }

    const EVENTS: &str = r#""eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}"#;

    #[test]
    fn alternatives_are_those_of_lambda() {
        let of = |pattern: &str| short(&[pattern], "", "NEW_IMAGE");
        assert_eq!(of(&format!("{{{EVENTS}}}")), "nothing; nothing");
        let keys = r#""dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}"#;
        assert_eq!(
            of(&format!(r#"{{"$or":[{{"eventName":["INSERT"]}},{{"eventName":["MODIFY"]}}],{keys}}}"#)),
            "nothing; passes MODIFY records of an event"
        );
        assert_eq!(
            of(r#"{"$or":[{"eventName":["MODIFY"]},{"eventName":["REMOVE"]}]}"#),
            "withholds events, version 1 and type `Opened`; passes MODIFY records of an aggregate's VERSION item"
        );
        // Below the top level, within another, and as a whole.
        assert_eq!(
            of(r#"{"eventName":["INSERT"],"dynamodb":{"$or":[{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}},{"Keys":{"SK":{"S":["X"]}}}]}}"#),
            "nothing; nothing"
        );
        let nested = format!(r#"{{"$or":[{{"$or":[{{{EVENTS}}},{{"eventName":["X"]}}]}},{{"eventName":["Y"]}}]}}"#);
        assert_eq!(of(&nested), "nothing; nothing");
        assert_eq!(
            of(r#"{"eventName":["INSERT"],"$or":[{"eventName":["MODIFY"]},{"eventID":["x"]}]}"#),
            "unknown: it has two conditions on `eventName`"
        );
        assert_eq!(
            short(&[r#"{"eventName":["REMOVE"]}"#, &format!("{{{EVENTS}}}")], "", "NEW_IMAGE"),
            "nothing; passes REMOVE records of an event"
        );
    }

    #[test]
    fn what_lambda_refuses_is_told_from_what_is_unknown_here() {
        let of = |pattern: &str| short(&[pattern], "", "NEW_IMAGE");
        let refused = |why: &str| format!("refused: has a pattern that Lambda refuses, number 1: {why}");
        for (pattern, why) in [
            (r#"{"eventName":"INSERT"}"#, "the value of `eventName` is not a list"),
            (r#"{"eventName":true}"#, "the value of `eventName` is not a list"),
            (r#"{"dynamodb":{"Keys":{"SK":{"S":{"prefix":"EVENT#"}}}}}"#, "the value of `prefix` is not a list"),
            (r#"{"$or":[{"eventName":"INSERT"},{"eventName":["MODIFY"]}]}"#, "the value of `eventName` is not a list"),
            (r#"{"eventName":[]}"#, "the list of `eventName` is empty"),
            (r#"{"dynamodb":{}}"#, "the object `dynamodb` is empty"),
            ("{", "it is not JSON"),
            ("[1]", "it is not an object"),
            (&format!(r#"{{"eventName":["{}"]}}"#, "x".repeat(5_000)), "it is longer than 4096 characters"),
            (
                &format!(
                    "{{{}}}",
                    r#""$or":[{"a":["b"]},{"c":["d"]}],"#.to_owned()
                        + &(0..10).map(|at| format!(r#""n{at}":{{"$or":[{{"a":["b"]}},{{"c":["d"]}}]}}"#)).collect::<Vec<_>>().join(",")
                ),
                "it has more than 1000 alternatives",
            ),
        ] {
            assert_eq!(of(pattern), refused(why));
        }
        assert_eq!(of(r#"{"eventName":[{"wildcard":"INS*"}]}"#), "unknown: Lambda does not document the operator `wildcard`");
        assert!(of(r#"{"eventName":[{"like":"INS"}]}"#).starts_with("unknown: pattern 1 cannot be evaluated here"));
        assert_eq!(short(&[r#"{"eventName":["INSERT"]}"#; 11], "", ""), "refused: has more than 10 patterns");
    }

    #[test]
    fn what_a_pattern_depends_on_is_known_or_said() {
        let with = |more: &str| format!("{{{EVENTS},{more}}}");
        let unknown = |field: &str| format!("the filter depends on {field}, which is unknown here; nothing");
        let arn = "arn:aws:dynamodb:eu-west-1:111122223333:table/events/stream/2026-03-01T00:00:00.000";
        for (pattern, arn, view, expected) in [
            (with(r#""awsRegion":["eu-west-1"]"#), "${Events.StreamArn}", "NEW_IMAGE", unknown("awsRegion")),
            (with(r#""awsRegion":["eu-west-1"]"#), arn, "NEW_IMAGE", "nothing; nothing".to_owned()),
            (with(r#""awsRegion":["us-east-1"]"#), arn, "NEW_IMAGE", "withholds events, version 1 and type `Opened`; nothing".to_owned()),
            (with(r#""awsRegion":["${AWS::Region}"]"#), "${Events.StreamArn}", "NEW_IMAGE", "nothing; nothing".to_owned()),
            (with(r#""awsRegion":[{"exists":true}]"#), "", "NEW_IMAGE", "nothing; nothing".to_owned()),
            (with(r#""eventSourceARN":["${Events.StreamArn}"]"#), "${Events.StreamArn}", "", "nothing; nothing".to_owned()),
            (with(r#""eventSourceARN":[{"suffix":"000"}]"#), arn, "", "nothing; nothing".to_owned()),
            (with(r#""eventSourceARN":[{"prefix":"arn:aws:dynamodb"}]"#), "${Events.StreamArn}", "", unknown("eventSourceARN")),
            (with(r#""awsRegion":["x"],"eventID":["y"]"#), "", "", unknown("awsRegion and eventID")),
            (with(r#""eventVersion":["1.1"],"eventSource":["aws:dynamodb"]"#), "", "", "nothing; nothing".to_owned()),
            (with(r#""userIdentity":{"type":[{"exists":false}]}"#), "", "", "nothing; nothing".to_owned()),
            // An alternative that is known decides.
            (
                format!(r#"{{"$or":[{{{EVENTS}}},{{"awsRegion":["x"],"eventName":["INSERT"]}}]}}"#),
                "",
                "",
                "nothing; the filter depends on awsRegion, which is unknown here".to_owned(),
            ),
            (
                r#"{"eventName":["MODIFY"],"awsRegion":["x"]}"#.to_owned(),
                "",
                "",
                "withholds events, version 1 and type `Opened`; the filter depends on awsRegion, which is unknown here".to_owned(),
            ),
        ] {
            assert_eq!(short(&[&pattern], arn, view), expected, "{pattern}");
        }
        let view =
            r#"{"eventName":["INSERT"],"dynamodb":{"StreamViewType":["NEW_AND_OLD_IMAGES"],"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}}}}"#;
        assert_eq!(short(&[view], "", "NEW_AND_OLD_IMAGES"), "nothing; nothing");
        assert_eq!(short(&[view], "", "NEW_IMAGE"), "withholds events, version 1 and type `Opened`; nothing");
        assert_eq!(short(&[view], "", ""), unknown("dynamodb.StreamViewType"));
        // Only an insertion has no old image, if the stream has old images at all.
        let either = r#"{"eventName":["INSERT"],"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}},"OldImage":{"PK":{"S":["x",{"exists":false}]}}}}"#;
        assert_eq!(short(&[either], "", "NEW_IMAGE"), "nothing; nothing");
        let new = r#"{"dynamodb":{"Keys":{"SK":{"S":[{"prefix":"EVENT#"}]}},"NewImage":{"eventId":{"S":[{"exists":true}]}},"OldImage":{"eventId":{"S":[{"exists":false}]}}}}"#;
        assert_eq!(short(&[new], "", "NEW_AND_OLD_IMAGES"), "nothing; nothing");
        assert_eq!(short(&[new], "", "NEW_IMAGE"), "nothing; passes MODIFY records of an event");
    }
}
