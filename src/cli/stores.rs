//! The store that the command line works on.

use anyhow::Context as _;
use projection_vocabulary::{DynProjection, Registry};

use super::{EXIT_OK, StoreOptions};
use crate::{
    clients,
    embedded::Embedded,
    store::{Store, TableNames},
};

/// Opens the store that the options name. One inside this process gets its tables at once.
pub async fn open(options: &StoreOptions, registry: Registry, creating: bool) -> anyhow::Result<Store> {
    open_as(options, registry, creating, names(options, registry)?).await
}

/// The same with the rows of a projection in another table than its own, which is created if it is missing. Returns whether it was.
pub async fn open_beside(
    options: &StoreOptions,
    registry: Registry,
    rule: &'static dyn DynProjection,
    table: &str,
) -> anyhow::Result<(Store, bool)> {
    let names = names(options, registry)?.with_table(rule.name(), table).map_err(anyhow::Error::msg)?;
    let store = open_as(options, registry, true, names).await?;
    let created = store.create_table_of(rule).await?;
    if !options.is_remote() {
        store.create_tables(registry).await?;
    }
    Ok((store, created))
}

/// The same with a client of its streams, for a store that was there before this process.
pub async fn open_with_streams(options: &StoreOptions, registry: Registry) -> anyhow::Result<(Store, aws_sdk_dynamodbstreams::Client)> {
    let names = names(options, registry)?;
    if options.aws {
        return Ok((Store::new(clients::of_credential_chain().await, names), clients::streams_of_credential_chain().await));
    }
    if let Some(url) = &options.endpoint_url {
        let store = Store::new(clients::of_endpoint(url).map_err(anyhow::Error::msg)?, names);
        return Ok((store, clients::streams_of_endpoint(url).map_err(anyhow::Error::msg)?));
    }
    let path = options.data.as_ref().context("name the store whose stream it is: --data, --endpoint-url or --aws")?;
    let embedded = Embedded::file(path)?;
    Ok((Store::new(embedded.client(), names), embedded.streams_client()))
}

fn names(options: &StoreOptions, registry: Registry) -> anyhow::Result<TableNames> {
    let var = |name: &str| std::env::var(name).ok();
    if options.aws {
        return TableNames::from_env(registry, var).map_err(anyhow::Error::msg).context("with --aws the environment names the tables");
    }
    Ok(TableNames::from_env_or_default(registry, var))
}

async fn open_as(options: &StoreOptions, registry: Registry, creating: bool, names: TableNames) -> anyhow::Result<Store> {
    if options.aws {
        return Ok(Store::new(clients::of_credential_chain().await, names));
    }
    if let Some(url) = &options.endpoint_url {
        return Ok(Store::new(clients::of_endpoint(url).map_err(anyhow::Error::msg)?, names));
    }
    let embedded = match &options.data {
        Some(path) => Embedded::file(path)?,
        None => Embedded::memory()?,
    };
    let store = Store::new(embedded.client(), names);
    if !creating {
        store.create_tables(registry).await?;
    }
    Ok(store)
}

/// `tables create`
pub async fn create(store: &Store, registry: Registry) -> anyhow::Result<u8> {
    let created = store.create_tables(registry).await?;
    for name in &created {
        println!("created {name}");
    }
    if created.is_empty() {
        println!("all tables are there");
    }
    Ok(EXIT_OK)
}
