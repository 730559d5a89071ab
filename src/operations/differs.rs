//! In what a row differs from another, attribute by attribute: a row from what it must be, or from what it was before.

use std::collections::BTreeSet;

use projection_vocabulary::{Attributes, Cell, Contribution, HomeRow, Value, Version};

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Differs {
    /// The attribute.
    pub attribute: String,
    /// The shared row whose attribute it is, if this is what a home row contributes to it.
    pub contributed_to: Option<Cell>,
    /// What it is in the first row; `None` if it is not there.
    pub from: Option<Value>,
    /// What it is in the other row; `None` if it is not there.
    pub to: Option<Value>,
}

/// The attribute, if it differs.
fn own(attribute: &str, from: Option<Value>, to: Option<Value>) -> Option<Differs> {
    (from != to).then(|| Differs { attribute: attribute.to_owned(), contributed_to: None, from, to })
}

/// In which attributes a row differs from another.
#[must_use]
pub fn of_attributes(from: &Attributes, to: &Attributes) -> Vec<Differs> {
    let names: BTreeSet<_> = from.keys().chain(to.keys()).collect();
    names.into_iter().filter_map(|name| own(name, from.get(name).cloned(), to.get(name).cloned())).collect()
}

/// In what a home row differs from another, the event that it stands on included.
#[must_use]
pub fn between(from: &HomeRow, to: &HomeRow) -> Vec<Differs> {
    let version = |row: &HomeRow| (row.version > Version::NONE).then(|| Value::Number(row.version.0.into()));
    let last = |row: &HomeRow| row.last_event_id.clone().map(Value::Text);
    let mut all: Vec<_> = own("version", version(from), version(to)).into_iter().collect();
    all.extend(own("lastEventId", last(from), last(to)));
    all.extend(of_content(from, to));
    all
}

/// In what a home row says something else than another: its own attributes, and what it contributes to shared rows.
#[must_use]
pub fn of_content(from: &HomeRow, to: &HomeRow) -> Vec<Differs> {
    let mut all = of_attributes(&from.own, &to.own);
    let cells: BTreeSet<_> = [from, to].into_iter().flat_map(|row| row.contributions.keys().chain(&row.left)).collect();
    let contribution = |row: &HomeRow, cell: &Cell| {
        let left = row.left.contains(cell).then(|| Value::Number(0.into()));
        row.contributions.get(cell).map(Contribution::value).or(left)
    };
    all.extend(cells.into_iter().filter_map(|cell| {
        let differs = own(&cell.1, contribution(from, cell), contribution(to, cell))?;
        Some(Differs { contributed_to: Some(cell.clone()), ..differs })
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_and_contribution_that_differs_is_named_and_no_other() {
        let cell = |attribute: &str| -> Cell { ("shelf".into(), attribute.to_owned()) };
        let row = |version: u64, n: i32, sum: i32| HomeRow {
            version: Version(version),
            last_event_id: Some("e".into()),
            own: [("same".to_owned(), 1.into()), ("n".to_owned(), n.into())].into(),
            contributions: [(cell("sum"), Contribution::Sum(sum.into())), (cell("same"), Contribution::Max(1.into()))].into(),
            ..HomeRow::default()
        };
        let named = |row: &HomeRow, fresh: &HomeRow| -> Vec<(String, bool)> {
            between(row, fresh).into_iter().map(|differs| (differs.attribute, differs.contributed_to.is_some())).collect()
        };
        assert_eq!(named(&row(2, 3, 4), &row(2, 3, 4)), []);
        assert_eq!(between(&HomeRow::default(), &row(2, 3, 4))[0].from, None, "what is not there has no version");
        assert_eq!(named(&row(2, 3, 4), &row(3, 5, 6)), [("version".into(), false), ("n".into(), false), ("sum".into(), true)]);
        let all = ["version", "lastEventId", "n", "same"].map(|name| (name.to_owned(), false));
        let contributed = ["same", "sum"].map(|name| (name.to_owned(), true));
        assert_eq!(named(&HomeRow::default(), &row(2, 3, 4)), [&all[..], &contributed].concat());
    }
}
