//! Rows as tables: one table for each kind of row, laid out to fit the terminal.
//!
//! A projection may keep rows of several kinds in one table. What kind a row is shows in the attributes that its aggregate owns or
//! has owned: they stay known when an event removes them, so an emptied row stays with its kind. Child rows are a kind of their own.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Cell, CellAlignment};
use projection_vocabulary::{DynProjection, RowId, Timestamp, Value};

use super::{
    terminal,
    text::{Lines, count_of, printable, shortened, to_the_minute, width},
};
use crate::store::rows::ShownRow;

/// Columns of a table that a key or a value gets at most.
const CELL_COLUMNS: usize = 40;
/// Emptied rows that are named.
const EMPTY_SHOWN: usize = 5;
const INDENT: &str = "    ";

/// Rows of one kind.
#[derive(Default)]
struct Kind<'a> {
    /// The attributes that their aggregates own: of all rows of this kind together.
    owned: BTreeSet<&'a str>,
    /// Whether they are child rows.
    children: bool,
    /// Each with its place among all rows.
    rows: Vec<(usize, &'a RowId, &'a ShownRow)>,
}

/// Draws rows of a projection in at most so many columns, in their order within each kind. `more` says how many there are besides
/// these, in words.
pub fn draw<'a>(rule: &dyn DynProjection, rows: impl IntoIterator<Item = (&'a RowId, &'a ShownRow)>, more: &str, columns: usize) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let mut lines = Lines::default();
    lines.add(format_args!("{}: {}{more}", rule.name(), count_of(rows.len(), "row")));
    let kinds = kinds(&rows);
    for (number, kind) in kinds.iter().enumerate() {
        if kinds.len() > 1 {
            if number > 0 {
                lines.add("");
            }
            lines.paragraph("", &kind.title(), INDENT, columns);
        }
        kind.draw(rule, columns, &mut lines);
    }
    lines.into_text()
}

/// Sorts rows into kinds. Two rows are of one kind if they have most of the smaller one's owned attributes in common.
fn kinds<'a>(rows: &[(&'a RowId, &'a ShownRow)]) -> Vec<Kind<'a>> {
    let mut by_owned: BTreeMap<BTreeSet<&str>, Vec<(usize, &RowId, &ShownRow)>> = BTreeMap::new();
    let placed = rows.iter().enumerate().map(|(place, (id, row))| (place, *id, *row));
    let (children, rows): (Vec<_>, Vec<_>) = placed.partition(|(_, id, _)| id.child.is_some());
    for (place, id, row) in rows {
        by_owned.entry(row.owned.iter().map(String::as_str).collect()).or_default().push((place, id, row));
    }
    // The largest first, because a smaller one may be a part of it; the sort keeps the alphabet among equals.
    let mut by_owned: Vec<_> = by_owned.into_iter().collect();
    by_owned.sort_by_key(|(owned, _)| std::cmp::Reverse(owned.len()));
    let mut kinds: Vec<Kind> = Vec::new();
    for (owned, rows) in by_owned {
        let same_kind = |kind: &&mut Kind| 2 * kind.owned.intersection(&owned).count() > owned.len() || kind.owned == owned;
        if let Some(kind) = kinds.iter_mut().find(same_kind) {
            kind.owned.extend(owned);
            kind.rows.extend(rows);
        } else {
            kinds.push(Kind { owned, rows, children: false });
        }
    }
    for kind in &mut kinds {
        kind.rows.sort_by_key(|(place, ..)| *place);
    }
    kinds.sort_by(|one, two| one.owned.iter().cmp(two.owned.iter()));
    // Rows without an owner come last.
    let owners = kinds.iter().take_while(|kind| kind.owned.is_empty()).count();
    kinds.rotate_left(owners);
    if !children.is_empty() {
        kinds.push(Kind { owned: BTreeSet::new(), children: true, rows: children });
    }
    kinds
}

impl Kind<'_> {
    fn title(&self) -> String {
        if self.children {
            return format!("{}:", count_of(self.rows.len(), "child row"));
        }
        let rows = count_of(self.rows.len(), "row");
        if self.owned.is_empty() {
            let their = if self.rows.len() == 1 { "its" } else { "their" };
            return format!("{rows} without attributes of {their} own:");
        }
        let names: Vec<_> = self.owned.iter().copied().collect();
        format!("{rows} with {}:", names.join(", "))
    }

    /// The attributes of these rows: those that their aggregates own, those that others share, the watermark.
    fn names(&self) -> Vec<&str> {
        let present: BTreeSet<&str> = self.rows.iter().flat_map(|(.., row)| row.attributes.keys().map(String::as_str)).collect();
        let last = ["version", "parked"];
        let (owned, shared): (Vec<_>, Vec<_>) =
            present.iter().copied().filter(|name| !last.contains(name)).partition(|name| self.owned.contains(name));
        owned.into_iter().chain(shared).chain(last.into_iter().filter(|name| present.contains(name))).collect()
    }

    fn draw(&self, rule: &dyn DynProjection, columns: usize, lines: &mut Lines) {
        let names = self.names();
        let (empty, filled): (Vec<_>, Vec<_>) = self.rows.iter().partition(|(.., row)| !self.children && is_empty(row));
        let keys: Vec<_> = [Some(rule.key()), rule.children().filter(|_| self.children)].into_iter().flatten().collect();
        let table = table(&keys, &names, &filled);
        if filled.is_empty() {
        } else if table.lines().next().is_some_and(|border| width(border) <= columns) {
            lines.drawn(&table);
        } else {
            for (_, id, row) in filled {
                let attributes = names.iter().filter_map(|name| Some(format!("{name}={}", shown(row.attributes.get(*name)?))));
                lines.paragraph(
                    "  ",
                    &format!("{}: {}", printable(&id.to_string()), attributes.collect::<Vec<_>>().join(" ")),
                    INDENT,
                    columns,
                );
            }
        }
        if !empty.is_empty() {
            lines.paragraph("  ", &of_empty(&empty), INDENT, columns);
        }
    }
}

/// Whether nothing is left on a home row but its watermark.
fn is_empty(row: &ShownRow) -> bool {
    row.attributes.keys().all(|name| name == "version")
}

fn of_empty(rows: &[&(usize, &RowId, &ShownRow)]) -> String {
    let mut names: Vec<_> = rows.iter().take(EMPTY_SHOWN).map(|(_, id, _)| shortened(id.key.as_str(), CELL_COLUMNS)).collect();
    if rows.len() > names.len() {
        names.push(format!("{} more", rows.len() - names.len()));
    }
    let (rows, stays) = (count_of(rows.len(), "empty row"), if rows.len() == 1 { "its version stays" } else { "their versions stay" });
    format!("and {rows}: {}. Events removed every attribute; {stays}, so that no event counts twice.", names.join(", "))
}

fn table(keys: &[&str], names: &[&str], rows: &[&(usize, &RowId, &ShownRow)]) -> String {
    let mut table = terminal::table();
    table.set_header(terminal::header(keys.iter().chain(names).copied()));
    for (_, id, row) in rows {
        let cells = names.iter().map(|name| {
            let value = row.attributes.get(*name);
            let alignment = if matches!(value, Some(Value::Number(_))) { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(value.map_or_else(String::new, |value| shortened(&shown(value), CELL_COLUMNS))).set_alignment(alignment)
        });
        let keys = std::iter::once(id.key.as_str()).chain(id.child.as_deref()).map(|key| Cell::new(shortened(key, CELL_COLUMNS)));
        table.add_row(keys.chain(cells));
    }
    terminal::drawn(table)
}

/// A value as a table shows it: times to the minute.
fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) if Timestamp::parse(text).is_ok() => to_the_minute(text),
        value => printable(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use projection_vocabulary::{Change, Projection, Recorded, Refusal, nothing};
    use serde::Deserialize;

    use super::*;

    struct Shop;

    #[derive(Deserialize)]
    enum Event {
        Opened {},
    }

    impl Projection for Shop {
        type Event = Event;
        const NAME: &str = "shop";
        const KEY: &str = "id";

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            let Event::Opened {} = event.event;
            Ok(nothing())
        }
    }

    /// `a=1 b=x`: numbers where they are some.
    fn row(owned: &str, attributes: &str) -> ShownRow {
        let attributes = attributes.split_whitespace().map(|attribute| {
            let (name, value) = attribute.split_once('=').expect("name=value");
            (name.to_owned(), value.parse::<u64>().map_or_else(|_| value.into(), Value::from))
        });
        ShownRow { attributes: attributes.collect(), owned: owned.split_whitespace().map(str::to_owned).collect() }
    }

    fn drawn(rows: &[(&str, ShownRow)], columns: usize) -> String {
        let rows: Vec<_> = rows.iter().map(|(key, row)| (RowId::from(*key), row)).collect();
        draw(&Shop, rows.iter().map(|(id, row)| (id, *row)), "", columns)
    }

    #[test]
    fn rows_stay_in_the_order_in_which_they_come() {
        let rows = ["b", "c", "a"].map(|key| (key, row("buyer", "buyer=ann version=1")));
        let drawn = drawn(&rows, 80);
        let at = |key: &str| drawn.find(&format!("│ {key} ")).expect("a row");
        assert!(at("b") < at("c") && at("c") < at("a"), "{drawn}");
    }

    #[test]
    fn each_kind_of_row_has_a_table_and_an_emptied_row_stays_with_its_kind() {
        let rows = [
            ("cart-1", row("buyer paid total", "buyer=ann total=5 version=2")),
            ("cart-2", row("buyer paid total", "buyer=bob total=12 paid=2026-01-05T09:00:30.000Z version=3")),
            ("cart-3", row("buyer total", "version=4")),
            ("shelf-1", row("label", "label=left carts=2 version=1")),
            ("shelf-2", row("", "carts=1")),
        ];
        expect![[r#"
            shop: 5 rows
            3 rows with buyer, paid, total:
            ┌─────────────────────────────────────────────────┐
            │ id      buyer  paid              total  version │
            ╞═════════════════════════════════════════════════╡
            │ cart-1  ann                          5        2 │
            │ cart-2  bob    2026-01-05 09:00     12        3 │
            └─────────────────────────────────────────────────┘
              and 1 empty row: cart-3. Events removed every attribute; its version stays, so
                that no event counts twice.

            1 row with label:
            ┌────────────────────────────────┐
            │ id       label  carts  version │
            ╞════════════════════════════════╡
            │ shelf-1  left       2        1 │
            └────────────────────────────────┘

            1 row without attributes of its own:
            ┌────────────────┐
            │ id       carts │
            ╞════════════════╡
            │ shelf-2      1 │
            └────────────────┘
        "#]]
        .assert_eq(&drawn(&rows, 80));
    }

    #[test]
    fn rows_too_wide_for_the_terminal_are_wrapped_between_words() {
        let rows = [("cart-1", row("buyer total", "buyer=ann total=5 version=2")), ("cart-2", row("buyer", "buyer=bob version=1"))];
        expect![[r#"
            shop: 2 rows
              cart-1: buyer=ann total=5
                version=2
              cart-2: buyer=bob version=1
        "#]]
        .assert_eq(&drawn(&rows, 30));
    }

    #[test]
    fn all_rows_of_one_kind_need_no_title() {
        expect![[r#"
            shop: 1 row
            ┌────────────────────────┐
            │ id      buyer  version │
            ╞════════════════════════╡
            │ cart-1  ann          2 │
            └────────────────────────┘
        "#]]
        .assert_eq(&drawn(&[("cart-1", row("buyer", "buyer=ann version=2"))], 80));
    }
}
