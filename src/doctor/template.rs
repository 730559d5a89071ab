//! A deployment as a CloudFormation or SAM template describes it.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{Projection as _, Registry, process::ProcessStatus};
use serde_json::Value as Json;

use super::{
    Alarm, Deed, Deployment, Dimension, Function, Index, Key, Keys, Mapping, Metric, OtherSource, Role, Schedule, Setting, Table, Target,
    Ticks, Unusable, Watched,
    cloudformation::{Document, Resource, function_in, integer, text_of},
    policies::{self, Policies},
    processes::TICK,
    service_of,
    tables::table_of_stream,
};
use crate::store::PARKED_VAR;

/// The AWS CDK's default kind of table.
const GLOBAL_TABLE: &str = "AWS::DynamoDB::GlobalTable";
const TABLES: [&str; 2] = ["AWS::DynamoDB::Table", GLOBAL_TABLE];
const FUNCTIONS: [&str; 2] = ["AWS::Lambda::Function", "AWS::Serverless::Function"];

/// Reads the worker, its event source mappings and its tables from a template.
///
/// The worker is the function with this logical id or name. Without one, it is the function that a DynamoDB stream invokes; of several,
/// the one with a variable for the parking table.
///
/// # Errors
/// It is not a template, or it is unclear which function is the worker.
pub fn read(text: &str, parameters: &[(String, String)], function: Option<&str>, registry: Registry) -> Result<Deployment, Unusable> {
    let document = Document::read(text, parameters)?;
    let resources = Resources::of(document.resources()?);
    let invokers = resources.invokers();
    let worker = worker(&resources, &invokers, function)?;
    let (mut mappings, mut other_sources) = (Vec::new(), resources.other_callers(worker));
    for Invoker { source, function } in invokers {
        match source {
            Source::Stream(mapping) if function.is_none_or(|function| function.id == worker.id) => mappings.push(*mapping),
            Source::Other(other) if function.is_some_and(|function| function.id == worker.id) => other_sources.push(other),
            _ => {}
        }
    }
    let function = worker.function();
    let tables = function.tables(registry, &mappings, |stream| resources.table_of_stream(stream));
    let tables: Vec<_> = tables.into_iter().map(|(role, name)| (role, name.and_then(|name| resources.table(&name)))).collect();
    let alarms = Setting::Value(resources.alarms(worker, &mappings, &tables));
    let (ticks, allowed) = (resources.ticks(worker), resources.allowed(worker, &tables));
    Ok(Deployment { mappings, other_sources, function, tables, alarms, ticks, allowed })
}

/// An event source mapping, and the function that it invokes.
struct Invoker<'a> {
    source: Source,
    /// `None` if it cannot be determined.
    function: Option<&'a Resource>,
}

enum Source {
    /// It reads a DynamoDB stream.
    Stream(Box<Mapping>),
    Other(OtherSource),
}

/// The events of the serverless transform that may carry a task, or that become event source mappings of streams.
const EVENTS_OF_TASKS: [&str; 5] = ["DynamoDB", "Schedule", "ScheduleV2", "CloudWatchEvent", "EventBridgeRule"];

/// Services that invoke the function with an event that a template can write, which may be a task.
const SERVICES_WITH_TASKS: [&str; 3] = ["events", "scheduler", "states"];

/// The resources of a template, by logical id.
struct Resources(BTreeMap<String, Resource>);

impl Resources {
    fn of(resources: Vec<Resource>) -> Self {
        Self(resources.into_iter().map(|resource| (resource.id.clone(), resource)).collect())
    }

    fn of_kind<'a>(&'a self, kinds: &'a [&str]) -> impl Iterator<Item = &'a Resource> {
        self.0.values().filter(move |resource| kinds.contains(&resource.kind.as_str()))
    }

    fn functions(&self) -> impl Iterator<Item = &Resource> {
        self.of_kind(&FUNCTIONS)
    }

    /// The function that a text names: by its name or ARN, full or partial, also that of a version or an alias
    /// (<https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html>).
    ///
    /// # Errors
    /// It cannot be determined.
    fn function(&self, text: &str) -> Result<Option<&Resource>, ()> {
        let parts = parts_of(text);
        // arn:aws:lambda:REGION:ACCOUNT:function:NAME:QUALIFIER, ACCOUNT:function:NAME, function:NAME or NAME:QUALIFIER
        let after = parts.iter().position(|part| *part == "function").and_then(|at| parts.get(at + 1));
        let Some(name) = after.or(parts.first()).copied() else { return Ok(None) };
        if let Some(id) = referred(name) {
            match self.0.get(id) {
                Some(function) if function.is_function() => return Ok(Some(function)),
                Some(alias) if ["AWS::Lambda::Alias", "AWS::Lambda::Version"].contains(&alias.kind.as_str()) => {
                    // It refers to a function, so there is no cycle: an alias cannot name another.
                    return match alias.properties["FunctionName"].as_str() {
                        Some(of) if parts_of(of).iter().all(|part| referred(part) != Some(id)) => self.unaliased(of),
                        _ => Err(()),
                    };
                }
                _ => {}
            }
            // The serverless transform makes them.
            if let Some(function) = self.functions().find(|function| function.has_generated(id)) {
                return Ok(Some(function));
            }
        }
        if let Some(function) = self.functions().find(|function| function.has_name(name)) {
            return Ok(Some(function));
        }
        // A name that needs a parameter may be this one.
        if self.functions().any(|function| function.properties["FunctionName"].is_object()) { Err(()) } else { Ok(None) }
    }

    /// The function of an alias or version.
    fn unaliased(&self, text: &str) -> Result<Option<&Resource>, ()> {
        let named = referred(parts_of(text).first().copied().unwrap_or_default());
        match named.and_then(|id| self.0.get(id)) {
            Some(resource) if !resource.is_function() => Err(()),
            _ => self.function(text),
        }
    }

    fn invokers(&self) -> Vec<Invoker<'_>> {
        let mut invokers = Vec::new();
        for resource in self.of_kind(&["AWS::Lambda::EventSourceMapping"]) {
            let function = match &resource.properties["FunctionName"] {
                Json::String(name) => self.function(name),
                _ => Err(()),
            };
            let function = match function {
                Ok(None) => continue,
                Ok(function) => function,
                Err(()) => None,
            };
            let mapping = self.mapping(resource.id.clone(), &resource.properties);
            let source = if mapping.is_of_dynamodb() {
                Source::Stream(Box::new(mapping))
            } else {
                let kind = mapping.stream.try_map(|arn| self.service_in(&arn)).value::<()>().unwrap_or_else(|_| "its source".to_owned());
                Source::Other(OtherSource { name: resource.id.clone(), kind })
            };
            invokers.push(Invoker { source, function });
        }
        // The serverless transform turns the events of a function into mappings.
        for function in self.functions() {
            for (name, event) in function.properties["Events"].as_object().into_iter().flatten() {
                if event["Type"] == "DynamoDB" {
                    let mut properties = event["Properties"].clone();
                    properties["EventSourceArn"] = properties["Stream"].take();
                    let mapping = self.mapping(format!("{}{name}", function.id), &properties);
                    invokers.push(Invoker { source: Source::Stream(Box::new(mapping)), function: Some(function) });
                }
            }
        }
        invokers
    }
}

impl Resources {
    /// What calls the worker by itself and sends neither a batch nor a task: events of the serverless transform, services with a permission,
    /// and URLs.
    fn other_callers(&self, worker: &Resource) -> Vec<OtherSource> {
        let mut others = Vec::new();
        for (name, event) in worker.properties["Events"].as_object().into_iter().flatten() {
            let kind = event["Type"].as_str().filter(|kind| !EVENTS_OF_TASKS.contains(kind));
            others.extend(kind.map(|kind| OtherSource { name: format!("{}{name}", worker.id), kind: kind.to_lowercase() }));
        }
        if !worker.properties["FunctionUrlConfig"].is_null() {
            others.push(OtherSource { name: format!("{}Url", worker.id), kind: "a URL".to_owned() });
        }
        let is_worker = |name: &Json| {
            let function = name.as_str().map(|name| self.function(name));
            matches!(function, Some(Ok(Some(function))) if function.id == worker.id)
        };
        for resource in self.of_kind(&["AWS::Lambda::Permission", "AWS::Lambda::Url"]) {
            let properties = &resource.properties;
            let kind = if resource.kind == "AWS::Lambda::Url" {
                is_worker(&properties["TargetFunctionArn"]).then(|| "a URL".to_owned())
            } else {
                let service = properties["Principal"].as_str().and_then(|principal| principal.strip_suffix(".amazonaws.com"));
                let service = service.filter(|service| !SERVICES_WITH_TASKS.contains(service));
                service.filter(|_| is_worker(&properties["FunctionName"])).map(str::to_owned)
            };
            others.extend(kind.map(|kind| OtherSource { name: resource.id.clone(), kind }));
        }
        others
    }
}

fn worker<'a>(resources: &'a Resources, invokers: &[Invoker<'a>], wanted: Option<&str>) -> Result<&'a Resource, Unusable> {
    if let Some(wanted) = wanted {
        // A logical id, also that of an alias or a version; or a name.
        let by_id = resources.function(&format!("${{{wanted}}}")).unwrap_or_default();
        let found = by_id.or_else(|| resources.function(wanted).unwrap_or_default());
        return found.ok_or_else(|| Unusable(format!("has no function `{wanted}`")));
    }
    let parks = |function: &&Resource| function.function().variable(PARKED_VAR) != Setting::Unset;
    let streams = invokers.iter().filter(|invoker| matches!(invoker.source, Source::Stream(_)));
    let mut invoked: Vec<&Resource> = streams.filter_map(|invoker| invoker.function).collect();
    invoked.sort_by_key(|function| &function.id);
    invoked.dedup_by_key(|function| &function.id);
    let among = if invoked.is_empty() { resources.functions().collect() } else { invoked.clone() };
    let parking: Vec<&Resource> = among.into_iter().filter(parks).collect();
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
        FUNCTIONS.contains(&self.kind.as_str())
    }

    /// Whether this is its name. CloudFormation makes up a name of the stack's, the function's and a random one.
    fn has_name(&self, name: &str) -> bool {
        match &self.properties["FunctionName"] {
            Json::String(own) => own == name,
            Json::Null => name.contains(&format!("-{}-", self.id)),
            _ => false,
        }
    }

    /// Whether the serverless transform makes an alias or a version of it with this logical id.
    fn has_generated(&self, id: &str) -> bool {
        let rest = id.strip_prefix(self.id.as_str()).filter(|_| !self.properties["AutoPublishAlias"].is_null());
        rest.is_some_and(|rest| rest.starts_with("Alias") || rest.starts_with("Version"))
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
            reserved_concurrency: of.integer("ReservedConcurrentExecutions"),
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
        let definitions = &self.properties["AttributeDefinitions"];
        Table {
            name: self.id.clone(),
            keys: of.at(&["KeySchema"]).try_map(|schema| keys(schema, definitions)),
            indexes: of
                .at(&["GlobalSecondaryIndexes"])
                .try_map(|indexes| indexes.as_array().into_iter().flatten().map(|of| index(of, definitions)).collect()),
            fixed_name: of.at(&["TableName"]).try_map(text),
            replicas: of.at(&["Replicas"]).try_map(|replicas| {
                let replicas = replicas.as_array().ok_or_else(|| "is not a list".to_owned())?;
                Ok(replicas.iter().map(region_in).collect())
            }),
            consistent_replicas: of.at(&["MultiRegionConsistency"]).try_map(|consistency| Ok(consistency == "STRONG")),
            stream_view: of.at(&["StreamSpecification", "StreamViewType"]).try_map(text),
            stream: Setting::Value(format!("${{{}.StreamArn}}", self.id)),
            point_in_time_recovery: protected(&["PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled"]),
            deletion_protection: protected(&["DeletionProtectionEnabled"]),
            time_to_live: of.at(&["TimeToLiveSpecification", "Enabled"]).try_map(boolean),
        }
    }
}

impl Resources {
    fn mapping(&self, name: String, properties: &Json) -> Mapping {
        let of = Properties(properties);
        let enabled = of.at(&["Enabled"]).try_map(boolean);
        Mapping {
            name,
            stream: of.at(&["EventSourceArn"]).try_map(text).try_map(|stream| match referred(&stream).map(|id| (id, self.0.get(id))) {
                // An output of a nested stack, or an attribute of a custom resource.
                Some((id, Some(resource))) if !resource.kind.starts_with("AWS::") || resource.kind.starts_with("AWS::CloudFormation::") => {
                    Err(format!("what {id} returns cannot be determined from the template alone"))
                }
                _ => Ok(stream),
            }),
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
            on_failure: of.at(&["DestinationConfig", "OnFailure", "Destination"]).try_map(text).try_map(|arn| self.service_in(&arn)),
            metrics: of.at(&["MetricsConfig", "Metrics"]).try_map(texts),
        }
    }

    /// The service in an ARN, or in the ARN that a resource will have.
    fn service_in(&self, arn: &str) -> Result<String, String> {
        match referred(arn).and_then(|id| self.0.get(id)) {
            Some(resource) => Ok(resource.kind.split("::").nth(1).unwrap_or_default().to_lowercase()),
            // References contain colons, too, and do not matter here.
            None => service_of(&without_references(arn)),
        }
    }

    /// The table with this name or ARN.
    fn table(&self, name: &str) -> Setting<Table> {
        let name = name.split_once(":table/").map_or(name, |(_, name)| name);
        let of = |id: &str| self.0.get(id).filter(|resource| TABLES.contains(&resource.kind.as_str()));
        let named = || self.of_kind(&TABLES).find(|table| table.properties["TableName"] == name);
        match referred(name).and_then(of).or_else(named) {
            Some(resource) => {
                let mut table = resource.table();
                // The AWS CDK's former way to replicate a table.
                let replicas = self.of_kind(&["Custom::DynamoDBReplica"]).filter(|replica| {
                    let of = replica.properties["TableName"].as_str();
                    of.is_some_and(|of| referred(of) == Some(resource.id.as_str()) || resource.properties["TableName"] == of)
                });
                let regions: Vec<_> = replicas.map(region_of).collect();
                if !regions.is_empty() {
                    table.replicas = Setting::Value(["its own".to_owned()].into_iter().chain(regions).collect());
                }
                Setting::Value(table)
            }
            None => Setting::Unseen("the table is not in this template".to_owned()),
        }
    }

    /// The name of the table whose stream has this ARN.
    fn table_of_stream(&self, stream: &str) -> Option<String> {
        let name = table_of_stream(stream).or_else(|| stream.ends_with(".StreamArn}").then_some(stream))?;
        matches!(self.table(name), Setting::Value(_)).then(|| name.to_owned())
    }

    fn alarms(&self, worker: &Resource, mappings: &[Mapping], tables: &[(Role, Setting<Table>)]) -> Vec<Alarm> {
        let target = |value: &str| {
            let Some(id) = referred(value) else {
                let is_table =
                    |table: &Setting<Table>| matches!(table, Setting::Value(table) if table.fixed_name == Setting::Value(value.to_owned()));
                return if worker.properties["FunctionName"] == value {
                    Target::Worker
                } else if tables.iter().any(|(_, table)| is_table(table)) {
                    Target::Table
                } else {
                    Target::Other
                };
            };
            let is_table = tables.iter().any(|(_, table)| matches!(table, Setting::Value(table) if table.name == id));
            let attribute = value.trim_end_matches('}').split_once('.').map(|(_, attribute)| attribute);
            match attribute {
                None if id == worker.id => Target::Worker,
                None | Some("Id") if mappings.iter().any(|mapping| mapping.name == id) => Target::Mapping(id.to_owned()),
                None if is_table => Target::Table,
                Some(attribute)
                    if attribute.ends_with("Arn") && (id == worker.id || is_table || mappings.iter().any(|of| of.name == id)) =>
                {
                    Target::ByArn
                }
                _ => Target::Other,
            }
        };
        let mut alarms: Vec<_> = self.of_kind(&["AWS::CloudWatch::Alarm"]).map(|resource| alarm(resource, &target)).collect();
        if self.of_kind(&["AWS::CloudWatch::CompositeAlarm"]).next().is_some() {
            for alarm in &mut alarms {
                alarm.actions_enabled = Setting::Unseen("a composite alarm may act in its place".to_owned());
            }
        }
        alarms
    }
}

impl Resources {
    /// What sends ticks to a function of this template, which may be another one than the worker with the same program.
    fn ticks(&self, worker: &Resource) -> Setting<Ticks> {
        let (mut ticks, mut unseen) = (Vec::new(), None);
        let mut add = |name: String, function: Option<&str>, input: &Json, expression: Setting<&Json>, enabled: Setting<bool>| {
            let input = match known(input).and_then(|input| if input.is_null() { Ok(String::new()) } else { text(input) }) {
                Ok(input) => input,
                Err(why) => {
                    unseen.get_or_insert(format!("{name}.Input: {why}"));
                    return;
                }
            };
            let is_tick = serde_json::from_str::<Json>(&input).is_ok_and(|input| input.get(TICK).is_some());
            if is_tick {
                let expression = expression.try_map(text);
                ticks.push(Schedule { name, invokes_worker: function == Some(&*worker.id), expression, enabled, input });
            }
        };
        // One that is not named, or not to be determined, may run the program elsewhere.
        let of = |arn: &Json| arn.as_str().and_then(|arn| self.function(arn).ok().flatten()).map(|function| function.id.as_str());
        let enabled = |properties: &Json| Properties(properties).at(&["State"]).try_map(text).try_map(|state| Ok(state != "DISABLED"));
        for Resource { id, properties, .. } in self.of_kind(&["AWS::Scheduler::Schedule"]) {
            let (target, expression) = (&properties["Target"], Properties(properties).at(&["ScheduleExpression"]));
            add(id.clone(), of(&target["Arn"]), &target["Input"], expression, enabled(properties));
        }
        for Resource { id, properties, .. } in self.of_kind(&["AWS::Events::Rule"]) {
            for target in properties["Targets"].as_array().into_iter().flatten() {
                let expression = Properties(properties).at(&["ScheduleExpression"]);
                add(id.clone(), of(&target["Arn"]), &target["Input"], expression, enabled(properties));
            }
        }
        for function in self.functions() {
            for (name, event) in function.properties["Events"].as_object().into_iter().flatten() {
                let (kind, properties) = (event["Type"].as_str().unwrap_or_default(), &event["Properties"]);
                let expression = match kind {
                    "Schedule" => "Schedule",
                    "ScheduleV2" => "ScheduleExpression",
                    _ => continue,
                };
                let state = match Properties(properties).at(&["Enabled"]).try_map(boolean) {
                    Setting::Unset => enabled(properties),
                    given => given,
                };
                let expression = Properties(properties).at(&[expression]);
                add(format!("{}{name}", function.id), Some(&function.id), &properties["Input"], expression, state);
            }
        }
        match unseen {
            Some(why) if ticks.is_empty() => Setting::Unseen(why),
            _ => Setting::Value(Ticks::Sent(ticks)),
        }
    }

    /// What of the deeds of processes the worker's role allows.
    fn allowed(&self, worker: &Resource, tables: &[(Role, Setting<Table>)]) -> Setting<BTreeSet<Deed>> {
        let policies = match &worker.properties["Role"] {
            Json::Null => self.policies_of_transform(&worker.properties["Policies"]),
            role => match role.as_str().and_then(referred).and_then(|id| self.0.get(id)).filter(|role| role.kind == "AWS::IAM::Role") {
                Some(role) => self.policies_of(role),
                None => return Setting::Unseen("the role is not in this template".to_owned()),
            },
        };
        let mut wanted = Vec::new();
        for deed in Deed::ALL {
            let of_deed = |role: Role| match role {
                Role::EventStore => deed.index().is_none(),
                Role::ReadModel(rule) => deed.index().is_some() && rule.name() == ProcessStatus::NAME,
                Role::Parked => false,
            };
            let Some((_, table)) = tables.iter().find(|(role, _)| of_deed(*role)) else { continue };
            let (reference, name) = match table {
                Setting::Value(table) => (format!("${{{}.Arn}}", table.name), &table.fixed_name),
                Setting::Unset => return Setting::Unseen("its tables are not known".to_owned()),
                Setting::Unseen(why) => return Setting::Unseen(why.clone()),
            };
            let index = deed.index().map_or(String::new(), |index| format!("/index/{index}"));
            let by_reference = reference.replace(".Arn}", "}");
            let names = [Some(&by_reference), if let Setting::Value(name) = name { Some(name) } else { None }];
            let ends = names.into_iter().flatten().map(|name| format!("table/{name}{index}")).collect();
            wanted.push((deed, deed.action(), policies::Target { reference: reference + &index, ends }));
        }
        policies.allowed(&wanted)
    }

    fn policies_of(&self, role: &Resource) -> Policies {
        let mut policies = Policies::default();
        for policy in role.properties["Policies"].as_array().into_iter().flatten() {
            policies.add(&policy["PolicyDocument"]);
        }
        for policy in role.properties["ManagedPolicyArns"].as_array().into_iter().flatten() {
            self.add_managed(&mut policies, policy);
        }
        if [&role.properties["Policies"], &role.properties["ManagedPolicyArns"]].into_iter().any(|value| function_in(value).is_some()) {
            policies.add_unknown();
        }
        for attached in self.of_kind(&["AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy"]) {
            let named = &attached.properties["RoleName"];
            let roles = attached.properties["Roles"].as_array().into_iter().flatten().chain([named]);
            let is_role = |name: &str| referred(name) == Some(&role.id) || role.properties["RoleName"] == name;
            if roles.filter_map(Json::as_str).any(is_role) {
                policies.add(&attached.properties["PolicyDocument"]);
            }
        }
        policies
    }

    /// The policies of a function for which the serverless transform makes a role.
    fn policies_of_transform(&self, written: &Json) -> Policies {
        let mut policies = Policies::default();
        let several = written.as_array().map_or_else(|| std::slice::from_ref(written), Vec::as_slice);
        for policy in several {
            match policy.as_object() {
                Some(document) if document.contains_key("Statement") => policies.add(policy),
                Some(template) if function_in(policy).is_none() => {
                    template.iter().for_each(|(name, parameters)| policies.add_of_transform(name, parameters));
                }
                Some(_) => policies.add_unknown(),
                None if policy.is_null() => {}
                None => self.add_managed(&mut policies, policy),
            }
        }
        policies
    }

    fn add_managed(&self, policies: &mut Policies, policy: &Json) {
        match policy.as_str().and_then(referred).and_then(|id| self.0.get(id)) {
            Some(managed) if managed.kind == "AWS::IAM::ManagedPolicy" => policies.add(&managed.properties["PolicyDocument"]),
            _ => policies.add_named(policy),
        }
    }
}

fn region_of(replica: &Resource) -> String {
    region_in(&replica.properties)
}

fn region_in(replica: &Json) -> String {
    replica["Region"].as_str().map_or_else(|| "another".to_owned(), str::to_owned)
}

fn alarm(resource: &Resource, target: &dyn Fn(&str) -> Target) -> Alarm {
    let of = Properties(&resource.properties);
    let watched = match of.at(&["Metrics"]) {
        Setting::Value(Json::Array(parts)) => parts.iter().map(|part| watched(part, target)).collect::<Result<_, _>>(),
        Setting::Value(_) => Err("Metrics is not a list".to_owned()),
        Setting::Unseen(why) => Err(why),
        Setting::Unset => metric(&resource.properties, &resource.properties, "Statistic", target)
            .map(|metric| vec![Watched { id: String::new(), returned: true, expression: None, metric: Some(metric) }]),
    };
    Alarm {
        name: resource.id.clone(),
        actions_enabled: of.at(&["ActionsEnabled"]).try_map(boolean),
        comparison: of.at(&["ComparisonOperator"]).try_map(text),
        threshold: of.at(&["Threshold"]).try_map(|value| {
            let number = text_of(value).and_then(|text| text.trim().parse().ok());
            number.ok_or_else(|| "is not a number".to_owned())
        }),
        periods: of.integer("EvaluationPeriods"),
        datapoints: of.integer("DatapointsToAlarm"),
        missing: of.at(&["TreatMissingData"]).try_map(text),
        watched: watched.into(),
    }
}

fn watched(part: &Json, target: &dyn Fn(&str) -> Target) -> Result<Watched, String> {
    let of = Properties(part);
    let expression = match of.at(&["Expression"]) {
        Setting::Value(expression) => Some(text(expression)?),
        Setting::Unset => None,
        Setting::Unseen(why) => return Err(why),
    };
    let metric = match &part["MetricStat"] {
        Json::Null => None,
        stat => Some(metric(&stat["Metric"], stat, "Stat", target)?),
    };
    let returned = !matches!(of.at(&["ReturnData"]).try_map(boolean), Setting::Value(false));
    Ok(Watched { id: text(known(&part["Id"])?)?, returned, expression, metric })
}

/// A metric, with its statistic and period, which `stat` has.
fn metric(metric: &Json, stat: &Json, statistic: &str, target: &dyn Fn(&str) -> Target) -> Result<Metric, String> {
    let dimension = |dimension: &Json| {
        let value = text(known(&dimension["Value"])?)?;
        Ok(Dimension { name: text(known(&dimension["Name"])?)?, target: target(&value), value })
    };
    let dimensions = match known(&metric["Dimensions"])? {
        Json::Array(dimensions) => dimensions.iter().map(dimension).collect::<Result<_, String>>()?,
        _ => Vec::new(),
    };
    let stat = Properties(stat);
    Ok(Metric {
        namespace: text(known(&metric["Namespace"])?)?,
        name: text(known(&metric["MetricName"])?)?,
        dimensions,
        statistic: stat.at(&[statistic]).try_map(text),
        period_s: stat.integer("Period"),
    })
}

fn index(index: &Json, definitions: &Json) -> Result<(String, Index), String> {
    let name = text(known(&index["IndexName"])?)?;
    let projection = text(known(&index["Projection"]["ProjectionType"])?)?;
    let include = match &index["Projection"]["NonKeyAttributes"] {
        Json::Null => Vec::new(),
        names => texts(names)?,
    };
    Ok((name, Index { keys: keys(&index["KeySchema"], definitions)?, projection, include }))
}

fn keys(schema: &Json, definitions: &Json) -> Result<Keys, String> {
    let schema = schema.as_array().ok_or_else(|| "is not a list".to_owned())?;
    let of_kind = |kind: &str| -> Result<Vec<Key>, String> {
        let keys = schema.iter().filter(|key| key["KeyType"] == kind);
        keys.map(|key| Ok(key_of(text(known(&key["AttributeName"])?)?, definitions))).collect()
    };
    let keys = Keys { partition: of_kind("HASH")?, sort: of_kind("RANGE")? };
    if keys.partition.is_empty() { Err("has no HASH key".to_owned()) } else { Ok(keys) }
}

/// An attribute with its type, if a definition says one that can be read.
fn key_of(name: String, definitions: &Json) -> Key {
    let defined = definitions.as_array().into_iter().flatten().find(|definition| definition["AttributeName"] == *name);
    let kind = defined.and_then(|definition| definition["AttributeType"].as_str()).map(str::to_owned);
    Key { name, kind }
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

/// The parts of a text between colons; a reference has colons of its own.
fn parts_of(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
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
