//! The live lane: each record as it comes, the buttons, and the naive handler beside ours.

use maud::{Markup, html};
use projection_vocabulary::ChildOp;

use super::{SaidBefore, count, count_of, link, maybe, of_aggregate, of_row, page as whole, text, value};
use crate::{
    dev::{
        BATCH_RECORDS, Console,
        compare::Wrong,
        journal::{Entry, Fate, Totals, What},
        mapping::Standing,
        traffic::Rate,
    },
    engine::report::Outcome,
    operations::differs::Differs,
};

/// How many records a fresh page shows.
const SHOWN: usize = 100;
/// How many child rows are shown beside a record.
const CHILDREN_MAX: usize = 5;
/// How many wrong rows are named.
const WRONG_SHOWN: usize = 8;
/// Rates of traffic to choose from.
const RATES: [u32; 5] = [0, 1, 10, 100, 1_000];
/// The fault buttons: what is sent, the name, and what it does.
const FAULTS: [(&str, &str, &str); 6] = [
    ("again", "Deliver again", "The last batch is delivered once more, as after a lost acknowledgement"),
    ("reorder", "Deliver out of order", "The next two events of one aggregate arrive newest first, each in a batch of its own"),
    ("lose", "Lose an answer", "The next write is applied, and its answer never arrives"),
    ("kill", "Kill in mid-batch", "Each function dies after its next write; the batch is delivered again"),
    ("throttle", "Throttle for 10 s", "DynamoDB refuses every request for ten seconds"),
    ("poison", "Poison event", "An event that no rule can apply is appended to the aggregate that was last seen"),
];

/// The page.
pub fn page(console: &Console, said: &SaidBefore) -> Markup {
    let (shown, left_out) = console.journal.after(0, SHOWN);
    let body = html! {
        h1 { "Live" }
        section #standing aria-label="Standing" { (standing(console)) }
        section aria-label="Buttons" {
            (buttons(console, &shown))
        }
        section {
            h2 { "Records, as they were delivered" }
            @if shown.is_empty() { (how_to_begin(console)) }
            ol #lane data-last=(shown.first().map_or(0, |entry| entry.number)) { (entries(&shown, left_out)) }
        }
    };
    whole("/", "Live", said, &body)
}

fn how_to_begin(console: &Console) -> Markup {
    let url = &console.database_url;
    html! {
        div #begin {
            p { "Nothing has happened yet. Give a " a href="/commands" { "command" } ", switch on the traffic above, or write from outside:" }
            pre { code { "projector --endpoint-url " (url) " command" "\n" "aws dynamodb list-tables --endpoint-url " (url) } }
        }
    }
}

fn buttons(console: &Console, shown: &[Entry]) -> Markup {
    let last = shown.iter().find_map(|entry| if let What::Event { aggregate, .. } = &entry.what { Some(aggregate.as_str()) } else { None });
    let Rate { sample, per_second } = console.traffic.rate();
    html! {
        div.columns {
            fieldset {
                legend { "Faults, for both handlers" }
                @for (what, name, does) in FAULTS {
                    form method="post" action="/press" data-quiet {
                        input type="hidden" name="what" value=(what);
                        @if what == "poison" { input type="hidden" name="aggregate" value=(last.unwrap_or("poisoned")); }
                        button title=(does) { (name) }
                    }
                }
                form method="post" action="/press" data-quiet {
                    button name="what" value="break" title="A deployment whose rules refuse every event" { "Deploy a broken rule" }
                    button name="what" value="mend" { "Deploy the right rule" }
                }
            }
            fieldset {
                legend { "Traffic" }
                form.line method="post" action="/traffic" data-quiet {
                    label { "Events of " select name="sample" {
                        @for (at, of) in console.samples.iter().enumerate() {
                            option value=(at) selected[at == sample] { (of.name) }
                        }
                    } }
                    label { "a second " select name="per_second" {
                        @for rate in RATES { option value=(rate) selected[rate == per_second] { (rate) } }
                    } }
                    button { "Set" }
                }
            }
            fieldset {
                legend { "Save as fixture" }
                form.line method="post" action="/fixture" data-quiet {
                    label { "Name " input name="name" required pattern="[a-z0-9\\-]{1,64}" placeholder="what-happened"; }
                    button title="The stream as JSON, and the rows that a replay must make" { "Save" }
                }
            }
        }
    }
}

/// Counters, lag, costs, and what the naive handler has got wrong.
pub fn standing(console: &Console) -> Markup {
    let totals = console.journal.totals();
    let (ours, naive) = (console.ours_mapping.standing(), console.naive_mapping.standing());
    let (wrong, named) = console.comparison.wrong(WRONG_SHOWN);
    let (requests, units) = console.naive.usage();
    html! {
        table.cards {
            thead { tr { th { "" } th { "this worker" } th { "naive handler: one ADD a record" } } }
            tbody {
                tr { th scope="row" { "Rows" }
                    td { strong.good { "✓ " (rows_of(&totals)) } }
                    td {
                        @if wrong == 0 { strong.good { "✓ none differs" } } @else { strong.bad { "✗ " (count_of(wrong, "row")) " wrong" } }
                        @if !naive.idle { " (under way)" }
                    }
                }
                tr { th scope="row" { "Delivery" } td { (delivery(&ours, false)) } td { (delivery(&naive, true)) } }
                tr { th scope="row" { "Cost" }
                    td { (cost(totals.usage.requests, totals.usage.write_units, totals.events)) }
                    td { (cost(requests, units, totals.events)) }
                }
                tr { th scope="row" { "Events" }
                    td { (count(totals.events, "event")) " appended; " (count(totals.records, "record")) " delivered, " (totals.ignored) " without an event" }
                    td { "of the same stream, in batches of " (BATCH_RECORDS) }
                }
            }
        }
        @if !named.is_empty() { (wrong_rows(&named, wrong)) }
        (planned(console, &ours))
        (projections(&totals))
    }
}

fn rows_of(totals: &Totals) -> &'static str {
    let parked = totals.projections.values().any(|[_, _, _, parked, _]| *parked > 0);
    if parked { "right; what cannot be applied waits alone" } else { "right" }
}

fn delivery(standing: &Standing, naive: bool) -> Markup {
    let Standing { waiting, lag_ms, deliveries, failures, given_up, blocked, idle, .. } = *standing;
    html! {
        (count(deliveries, "delivery")) ", " (failures) " failed; "
        @if let Some(times) = blocked {
            strong.bad { "✗ " (count_of(waiting, "record")) " behind a batch that failed " (count(u64::from(times), "time")) }
            @if naive {
                form.inline method="post" action="/press" data-quiet {
                    button name="what" value="expire" title="What happens after 24 hours" { "Let 24 hours pass" }
                }
            }
        } @else if idle { "nothing waits" } @else { (count_of(waiting, "record")) " wait, the oldest for " (lag_ms) " ms" }
        @if given_up > 0 {
            "; " strong.bad { "✗ " (count(given_up, "record")) " given up" }
            @if !naive { " " a href="/parked" { "deliver again" } }
        }
    }
}

fn cost(requests: u64, units: f64, events: u64) -> Markup {
    #[allow(clippy::cast_precision_loss, reason = "a ratio, shown with two digits")]
    let each = |number: f64| if events == 0 { "–".to_owned() } else { format!("{:.2}", number / events as f64) };
    #[allow(clippy::cast_precision_loss, reason = "a ratio, shown with two digits")]
    let requests_each = each(requests as f64);
    html! { (count(requests, "request")) ", " (format!("{units:.0}")) " write units; an event " (requests_each) " and " (each(units)) }
}

fn wrong_rows(named: &[Wrong], all: usize) -> Markup {
    html! {
        details #wrong open {
            summary { "What the naive handler has got wrong" }
            table {
                thead { tr { th { "row" } th { "attribute" } th { "right" } th { "naive" } } }
                tbody {
                    @for Wrong { projection, id, attributes } in named {
                        @for (attribute, right, naive) in attributes {
                            tr {
                                td { (projection) " " (of_row(projection, id.key.as_str())) @if let Some(child) = &id.child { "/" (text(child)) } }
                                td { (text(attribute)) }
                                td.good { (maybe(right.as_ref())) }
                                td.bad { (maybe(naive.as_ref())) }
                            }
                        }
                    }
                }
            }
            @if all > named.len() { p { "and " (all - named.len()) " more rows" } }
        }
    }
}

/// What is to go wrong next.
fn planned(console: &Console, ours: &Standing) -> Markup {
    let faults = console.ours.faults.planned();
    let mut planned = Vec::new();
    if let Some(left) = faults.throttled_for() {
        planned.push(format!("every request is throttled for another {} s", left.as_secs() + 1));
    }
    if faults.loses_an_answer {
        planned.push("the next write loses its answer".to_owned());
    }
    if faults.dies {
        planned.push("the worker dies after its next write".to_owned());
    }
    if ours.reorders {
        planned.push("two events of one aggregate are awaited, to arrive in the wrong order".to_owned());
    }
    if console.ours.is_broken() {
        planned.push("rules that refuse everything are deployed: once that is plain, nothing more is parked, and records wait".to_owned());
    }
    html! { @if !planned.is_empty() { p.planned { "⚠ " (planned.join("; ")) } } }
}

fn projections(totals: &Totals) -> Markup {
    html! {
        @if !totals.projections.is_empty() {
            details #outcomes {
                summary { "Outcomes by projection" @if let Some(lag) = totals.lag_ms { "; rows were up to " (lag) " ms behind" } }
                table.numbers {
                    thead { tr { th { "projection" } th { "applied" } th { "duplicate" } th { "healed" } th { "parked" } th { "failed" } } }
                    tbody { @for (name, counts) in &totals.projections { tr { td { (name) } @for count in counts { td { (count) } } } } }
                }
            }
        }
    }
}

/// Entries of the lane, the newest first, and how many older ones were left out.
pub fn entries(entries: &[Entry], left_out: u64) -> Markup {
    html! {
        @for entry in entries { (one(entry)) }
        @if left_out > 0 { li.left-out { "… " (left_out) " more records …" } }
    }
}

fn one(Entry { number, at, delivery, attempt, what, fates }: &Entry) -> Markup {
    let time = at.as_str().get(11..23).unwrap_or_default();
    html! {
        li value=(number) data-number=(number) {
            span.when { time { (time) } " batch " (delivery) @if *attempt > 1 { " · " strong { "try " (attempt) } } }
            span.what {
                @match what {
                    What::Event { aggregate, version, event_type } => {
                        (of_aggregate(aggregate.as_str(), "")) " " span.version { "v" (version) } " " strong { (text(event_type)) }
                    }
                    What::Poison(why) => { strong.bad { "unreadable event" } " " (text(why)) }
                    What::Ignored(why, records) => { span.absent { "· " (count(*records, "record")) " ignored: " (why) } }
                    What::Unusable(why) => { strong.bad { (text(why)) } }
                }
            }
            @if !fates.is_empty() { ul.fates { @for fate in fates { (fate_of(fate, what)) } } }
        }
    }
}

fn fate_of(Fate { projection, outcome, healed, why, changes, children }: &Fate, what: &What) -> Markup {
    let (class, mark) = match outcome {
        Some(Outcome::Applied) => ("applied", "✓ applied"),
        Some(Outcome::Duplicate) => ("duplicate", "= duplicate"),
        Some(Outcome::Parked) => ("parked", "‖ parked"),
        Some(Outcome::Failed) => ("failed", "✗ failed"),
        None => ("failed", "† died"),
    };
    let aggregate = if let What::Event { aggregate, .. } = what { aggregate.as_str() } else { "" };
    html! {
        li {
            a href=(link("/aggregate", &[("id", aggregate), ("projection", projection)])) { (projection) }
            " " span class={ "mark " (class) } { (mark) }
            @if *healed > 0 { " " span.mark.healed { "+ " (healed) " healed" } }
            @if let Some(why) = why { " " span.why { (text(why)) } }
            @for changed in changes { " " (change(projection, changed)) }
            @for (sort, op) in children.iter().take(CHILDREN_MAX) { " " (child(sort, op)) }
            @if children.len() > CHILDREN_MAX { " and " (count_of(children.len() - CHILDREN_MAX, "more child row")) }
        }
    }
}

fn change(projection: &str, Differs { attribute, contributed_to, from, to }: &Differs) -> Markup {
    html! {
        span.change {
            @if let Some((row, _)) = contributed_to { "in " (of_row(projection, row.as_str())) " " }
            b { (text(attribute)) } " " (maybe(from.as_ref())) " → " (maybe(to.as_ref()))
        }
    }
}

fn child(sort: &str, op: &ChildOp) -> Markup {
    html! {
        span.change {
            "child row " (text(sort)) ":"
            @match op {
                ChildOp::Remove => " removed",
                ChildOp::Set(attributes) | ChildOp::Replace(attributes) => {
                    @for (name, of) in attributes { " " b { (text(name)) } " " (value(of)) }
                }
            }
        }
    }
}
