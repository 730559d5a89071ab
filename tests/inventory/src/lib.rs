//! A third domain, as another team would write it in its own repository: its projections, its list of them, its two programs.

pub mod stock_levels;

use projection_vocabulary::{
    DynProjection,
    sample::{Fact, Pick, Sample},
};

/// Every projection of this team's worker.
pub const ALL: &[&dyn DynProjection] = &[&stock_levels::StockLevels];

/// The sample domain of its `projector generate`.
pub const SAMPLES: &[Sample] = &[Sample { name: "inventory", facts: deliveries }];

fn deliveries(pick: &mut Pick<'_>, facts: usize, articles: usize) -> Vec<Fact> {
    let mut known = std::collections::BTreeSet::new();
    let mut deliver = |_| {
        let article = format!("article-{}", pick(articles.max(1) as u64));
        let first = known.insert(article.clone());
        let (quantity, warehouse) = (1 + pick(20), format!("warehouse-{}", pick(3)));
        let event_type = if pick(3) == 0 && !first { "GoodsShipped" } else { "GoodsReceived" };
        let fields = [("warehouse".to_owned(), warehouse.into()), ("quantity".to_owned(), quantity.into())];
        Fact { aggregate: article.as_str().into(), event_type, data: projection_vocabulary::Value::Map(fields.into()) }
    };
    (0..facts).map(&mut deliver).collect()
}
