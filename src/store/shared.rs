//! What a transaction writes to shared rows.
//!
//! Many aggregates, and two revisions of a rule, write to a shared row, so each write is conditional on what the attribute is: not the
//! property of the row's own aggregate, and combined as this write combines it. A maximum is conditional on its value as well: it is
//! either raised, or known to be at least as high.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{Decimal, Kind, Mark, RowKey, Value};

use super::{
    expression::{Conditions, Expression, Name},
    fresh_id,
    home::{kind_text, mark_text, shared_name, unsettled_name},
};
use crate::store::item::from_value;

/// A write to one shared row.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedWrite {
    /// The row.
    pub row: RowKey,
    /// What is written to its attributes.
    pub cells: BTreeMap<String, CellWrite>,
}

/// A write to one attribute of a shared row.
#[derive(Clone, Debug, PartialEq)]
pub struct CellWrite {
    /// How it is combined, and the revision that writes it.
    pub mark: Mark,
    /// What is done.
    pub op: CellOp,
    /// What the write means to the attribute.
    pub intent: Intent,
    /// Whether it writes what others have contributed. The mark is theirs, then, if there is one.
    pub for_others: bool,
    /// Whether a contribution was lowered or taken back that may have been the highest or the last one.
    pub unsettles: bool,
    /// What an older revision left in the attribute, combined in another way: it is replaced.
    pub instead_of: Option<Mark>,
}

/// What a write means to an attribute of a shared row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// The attribute shows something of the writer afterwards.
    Contributes,
    /// It does not. There must be something to take back.
    TakesBack,
    /// There is nothing to take back: who settles the attribute has removed it for the moment, and may have found what is now taken back.
    /// That is void.
    Voids,
}

/// What is done to an attribute of a shared row.
#[derive(Clone, Debug, PartialEq)]
pub enum CellOp {
    /// Nothing.
    Keep,
    /// Adds an amount.
    Add(Decimal),
    /// Sets a value that the present one does not exceed.
    Raise(Value),
    /// Nothing, for the present value is this one or a higher one.
    AtLeast(Value),
    /// Inserts members.
    Insert(BTreeSet<Arc<str>>),
}

impl SharedWrite {
    pub(super) fn expression(&self) -> (Expression, String) {
        let mut expression = Expression::default();
        let mut conditions = Conditions::default();
        for (attribute, cell) in &self.cells {
            cell.express(attribute, &mut expression, &mut conditions);
        }
        (expression, conditions.into_text())
    }
}

impl CellWrite {
    /// A write that contributes.
    #[must_use]
    pub fn contributing(mark: Mark, op: CellOp) -> Self {
        Self { mark, op, intent: Intent::Contributes, for_others: false, unsettles: false, instead_of: None }
    }

    fn express(&self, attribute: &str, expression: &mut Expression, conditions: &mut Conditions) {
        let (owned, name) = (expression.name("owned"), expression.value(AttributeValue::S(attribute.to_owned())));
        conditions.and(format_args!("NOT contains({owned}, {name})"));
        if let Some(mark) = self.instead_of {
            conditions.and(expression.unchanged(shared_name(attribute), &mark_text(mark)));
            expression.remove(unsettled_name(attribute));
            match &self.op {
                CellOp::Add(amount) => expression.set(attribute, AttributeValue::N(amount.to_string())),
                CellOp::Raise(value) | CellOp::AtLeast(value) => expression.set(attribute, from_value(value)),
                CellOp::Insert(members) => expression.set(attribute, string_set(members)),
                CellOp::Keep => {}
            }
            expression.set(shared_name(attribute), AttributeValue::S(mark_text(self.mark)));
            return;
        }
        match self.intent {
            Intent::Contributes => {
                conditions.and(takes(expression, attribute, self.mark.kind));
                let mark = AttributeValue::S(mark_text(self.mark));
                if self.for_others {
                    expression.set_once(shared_name(attribute), mark);
                } else {
                    expression.set(shared_name(attribute), mark);
                }
            }
            Intent::TakesBack => {
                let mark = expression.name(shared_name(attribute));
                conditions.and(is_combined(expression, mark, self.mark.kind));
            }
            Intent::Voids => {
                let mark = expression.name(shared_name(attribute));
                let unsettled = expression.name(unsettled_name(attribute));
                conditions.and(format_args!("attribute_not_exists({mark}) AND attribute_exists({unsettled})"));
            }
        }
        match &self.op {
            CellOp::Keep => {}
            CellOp::AtLeast(value) => {
                let (name, value) = (expression.name(attribute), expression.value(from_value(value)));
                conditions.and(format_args!("{name} >= {value}"));
            }
            CellOp::Add(amount) => expression.add(attribute, AttributeValue::N(amount.to_string())),
            CellOp::Insert(members) => expression.add(attribute, string_set(members)),
            CellOp::Raise(value) => {
                let (name, new) = (expression.name(attribute), expression.value(from_value(value)));
                conditions.and(format_args!("(attribute_not_exists({name}) OR {name} <= {new})"));
                expression.set(attribute, from_value(value));
            }
        }
        if self.unsettles {
            expression.set(unsettled_name(attribute), AttributeValue::S(fresh_id()));
        }
    }
}

/// The condition that an attribute with this mark is combined in this way.
fn is_combined(expression: &mut Expression, mark: Name, kind: Kind) -> String {
    format!("begins_with({mark}, {})", expression.value(AttributeValue::S(kind_text(kind).to_owned())))
}

/// The condition that an attribute takes contributions of this kind: it is combined in this way, or not yet in any.
pub(super) fn takes(expression: &mut Expression, attribute: &str, kind: Kind) -> String {
    let mark = expression.name(shared_name(attribute));
    format!("(attribute_not_exists({mark}) OR {})", is_combined(expression, mark, kind))
}

fn string_set(members: &BTreeSet<Arc<str>>) -> AttributeValue {
    AttributeValue::Ss(members.iter().map(ToString::to_string).collect())
}
