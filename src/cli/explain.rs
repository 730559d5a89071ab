//! `projector explain`: what each event did to a row, and which aggregates made an attribute that they share.

use std::{collections::BTreeSet, str::FromStr};

use anyhow::bail;
use clap::Args;
use projection_vocabulary::{AggregateId, Cell, Contribution, DynProjection, HomeRow, RecordedEvent, RowKey, Timestamp, Value, Version};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    format::Format,
    out::Out,
    stores::Named,
    terminal,
    text::{Lines, count, count_of, printable, shortened, to_the_second},
};
use crate::{
    operations::{
        differs::Differs,
        explain::{self, Compared, Contributors, Did, Standing, Step, Telling, Told, Until},
    },
    retry::Deadline,
    store::Store,
};

/// Columns of a value in a line: it may have 400 KB. JSON has it whole.
const VALUE_COLUMNS: usize = 60;
/// Columns of an event's data in a line.
const DATA_COLUMNS: usize = 200;
/// Contributions and attributes of a row that are named in a line. JSON has them all.
const NAMED_MAX: usize = 20;

/// What to explain.
#[derive(Args)]
pub struct Options {
    /// The aggregate, or the key of a row that aggregates share
    #[arg(value_name = "AGGREGATE", allow_hyphen_values = true)]
    aggregate: String,
    /// In this projection only
    #[arg(long, value_name = "P")]
    projection: Option<String>,
    /// As of this version, or this time: 7, or 2026-01-05T09:00:00Z
    #[arg(long, value_name = "VERSION|TIME", conflicts_with = "attribute")]
    at: Option<String>,
    /// Begin with this version
    #[arg(long, value_name = "VERSION", default_value_t = 1, conflicts_with = "attribute")]
    from: u64,
    /// Also show the data of each event
    #[arg(long, conflicts_with = "attribute")]
    event_data: bool,
    /// Tell which aggregates made this attribute of a row that they share
    #[arg(long, value_name = "NAME", requires = "projection", allow_hyphen_values = true)]
    attribute: Option<String>,
    /// Name at most so many of these aggregates
    #[arg(long, value_name = "N", default_value_t = 50, requires = "attribute")]
    limit: usize,
    /// Continue after this one of these aggregates
    #[arg(long, value_name = "A", requires = "attribute", allow_hyphen_values = true)]
    after: Option<String>,
    #[command(flatten)]
    format: Format,
}

fn until(at: Option<&str>) -> anyhow::Result<Until> {
    let Some(at) = at else { return Ok(Until::Head) };
    if let Ok(version) = u64::from_str(at) {
        return Ok(Until::Version(Version(version)));
    }
    Ok(Until::Time(Timestamp::parse(at).map_err(|error| anyhow::anyhow!("--at is no version, and as a time it is {error}"))?))
}

/// `explain`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let chosen = options.projection.as_ref().map(|name| cx.rule(name)).transpose()?;
    if let Some(process) = chosen.and_then(DynProjection::process) {
        bail!("{} is a process, which makes no rows: `projector process show` tells what an instance of it did", process.name());
    }
    let until = until(options.at.as_deref())?;
    let store = cx.open_existing_store().await?;
    if let (Some(attribute), Some(rule)) = (&options.attribute, chosen) {
        return contributors(options, rule, attribute, &store, cx).await;
    }
    let id = AggregateId::from(options.aggregate.as_str());
    let rules: Vec<_> = chosen.map_or_else(|| cx.registry.read_models().collect(), |rule| vec![rule]);
    if store.load_page(&id, Version::NONE.next()..=Version(u64::MAX), 1, Deadline::NONE).await?.is_empty() {
        return without_events(&id, &rules, &store).await;
    }
    if !options.format.is_json() {
        cx.out.text(&Named::of(&cx.store, store.names(), &rules).text());
    }
    let (mut exit, mut rows) = (EXIT_OK, 0);
    for rule in rules {
        let explained = one(options, rule, &id, &until, (&store, chosen.is_some()), &mut cx.out).await?;
        rows += usize::from(explained.is_some());
        exit = exit.max(explained.unwrap_or(EXIT_OK));
    }
    if rows == 0 {
        terminal::note("no event concerns a projection of this program");
    }
    if cx.registry.processes().any(|process| id.as_str().split_once('/').is_some_and(|(name, _)| name == process.name())) {
        terminal::note(format_args!("it is an instance of a process: `projector process show {}` tells what it did", id.as_str()));
    }
    Ok(exit)
}

/// Says what else the key is, of which the event store has no events.
async fn without_events(id: &AggregateId, rules: &[&'static dyn DynProjection], store: &Store) -> anyhow::Result<u8> {
    terminal::error(format_args!("the event store has no events of {}", printable(id.as_str())));
    for rule in rules {
        let rows = store.rows(*rule, BTreeSet::from([RowKey::from(id)]), Deadline::NONE).await?;
        let Some(row) = rows.get(&RowKey::from(id)) else { continue };
        if row.home.version > Version::NONE {
            terminal::note(format_args!("{} has a row of it all the same: see `projector verify {}`", rule.name(), rule.name()));
        }
        if !row.shared.is_empty() {
            let names: Vec<_> = row.shared.keys().map(|name| printable(name)).collect();
            terminal::note(format_args!(
                "in {} it is a row that aggregates share: --projection {} --attribute NAME tells which made {}",
                rule.name(),
                rule.name(),
                names.join(", ")
            ));
        }
    }
    Ok(EXIT_FINDINGS)
}

/// What becomes of the steps of one projection.
struct Telltale<'a> {
    options: &'a Options,
    rule: &'static dyn DynProjection,
    columns: usize,
    out: &'a mut Out,
    /// Whether an event was printed, or everything is to be.
    begun: bool,
    ended: Ended,
}

/// What is left to say about a history that ends before an event that cannot be applied.
#[derive(Clone, Copy, Default)]
struct Ended {
    /// Whether the event was told, with the reason.
    said_why: bool,
    /// How many events that would have been told wait behind it.
    waiting: u64,
}

impl Telltale<'_> {
    /// An aggregate may have a million events, none of them of concern to this projection.
    fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            if !self.options.format.is_json() {
                self.out.text(&format!("\n{} at revision {}:\n", self.rule.name(), self.rule.revision()));
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step.did {
            Did::Irrelevant if !self.begun => return,
            // They do nothing, and may be many.
            Did::Waits => {
                self.ended.waiting += 1;
                return;
            }
            Did::Irrelevant | Did::Applied | Did::Stopped(_) => self.begin(),
        }
        self.ended.said_why |= matches!(step.did, Did::Stopped(_));
        if self.options.format.is_json() {
            self.out.line(step_json(self.rule, step, self.options.event_data));
        } else {
            self.out.text(&step_lines(step, self.options.event_data, self.columns));
        }
    }
}

/// Explains the row of one projection; `None` if the projection has nothing to do with the aggregate, and was not `chosen`.
async fn one(
    options: &Options,
    rule: &'static dyn DynProjection,
    id: &AggregateId,
    until: &Until,
    (store, chosen): (&Store, bool),
    out: &mut Out,
) -> anyhow::Result<Option<u8>> {
    let columns = terminal::columns();
    let mut steps = Telltale { options, rule, columns, out, begun: false, ended: Ended::default() };
    if chosen {
        steps.begin();
    }
    let mut telling = Telling::new(rule, id, Version(options.from), until);
    while telling.page(store, Deadline::NONE, |step| steps.step(&step)).await? {
        if !steps.out.is_open() {
            break;
        }
    }
    let told = telling.end();
    let standing = explain::standing(store, rule, id, &told, Deadline::NONE).await?;
    if !steps.begun && told.stopped.is_none() && told.row.version == Version::NONE && standing.is == Compared::Absent {
        return Ok(None);
    }
    steps.begin();
    let ended = steps.ended;
    if options.format.is_json() {
        out.line(told_json(rule, &told, &standing, ended.waiting));
    } else {
        out.text(&told_lines(&told, &standing, ended, columns));
    }
    let is_fine = told.stopped.is_none() && !matches!(standing.is, Compared::Wrong { .. });
    Ok(Some(if is_fine { EXIT_OK } else { EXIT_FINDINGS }))
}

fn step_lines(Step { version, event, did, changes, children }: &Step, data: bool, columns: usize) -> String {
    const INDENT: &str = "          ";
    let mut lines = Lines::default();
    let (at, name) = event.as_ref().map_or_else(
        || (" ".repeat("2026-01-05 09:00:00".len()), "unreadable".to_owned()),
        |event| (to_the_second(event.timestamp.as_str()), shortened(&event.event_type, VALUE_COLUMNS)),
    );
    let what = match did {
        Did::Applied if changes.is_empty() && children.is_empty() => ": changes nothing".to_owned(),
        Did::Applied => String::new(),
        Did::Irrelevant => ": does not concern it".to_owned(),
        Did::Stopped(why) => format!(": cannot be applied: {}", printable(why)),
        Did::Waits => ": waits".to_owned(),
    };
    lines.paragraph(&format!("{:>6}  {at}  ", version.0), &(name + &what), INDENT, columns);
    if let Some(event) = event.as_ref().filter(|_| data) {
        lines.paragraph(INDENT, &format!("data {}", shortened(event.data.to_json().get(), DATA_COLUMNS)), INDENT, columns);
    }
    for differs in changes {
        lines.paragraph(INDENT, &changed(differs), "            ", columns);
    }
    for (sort, changes) in children {
        let removed = changes.iter().all(|differs| differs.to.is_none());
        let changes: Vec<_> = changes.iter().map(changed).collect();
        let what = if removed { "removed".to_owned() } else { changes.join(", ") };
        lines.paragraph(INDENT, &format!("child row {}: {what}", shortened(sort, VALUE_COLUMNS)), "            ", columns);
    }
    lines.into_text()
}

/// What an event, or another rule, makes of an attribute.
pub fn changed(Differs { attribute, contributed_to, from, to }: &Differs) -> String {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), short);
    let name = shortened(attribute, VALUE_COLUMNS);
    let name = contributed_to.as_ref().map_or_else(|| name.clone(), contributed);
    match from {
        None => format!("{name} = {}", value(to)),
        Some(_) => format!("{name} {} → {}", value(from), value(to)),
    }
}

/// What is contributed to an attribute of a shared row.
fn contributed((row, attribute): &Cell) -> String {
    format!("contribution to {} of {}", shortened(attribute, VALUE_COLUMNS), shortened(row.as_str(), VALUE_COLUMNS))
}

/// A value as JSON, of which the middle may be left out.
pub fn short(value: &Value) -> String {
    shortened(value.to_json().get(), VALUE_COLUMNS)
}

fn waiting(events: u64) -> String {
    format!("{} {}", count(events, "event"), if events == 1 { "waits" } else { "wait" })
}

fn told_lines(told: &Told, Standing { stored, is }: &Standing, end: Ended, columns: usize) -> String {
    let mut lines = Lines::default();
    let Told { row, children, stopped, .. } = told;
    if let Some((version, why)) = stopped {
        let why = if end.said_why { String::new() } else { format!(": {}", printable(why)) };
        let waiting = if end.waiting > 0 { format!("; {} behind it", waiting(end.waiting)) } else { String::new() };
        lines.paragraph("  ", &format!("it stops before version {version}{why}{waiting}"), "    ", columns);
    }
    let mut then: Vec<_> = row.own.iter().map(|(name, value)| format!("{}={}", shortened(name, VALUE_COLUMNS), short(value))).collect();
    then.extend(row.contributions.iter().map(|(cell, made)| format!("{}={}", contributed(cell), short(&made.value()))));
    let more = then.len().saturating_sub(NAMED_MAX);
    then.truncate(NAMED_MAX);
    if more > 0 {
        then.push(format!("and {more} more, which --json shows"));
    }
    if !children.is_empty() {
        then.push(count_of(children.len(), "child row"));
    }
    let then = match (row.version, then.is_empty()) {
        (Version::NONE, _) => "there is none".to_owned(),
        (_, true) => "empty".to_owned(),
        (_, false) => then.join(", "),
    };
    let first =
        if row.version == Version::NONE { "  the row then: ".to_owned() } else { format!("  the row then, at version {}: ", row.version) };
    lines.paragraph(&first, &then, "    ", columns);
    lines.paragraph("  ", &standing_text(told, stored, is), "    ", columns);
    if !stored.shared.is_empty() {
        let names: Vec<_> = stored.shared.keys().take(NAMED_MAX).map(|name| shortened(name, VALUE_COLUMNS)).collect();
        let text = format!("aggregates share it: --attribute NAME tells which made {}", names.join(", "));
        lines.paragraph("  ", &text, "    ", columns);
    }
    if let Some(at) = &stored.parked_at {
        let text = format!("it is parked since {}: `projector parked show` has the event that it waits for", to_the_second(at));
        lines.paragraph("  ", &text, "    ", columns);
    }
    lines.into_text()
}

fn standing_text(told: &Told, stored: &HomeRow, is: &Compared) -> String {
    match is {
        Compared::Absent => "no row is stored".to_owned(),
        Compared::Right if stored.version == told.row.version => "the stored row is the same".to_owned(),
        Compared::Right => format!("the stored row is at version {}, and right", stored.version),
        Compared::OtherRevision => {
            format!("revision {} of the rule wrote the stored row: `projector preview` compares them", stored.newest_revision())
        }
        Compared::Moving => format!("the stored row is at version {} and moves: it was not compared", stored.version),
        Compared::Wrong { changes, children } => {
            let mut what: Vec<_> = changes.iter().map(changed).collect();
            if *children > 0 {
                what.push(count_of(*children, "child row"));
            }
            let more = what.len().saturating_sub(NAMED_MAX);
            what.truncate(NAMED_MAX);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            format!(
                "the stored row, at version {}, differs, from what it is to what it must be: {}{more}; see `projector verify`",
                stored.version,
                what.join(", ")
            )
        }
    }
}

/// The same as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeJson<'a> {
    attribute: &'a str,
    /// The key of the shared row.
    #[serde(skip_serializing_if = "Option::is_none")]
    contributed_to: Option<&'a str>,
    from: Option<Box<RawValue>>,
    to: Option<Box<RawValue>>,
}

/// Changes as JSON.
pub fn changes_json(changes: &[Differs]) -> Vec<ChangeJson<'_>> {
    changes.iter().map(ChangeJson::of).collect()
}

impl<'a> ChangeJson<'a> {
    fn of(Differs { attribute, contributed_to, from, to }: &'a Differs) -> Self {
        let json = |value: &Option<Value>| value.as_ref().map(Value::to_json);
        Self { attribute, contributed_to: contributed_to.as_ref().map(|(row, _)| row.as_str()), from: json(from), to: json(to) }
    }
}

fn step_json(rule: &dyn DynProjection, Step { version, event, did, changes, children }: &Step, data: bool) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        projection: &'a str,
        version: u64,
        event_type: Option<&'a str>,
        timestamp: Option<&'a str>,
        event_id: Option<&'a str>,
        did: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
        changes: Vec<ChangeJson<'a>>,
        children: Vec<ChildJson<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Box<RawValue>>,
    }
    #[derive(Serialize)]
    struct ChildJson<'a> {
        child: &'a str,
        changes: Vec<ChangeJson<'a>>,
    }
    let (did, why) = match did {
        Did::Applied => ("applied", None),
        Did::Irrelevant => ("irrelevant", None),
        Did::Stopped(why) => ("stopped", Some(why.as_str())),
        Did::Waits => ("waits", None),
    };
    let event = event.as_deref();
    let of = |of: fn(&RecordedEvent) -> &str| event.map(of);
    json_of(&Line {
        projection: rule.name(),
        version: version.0,
        event_type: of(|event| &event.event_type),
        timestamp: of(|event| event.timestamp.as_str()),
        event_id: of(|event| &event.event_id),
        did,
        why,
        changes: changes_json(changes),
        children: children.iter().map(|(sort, changes)| ChildJson { child: sort, changes: changes_json(changes) }).collect(),
        data: event.filter(|_| data).map(|event| event.data.to_json()),
    })
}

/// Numbers of 38 digits stay as they are: they are raw JSON, which a tree of JSON would make floats of.
fn json_of(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("it has text keys and serialises")
}

fn told_json(
    rule: &dyn DynProjection,
    Told { row, children, stopped, last }: &Told,
    Standing { stored, is }: &Standing,
    waiting: u64,
) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        projection: &'a str,
        revision: u32,
        row: Row<'a>,
        /// The last version that was told.
        last: u64,
        stopped_at: Option<u64>,
        why: Option<&'a str>,
        waiting: u64,
        stored: Stored<'a>,
    }
    #[derive(Serialize)]
    struct Row<'a> {
        version: u64,
        attributes: Box<RawValue>,
        contributions: Vec<Made<'a>>,
        children: usize,
    }
    #[derive(Serialize)]
    struct Made<'a> {
        row: &'a str,
        attribute: &'a str,
        value: Box<RawValue>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Stored<'a> {
        version: u64,
        revision: u32,
        parked_at: Option<&'a str>,
        is: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        differences: Option<Vec<ChangeJson<'a>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        children_that_differ: Option<usize>,
    }
    let (is, wrong) = match is {
        Compared::Absent => ("absent", None),
        Compared::Right => ("right", None),
        Compared::Wrong { changes, children } => ("wrong", Some((changes, *children))),
        Compared::OtherRevision => ("ofAnotherRevision", None),
        Compared::Moving => ("moving", None),
    };
    let made =
        row.contributions.iter().map(|((row, attribute), made)| Made { row: row.as_str(), attribute, value: made.value().to_json() });
    json_of(&Line {
        projection: rule.name(),
        revision: rule.revision(),
        row: Row {
            version: row.version.0,
            attributes: Value::Map(row.own.clone()).to_json(),
            contributions: made.collect(),
            children: children.len(),
        },
        last: last.0,
        stopped_at: stopped.as_ref().map(|(version, _)| version.0),
        why: stopped.as_ref().map(|(_, why)| why.as_str()),
        waiting,
        stored: Stored {
            version: stored.version.0,
            revision: stored.newest_revision(),
            parked_at: stored.parked_at.as_deref(),
            is,
            differences: wrong.map(|(changes, _)| changes_json(changes)),
            children_that_differ: wrong.map(|(_, children)| children),
        },
    })
}

async fn contributors(
    options: &Options,
    rule: &'static dyn DynProjection,
    attribute: &str,
    store: &Store,
    cx: &mut Context,
) -> anyhow::Result<u8> {
    let cell = (RowKey::from(options.aggregate.as_str()), attribute.to_owned());
    let after = options.after.as_ref().map(|after| AggregateId::from(after.as_str()));
    let found = explain::contributors(store, rule, &cell, (after.as_ref(), options.limit), Deadline::NONE).await?;
    let Contributors { shows, named, others, together } = &found;
    let value = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), short);
    if shows.is_none() && together.is_none() {
        terminal::error(format_args!(
            "no aggregate makes {} of {} in {}",
            printable(attribute),
            printable(&options.aggregate),
            rule.name()
        ));
        return Ok(EXIT_FINDINGS);
    }
    let (agree, together) = (found.agree(), together.as_ref().map(Contribution::value));
    if options.format.is_json() {
        #[derive(Serialize)]
        struct Line<'a> {
            aggregate: &'a str,
            contributes: Box<RawValue>,
        }
        #[derive(Serialize)]
        struct Last {
            shows: Option<Box<RawValue>>,
            together: Option<Box<RawValue>>,
            others: u64,
            agree: bool,
        }
        #[derive(Serialize)]
        struct Total {
            total: Last,
        }
        for (aggregate, contribution) in named {
            cx.out.line(json_of(&Line { aggregate: aggregate.as_str(), contributes: contribution.value().to_json() }));
        }
        let last =
            Last { shows: shows.as_ref().map(Value::to_json), together: together.as_ref().map(Value::to_json), others: *others, agree };
        cx.out.line(json_of(&Total { total: last }));
    } else {
        let mut lines = Lines::default();
        let of = format!("{} of {}", printable(attribute), printable(&options.aggregate));
        lines.add(format_args!("{of} in {} shows {}, which these make:", rule.name(), value(shows.as_ref())));
        for (aggregate, contribution) in named {
            lines.add(format_args!("  {}: {}", shortened(aggregate.as_str(), VALUE_COLUMNS), short(&contribution.value())));
        }
        if *others > 0 {
            lines.add(format_args!("  and {} more", count(*others, "aggregate")));
        }
        lines.add(format_args!("all together: {}", value(together.as_ref())));
        cx.out.text(&lines.into_text());
        if let Some((last, _)) = named.last().filter(|_| *others > 0) {
            terminal::note(format_args!("those after these: --after {}", last.as_str()));
        }
    }
    if !agree {
        terminal::note("the row shows something else than its contributions make: unless a worker is writing, see `projector verify`");
    }
    Ok(if agree { EXIT_OK } else { EXIT_FINDINGS })
}
