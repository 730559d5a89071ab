//! Rows as JSON, and the comparison of two sets of rows.
//!
//! ```json
//! {
//!   "rows": {"stock-levels": [{"id": "bolts", "onHand": 69.5, "version": 3}]},
//!   "parked": [{"projection": "stock-levels", "aggregateId": "nuts", "version": 2, "reason": "..."}]
//! }
//! ```
//! `replay --output json` prints this form (with a report added), `--expect` reads it, and `generate` writes it.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::Context as _;
use projection_vocabulary::{Attributes, DynProjection, RowId, Value};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use similar::TextDiff;

use crate::store::parking::{NO_PROJECTION, Parked};

/// All rows of all projections, and everything that is parked.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// By projection; each row with its key.
    pub rows: BTreeMap<String, Vec<Box<RawValue>>>,
    /// Parked aggregates and records, without their counts, which grow with each delivery.
    #[serde(default)]
    pub parked: Vec<ParkedEntry>,
    /// The outcome of the records; not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<RawValue>>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParkedEntry {
    projection: String,
    aggregate_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    reason: String,
}

impl From<Parked> for ParkedEntry {
    fn from(Parked { projection, aggregate: aggregate_id, version, reason, .. }: Parked) -> Self {
        Self { projection, aggregate_id, version: version.map(|version| version.0), reason }
    }
}

/// A row with its key, and a child row with its sort key, as JSON with exact numbers.
pub fn row(rule: &dyn DynProjection, id: &RowId, row: &Attributes) -> Box<RawValue> {
    let mut members = row.clone();
    members.insert(rule.key().to_owned(), id.key.as_str().into());
    if let (Some(name), Some(sort)) = (rule.children(), &id.child) {
        members.insert(name.to_owned(), Value::Text(sort.clone()));
    }
    Value::Map(members).to_json()
}

/// Each of a projection's rows, as [`row`] makes it.
pub fn rows(rule: &dyn DynProjection, rows: &BTreeMap<RowId, Attributes>) -> Vec<Box<RawValue>> {
    rows.iter().map(|(id, attributes)| row(rule, id, attributes)).collect()
}

impl Snapshot {
    /// Of these rows, by projection, each as [`row`] makes it.
    pub fn of<R: IntoIterator<Item = Box<RawValue>>>(
        rows: impl IntoIterator<Item = (&'static dyn DynProjection, R)>,
        parked: Vec<Parked>,
    ) -> Self {
        let rows = rows.into_iter().map(|(rule, rows)| (rule.name().to_owned(), rows.into_iter().collect()));
        Self { rows: rows.collect(), parked: parked.into_iter().map(Into::into).collect(), report: None }
    }

    /// Reads a file of this form.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is not a file of expected rows: it needs `rows`, by projection, and may have `parked`", path.display())
        })
    }

    /// One line for each row and each parked entry, sorted and spelled in one way, so that equal snapshots have equal lines.
    fn lines(&self, compared: impl Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
        let mut all = Vec::new();
        for (projection, rows) in self.rows.iter().filter(|(projection, _)| compared(projection)) {
            let lines = rows.iter().map(|row| Ok(format!("{projection} {}\n", Value::from_json(row)?.to_json().get())));
            let mut lines = lines.collect::<anyhow::Result<Vec<_>>>()?;
            lines.sort();
            all.append(&mut lines);
        }
        let parked = self.parked.iter().filter(|entry| entry.projection == NO_PROJECTION || compared(&entry.projection));
        let lines = parked.map(|entry| Ok(format!("parked {}\n", serde_json::to_string(entry)?)));
        let mut lines = lines.collect::<anyhow::Result<Vec<_>>>()?;
        lines.sort();
        all.append(&mut lines);
        Ok(all)
    }

    /// The projections that the expected snapshot says nothing about: it may be older than they are.
    pub fn not_expected<'a>(&'a self, expected: &Self) -> Vec<&'a str> {
        self.rows.keys().map(String::as_str).filter(|name| !expected.says(name)).collect()
    }

    fn says(&self, projection: &str) -> bool {
        self.rows.is_empty() || self.rows.contains_key(projection)
    }

    /// The readable difference from the expected snapshot, if there is one, in the projections that it names; if it names none, in all.
    pub fn difference(&self, expected: &Self) -> anyhow::Result<Option<String>> {
        let compared = |projection: &str| expected.says(projection);
        let found = self.lines(compared)?;
        let expected = expected.lines(|_| true).context("the expected rows contain a value that DynamoDB cannot store")?;
        if expected == found {
            return Ok(None);
        }
        let (expected, found) = (expected.concat(), found.concat());
        let diff = TextDiff::from_lines(&expected, &found);
        Ok(Some(diff.unified_diff().context_radius(0).header("expected", "found").to_string()))
    }

    /// As JSON with one line for each row.
    pub fn to_json(&self) -> anyhow::Result<String> {
        let mut text = String::from("{\n  \"rows\": {");
        for (at, (projection, rows)) in self.rows.iter().enumerate() {
            let rows: Vec<_> = rows.iter().map(|row| format!("\n      {}", row.get())).collect();
            write!(text, "{}\n    {}: [{}\n    ]", if at == 0 { "" } else { "," }, serde_json::to_string(projection)?, rows.join(","))?;
        }
        let parked =
            self.parked.iter().map(|entry| Ok(format!("\n    {}", serde_json::to_string(entry)?))).collect::<anyhow::Result<Vec<_>>>()?;
        let end = if parked.is_empty() { "" } else { "\n  " };
        write!(text, "\n  }},\n  \"parked\": [{}{end}]", parked.join(","))?;
        if let Some(report) = &self.report {
            write!(text, ",\n  \"report\": {}", report.get())?;
        }
        text.push_str("\n}\n");
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(json: &str) -> Snapshot {
        serde_json::from_str(json).expect("a snapshot")
    }

    #[test]
    fn order_and_spelling_make_no_difference_and_values_do() {
        let expected = snapshot(r#"{"rows": {"accounts": [{"id": "b", "n": 1.50}, {"n": 2, "id": "a"}]}}"#);
        let same = snapshot(r#"{"rows": {"accounts": [{"id": "a", "n": 2.0}, {"n": 1.5, "id": "b"}]}, "report": {}}"#);
        assert_eq!(same.difference(&expected).expect("comparable"), None);
        let other = snapshot(r#"{"rows": {"accounts": [{"id": "a", "n": 2}, {"n": 1.51, "id": "b"}]}}"#);
        let difference = other.difference(&expected).expect("comparable").expect("a difference");
        assert!(
            difference.contains("-accounts {\"id\":\"b\",\"n\":1.5}") && difference.contains("+accounts {\"id\":\"b\",\"n\":1.51}"),
            "{difference}"
        );
    }

    #[test]
    fn a_projection_that_is_newer_than_the_expected_rows_is_not_compared() {
        let found = snapshot(
            r#"{"rows": {"accounts": [{"id": "a"}], "movements": [{"id": "m"}]},
                "parked": [{"projection": "movements", "aggregateId": "x", "reason": "r"}]}"#,
        );
        let older = snapshot(r#"{"rows": {"accounts": [{"id": "a"}]}}"#);
        assert_eq!((found.difference(&older).expect("comparable"), found.not_expected(&older)), (None, vec!["movements"]));
        for other in [r#"{"rows": {"accounts": []}}"#, r#"{"rows": {"accounts": [{"id": "a"}], "movements": []}}"#, r#"{"rows": {}}"#] {
            assert!(found.difference(&snapshot(other)).expect("comparable").is_some(), "{other}");
        }
        let of_no_projection =
            r#"{"rows": {"accounts": [{"id": "a"}]}, "parked": [{"projection": "-", "aggregateId": "x", "reason": "r"}]}"#;
        assert!(snapshot(of_no_projection).difference(&older).expect("comparable").is_some());
    }

    #[test]
    fn a_printed_snapshot_can_be_expected() {
        let printed =
            snapshot(r#"{"rows": {"a": [{"id": 1}], "b": []}, "parked": [{"projection": "a", "aggregateId": "x", "reason": "r"}]}"#);
        let read = snapshot(&printed.to_json().expect("prints"));
        assert_eq!(read.difference(&printed).expect("comparable"), None);
    }
}
