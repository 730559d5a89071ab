//! A rule changes under live traffic, and the rebuild is a process that is killed at random moments.

use std::{process::Stdio, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{Change, DynProjection, Projection, Recorded, Refusal, own, retract, shared, transfer};
use projection_worker::internals::{
    operations::verify::{Options, Repair, SharedFinding, verify},
    retry::Deadline,
};
use serde::Deserialize;

use crate::{
    size,
    support::world::{World, fold, history, records, registry},
};

const SEED: u64 = 31;

/// `forum-counters` before the change: other attributes, one counter fewer, and shared rows under other keys.
struct Before;

#[derive(Deserialize)]
#[serde(rename_all_fields = "camelCase")]
enum Event {
    CategoryCreated { name: String },
    TopicCreated { category_id: String, title: String },
    PostAdded { category_id: String },
    TopicMoved { from_category_id: String, to_category_id: String },
    TopicDeleted {},
}

fn old_key(category: &str) -> String {
    format!("in-{category}")
}

impl Projection for Before {
    type Event = Event;
    const NAME: &str = "forum-counters";
    const KEY: &str = "id";

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Event::CategoryCreated { name } => own().set("heading", name).into(),
            Event::TopicCreated { category_id, title } => {
                own().set("heading", title).and(shared(old_key(category_id).as_str()).add("topicCount", 1))
            }
            Event::PostAdded { category_id } => own().add("posts", 1).and(shared(old_key(category_id).as_str()).add("writings", 1)),
            Event::TopicMoved { from_category_id, to_category_id } => {
                transfer(old_key(from_category_id).as_str(), old_key(to_category_id).as_str())
            }
            Event::TopicDeleted {} => own().remove("heading").and(retract()),
        })
    }
}

const BEFORE: &[&dyn DynProjection] = &[&Before];

/// Marks all rows as written by revision 0, because the deployed rule has revision 1. Returns their number.
async fn age(world: &World) -> usize {
    let client = world.embedded.client();
    let (mut aged, mut from) = (0, None);
    loop {
        let page = client.scan().table_name("forum-counters").set_exclusive_start_key(from).send().await.expect("a scan");
        for row in page.items().iter().filter(|row| row.contains_key("version")) {
            let request = client.update_item().table_name("forum-counters").key("id", row["id"].clone());
            let request =
                request.update_expression("SET revision = :old").expression_attribute_values(":old", AttributeValue::N("0".into()));
            request.send().await.expect("updated");
            aged += 1;
        }
        from = page.last_evaluated_key;
        if from.is_none() {
            return aged;
        }
    }
}

fn rebuild(url: &str, more: &[&str]) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_projector"));
    command.args(["--endpoint-url", url, "rebuild-projection", "forum-counters"]).args(more).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("projector runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_killed_many_times_under_live_traffic_ends_exact() {
    let kills = size(20, 200);
    let mut random = fastrand::Rng::with_seed(SEED);
    let world = World::new().await;
    let events = history("forum", SEED, size(1_200, 3_600), size(300, 900));
    let (past, live) = events.split_at(size(700, 2_000));
    world.append_all(past).await;
    world.worker_of(BEFORE).process(&records(past), Deadline::NONE).await;
    let aged = age(&world).await;
    assert!(aged > size(130, 400), "{aged}");
    let url = world.serve().await;

    let rule = registry().get("forum-counters").expect("a projection");
    let mut batches = live.chunks(16);
    let (mut killed, mut rounds, mut looks) = (0, 0, 0);
    while killed < kills {
        // Two at once, so slow that they never finish.
        let mut children = ["0/2", "1/2"].map(|segment| {
            let slowly = ["--max-write-units", "12", "--segment", segment, "--resume"];
            let resumes = random.bool() && killed > 0;
            (rebuild(&url, if resumes { &slowly } else { &slowly[..4] }), Duration::from_micros(random.u64(..150_000)))
        });
        let working = async {
            if let Some(batch) = batches.next() {
                world.append_all(batch).await;
                let report = world.worker.process(&records(batch), Deadline::NONE).await;
                assert_eq!(report.total.failed, 0, "{:?}", report.reasons);
            }
        };
        let killing = futures::future::join_all(children.iter_mut().map(|(child, moment)| async {
            tokio::time::sleep(*moment).await;
            let running = child.try_wait().expect("a child").is_none();
            child.kill().await.expect("killed");
            usize::from(running)
        }));
        let ((), running) = futures::join!(working, killing);
        // One that had nothing to resume has ended on its own.
        killed += running.into_iter().sum::<usize>();
        rounds += 1;
        if rounds % size(4, 15) == 0 {
            looks += 1;
            let verified = verify(&world.worker, rule, Options { segments: 2, sample: None, repair: Repair::Nothing }, Deadline::NONE)
                .await
                .expect("verified");
            let sums: Vec<_> = verified.shared.iter().filter(|(_, finding)| matches!(finding, SharedFinding::Sum(_))).collect();
            assert!(sums.is_empty(), "after {killed} kills: {sums:?}");
        }
    }
    for batch in batches {
        world.append_all(batch).await;
        world.worker.process(&records(batch), Deadline::NONE).await;
    }
    let done = rebuild(&url, &["--segments", "3"]).wait_with_output().await.expect("it ends");
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(0), "{told}");
    let again = rebuild(&url, &[]).wait_with_output().await.expect("it ends");
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing to do"), "{}", String::from_utf8_lossy(&again.stdout));

    let verified = verify(&world.worker, rule, Options { segments: 3, sample: None, repair: Repair::Nothing }, Deadline::NONE)
        .await
        .expect("verified");
    assert!(verified.is_clean(), "{:?} {:?}", verified.home, verified.shared);
    let mut rows = world.rows().await.remove("forum-counters").expect("a projection");
    // Of the old rule's counters only zeros remain.
    rows.retain(|key, row| {
        row.retain(|name, value| {
            name != "topicCount" && name != "writings"
                || !value.as_number().is_some_and(projection_vocabulary::Decimal::is_zero)
                || !key.key.as_str().starts_with("in-")
        });
        !row.is_empty()
    });
    assert_eq!(rows, fold(registry(), &events)["forum-counters"]);
    println!("{killed} kills, {looks} looks in between, {aged} rows of the old rule; {told}");
}
