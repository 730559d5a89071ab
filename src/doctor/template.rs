//! A deployment as a CloudFormation or SAM template describes it.

use projection_vocabulary::Registry;
use serde_json::Value as Json;

use super::{
    Deployment, Function, Index, Keys, Mapping, Setting, Table, Unusable,
    cloudformation::{Document, Resource, function_in, integer, text_of},
    service_of,
};
use crate::store::PARKED_VAR;

/// The AWS CDK's default kind of table.
const GLOBAL_TABLE: &str = "AWS::DynamoDB::GlobalTable";

/// Reads the worker, its event source mappings and its tables from a template.
///
/// The worker is the function with this logical id or name. Without one, it is the function that a DynamoDB stream invokes; of several,
/// the one with a variable for the parking table.
///
/// # Errors
/// It is not a template, or it is unclear which function is the worker.
pub fn read(text: &str, parameters: &[(String, String)], function: Option<&str>, registry: Registry) -> Result<Deployment, Unusable> {
    let document = Document::read(text, parameters)?;
    let resources = document.resources();
    let functions: Vec<&Resource> = resources.iter().filter(|resource| resource.is_function()).collect();
    let invokers = invokers(&resources, &functions);
    let worker = worker(&functions, &invokers, function)?;
    let of_worker = |invoker: &Invoker<'_>| invoker.function.is_none_or(|function| function.id == worker.id);
    let mappings = invokers.into_iter().filter(of_worker).map(|invoker| invoker.mapping).collect();
    let function = worker.function();
    let tables = function.tables(registry).into_iter().map(|(role, name)| (role, name.and_then(|name| table(&resources, &name)))).collect();
    Ok(Deployment { mappings, function, tables })
}

/// A mapping from a DynamoDB stream, and the function that it invokes.
struct Invoker<'a> {
    mapping: Mapping,
    /// `None` if it cannot be determined.
    function: Option<&'a Resource>,
}

fn invokers<'a>(resources: &[Resource], functions: &[&'a Resource]) -> Vec<Invoker<'a>> {
    let mut invokers = Vec::new();
    for resource in resources.iter().filter(|resource| resource.kind == "AWS::Lambda::EventSourceMapping") {
        let mapping = mapping(resource.id.clone(), &resource.properties, resources);
        match resource.properties.get("FunctionName").and_then(Json::as_str) {
            Some(name) => {
                let function = functions.iter().copied().find(|function| function.is_named(name));
                invokers.extend(function.map(|function| Invoker { mapping, function: Some(function) }));
            }
            None => invokers.push(Invoker { mapping, function: None }),
        }
    }
    // The serverless transform turns the events of a function into mappings.
    for function in functions {
        for (name, event) in function.properties["Events"].as_object().into_iter().flatten() {
            if event["Type"] == "DynamoDB" {
                let mut properties = event["Properties"].clone();
                properties["EventSourceArn"] = properties["Stream"].take();
                let mapping = mapping(format!("{}{name}", function.id), &properties, resources);
                invokers.push(Invoker { mapping, function: Some(function) });
            }
        }
    }
    invokers.retain(|invoker| invoker.mapping.is_of_dynamodb());
    invokers
}

fn worker<'a>(functions: &[&'a Resource], invokers: &[Invoker<'a>], wanted: Option<&str>) -> Result<&'a Resource, Unusable> {
    if let Some(wanted) = wanted {
        let found = functions.iter().find(|function| function.id == wanted || function.is_named(wanted));
        return found.copied().ok_or_else(|| Unusable(format!("has no function `{wanted}`")));
    }
    let parks = |function: &&Resource| function.function().variable(PARKED_VAR) != Setting::Unset;
    let mut invoked: Vec<&Resource> = invokers.iter().filter_map(|invoker| invoker.function).collect();
    invoked.sort_by_key(|function| &function.id);
    invoked.dedup_by_key(|function| &function.id);
    let among = if invoked.is_empty() { functions } else { &invoked };
    let parking: Vec<&Resource> = among.iter().copied().filter(parks).collect();
    let candidates = if parking.is_empty() { invoked } else { parking };
    match candidates.as_slice() {
        [worker] => Ok(worker),
        [] => Err(Unusable("has no function that a DynamoDB stream invokes: name the worker with --function".to_owned())),
        several => {
            let names: Vec<_> = several.iter().map(|function| function.id.as_str()).collect();
            Err(Unusable(format!("has several functions that may be the worker: name one with --function ({})", names.join(", "))))
        }
    }
}

impl Resource {
    fn is_function(&self) -> bool {
        ["AWS::Lambda::Function", "AWS::Serverless::Function"].contains(&self.kind.as_str())
    }

    /// Whether a text refers to it: its name or ARN, or the ARN of one of its versions.
    fn is_named(&self, text: &str) -> bool {
        let own = self.properties.get("FunctionName").and_then(Json::as_str);
        // `${Worker.Arn}` and `${Worker.Alias}` refer to it as well.
        referred(text) == Some(self.id.as_str()) || own.is_some_and(|own| text == own || text.ends_with(&format!(":function:{own}")))
    }

    fn function(&self) -> Function {
        let of = Properties(&self.properties);
        let variables = of.at(&["Environment", "Variables"]).try_map(|variables| {
            let variables = variables.as_object().ok_or_else(|| "is not an object".to_owned())?;
            Ok(variables.iter().map(|(name, value)| (name.clone(), Setting::Value(value).try_map(known).try_map(text))).collect())
        });
        Function {
            name: self.id.clone(),
            timeout_s: of.integer("Timeout"),
            memory_mb: of.integer("MemorySize"),
            variables,
            log_level: of.at(&["LoggingConfig", "ApplicationLogLevel"]).try_map(text),
        }
    }

    fn table(&self) -> Table {
        let of = Properties(&self.properties);
        // Each replica of a global table has its own setting. The first one that is off counts.
        let protected = |path: &[&str]| match self.properties["Replicas"].as_array() {
            Some(replicas) if self.kind == GLOBAL_TABLE => {
                replicas.iter().map(|replica| Properties(replica).at(path).try_map(boolean)).find(|set| *set != Setting::Value(true))
            }
            _ => Some(of.at(path).try_map(boolean)),
        };
        let protected = |path: &[&str]| protected(path).unwrap_or(Setting::Value(true));
        Table {
            name: self.id.clone(),
            keys: of.at(&["KeySchema"]).try_map(keys),
            indexes: of.at(&["GlobalSecondaryIndexes"]).try_map(|indexes| indexes.as_array().into_iter().flatten().map(index).collect()),
            stream_view: of.at(&["StreamSpecification", "StreamViewType"]).try_map(text),
            stream: Setting::Value(format!("${{{}.StreamArn}}", self.id)),
            point_in_time_recovery: protected(&["PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled"]),
            deletion_protection: protected(&["DeletionProtectionEnabled"]),
            time_to_live: of.at(&["TimeToLiveSpecification", "Enabled"]).try_map(boolean),
        }
    }
}

fn mapping(name: String, properties: &Json, resources: &[Resource]) -> Mapping {
    let of = Properties(properties);
    let enabled = of.at(&["Enabled"]).try_map(boolean);
    Mapping {
        name,
        stream: of.at(&["EventSourceArn"]).try_map(text),
        state: enabled.try_map(|enabled| Ok(if enabled { "Enabled" } else { "Disabled" }.to_owned())),
        last_result: Setting::Unset,
        starting_position: of.at(&["StartingPosition"]).try_map(text),
        batch_size: of.integer("BatchSize"),
        batching_window_s: of.integer("MaximumBatchingWindowInSeconds"),
        tumbling_window_s: of.integer("TumblingWindowInSeconds"),
        parallelization: of.integer("ParallelizationFactor"),
        retries_max: of.integer("MaximumRetryAttempts"),
        record_age_max_s: of.integer("MaximumRecordAgeInSeconds"),
        bisect: of.at(&["BisectBatchOnFunctionError"]).try_map(boolean),
        response_types: of.at(&["FunctionResponseTypes"]).try_map(texts),
        filters: of.at(&["FilterCriteria", "Filters"]).try_map(|filters| {
            let patterns: Vec<_> = filters.as_array().into_iter().flatten().map(|filter| filter["Pattern"].clone()).collect();
            texts(&Json::Array(patterns))
        }),
        on_failure: of.at(&["DestinationConfig", "OnFailure", "Destination"]).try_map(text).try_map(|arn| service_in(&arn, resources)),
    }
}

/// The service in an ARN, or in the ARN that a resource will have.
fn service_in(arn: &str, resources: &[Resource]) -> Result<String, String> {
    match referred(arn).and_then(|id| resources.iter().find(|resource| resource.id == id)) {
        Some(resource) => Ok(resource.kind.split("::").nth(1).unwrap_or_default().to_lowercase()),
        // References contain colons, too, and do not matter here.
        None => service_of(&without_references(arn)),
    }
}

/// The table with this name.
fn table(resources: &[Resource], name: &str) -> Setting<Table> {
    let tables = || resources.iter().filter(|resource| ["AWS::DynamoDB::Table", GLOBAL_TABLE].contains(&resource.kind.as_str()));
    let named = |resource: &&Resource| resource.properties.get("TableName").and_then(Json::as_str) == Some(name);
    match tables().find(|table| referred(name) == Some(table.id.as_str())).or_else(|| tables().find(named)) {
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
    let schema = schema.as_array().ok_or_else(|| "is not a list".to_owned())?;
    let of_kind = |kind: &str| schema.iter().find(|key| key["KeyType"] == kind).map(|key| text(known(&key["AttributeName"])?));
    let partition = of_kind("HASH").ok_or_else(|| "has no HASH key".to_owned())??;
    Ok(Keys { partition, sort: of_kind("RANGE").transpose()? })
}

/// The properties of a resource, by path.
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
        if value.is_null() { Setting::Unset } else { Setting::Value(value).try_map(known) }
    }

    fn integer(&self, name: &str) -> Setting<i64> {
        self.at(&[name]).try_map(|value| integer(value).ok_or_else(|| "is not a whole number".to_owned()))
    }
}

/// The logical id that a text refers to, if the text is a reference and nothing else.
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
            Err(format!("the parameter {} has no default: give its value with --parameter", text_of(name).unwrap_or_default()))
        }
        Some((function, _)) => Err(format!("{function} cannot be resolved from the template alone")),
    }
}

fn text(value: &Json) -> Result<String, String> {
    text_of(value).ok_or_else(|| "is not a text".to_owned())
}

fn texts(value: &Json) -> Result<Vec<String>, String> {
    let values = value.as_array().ok_or_else(|| "is not a list".to_owned())?;
    values.iter().map(|value| text(known(value)?)).collect()
}

/// A boolean in YAML 1.1, which CloudFormation reads, or in quotes in JSON.
fn boolean(value: &Json) -> Result<bool, String> {
    match text_of(value).map(|text| text.to_lowercase()).as_deref() {
        Some("true" | "yes" | "on") => Ok(true),
        Some("false" | "no" | "off") => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}
