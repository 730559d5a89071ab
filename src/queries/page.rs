//! Pages of rows, and the tokens at which the next ones continue.
//!
//! A token is the position of the last row of a page: the values of its sort key and its key. So a page begins after a value, not
//! after a count: whatever happens to other rows meanwhile, a row that stands still is neither skipped nor repeated.
//!
//! ```text
//! base64url( format 1 byte | query 8 bytes | seal 16 bytes | position, a JSON list )
//! ```
//!
//! `query` is a digest of what was asked: table, index, values, range and direction. `seal` is a digest of all the rest, with a key
//! if one is configured. Without a key, a token is safe from accidents, and whoever makes one up only reads other rows of the same
//! query. The position is not encrypted: it holds the values of keys.

use std::{fmt, sync::Arc};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use projection_vocabulary::{IndexKey, RowKey, Value, Version};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::store::{
    item::{SdkItem, from_value},
    reads::{IndexQuery, Range},
};

/// A row as its reader has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<T> {
    /// Its key.
    pub key: RowKey,
    /// Its sort key, if it is a child row.
    pub child: Option<Arc<str>>,
    /// The last version of its aggregate that it counts. `None` for a row that aggregates only share, and for a row of an index that does
    /// not include `version`.
    pub version: Option<Version>,
    /// Whether its aggregate is parked, so that the row does not advance. Not known of the rows of an index.
    pub parked: bool,
    /// What the reader asked for. All attributes are offered to it: those that the rule writes, the key, `version`, and `parked` if it is.
    pub data: T,
}

/// Some rows, and where the others begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows, in order.
    pub rows: Vec<Row<T>>,
    /// What to ask for the next page with; `None` if this is the last one.
    pub next: Option<PageToken>,
}

/// Where the next page begins. It is opaque, and valid only for the query that it came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageToken(String);

impl PageToken {
    /// The token as text that may stand in a URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Any text; a query refuses one that is not its own.
impl<T: Into<String>> From<T> for PageToken {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageTokenError {
    /// It is none, or only a part of one.
    #[error("this is not a page token, or not all of it: pass it on as it came, or begin at the first page")]
    Malformed,
    /// It came from another query.
    #[error(
        "the page token is of another query: it continues only the query that it came from, of the same table, index, values and order; \
         begin at the first page"
    )]
    Foreign,
    /// It was changed, or sealed with another key.
    #[error("the page token was changed, or sealed with another key: begin at the first page")]
    Tampered,
}

/// A secret that seals page tokens, so that only those who have it can make one.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl TokenKey {
    /// Any bytes; 32 random ones are best. All processes that serve the same readers need the same.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("an HMAC takes a key of any length"))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(secret)")
    }
}

/// The format of tokens. Another layout gets another number.
const FORMAT: u8 = 1;
const QUERY_BYTES: usize = 8;
const SEAL_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + QUERY_BYTES + SEAL_BYTES;
/// The longest position has four sort keys of 1,024 bytes and a key of 2,048, each byte six characters at most in JSON.
const TOKEN_CHARS_MAX: usize = 64 * 1_024;

/// What the tokens of one query have in common.
pub struct Binding {
    /// The digest of the query.
    query: [u8; QUERY_BYTES],
    /// The attributes of a position.
    keys: Vec<IndexKey>,
    key: Option<TokenKey>,
}

impl Binding {
    /// Of a query of an index of this table.
    pub fn of_index(table: &str, query: &IndexQuery, keys: Vec<IndexKey>, key: Option<&TokenKey>) -> Self {
        let mut digest = Parts::of(["index", table, query.index.name, if query.newest_first { "newest first" } else { "oldest first" }]);
        digest.values(&query.partition);
        digest.values(&query.sort);
        match &query.range {
            None => digest.part(b"all"),
            Some(Range::AtLeast(low)) => digest.range(b"at least", &[low]),
            Some(Range::AtMost(high)) => digest.range(b"at most", &[high]),
            Some(Range::Between(low, high)) => digest.range(b"between", &[low, high]),
            Some(Range::BeginsWith(prefix)) => digest.range(b"begins with", &[prefix]),
        }
        Self { query: digest.first(), keys, key: key.cloned() }
    }

    /// Of the child rows of a row of this table.
    pub fn of_children(table: &str, row: &RowKey, newest_first: bool, keys: Vec<IndexKey>, key: Option<&TokenKey>) -> Self {
        let order = if newest_first { "newest first" } else { "oldest first" };
        Self { query: Parts::of(["children", table, row.as_str(), order]).first(), keys, key: key.cloned() }
    }

    /// Of a scan of this table.
    pub fn of_scan(table: &str, keys: Vec<IndexKey>, key: Option<&TokenKey>) -> Self {
        Self { query: Parts::of(["scan", table]).first(), keys, key: key.cloned() }
    }

    /// The token of the position of an item; `None` if the item lacks one of the attributes.
    pub fn token(&self, item: &SdkItem) -> Option<PageToken> {
        let values = self.keys.iter().map(|key| match (key, item.get(key.attribute())?) {
            (IndexKey::Text(_), AttributeValue::S(text)) => Some(Value::from(text)),
            (IndexKey::Number(_), AttributeValue::N(number)) => Some(Value::Number(number.parse().ok()?)),
            _ => None,
        });
        let position = Value::List(values.collect::<Option<_>>()?).to_json().get().to_owned().into_bytes();
        let mut token = vec![FORMAT];
        token.extend(self.query);
        token.extend(self.seal(&position));
        token.extend(position);
        Some(PageToken(URL_SAFE_NO_PAD.encode(token)))
    }

    /// The position that a token holds, as DynamoDB takes it; without the attributes of the partition key.
    ///
    /// # Errors
    /// [`PageTokenError`].
    pub fn position(&self, token: &PageToken) -> Result<SdkItem, PageTokenError> {
        if token.0.len() > TOKEN_CHARS_MAX {
            return Err(PageTokenError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(&token.0).map_err(|_| PageTokenError::Malformed)?;
        let (head, position) = bytes.split_at_checked(HEAD_BYTES).ok_or(PageTokenError::Malformed)?;
        let (query, seal) = head[1..].split_at(QUERY_BYTES);
        if head[0] != FORMAT {
            return Err(PageTokenError::Malformed);
        }
        if query != self.query {
            return Err(PageTokenError::Foreign);
        }
        if !self.is_sealed(position, seal) {
            return Err(PageTokenError::Tampered);
        }
        self.item(position).ok_or(PageTokenError::Malformed)
    }

    /// Reads a position. Whoever knows the layout can seal anything if no key is configured.
    fn item(&self, position: &[u8]) -> Option<SdkItem> {
        let json: Box<RawValue> = serde_json::from_slice(position).ok()?;
        let Value::List(values) = Value::from_json(&json).ok()? else { return None };
        let fits = |(key, value): (&IndexKey, &Value)| match (key, value) {
            (IndexKey::Text(_), Value::Text(text)) => !text.is_empty(),
            (IndexKey::Number(_), Value::Number(_)) => true,
            _ => false,
        };
        if values.len() != self.keys.len() || !self.keys.iter().zip(&values).all(fits) {
            return None;
        }
        Some(self.keys.iter().zip(&values).map(|(key, value)| (key.attribute().to_owned(), from_value(value))).collect())
    }

    fn seal(&self, position: &[u8]) -> [u8; SEAL_BYTES] {
        let sealed = match &self.key {
            Some(TokenKey(key)) => {
                let sealed = key.clone().chain_update([FORMAT]).chain_update(self.query).chain_update(position).finalize();
                sealed.into_bytes()
            }
            None => Sha256::new().chain_update([FORMAT]).chain_update(self.query).chain_update(position).finalize(),
        };
        *sealed.first_chunk().expect("a digest has 32 bytes")
    }

    /// Takes as long for any seal, if there is a key to be guessed.
    fn is_sealed(&self, position: &[u8], seal: &[u8]) -> bool {
        match &self.key {
            Some(TokenKey(key)) => {
                let expected = key.clone().chain_update([FORMAT]).chain_update(self.query).chain_update(position);
                seal.len() == SEAL_BYTES && expected.verify_truncated_left(seal).is_ok()
            }
            None => seal == self.seal(position),
        }
    }
}

/// A digest of parts, each with its length, so that no two lists of parts are the same bytes.
struct Parts(Sha256);

impl Parts {
    fn of<const N: usize>(parts: [&str; N]) -> Self {
        let mut digest = Self(Sha256::new());
        for part in parts {
            digest.part(part.as_bytes());
        }
        digest
    }

    fn part(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn values(&mut self, values: &[Value]) {
        self.part(&(values.len() as u64).to_be_bytes());
        for value in values {
            self.part(value.to_json().get().as_bytes());
        }
    }

    fn range(&mut self, kind: &[u8], values: &[&Value]) {
        self.part(kind);
        for value in values {
            self.part(value.to_json().get().as_bytes());
        }
    }

    fn first(self) -> [u8; QUERY_BYTES] {
        *self.0.finalize().first_chunk().expect("a digest has 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::Index;

    use super::*;

    const KEYS: [IndexKey; 2] = [IndexKey::Number("due"), IndexKey::Text("id")];

    fn binding(key: Option<&TokenKey>) -> Binding {
        let index = Index { name: "by-due", partition: &[IndexKey::Text("shop")], sort: &KEYS, include: &[] };
        let query = IndexQuery { index, partition: vec!["north".into()], sort: Vec::new(), range: None, newest_first: false };
        Binding::of_index("orders", &query, KEYS.to_vec(), key)
    }

    fn item(due: &str, id: &str) -> SdkItem {
        [("due".to_owned(), AttributeValue::N(due.to_owned())), ("id".to_owned(), AttributeValue::S(id.to_owned()))].into()
    }

    #[test]
    fn a_position_survives_its_token_exactly() {
        let key = TokenKey::new(b"key");
        for id in ["o1", "\u{1f}\"\\", "日本", &"x".repeat(2_048)] {
            for due in ["0", "-3.5", "99999999999999999999999999999999999999", "0.00000000000000000000000000000000000001"] {
                for binding in [binding(None), binding(Some(&key))] {
                    let token = binding.token(&item(due, id)).expect("a position");
                    assert!(token.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
                    assert_eq!(binding.position(&token), Ok(item(due, id)));
                }
            }
        }
        assert_eq!(binding(None).token(&item("x", "o1")), None, "not a row of the worker's");
    }

    /// As somebody does who knows the layout, where no key is configured.
    #[test]
    fn a_position_that_no_row_has_is_refused_although_it_is_sealed() {
        let binding = binding(None);
        for position in [
            "",
            "[",
            "null",
            "{}",
            "[]",
            "[1]",
            r#"["o1",1]"#,
            r#"[1,"o1",1]"#,
            r#"["1","o1"]"#,
            "[1,1]",
            r#"[1,""]"#,
            r#"[1,null]"#,
            r#"[1e200,"o1"]"#,
            r#"[1,["o1"]]"#,
        ] {
            let head = [&[FORMAT][..], &binding.query, &binding.seal(position.as_bytes())].concat();
            let token = PageToken(URL_SAFE_NO_PAD.encode([&head, position.as_bytes()].concat()));
            assert_eq!(binding.position(&token), Err(PageTokenError::Malformed), "{position}");
        }
    }

    #[test]
    fn parts_that_run_into_each_other_differ() {
        let digests = [Parts::of(["ab", "c"]), Parts::of(["a", "bc"]), Parts::of(["abc", ""]), Parts::of(["", "abc"])].map(Parts::first);
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(digest));
        }
    }
}
