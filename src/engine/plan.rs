//! Which writes go together. Pure.

use std::collections::{HashMap, HashSet};

use projection_vocabulary::{Cell, Decimal};

use crate::{
    engine::lane::{Lane, Write},
    store::{limits::TRANSACTION_ACTIONS_MAX, rows::SharedAdds},
};

/// Puts lanes that touch a common row into one group: one after the other they never meet each other, and those of one
/// shared row can share its update. Groups have no row in common and run at once.
#[must_use]
pub fn group(lanes: Vec<(Lane, Box<Write>)>) -> Vec<Vec<(Lane, Box<Write>)>> {
    let mut groups: Vec<Vec<(Lane, Box<Write>)>> = Vec::new();
    let mut group_of_row: HashMap<(&'static str, String), usize> = HashMap::new();
    for (lane, write) in lanes {
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
        groups[target].push((lane, write));
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Cuts the writes of a group into transactions: at most 100 actions, no row twice. A write without shared rows stands alone.
#[must_use]
pub fn pack(writes: Vec<(Lane, Box<Write>)>) -> Vec<Vec<(Lane, Box<Write>)>> {
    let (alone, with_shared): (Vec<_>, Vec<_>) = writes.into_iter().partition(|(_, write)| write.shared.is_empty());
    let mut packs: Vec<_> = alone.into_iter().map(|write| vec![write]).collect();
    let mut pack: Vec<(Lane, Box<Write>)> = Vec::new();
    let (mut homes, mut shared): (HashSet<String>, HashSet<String>) = Default::default();
    for (lane, write) in with_shared {
        let home = lane.aggregate.to_string();
        let rows: HashSet<String> = write.shared.keys().map(|(row, _)| row.to_string()).collect();
        let actions = homes.len() + 1 + shared.union(&rows).count();
        let twice = shared.contains(&home) || homes.iter().any(|home| rows.contains(home));
        if !pack.is_empty() && (actions > TRANSACTION_ACTIONS_MAX || twice) {
            packs.push(std::mem::take(&mut pack));
            homes.clear();
            shared.clear();
        }
        homes.insert(home);
        shared.extend(rows);
        pack.push((lane, write));
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
