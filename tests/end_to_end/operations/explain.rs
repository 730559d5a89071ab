//! What each event did to a row, and who made a shared attribute: under rules that do everything that a rule may do.

use std::collections::BTreeMap;

use projection_vocabulary::{AggregateId, Contribution, DynProjection, RecordedEvent, Registry, Rows, Value, Version, data};
use projection_worker::internals::{
    operations::explain::{Compared, Contributors, Did, Step, Telling, Told, Until, contributors, standing, tell},
    retry::Deadline,
};

use crate::support::{
    projections::{LIFTED, STATEMENTS, STAYS_1, STAYS_2, UNCURSED, UNUSUAL},
    stays::{stays, world_of_stays},
    world::{Fault, World, recorded},
};

async fn told(world: &World, rule: &'static dyn DynProjection, id: &AggregateId, from: u64, until: &Until) -> (Vec<Step>, Told) {
    let mut steps = Vec::new();
    let told = tell(world.worker.store(), rule, id, (Version(from), until), Deadline::NONE, |step| steps.push(step)).await;
    (steps, told.expect("nothing fails"))
}

/// The changes of a step: `attribute from → to`, with the shared row in front.
fn changes(step: &Step) -> Vec<String> {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let own = step.changes.iter().map(|differs| {
        let of = differs.contributed_to.as_ref().map_or_else(String::new, |(row, _)| format!("{row}:"));
        format!("{of}{} {} → {}", differs.attribute, value(&differs.from), value(&differs.to))
    });
    let children = step.children.iter().flat_map(|(sort, changes)| {
        changes.iter().map(move |differs| format!("{sort}/{} {} → {}", differs.attribute, value(&differs.from), value(&differs.to)))
    });
    own.chain(children).collect()
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

async fn of_attribute(
    world: &World,
    rule: &dyn DynProjection,
    row: &str,
    attribute: &str,
    after: Option<&str>,
    most: usize,
) -> Contributors {
    let (cell, after) = ((row.into(), attribute.to_owned()), after.map(AggregateId::from));
    let rule = world.worker.registry().get(rule.name()).expect("a projection");
    contributors(world.worker.store(), rule, &cell, (after.as_ref(), most), Deadline::NONE).await.expect("nothing fails")
}

/// Whatever the rule and the version: the row that is told is the fold of the events up to there, the steps lead to it one after the
/// other, and the stored row is right.
#[tokio::test]
async fn the_steps_lead_to_the_fold_at_every_version() {
    let events = stays(31, 120, 5, 1);
    let world = world_of_stays(&events).await;
    let rule = world.worker.registry().projections()[0];
    let mut by_aggregate: BTreeMap<&AggregateId, Vec<&RecordedEvent>> = BTreeMap::new();
    for event in &events {
        by_aggregate.entry(&event.aggregate).or_default().push(event);
    }
    for (id, history) in by_aggregate {
        let (steps, whole) = told(&world, rule, id, 1, &Until::Head).await;
        assert_eq!((steps.len(), whole.last), (history.len(), Version(history.len() as u64)));
        let mut rows = Rows::default();
        for (step, event) in steps.iter().zip(&history) {
            let before = rows.home.get(id).cloned().unwrap_or_default();
            rows.fold(rule, event).expect("a valid event");
            let after = rows.home.get(id).cloned().unwrap_or_default();
            assert_eq!((step.version, step.event.as_deref()), (event.version, Some(*event)));
            assert_eq!(step.did, if &*event.event_type == "Complained" { Did::Irrelevant } else { Did::Applied });
            for differs in &step.changes {
                if differs.contributed_to.is_none() {
                    assert_eq!(
                        (&differs.from, &differs.to),
                        (&before.own.get(&differs.attribute).cloned(), &after.own.get(&differs.attribute).cloned())
                    );
                }
            }
            let changed = before.own != after.own || before.contributions != after.contributions || before.left != after.left;
            assert_eq!(!step.changes.is_empty(), changed, "{step:?}");
            let (_, then) = told(&world, rule, id, u64::MAX, &Until::Version(event.version)).await;
            assert_eq!(then.row, after);
            let standing = standing(world.worker.store(), rule, id, &then, Deadline::NONE).await.expect("nothing fails");
            assert_eq!((standing.is, standing.stored.version), (Compared::Right, whole.row.version));
        }
        // A window of it tells the same, whatever comes before it.
        let (window, _) = told(&world, rule, id, 3, &Until::Version(Version(5))).await;
        let of = |steps: &[Step]| -> Vec<_> { steps.iter().map(|step| (step.version, changes(step))).collect() };
        assert_eq!(of(&window), of(&steps[2..steps.len().min(5)]));
    }
}

#[tokio::test]
async fn sums_maxima_and_sets_are_told_as_contributions() {
    let came = |id, page: &str, spent: u64| (id, "Came", fields([("page", page.into()), ("spent", spent.into())]));
    let events = recorded([came("ann", "home", 3), came("ann", "home", 2), came("ben", "home", 9), ("ann", "Left", data! {})]);
    let world = World::with(Registry::new(UNUSUAL)).await;
    world.append_all(&events).await;
    world.process(&events).await;
    let visits = UNUSUAL[1];
    let (steps, _) = told(&world, visits, &"ann".into(), 1, &Until::Head).await;
    let first = ["home:longest none → 3", "home:spent none → 3", "home:visitors none → [\"ann\"]", "home:visits none → 1"];
    assert_eq!(changes(&steps[0]), first);
    assert_eq!(changes(&steps[1]), ["home:spent 3 → 5", "home:visits 1 → 2"], "a lower value raises no maximum");
    assert!(steps[2].did == Did::Applied && changes(&steps[2]).is_empty());

    let longest = of_attribute(&world, visits, "home", "longest", None, 9).await;
    assert_eq!(
        (longest.shows.clone(), longest.together.clone(), longest.agree()),
        (Some(9.into()), Some(Contribution::Max(9.into())), true)
    );
    assert_eq!(longest.named, [("ann".into(), Contribution::Max(3.into())), ("ben".into(), Contribution::Max(9.into()))]);
    let visitors = of_attribute(&world, visits, "home", "visitors", None, 1).await;
    assert_eq!((visitors.named.len(), visitors.others, visitors.agree()), (1, 1, true));
    let rest = of_attribute(&world, visits, "home", "visitors", Some("ann"), 1).await;
    assert_eq!((rest.named[0].0.as_str(), rest.others, rest.together == visitors.together), ("ben", 0, true));
    let nothing = of_attribute(&world, visits, "home", "title", None, 1).await;
    assert!(nothing.shows.is_none() && nothing.named.is_empty() && nothing.together.is_none() && nothing.agree());
}

/// What is taken back stays visible as a zero, to which nobody contributes.
#[tokio::test]
async fn a_sum_that_was_taken_back_is_made_by_nobody_and_agrees() {
    let world = World::with(Registry::new(LIFTED)).await;
    let came = |id| (id, "Came", data! { page: "home", spent: 3 });
    let events = recorded([came("ann"), ("ann", "Cursed", data! {})]);
    world.append_all(&events).await;
    world.process(&events).await;
    let (steps, _) = told(&world, LIFTED[0], &"ann".into(), 2, &Until::Head).await;
    assert_eq!(changes(&steps[0]), ["curses none → 1", "home:spent 3 → 0", "home:visits 1 → 0"]);
    let visits = of_attribute(&world, LIFTED[0], "home", "visits", None, 9).await;
    assert_eq!((visits.shows.clone(), visits.named.len(), visits.agree()), (Some(0.into()), 0, true), "{visits:?}");
}

#[tokio::test]
async fn child_rows_are_told_where_they_change() {
    let moved = |at: &str, amount: u64| ("acc", "Moved", fields([("at", at.into()), ("amount", amount.into())]));
    let events = recorded([moved("a", 1), moved("b", 2), moved("a", 5), moved("a", 5), ("acc", "Erased", data! { at: "b" })]);
    let world = World::with(Registry::new(STATEMENTS)).await;
    world.append_all(&events).await;
    world.process(&events).await;
    let (steps, end) = told(&world, STATEMENTS[0], &"acc".into(), 1, &Until::Head).await;
    let all: Vec<_> = steps.iter().map(changes).collect();
    assert_eq!(all[0], ["movements none → 1", "a/amount none → 1", "a/kind none → MOVED"]);
    assert_eq!(all[2], ["movements 2 → 3", "a/amount 1 → 5"]);
    assert_eq!(all[3], ["movements 3 → 4"], "a child row that is written as it is has not changed");
    assert!(steps[3].children.is_empty());
    assert_eq!(all[4], ["movements 4 → 3", "b/amount 2 → none", "b/kind MOVED → none"]);
    assert_eq!(end.children.len(), 1);
    // A window that begins in the middle knows the rows before it.
    let (late, _) = told(&world, STATEMENTS[0], &"acc".into(), 5, &Until::Head).await;
    assert_eq!(changes(&late[0]), all[4]);
    let standing = standing(world.worker.store(), STATEMENTS[0], &"acc".into(), &end, Deadline::NONE).await.expect("nothing fails");
    assert_eq!(standing.is, Compared::Right);
}

/// The same history under two rules, as the development console shows it.
#[tokio::test]
async fn another_rule_tells_the_same_history_in_its_own_way() {
    let events = recorded([("ann", "Stayed", data! { city: "rome", hotel: "inn", nights: 0 }), ("ann", "Forgotten", data! {})]);
    let world = world_of_stays(&events).await;
    let (one, of_one) = told(&world, STAYS_1[0], &"ann".into(), 1, &Until::Head).await;
    assert_eq!(changes(&one[0]), ["in none → rome", "nights none → 0", "rome:nights none → 0"]);
    assert_eq!(of_one.stopped, None);
    let (two, of_two) = told(&world, STAYS_2[0], &"ann".into(), 1, &Until::Head).await;
    assert_eq!((&two[0].did, &two[1].did), (&Did::Stopped("a stay has nights".to_owned()), &Did::Waits));
    assert_eq!((of_two.stopped, of_two.row.version), (Some((Version(1), "a stay has nights".to_owned())), Version::NONE));
    let standing = standing(world.worker.store(), STAYS_2[0], &"ann".into(), &of_one, Deadline::NONE).await.expect("nothing fails");
    assert_eq!(standing.is, Compared::OtherRevision);
    // A rule for which no event is of concern has no row.
    let (none, end) = told(&world, UNCURSED[0], &"ann".into(), 1, &Until::Head).await;
    assert!(none.iter().all(|step| step.did == Did::Irrelevant) && end.row.version == Version::NONE);
}

/// The worker writes between the two reads of a comparison.
#[tokio::test]
async fn a_row_that_moves_while_it_is_compared_is_compared_again() {
    let events = recorded(["a", "b", "c", "d"].map(|at| ("acc", "Moved", fields([("at", at.into()), ("amount", 1.into())]))));
    let world = World::with(Registry::new(STATEMENTS)).await;
    world.append_all(&events).await;
    world.process(&events[..2]).await;
    let (_, end) = told(&world, STATEMENTS[0], &"acc".into(), 1, &Until::Head).await;
    let (worker, rest) = (world.worker_of(STATEMENTS), events[2..].to_vec());
    let moved = std::sync::Arc::new((worker, rest));
    let tapped = world.tapped_of(STATEMENTS, move |call| {
        if call.number != 2 {
            return Fault::None;
        }
        let moved = moved.clone();
        // Home row and child rows are of one time here, so the write comes before the second read.
        Fault::Meanwhile(Box::pin(async move {
            moved.0.process(&crate::support::world::records(&moved.1), Deadline::NONE).await;
        }))
    });
    let standing = standing(tapped.worker.store(), STATEMENTS[0], &"acc".into(), &end, Deadline::NONE).await.expect("nothing fails");
    assert_eq!((standing.is, standing.stored.version), (Compared::Right, Version(4)));
}

#[tokio::test]
async fn nobody_reads_further_than_wanted() {
    let world = World::with(Registry::new(STATEMENTS)).await;
    let events = recorded((0..1_500).map(|_| ("acc", "Moved", data! { at: "a", amount: 1 })));
    world.append_all(&events).await;
    let tapped = world.tapped_of(STATEMENTS, |_| Fault::None);
    let (id, until) = ("acc".into(), Until::Head);
    let mut telling = Telling::new(STATEMENTS[0], &id, Version(1), &until);
    let mut seen = 0;
    assert!(telling.page(tapped.worker.store(), Deadline::NONE, |_| seen += 1).await.expect("nothing fails"));
    assert_eq!((seen, telling.end().row.version), (1_000, Version(1_000)));
    assert!(tapped.calls().iter().all(|call| call == "Query"));
}
