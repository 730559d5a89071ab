//! Opens the store that the command line names.

use anyhow::Context as _;
use projection_vocabulary::{DynProjection, Registry};

use super::{Context, EXIT_OK, StoreOptions, format::Format, pretty_json};
use crate::{
    clients,
    embedded::Embedded,
    store::{Store, TableNames},
};

/// Opens the store. A DynamoDB inside this process gets the missing tables at once.
pub async fn open(options: &StoreOptions, registry: Registry) -> anyhow::Result<Store> {
    let store = open_as_it_is(options, names(options, registry)?).await?;
    if !options.is_remote() {
        store.create_tables(registry).await?;
    }
    Ok(store)
}

/// The same with a projection's rows in another table, created if it is missing. Returns whether it was.
pub async fn open_with_table(
    options: &StoreOptions,
    registry: Registry,
    rule: &'static dyn DynProjection,
    table: &str,
) -> anyhow::Result<(Store, bool)> {
    let names = names(options, registry)?.with_table(rule.name(), table).map_err(anyhow::Error::msg)?;
    let store = open_as_it_is(options, names).await?;
    let created = store.create_table_of(rule).await?;
    if !options.is_remote() {
        store.create_tables(registry).await?;
    }
    Ok((store, created))
}

/// The same with a client of its streams, for a store that existed before this process.
pub async fn open_with_streams(options: &StoreOptions, registry: Registry) -> anyhow::Result<(Store, aws_sdk_dynamodbstreams::Client)> {
    let names = names(options, registry)?;
    if options.aws {
        return Ok((Store::new(clients::of_credential_chain().await, names), clients::streams_of_credential_chain().await));
    }
    if let Some(url) = &options.endpoint_url {
        let store = Store::new(clients::of_endpoint(url).map_err(anyhow::Error::msg)?, names);
        return Ok((store, clients::streams_of_endpoint(url).map_err(anyhow::Error::msg)?));
    }
    let path = options.data.as_ref().context("name the store whose stream to capture: --data, --endpoint-url or --aws")?;
    let embedded = Embedded::file(path)?;
    Ok((Store::new(embedded.client(), names), embedded.streams_client()))
}

/// The DynamoDB inside this process, with the missing tables created.
pub async fn open_embedded(options: &StoreOptions, registry: Registry) -> anyhow::Result<Embedded> {
    let embedded = embedded(options)?;
    Store::new(embedded.client(), names(options, registry)?).create_tables(registry).await?;
    Ok(embedded)
}

/// The name of a projection's table.
pub fn table_of(options: &StoreOptions, registry: Registry, rule: &dyn DynProjection) -> anyhow::Result<String> {
    Ok(names(options, registry)?.projections[rule.name()].clone())
}

fn names(options: &StoreOptions, registry: Registry) -> anyhow::Result<TableNames> {
    let var = |name: &str| std::env::var(name).ok();
    if options.aws {
        return TableNames::from_env(registry, var).map_err(anyhow::Error::msg).context("with --aws the environment names the tables");
    }
    Ok(TableNames::from_env_or_default(registry, var))
}

async fn open_as_it_is(options: &StoreOptions, names: TableNames) -> anyhow::Result<Store> {
    if options.aws {
        return Ok(Store::new(clients::of_credential_chain().await, names));
    }
    if let Some(url) = &options.endpoint_url {
        return Ok(Store::new(clients::of_endpoint(url).map_err(anyhow::Error::msg)?, names));
    }
    Ok(Store::new(embedded(options)?.client(), names))
}

fn embedded(options: &StoreOptions) -> anyhow::Result<Embedded> {
    Ok(match &options.data {
        Some(path) => Embedded::file(path)?,
        None => Embedded::memory()?,
    })
}

/// `tables create`
pub async fn create_tables(format: Format, cx: &mut Context) -> anyhow::Result<u8> {
    let store = open_as_it_is(&cx.store, names(&cx.store, cx.registry)?).await?;
    let created = store.create_tables(cx.registry).await?;
    if format.is_json() {
        cx.out.line(pretty_json::line(&serde_json::json!({ "created": created }))?);
    } else if created.is_empty() {
        cx.out.line("all tables exist");
    } else {
        for name in &created {
            cx.out.line(format_args!("created {name}"));
        }
    }
    Ok(EXIT_OK)
}
