use std::{
    collections::{BTreeSet, btree_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{Given, given, one_by_one, splits};
use crate::{
    Change, Contributions, Decimal, DynProjection, Index, IndexKey, Projection, Recorded, RecordedEvent, Refusal, Registry, Value, child,
    data, nothing, own, sharded_row, shared, transfer,
};

/// Each event is one change, so that a test chooses the changes.
#[derive(serde::Deserialize)]
enum Event {
    Named { name: String },
    Counted { row: String },
    Raised { row: String, to: u64 },
    RaisedToText { row: String },
    Inserted { row: String },
    Owned { amount: Decimal },
    OwnedText {},
    GivenUp {},
    Moved { from: String, to: String },
    Reserved {},
    Keyed {},
    KeyedShared {},
    Unkeyed {},
    Flagged { row: String },
    Emptied {},
    Peeked {},
    Email { email: String },
    EmailRemoved {},
    EmailAdded {},
    EmailNumber {},
    EmailShared { row: String },
    EmailInserted { row: String },
    EmailRaised { row: String, to: String },
    EmailSetAndAdded {},
    Due { amount: Decimal },
    DueAdded { amount: Decimal },
    DueShared { row: String },
    DueRaised { row: String },
    DueText {},
    DueTextAdded {},
    DueFlag {},
    DueInserted { row: String },
    DueRaisedToText { row: String },
    Team { team: String },
    Traced {},
    Untraced {},
}

struct Anything;

impl Projection for Anything {
    type Event = Event;
    const NAME: &str = "anything";
    const KEY: &str = "id";
    const INDEXES: &[Index] = &[
        Index { name: "by-email", partition: &[IndexKey::Text("email")], sort: &[IndexKey::Text("id")], include: &[] },
        Index {
            name: "by-team",
            partition: &[IndexKey::Text("company"), IndexKey::Text("team")],
            sort: &[IndexKey::Number("due"), IndexKey::Text("id")],
            include: &[],
        },
    ];

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Event::Named { name } => own().set("name", name).into(),
            Event::Counted { row } => shared(row).add("n", 1).into(),
            Event::Raised { row, to } => shared(row).max("n", *to).into(),
            Event::RaisedToText { row } => shared(row).max("n", "high").into(),
            Event::Inserted { row } => shared(row).insert("n", event.aggregate.as_str()).into(),
            Event::Owned { amount } => own().add("n", amount).into(),
            Event::OwnedText {} => own().set("n", "text").into(),
            Event::GivenUp {} => own().remove("n").into(),
            Event::Moved { from, to } => transfer(from, to),
            Event::Reserved {} => own().set("version", 7).into(),
            Event::Keyed {} => own().set("id", "x").into(),
            Event::KeyedShared {} => shared("s").add("id", 1).into(),
            Event::Unkeyed {} => shared("").add("n", 1).into(),
            Event::Flagged { row } => shared(row).max("n", true).into(),
            Event::Emptied {} => own().set("n", Value::TextSet(BTreeSet::new())).into(),
            Event::Peeked {} => own().set("rows", event.row().len() as u64).into(),
            Event::Email { email } => own().set("email", email).into(),
            Event::EmailRemoved {} => own().remove("email").into(),
            Event::EmailAdded {} => own().add("email", 1).into(),
            Event::EmailNumber {} => own().set("email", 1).into(),
            Event::EmailShared { row } => shared(row).add("email", 1).into(),
            Event::EmailInserted { row } => shared(row).insert("email", "x").into(),
            Event::EmailRaised { row, to } => shared(row).max("email", to).into(),
            Event::EmailSetAndAdded {} => own().set("email", "a@example.org").add("email", 1).into(),
            Event::Due { amount } => own().set("due", amount).into(),
            Event::DueAdded { amount } => own().add("due", amount).into(),
            Event::DueShared { row } => shared(row).add("due", 1).into(),
            Event::DueRaised { row } => shared(row).max("due", 5).into(),
            Event::DueText {} => own().set("due", "5").into(),
            Event::DueTextAdded {} => own().set("due", "5").add("due", 1).into(),
            Event::DueFlag {} => own().set("due", true).into(),
            Event::DueInserted { row } => shared(row).insert("due", "5").into(),
            Event::DueRaisedToText { row } => shared(row).max("due", "5").into(),
            Event::Team { team } => own().set("team", team).into(),
            Event::Traced {} => {
                let user = event.metadata.and_then(|metadata| if let Value::Map(all) = metadata { all.get("user").cloned() } else { None });
                own().set("user", user.unwrap_or(Value::Null)).set("by", event.event_id).into()
            }
            Event::Untraced {} => nothing(),
        })
    }
}

fn panic_of<T>(test: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).err().expect("it panics");
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).expect("a message")
}

#[test]
fn an_event_type_that_the_rule_does_not_handle_is_refused_with_the_closest_name() {
    for (mistyped, guess) in [("Cuonted", "Counted"), ("counted", "Counted"), ("RaisedTotext", "RaisedToText"), ("Owne", "Owned")] {
        let message = panic_of(|| given(&Anything).event("a", mistyped, data! { row: "r" }));
        assert!(
            message.starts_with(&format!("`anything` does not handle `{mistyped}`: did you mean `{guess}`? It handles Named,")),
            "{message}"
        );
        assert!(message.ends_with("If it is to skip the event, use `skipped_event`"), "{message}");
    }
    let message = panic_of(|| given(&Anything).event("a", "MoneyWithdrawn", data! {}));
    assert!(message.starts_with("`anything` does not handle `MoneyWithdrawn`: It handles Named,"), "{message}");
}

#[test]
fn a_skipped_event_takes_a_version_and_must_not_be_handled() {
    let rows = given(&Anything).skipped_event("a", "Unrelated").event("a", "Named", data! { name: "x" }).rows();
    assert_eq!(rows, "a: name=x version=2\n");
    let message = panic_of(|| given(&Anything).skipped_event("a", "Named"));
    assert_eq!(message, "`anything` handles `Named`: give the test its data with `event`");
}

#[test]
fn a_rule_sees_the_event_id_and_the_metadata() {
    let rows = given(&Anything)
        .event("a", "Traced", data! {})
        .metadata(data! { user: "ann" })
        .event("b", "Traced", data! {})
        .event("b", "Untraced", data! {})
        .metadata(data! { user: "ben" })
        .rows();
    assert_eq!(rows, "a: by=a-1 user=ann version=1\nb: by=b-1 user=null version=2\n");
}

/// What the kit says of the last of these events; the ones before it must be applied.
fn refused(events: impl FnOnce(Given<'static>) -> Given<'static>) -> String {
    let given = events(given(&Anything));
    let last = given.facts.last().expect("there is an event");
    let (aggregate, data) = (last.aggregate.clone(), last.data.clone());
    let version = given.facts.iter().filter(|fact| fact.aggregate == aggregate).count();
    let message = given.refusal();
    let (event, reason) = message.split_once(": ").expect("a message names the event");
    assert_eq!(event, format!("{aggregate} {version}"), "{data:?}: {message}");
    reason.to_owned()
}

#[test]
fn what_the_worker_refuses_is_refused_with_attribute_and_row() {
    let two_owners = "`n` of row `r` has two owners, its own aggregate and one that shares the row: use two attributes";
    let two_kinds = "the rule writes to one attribute of a shared row by two of `add`, `max` and `insert`, or by `max` of different types, \
                     which do not commute: use two attributes (attribute `n` of row `r`)";
    let row = || data! { row: "r" };
    let raised = || data! { row: "r", to: 5 };
    let owned = || data! { amount: 1 };

    assert_eq!(refused(|given| given.event("r", "Owned", owned()).event("a", "Counted", row())), two_owners);
    assert_eq!(refused(|given| given.event("a", "Counted", row()).event("r", "Owned", owned())), two_owners);
    assert_eq!(refused(|given| given.event("a", "Raised", raised()).event("r", "GivenUp", data! {})), two_owners);
    let given_up = |given: Given<'static>| given.event("r", "Owned", owned()).event("r", "GivenUp", data! {});
    assert_eq!(refused(|given| given_up(given).event("a", "Inserted", row()),), two_owners, "a name that was once owned stays owned");
    let moved = |given: Given<'static>| given.event("r", "Owned", owned()).event("a", "Counted", data! { row: "q" });
    assert_eq!(refused(|given| moved(given).event("a", "Moved", data! { from: "q", to: "r" })), two_owners);

    assert_eq!(refused(|given| given.event("a", "Counted", row()).event("b", "Raised", raised())), two_kinds);
    assert_eq!(refused(|given| given.event("a", "Counted", row()).event("a", "Raised", raised())), two_kinds);
    assert_eq!(refused(|given| given.event("a", "Inserted", row()).event("b", "Counted", row())), two_kinds);
    assert_eq!(refused(|given| given.event("a", "Raised", raised()).event("b", "Inserted", row())), two_kinds);
    assert_eq!(refused(|given| given.event("a", "Raised", raised()).event("b", "RaisedToText", row())), two_kinds);
    let moved = |given: Given<'static>| given.event("a", "Raised", raised()).event("b", "Counted", data! { row: "q" });
    assert_eq!(refused(|given| moved(given).event("b", "Moved", data! { from: "q", to: "r" })), two_kinds);

    let itself = "the rule shares the aggregate's own row with itself: use `own()` for it";
    assert_eq!(refused(|given| given.event("r", "Counted", row())), format!("{itself} (attribute `n` of row `r`)"));
    assert_eq!(refused(|given| given.event("r", "Moved", data! { from: "q", to: "r" })), format!("{itself} (row `r`)"));

    let text = |given: Given<'static>| given.event("a", "OwnedText", data! {}).event("a", "Owned", data! { amount: 1 });
    assert_eq!(refused(text), "an amount was added to an attribute that is not a number (attribute `n` of row `a`)");
    let wide = || data! { amount: 99999999999999999999999999999999999999 };
    let sum = refused(|given| given.event("a", "Owned", wide()).event("a", "Owned", wide()));
    assert!(sum.starts_with("the sum is ") && sum.ends_with(" (attribute `n` of row `a`)"), "{sum}");
}

#[test]
fn what_dynamodb_refuses_is_refused_with_its_reason() {
    let index = "the attribute `email` is a key of the index `by-email`, which is a string that is not empty: the rule";
    let number = "the attribute `due` is a key of the index `by-team`, which is a number: the rule";
    let second = "the attribute `team` is a key of the index `by-team`, which is a string that is not empty: the rule";
    let row = || data! { row: "r" };
    for (event_type, data, expected) in [
        ("Reserved", data! {}, "the rule writes the attribute `version`, which the worker reserves: choose another name".to_owned()),
        ("Keyed", data! {}, "the rule writes the attribute `id`, which is the key of its rows: choose another name".to_owned()),
        ("KeyedShared", data! {}, "the rule writes the attribute `id`, which is the key of its rows: choose another name".to_owned()),
        ("Unkeyed", data! {}, "the rule writes to a shared row whose key is empty or longer than DynamoDB's 2,048 bytes".to_owned()),
        (
            "Emptied",
            data! {},
            "the rule writes a set without members, which DynamoDB does not hold: remove the attribute instead".to_owned(),
        ),
        (
            "Flagged",
            row(),
            "the rule uses `max` with a value that is neither a number nor a string: DynamoDB does not compare others".to_owned(),
        ),
        (
            "Peeked",
            data! {},
            "the rule calls `row()` and does not declare it: add `const READS_ROW: bool = true` to the projection".to_owned(),
        ),
        ("Email", data! { email: "" }, format!("{index} writes an empty string: remove the attribute instead")),
        ("EmailAdded", data! {}, format!("{index} uses `add`, which makes it a number")),
        ("EmailNumber", data! {}, format!("{index} writes a number")),
        ("EmailShared", row(), format!("{index} uses `add`, which makes it a number")),
        ("EmailInserted", row(), format!("{index} uses `insert`, which makes it a set")),
        ("EmailRaised", data! { row: "r", to: "" }, format!("{index} writes an empty string: remove the attribute instead")),
        ("EmailSetAndAdded", data! {}, format!("{index} uses `add`, which makes it a number")),
        ("DueText", data! {}, format!("{number} writes a string")),
        ("DueTextAdded", data! {}, format!("{number} writes a string")),
        ("DueFlag", data! {}, format!("{number} writes a value of another type")),
        ("DueInserted", row(), format!("{number} uses `insert`, which makes it a set")),
        ("DueRaisedToText", row(), format!("{number} writes a string")),
        ("Team", data! { team: "" }, format!("{second} writes an empty string: remove the attribute instead")),
    ] {
        assert_eq!(refused(|given| given.event("a", event_type, data)), expected, "{event_type}");
    }
    let long = Value::Map([("email".to_owned(), "x".repeat(2_049).into())].into());
    let expected = format!("{index} writes a string that is too long: a partition key has at most 2,048 bytes, a sort key 1,024");
    assert_eq!(refused(|given| given.event("a", "Email", long)), expected);
    let valid = given(&Anything)
        .event("a", "Email", data! { email: "a@example.org" })
        .event("a", "EmailRemoved", data! {})
        .event("b", "EmailRaised", data! { row: "r", to: "b@example.org" })
        .rows();
    assert_eq!(valid, "a: version=2\nb: version=1\nr: email=b@example.org\n");
    let numbers = given(&Anything)
        .event("a", "Due", data! { amount: 5 })
        .event("a", "DueAdded", data! { amount: 2.5 })
        .event("b", "DueAdded", data! { amount: 1 })
        .event("b", "DueShared", data! { row: "sum" })
        .event("b", "DueRaised", data! { row: "top" })
        .rows();
    assert_eq!(numbers, "a: due=7.5 version=2\nb: due=1 version=3\nsum: due=1\ntop: due=5\n");
    // A sum that no key can hold is none that any attribute can hold.
    let too_large = data! { amount: 99999999999999999999999999999999999999 };
    let reason = refused(|given| given.event("a", "Due", too_large).event("a", "DueAdded", data! { amount: 0.1 }));
    assert!(reason.contains("38"), "{reason}");
}

/// A rule that is not pure: it answers differently each time that it is asked.
struct Lawless;

#[derive(serde::Deserialize)]
enum Tick {
    Tick {},
}

impl Projection for Lawless {
    type Event = Tick;
    const NAME: &str = "lawless";
    const KEY: &str = "id";

    fn project(&self, event: &Recorded<'_, Tick>) -> Result<Change, Refusal> {
        static ASKED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let Tick::Tick {} = event.event;
        Ok(own().set("asked", ASKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).into())
    }
}

#[test]
fn rows_that_depend_on_the_batches_are_refused() {
    for events in [1, 100] {
        let ticks = (0..events).fold(given(&Lawless), |given, _| given.event("a", "Tick", data! {}));
        let message = panic_of(|| ticks.rows());
        assert!(message.contains("the rows depend on how the events are split into batches"), "{message}");
    }
}

#[test]
fn a_short_history_is_split_everywhere_and_a_long_one_at_powers_of_two_and_near_its_end() {
    assert_eq!(splits(0), [0].into());
    assert_eq!(splits(64), (0..=64).collect());
    let from_either_end = [0, 1, 2, 4, 8, 16, 32, 36, 64, 68, 84];
    assert_eq!(splits(100), from_either_end.into_iter().chain(92..=100).collect());
    assert!(splits(500).len() < 30);
}

struct Invalid<const CASE: usize>;

use IndexKey::{Number, Text};

/// The table's key, the keys of its index `by-x`, and what is said of them.
type InvalidCase = (&'static str, &'static [IndexKey], &'static [IndexKey], &'static str);

const ID: IndexKey = Text("id");
const INVALID: [InvalidCase; 14] = [
    ("id", &[Text("version")], &[ID], "`version` cannot be a key of the index `by-x` of `invalid`"),
    ("id", &[Text("x")], &[Text("lastEventId")], "`lastEventId` cannot be a key of the index `by-x` of `invalid`"),
    ("id", &[Text("contributed#x")], &[ID], "`contributed#x` cannot be a key of the index `by-x` of `invalid`"),
    ("id", &[Text("")], &[ID], "`` cannot be a key of the index `by-x` of `invalid`"),
    ("id", &[Text("x")], &[Text("x")], "the index `by-x` of `invalid` has `x` twice among its keys"),
    ("revision", &[Text("x")], &[ID], "`revision` cannot be the key of `invalid`: the worker reserves that attribute"),
    ("a#b", &[Text("x")], &[ID], "`a#b` cannot be the key of `invalid`: a name must not be empty or contain `#`"),
    ("id", &[], &[ID], "the index `by-x` of `invalid` has no partition key"),
    ("id", &[Text("x"), Text("y"), Text("x")], &[ID], "the index `by-x` of `invalid` has `x` twice among its keys"),
    ("id", &[Text("x")], &[Text("y"), Number("revision")], "`revision` cannot be a key of the index `by-x` of `invalid`"),
    (
        "id",
        &[Text("a"), Text("b"), Text("c"), Text("d"), Text("e")],
        &[ID],
        "the partition key of the index `by-x` of `invalid` has 5 attributes: four are the most",
    ),
    (
        "id",
        &[Text("x")],
        &[Text("a"), Number("b"), Text("c"), Text("d"), ID],
        "the sort key of the index `by-x` of `invalid` has 5 attributes: four are the most",
    ),
    (
        "id",
        &[Text("x")],
        &[Number("id")],
        "`id` of `invalid` is a string that is not empty as one key and a number as another, in the index `by-x`",
    ),
    (
        "id",
        &[Number("y"), Text("x")],
        &[ID],
        "`y` of `invalid` is a number as one key and a string that is not empty as another, in the index `by-y`",
    ),
];

impl<const CASE: usize> Projection for Invalid<CASE> {
    type Event = Tick;
    const NAME: &str = "invalid";
    const KEY: &str = INVALID[CASE].0;
    const INDEXES: &[Index] = &[
        Index { name: "by-x", partition: INVALID[CASE].1, sort: INVALID[CASE].2, include: &[] },
        Index { name: "by-y", partition: &[Text("y")], sort: &[], include: &[] },
    ];

    fn project(&self, _: &Recorded<'_, Tick>) -> Result<Change, Refusal> {
        Ok(nothing())
    }
}

#[test]
fn constants_that_no_table_can_have_are_refused_by_the_kit_and_by_the_registry() {
    const RULES: [&[&dyn DynProjection]; 14] = [
        &[&Invalid::<0>],
        &[&Invalid::<1>],
        &[&Invalid::<2>],
        &[&Invalid::<3>],
        &[&Invalid::<4>],
        &[&Invalid::<5>],
        &[&Invalid::<6>],
        &[&Invalid::<7>],
        &[&Invalid::<8>],
        &[&Invalid::<9>],
        &[&Invalid::<10>],
        &[&Invalid::<11>],
        &[&Invalid::<12>],
        &[&Invalid::<13>],
    ];
    for (rules, (.., expected)) in RULES.into_iter().zip(INVALID) {
        for message in [panic_of(|| given(rules[0])), panic_of(|| Registry::new(rules))] {
            assert!(message.starts_with(expected), "{message}");
        }
    }
}

// Shards.

/// A shared row with a number of shards, and an index of an attribute that only home rows have, or of one that it adds to.
struct Votes<const SHARDS: u32, const INDEXED: bool>;

#[derive(serde::Deserialize)]
enum Vote {
    Cast { choice: String },
    Changed { from: String, to: String },
}

impl<const SHARDS: u32, const INDEXED: bool> Projection for Votes<SHARDS, INDEXED> {
    type Event = Vote;
    const NAME: &str = "votes";
    const KEY: &str = "id";
    const SHARDS: u32 = SHARDS;
    const INDEXES: &[Index] =
        &[Index { name: "by-choice", partition: &[Text("choice")], sort: &[], include: if INDEXED { &["votes"] } else { &[] } }];

    fn project(&self, event: &Recorded<'_, Vote>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Vote::Cast { choice } => {
                let voter = event.aggregate.as_str();
                own().set("choice", choice).and(shared(choice).add("votes", 1).max("last", event.timestamp).insert("voters", voter))
            }
            Vote::Changed { from, to } => own().set("choice", to).and(transfer(from, to)),
        })
    }
}

fn votes<const SHARDS: u32>(rule: &Votes<SHARDS, false>) -> Given<'_> {
    let all = (0..20).map(|number| (format!("voter-{number}"), number % 3 == 0));
    let cast = all.fold(given(rule), |votes, (voter, yes)| {
        votes.event(
            &voter,
            "Cast",
            if yes {
                data! { choice: "yes" }
            } else {
                data! { choice: "no" }
            },
        )
    });
    cast.event("voter-3", "Changed", data! { from: "yes", to: "no" })
}

#[test]
fn a_test_shows_a_row_and_not_its_shards() {
    assert_eq!(votes(&Votes::<7, false>).rows(), votes(&Votes::<1, false>).rows());
}

/// What the worker writes: each aggregate contributes to one shard of each row, and together the shards have what the row would have.
#[test]
fn shards_together_are_the_row() {
    let rows_of = |rule: &dyn DynProjection, events: &[RecordedEvent]| one_by_one(rule, events).expect("nothing is refused");
    let (sharded, whole) = (&Votes::<7, false>, &Votes::<1, false>);
    let events = votes(whole).recorded();
    let (in_shards, whole) = (rows_of(sharded, &events), rows_of(whole, &events));
    let mut together = Contributions::new();
    for ((shard, attribute), contribution) in &in_shards.shared {
        let row = sharded_row(shard.as_str()).expect("nothing is contributed to the row itself");
        match together.entry((row.into(), attribute.clone())) {
            Entry::Vacant(entry) => _ = entry.insert(contribution.clone()),
            Entry::Occupied(mut entry) => entry.get_mut().combine(contribution).expect("of one kind"),
        }
    }
    assert_eq!(together, whole.shared);
    let shards: BTreeSet<_> = in_shards.shared.keys().map(|(shard, _)| shard).collect();
    assert!(shards.len() > 10, "they are spread: {shards:?}");
    for (aggregate, home) in &in_shards.home {
        let cells = home.contributions.keys().chain(&home.left);
        let numbers: BTreeSet<_> = cells.map(|(shard, _)| shard.as_str().rsplit_once('-').expect("a shard").1).collect();
        assert_eq!(numbers.len(), 1, "{aggregate} contributes to the same shard of each row");
    }
}

#[test]
fn what_shards_cannot_have_is_refused() {
    let cast = |rule: &dyn DynProjection, voter: &str| given(rule).event(voter, "Cast", data! { choice: "yes" }).refusal();
    assert_eq!(
        cast(&Votes::<2, true>, "voter"),
        "voter 1: the rule writes the attribute `votes`, which is in the index `by-choice`, to a shared row, of which each shard has only a \
         part: leave the attribute out of the index, or set `SHARDS` to 1"
    );
    assert_eq!(
        cast(&Votes::<2, false>, "voter#shard-1"),
        "voter#shard-1 1: the aggregate's id ends in `#shard-` and a number, like the key of a shard: set `SHARDS` of the projection to 1"
    );
    assert_eq!(
        cast(&Votes::<2, false>, "yes"),
        "yes 1: the rule shares the aggregate's own row with itself: use `own()` for it (attribute `votes` of row `yes`)"
    );
    // Without shards all but the last is possible.
    for voter in ["voter", "voter#shard-1"] {
        assert!(given(&Votes::<1, true>).event(voter, "Cast", data! { choice: "yes" }).rows().contains("votes=1"));
    }
    for (rule, number) in [(&Votes::<0, false> as &dyn DynProjection, 0), (&Votes::<100, false>, 100)] {
        let message = panic_of(|| given(rule));
        assert_eq!(message, format!("`votes` has {number} shards: a shared row has 1, or at most 99"));
    }
    drop(given(&Votes::<99, false>));
}

// Child rows.

/// Lists under an aggregate's row. Without `DECLARED` it does not say so.
struct Lists<const DECLARED: bool>;

#[derive(serde::Deserialize)]
enum Line {
    Put { line: String, text: String },
    Marked { line: String },
    Dropped { line: String },
    Keyed { line: String, name: String },
}

impl<const DECLARED: bool> Projection for Lists<DECLARED> {
    type Event = Line;
    const NAME: &str = "lists";
    const KEY: &str = "id";
    const CHILDREN: Option<&str> = if DECLARED { Some("line") } else { None };
    const INDEXES: &[Index] = &[Index { name: "by-text", partition: &[Text("text")], sort: &[Text("line")], include: &[] }];

    fn project(&self, event: &Recorded<'_, Line>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Line::Put { line, text } => own().add("lines", 1).and(child(line).set("text", text)),
            Line::Marked { line } => child(line).set("marked", true).into(),
            Line::Dropped { line } => own().add("lines", -1).and(child(line).remove()),
            Line::Keyed { line, name } => child(line).set(name, 1).into(),
        })
    }
}

#[test]
fn child_rows_follow_their_home_row_and_do_not_depend_on_batches() {
    let rows = given(&Lists::<true>)
        .event("b", "Put", data! { line: "2", text: "two" })
        .event("a", "Put", data! { line: "1", text: "one" })
        .event("a", "Marked", data! { line: "1" })
        .event("b", "Put", data! { line: "1", text: "one" })
        .event("a", "Dropped", data! { line: "1" })
        .event("a", "Put", data! { line: "1", text: "again" })
        .event("b", "Marked", data! { line: "2" })
        .rows();
    assert_eq!(rows, "a: lines=1 version=4\na/1: text=again\nb: lines=2 version=3\nb/1: text=one\nb/2: marked=true text=two\n");
}

#[test]
fn what_no_child_row_can_hold_is_refused_by_name() {
    let refused = |event_type: &'static str, data: Value| given(&Lists::<true>).event("a", event_type, data).refusal();
    for (line, shown) in [("", "``"), ("!", "`!`"), (" 1", "` 1`")] {
        let refusal = refused("Dropped", Value::Map([("line".to_owned(), line.into())].into()));
        assert!(refusal.contains("does not sort after `!`") && refusal.ends_with(&format!("(child row {shown})")), "{refusal}");
    }
    for (name, reason) in [
        ("id", "attribute `id`, which is the key of its rows"),
        ("line", "attribute `line`, which is the key of its rows"),
        ("version", "attribute `version`, which the worker reserves"),
        ("a#b", "name is empty or contains `#`"),
    ] {
        let refusal = refused("Keyed", Value::Map([("line".to_owned(), "1".into()), ("name".to_owned(), name.into())].into()));
        assert!(refusal.contains(reason), "{refusal}");
    }
    let indexed = refused("Put", data! { line: "1", text: "" });
    assert!(indexed.contains("`text` is a key of the index `by-text`"), "{indexed}");
    let undeclared = given(&Lists::<false>).event("a", "Dropped", data! { line: "1" }).refusal();
    assert!(undeclared.contains("writes child rows and does not declare them: add `const CHILDREN"), "{undeclared}");
}

#[test]
fn the_sort_key_of_child_rows_must_be_a_name_of_its_own() {
    struct Wrong;
    impl Projection for Wrong {
        type Event = Line;
        const NAME: &str = "wrong";
        const KEY: &str = "id";
        const CHILDREN: Option<&str> = Some("id");

        fn project(&self, _: &Recorded<'_, Line>) -> Result<Change, Refusal> {
            Ok(nothing())
        }
    }
    let panic = catch_unwind(|| Registry::new(&[&Wrong])).map(drop).expect_err("refused");
    assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains("`id` cannot be the sort key of `wrong`")));
}
