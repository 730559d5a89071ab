//! Write sharding: a shared row that many aggregates write to at once, spread over several rows.
//!
//! A rule names the shared row as ever. What an aggregate contributes to it goes to one of its shards, always the same one, which the
//! aggregate's id decides. To the worker a shard is a shared row like any other, so that all that it guarantees for rows holds for
//! shards, and who contributed what to a shard stands on the home rows. Readers combine the shards.

use crate::{AggregateId, Change, RowKey};

/// The most shards of a shared row: the row itself and all of its shards are read by one request, which takes 100 keys.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>
pub const SHARDS_MAX: u32 = 99;

/// Between the key of a shared row and the number of the shard. It is part of the stored data: never change it.
const INFIX: &str = "#shard-";

/// The shard of a shared row to which an aggregate contributes.
pub(crate) fn shard_for(row: &RowKey, aggregate: &AggregateId, shards: u32) -> RowKey {
    shard(row, hash(aggregate.as_str()) % shards)
}

/// The shards of a shared row.
pub fn shards_of(row: &RowKey, shards: u32) -> impl Iterator<Item = RowKey> {
    (0..shards).map(move |number| shard(row, number))
}

/// The shared row that this row is a shard of, by its key.
#[must_use]
pub fn sharded_row(shard: &str) -> Option<&str> {
    let (row, number) = shard.rsplit_once(INFIX)?;
    // As they are written: without a sign, and without zeros before it.
    (number.parse::<u32>().ok()?.to_string() == number).then_some(row)
}

fn shard(row: &RowKey, number: u32) -> RowKey {
    RowKey::from(format!("{row}{INFIX}{number}"))
}

/// Which shard an aggregate has is part of the stored data, so the hash is one that never changes: FNV-1a of 64 bits
/// (<http://www.isthe.com/chongo/tech/comp/fnv/>), folded, because the low bits alone depend only on the low bits of the text.
fn hash(text: &str) -> u32 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let [high, low] = [hash >> 32, hash & u64::from(u32::MAX)];
    u32::try_from(high ^ low).expect("it has 32 bits")
}

impl Change {
    /// The change with what goes to shared rows in the aggregate's shards of these rows. The aggregate's own row stays, for the message
    /// that it must not share with itself.
    pub(crate) fn in_shards(self, aggregate: &AggregateId, shards: u32) -> Self {
        self.map_shared_rows(|row| if row.as_str() == aggregate.as_str() { row.clone() } else { shard_for(row, aggregate, shards) })
    }

    /// The change that was spread over shards.
    pub(crate) fn out_of_shards(self) -> Self {
        self.map_shared_rows(|row| sharded_row(row.as_str()).map_or_else(|| row.clone(), RowKey::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_recognised_by_its_key() {
        assert_eq!(shard(&"food".into(), 7).as_str(), "food#shard-7");
        assert_eq!(sharded_row("food#shard-7"), Some("food"));
        assert_eq!(sharded_row("food#shard-7#shard-12"), Some("food#shard-7"));
        for other in ["food", "food#shard-", "food#shard-07", "food#shard-+7", "food#shard-x", "food#shard-4294967296"] {
            assert_eq!(sharded_row(other), None, "{other}");
        }
    }

    #[test]
    fn the_shard_of_an_aggregate_never_changes() {
        let shards = |id: &str| [2, 16, 99].map(|shards| shard_for(&"food".into(), &id.into(), shards).as_str().to_owned());
        assert_eq!(shards("topic-1"), ["food#shard-0", "food#shard-6", "food#shard-2"]);
        assert_eq!(shards(""), ["food#shard-1", "food#shard-1", "food#shard-8"]);
    }

    /// 16 shards and 1,600 aggregates: a fair choice gives each 100 with a standard deviation of 10.
    #[test]
    fn aggregates_of_similar_names_are_spread_evenly() {
        for prefix in ["", "topic-", "tenant#42#order#2026-"] {
            let mut found = [0; 16];
            for number in 0..1_600 {
                found[usize::try_from(hash(&format!("{prefix}{number}")) % 16).unwrap_or_default()] += 1;
            }
            assert!(found.iter().all(|of_shard| (60..=140).contains(of_shard)), "{prefix}: {found:?}");
        }
    }
}
