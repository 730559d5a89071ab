//! Which writes go together. Pure.

use std::collections::{HashMap, HashSet};

use projection_vocabulary::{Cell, Decimal};

use crate::{
    engine::lane::{Lane, Write},
    store::{limits::TRANSACTION_ACTIONS_MAX, rows::SharedAdds},
};

/// A lane with its next write.
pub struct Planned {
    /// The lane.
    pub lane: Lane,
    /// Its next write.
    pub write: Box<Write>,
}

/// Puts writes that touch a common row into one group: executed one after the other they never conflict, and those of one
/// shared row can share its update. Groups have no row in common and run concurrently.
#[must_use]
pub fn group(planned: Vec<Planned>) -> Vec<Vec<Planned>> {
    let mut groups: Vec<Vec<Planned>> = Vec::new();
    let mut group_of_row: HashMap<(&'static str, String), usize> = HashMap::new();
    for planned in planned {
        let Planned { lane, write } = &planned;
        let rows = write.shared.keys().chain(write.change.max().keys()).chain(write.change.insert().keys()).map(|(row, _)| row.as_str());
        let rows: HashSet<_> = rows.chain([lane.aggregate.as_str()]).map(|row| (lane.rule.name(), row.to_owned())).collect();
        let mut met: Vec<usize> = rows.iter().filter_map(|row| group_of_row.get(row).copied()).collect();
        met.sort_unstable();
        met.dedup();
        let target = met.first().copied().unwrap_or_else(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        if met.len() > 1 {
            for &other in &met[1..] {
                let moved = std::mem::take(&mut groups[other]);
                groups[target].extend(moved);
            }
            group_of_row.values_mut().filter(|group| met.contains(group)).for_each(|group| *group = target);
        }
        group_of_row.extend(rows.into_iter().map(|row| (row, target)));
        groups[target].push(planned);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Splits the writes of a group into transactions: at most 100 actions, no row twice. A write without shared rows stands alone.
#[must_use]
pub fn pack(planned: Vec<Planned>) -> Vec<Vec<Planned>> {
    let (alone, with_shared): (Vec<_>, Vec<_>) = planned.into_iter().partition(|planned| planned.write.shared.is_empty());
    let mut packs: Vec<_> = alone.into_iter().map(|write| vec![write]).collect();
    let mut pack: Vec<Planned> = Vec::new();
    let (mut homes, mut shared): (HashSet<String>, HashSet<String>) = Default::default();
    for planned in with_shared {
        let home = planned.lane.aggregate.to_string();
        let rows: HashSet<String> = planned.write.shared.keys().map(|(row, _)| row.to_string()).collect();
        let actions = homes.len() + 1 + shared.union(&rows).count();
        let twice = shared.contains(&home) || homes.iter().any(|home| rows.contains(home));
        if !pack.is_empty() && (actions > TRANSACTION_ACTIONS_MAX || twice) {
            packs.push(std::mem::take(&mut pack));
            homes.clear();
            shared.clear();
        }
        homes.insert(home);
        shared.extend(rows);
        pack.push(planned);
    }
    if !pack.is_empty() {
        packs.push(pack);
    }
    packs
}

/// Amounts by row, so that each row is updated once.
#[must_use]
pub fn by_row<'a>(sums: impl IntoIterator<Item = (&'a Cell, &'a Decimal)>) -> SharedAdds {
    let mut rows = SharedAdds::new();
    for ((row, attribute), amount) in sums {
        *rows.entry(row.clone()).or_default().entry(attribute.clone()).or_default() += amount;
    }
    rows
}
