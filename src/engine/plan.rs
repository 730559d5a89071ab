//! Which writes go together. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    engine::{
        lane::{Lane, Write},
        mostly_one::push,
        shares::go_together,
    },
    store::limits::{TRANSACTION_ACTIONS_MAX, TRANSACTION_BYTES_MAX},
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
    let mut joined = Joined((0..planned.len()).collect());
    let mut first_of_row: HashMap<(&'static str, &str), usize> = HashMap::new();
    for (at, Planned { lane, write }) in planned.iter().enumerate() {
        let rows = write.shares.keys().map(|(row, _)| row.as_str()).chain([lane.aggregate.as_str()]);
        for row in rows {
            let first = *first_of_row.entry((lane.rule.name(), row)).or_insert(at);
            joined.join(first, at);
        }
    }
    let mut groups: BTreeMap<usize, Vec<Planned>> = BTreeMap::new();
    let first: Vec<_> = (0..planned.len()).map(|at| joined.first(at)).collect();
    for (first, planned) in first.into_iter().zip(planned) {
        push(groups.entry(first).or_default(), planned);
    }
    groups.into_values().collect()
}

/// Sets of writes, each known by the first of them: a write leads to an earlier one of its set, or to itself if it is the first.
struct Joined(Vec<usize>);

impl Joined {
    fn first(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            // Halves the way for the next who asks.
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first(one), self.first(other));
        self.0[one.max(other)] = one.min(other);
    }
}

/// Splits the writes of a group into transactions: at most 100 actions, no row twice, each attribute combined in one way, and no more
/// bytes than a transaction holds. A write without shared rows stands alone.
#[must_use]
pub fn pack(planned: Vec<Planned>) -> Vec<Vec<Planned>> {
    // Most groups are a single write.
    if planned.len() == 1 {
        return vec![planned];
    }
    let (alone, with_shared): (Vec<_>, Vec<_>) = planned.into_iter().partition(|planned| planned.write.shares.is_empty());
    let mut packs: Vec<_> = alone.into_iter().map(|write| vec![write]).collect();
    let mut pack: Vec<Planned> = Vec::new();
    let (mut homes, mut shared): (HashSet<String>, HashSet<String>) = Default::default();
    let mut kinds = BTreeMap::new();
    // Child rows are under the key of a home row, so none of them is another's.
    let (mut children, mut bytes) = (0, 0);
    for planned in with_shared {
        let home = planned.lane.aggregate.to_string();
        let rows: HashSet<String> = planned.write.shares.keys().map(|(row, _)| row.to_string()).collect();
        let (more_children, more_bytes) = (planned.write.home.children().len(), planned.write.child_bytes());
        let actions = homes.len() + 1 + shared.union(&rows).count() + children + more_children;
        let twice = shared.contains(&home) || homes.iter().any(|home| rows.contains(home));
        let fits = actions <= TRANSACTION_ACTIONS_MAX
            && bytes + more_bytes <= TRANSACTION_BYTES_MAX
            && !twice
            && go_together(&kinds, &planned.write.shares);
        if !pack.is_empty() && !fits {
            packs.push(std::mem::take(&mut pack));
            homes.clear();
            shared.clear();
            kinds.clear();
            (children, bytes) = (0, 0);
        }
        children += more_children;
        bytes += more_bytes;
        kinds.extend(planned.write.shares.iter().map(|(cell, share)| (cell.clone(), share.kind)));
        homes.insert(home);
        shared.extend(rows);
        pack.push(planned);
    }
    if !pack.is_empty() {
        packs.push(pack);
    }
    packs
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use projection_vocabulary::{
        Change, ChildOp, DynProjection, Projection, Recorded, Refusal, Value, own,
        sample::{Fact, record},
        shared,
    };
    use serde::Deserialize;

    use super::*;
    use crate::engine::lane::Step;

    /// Guests and rooms: a stay writes to the guest's row, and to the rows of rooms or of other guests.
    struct Stays;
    /// The same rule with rows of its own.
    struct Others;

    #[derive(Deserialize)]
    enum Event {
        /// Changes the home row only.
        Renamed {},
        /// Adds to these shared rows.
        Stayed { rooms: Vec<String> },
        /// Changes these shared rows by monotone operations only.
        Rated { room: String, by: String },
    }

    fn change(event: &Event) -> Change {
        match event {
            Event::Renamed {} => own().add("names", 1).into(),
            Event::Stayed { rooms } => {
                rooms.iter().fold(own().add("stays", 1).into(), |all: Change, room| all.and(shared(room).add("nights", 2)))
            }
            Event::Rated { room, by } => shared(room).max("best", 5).and(shared(by).insert("rated", room.as_str())),
        }
    }

    impl Projection for Stays {
        type Event = Event;
        const NAME: &str = "stays";
        const KEY: &str = "id";

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            Ok(change(&event.event))
        }
    }

    impl Projection for Others {
        type Event = Event;
        const NAME: &str = "others";
        const KEY: &str = "id";

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            Ok(change(&event.event))
        }
    }

    fn planned_by(rule: &'static dyn DynProjection, guest: &str, event_type: &'static str, fields: Vec<(&str, Value)>) -> Planned {
        let data = Value::Map(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
        let mut lane = Lane::new(rule, guest.into());
        for event in record([Fact { aggregate: guest.into(), event_type, data }]) {
            lane.push_event(&Arc::new(event), 0);
        }
        assert!(lane.prepare());
        let Step::Write(write) = lane.step() else { panic!("a first event is written without reading the row") };
        Planned { lane, write }
    }

    fn renamed(guest: &str) -> Planned {
        planned_by(&Stays, guest, "Renamed", vec![])
    }

    fn stayed_by(rule: &'static dyn DynProjection, guest: &str, rooms: &[&str]) -> Planned {
        let rooms = rooms.iter().map(|room| Value::from(*room)).collect();
        planned_by(rule, guest, "Stayed", vec![("rooms", Value::List(rooms))])
    }

    fn stayed(guest: &str, rooms: &[&str]) -> Planned {
        stayed_by(&Stays, guest, rooms)
    }

    fn rated(guest: &str, room: &str, by: &str) -> Planned {
        planned_by(&Stays, guest, "Rated", vec![("room", room.into()), ("by", by.into())])
    }

    /// A guest who stayed in this number of rooms that nobody else stayed in.
    fn traveller(guest: &str, rooms: usize) -> Planned {
        let rooms: Vec<_> = (0..rooms).map(|room| format!("{guest}-{room}")).collect();
        stayed(guest, &rooms.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn guests(parts: &[Vec<Planned>]) -> Vec<Vec<&str>> {
        parts.iter().map(|part| part.iter().map(|planned| planned.lane.aggregate.as_str()).collect()).collect()
    }

    /// The shared rows that a write adds to.
    fn added_rows(planned: &Planned) -> Vec<&str> {
        planned.write.shares.keys().map(|(row, _)| row.as_str()).collect()
    }

    // Groups.

    #[test]
    fn writes_that_have_no_row_in_common_are_groups_of_their_own() {
        let groups = group(vec![renamed("ann"), stayed("bob", &["12"]), stayed("cid", &["13", "14"]), rated("dan", "15", "16")]);
        assert_eq!(guests(&groups), [["ann"], ["bob"], ["cid"], ["dan"]]);
    }

    #[test]
    fn writes_of_one_shared_row_are_one_group() {
        let groups = group(vec![stayed("ann", &["12"]), stayed("bob", &["13"]), stayed("cid", &["12"])]);
        assert_eq!(guests(&groups), [vec!["ann", "cid"], vec!["bob"]]);
    }

    #[test]
    fn monotone_changes_of_one_shared_row_are_one_group_too() {
        let maximum = group(vec![rated("ann", "12", "x"), rated("bob", "12", "y")]);
        assert_eq!(guests(&maximum), [["ann", "bob"]]);
        let set = group(vec![rated("ann", "12", "x"), rated("bob", "13", "x")]);
        assert_eq!(guests(&set), [["ann", "bob"]]);
    }

    #[test]
    fn a_write_to_the_home_row_of_another_joins_its_group() {
        assert_eq!(guests(&group(vec![renamed("bob"), stayed("ann", &["bob"])])), [["bob", "ann"]]);
        assert_eq!(guests(&group(vec![stayed("ann", &["bob"]), renamed("bob")])), [["ann", "bob"]]);
    }

    #[test]
    fn a_write_that_touches_two_groups_makes_them_one() {
        let two = || vec![stayed("ann", &["12"]), stayed("bob", &["13"]), renamed("cid")];
        assert_eq!(guests(&group(two())), [["ann"], ["bob"], ["cid"]]);
        let joined = two().into_iter().chain([stayed("dan", &["12", "13"]), stayed("eve", &["bob"]), stayed("fay", &["12"])]);
        assert_eq!(guests(&group(joined.collect())), [vec!["ann", "bob", "dan", "eve", "fay"], vec!["cid"]]);
    }

    #[test]
    fn rows_of_two_projections_differ_even_if_their_keys_are_equal() {
        let groups = group(vec![stayed("ann", &["12"]), stayed_by(&Others, "ann", &["12"])]);
        assert_eq!(guests(&groups), [["ann"], ["ann"]]);
    }

    /// Four guests, each of whom stays with one of the others or in the one room: all combinations.
    #[test]
    fn no_row_is_in_two_groups_and_no_row_is_twice_in_a_transaction() {
        let guests = ["ann", "bob", "cid", "dan"];
        let rooms = ["ann", "bob", "cid", "dan", "12"];
        for choice in 0..rooms.len().pow(4) {
            let room = |at: u32| rooms[choice / rooms.len().pow(at) % rooms.len()];
            let planned = (0..).zip(guests).filter(|(at, guest)| room(*at) != *guest).map(|(at, guest)| stayed(guest, &[room(at)]));
            let planned: Vec<_> = planned.collect();
            let count = planned.len();
            let mut seen = HashSet::new();
            let mut packed = 0;
            for group in group(planned) {
                let rows: HashSet<_> = group.iter().flat_map(rows).collect();
                assert!(rows.into_iter().all(|row| seen.insert(row)), "choice {choice}: a row is in two groups");
                for pack in pack(group) {
                    let homes: HashSet<_> = pack.iter().map(|planned| planned.lane.aggregate.as_str()).collect();
                    assert_eq!(homes.len(), pack.len(), "choice {choice}");
                    let twice = pack.iter().flat_map(added_rows).any(|row| homes.contains(row));
                    assert!(!twice, "choice {choice}: a row is twice in a transaction");
                    packed += pack.len();
                }
            }
            assert_eq!(packed, count, "choice {choice}: every write is in one transaction");
        }
    }

    fn rows(planned: &Planned) -> Vec<String> {
        added_rows(planned).into_iter().chain([planned.lane.aggregate.as_str()]).map(str::to_owned).collect()
    }

    // Transactions.

    #[test]
    fn a_write_without_shared_rows_stands_alone() {
        let packs = pack(vec![renamed("ann"), stayed("bob", &["12"]), rated("cid", "12", "x"), stayed("dan", &["12"]), renamed("eve")]);
        assert_eq!(guests(&packs), [vec!["ann"], vec!["eve"], vec!["bob", "cid", "dan"]]);
    }

    #[test]
    fn a_transaction_holds_99_guests_of_one_room() {
        for (count, sizes) in [(99, vec![99]), (100, vec![99, 1]), (198, vec![99, 99]), (199, vec![99, 99, 1])] {
            let planned = (0..count).map(|at| stayed(&format!("guest-{at}"), &["12"])).collect();
            assert_eq!(pack(planned).iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        }
    }

    #[test]
    fn home_rows_and_shared_rows_of_a_transaction_are_at_most_100() {
        let actions = |pack: &Vec<Planned>| pack.iter().flat_map(rows).collect::<HashSet<_>>().len();
        // One guest and 59 rooms, and one guest and 39 rooms.
        let full = pack(vec![traveller("ann", 59), traveller("bob", 39)]);
        assert_eq!(full.iter().map(actions).collect::<Vec<_>>(), [100]);
        let over = pack(vec![traveller("ann", 59), traveller("bob", 40), traveller("cid", 58)]);
        assert_eq!(over.iter().map(actions).collect::<Vec<_>>(), [60, 100], "the next transaction begins empty");
        let widest = pack(vec![traveller("ann", 99), traveller("bob", 1)]);
        assert_eq!(widest.iter().map(actions).collect::<Vec<_>>(), [100, 2]);
    }

    #[test]
    fn child_rows_count_as_actions_and_their_bytes_do_too() {
        let with_children = |guest: &str, children: usize, bytes: usize| {
            let mut planned = stayed(guest, &["12"]);
            let row = |_| ChildOp::Replace([("text".to_owned(), "x".repeat(bytes).into())].into());
            let children = (0..children).map(|at| (Arc::from(format!("{at:05}")), row(at)));
            planned.write.home = planned.write.home.with_children(children.collect());
            planned
        };
        let sizes = |planned: Vec<Planned>| pack(planned).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![with_children("ann", 48, 1), with_children("bob", 49, 1)]), [2]);
        assert_eq!(sizes(vec![with_children("ann", 49, 1), with_children("bob", 49, 1)]), [1, 1]);
        assert_eq!(sizes((0..10).map(|at| with_children(&format!("guest-{at}"), 3, 300_000)).collect()), [3, 3, 3, 1]);
    }

    #[test]
    fn a_transaction_never_has_a_row_as_home_row_and_as_shared_row() {
        // Ann stays with bob, whose own write follows, or comes first.
        assert_eq!(guests(&pack(vec![stayed("ann", &["bob"]), stayed("bob", &["12"])])), [["ann"], ["bob"]]);
        assert_eq!(guests(&pack(vec![stayed("bob", &["12"]), stayed("ann", &["bob"])])), [["bob"], ["ann"]]);
        // The next transaction begins with the write that did not fit.
        let packs = pack(vec![stayed("ann", &["bob"]), stayed("bob", &["12"]), stayed("cid", &["12"]), stayed("12", &["ann"])]);
        assert_eq!(guests(&packs), [vec!["ann"], vec!["bob", "cid"], vec!["12"]]);
    }
}
