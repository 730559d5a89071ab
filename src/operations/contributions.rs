//! What all aggregates together contribute to attributes of shared rows, by a scan of the read model.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{Cell, Contribution, Decimal, DynProjection, HomeRow, Kind, Mark};

use crate::{
    operations::error::OperationError,
    retry::Deadline,
    store::{
        Store,
        home::{Row, SharedCell},
    },
};

/// What is contributed to attributes, in each of the ways of combining it: while a rule changes, there may be two.
#[derive(Debug, Default)]
pub struct Contributed(BTreeMap<Cell, BTreeMap<Kind, Of>>);

/// What is contributed in one way.
#[derive(Debug)]
struct Of {
    contribution: Contribution,
    /// The newest revision of the rule by which it is.
    revision: u32,
}

impl Of {
    fn marked(&self, kind: Kind) -> (&Contribution, Mark) {
        (&self.contribution, Mark { kind, revision: self.revision })
    }
}

impl Contributed {
    /// Adds what a home row contributes. What it only makes visible is a sum of zero.
    pub fn add(&mut self, home: &HomeRow, of_interest: impl Fn(&Cell) -> bool) {
        for (cell, contribution) in home.contributions.iter().filter(|(cell, _)| of_interest(cell)) {
            self.combine(cell, contribution, home.revision);
        }
        for cell in home.left.iter().filter(|cell| of_interest(cell)) {
            self.combine(cell, &Contribution::Sum(Decimal::zero()), home.revision);
        }
    }

    fn combine(&mut self, cell: &Cell, contribution: &Contribution, revision: u32) {
        let kinds = self.0.entry(cell.clone()).or_default();
        match kinds.get_mut(&contribution.kind()) {
            Some(of) => {
                of.contribution.combine(contribution).unwrap_or_else(|_| unreachable!("they are of one kind"));
                of.revision = of.revision.max(revision);
            }
            None => _ = kinds.insert(contribution.kind(), Of { contribution: contribution.clone(), revision }),
        }
    }

    /// What is contributed to an attribute in the way in which it is combined.
    #[must_use]
    pub fn to(&self, cell: &Cell, kind: Kind) -> Option<&Contribution> {
        self.with_mark(cell, kind).map(|(contribution, _)| contribution)
    }

    /// The same, and what the attribute's mark must be: the newest revision of the rule by which something is contributed in this way.
    #[must_use]
    pub fn with_mark(&self, cell: &Cell, kind: Kind) -> Option<(&Contribution, Mark)> {
        Some(self.0.get(cell)?.get(&kind)?.marked(kind))
    }

    /// What is contributed to an attribute by the newest revision of the rule that contributes to it, and what its mark must be.
    #[must_use]
    pub fn by_newest(&self, cell: &Cell) -> Option<(&Contribution, Mark)> {
        let (kind, of) = self.0.get(cell)?.iter().max_by_key(|(_, of)| of.revision)?;
        Some(of.marked(*kind))
    }
}

/// What all aggregates contribute to these attributes, by a scan of the read model.
///
/// # Errors
/// [`OperationError`].
pub async fn contributed_to(
    store: &Store,
    rule: &dyn DynProjection,
    cells: &BTreeSet<&Cell>,
    deadline: Deadline,
) -> Result<Contributed, OperationError> {
    let mut contributed = Contributed::default();
    store.each_row(rule, deadline, |row| contributed.add(&row.home, |cell| cells.contains(cell))).await?;
    Ok(contributed)
}

/// Every attribute of a shared row whose contributions were lowered or taken back since it was settled.
///
/// # Errors
/// [`OperationError`].
pub async fn unsettled(store: &Store, rule: &dyn DynProjection, deadline: Deadline) -> Result<BTreeMap<Cell, SharedCell>, OperationError> {
    let mut unsettled = BTreeMap::new();
    let scan = store.each_row(rule, deadline, |Row { key, shared, .. }| {
        let marked = shared.into_iter().filter(|(_, cell)| !cell.unsettled.is_empty());
        unsettled.extend(marked.map(|(attribute, cell)| ((key.clone(), attribute), cell)));
    });
    scan.await?;
    Ok(unsettled)
}
