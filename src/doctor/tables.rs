//! The tables: do they have the keys and indexes of the code, and can their items be lost?

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{KeySchemaElement, KeyType};

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

/// The names of a table's or an index's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The partition key.
    pub partition: String,
    /// The sort key.
    pub sort: Option<String>,
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
    why: "Queries of this index fail: catch-up --since and status for the event store, the readers for a read model.",
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
pub(super) static CHECKS: &[&Check] = &[&TABLE, &KEYS, &INDEX, &STREAM_VIEW, &WIRING, &RECOVERY, &DELETION_PROTECTION, &TIME_TO_LIVE];

pub(super) fn examine(deployment: &Deployment, examination: &mut Examination) {
    for (role, table) in &deployment.tables {
        examination.judge(&TABLE, role.variable(), table, |table| table.is_none().then(|| "names a table that does not exist".to_owned()));
        let Setting::Value(table) = table else { continue };
        examine_table(*role, table, examination);
        if let Role::EventStore = role {
            for mapping in &deployment.mappings {
                let streams = table.stream.and(&mapping.stream);
                examination.judge(&WIRING, format!("{}.EventSourceArn", mapping.name), &streams, |streams| {
                    streams.filter(|(own, read)| own != read).map(|(_, read)| format!("is {read}, not the stream of {}", table.name))
                });
            }
        }
    }
}

fn examine_table(role: Role, table: &Table, examination: &mut Examination) {
    let at = |property: &str| format!("{}.{property}", table.name);
    let (keys, indexes) = schema_of(role);
    examination.judge(&KEYS, at("KeySchema"), &table.keys, |found| {
        (found != Some(&keys))
            .then(|| format!("is {}, but should be {}", found.map_or_else(|| "nothing".to_owned(), Keys::text), keys.text()))
    });
    let none = BTreeMap::new();
    for (name, wanted) in indexes {
        examination.judge(&INDEX, at(&format!("GlobalSecondaryIndexes.{name}")), &table.indexes, |found| {
            match found.unwrap_or(&none).get(&name) {
                None => Some("does not exist".to_owned()),
                Some(found) if found.keys != wanted.keys => {
                    Some(format!("has the keys {}, but should have {}", found.keys.text(), wanted.keys.text()))
                }
                Some(found) => found.lacks(&wanted).map(|missing| format!("does not contain {missing}")),
            }
        });
    }
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
    let keys = Keys::of(table.get_key_schema().as_deref().unwrap_or_default()).expect("the code's tables have keys");
    let indexes = table.get_global_secondary_indexes().iter().flatten().map(|index| {
        let projection = index.projection().expect("the code's indexes have a projection type");
        let kind = projection.projection_type().expect("the code's indexes have a projection type").as_str().to_owned();
        let keys = Keys::of(index.key_schema()).expect("the code's indexes have keys");
        (index.index_name().to_owned(), Index { keys, projection: kind, include: projection.non_key_attributes().to_vec() })
    });
    (keys, indexes.collect())
}

impl Keys {
    /// The keys of a schema; `None` if it has no partition key.
    pub(super) fn of(schema: &[KeySchemaElement]) -> Option<Self> {
        let named = |kind: &KeyType| schema.iter().find(|key| key.key_type() == kind).map(|key| key.attribute_name().to_owned());
        Some(Self { partition: named(&KeyType::Hash)?, sort: named(&KeyType::Range) })
    }

    fn text(&self) -> String {
        match &self.sort {
            Some(sort) => format!("{} and {sort}", self.partition),
            None => self.partition.clone(),
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
