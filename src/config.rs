//! What is missing or wrong in a program's configuration.

use std::fmt;

/// Settings that are missing or wrong. It names every one of them, so that one look is enough: correct them and start again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<ConfigProblem>);

/// One setting that is missing or wrong. No message shows the value of a variable: it may be a secret in the wrong place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[non_exhaustive]
pub enum ConfigProblem {
    /// Set the variable.
    #[error("{variable} is not set")]
    Missing { variable: String },
    /// A variable, or a value (in backquotes) that was given in another way.
    #[error("{setting} is not {expected}")]
    Invalid { setting: String, expected: String },
    /// Set both variables or neither.
    #[error("{set} is set but {missing} is not")]
    HalfSet { set: &'static str, missing: &'static str },
    /// Each table needs a name of its own.
    #[error("{} name the same table `{table}`", variables.join(" and "))]
    SameTable { variables: Vec<String>, table: String },
    /// Choose a new table.
    #[error("`{table}` is the table of `{projection}` itself")]
    OwnTable { projection: &'static str, table: String },
    /// Choose a new table.
    #[error("the table `{table}` is in use for something else")]
    TableInUse { table: String },
}

impl ConfigError {
    /// One error for all problems; `Ok` if there are none.
    pub(crate) fn check(problems: Vec<ConfigProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl From<ConfigProblem> for ConfigError {
    fn from(problem: ConfigProblem) -> Self {
        Self(vec![problem])
    }
}

impl ConfigProblem {
    pub(crate) fn missing(variable: &str) -> Self {
        Self::Missing { variable: variable.to_owned() }
    }

    /// A setting that is not `expected`, which reads on after "is not": "a valid table name", for example.
    pub(crate) fn invalid(setting: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Invalid { setting: setting.into(), expected: expected.into() }
    }
}
