//! The schemas of the worker's tables, and their creation.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata as _, SdkError},
    operation::{
        create_table::{CreateTableInput, builders::CreateTableInputBuilder},
        describe_table::{DescribeTableError, DescribeTableInput, DescribeTableOutput},
    },
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType, ScalarAttributeType,
        StreamSpecification, StreamViewType, TableStatus,
    },
};
use projection_vocabulary::{DynProjection, Index, IndexKey, Registry};

use super::{Store, StoreError, error::permanent};
use crate::retry::Deadline;

/// The event store's index by event type and time.
pub const BY_TYPE_INDEX: &str = "GSI1";
/// How long a new table may take to become active, and how often to check.
const ACTIVE_WITHIN: Duration = Duration::from_mins(2);
const CHECK_EVERY: Duration = Duration::from_secs(1);

impl Store {
    /// Creates the tables that are missing and waits until all are active. Returns the names of those created.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_tables(&self, registry: Registry) -> Result<Vec<String>, StoreError> {
        let mut created = Vec::new();
        self.create(&self.names.event_store, of_events(&self.names.event_store), &mut created).await?;
        self.create(&self.names.parked, of_parked(&self.names.parked), &mut created).await?;
        for rule in registry.projections() {
            let name = self.table_of(*rule);
            self.create(name, of_rows(*rule, name), &mut created).await?;
        }
        for name in &created {
            self.wait_until_active(name).await?;
        }
        Ok(created)
    }

    /// Creates the table of a rule's rows if it is missing, and waits until it is active. Returns whether it was missing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_table_of(&self, rule: &dyn DynProjection) -> Result<bool, StoreError> {
        let (name, mut created) = (self.table_of(rule), Vec::new());
        self.create(name, of_rows(rule, name), &mut created).await?;
        self.wait_until_active(name).await?;
        Ok(!created.is_empty())
    }

    /// The names of those of the tables that do not exist.
    ///
    /// # Errors
    /// [`StoreError`].
    #[cfg(feature = "cli")]
    pub async fn missing_tables(&self, registry: Registry) -> Result<Vec<String>, StoreError> {
        let rows = registry.projections().iter().map(|rule| self.table_of(*rule));
        let mut missing = Vec::new();
        for name in [self.names.event_store.as_str(), &self.names.parked].into_iter().chain(rows) {
            match self.describe(name).await.map_err(SdkError::into_service_error) {
                Ok(_) => {}
                Err(error) if error.is_resource_not_found_exception() => missing.push(name.to_owned()),
                Err(error) => return Err(permanent("DescribeTable", &error)),
            }
        }
        Ok(missing)
    }

    /// The approximate number of items in the event store, which DynamoDB updates about every six hours. `None` if it is unknown.
    /// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TableDescription.html>
    pub async fn event_store_items(&self) -> Option<u64> {
        let described = self.describe(&self.names.event_store).await.ok()?;
        described.table?.item_count.and_then(|count| u64::try_from(count).ok()).filter(|count| *count > 0)
    }

    /// The ARN of the event store's stream; `None` if it has none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn event_store_stream(&self) -> Result<Option<String>, StoreError> {
        let describe = || self.describe(&self.names.event_store);
        let described = self.send("DescribeTable of the event store", Deadline::NONE, describe).await?;
        Ok(described.table.and_then(|table| table.latest_stream_arn))
    }

    async fn describe(&self, table: &str) -> Result<DescribeTableOutput, SdkError<DescribeTableError>> {
        DescribeTableInput::builder().table_name(table).send_with(self.client()).await
    }

    fn client(&self) -> &Client {
        self.dynamo.client().expect("operators work on DynamoDB itself")
    }

    async fn create(&self, name: &str, table: CreateTableInputBuilder, created: &mut Vec<String>) -> Result<(), StoreError> {
        match table.send_with(self.client()).await.map_err(SdkError::into_service_error) {
            Ok(_) => created.push(name.to_owned()),
            Err(error) if error.is_resource_in_use_exception() => {}
            Err(error) => {
                tracing::info!(table = name, class = error.code(), "cannot create the table");
                return Err(permanent("CreateTable", &error));
            }
        }
        Ok(())
    }

    async fn wait_until_active(&self, name: &str) -> Result<(), StoreError> {
        let active = async {
            loop {
                let described = self.describe(name).await.map_err(|error| permanent("DescribeTable", &error.into_service_error()))?;
                if described.table.and_then(|table| table.table_status) == Some(TableStatus::Active) {
                    return Ok(());
                }
                tokio::time::sleep(CHECK_EVERY).await;
            }
        };
        let late = || StoreError::Transient { operation: "CreateTable", class: format!("`{name}` is not active yet") };
        tokio::time::timeout(ACTIVE_WITHIN, active).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The event store's table, with its stream and its index.
pub(crate) fn of_events(name: &str) -> CreateTableInputBuilder {
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewImage).build();
    let (partition, sort) = (IndexKey::Text("GSI1PK"), IndexKey::Text("GSI1SK"));
    let by_type = index(BY_TYPE_INDEX, &[partition], &[sort], ProjectionType::All, &[]);
    table(name, "PK", Some("SK"), &[partition, sort])
        .stream_specification(stream.expect("enabled is given"))
        .global_secondary_indexes(by_type)
}

/// The parking table.
pub(crate) fn of_parked(name: &str) -> CreateTableInputBuilder {
    table(name, "aggregateId", Some("projection"), &[])
}

/// The table of a rule's rows.
pub(crate) fn of_rows(rule: &dyn DynProjection, name: &str) -> CreateTableInputBuilder {
    let index_keys: Vec<_> = rule.indexes().iter().flat_map(|index| index.partition.iter().chain(index.sort)).copied().collect();
    let mut table = table(name, rule.key(), rule.children(), &index_keys);
    for Index { name, partition, sort, include } in rule.indexes() {
        let kind = if include.is_empty() { ProjectionType::KeysOnly } else { ProjectionType::Include };
        table = table.global_secondary_indexes(index(name, partition, sort, kind, include));
    }
    table
}

fn table(name: &str, partition: &'static str, sort: Option<&'static str>, index_keys: &[IndexKey]) -> CreateTableInputBuilder {
    let own = [partition].into_iter().chain(sort).map(IndexKey::Text);
    let types: BTreeMap<_, _> = own.clone().chain(index_keys.iter().copied()).map(|key| (key.attribute(), type_of(key))).collect();
    let definitions = types.into_iter().map(|(name, kind)| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().expect("name and type are given")
    });
    let own: Vec<_> = own.collect();
    CreateTableInput::builder()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(key_schema(&own[..1], &own[1..])))
        .set_attribute_definitions(Some(definitions.collect()))
}

fn type_of(key: IndexKey) -> ScalarAttributeType {
    match key {
        IndexKey::Text(_) => ScalarAttributeType::S,
        IndexKey::Number(_) => ScalarAttributeType::N,
    }
}

/// In the order in which DynamoDB compares them: partition keys, then sort keys.
fn key_schema(partition: &[IndexKey], sort: &[IndexKey]) -> Vec<KeySchemaElement> {
    let keys = partition.iter().map(|key| (key, KeyType::Hash)).chain(sort.iter().map(|key| (key, KeyType::Range)));
    keys.map(|(key, kind)| {
        KeySchemaElement::builder().attribute_name(key.attribute()).key_type(kind).build().expect("name and kind are given")
    })
    .collect()
}

fn index(name: &str, partition: &[IndexKey], sort: &[IndexKey], kind: ProjectionType, include: &[&str]) -> GlobalSecondaryIndex {
    let include = (!include.is_empty()).then(|| include.iter().map(ToString::to_string).collect());
    GlobalSecondaryIndex::builder()
        .index_name(name)
        .set_key_schema(Some(key_schema(partition, sort)))
        .projection(Projection::builder().projection_type(kind).set_non_key_attributes(include).build())
        .build()
        .expect("name and keys are given")
}
