//! What the code says about itself when it is run: its tables, its variables, its calls of DynamoDB, its tasks and its metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Output,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aws_sdk_dynamodb::types::{AttributeValue, KeySchemaElement, ProjectionType, StreamViewType, TableDescription};
use projection_vocabulary::{ConsistencyToken, HOME_SORT, RecordedEvent, Version};
use projection_worker::{
    Commands, Deadline, LocalCache,
    internals::{lambda::read_environment, operations::verify::parts::Progress, store::TableNames},
};
use projections::{
    ALL,
    bank::account::{self as account_decider, Account},
    forum::topic_posts::TopicPosts,
    shop::user::{self, User},
};
use serde::de::IgnoredAny as Anything;
use serde_json::{Value as Json, json};

use crate::support::{
    metrics::{MetricLine, metric_lines},
    processes::{Poller, make_timers_due, requests, work_off},
    proxy::{Fault, Proxy},
    records::deposit_of,
    runtime_api::{Answer, Lambda, batch, environment_at},
    stream::stream,
    world::{self, Call, World, account, history, included, names, records},
};

/// The tasks of the operations function, each with its answer. The checks of the state machine rely on this file.
pub const TASKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/infra/checks/tasks.json");
const MINUTE: Duration = Duration::from_mins(1);
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// What the template and the state machine must agree with.
#[derive(Clone)]
pub struct Code {
    /// Every variable that the Lambda asks for when it starts.
    pub variables: BTreeSet<String>,
    /// The tables, by the names that they have where nobody names them.
    pub tables: BTreeMap<String, Table>,
    pub projections: Vec<String>,
    /// Those of them that are processes: their rows are watermarks, and nobody reads these.
    pub processes: BTreeSet<String>,
    pub worker: Calls,
    pub operations: Calls,
    /// Of a service that reads rows.
    pub queries: Calls,
    /// Of a service that carries out commands.
    pub commands: Calls,
    /// Every metric of the two functions: its dimensions and its name.
    pub metrics: BTreeSet<(Vec<String>, String)>,
    /// In the form of [`TASKS`], as the function answered.
    pub tasks: Json,
    /// The stream of the event store behind processes, with everything that commands write.
    pub stream: Vec<Json>,
    /// The units that `since` of a catch-up may have.
    pub age_units: String,
}

/// A table as `projector tables create` creates it.
#[derive(Clone)]
pub struct Table {
    /// The variable that names it to the Lambda.
    pub variable: String,
    pub definition: Json,
}

/// Actions that IAM must allow, and where.
pub type Calls = BTreeSet<(String, Place)>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    EventStore,
    Index(String),
    Parked,
    /// Items of the event store that make a value unique.
    Claims,
    /// The code is the same for all projections, so a call for the rows of one may come for the rows of each.
    Rows,
    /// The same for those with indexes.
    RowIndexes,
    /// An index of instances of processes, or of their timers.
    InstanceIndex(String),
}

impl Code {
    /// Runs the code and records what it does.
    pub async fn ask() -> Self {
        let world = World::new().await;
        let (worker_net, operations_net) = (Recorder::default(), Recorder::default());
        let (worker_proxy, operations_proxy) = (worker_net.proxy(&world).await, operations_net.proxy(&world).await);
        let mut worker = Lambda::start_in(environment_at(&worker_proxy.door().await.url)).await;
        let mut operations = Lambda::start_in(environment_at(&operations_proxy.door().await.url)).await;

        let mut tasks = answers(&world, &mut operations, &["rebuild", "catchUp", "settle", "verify"]).await;
        // Only the worker ticks.
        tasks["tick"] = answers(&world, &mut worker, &["tick"]).await["tick"].take();
        let age_units = age_units(&mut operations).await;
        tasks["errors"] = errors(&mut operations).await;
        work_the_stream(&world, &mut worker).await;
        work_on_processes(&world, &mut worker).await;
        work_on_tasks(&world, &mut operations).await;

        let outputs = [worker.stop().await, operations.stop().await];
        Self {
            variables: variables(),
            tables: tables(&world).await,
            projections: included().projections().iter().map(|rule| rule.name().to_owned()).collect(),
            processes: included().processes().map(|process| process.name().to_owned()).collect(),
            worker: worker_net.calls(),
            operations: operations_net.calls(),
            queries: queries().await,
            commands: commands().await,
            metrics: outputs.iter().flat_map(metrics).collect(),
            tasks,
            stream: stream(&world).await,
            age_units,
        }
    }
}

fn variables() -> BTreeSet<String> {
    let asked = Mutex::new(BTreeSet::new());
    let var = |name: &str| {
        asked.lock().expect("no test panics while it holds this").insert(name.to_owned());
        None
    };
    read_environment(included(), var).expect_err("an empty environment is refused");
    asked.into_inner().expect("no test panics while it holds this")
}

/// The tables as the embedded DynamoDB describes them once the code has created them.
async fn tables(world: &World) -> BTreeMap<String, Table> {
    let flat = |names: TableNames| [names.event_store, names.parked].into_iter().chain(names.projections.into_values());
    let variables = flat(TableNames::from_env_or_default(included(), |name| Some(name.to_owned())));
    let mut tables = BTreeMap::new();
    for (name, variable) in flat(names(included())).zip(variables) {
        let described = world.embedded.client().describe_table().table_name(&name).send().await.expect("the table");
        tables.insert(name, Table { variable, definition: definition(&described.table.expect("a description")) });
    }
    tables
}

/// As CloudFormation spells it, in an order that does not depend on who wrote it.
fn definition(table: &TableDescription) -> Json {
    let keys = |schema: &[KeySchemaElement]| -> Json {
        schema.iter().map(|key| json!({ "AttributeName": key.attribute_name(), "KeyType": key.key_type().as_str() })).collect()
    };
    let mut attributes: Vec<_> = table
        .attribute_definitions()
        .iter()
        .map(|attribute| json!({ "AttributeName": attribute.attribute_name(), "AttributeType": attribute.attribute_type().as_str() }))
        .collect();
    attributes.sort_by_key(ToString::to_string);
    let indexes = table.global_secondary_indexes().iter().map(|index| {
        let of = index.projection().expect("an index has a projection");
        let mut projection = json!({ "ProjectionType": of.projection_type().map(ProjectionType::as_str) });
        if !of.non_key_attributes().is_empty() {
            projection["NonKeyAttributes"] = json!(of.non_key_attributes());
        }
        json!({ "IndexName": index.index_name(), "KeySchema": keys(index.key_schema()), "Projection": projection })
    });
    let stream = table.stream_specification().and_then(|stream| stream.stream_view_type()).map(StreamViewType::as_str);
    json!({
        "AttributeDefinitions": attributes,
        "GlobalSecondaryIndexes": indexes.collect::<Json>(),
        "KeySchema": keys(table.key_schema()),
        "StreamViewType": stream,
    })
}

/// Records what passes on its way to DynamoDB.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Calls>>);

impl Recorder {
    async fn proxy(&self, world: &World) -> Proxy {
        let recorder = self.clone();
        Proxy::new(world, move |call| {
            recorder.record(call);
            ("", Fault::None)
        })
        .await
    }

    fn record(&self, call: &Call<'_>) {
        self.0.lock().expect("no test panics while it holds this").extend(needed(call));
    }

    fn calls(&self) -> Calls {
        self.0.lock().expect("no test panics while it holds this").clone()
    }
}

/// What IAM must allow for a call. An action has the name of its operation; a transaction needs what its actions need
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html>).
fn needed(call: &Call<'_>) -> Vec<(String, Place)> {
    let body: Json = serde_json::from_str(call.body).expect("requests are JSON");
    let action = |operation: &str| format!("dynamodb:{operation}");
    if let Some(items) = body["TransactItems"].as_array() {
        let actions = items.iter().flat_map(|item| item.as_object().expect("an action"));
        return actions
            .map(|(kind, of)| {
                let operation = if kind == "ConditionCheck" { "ConditionCheckItem".to_owned() } else { format!("{kind}Item") };
                (action(&operation), if kind == "Delete" { place_of_delete(of) } else { place(of) })
            })
            .collect();
    }
    if let Some(tables) = body["RequestItems"].as_object() {
        return tables.keys().map(|table| (action(call.operation), place(&json!({ "TableName": table })))).collect();
    }
    vec![(action(call.operation), if call.operation == "DeleteItem" { place_of_delete(&body) } else { place(&body) })]
}

/// Deletions are told apart by what they delete: an event must never be.
fn place_of_delete(of: &Json) -> Place {
    match place(of) {
        Place::EventStore if of["Key"]["PK"]["S"].as_str().is_some_and(|key| key.starts_with("CLAIM#")) => Place::Claims,
        place => place,
    }
}

fn place(of: &Json) -> Place {
    match (of["TableName"].as_str().expect("a table"), of["IndexName"].as_str()) {
        ("event-store", Some(index)) => Place::Index(index.to_owned()),
        ("event-store", None) => Place::EventStore,
        ("parked", None) => Place::Parked,
        ("process-status", Some(index)) => Place::InstanceIndex(index.to_owned()),
        (table, index) if included().projections().iter().any(|rule| rule.name() == table) => {
            index.map_or(Place::Rows, |_| Place::RowIndexes)
        }
        (table, index) => panic!("nobody calls {table} {index:?}"),
    }
}

fn metrics(output: &Output) -> Vec<(Vec<String>, String)> {
    let lines = metric_lines(output);
    let of = |line: &MetricLine| {
        let dimensions: Vec<_> = line.dimensions.keys().cloned().collect();
        line.values.keys().map(|name| (dimensions.clone(), name.clone())).collect::<Vec<_>>()
    };
    lines.iter().flat_map(of).collect()
}

/// Invokes the function with each task of [`TASKS`]: the same file, with the answers that came.
async fn answers(world: &World, function: &mut Lambda, kinds: &[&str]) -> Json {
    world.append_all(&account("alice", &["1", "2"])).await;
    let written: Json = serde_json::from_str(&fs::read_to_string(TASKS).expect("tasks.json")).expect("JSON");
    let mut answered = json!({});
    for &kind in kinds {
        let task = &written[kind]["task"];
        let members = task.as_object().expect("a task").keys();
        // A tick has no members, and is refused with any.
        let more = "more".to_owned();
        for member in members.chain((kind == "tick").then_some(&more)) {
            let mut odd = task.clone();
            // No member may be this, so the function refuses it unless it does not know the member.
            odd[member] = json!([["odd"]]);
            let error = error_type(function.invoke(json!({ kind: odd }).to_string()).await);
            assert_eq!(error.as_deref(), Some("InvalidTask"), "the function does not read `{member}` of `{kind}`");
        }
        let Answer::Response(answer) = function.invoke(json!({ kind: task }).to_string()).await else { panic!("{kind} is a task") };
        answered[kind] = json!({ "task": task, "answer": serde_json::from_str::<Json>(&answer).expect("JSON") });
    }
    answered
}

fn error_type(answer: Answer) -> Option<String> {
    let Answer::Error(error) = answer else { return None };
    let error: Json = serde_json::from_str(&error).expect("JSON");
    error["errorType"].as_str().map(str::to_owned)
}

/// The classes of errors by which a state machine decides whether to try again.
async fn errors(operations: &mut Lambda) -> Json {
    let task = json!({ "verify": { "projection": "account-summary" } }).to_string();
    let unfinished = error_type(operations.invoke_until(SystemTime::now(), task).await);
    let invalid = error_type(operations.invoke(json!({ "verify": { "projection": "nobody's" } }).to_string()).await);
    json!({ "unfinished": unfinished, "invalid": invalid })
}

async fn age_units(operations: &mut Lambda) -> String {
    let mut units = String::new();
    for unit in 'a'..='z' {
        let task = json!({ "catchUp": { "projection": "account-summary", "since": format!("0{unit}") } });
        if let Answer::Response(_) = operations.invoke(task.to_string()).await {
            units.push(unit);
        }
    }
    units
}

/// Everything that a stream may bring: new events, gaps, redeliveries, events that cannot be applied, records that cannot be read, rows
/// of an older revision, and every captured stream.
async fn work_the_stream(world: &World, worker: &mut Lambda) {
    let mut events = history("bank", 1, 60, 6);
    events.extend(history("forum", 2, 80, 12));
    world.append_all(&events).await;
    let poison = unreadable("poison");
    let mut delivered: Vec<_> = records(&events);
    for lost in (0..delivered.len()).step_by(7).collect::<Vec<_>>().into_iter().rev() {
        delivered.remove(lost);
    }
    delivered.push(serde_json::value::to_raw_value(&json!({ "eventID": "stray" })).expect("JSON"));
    delivered.extend(records(&poison));
    // In small batches, so that topics move and end in others than they began in.
    let mut batches: Vec<_> = delivered.chunks(10).map(<[_]>::to_vec).collect();
    batches.extend([delivered, records(&poison)]);
    batches.push(records(&history("bank", 1, 90, 6)));
    let mut batches: Vec<_> = batches.iter().map(|records| batch(records)).collect();
    for folder in fs::read_dir(FIXTURES).expect("fixtures") {
        batches.extend(captured(&folder.expect("a folder").path()));
    }
    for batch in batches {
        let Answer::Response(_) = worker.invoke(batch).await else { panic!("a batch is answered") };
    }
    // Now there are rows for it to re-project.
    let opened = &events[0].aggregate;
    outdate_account(world, opened.as_str()).await;
    let later: Vec<_> = history("bank", 1, 120, 6).into_iter().filter(|event| event.aggregate == *opened).collect();
    let Answer::Response(_) = worker.invoke(batch(&records(&later))).await else { panic!("a batch is answered") };
}

/// A history that begins with an event that no rule takes, too long to be parked in one item.
fn unreadable(id: &str) -> Vec<RecordedEvent> {
    let mut events = account(id, &["1", "2"]);
    events[0].data = deposit_of(&"no number".repeat(40_000));
    events
}

/// The batches of a captured stream, as Lambda hands them over.
pub fn captured(folder: &Path) -> Vec<String> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("batch-")));
    files.iter().map(|path| fs::read_to_string(path).expect("a batch")).collect()
}

/// Makes rows look as if an older revision of the rule had written them.
async fn outdate_account(world: &World, id: &str) {
    for (table, sort) in [("account-summary", None), ("account-statement", Some(("movement".to_owned(), HOME_SORT)))] {
        let key = [("accountId".to_owned(), id)].into_iter().chain(sort).map(|(name, text)| (name, AttributeValue::S(text.to_owned())));
        let update = world.embedded.client().update_item().table_name(table).set_key(Some(key.collect()));
        let update =
            update.update_expression("SET revision = :zero").expression_attribute_values(":zero", AttributeValue::N("0".to_owned()));
        update.send().await.expect("updated");
    }
}

/// Transfers and orders that complete, are refused and are undone, by a time-out, too.
async fn work_on_processes(world: &World, worker: &mut Lambda) {
    let mut poller = Poller::default();
    requests(world, "of-the-stream").await;
    poller.deliver(world, worker).await;
    assert_eq!(make_timers_due(world).await, 1, "an order waits for its shipment");
    let mut tick = async || {
        let Answer::Response(answer) = worker.invoke(json!({ "tick": {} }).to_string()).await else { panic!("a tick is a task") };
        serde_json::from_str::<Json>(&answer).expect("JSON")
    };
    assert_eq!(tick().await["timedOut"], 1, "the order's");
    poller.deliver(world, worker).await;
}

/// Each task, with everything for it to do: rows that are missing, behind, outdated, orphaned and wrong, sums that are wrong, and events
/// that cannot be applied.
async fn work_on_tasks(world: &World, operations: &mut Lambda) {
    world.append_all(&unreadable("poison-2")).await;
    world.append_all(&account("missing", &["1", "2"])).await;
    requests(world, "of-the-catch-up").await;
    let mut invoke = async |task: Json| {
        let Answer::Response(answer) = operations.invoke(task.to_string()).await else { panic!("{task} is a task") };
        serde_json::from_str::<Json>(&answer).expect("JSON")
    };
    for projection in included().projections().iter().map(|rule| rule.name()) {
        invoke(json!({ "catchUp": { "projection": projection, "since": "9999d" } })).await;
    }
    outdate_account(world, "missing").await;
    // A child row that its rule does not make.
    let extra = [("accountId", "missing"), ("movement", "of nobody")].into_iter();
    let extra = extra.fold(world.embedded.client().put_item().table_name("account-statement"), |put, (name, text)| {
        put.item(name, AttributeValue::S(text.to_owned()))
    });
    extra.send().await.expect("put");
    world.append_all(&account("late", &["1", "2"])).await;
    for projection in included().projections().iter().filter(|rule| rule.process().is_none()).map(|rule| rule.name()) {
        invoke(json!({ "rebuild": { "projection": projection } })).await;
    }
    let orphan = [("version", "1"), ("revision", "1")].into_iter();
    let orphan = orphan.fold(world.embedded.client().put_item().table_name("account-summary"), |put, (name, number)| {
        put.item(name, AttributeValue::N(number.to_owned()))
    });
    let orphan = orphan.item("accountId", AttributeValue::S("orphan".to_owned()));
    orphan.item("lastEventId", AttributeValue::S("nowhere".to_owned())).send().await.expect("put");
    let wrong = world.embedded.client().scan().table_name("forum-counters").send().await.expect("rows").items.unwrap_or_default();
    for id in wrong.into_iter().filter_map(|mut row| row.remove("id")) {
        let update = world.embedded.client().update_item().table_name("forum-counters").key("id", id);
        let update = update.update_expression("ADD postCount :one, topicCount :one");
        update.expression_attribute_values(":one", AttributeValue::N("1".to_owned())).send().await.expect("updated");
    }
    for task in [json!({ "projection": "account-summary" }), json!({ "projection": "forum-counters" })] {
        invoke(json!({ "verify": task })).await;
    }
    invoke(json!({ "verify": { "projection": "account-summary", "sample": 100 } })).await;
    invoke(json!({ "verify": { "projection": "forum-counters", "run": save_contended_sum(world).await } })).await;
}

/// A verification that goes on with a sum whose contributors never stand still. Returns its id.
async fn save_contended_sum(world: &World) -> String {
    let mut progress = serde_json::to_value(Progress::start(1, None)).expect("JSON");
    let pass = json!({ "after": null, "up_to": null, "scans": 4, "rows": { "category-1": { "postCount": {} } }, "large": [] });
    progress["phase"] = json!({ "Rows": { "scan": { "of": 1, "left": [] }, "pass": pass } });
    let rule = included().get("forum-counters").expect("a projection");
    world.worker.store().save_verification(rule, None, &progress.to_string(), Deadline::NONE).await.expect("saved")
}

/// Every query of rows but the scan, which is for tools.
async fn queries() -> Calls {
    let (world, net) = (World::new().await, Recorder::default());
    let worker = world.worker_of(ALL);
    for domain in ["bank", "forum", "shop"] {
        let events = history(domain, 3, 60, 6);
        world.append_all(&events).await;
        worker.process(&records(&events), Deadline::NONE).await;
    }
    requests(&world, "of-nobody").await;
    work_off(&world, &worker).await;
    let recorder = net.clone();
    let reader = world.reader(ALL, move |call| {
        recorder.record(call);
        world::Fault::None
    });
    for queries in
        [reader.queries.clone(), reader.queries.clone().eventually(), reader.queries.clone().with_cache(LocalCache::new(10, MINUTE))]
    {
        for &rule in ALL.iter().filter(|rule| rule.process().is_none()) {
            let rows = queries.rows_of(rule);
            let stored = worker.store().visible_rows(rule).await.expect("rows");
            let id = stored.keys().next().expect("each domain has rows");
            let token: ConsistencyToken = format!("{}@1", id.key).parse().expect("a token");
            rows.get::<()>(id.key.clone()).untyped().await.expect("read");
            rows.get::<()>(id.key.clone()).fresh().untyped().await.expect("read");
            // A shared row, and a version that no aggregate has, have no answer; the calls are the same.
            let _ = rows.get::<()>(id.key.clone()).after(&token).untyped().await;
            rows.many::<Anything>([id.key.clone(), "nobody".into()]).await.expect("read");
            if rule.children().is_some() {
                rows.children(id.key.clone()).after(&token).page::<Anything>(10, None).await.expect("read");
            }
        }
        let of_author = queries.rows(&TopicPosts).index(TopicPosts::POSTS_BY_AUTHOR).of(["ann"]);
        of_author.newest_first().page::<Anything>(10, None).await.expect("read");
    }
    net.calls()
}

/// Commands with and without ids; refused, repeated, with claims, for several aggregates, and in competition.
async fn commands() -> Calls {
    let (world, net) = (World::new().await, Recorder::default());
    let recorder = net.clone();
    let tapped = world.tapped(move |call| {
        recorder.record(call);
        world::Fault::None
    });
    let (commands, text) = (Commands::new(tapped.worker.store()), str::to_owned);
    let register = user::Command::Register { email: text("ann@example.org"), name: text("Ann") };
    let change = user::Command::ChangeEmail { email: text("ann@example.com") };
    let deposit = account_decider::Command::Deposit { amount: "1".parse().expect("an amount") };
    for id in ["first", "first", "second"] {
        // Accepted, answered again, refused.
        let _ = commands.to(&User, "ann").id(id).handle(&register).await;
        let _ = commands.to(&User, "ann").id(format!("{id}, changed")).handle(&change).await;
        let _ = commands.to(&User, "other").handle(&register).await;
        // For a version that is over: it may have been this command that moved it.
        let _ = commands.to(&User, "ann").id(id).expecting(Version::NONE).handle(&register).await;
        let _ = commands.to(&Account, "nobody's").handle(&deposit).await;
        let open = account_decider::Command::Open { initial_deposit: "1".parse().expect("an amount") };
        let both = commands.together().id(id).command(&Account, "alice", &open).command(&Account, "bob", &open);
        let _ = both.requires(&User, "ann", |user| if *user == user::State::Unknown { Err(String::new()) } else { Ok(()) }).handle().await;
    }
    // Enough for snapshots, and for conflicts.
    Commands::many((0..150).map(|_| commands.to(&Account, "alice").handle(&deposit)), 4).await;
    let alice = commands.load(&Account, "alice").await.expect("readable");
    let ann = commands.load(&User, "ann").await.expect("readable");
    assert_eq!((alice.version.0 > 100, ann.version.0), (true, 2), "the commands were carried out");
    net.calls()
}
