//! The tables: do they have the keys and indexes of the code, and can their items be lost?

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{AttributeDefinition, KeySchemaElement, KeyType};

use super::{Check, Deployment, Examination, Role, Setting, Severity, is};
use crate::store::tables;

/// The settings of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its logical id in a template, or its name.
    pub name: String,
    /// Its keys.
    pub keys: Setting<Keys>,
    /// Its global secondary indexes, by name.
    pub indexes: Setting<BTreeMap<String, Index>>,
    /// Its name, if it has a fixed one.
    pub fixed_name: Setting<String>,
    /// The regions of its replicas, its own among them; unset if it has none.
    pub replicas: Setting<Vec<String>>,
    /// Whether its replicas are consistent: a read in one region returns what was written in another.
    pub consistent_replicas: Setting<bool>,
    /// What its stream records contain; unset if it has no stream.
    pub stream_view: Setting<String>,
    /// The ARN of its stream.
    pub stream: Setting<String>,
    /// Whether point-in-time recovery is on.
    pub point_in_time_recovery: Setting<bool>,
    /// Whether it is protected from deletion.
    pub deletion_protection: Setting<bool>,
    /// Whether DynamoDB deletes expired items.
    pub time_to_live: Setting<bool>,
}

/// The keys of a table or an index. An index may have up to four attributes in each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The partition key.
    pub partition: Vec<Key>,
    /// The sort key; empty if there is none.
    pub sort: Vec<Key>,
}

/// An attribute of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Its type: `S`, `N` or `B`; `None` if it is not known.
    pub kind: Option<String>,
}

/// A global secondary index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its keys.
    pub keys: Keys,
    /// The attributes it contains: `ALL`, `INCLUDE` or `KEYS_ONLY`.
    pub projection: String,
    /// The non-key attributes it contains, if not all.
    pub include: Vec<String>,
}

static TABLE: Check = Check {
    name: "table",
    severity: Severity::Error,
    why: "A variable of the worker names a table that does not exist.",
    fix: "create the table (with projector tables create, or in the template), or correct the variable",
};
static KEYS: Check = Check {
    name: "keys",
    severity: Severity::Error,
    why: "DynamoDB rejects every request of the worker to a table with other keys.",
    fix: "KeySchema: these keys; as keys cannot be changed, create a new table, and rebuild it if it is a read model",
};
static INDEX: Check = Check {
    name: "index",
    severity: Severity::Error,
    why: "Queries of this index fail: catch-up --since and status for the event store, ticks for process-status, the readers for a read model.",
    fix: "GlobalSecondaryIndexes: as created by projector tables create",
};
static STREAM_VIEW: Check = Check {
    name: "stream-view",
    severity: Severity::Error,
    why: "The worker reads events from the new images in the stream.",
    fix: "StreamSpecification.StreamViewType: NEW_IMAGE; then give the mapping the ARN of the new stream",
};
static WIRING: Check = Check {
    name: "wiring",
    severity: Severity::Error,
    why: "The worker receives the events of one table and looks for missing ones in another, or reads a stream that has ended.",
    fix: "EventSourceArn: the StreamArn of the event store",
};
static WIRING_FIXED: Check = Check {
    name: "wiring-fixed",
    severity: Severity::Warning,
    why: "The ARN of a stream ends in the time at which the stream was enabled. It changes when the stream or the table is made anew, and \
          the worker then reads a stream that has ended.",
    fix: "EventSourceArn: !GetAtt of the table, StreamArn",
};
static REPLICAS: Check = Check {
    name: "replicas",
    severity: Severity::Warning,
    why: "Each write is conditional on what its own region has. If workers or event writers run in several regions, two of them can write the \
          same row or append the same version, and replication keeps the last: the other is lost. Replicas with strong consistency refuse \
          transactions, which both need.",
    fix: "one region that writes; elsewhere read only, and start the worker there after the first region was given up",
};
static RECOVERY: Check = Check {
    name: "recovery",
    severity: Severity::Error,
    why: "A mistake with this table cannot be undone, and its items exist nowhere else.",
    fix: "PointInTimeRecoverySpecification.PointInTimeRecoveryEnabled: true",
};
static DELETION_PROTECTION: Check = Check {
    name: "deletion-protection",
    severity: Severity::Error,
    why: "One call deletes the table, and its items exist nowhere else.",
    fix: "DeletionProtectionEnabled: true",
};
static TIME_TO_LIVE: Check = Check {
    name: "time-to-live",
    severity: Severity::Error,
    why: "An event that expires is a gap in its aggregate's history, a parked record that expires is lost, and a row that expires leaves \
          its contributions behind on shared rows.",
    fix: "no TimeToLiveSpecification",
};

/// All checks of this module.
pub(super) static CHECKS: &[&Check] =
    &[&TABLE, &KEYS, &INDEX, &STREAM_VIEW, &WIRING, &WIRING_FIXED, &REPLICAS, &RECOVERY, &DELETION_PROTECTION, &TIME_TO_LIVE];

pub(super) fn examine(deployment: &Deployment, examination: &mut Examination) {
    for (role, table) in &deployment.tables {
        examination.judge(&TABLE, role.variable(), table, |table| table.is_none().then(|| "names a table that does not exist".to_owned()));
        let Setting::Value(table) = table else { continue };
        examine_table(*role, table, examination);
        if let Role::EventStore = role {
            for mapping in &deployment.mappings {
                let at = format!("{}.EventSourceArn", mapping.name);
                let wiring = table.stream.and(&mapping.stream).and_then(|(own, read)| table.wiring(&own, &read));
                examination.judge(&WIRING, at.clone(), &wiring.and(&mapping.stream), |wiring| match wiring {
                    Some((Wiring::Other, read)) => Some(format!("is {read}, not the stream of {}", table.name)),
                    _ => None,
                });
                examination.judge(&WIRING_FIXED, at, &wiring, |wiring| {
                    (wiring == Some(&Wiring::Fixed)).then(|| format!("names a stream of {} by its time", table.name))
                });
            }
        }
    }
}

fn examine_table(role: Role, table: &Table, examination: &mut Examination) {
    let at = |property: &str| format!("{}.{property}", table.name);
    let (keys, indexes) = schema_of(role);
    examination.judge(&KEYS, at("KeySchema"), &table.keys, |found| {
        (!found.is_some_and(|found| found.serve(&keys)))
            .then(|| format!("is {}, but should be {}", found.map_or_else(|| "nothing".to_owned(), Keys::text), keys.text()))
    });
    let none = BTreeMap::new();
    for (name, wanted) in indexes {
        examination.judge(&INDEX, at(&format!("GlobalSecondaryIndexes.{name}")), &table.indexes, |found| {
            match found.unwrap_or(&none).get(&name) {
                None => Some("does not exist".to_owned()),
                Some(found) if !found.keys.serve(&wanted.keys) => {
                    Some(format!("has the keys {}, but should have {}", found.keys.text(), wanted.keys.text()))
                }
                Some(found) => found.lacks(&wanted).map(|missing| format!("does not contain {missing}")),
            }
        });
    }
    let replicas = match &table.replicas {
        Setting::Value(regions) if regions.len() < 2 => Setting::Unset,
        replicas => replicas.clone(),
    };
    examination.judge(&REPLICAS, at("Replicas"), &replicas, |regions| {
        let consistent = if table.consistent_replicas == Setting::Value(true) { "strong" } else { "eventual" };
        regions.map(|regions| format!("has {} regions, {}, with {consistent} consistency", regions.len(), regions.join(", ")))
    });
    if let Role::EventStore = role {
        examination.judge(&STREAM_VIEW, at("StreamSpecification"), &table.stream_view, |view| {
            let images = view.is_some_and(|view| ["NEW_IMAGE", "NEW_AND_OLD_IMAGES"].contains(&view.as_str()));
            (!images).then(|| is(view))
        });
    }
    if !matches!(role, Role::ReadModel(_)) {
        let recovery = at("PointInTimeRecoverySpecification");
        examination.require(&RECOVERY, recovery, &table.point_in_time_recovery.or(false), &true);
        examination.require(&DELETION_PROTECTION, at("DeletionProtectionEnabled"), &table.deletion_protection.or(false), &true);
    }
    examination.require(&TIME_TO_LIVE, at("TimeToLiveSpecification"), &table.time_to_live.or(false), &false);
}

/// Keys and indexes as the code creates them.
fn schema_of(role: Role) -> (Keys, BTreeMap<String, Index>) {
    let table = match role {
        Role::EventStore => tables::of_events(""),
        Role::Parked => tables::of_parked(""),
        Role::ReadModel(projection) => tables::of_rows(projection, ""),
    };
    let definitions = table.get_attribute_definitions().as_deref().unwrap_or_default();
    let keys = Keys::of(table.get_key_schema().as_deref().unwrap_or_default(), definitions).expect("the code's tables have keys");
    let indexes = table.get_global_secondary_indexes().iter().flatten().map(|index| {
        let projection = index.projection().expect("the code's indexes have a projection type");
        let kind = projection.projection_type().expect("the code's indexes have a projection type").as_str().to_owned();
        let keys = Keys::of(index.key_schema(), definitions).expect("the code's indexes have keys");
        (index.index_name().to_owned(), Index { keys, projection: kind, include: projection.non_key_attributes().to_vec() })
    });
    (keys, indexes.collect())
}

/// How the stream that a mapping reads relates to a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wiring {
    /// It is the table's.
    Own,
    /// It is the table's at the moment: its ARN is written out.
    Fixed,
    /// It is another's.
    Other,
}

impl Table {
    /// How this stream relates to the table. A template knows its own stream only as a reference.
    fn wiring(&self, own: &str, read: &str) -> Setting<Wiring> {
        let Some(name) = table_of_stream(read).filter(|_| own.starts_with("${") && own != read) else {
            return Setting::Value(if own == read { Wiring::Own } else { Wiring::Other });
        };
        let is_own = if name == format!("${{{}}}", self.name) {
            Setting::Value(true)
        } else {
            match &self.fixed_name {
                // CloudFormation makes up a name of the stack's, the table's and a random one.
                Setting::Unset => Setting::Value(name.contains(&format!("-{}-", self.name))),
                fixed => fixed.as_ref().and_then(|fixed| Setting::Value(fixed == name)),
            }
        };
        is_own.and_then(|is_own| Setting::Value(if is_own { Wiring::Fixed } else { Wiring::Other }))
    }
}

/// The name of the table in the ARN of its stream: `arn:aws:dynamodb:REGION:ACCOUNT:table/NAME/stream/TIME`.
pub(super) fn table_of_stream(arn: &str) -> Option<&str> {
    arn.split_once(":table/").and_then(|(_, rest)| rest.split_once("/stream/")).map(|(name, _)| name)
}

impl Keys {
    /// The keys of a schema; `None` if it has no partition key.
    pub(super) fn of(schema: &[KeySchemaElement], definitions: &[AttributeDefinition]) -> Option<Self> {
        let of_kind = |kind: &KeyType| -> Vec<Key> {
            let keys = schema.iter().filter(|key| key.key_type() == kind);
            keys.map(|key| Key::of(key.attribute_name(), definitions)).collect()
        };
        let keys = Self { partition: of_kind(&KeyType::Hash), sort: of_kind(&KeyType::Range) };
        (!keys.partition.is_empty()).then_some(keys)
    }

    /// Whether a request that is made for the other keys is possible with these. A type that is not known may be the right one.
    fn serve(&self, wanted: &Self) -> bool {
        let same = |found: &[Key], wanted: &[Key]| {
            let pairs = || found.iter().zip(wanted);
            found.len() == wanted.len()
                && pairs().all(|(found, wanted)| found.name == wanted.name && (found.kind.is_none() || found.kind == wanted.kind))
        };
        same(&self.partition, &wanted.partition) && same(&self.sort, &wanted.sort)
    }

    fn text(&self) -> String {
        let part = |keys: &[Key]| keys.iter().map(Key::text).collect::<Vec<_>>().join(", ");
        if self.sort.is_empty() { part(&self.partition) } else { format!("{} and {}", part(&self.partition), part(&self.sort)) }
    }
}

impl Key {
    fn of(name: &str, definitions: &[AttributeDefinition]) -> Self {
        let defined = definitions.iter().find(|definition| definition.attribute_name() == name);
        Self { name: name.to_owned(), kind: defined.map(|definition| definition.attribute_type().as_str().to_owned()) }
    }

    /// Its name, and its type if that is not the usual one.
    fn text(&self) -> String {
        match self.kind.as_deref() {
            None | Some("S") => self.name.clone(),
            Some(kind) => format!("{} ({kind})", self.name),
        }
    }
}

impl Index {
    /// What this index must contain but does not.
    fn lacks(&self, wanted: &Self) -> Option<String> {
        let has = |name: &&String| self.include.contains(name);
        match (self.projection.as_str(), wanted.projection.as_str()) {
            ("ALL", _) | (_, "KEYS_ONLY") => None,
            (_, "ALL") => Some("all attributes".to_owned()),
            _ => wanted.include.iter().find(|name| !has(name)).cloned(),
        }
    }
}
