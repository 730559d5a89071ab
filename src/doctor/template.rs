//! A deployment as a CloudFormation or SAM template describes it.

use projection_vocabulary::Registry;
use serde_json::Value as Json;

use super::{
    Deployment, Function, Index, Keys, Mapping, Setting, Table, Unusable,
    cloudformation::{Document, Resource, function_in, integer, text_of},
    service_of,
};
use crate::store::PARKED_VAR;

/// What the AWS CDK makes of a table by default.
const GLOBAL_TABLE: &str = "AWS::DynamoDB::GlobalTable";

/// Reads the worker, what invokes it, and its tables out of a template.
///
/// The worker is what is invoked by a stream of DynamoDB; if several functions are, the one of this logical id or name, or else the one
/// that has a variable for what is parked.
///
/// # Errors
/// It is no template, or does not tell which function is the worker.
pub fn read(text: &str, parameters: &[(String, String)], function: Option<&str>, registry: Registry) -> Result<Deployment, Unusable> {
    let document = Document::read(text, parameters)?;
    let resources = document.resources();
    let functions: Vec<&Resource> = resources.iter().filter(|resource| resource.is_function()).collect();
    let mappings = mappings(&resources, &functions);
    let worker = worker(&functions, &mappings, function)?;
    let mappings = mappings.into_iter().filter(|(invoked, _)| invoked.is_none_or(|invoked| invoked.id == worker.id));
    let function = worker.function();
    let tables = function.tables(registry).into_iter().map(|(role, name)| (role, table(&resources, &name))).collect();
    Ok(Deployment { mappings: mappings.map(|(_, mapping)| mapping).collect(), function, tables })
}

/// All that take from streams of DynamoDB, with the functions that they invoke; none where that cannot be told.
fn mappings<'a>(resources: &[Resource], functions: &[&'a Resource]) -> Vec<(Option<&'a Resource>, Mapping)> {
    let mut mappings = Vec::new();
    for resource in resources.iter().filter(|resource| resource.kind == "AWS::Lambda::EventSourceMapping") {
        let mapping = mapping(resource.id.clone(), &resource.properties, resources);
        match resource.properties.get("FunctionName").and_then(Json::as_str) {
            Some(name) => {
                mappings.extend(functions.iter().find(|function| function.is_named(name)).map(|invoked| (Some(*invoked), mapping)));
            }
            None => mappings.push((None, mapping)),
        }
    }
    // The events of a serverless function are mappings, too, after its transform.
    for function in functions {
        for (name, event) in function.properties["Events"].as_object().into_iter().flatten() {
            if event["Type"] == "DynamoDB" {
                let mut properties = event["Properties"].clone();
                properties["EventSourceArn"] = properties["Stream"].take();
                mappings.push((Some(*function), mapping(format!("{}{name}", function.id), &properties, resources)));
            }
        }
    }
    mappings.retain(|(_, mapping)| mapping.is_of_dynamodb());
    mappings
}

fn worker<'a>(
    functions: &[&'a Resource],
    mappings: &[(Option<&'a Resource>, Mapping)],
    wanted: Option<&str>,
) -> Result<&'a Resource, Unusable> {
    if let Some(wanted) = wanted {
        let found = functions.iter().find(|function| function.id == wanted || function.is_named(wanted));
        return found.copied().ok_or_else(|| Unusable(format!("has no function `{wanted}`")));
    }
    let parks = |function: &&Resource| function.function().variable(PARKED_VAR) != Setting::Unset;
    let mut invoked: Vec<&Resource> = mappings.iter().filter_map(|(invoked, _)| *invoked).collect();
    invoked.sort_by_key(|function| &function.id);
    invoked.dedup_by_key(|function| &function.id);
    let among = if invoked.is_empty() { functions } else { &invoked };
    let parking: Vec<&Resource> = among.iter().copied().filter(parks).collect();
    let candidates = if parking.is_empty() { invoked } else { parking };
    match candidates.as_slice() {
        [worker] => Ok(worker),
        [] => Err(Unusable("has no function that a stream of DynamoDB invokes: name the worker by --function".to_owned())),
        several => {
            let names: Vec<_> = several.iter().map(|function| function.id.as_str()).collect();
            Err(Unusable(format!("has several functions that may be the worker: name it by --function ({})", names.join(", "))))
        }
    }
}

impl Resource {
    fn is_function(&self) -> bool {
        ["AWS::Lambda::Function", "AWS::Serverless::Function"].contains(&self.kind.as_str())
    }

    /// Whether a text means it: its name or ARN, or that of one of its versions.
    fn is_named(&self, text: &str) -> bool {
        let own = self.properties.get("FunctionName").and_then(Json::as_str);
        // `${Worker.Arn}` and `${Worker.Alias}` are it as well.
        referred(text) == Some(self.id.as_str()) || own.is_some_and(|own| text == own || text.ends_with(&format!(":function:{own}")))
    }

    fn function(&self) -> Function {
        let of = Properties(&self.properties);
        let variables = of.at(&["Environment", "Variables"]).then(|variables| {
            let variables = variables.as_object().ok_or_else(|| "is no object".to_owned())?;
            Ok(variables.iter().map(|(name, value)| (name.clone(), Setting::Value(value).then(known).then(text))).collect())
        });
        Function {
            name: self.id.clone(),
            timeout_s: of.integer("Timeout"),
            memory_mb: of.integer("MemorySize"),
            variables,
            log_level: of.at(&["LoggingConfig", "ApplicationLogLevel"]).then(text),
        }
    }

    fn table(&self) -> Table {
        let of = Properties(&self.properties);
        // Each replica of a global table has its own.
        let protected = |path: &[&str]| match self.properties["Replicas"].as_array() {
            Some(replicas) if self.kind == GLOBAL_TABLE => {
                replicas.iter().map(|replica| Properties(replica).at(path).then(boolean)).find(|set| *set != Setting::Value(true))
            }
            _ => Some(of.at(path).then(boolean)),
        };
        let protected = |path: &[&str]| protected(path).unwrap_or(Setting::Value(true));
        Table {
            name: self.id.clone(),
            keys: of.at(&["KeySchema"]).then(keys),
            indexes: of.at(&["GlobalSecondaryIndexes"]).then(|indexes| indexes.as_array().into_iter().flatten().map(index).collect()),
            stream_view: of.at(&["StreamSpecification", "StreamViewType"]).then(text),
            stream: Setting::Value(format!("${{{}.StreamArn}}", self.id)),
            point_in_time_recovery: protected(&["PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled"]),
            deletion_protection: protected(&["DeletionProtectionEnabled"]),
            time_to_live: of.at(&["TimeToLiveSpecification", "Enabled"]).then(boolean),
        }
    }
}

fn mapping(name: String, properties: &Json, resources: &[Resource]) -> Mapping {
    let of = Properties(properties);
    let enabled = of.at(&["Enabled"]).then(boolean);
    Mapping {
        name,
        stream: of.at(&["EventSourceArn"]).then(text),
        state: enabled.then(|enabled| Ok(if enabled { "Enabled" } else { "Disabled" }.to_owned())),
        last_result: Setting::Unset,
        starting_position: of.at(&["StartingPosition"]).then(text),
        batch_size: of.integer("BatchSize"),
        batching_window_s: of.integer("MaximumBatchingWindowInSeconds"),
        tumbling_window_s: of.integer("TumblingWindowInSeconds"),
        parallelization: of.integer("ParallelizationFactor"),
        retries_max: of.integer("MaximumRetryAttempts"),
        record_age_max_s: of.integer("MaximumRecordAgeInSeconds"),
        bisect: of.at(&["BisectBatchOnFunctionError"]).then(boolean),
        response_types: of.at(&["FunctionResponseTypes"]).then(texts),
        filters: of.at(&["FilterCriteria", "Filters"]).then(|filters| {
            let patterns: Vec<_> = filters.as_array().into_iter().flatten().map(|filter| filter["Pattern"].clone()).collect();
            texts(&Json::Array(patterns))
        }),
        on_failure: of.at(&["DestinationConfig", "OnFailure", "Destination"]).then(text).then(|arn| leads_to(&arn, resources)),
    }
}

/// The service that an ARN, or what a resource's will be, leads to.
fn leads_to(arn: &str, resources: &[Resource]) -> Result<String, String> {
    match referred(arn).and_then(|id| resources.iter().find(|resource| resource.id == id)) {
        Some(resource) => Ok(resource.kind.split("::").nth(1).unwrap_or_default().to_lowercase()),
        // What is not known of an ARN has colons, too, and is of no interest here.
        None => service_of(&without_references(arn)),
    }
}

/// The table that a variable names.
fn table(resources: &[Resource], name: &Setting<String>) -> Setting<Table> {
    let name = match name {
        Setting::Value(name) => name,
        Setting::Unset => return Setting::Unset,
        Setting::Unseen(why) => return Setting::Unseen(why.clone()),
    };
    let tables = || resources.iter().filter(|resource| ["AWS::DynamoDB::Table", GLOBAL_TABLE].contains(&resource.kind.as_str()));
    let named = |resource: &&Resource| resource.properties.get("TableName").and_then(Json::as_str) == Some(name);
    match tables().find(|table| referred(name) == Some(&table.id)).or_else(|| tables().find(named)) {
        Some(resource) => Setting::Value(resource.table()),
        None => Setting::Unseen("the table is not in this template".to_owned()),
    }
}

fn index(index: &Json) -> Result<(String, Index), String> {
    let name = text(known(&index["IndexName"])?)?;
    let projection = text(known(&index["Projection"]["ProjectionType"])?)?;
    let include = match &index["Projection"]["NonKeyAttributes"] {
        Json::Null => Vec::new(),
        names => texts(names)?,
    };
    Ok((name, Index { keys: keys(&index["KeySchema"])?, projection, include }))
}

fn keys(schema: &Json) -> Result<Keys, String> {
    let schema = schema.as_array().ok_or_else(|| "is no list".to_owned())?;
    let of_kind = |kind: &str| schema.iter().find(|key| key["KeyType"] == kind).map(|key| text(known(&key["AttributeName"])?));
    let partition = of_kind("HASH").ok_or_else(|| "has no HASH key".to_owned())??;
    Ok(Keys { partition, sort: of_kind("RANGE").transpose()? })
}

/// Properties of a resource, by their paths.
struct Properties<'a>(&'a Json);

impl<'a> Properties<'a> {
    fn at(&self, path: &[&str]) -> Setting<&'a Json> {
        let mut value = self.0;
        for name in path {
            match known(value) {
                Ok(object) => value = object.get(name).unwrap_or(&Json::Null),
                Err(why) => return Setting::Unseen(why),
            }
        }
        if value.is_null() { Setting::Unset } else { Setting::Value(value).then(known) }
    }

    fn integer(&self, name: &str) -> Setting<i64> {
        self.at(&[name]).then(|value| integer(value).ok_or_else(|| "is no whole number".to_owned()))
    }
}

/// The logical id that a text refers to, if it is nothing but a reference.
fn referred(text: &str) -> Option<&str> {
    text.strip_prefix("${")?.strip_suffix('}').and_then(|reference| reference.split('.').next())
}

fn without_references(text: &str) -> String {
    let mut parts = text.split("${");
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(|part| part.split_once('}').map_or(part, |(_, rest)| rest)).collect::<String>()
}

fn known(value: &Json) -> Result<&Json, String> {
    match function_in(value) {
        None => Ok(value),
        Some(("Ref", name)) => {
            Err(format!("the parameter {} has no default: give its value by --parameter", text_of(name).unwrap_or_default()))
        }
        Some((function, _)) => Err(format!("{function} cannot be worked out from the template alone")),
    }
}

fn text(value: &Json) -> Result<String, String> {
    text_of(value).ok_or_else(|| "is no text".to_owned())
}

fn texts(value: &Json) -> Result<Vec<String>, String> {
    let values = value.as_array().ok_or_else(|| "is no list".to_owned())?;
    values.iter().map(|value| text(known(value)?)).collect()
}

/// As YAML 1.1 has it, which CloudFormation reads, and JSON in quotes.
fn boolean(value: &Json) -> Result<bool, String> {
    match text_of(value).map(|text| text.to_lowercase()).as_deref() {
        Some("true" | "yes" | "on") => Ok(true),
        Some("false" | "no" | "off") => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}
