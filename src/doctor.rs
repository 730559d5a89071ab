//! Checks a template or a deployed function for settings that would lose or delay events. Both go through the same checks.
//!
//! It accepts every template that works. This repository's own template must also agree exactly with the code: see
//! `tests/end_to_end/infrastructure.rs`.

mod alarms;
pub mod cloudformation;
pub mod deployed;
mod filter;
mod function;
mod mapping;
mod policies;
mod processes;
mod tables;
pub mod template;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use projection_vocabulary::{DynProjection, Registry};

pub use alarms::{Alarm, Dimension, Metric, Target, Watched};
pub use function::Function;
pub use mapping::{Mapping, OtherSource};
pub use processes::{Deed, Schedule, Ticks};
pub use tables::{Index, Key, Keys, Table};
pub use yaml::BYTES_MAX;

use crate::store::{EVENT_STORE_VAR, PARKED_VAR, table_var};

/// A property, as found in a template or a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Setting<T> {
    /// It has a value.
    Value(T),
    /// It has no value, so AWS uses its default.
    #[default]
    Unset,
    /// It cannot be determined from here, for this reason.
    Unseen(String),
}

/// Everything outside the code that a worker's correctness depends on.
#[derive(Debug)]
pub struct Deployment {
    /// The event source mappings that invoke the worker.
    pub mappings: Vec<Mapping>,
    /// What else invokes the worker, and does not send what it understands.
    pub other_sources: Vec<OtherSource>,
    /// The worker's function.
    pub function: Function,
    /// The tables that the function's variables name, or that its stream shows.
    pub tables: Vec<(Role, Setting<Table>)>,
    /// The alarms.
    pub alarms: Setting<Vec<Alarm>>,
    /// How ticks show; unset if there is no process.
    pub ticks: Setting<Ticks>,
    /// What of the deeds of processes the worker's role allows.
    pub allowed: Setting<BTreeSet<Deed>>,
}

/// The purpose of a table.
#[derive(Clone, Copy)]
pub enum Role {
    /// The event store.
    EventStore,
    /// The parking table.
    Parked,
    /// The rows of a projection.
    ReadModel(&'static dyn DynProjection),
}

/// A setting to check, why it matters, and how to fix it.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, for scripts.
    pub name: &'static str,
    /// The consequence of a finding.
    pub severity: Severity,
    /// What goes wrong, in full sentences.
    pub why: &'static str,
    /// The right setting, as CloudFormation spells it.
    pub fix: &'static str,
}

/// The consequence of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Events can be lost, or the worker cannot work.
    Error,
    /// The worker works, but costs or lags more than it needs to, or depends on what the check cannot see, or would fail unnoticed.
    Warning,
}

/// A setting that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// The check that it fails.
    pub check: &'static Check,
    /// The resource and its property.
    pub subject: String,
    /// What is wrong with it; reads on after the subject: "is LATEST".
    pub found: String,
}

/// The result of an examination.
#[derive(Debug, Default)]
pub struct Examination {
    /// The settings that are wrong; errors first.
    pub findings: Vec<Finding>,
    /// The settings that could not be determined, and why.
    pub unseen: BTreeMap<String, String>,
    /// The number of checks that passed or failed.
    pub judged: usize,
}

/// There is nothing to examine. The message names the fix.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Checks a deployment of a worker with these projections.
#[must_use]
pub fn examine(deployment: &Deployment, registry: Registry) -> Examination {
    let mut examination = Examination::default();
    mapping::examine(deployment, &mut examination);
    function::examine(deployment, registry, &mut examination);
    tables::examine(deployment, &mut examination);
    processes::examine(deployment, registry, &mut examination);
    alarms::examine(deployment, registry, &mut examination);
    // The sort is stable, so that related findings stay together.
    examination.findings.sort_by_key(|finding| finding.check.severity);
    examination
}

/// All checks.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    [mapping::CHECKS, function::CHECKS, tables::CHECKS, processes::CHECKS, alarms::CHECKS].into_iter().flatten().copied()
}

impl Examination {
    /// Checks a property. `wrong` describes what is wrong with its value, or with its absence, if anything.
    fn judge<T>(&mut self, check: &'static Check, subject: String, setting: &Setting<T>, wrong: impl FnOnce(Option<&T>) -> Option<String>) {
        let value = match setting {
            Setting::Value(value) => Some(value),
            Setting::Unset => None,
            Setting::Unseen(why) => {
                self.unseen.insert(subject, why.clone());
                return;
            }
        };
        self.judged += 1;
        if let Some(found) = wrong(value) {
            self.findings.push(Finding { check, subject, found });
        }
    }

    /// Checks a property that is wrong if `wrong` holds for its value. Its absence is never wrong.
    fn reject_if<T: fmt::Display>(&mut self, check: &'static Check, subject: String, setting: &Setting<T>, wrong: impl FnOnce(&T) -> bool) {
        self.judge(check, subject, setting, |value| value.filter(|value| wrong(value)).map(|value| is(Some(value))));
    }

    /// Checks a property that must have this value.
    fn require<T: PartialEq + fmt::Display>(&mut self, check: &'static Check, subject: String, setting: &Setting<T>, wanted: &T) {
        self.judge(check, subject, setting, |value| (value != Some(wanted)).then(|| is(value)));
    }
}

/// The service of an ARN.
///
/// # Errors
/// It is not a valid ARN.
fn service_of(arn: &str) -> Result<String, String> {
    let service = arn.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(1)).filter(|service| !service.is_empty());
    service.map(str::to_owned).ok_or_else(|| "is not a valid ARN".to_owned())
}

/// A value, or its absence, in words.
fn is<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "is not set".to_owned(), |value| format!("is {value}"))
}

impl<T> Setting<T> {
    /// Its value. Without one, the same setting as any other type.
    ///
    /// # Errors
    /// It is unset or unseen.
    fn value<U>(self) -> Result<T, Setting<U>> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Unset => Err(Setting::Unset),
            Self::Unseen(why) => Err(Setting::Unseen(why)),
        }
    }

    /// The setting that its value leads to.
    fn and_then<U>(self, next: impl FnOnce(T) -> Setting<U>) -> Setting<U> {
        self.value().map_or_else(|without_value| without_value, next)
    }

    /// Its value, converted. If that fails, it is unseen.
    fn try_map<U>(self, convert: impl FnOnce(T) -> Result<U, String>) -> Setting<U> {
        self.and_then(|value| convert(value).into())
    }

    fn as_ref(&self) -> Setting<&T> {
        match self {
            Self::Value(value) => Setting::Value(value),
            Self::Unset => Setting::Unset,
            Self::Unseen(why) => Setting::Unseen(why.clone()),
        }
    }

    /// Its value, or AWS's default.
    fn or(&self, default: T) -> Setting<T>
    where
        T: Clone,
    {
        match self {
            Self::Unset => Setting::Value(default),
            set => set.clone(),
        }
    }

    /// Both, if both have values.
    fn and<U: Clone>(&self, other: &Setting<U>) -> Setting<(T, U)>
    where
        T: Clone,
    {
        match (self, other) {
            (Self::Value(one), Setting::Value(other)) => Setting::Value((one.clone(), other.clone())),
            (Self::Unseen(why), _) | (_, Setting::Unseen(why)) => Setting::Unseen(why.clone()),
            (Self::Unset, _) | (_, Setting::Unset) => Setting::Unset,
        }
    }
}

impl<T> From<Option<T>> for Setting<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unset, Self::Value)
    }
}

impl<T> From<Result<T, String>> for Setting<T> {
    fn from(value: Result<T, String>) -> Self {
        value.map_or_else(Self::Unseen, Self::Value)
    }
}

impl Role {
    /// Those of all tables that a worker uses.
    fn all(registry: Registry) -> impl Iterator<Item = Self> {
        [Self::EventStore, Self::Parked].into_iter().chain(registry.projections().iter().map(|rule| Self::ReadModel(*rule)))
    }

    /// The environment variable that names the table.
    fn variable(self) -> String {
        match self {
            Self::EventStore => EVENT_STORE_VAR.to_owned(),
            Self::Parked => PARKED_VAR.to_owned(),
            Self::ReadModel(rule) => table_var(rule.name()),
        }
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.variable())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}
