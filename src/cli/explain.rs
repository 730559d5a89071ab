//! `projector explain`: what each event did to a row, and which aggregates made an attribute that they share.

use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use projection_vocabulary::{AggregateId, Cell, Contribution, DynProjection, HomeRow, RecordedEvent, RowKey, Timestamp, Value, Version};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    format::Format,
    stores::Named,
    terminal,
    text::{Lines, count, printable, shortened, to_the_second},
};
use crate::{
    operations::{
        differs::{Differs, of_content},
        explain::{self, Contributors, Did, Step, Told, Until},
        processes::refuse_process,
    },
    retry::Deadline,
    store::Store,
};

/// Columns of a value in a line: it may have 400 KB. JSON has it whole.
const VALUE_COLUMNS: usize = 60;

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
    /// Which aggregates made this attribute of a row that they share
    #[arg(long, value_name = "NAME", requires = "projection")]
    attribute: Option<String>,
    /// Name at most so many of these aggregates
    #[arg(long, value_name = "N", default_value_t = 50, requires = "attribute")]
    limit: usize,
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
    if let Some(rule) = chosen {
        refuse_process(rule).context("`projector process show` tells what an instance did")?;
    }
    let until = until(options.at.as_deref())?;
    let store = cx.open_existing_store().await?;
    if let (Some(attribute), Some(rule)) = (&options.attribute, chosen) {
        return contributors(options, rule, attribute, &store, cx).await;
    }
    let id = AggregateId::from(options.aggregate.as_str());
    if store.current_version(&id).await? == Version::NONE {
        terminal::error(format_args!("the event store has no events of {}", printable(id.as_str())));
        return Ok(EXIT_FINDINGS);
    }
    let rules: Vec<_> = chosen.map_or_else(|| cx.registry.read_models().collect(), |rule| vec![rule]);
    if !options.format.is_json() {
        cx.out.text(&Named::of(&cx.store, store.names(), &rules).text());
    }
    let mut exit = EXIT_OK;
    for rule in rules {
        exit = exit.max(one(options, rule, &id, &until, (&store, chosen.is_some()), cx).await?);
    }
    Ok(exit)
}

/// Explains the row of one projection. Without `always`, only if an event concerns it.
async fn one(
    options: &Options,
    rule: &'static dyn DynProjection,
    id: &AggregateId,
    until: &Until,
    (store, always): (&Store, bool),
    cx: &mut Context,
) -> anyhow::Result<u8> {
    let (json, columns) = (options.format.is_json(), terminal::columns());
    let mut begun = false;
    let Context { out, .. } = cx;
    let told = explain::tell(store, rule, id, (Version(options.from), until), Deadline::NONE, |step| {
        // An aggregate may have a million events, most of them of no concern to this projection.
        if !begun && (always || step.did != Did::Irrelevant) {
            begun = true;
            if !json {
                out.line("");
                out.line(format_args!("{}:", rule.name()));
            }
        }
        if begun {
            if json {
                out.line(step_json(rule, &step));
            } else {
                out.text(&step_lines(&step, columns));
            }
        }
    })
    .await?;
    if !begun && told.row.version == Version::NONE {
        return Ok(EXIT_OK);
    }
    if !begun && !json {
        out.line("");
        out.line(format_args!("{}:", rule.name()));
    }
    let stored = store.home_row(rule, id, Deadline::NONE).await?;
    let standing = standing(rule, id, &told, &stored, store).await?;
    if json {
        out.line(told_json(rule, &told, &stored, &standing));
    } else {
        out.text(&told_lines(&told, &standing, columns));
    }
    Ok(if matches!(standing, Standing::Differs(_)) { EXIT_FINDINGS } else { EXIT_OK })
}

/// How the row that is stored compares with the fold up to its version.
enum Standing {
    Same,
    /// It has not been written, or only up to another version than was told; up to there it is right.
    At(Version),
    /// It was written by another revision of the rule.
    OtherRevision(u32),
    Differs(Vec<Differs>),
}

async fn standing(
    rule: &'static dyn DynProjection,
    id: &AggregateId,
    told: &Told,
    stored: &HomeRow,
    store: &Store,
) -> anyhow::Result<Standing> {
    if stored.version > Version::NONE && stored.newest_revision() != rule.revision() {
        return Ok(Standing::OtherRevision(stored.newest_revision()));
    }
    let up_to_stored = Until::Version(stored.version);
    let then = if told.row.version == stored.version {
        None
    } else {
        Some(explain::tell(store, rule, id, (Version(u64::MAX), &up_to_stored), Deadline::NONE, drop).await?)
    };
    let differs = of_content(stored, &then.as_ref().unwrap_or(told).row);
    Ok(match then {
        _ if !differs.is_empty() => Standing::Differs(differs),
        Some(_) => Standing::At(stored.version),
        None => Standing::Same,
    })
}

fn step_lines(Step { version, event, did, changes, children }: &Step, columns: usize) -> String {
    let mut lines = Lines::default();
    let (at, name) = event.as_ref().map_or_else(
        || (" ".repeat("2026-01-05 09:00:00".len()), "unreadable".to_owned()),
        |event| (to_the_second(event.timestamp.as_str()), printable(&event.event_type)),
    );
    let mut what: Vec<_> = changes.iter().map(changed).collect();
    what.extend(children.iter().map(|(sort, changes)| {
        let removed = changes.iter().all(|differs| differs.to.is_none());
        let changes: Vec<_> = changes.iter().map(changed).collect();
        format!("child row {}: {}", printable(sort), if removed { "removed".to_owned() } else { changes.join(", ") })
    }));
    let what = match did {
        Did::Applied if what.is_empty() => "changes nothing".to_owned(),
        Did::Applied => what.join(", "),
        Did::Irrelevant => "does not concern it".to_owned(),
        Did::Stopped(why) => format!("cannot be applied: {}", printable(why)),
        Did::Waits => "waits".to_owned(),
    };
    let first = format!("{:>6}  {at}  {name}: ", version.0);
    lines.paragraph(&first, &what, "        ", columns);
    lines.into_text()
}

/// What an event, or another rule, makes of an attribute.
pub fn changed(Differs { attribute, contributed_to, from, to }: &Differs) -> String {
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), short);
    let row = contributed_to.as_ref().map_or_else(String::new, |(row, _)| format!(" in {}", printable(row.as_str())));
    match from {
        None => format!("{}{row} = {}", printable(attribute), value(to)),
        Some(_) => format!("{}{row} {} → {}", printable(attribute), value(from), value(to)),
    }
}

fn short(value: &Value) -> String {
    shortened(value.to_json().get(), VALUE_COLUMNS)
}

fn told_lines(told: &Told, standing: &Standing, columns: usize) -> String {
    let mut lines = Lines::default();
    let Told { row, children, last, stopped } = told;
    let mut then: Vec<_> = row.own.iter().map(|(name, value)| format!("{}={}", printable(name), short(value))).collect();
    then.extend(row.contributions.iter().map(|((of, name), contribution)| {
        format!("{} to {} in {}", short(&contribution.value()), printable(name), printable(of.as_str()))
    }));
    if !children.is_empty() {
        then.push(count(children.len() as u64, "child row"));
    }
    let then = if then.is_empty() { "empty".to_owned() } else { then.join(" ") };
    lines.paragraph(&format!("  the row at version {}: ", row.version), &then, "    ", columns);
    if let Some((version, why)) = stopped {
        lines.paragraph(
            "  ",
            &format!("version {version} of {last} cannot be applied: {}; the aggregate waits there", printable(why)),
            "    ",
            columns,
        );
    }
    let stands = match standing {
        Standing::Same => "the stored row is the same".to_owned(),
        Standing::At(version) if *version == Version::NONE => "no row is stored yet".to_owned(),
        Standing::At(version) => format!("the stored row is at version {version}, and right"),
        Standing::OtherRevision(revision) => {
            format!("revision {revision} of the rule wrote the stored row: `projector preview` compares them")
        }
        Standing::Differs(differs) => {
            let differs: Vec<_> = differs.iter().map(changed).collect();
            format!("the stored row differs, from what it is to what it must be: {}; see `projector verify`", differs.join(", "))
        }
    };
    lines.paragraph("  ", &stands, "    ", columns);
    lines.into_text()
}

/// The same as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeJson<'a> {
    attribute: &'a str,
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

fn step_json(rule: &dyn DynProjection, Step { version, event, did, changes, children }: &Step) -> String {
    let (name, why) = match did {
        Did::Applied => ("applied", None),
        Did::Irrelevant => ("irrelevant", None),
        Did::Stopped(why) => ("stopped", Some(why)),
        Did::Waits => ("waits", None),
    };
    let of = |of: fn(&RecordedEvent) -> &str| event.as_ref().map(|event| of(event).to_owned());
    let children: Vec<_> = children.iter().map(|(sort, changes)| json!({ "child": &**sort, "changes": changes_json(changes) })).collect();
    json!({
        "projection": rule.name(), "version": version.0, "eventType": of(|event| &event.event_type), "timestamp": of(|event| event.timestamp.as_str()),
        "eventId": of(|event| &event.event_id), "did": name, "why": why, "changes": changes_json(changes), "children": children,
    })
    .to_string()
}

fn told_json(rule: &dyn DynProjection, Told { row, children, stopped, .. }: &Told, stored: &HomeRow, standing: &Standing) -> String {
    let attributes = Value::Map(row.own.clone()).to_json();
    let contribution =
        |((of, name), made): (&Cell, &Contribution)| json!({ "row": of.as_str(), "attribute": name, "value": made.value().to_json() });
    let contributions: Vec<_> = row.contributions.iter().map(contribution).collect();
    let (name, differs) = match standing {
        Standing::Same => ("same", None),
        Standing::At(_) => ("atAnotherVersion", None),
        Standing::OtherRevision(_) => ("ofAnotherRevision", None),
        Standing::Differs(differs) => ("differs", Some(changes_json(differs))),
    };
    json!({ "projection": rule.name(), "row": {
        "version": row.version.0, "attributes": attributes, "contributions": contributions, "children": children.len(),
        "stoppedAt": stopped.as_ref().map(|(version, _)| version.0), "why": stopped.as_ref().map(|(_, why)| why),
        "stored": { "version": stored.version.0, "revision": stored.revision, "is": name, "differences": differs },
    } })
    .to_string()
}

async fn contributors(
    options: &Options,
    rule: &'static dyn DynProjection,
    attribute: &str,
    store: &Store,
    cx: &mut Context,
) -> anyhow::Result<u8> {
    let cell = (RowKey::from(options.aggregate.as_str()), attribute.to_owned());
    let found = explain::contributors(store, rule, &cell, options.limit, Deadline::NONE).await?;
    let Contributors { shows, named, others, together } = &found;
    if shows.is_none() && named.is_empty() {
        bail!("no aggregate contributes to {} of {} in {}", printable(attribute), printable(&options.aggregate), rule.name());
    }
    let is_right = together.as_ref().is_none_or(|together| shows.as_ref() == Some(&together.value()));
    if options.format.is_json() {
        for (aggregate, contribution) in named {
            cx.out.line(json!({ "aggregate": aggregate.as_str(), "contributes": contribution.value().to_json() }));
        }
        let value = |value: Option<Value>| value.map(|value| value.to_json());
        cx.out.line(
            json!({ "shows": value(shows.clone()), "together": value(together.as_ref().map(Contribution::value)), "others": others }),
        );
    } else {
        let mut lines = Lines::default();
        let value = |value: Option<Value>| value.map_or_else(|| "nothing".to_owned(), |value| short(&value));
        lines.add(format_args!("{} of {} shows {}, made by:", printable(attribute), printable(&options.aggregate), value(shows.clone())));
        for (aggregate, contribution) in named {
            lines.add(format_args!("  {}: {}", printable(aggregate.as_str()), short(&contribution.value())));
        }
        if *others > 0 {
            lines.add(format_args!("  and {}; to see more: --limit N", count(*others, "more aggregate")));
        }
        lines.add(format_args!("together {}", value(together.as_ref().map(Contribution::value))));
        cx.out.text(&lines.into_text());
    }
    if !is_right {
        terminal::note("the row shows something else than its contributions make: if no worker is writing, see `projector verify`");
    }
    Ok(if is_right { EXIT_OK } else { EXIT_FINDINGS })
}
