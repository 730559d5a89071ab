//! Every call to DynamoDB: the event store, the read models and the parking table.

pub mod append;
pub mod children;
pub mod claims;
pub mod commands;
#[cfg(feature = "cli")]
pub mod corrections;
pub mod cursors;
mod dynamo;
mod error;
pub mod events;
pub(crate) mod expression;
pub mod home;
#[cfg(feature = "cli")]
pub mod import;
pub mod item;
pub mod limits;
pub mod parking;
pub mod reads;
pub mod rows;
pub mod segment;
pub mod shared;
pub(crate) mod spans;
pub mod tables;
mod transaction;
mod usage;
pub mod verification;
pub mod verifications;

use std::{cell::RefCell, collections::BTreeMap, error::Error, time::SystemTime};

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use projection_vocabulary::{DynProjection, Registry, Timestamp};
use sha2::{Digest as _, Sha256};
use tracing::Instrument as _;

pub use dynamo::{Answer, Dynamo};
pub use error::StoreError;
pub use usage::Usage;

use error::{classify, retry_or_fail};
use usage::Meter;

use crate::{
    config::{ConfigError, ConfigProblem},
    retry::{Attempt, Deadline, retry},
};

/// The names of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableNames {
    /// The event store.
    pub event_store: String,
    /// The parking table.
    pub parked: String,
    /// The read models, by projection.
    pub projections: BTreeMap<&'static str, String>,
}

/// A DynamoDB client, the names of the tables, and a meter of their use.
pub struct Store {
    dynamo: Box<dyn Dynamo>,
    names: TableNames,
    meter: Meter,
}

impl Store {
    /// A store that sends its calls to this DynamoDB and uses these tables.
    #[must_use]
    pub fn new(dynamo: impl Dynamo + 'static, names: TableNames) -> Self {
        Self { dynamo: Box::new(dynamo), names, meter: Meter::default() }
    }

    /// The names of the tables.
    #[must_use]
    pub fn names(&self) -> &TableNames {
        &self.names
    }

    /// Requests and capacity units used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.meter.read()
    }

    /// Sends a request until it is answered, for requests of which no failure needs handling of its own.
    async fn send<T, E: ProvideErrorMetadata, F: Future<Output = Result<T, SdkError<E>>>>(
        &self,
        operation: &'static str,
        deadline: Deadline,
        send: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        self.send_about((operation, None), deadline, send).await
    }

    /// The same; with the projection if the request is for its rows.
    async fn send_about<T, E: ProvideErrorMetadata, F: Future<Output = Result<T, SdkError<E>>>>(
        &self,
        about: (&'static str, Option<&dyn DynProjection>),
        deadline: Deadline,
        send: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        self.send_with_retries(about, deadline, || async {
            match send().await.map_err(classify) {
                Ok(answer) => Attempt::Decided(Ok(answer)),
                Err(failure) => retry_or_fail(about.0, failure),
            }
        })
        .await?
    }

    /// Sends a request until an attempt is decisive or the deadline would pass. This function sends all of the store's requests, so
    /// each is metered and traced: under this operation's name, and with the projection's if the request is for its rows.
    async fn send_with_retries<T, E: Error + 'static, F: Future<Output = Attempt<Result<T, E>, StoreError>>>(
        &self,
        (operation, rule): (&'static str, Option<&dyn DynProjection>),
        deadline: Deadline,
        attempt: impl Fn() -> F,
    ) -> Result<Result<T, E>, StoreError> {
        let metered = || async {
            self.meter.request();
            attempt().await
        };
        let (span, mut retries) = (spans::request(operation, rule), 0_i64);
        let on_retry = |error: &StoreError| {
            self.meter.on_retry(error);
            spans::on_retry(error);
            retries += 1;
        };
        let answer = retry(deadline, metered, on_retry).instrument(span.clone()).await;
        spans::answered(&span, retries, &answer);
        answer
    }

    fn table_of(&self, rule: &dyn DynProjection) -> &str {
        &self.names.projections[rule.name()]
    }
}

impl TableNames {
    /// Each table's name comes from its environment variable; without one it has a default.
    #[must_use]
    pub fn from_env_or_default(registry: Registry, var: impl Fn(&str) -> Option<String>) -> Self {
        let named = |name: &str, default: &str| var(name).filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned());
        Self {
            event_store: named(EVENT_STORE_VAR, "event-store"),
            parked: named(PARKED_VAR, "parked"),
            projections: registry.projections().iter().map(|rule| (rule.name(), named(&table_var(rule.name()), rule.name()))).collect(),
        }
    }

    /// Each table's name comes from its environment variable.
    ///
    /// # Errors
    /// One error that lists all variables that are missing, are not valid table names, or name the same table.
    pub fn from_env(registry: Registry, var: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let variables = [EVENT_STORE_VAR.to_owned(), PARKED_VAR.to_owned()];
        let variables = variables.into_iter().chain(registry.projections().iter().map(|rule| table_var(rule.name())));
        let mut problems = Vec::new();
        let mut named = BTreeMap::<String, Vec<String>>::new();
        for variable in variables {
            match var(&variable).filter(|table| !table.is_empty()) {
                None => problems.push(ConfigProblem::missing(&variable)),
                Some(table) if !is_table_name(&table) => problems.push(ConfigProblem::invalid(variable, TABLE_NAME)),
                Some(table) => named.entry(table).or_default().push(variable),
            }
        }
        let shared = named.into_iter().filter(|(_, variables)| variables.len() > 1);
        problems.extend(shared.map(|(table, variables)| ConfigProblem::SameTable { variables, table }));
        ConfigError::check(problems)?;
        Ok(Self::from_env_or_default(registry, var))
    }

    /// The same tables, except that a projection has another one.
    ///
    /// # Errors
    /// The name is not valid, or the table is already in use.
    pub fn with_table(mut self, projection: &'static str, table: &str) -> Result<Self, ConfigError> {
        let problem = if !is_table_name(table) {
            ConfigProblem::invalid(format!("`{table}`"), TABLE_NAME)
        } else if self.projections.get(projection).is_some_and(|own| own == table) {
            ConfigProblem::OwnTable { projection, table: table.to_owned() }
        } else if [&self.event_store, &self.parked].into_iter().chain(self.projections.values()).any(|used| used == table) {
            ConfigProblem::TableInUse { table: table.to_owned() }
        } else {
            self.projections.insert(projection, table.to_owned());
            return Ok(self);
        };
        Err(problem.into())
    }
}

/// What error messages say that a table's name must be.
const TABLE_NAME: &str = "a valid table name (3 to 255 of a-z A-Z 0-9 _ - .) or table ARN";

pub(crate) const EVENT_STORE_VAR: &str = "EVENT_STORE_TABLE";
pub(crate) const PARKED_VAR: &str = "PARKED_TABLE";

/// The variable that names a projection's table: `STOCK_LEVELS_TABLE` for `stock-levels`.
pub(crate) fn table_var(projection: &str) -> String {
    format!("{}_TABLE", projection.to_ascii_uppercase().replace('-', "_"))
}

fn is_table_name(name: &str) -> bool {
    let plain = (3..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    plain || (name.starts_with("arn:") && name.contains(":table/") && name.len() <= 1024)
}

/// The current time, for marks that operators read and for events without a timestamp. Rules never see it.
pub fn now() -> Timestamp {
    let epoch_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    i64::try_from(epoch_ms).ok().and_then(Timestamp::from_epoch_ms).expect("the clock is within the years 1970 to 9999")
}

thread_local! {
    /// In a simulation, where this thread's ids come from.
    static SEEDED: RefCell<Option<fastrand::Rng>> = const { RefCell::new(None) };
}

/// A unique id of 32 lower-case hexadecimal digits, for requests and for events without one.
///
/// It comes from the operating system: two processes with the same ids would take each other's writes for their own, and generators
/// that are seeded with 64 bits meet too soon.
pub(crate) fn fresh_id() -> String {
    let seeded = SEEDED.with_borrow_mut(|seeded| seeded.as_mut().map(|random| random.u128(..).to_be_bytes()));
    let bytes = seeded.unwrap_or_else(|| {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system has random numbers");
        bytes
    });
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// A digest of a text, in 32 lower-case hexadecimal digits: half of its SHA-256.
pub(crate) fn digest(text: &str) -> String {
    let digest = Sha256::digest(text);
    let (half, _) = digest.split_first_chunk().expect("it has 32 bytes");
    format!("{:032x}", u128::from_be_bytes(*half))
}

/// A unique id for an event that happens at this time. Such ids sort by time: UUIDs of version 7.
pub(crate) fn event_id(at: &Timestamp) -> String {
    let random = u128::from_str_radix(&fresh_id(), 16).expect("a fresh id has hexadecimal digits").to_be_bytes();
    let (random, _) = random.split_first_chunk().expect("it has 16 bytes");
    let epoch_ms = u64::try_from(at.epoch_ms()).expect("the clock is not before 1970");
    uuid::Builder::from_unix_timestamp_millis(epoch_ms, random).into_uuid().to_string()
}

/// Makes the ids of this thread repeatable from now on, for a simulation.
pub fn seed_ids(seed: u64) {
    SEEDED.set(Some(fastrand::Rng::with_seed(seed)));
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{Change, Projection, Recorded, Refusal, nothing};

    use super::*;

    struct Stays;

    #[derive(serde::Deserialize)]
    enum Event {
        Stayed {},
    }

    impl Projection for Stays {
        type Event = Event;
        const NAME: &str = "stays";
        const KEY: &str = "id";

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            let Event::Stayed {} = event.event;
            Ok(nothing())
        }
    }

    /// The names that these variables give.
    fn names(variables: &[(&str, &str)]) -> Result<TableNames, String> {
        let var = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        TableNames::from_env(Registry::new(&[&Stays]), var).map_err(|error| error.to_string())
    }

    #[test]
    fn a_table_is_named_by_its_name_or_its_arn() {
        let arn = |table: &str| format!("arn:aws:dynamodb:eu-west-1:111122223333:table/{table}");
        for right in ["abc", "a_b-c.9", &"x".repeat(255), &arn("stays")] {
            assert!(is_table_name(right), "{right}");
        }
        let long = arn(&"x".repeat(1_000));
        for wrong in ["", "ab", "a b", "a/b/c", &"x".repeat(256), "arn:aws:sqs:eu-west-1:1:queue", "stays:table/stays", &long] {
            assert!(!is_table_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn each_variable_that_is_missing_wrong_or_given_twice_is_named_at_once() {
        let all = [("EVENT_STORE_TABLE", "events"), ("PARKED_TABLE", "parked"), ("STAYS_TABLE", "stays")];
        let read = names(&all).expect("they are right");
        assert_eq!((read.event_store.as_str(), read.parked.as_str(), read.projections["stays"].as_str()), ("events", "parked", "stays"));
        let wrong = [("EVENT_STORE_TABLE", ""), ("STAYS_TABLE", "no table")];
        let expected = format!("EVENT_STORE_TABLE is not set; PARKED_TABLE is not set; STAYS_TABLE is not {TABLE_NAME}");
        assert_eq!(names(&wrong).err(), Some(expected));
        let twice = names(&[all[0], ("PARKED_TABLE", "events"), all[2]]);
        assert_eq!(twice.err().as_deref(), Some("EVENT_STORE_TABLE and PARKED_TABLE name the same table `events`"));
    }

    #[test]
    fn a_variable_that_is_empty_gives_the_default() {
        let names =
            TableNames::from_env_or_default(Registry::new(&[&Stays]), |name| Some(if name == PARKED_VAR { "p" } else { "" }.to_owned()));
        assert_eq!((names.event_store.as_str(), names.parked.as_str(), names.projections["stays"].as_str()), ("event-store", "p", "stays"));
    }

    #[test]
    fn another_table_for_a_projection_is_one_that_nothing_uses() {
        let names = || TableNames::from_env_or_default(Registry::new(&[&Stays]), |_| None);
        assert_eq!(names().with_table("stays", "stays-2").map(|names| names.projections["stays"].clone()).as_deref(), Ok("stays-2"));
        for (table, problem) in [
            ("stays", "`stays` is the table of `stays` itself"),
            ("parked", "the table `parked` is in use for something else"),
            ("event-store", "the table `event-store` is in use for something else"),
            ("a b", "`a b` is not a valid table name (3 to 255 of a-z A-Z 0-9 _ - .) or table ARN"),
        ] {
            assert_eq!(names().with_table("stays", table).map(drop).map_err(|error| error.to_string()), Err(problem.to_owned()));
        }
    }
}
