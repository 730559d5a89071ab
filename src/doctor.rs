//! Whether a deployment is as correctness needs it: what a template says, or what is deployed, judged by the same checks.
//!
//! `infra/check.sh` holds this repository's template against its code to the letter. This judges anybody's, by what it leads to.

mod cloudformation;
pub mod deployed;
mod function;
mod mapping;
mod tables;
pub mod template;

use std::{collections::BTreeMap, fmt};

use projection_vocabulary::{DynProjection, Registry};

pub use function::Function;
pub use mapping::Mapping;
pub use tables::{Index, Keys, Table};

use crate::store::{EVENT_STORE_VAR, PARKED_VAR, table_var};

/// A property, as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Setting<T> {
    /// It has a value.
    Value(T),
    /// It has none, so AWS takes its default.
    #[default]
    Unset,
    /// It cannot be told from here, and why.
    Unseen(String),
}

/// What decides about a worker's correctness outside its code.
#[derive(Debug)]
pub struct Deployment {
    /// What invokes the worker from streams.
    pub mappings: Vec<Mapping>,
    /// The worker.
    pub function: Function,
    /// The tables that the function's variables name; none for a variable that is not set.
    pub tables: Vec<(Role, Setting<Table>)>,
}

/// What a table is for.
#[derive(Clone, Copy)]
pub enum Role {
    /// The event store.
    EventStore,
    /// What is parked.
    Parked,
    /// The rows of a projection.
    ReadModel(&'static dyn DynProjection),
}

/// What is to be looked at, why it matters, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, for scripts.
    pub name: &'static str,
    /// What a finding means.
    pub severity: Severity,
    /// What comes of it.
    pub why: &'static str,
    /// What to put in its place, as CloudFormation spells it.
    pub fix: &'static str,
}

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Events can be lost, or the worker cannot do its work.
    Error,
    /// It works, and costs more or comes later than it must.
    Warning,
}

/// Something that is not as it must be.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static Check,
    /// Where: a resource and its property.
    pub subject: String,
    /// What is there.
    pub found: String,
}

/// What an examination came to.
#[derive(Debug, Default)]
pub struct Examination {
    /// What is not as it must be; errors first.
    pub findings: Vec<Finding>,
    /// What could not be judged, by where it is, and why not.
    pub unseen: BTreeMap<String, String>,
    /// How many questions were decided, either way.
    pub judged: usize,
}

/// There is nothing to examine. The message names what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Judges a deployment of a worker with these projections.
#[must_use]
pub fn examine(deployment: &Deployment, registry: Registry) -> Examination {
    let mut examination = Examination::default();
    mapping::examine(deployment, &mut examination);
    function::examine(deployment, registry, &mut examination);
    tables::examine(deployment, &mut examination);
    // Stable, so that what belongs together stays so.
    examination.findings.sort_by_key(|finding| finding.check.severity);
    examination
}

/// All that is judged.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    [mapping::CHECKS, function::CHECKS, tables::CHECKS].into_iter().flatten().copied()
}

impl Examination {
    /// Judges a property: `wrong` says what is wrong with it, if anything, of its value or of its absence.
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

    /// The same where values may be wrong, and the absence of one is not.
    fn refuse<T: fmt::Display>(&mut self, check: &'static Check, subject: String, setting: &Setting<T>, wrong: impl FnOnce(&T) -> bool) {
        self.judge(check, subject, setting, |value| value.filter(|value| wrong(value)).map(|value| is(Some(value))));
    }

    /// The same where one value alone will do.
    fn demand<T: PartialEq + fmt::Display>(&mut self, check: &'static Check, subject: String, setting: &Setting<T>, wanted: &T) {
        self.judge(check, subject, setting, |value| (value != Some(wanted)).then(|| is(value)));
    }
}

/// The service of an ARN.
///
/// # Errors
/// It is no ARN, in words.
fn service_of(arn: &str) -> Result<String, String> {
    let service = arn.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(1)).filter(|service| !service.is_empty());
    service.map(str::to_owned).ok_or_else(|| "is no ARN".to_owned())
}

/// What there is, in words.
fn is<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "is not set".to_owned(), |value| format!("is {value}"))
}

impl<T> Setting<T> {
    /// The same property, read as something else; what cannot be read so is unseen.
    pub fn then<U>(self, read: impl FnOnce(T) -> Result<U, String>) -> Setting<U> {
        match self {
            Self::Value(value) => read(value).map_or_else(Setting::Unseen, Setting::Value),
            Self::Unset => Setting::Unset,
            Self::Unseen(why) => Setting::Unseen(why),
        }
    }

    fn as_ref(&self) -> Setting<&T> {
        match self {
            Self::Value(value) => Setting::Value(value),
            Self::Unset => Setting::Unset,
            Self::Unseen(why) => Setting::Unseen(why.clone()),
        }
    }

    /// As if it were not set, unless its value is one of these.
    fn some(self, is_some: impl FnOnce(&T) -> bool) -> Self {
        match self {
            Self::Value(value) if !is_some(&value) => Self::Unset,
            other => other,
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

impl Role {
    /// All that a worker has.
    fn all(registry: Registry) -> impl Iterator<Item = Self> {
        [Self::EventStore, Self::Parked].into_iter().chain(registry.projections().iter().map(|rule| Self::ReadModel(*rule)))
    }

    /// The variable that names it to the function.
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
