//! A deployment as AWS describes it. The one user of `aws-sdk-lambda`.
//!
//! It needs permission for `lambda:GetFunctionConfiguration` and `lambda:ListEventSourceMappings`, and should have
//! `lambda:GetFunctionConcurrency` and for each table `dynamodb:DescribeTable`, `dynamodb:DescribeTimeToLive` and
//! `dynamodb:DescribeContinuousBackups`, and for processes `dynamodb:Query` on the index of timers. Without one of these, the settings it would show are unseen; the rest is still checked.

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::describe_table::DescribeTableError,
    types::{PointInTimeRecoveryStatus, TableDescription, TimeToLiveStatus},
};
use aws_sdk_lambda::{operation::get_function_configuration::GetFunctionConfigurationOutput, types::EventSourceMappingConfiguration};
use projection_vocabulary::{DynProjection, Projection as _, Registry, Timestamp, process::ProcessStatus};

use super::{
    Deployment, Function, Index, Keys, Mapping, OtherSource, Role, Setting, Table, Ticks, Unusable, processes::OVERDUE_MS, service_of,
    tables::table_of_stream,
};
use crate::{clients::class, store};

/// Reads a function, its event source mappings and its tables.
///
/// # Errors
/// The function or its mappings cannot be read.
pub async fn read(
    lambda: &aws_sdk_lambda::Client,
    dynamodb: &aws_sdk_dynamodb::Client,
    function: &str,
    registry: Registry,
) -> Result<Deployment, Unusable> {
    let configuration = lambda.get_function_configuration().function_name(function).send().await;
    let configuration = configuration.map_err(|error| unreadable("GetFunctionConfiguration", function, class(&error)))?;
    let arn = configuration.function_arn().unwrap_or(function).to_owned();
    let (mut mappings, other_sources) = mappings(lambda, &arn, function).await?;
    let mut function = function_of(configuration, function);
    function.reserved_concurrency = reserved_concurrency(lambda, &function.name).await;
    let mut tables = Vec::new();
    for (role, name) in function.tables(registry, &mappings, |stream| table_of_stream(stream).map(str::to_owned)) {
        let table = match name.value() {
            Ok(name) => table(dynamodb, &name).await,
            Err(without_name) => without_name,
        };
        if let (Role::EventStore, Setting::Value(Table { stream: Setting::Value(stream), .. })) = (role, &table) {
            of_qualified(lambda, stream, &arn, &mut mappings).await;
        }
        tables.push((role, table));
    }
    let status = tables.iter().find(|(role, _)| matches!(role, Role::ReadModel(rule) if rule.name() == ProcessStatus::NAME));
    let ticks = match status {
        Some((_, Setting::Value(table))) => overdue(dynamodb, &table.name, registry).await,
        // That is a finding already.
        Some((_, Setting::Unset)) | None => Setting::Unset,
        Some((_, Setting::Unseen(why))) => Setting::Unseen(why.clone()),
    };
    let of_template = || "only those of a template are checked".to_owned();
    let (alarms, allowed) = (Setting::Unseen(of_template()), Setting::Unseen(format!("its policies are not read: {}", of_template())));
    Ok(Deployment { mappings, other_sources, function, tables, alarms, ticks, allowed })
}

/// Timers that should have run out long ago: nobody ticks, whatever schedules there are.
async fn overdue(dynamodb: &aws_sdk_dynamodb::Client, table: &str, registry: Registry) -> Setting<Ticks> {
    let index = ProcessStatus::TIMERS.index();
    let (partition, sort) = (index.partition[0].attribute(), index.sort[0].attribute());
    let Some(latest) = Timestamp::from_epoch_ms(store::now().epoch_ms() - OVERDUE_MS) else { return Setting::Unset };
    let mut timers = Vec::new();
    for process in registry.processes().map(DynProjection::name) {
        let query = dynamodb.query().table_name(table).index_name(index.name).limit(1);
        let query = query.key_condition_expression("#process = :process AND #due <= :latest");
        let query = query.expression_attribute_names("#process", partition).expression_attribute_names("#due", sort);
        let query = query.expression_attribute_values(":process", AttributeValue::S(process.to_owned()));
        match query.expression_attribute_values(":latest", AttributeValue::S(latest.to_string())).send().await {
            Ok(page) => {
                let first = page.items.unwrap_or_default().into_iter().next();
                let due = first.and_then(|mut timer| timer.remove(sort)?.as_s().ok().cloned());
                timers.extend(due.map(|due| (process.to_owned(), due)));
            }
            Err(error) => return unseen("Query of timers", &error),
        }
    }
    Setting::Value(Ticks::Overdue(timers))
}

/// Those that read the stream and invoke an alias or a version of the function. Lambda lists them neither for the function nor for another
/// qualifier. If the stream's mappings cannot be listed, those of the function have to do.
async fn of_qualified(lambda: &aws_sdk_lambda::Client, stream: &str, arn: &str, mappings: &mut Vec<Mapping>) {
    let mut pages = lambda.list_event_source_mappings().event_source_arn(stream).into_paginator().send();
    while let Some(Ok(page)) = pages.next().await {
        for found in page.event_source_mappings.into_iter().flatten() {
            let of_function = found.function_arn.as_deref().is_some_and(|of| unqualified(of) == unqualified(arn));
            let known = mappings.iter().any(|known| found.uuid.as_deref() == Some(known.name.as_str()));
            if of_function && !known {
                mappings.push(mapping(found));
            }
        }
    }
}

/// The ARN of a function without its version or alias: `arn:aws:lambda:REGION:ACCOUNT:function:NAME`.
fn unqualified(arn: &str) -> &str {
    arn.match_indices(':').nth(6).map_or(arn, |(at, _)| &arn[..at])
}

async fn reserved_concurrency(lambda: &aws_sdk_lambda::Client, function: &str) -> Setting<i64> {
    match lambda.get_function_concurrency().function_name(function).send().await {
        Ok(of) => of.reserved_concurrent_executions.map(i64::from).into(),
        Err(error) => Setting::Unseen(format!("GetFunctionConcurrency failed ({})", class(&error))),
    }
}

fn unreadable(operation: &str, function: &str, why: &str) -> Unusable {
    Unusable(format!("{operation} of `{function}` failed ({why})"))
}

/// The mappings from DynamoDB streams to the function with this ARN, and those from other sources.
async fn mappings(lambda: &aws_sdk_lambda::Client, arn: &str, function: &str) -> Result<(Vec<Mapping>, Vec<OtherSource>), Unusable> {
    let mut mappings = Vec::new();
    let mut pages = lambda.list_event_source_mappings().function_name(arn).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| unreadable("ListEventSourceMappings", function, class(&error)))?;
        mappings.extend(page.event_source_mappings.into_iter().flatten().map(mapping));
    }
    let (mappings, others): (Vec<_>, Vec<_>) = mappings.into_iter().partition(Mapping::is_of_dynamodb);
    let other = |mapping: Mapping| {
        let service = mapping.stream.try_map(|arn| service_of(&arn)).value::<()>();
        OtherSource { name: mapping.name, kind: service.unwrap_or_else(|_| "its source".to_owned()) }
    };
    Ok((mappings, others.into_iter().map(other).collect()))
}

fn function_of(configuration: GetFunctionConfigurationOutput, name: &str) -> Function {
    let variables = configuration.environment.map_or_else(Setting::default, |environment| match environment.error {
        // They are encrypted, and the caller has no access to the key.
        Some(error) => Setting::Unseen(format!("Lambda does not show them ({})", error.error_code.unwrap_or_default())),
        None => environment.variables.map(|of| of.into_iter().map(|(name, value)| (name, Setting::Value(value))).collect()).into(),
    });
    let logging = configuration.logging_config;
    Function {
        name: configuration.function_name.unwrap_or_else(|| name.to_owned()),
        timeout_s: configuration.timeout.map(i64::from).into(),
        memory_mb: configuration.memory_size.map(i64::from).into(),
        variables,
        log_level: logging.and_then(|logging| logging.application_log_level).map(|level| level.as_str().to_owned()).into(),
        reserved_concurrency: Setting::Unset,
    }
}

fn mapping(of: EventSourceMappingConfiguration) -> Mapping {
    let seconds = |seconds: Option<i32>| Setting::from(seconds.map(i64::from));
    let filters = of.filter_criteria.and_then(|criteria| criteria.filters);
    let patterns = filters.map(|filters| filters.into_iter().filter_map(|filter| filter.pattern).collect());
    let filters = match of.filter_criteria_error.and_then(|error| error.error_code) {
        // They are encrypted, and the caller has no access to the key.
        Some(error) => Setting::Unseen(format!("Lambda does not show it ({error})")),
        None => patterns.into(),
    };
    let destination = of.destination_config.and_then(|to| to.on_failure).and_then(|to| to.destination).filter(|arn| !arn.is_empty());
    Mapping {
        name: of.uuid.unwrap_or_default(),
        stream: of.event_source_arn.into(),
        state: of.state.into(),
        last_result: of.last_processing_result.into(),
        starting_position: of.starting_position.map(|position| position.as_str().to_owned()).into(),
        batch_size: of.batch_size.map(i64::from).into(),
        batching_window_s: seconds(of.maximum_batching_window_in_seconds),
        tumbling_window_s: seconds(of.tumbling_window_in_seconds),
        parallelization: of.parallelization_factor.map(i64::from).into(),
        retries_max: of.maximum_retry_attempts.map(i64::from).into(),
        record_age_max_s: seconds(of.maximum_record_age_in_seconds),
        bisect: of.bisect_batch_on_function_error.into(),
        response_types: of.function_response_types.map(|types| types.iter().map(|kind| kind.as_str().to_owned()).collect()).into(),
        filters,
        on_failure: Setting::from(destination).try_map(|arn| service_of(&arn)),
        // Of use to alarms only.
        metrics: Setting::Unseen("only those of a template are checked".to_owned()),
    }
}

async fn table(dynamodb: &aws_sdk_dynamodb::Client, name: &str) -> Setting<Table> {
    let described = match dynamodb.describe_table().table_name(name).send().await {
        Ok(described) => described.table.unwrap_or_else(|| TableDescription::builder().build()),
        Err(error) if error.as_service_error().is_some_and(DescribeTableError::is_resource_not_found_exception) => return Setting::Unset,
        Err(error) => return unseen("DescribeTable", &error),
    };
    let time_to_live = match dynamodb.describe_time_to_live().table_name(name).send().await {
        Ok(described) => {
            let status = described.time_to_live_description.and_then(|of| of.time_to_live_status);
            status.map(|status| [TimeToLiveStatus::Enabled, TimeToLiveStatus::Enabling].contains(&status)).into()
        }
        Err(error) => unseen("DescribeTimeToLive", &error),
    };
    let point_in_time_recovery = match dynamodb.describe_continuous_backups().table_name(name).send().await {
        Ok(described) => {
            let of = described.continuous_backups_description.and_then(|of| of.point_in_time_recovery_description);
            of.and_then(|of| of.point_in_time_recovery_status).map(|status| status == PointInTimeRecoveryStatus::Enabled).into()
        }
        Err(error) => unseen("DescribeContinuousBackups", &error),
    };
    let definitions = described.attribute_definitions.unwrap_or_default();
    let indexes = described.global_secondary_indexes.unwrap_or_default().into_iter().filter_map(|index| {
        let projection = index.projection?;
        let kind = projection.projection_type?.as_str().to_owned();
        let keys = Keys::of(&index.key_schema?, &definitions)?;
        Some((index.index_name?, Index { keys, projection: kind, include: projection.non_key_attributes.unwrap_or_default() }))
    });
    let stream = described.stream_specification.filter(|stream| stream.stream_enabled);
    Setting::Value(Table {
        name: name.to_owned(),
        keys: described.key_schema.and_then(|schema| Keys::of(&schema, &definitions)).into(),
        indexes: Setting::Value(indexes.collect()),
        fixed_name: Setting::Value(name.to_owned()),
        replicas: described
            .replicas
            .filter(|replicas| !replicas.is_empty())
            .map(|replicas| {
                // Those beside the one that was asked.
                let others = replicas.into_iter().filter_map(|replica| replica.region_name);
                ["its own".to_owned()].into_iter().chain(others).collect()
            })
            .into(),
        consistent_replicas: described.multi_region_consistency.map(|consistency| consistency.as_str() == "STRONG").into(),
        stream_view: stream.and_then(|stream| stream.stream_view_type).map(|view| view.as_str().to_owned()).into(),
        stream: described.latest_stream_arn.into(),
        point_in_time_recovery,
        deletion_protection: described.deletion_protection_enabled.into(),
        time_to_live,
    })
}

fn unseen<T, E: ProvideErrorMetadata>(operation: &str, error: &SdkError<E>) -> Setting<T> {
    Setting::Unseen(format!("{operation} failed ({})", class(error)))
}
