//! Exports written as DynamoDB writes them, read in order of aggregate and version.

use std::{fs, path::Path};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{
    AggregateId, RecordedEvent, Value, Version, data,
    sample::{Fact, record},
};
use serde_dynamo::Item;
use serde_json::json;
use written::{ID, TABLE, data_file, gzip, seal, write, write_export};

use super::*;
use crate::store::{
    events::Stored,
    item::{Malformed, SdkItem, encode_event},
};

/// The writer that the end-to-end tests use, too.
#[path = "../../../tests/end_to_end/support/export.rs"]
mod written;

/// The events of an aggregate that begins with the first amount and adds the others.
fn history_of(id: &str, amounts: &[&str]) -> Vec<RecordedEvent> {
    let amount = |text: &str| Value::Number(text.parse().expect("a test's number"));
    let facts = amounts.iter().enumerate().map(|(at, text)| {
        let (event_type, name) = (if at == 0 { "Opened" } else { "Added" }, "amount");
        Fact { aggregate: id.into(), event_type, data: Value::Map([(name.into(), amount(text))].into()) }
    });
    record(facts.collect::<Vec<_>>()).collect()
}

/// Events of the type `Said`.
fn said(id: &str, texts: impl IntoIterator<Item = Value>) -> Vec<RecordedEvent> {
    record(texts.into_iter().map(|data| Fact { aggregate: id.into(), event_type: "Said", data })).collect()
}

fn bucket() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn items(events: &[RecordedEvent]) -> Vec<SdkItem> {
    events.iter().map(encode_event).collect()
}

fn sorted(folder: &Path) -> Result<Sorted, ExportError> {
    Export::open(folder)?.sort(None, |_| {})
}

/// All events in the order in which they are read, in pages of this size.
fn events(mut sorted: Sorted, page: usize) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    loop {
        let next = sorted.page(page).expect("a page");
        assert!(next.len() <= page);
        if next.is_empty() {
            assert_eq!(events.len() as u64, sorted.events());
            return events;
        }
        events.extend(next.into_iter().map(|(aggregate, stored)| match stored {
            Stored::Event(event) if event.aggregate == aggregate => event,
            other => panic!("no event of {aggregate}: {other:?}"),
        }));
        assert!(events.len() as u64 <= sorted.events(), "none comes again");
    }
}

fn versions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.version.0).collect()
}

/// The error of reading this export, with its folder written as `EXPORT`.
fn wrong(folder: &Path) -> String {
    let error = sorted(folder).expect_err("it is wrong").to_string();
    error.replace(&folder.display().to_string(), "EXPORT")
}

/// The error of an export of two aggregates in three files, after this change.
fn changed(change: impl FnOnce(&Path)) -> String {
    let bucket = bucket();
    let events = [history_of("ann", &["1", "2", "3"]), history_of("ben", &["4", "5"])].concat();
    let folder = write_export(bucket.path(), 3, &items(&events));
    assert_eq!(self::events(sorted(&folder).expect("sound"), 9), events);
    change(&folder);
    wrong(&folder)
}

#[test]
fn events_come_by_aggregate_and_version_whatever_their_order_in_the_files() {
    let ids = ["a", "a\0b", "a#1", "A", "B", "b", "é", "日本", "𐀀", "\u{ffff}", "10", "9", "aa"];
    let mut all: Vec<_> = ids.iter().flat_map(|id| history_of(id, &["1"; 12])).collect();
    let mut shuffled = items(&all);
    // Along with the table's other items.
    shuffled.extend(ids.iter().map(|id| {
        let text = |text: String| AttributeValue::S(text);
        [
            ("PK".into(), text(format!("AGGREGATE#{id}"))),
            ("SK".into(), text("VERSION".into())),
            ("version".into(), AttributeValue::N("12".into())),
        ]
        .into()
    }));
    all.sort_by_key(|event| (event.aggregate.as_str().to_owned(), event.version));
    for (seed, files) in [1, 2, 7, 1, 2, 7].into_iter().enumerate() {
        fastrand::Rng::with_seed(seed as u64).shuffle(&mut shuffled);
        let bucket = bucket();
        let export = Export::open(&write_export(bucket.path(), files, &shuffled)).expect("sound");
        assert_eq!(export.items(), shuffled.len() as u64);
        for page in [1, 5, 1_000] {
            assert_eq!(events(export.sort(None, |_| {}).expect("sorted"), page), all, "seed {seed}");
        }
    }
}

#[test]
fn an_item_is_read_unchanged() {
    let data = data! {
        most: 99999999999999999999999999999999999999, least: 0.00000000000000000000000000000000000001,
        tail: 1.0000000000000000000000000000000000001, list: [1, [null, true]], map: { "a": 1 }
    };
    let Value::Map(mut data) = data else { panic!("a map") };
    data.insert("text".into(), Value::Text("\0\n\"é𐀀".into()));
    data.insert("bytes".into(), Value::Bytes(vec![0, 255]));
    let mut event = said("ann", [Value::Map(data)]).remove(0);
    event.metadata = Some(data! { user: "u" });
    let bucket = bucket();
    write_export(bucket.path(), 1, &items(&[event.clone()]));
    assert_eq!(events(sorted(bucket.path()).expect("sorted"), 9), [event]);
}

#[test]
fn gaps_and_unreadable_items_are_passed_on() {
    let history = history_of("ann", &["1", "2", "3", "4"]);
    let mut all = items(&[history[3].clone(), history[0].clone(), history[1].clone()]);
    all[0].insert("timestamp".into(), AttributeValue::S("now".into()));
    let with = |name: &str, value: &str| {
        let mut item = encode_event(&history[2]);
        item.insert(name.into(), AttributeValue::S(value.into()));
        item
    };
    // Their keys are not keys of events: they are left out.
    all.extend([with("SK", "EVENT#3"), with("SK", "EVENT#0000000000"), with("SK", "PROFILE"), with("PK", "ann"), with("PK", "AGGREGATE#")]);
    let bucket = bucket();
    write_export(bucket.path(), 2, &all);
    let mut sorted = sorted(bucket.path()).expect("sorted");
    assert_eq!(sorted.events(), 3);
    let page = sorted.page(9).expect("a page");
    assert!(page.iter().all(|(aggregate, _)| *aggregate == AggregateId::from("ann")));
    assert_eq!(page.iter().map(|(_, stored)| stored.version()).collect::<Vec<_>>(), [Version(1), Version(2), Version(4)]);
    let Stored::Malformed { reason, event_type, payload, .. } = &page[2].1 else { panic!("{page:?}") };
    assert_eq!((reason.clone(), event_type.as_deref()), (Malformed::Timestamp, Some("Added")));
    assert_eq!(serde_json::from_str::<Item>(payload).expect("an item"), all.remove(0).into());
}

#[test]
fn an_item_exported_twice_counts_once() {
    let history = history_of("ann", &["1", "2", "3"]);
    let twice = items(&[history.clone(), history.clone()].concat());
    let bucket = bucket();
    write_export(bucket.path(), 3, &twice);
    assert_eq!(events(sorted(bucket.path()).expect("sorted"), 2), history);
}

#[test]
fn an_export_is_found_from_any_folder_above_it() {
    let copy = bucket();
    let history = history_of("ann", &["1", "2"]);
    let mut folder = write_export(&copy.path().join("of/2026"), 2, &items(&history));
    fs::create_dir(copy.path().join("something else")).expect("created");
    // A file that the manifest does not list.
    fs::write(folder.join("data/more.json.gz"), "no gzip").expect("written");
    loop {
        let export = Export::open(&folder).expect("found");
        assert_eq!((export.table_arn(), export.exported_at()), (TABLE, "2026-01-05T09:00:00.028Z"));
        assert_eq!(versions(&events(export.sort(None, |_| {}).expect("sorted"), 9)), [1, 2]);
        if folder == copy.path() {
            break;
        }
        folder.pop();
    }
}

#[test]
fn the_checksum_of_a_manifest_and_its_export_type_are_optional() {
    let bucket = bucket();
    let folder = write_export(bucket.path(), 2, &items(&history_of("ann", &["1", "2"])));
    for name in ["manifest-summary", "manifest-files"] {
        fs::remove_file(folder.join(name).with_extension("md5")).expect("removed");
    }
    let summary = folder.join("manifest-summary.json");
    let text = fs::read_to_string(&summary).expect("read").replace(r#","exportType":"FULL_EXPORT""#, "");
    assert!(!text.contains("exportType"));
    fs::write(summary, text).expect("written");
    assert_eq!(events(sorted(&folder).expect("sorted"), 9).len(), 2);
}

#[test]
fn a_folder_must_hold_exactly_one_export() {
    let bucket = bucket();
    let empty = format!("no manifest-summary.json in folder {};", bucket.path().display());
    assert!(Export::open(bucket.path()).expect_err("empty").to_string().starts_with(&empty));
    write_export(bucket.path(), 1, &[]);
    write_export(&bucket.path().join("of"), 1, &[]);
    assert_eq!(
        wrong(bucket.path()),
        format!("several exports in folder EXPORT: AWSDynamoDB/{ID}, of/AWSDynamoDB/{ID}; give the folder of one of them")
    );
    assert_eq!(wrong(&bucket.path().join("none")), "cannot read EXPORT; check that it exists and that you may read it");
}

#[test]
fn only_a_full_export_in_dynamodb_json_is_accepted() {
    let with = |find: &'static str, put: &'static str| {
        changed(move |folder| {
            let summary = folder.join("manifest-summary.json");
            let text = fs::read_to_string(&summary).expect("read");
            assert!(text.contains(find));
            seal(&summary, &text.replace(find, put).replace("exportTime", "exportToTime"));
        })
    };
    assert_eq!(
        with("DYNAMODB_JSON", "ION"),
        "EXPORT/manifest-summary.json belongs to an export in format ION; export the table in DYNAMODB_JSON"
    );
    assert_eq!(
        with("FULL_EXPORT", "INCREMENTAL_EXPORT"),
        "EXPORT/manifest-summary.json belongs to an export of type INCREMENTAL_EXPORT; export the whole table, as FULL_EXPORT"
    );
}

#[test]
fn a_missing_file_is_reported_with_its_name() {
    let missing =
        |names: &'static [&str]| changed(|folder| names.iter().for_each(|name| fs::remove_file(folder.join(name)).expect("removed")));
    let again = "copy the export again, with all of its files";
    assert_eq!(missing(&["data/1.json.gz"]), format!("EXPORT/data/1.json.gz is missing; {again}"));
    assert_eq!(missing(&["data/2.json.gz", "data/1.json.gz"]), format!("EXPORT/data/1.json.gz and 1 more are missing; {again}"));
    assert_eq!(missing(&["manifest-files.json"]), format!("EXPORT/manifest-files.json is missing; {again}"));
    // A path in the file list must not lead out of the export.
    let out = changed(|folder| {
        let text = fs::read_to_string(folder.join("manifest-files.json")).expect("read");
        seal(&folder.join("manifest-files.json"), &text.replace("data/0.json.gz", "data/.."));
    });
    assert_eq!(out, format!("EXPORT/data/.. is missing; {again}"));
}

#[test]
fn any_damage_to_a_data_file_is_reported_with_its_name() {
    let damaged = "EXPORT/data/1.json.gz is damaged or truncated: its MD5 is not the one in EXPORT/manifest-files.json; copy both again";
    let ways: [fn(&mut Vec<u8>); 6] = [
        |content| content.truncate(content.len() / 2),
        |content| content.truncate(content.len() - 1),
        Vec::clear,
        |content| content[0] ^= 1,
        |content| content.push(0),
        // The time in gzip's header, which nothing reads: only the checksum reveals it.
        |content| content[4] ^= 1,
    ];
    for damage in ways {
        let told = changed(|folder| {
            let mut content = fs::read(data_file(folder, 1)).expect("read");
            damage(&mut content);
            fs::write(data_file(folder, 1), content).expect("written");
        });
        assert_eq!(told, damaged);
    }
    // Undamaged, but a different file.
    let other = changed(|folder| {
        fs::copy(data_file(folder, 0), data_file(folder, 1)).expect("copied");
    });
    assert_eq!(other, damaged);
}

#[test]
fn a_damaged_manifest_is_reported_with_its_name() {
    let cut = |name: &'static str, sealed: bool| {
        changed(move |folder| {
            let manifest = folder.join(name);
            let text = fs::read_to_string(&manifest).expect("read");
            let cut = &text[..text.len() - 20];
            if sealed { seal(&manifest, cut) } else { fs::write(&manifest, cut).expect("written") }
        })
    };
    for name in ["manifest-summary.json", "manifest-files.json"] {
        let checksum = name.replace("json", "md5");
        let damaged = format!("EXPORT/{name} is damaged or truncated: its MD5 is not the one in EXPORT/{checksum}; copy both again");
        assert_eq!(cut(name, false), damaged);
    }
    let as_written = "is not a valid manifest line; copy the file again";
    assert_eq!(cut("manifest-summary.json", true), format!("EXPORT/manifest-summary.json:1 {as_written}"));
    assert_eq!(cut("manifest-files.json", true), format!("EXPORT/manifest-files.json:3 {as_written}"));
    let line = changed(|folder| {
        let text = fs::read_to_string(folder.join("manifest-files.json")).expect("read");
        seal(&folder.join("manifest-files.json"), text.split_inclusive('\n').next().expect("a line"));
    });
    assert_eq!(line, "EXPORT/manifest-files.json lists 2 items but the manifest-summary.json next to it states 5; copy both again");
}

#[test]
fn a_line_that_is_not_an_item_is_an_error_that_names_the_line_and_shows_no_data() {
    let item = r#"{"Item":{"PK":{"S":"secret"}}}"#;
    let told = |files: &[(usize, Vec<u8>)]| {
        let bucket = bucket();
        let told = wrong(&write(bucket.path(), files));
        assert!(!told.contains("secret"));
        told
    };
    let no_item = "is not an item in DynamoDB JSON; export the table again";
    for line in [
        "secret",
        r#"{"Item":{"PK":{"S":"secret"}}"#,
        r#"{"Item":{"PK":"secret"}}"#,
        r#"{"Item":{"PK":{"secret":"secret"}}}"#,
        r#"{"Item":{"PK":{"N":5.5}}}"#,
        r#"{"Item":["secret"]}"#,
        r#"{"Keys":{"PK":{"S":"secret"}},"NewImage":{"PK":{"S":"secret"}}}"#,
        "",
    ] {
        let lines = gzip(format!("{item}\n{item}\n{line}\n{item}\n").as_bytes());
        assert_eq!(told(&[(4, lines)]), format!("EXPORT/data/0.json.gz:3 {no_item}"), "{line}");
    }
    assert_eq!(told(&[(1, gzip(b"{\"Item\":{\"PK\":{\"S\":\"secret\xff\"}}}"))]), format!("EXPORT/data/0.json.gz:1 {no_item}"));
    assert_eq!(told(&[(1, item.into())]), "EXPORT/data/0.json.gz:1 cannot be decompressed; export the table again");
    let endless = gzip(&vec![b' '; 9 << 20]);
    assert_eq!(told(&[(1, endless)]), "EXPORT/data/0.json.gz:1 is longer than any item; export the table again");
    let count = told(&[(1, gzip(item.as_bytes())), (3, gzip(format!("{item}\n{item}").as_bytes()))]);
    assert_eq!(count, "EXPORT/data/1.json.gz holds 2 items but its manifest states 3; export the table again");
}

#[test]
fn a_data_file_may_have_several_gzip_members_or_be_empty() {
    let history = history_of("ann", &["1", "2", "3"]);
    let line = |at: usize| format!("{}\n", json!({ "Item": Item::from(encode_event(&history[at])) }));
    let (one, two, three) = (line(0), line(1), line(2));
    // A gzip member may end in the middle of a line.
    let (start, end) = two.split_at(40);
    let pieces = [gzip(format!("{one}{start}").as_bytes()), gzip(b""), gzip(end.as_bytes()), gzip(three.trim_end().as_bytes())].concat();
    let bucket = bucket();
    write(bucket.path(), &[(0, gzip(b"")), (3, pieces), (0, Vec::new())]);
    assert_eq!(events(sorted(bucket.path()).expect("sorted"), 9), history);
}

#[test]
fn a_page_of_large_items_holds_fewer_of_them() {
    let text = "x".repeat(300 << 10);
    let history = said("ann", (0..9).map(|_| Value::Map([("text".into(), Value::Text(text.as_str().into()))].into())));
    let bucket = bucket();
    write_export(bucket.path(), 2, &items(&history));
    let mut sorted = sorted(bucket.path()).expect("sorted");
    let pages = std::iter::from_fn(|| Some(sorted.page(1_000).expect("a page").len()).filter(|events| *events > 0));
    let full = PAGE_BYTES_MAX.div_ceil(text.len());
    assert_eq!(pages.collect::<Vec<_>>(), [full, full, 1]);
}

#[test]
fn progress_ends_at_the_size_of_all_files() {
    let bucket = bucket();
    let events: Vec<_> = (0..100).flat_map(|id| history_of(&format!("{id}"), &["1"; 20])).collect();
    write_export(bucket.path(), 3, &items(&events));
    let export = Export::open(bucket.path()).expect("sound");
    let mut told = vec![0];
    export.sort(None, |bytes| told.push(bytes)).expect("sorted");
    assert!(told.is_sorted() && told.len() > 6);
    assert_eq!(told.last(), Some(&export.bytes()));
}

#[test]
fn sorting_leaves_no_files_behind_and_shows_none() {
    let (bucket, spill) = (bucket(), tempfile::tempdir().expect("a folder"));
    let files = || fs::read_dir(spill.path()).expect("read").count();
    let folder = write_export(bucket.path(), 2, &items(&history_of("ann", &["1", "2"])));
    let export = Export::open(&folder).expect("sound");
    let mut files_seen = 0;
    let sorted = export.sort(Some(spill.path()), |_| files_seen = files_seen.max(files())).expect("sorted");
    // So nothing is left behind, however the process ends.
    assert_eq!((files_seen, files()), (0, 0));
    let elsewhere = std::thread::spawn(move || events(sorted, 1));
    assert_eq!(elsewhere.join().expect("it may move to another thread").len(), 2);

    fs::write(data_file(&folder, 1), "").expect("written");
    export.sort(Some(spill.path()), |_| {}).expect_err("damaged");
    assert_eq!(files(), 0);
    let none = spill.path().join("none");
    let told = export.sort(Some(&none), |_| {}).expect_err("no folder").to_string();
    assert!(told.starts_with(&format!("cannot sort in folder {};", none.display())), "{told}");
}
