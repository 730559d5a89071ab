//! How far a reader's row must have come.

use std::{fmt, str::FromStr};

use crate::{AggregateId, Version};

/// A version of an aggregate, written `alice@8`: what a writer gives its readers, so that they see what it wrote.
///
/// An aggregate's id may contain `@`; the last one separates.
///
/// ```
/// # use projection_vocabulary::{ConsistencyToken, Version};
/// let token: ConsistencyToken = "ann@example.org@8".parse()?;
/// assert_eq!((token.aggregate.as_str(), token.version), ("ann@example.org", Version(8)));
/// assert_eq!(token.to_string(), "ann@example.org@8");
/// # Ok::<(), projection_vocabulary::NotAToken>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsistencyToken {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// The version that a row must count.
    pub version: Version,
}

/// The text is not a consistency token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a consistency token: it is an aggregate's id, `@` and a version of 1 or more, such as `alice@8`")]
pub struct NotAToken;

impl fmt::Display for ConsistencyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.aggregate, self.version)
    }
}

impl FromStr for ConsistencyToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let (aggregate, version) = text.rsplit_once('@').ok_or(NotAToken)?;
        // `parse` alone takes a sign.
        let digits = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
        let version = version.parse().ok().filter(|version| digits && *version > 0).ok_or(NotAToken)?;
        if aggregate.is_empty() {
            return Err(NotAToken);
        }
        Ok(Self { aggregate: aggregate.into(), version: Version(version) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_printing_and_parsing() {
        for aggregate in ["alice", "ann@example.org", "@", "a@", "@7", "a b", "日本", "a@8"] {
            let token = ConsistencyToken { aggregate: aggregate.into(), version: Version(8) };
            assert_eq!(token.to_string().parse(), Ok(token), "{aggregate}");
        }
        let largest = ConsistencyToken { aggregate: "a".into(), version: Version(u64::MAX) };
        assert_eq!(largest.to_string().parse(), Ok(largest));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "alice", "@8", "alice@", "alice@0", "alice@+8", "alice@-8", "alice@8 ", "alice@8.0", "alice@18446744073709551616"]
        {
            assert_eq!(text.parse::<ConsistencyToken>(), Err(NotAToken), "{text}");
        }
    }
}
