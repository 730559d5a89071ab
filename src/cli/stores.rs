//! Opens the store that the command line names.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context as _, bail};
use aws_sdk_dynamodb::error::SdkError;
use projection_vocabulary::{DynProjection, Registry};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    Context, EXIT_OK, StoreOptions,
    format::Format,
    pretty_json, terminal,
    text::{Lines, count_of, printable},
};
use crate::{
    clients,
    embedded::Embedded,
    store::{Store, TableNames},
};

/// The variable that names the store of commands without a store option.
pub const STORE_VAR: &str = "PROJECTOR_STORE";
/// How long to try to connect to an address at which nothing listens.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How a command uses a store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It works on what is there. An empty store in memory, or a new file, would make it report that all is well.
    Existing,
    /// It brings data along, and would lose it in memory.
    Fill,
    /// It may run in memory, as an experiment.
    Try,
}

impl StoreOptions {
    /// Takes the store from the environment, unless an option names one.
    pub fn or_of_environment(mut self) -> Self {
        if self.is_in_memory() {
            let Some(named) = std::env::var_os(STORE_VAR).filter(|named| !named.is_empty()) else { return self };
            match named.to_str() {
                Some("aws") => self.aws = true,
                Some(url) if url.contains("://") => self.endpoint_url = Some(url.to_owned()),
                _ => self.data = Some(named.into()),
            }
            terminal::note(format_args!("store: {self}, by {STORE_VAR}"));
        }
        self
    }

    /// Refuses a store without a name to a command that needs one.
    fn check(&self, used: Use) -> anyhow::Result<()> {
        if !self.is_in_memory() {
            return Ok(());
        }
        if used != Use::Try {
            bail!("name the store: --data FILE, --endpoint-url URL, --aws, or the variable {STORE_VAR} with a file, a URL or `aws`");
        }
        terminal::note("in memory: nothing is kept when this command ends; to keep it, name a store, such as --data FILE");
        Ok(())
    }
}

impl fmt::Display for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { aws: true, .. } => f.write_str("AWS"),
            Self { endpoint_url: Some(url), .. } => f.write_str(url),
            Self { data: Some(path), .. } => write!(f, "{}", path.display()),
            Self { .. } => f.write_str("memory"),
        }
    }
}

/// A store and the tables that a command used, as its result names them: the same command may have worked on another stage before.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    store: String,
    event_store: String,
    parked: String,
    /// By projection.
    rows: BTreeMap<&'static str, String>,
}

impl Named {
    /// The store of a command that worked on these projections.
    pub fn of(options: &StoreOptions, names: &TableNames, rules: &[&'static dyn DynProjection]) -> Self {
        let rows = rules.iter().map(|rule| (rule.name(), names.projections[rule.name()].clone())).collect();
        Self { store: options.to_string(), event_store: names.event_store.clone(), parked: names.parked.clone(), rows }
    }

    /// In a few lines of text.
    pub fn text(&self) -> String {
        let rows = self.rows.values().map(|table| format!("`{table}`")).collect::<Vec<_>>().join(", ");
        let rows = if rows.is_empty() { rows } else { format!(", parked in `{}`, rows in {rows}", self.parked) };
        let mut lines = Lines::default();
        let tables = format!("store {}: events in `{}`{rows}", self.store, self.event_store);
        lines.paragraph("", &printable(&tables), "  ", terminal::columns());
        lines.into_text()
    }
}

/// Opens the store. A DynamoDB inside this process gets the missing tables, unless the command works on what is there.
pub async fn open(options: &StoreOptions, registry: Registry, used: Use) -> anyhow::Result<Store> {
    let store = open_as_it_is(options, names(options, registry)?, used).await?;
    if !options.is_remote() {
        if used == Use::Existing {
            check_tables(options, &store, registry).await?;
        } else {
            store.create_tables(registry).await?;
        }
    }
    Ok(store)
}

/// Opens an existing store, with a projection's rows in another table, which is created if it is missing. Returns whether it was.
pub async fn open_with_table(
    options: &StoreOptions,
    registry: Registry,
    rule: &'static dyn DynProjection,
    table: &str,
) -> anyhow::Result<(Store, bool)> {
    let names = names(options, registry)?.with_table(rule.name(), table).map_err(anyhow::Error::msg).context("--into")?;
    let store = open_as_it_is(options, names, Use::Existing).await?;
    let created = store.create_table_of(rule).await?;
    if !options.is_remote() {
        check_tables(options, &store, registry).await?;
    }
    Ok((store, created))
}

/// Opens an existing store, with a client of its streams.
pub async fn open_with_streams(options: &StoreOptions, registry: Registry) -> anyhow::Result<(Store, aws_sdk_dynamodbstreams::Client)> {
    options.check(Use::Existing)?;
    let names = names(options, registry)?;
    if options.aws {
        return Ok((Store::new(clients::of_credential_chain().await, names), clients::streams_of_credential_chain().await));
    }
    if let Some(url) = &options.endpoint_url {
        let store = Store::new(connected(url).await?, names);
        return Ok((store, clients::streams_of_endpoint(url).map_err(anyhow::Error::msg)?));
    }
    let embedded = embedded(options, Use::Existing)?;
    Ok((Store::new(embedded.client(), names), embedded.streams_client()))
}

/// The DynamoDB inside this process, with the missing tables created.
pub async fn open_embedded(options: &StoreOptions, registry: Registry) -> anyhow::Result<Embedded> {
    let embedded = embedded(options, Use::Try)?;
    Store::new(embedded.client(), names(options, registry)?).create_tables(registry).await?;
    Ok(embedded)
}

/// The name of a projection's table.
pub fn table_of(options: &StoreOptions, registry: Registry, rule: &dyn DynProjection) -> anyhow::Result<String> {
    Ok(names(options, registry)?.projections[rule.name()].clone())
}

/// The names of the tables.
pub fn names(options: &StoreOptions, registry: Registry) -> anyhow::Result<TableNames> {
    let var = |name: &str| std::env::var(name).ok();
    if options.aws {
        return TableNames::from_env(registry, var).map_err(anyhow::Error::msg).context("with --aws the environment names the tables");
    }
    Ok(TableNames::from_env_or_default(registry, var))
}

async fn open_as_it_is(options: &StoreOptions, names: TableNames, used: Use) -> anyhow::Result<Store> {
    options.check(used)?;
    if options.aws {
        return Ok(Store::new(clients::of_credential_chain().await, names));
    }
    if let Some(url) = &options.endpoint_url {
        return Ok(Store::new(connected(url).await?, names));
    }
    Ok(Store::new(embedded(options, used)?.client(), names))
}

fn embedded(options: &StoreOptions, used: Use) -> anyhow::Result<Embedded> {
    let Some(path) = &options.data else { return Ok(Embedded::memory()?) };
    if used == Use::Existing {
        return Embedded::existing_file(path).map_err(|error| match error {
            missing @ crate::embedded::EmbeddedError::Missing { .. } => {
                anyhow::anyhow!("{missing}; `events import`, `replay` and `tables create` make a new file")
            }
            error => error.into(),
        });
    }
    let is_new = !path.exists();
    let embedded = Embedded::file(path)?;
    if is_new {
        terminal::note(format_args!("created {}", path.display()));
    }
    Ok(embedded)
}

/// A client of an address at which something listens. Requests are retried for half a minute, which is too long to learn of a typo.
async fn connected(url: &str) -> anyhow::Result<aws_sdk_dynamodb::Client> {
    let client = clients::of_endpoint(url).map_err(anyhow::Error::msg)?;
    let begun = Instant::now();
    loop {
        let Err(SdkError::DispatchFailure(failure)) = client.list_tables().limit(1).send().await else { return Ok(client) };
        // Anything else may be a fault of the moment, which the retries of the command itself survive.
        let Some(why) = failure.as_connector_error().and_then(|error| nothing_listens(error)) else { return Ok(client) };
        if begun.elapsed() > CONNECT_WITHIN {
            bail!("cannot connect to {url}: {why}; check the address, and that the DynamoDB there runs");
        }
        tokio::time::sleep(CONNECT_AGAIN_AFTER).await;
    }
}

/// Why nothing can be reached at an address, if that is the cause of an error.
fn nothing_listens(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            let text = io.to_string();
            let refused = io.kind() == std::io::ErrorKind::ConnectionRefused;
            return (refused || text.contains("failed to lookup address")).then_some(text);
        }
        cause = error.source();
    }
    None
}

/// Refuses to work on tables that are not there: a misspelt name would look like an empty table.
async fn check_tables(options: &StoreOptions, store: &Store, registry: Registry) -> anyhow::Result<()> {
    let missing = store.missing_tables(registry).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let (tables, them) = (count_of(missing.len(), "table"), if missing.len() == 1 { "it" } else { "them" });
    bail!(
        "{options} lacks {tables}, {}: check the variables that name tables, or create {them}: projector --data {options} tables create",
        missing.join(", ")
    )
}

/// `tables create`
pub async fn create_tables(format: Format, cx: &mut Context) -> anyhow::Result<u8> {
    let store = open_as_it_is(&cx.store, names(&cx.store, cx.registry)?, Use::Fill).await?;
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
