//! Verification and rebuild, with their progress; and where each projection stands.

use maud::{Markup, html};
use projection_vocabulary::DynProjection;

use super::{Failure, SaidBefore, count_of, page as whole, text};
use crate::{
    dev::{
        Console,
        checks::{Check, Kind, Outcome},
    },
    operations::status::{Status, status},
    retry::Deadline,
};

/// The page.
pub async fn page(console: &Console, said: &SaidBefore) -> Result<Markup, Failure> {
    let mut standing = Vec::new();
    for rule in console.registry.read_models() {
        // Rows are not counted: of a hundred thousand that takes a while.
        standing.push((rule, status(&console.operator, rule, None, Deadline::NONE).await?));
    }
    let is_running = console.checks.is_running();
    let all = console.checks.all();
    let body = html! {
        h1 { "Checks" }
        p { "Each is safe while the worker runs. A verification compares every row with the event store, a rebuild writes those anew that another revision of the rule wrote." }
        @for warning in console.warnings() { p.planned { "⚠ " (warning) } }
        table {
            thead { tr { th { "projection" } th { "revision" } th { "newest event" } th { "behind" } th { "" } } }
            tbody { @for (rule, status) in &standing { (projection(*rule, status, is_running)) } }
        }
        div #live data-live {
            @for check in &all { (one(check)) }
        }
        p.hint { "Up for " (console.uptime().as_secs()) " s." }
    };
    Ok(whole("/checks", "Checks", said, &body))
}

fn projection(rule: &dyn DynProjection, Status { newest, behind, .. }: &Status, is_running: bool) -> Markup {
    html! {
        tr {
            th scope="row" { (rule.name()) }
            td { (rule.revision()) }
            td { @if let Some(newest) = newest { time { (newest.as_str()) } } @else { span.absent { "none" } } }
            td { @if behind.is_empty() { "no" } @else { strong.bad { (count_of(behind.len(), "aggregate")) } ", or parked" } }
            td.buttons {
                @for (kind, name) in Kind::ALL {
                    form.inline method="post" action="/checks" data-quiet {
                        input type="hidden" name="projection" value=(rule.name());
                        button name="kind" value=(name) disabled[is_running] { (title(kind)) }
                    }
                }
            }
        }
    }
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Verify => "Verify",
        Kind::Repair => "Repair",
        Kind::Rebuild => "Rebuild",
    }
}

fn one(Check { kind, projection, progress, result }: &Check) -> Markup {
    html! {
        section.check {
            h2 { (title(*kind)) " " (projection) }
            @match result {
                None => { p { "… " (progress) } }
                Some(Outcome { is_clean, summary, findings }) => {
                    p { @if *is_clean { strong.good { "✓ " } } @else { strong.bad { "✗ " } } (text(summary)) }
                    @if !findings.is_empty() { ul { @for finding in findings { li { (text(finding)) } } } }
                }
            }
        }
    }
}
