//! DynamoDB's limits: large items, long batches, deep data, wide numbers, ids in any script and of any length.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{RecordedEvent, Value, Version, data};
use projection_worker::internals::{retry::Deadline, store::append::AppendError};

use crate::support::{
    malformed_records::VALID_NUMBERS,
    world::{World, account, fold, record, recorded, records, registry},
};

/// DynamoDB's largest item, less some room for its other attributes.
const ITEM_BYTES: usize = 400 * 1024 - 1024;

/// An account of one event that carries this note.
fn noted(id: &str, note: String) -> RecordedEvent {
    let data = BTreeMap::from([("initialDeposit".into(), Value::Number(5.into())), ("note".into(), note.into())]);
    recorded([(id, "AccountOpened", Value::Map(data))]).remove(0)
}

/// The number of parts and the assembled payload of an account's parked event.
async fn payload(world: &World, id: &str) -> (usize, String) {
    let query = world.embedded.client().query().table_name("parked").key_condition_expression("aggregateId = :id");
    let mut pages = query.expression_attribute_values(":id", AttributeValue::S(id.into())).into_paginator().items().send();
    let text = |item: &HashMap<String, AttributeValue>, name: &str| item[name].as_s().expect("a text").clone();
    let mut parts = BTreeMap::new();
    while let Some(item) = pages.next().await {
        let item = item.expect("a page");
        parts.insert(text(&item, "projection"), text(&item, "payload"));
    }
    let others = (2..=parts.len()).map(|part| parts[&format!("part#{part}#account-summary")].clone());
    (parts.len(), std::iter::once(parts["account-summary"].clone()).chain(others).collect())
}

#[tokio::test]
async fn an_item_of_400_kb_is_applied_and_healed() {
    let world = World::new().await;
    let long = noted("long", "x".repeat(ITEM_BYTES));
    let next = account("long", &["5", "7"]).remove(1);
    world.import(std::slice::from_ref(&long)).await;
    let report = world.process(std::slice::from_ref(&next)).await;
    assert_eq!((report.total.applied, report.total.healed), (1, 1), "{:?}", report.reasons);
    let report = world.process(&[noted("wide", "€".repeat(ITEM_BYTES / 3))]).await;
    assert_eq!(report.total.applied, 1, "{:?}", report.reasons);
    assert!(world.row("account-summary", "long").await.starts_with("balance=12 "));
    assert!(world.row("account-summary", "wide").await.starts_with("balance=5 "));
}

#[tokio::test]
async fn an_item_of_400_kb_is_parked_down_to_its_last_byte() {
    // The second grows sixfold as JSON, where each of its characters is escaped as six.
    for (note, parts) in [("x".repeat(ITEM_BYTES), 2), ("\u{1}".repeat(ITEM_BYTES), 8)] {
        let world = World::new().await;
        let event = noted("long", note);
        // The event's version contradicts its keys.
        let unreadable = record(&event, 1).get().replace(r#""eventVersion":{"N":"1"}"#, r#""eventVersion":{"N":"2"}"#);
        let unreadable = serde_json::value::RawValue::from_string(unreadable).expect("JSON");
        let report = world.worker.process(std::slice::from_ref(&unreadable), Deadline::NONE).await;
        assert_eq!((report.total.parked, report.total.failed), (1, 0), "{:?}", report.reasons);
        assert_eq!(world.parked().await.len(), 1, "its parts are not entries of their own");
        let (found, payload) = payload(&world, "long").await;
        assert_eq!(found, parts);
        assert!(payload == unreadable.get(), "nothing is lost");
    }
}

#[tokio::test]
async fn a_batch_of_ten_thousand_records_is_applied_at_once() {
    let world = World::new().await;
    let amounts = vec!["0.01"; 5_000];
    let few: Vec<_> = (0..500).flat_map(|at| account(&format!("account-{at:03}"), &amounts[..10])).collect();
    let events = [account("busy", &amounts), few].concat();
    let report = world.process(&events).await;
    assert_eq!((report.records, report.total.applied, report.usage.requests), (10_000, 10_000, 501), "{:?}", report.reasons);
    assert!(world.row("account-summary", "busy").await.starts_with("balance=50 "));
    assert_eq!(world.rows().await, fold(registry(), &events));
    let again = world.process(&events).await;
    assert_eq!(
        (again.total.duplicate, again.usage.requests, again.usage.write_units),
        (10_000, 6, 0.0),
        "rows are read a hundred at a time"
    );
}

/// A number inside alternating lists and maps: `levels` in all, including the map of the data.
fn nested(id: &str, levels: usize) -> RecordedEvent {
    let wrap = |inner, level: usize| {
        if level.is_multiple_of(2) { Value::List(vec![inner]) } else { Value::Map(BTreeMap::from([("m".into(), inner)])) }
    };
    let deep = (1..levels).fold(Value::Number(1.into()), wrap);
    let data = BTreeMap::from([("initialDeposit".into(), Value::Number(5.into())), ("deep".into(), deep)]);
    recorded([(id, "AccountOpened", Value::Map(data))]).remove(0)
}

#[tokio::test]
async fn data_nested_to_dynamodbs_limit_is_applied_and_healed_and_deeper_data_parks() {
    let world = World::new().await;
    let next = account("healed", &["5", "7"]).remove(1);
    // DynamoDB itself accepts a number inside 31 lists and maps.
    world.append_all(&[nested("healed", 31)]).await;
    let report = world.process(&[nested("deep", 31), nested("deeper", 33), nested("deepest", 60), next]).await;
    assert_eq!((report.total.applied, report.total.healed, report.total.parked), (2, 1, 2), "{:?}", report.reasons);
    for (id, version, reason) in world.parked().await {
        assert!(id.starts_with("deepe") && version == Some(1), "{id}");
        assert_eq!(reason, "`eventData` is nested deeper than 32 levels");
    }
}

#[tokio::test]
async fn every_number_that_dynamodb_can_store_is_added_and_subtracted_exactly() {
    let world = World::new().await;
    let events: Vec<_> = VALID_NUMBERS.iter().enumerate().flat_map(|(at, text)| account(&format!("account-{at}"), &[text])).collect();
    let report = world.process(&events).await;
    assert_eq!(report.total.applied, VALID_NUMBERS.len() as u64, "{:?}", report.reasons);
    for (at, text) in VALID_NUMBERS.iter().enumerate() {
        let balance = format!("balance={} ", plain(text));
        let row = world.row("account-summary", &format!("account-{at}")).await;
        assert!(row.starts_with(&balance), "{text}: {row} is not {balance}");
    }
    let back = |(at, text): (usize, &&str)| {
        let id = format!("account-{at}");
        let text =
            if let Some(positive) = text.strip_prefix('-') { positive.to_owned() } else { format!("-{}", text.trim_start_matches('+')) };
        account(&id, &["0", &text]).remove(1)
    };
    let report = world.process(&VALID_NUMBERS.iter().enumerate().map(back).collect::<Vec<_>>()).await;
    assert_eq!(report.total.applied, VALID_NUMBERS.len() as u64, "{:?}", report.reasons);
    for at in 0..VALID_NUMBERS.len() {
        assert!(world.row("account-summary", &format!("account-{at}")).await.starts_with("balance=0 "));
    }
}

/// A number written out in full by moving its decimal point, without arithmetic.
fn plain(text: &str) -> String {
    let (sign, text) = text.strip_prefix('-').map_or(("", text.trim_start_matches('+')), |text| ("-", text));
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let exponent: i32 = exponent.parse().expect("an exponent");
    let zeros = "0".repeat(300);
    let all = format!("{zeros}{whole}{fraction}{zeros}");
    let point = usize::try_from(300 + i32::try_from(whole.len()).expect("short") + exponent).expect("within the zeros");
    let (whole, fraction) = (all[..point].trim_start_matches('0'), all[point..].trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if whole == "0" && fraction.is_empty() { "" } else { sign };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// The longest id: its partition key in the event store is 10 bytes longer, and limited to 2048.
const ID_BYTES_MAX: usize = 2_038;

/// Ids that look alike, that normalise to each other, that read from right to left, or that look like the worker's own keys.
fn ids() -> Vec<String> {
    let odd = [
        "é",
        "e\u{301}",
        "Å",
        "A\u{30a}",
        "\u{212b}",
        "ﬁ",
        "fi",
        "ſ",
        "s",
        "S",
        "ß",
        "ss",
        "İ",
        "i\u{307}",
        "Ω",
        "\u{2126}",
        "가",
        "\u{1100}\u{1161}",
        "a\u{323}\u{307}",
        "a\u{307}\u{323}",
        "a",
        "a ",
        " a",
        "a\u{a0}",
        "a\u{200b}",
        "a\u{200d}",
        "\u{feff}a",
        "а",
        "א",
        "אב",
        "בא",
        "\u{202e}ab",
        "ab\u{202c}",
        "مرحبا",
        "🏳️‍🌈",
        "🏳🌈",
        "👩‍👩‍👧",
        "👍",
        "👍🏽",
        "\u{10ffff}",
        "#",
        "##",
        "a#",
        "#a",
        "a#b",
        "AGGREGATE#a",
        "EVENT#0000000001",
        "EVENT#a",
        "VERSION",
        "record#a",
        "part#2#account-summary",
        "-",
        "\n",
        "a\nb",
        "\0",
        "\"",
        "\\",
        "{}",
    ];
    let long = [
        format!("{}#", "x".repeat(ID_BYTES_MAX - 1)),
        format!("{}xy", "é".repeat(ID_BYTES_MAX / 2 - 1)),
        format!("{}x#", "🏳".repeat(ID_BYTES_MAX / 4)),
    ];
    odd.map(str::to_owned).into_iter().chain(long).collect()
}

#[tokio::test]
async fn accounts_of_any_id_stay_separate_in_the_stream_the_rows_and_the_parking_table() {
    let world = World::new().await;
    let ids = ids();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    assert!(ids.iter().any(|id| id.len() == ID_BYTES_MAX) && ids.iter().all(|id| id.len() <= ID_BYTES_MAX));
    let amounts: Vec<String> = (0..ids.len()).map(|at| format!("{at}.5")).collect();
    let histories: Vec<_> = ids.iter().zip(&amounts).map(|(id, amount)| account(id, &[amount, "1", "0.25", "4"])).collect();
    // The first three events are in the store; the stream delivers the first, then the third, whose gap is healed.
    world.append_all(&histories.iter().flat_map(|events| events[..3].to_vec()).collect::<Vec<_>>()).await;
    for (turn, healed) in [(0, 0), (2, ids.len() as u64)] {
        let report = world.process(&histories.iter().map(|events| events[turn].clone()).collect::<Vec<_>>()).await;
        assert_eq!((report.total.applied, report.total.healed), (ids.len() as u64, healed), "{:?}", report.reasons);
    }
    let rows = fold(registry(), &histories.iter().flat_map(|events| events[..3].to_vec()).collect::<Vec<_>>());
    assert_eq!((world.rows().await, rows["account-summary"].len()), (rows, ids.len()));
    // The next event of every third account is poison and parks only that account.
    let (odd, whole): (Vec<_>, Vec<_>) = histories.iter().enumerate().partition(|(at, _)| at % 3 == 0);
    let unreadable = odd.iter().map(|(_, events)| RecordedEvent { data: data! { amount: "4" }, ..events[3].clone() });
    let batch: Vec<_> = unreadable.chain(whole.iter().map(|(_, events)| events[3].clone())).collect();
    let report = world.worker.process(&records(&batch), Deadline::NONE).await;
    assert_eq!((report.total.applied, report.total.parked), (whole.len() as u64, odd.len() as u64), "{:?}", report.reasons);
    let parked: BTreeSet<_> = world.parked().await.into_iter().map(|(id, version, _)| (id, version)).collect();
    assert_eq!(parked, odd.iter().map(|(at, _)| (ids[*at].clone(), Some(4))).collect());
}

#[tokio::test]
async fn shared_rows_of_any_key_stay_separate() {
    let world = World::new().await;
    let created = |(at, category): (usize, &String)| {
        let text = |text: &str| Value::from(text);
        let data = [("categoryId", text(category)), ("title", text("Hello")), ("authorId", text("ann"))];
        let event = (format!("topic-{at}"), Value::Map(data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()));
        recorded([(event.0.as_str(), "TopicCreated", event.1)]).remove(0)
    };
    let ids = ids();
    let events: Vec<_> = ids.iter().enumerate().map(created).collect();
    let report = world.process(&events).await;
    assert_eq!(report.total.applied, events.len() as u64, "{:?}", report.reasons);
    let rows = world.rows().await;
    assert_eq!(rows, fold(registry(), &events));
    let counted = ids.iter().filter(|id| rows["forum-counters"][&id.as_str().into()]["topicCount"] == Value::Number(1.into()));
    assert_eq!(counted.count(), ids.len(), "each category has its topic");
}

#[tokio::test]
async fn an_event_with_too_long_an_id_is_never_stored_and_blocks_nothing() {
    let world = World::new().await;
    let event = account(&"x".repeat(ID_BYTES_MAX + 1), &["1"]).remove(0);
    let stored = world.worker.store().append(Version::NONE, std::slice::from_ref(&event)).await;
    assert!(matches!(stored, Err(AppendError::Invalid { .. })), "{stored:?}");
    let report = world.process(&[event]).await;
    assert_eq!((report.total.parked, report.total.failed), (1, 0), "{:?}", report.reasons);
    assert_eq!(world.parked().await[0].2, "the partition key of an event is not `AGGREGATE#` followed by an id, at most 2048 bytes in all");
}
