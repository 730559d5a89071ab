//! Proves that the simulation can fail: this program breaks the worker in known ways, and the simulation must find each of them.
//! Run it as `cargo simulate-mutants`, or `cargo simulate-mutants NAME...` for some of them.
//!
//! A mutant is a piece of the source and its replacement. The program copies the tree, puts every mutant into the copy behind a switch
//! and builds it once. So the source itself contains no trace of the mutants, and a mutant whose piece of source has changed stops the
//! build with an error. This program does not link the worker, so it builds in a second.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

/// A mutant that survives this number of schedules counts as not found.
const SCHEDULES_MAX: u64 = 20_000;
/// The unbroken worker must pass at least this number of schedules.
const PLAIN_SCHEDULES_MIN: u64 = 1_000;

/// A way to break the worker.
struct Mutant {
    name: &'static str,
    what: &'static str,
    places: &'static [Place],
}

/// A file, a text that occurs in it exactly once, and the replacement.
enum Place {
    /// An expression or statement, and the one that replaces it while the mutant is on.
    Switched(&'static str, &'static str, &'static str),
    /// Any text, and a replacement that contains the switch.
    Text(&'static str, &'static str, &'static str),
}
use Place::{Switched, Text};

const fn mutant(name: &'static str, what: &'static str, places: &'static [Place]) -> Mutant {
    Mutant { name, what, places }
}

const HOME: &str = "src/store/home.rs";
const ROWS: &str = "src/store/rows.rs";
const PARKING: &str = "src/store/parking.rs";
const EVENTS: &str = "src/store/events.rs";
const APPEND: &str = "src/store/append.rs";
const LANE: &str = "src/engine/lane.rs";
const WORKER: &str = "src/engine/worker.rs";
const REPORT: &str = "src/engine/report.rs";
const REDRIVE: &str = "src/operations/redrive.rs";
const REPROJECT: &str = "src/engine/reproject.rs";
const SHARES: &str = "src/engine/shares.rs";
const SHARED: &str = "src/store/shared.rs";
const SETTLE: &str = "src/operations/settle.rs";
const REBUILD: &str = "src/operations/rebuild.rs";
const REBUILD_SEGMENT: &str = "src/operations/rebuild/segment.rs";
const VERIFICATION: &str = "src/store/verification.rs";
const TRANSACTION: &str = "src/store/transaction.rs";
const CLAIMS: &str = "src/store/claims.rs";
const RUN: &str = "src/commands/run.rs";
const HISTORY: &str = "src/commands/history.rs";
const ACT: &str = "src/engine/act.rs";
const INSTANCE: &str = "projections/vocabulary/src/process/instance.rs";

/// The crates that have mutants, each of which needs the switch.
const CRATES: [&str; 2] = ["src/lib.rs", "projections/vocabulary/src/lib.rs"];

const CONDITION: &str = r#"format!("{version} = {after} AND {} = {}", written_by.0, written_by.1)"#;

const ALL: &[Mutant] = &[
    mutant(
        "watermark-at-most",
        "a row may be behind the span",
        &[Switched(HOME, CONDITION, r#"format!("{version} <= {after} AND {} = {}", written_by.0, written_by.1)"#)],
    ),
    mutant(
        "watermark-at-least",
        "a row may be ahead of the span",
        &[Switched(HOME, CONDITION, r#"format!("{version} >= {after} AND {} = {}", written_by.0, written_by.1)"#)],
    ),
    mutant(
        "condition-without-revision",
        "a row of another revision takes writes",
        &[Switched(HOME, CONDITION, r#"format!("{version} = {after} AND ({0} = {1} OR {0} <> {1})", written_by.0, written_by.1)"#)],
    ),
    mutant(
        "home-and-shared-apart",
        "home row and shared rows in two requests",
        &[Switched(
            ROWS,
            "self.transact(rule, &transaction, applied_maybe, deadline).await",
            "{
                for write in writes {
                    match self.commit_one(rule, write, applied_maybe, deadline).await? {
                        Commit::Done => {}
                        other => return Ok(other),
                    }
                }
                let actions = transaction.actions[writes.len()..].to_vec();
                self.transact(rule, &Transaction { actions, homes: 0, ..transaction }, applied_maybe, deadline).await
            }",
        )],
    ),
    mutant(
        "conflict-taken-for-done",
        "a transaction that conflicted with another counts as written",
        &[Switched(
            ROWS,
            r#"Attempt::Again(StoreError::Transient { operation, class: busy.unwrap_or_else(|| "canceled without a reason".into()) })"#,
            "{ let _ = busy; Attempt::Decided(Ok(Commit::Done)) }",
        )],
    ),
    mutant(
        "timeout-taken-for-done",
        "a write without an answer counts as written",
        &[Switched(
            ROWS,
            "retry_or_fail(OPERATION, failure)",
            "if failure.applied_maybe() { Attempt::Decided(Ok(Commit::Done)) } else { retry_or_fail(OPERATION, failure) }",
        )],
    ),
    mutant(
        "gap-taken-for-hole",
        "missing versions are not read from the event store",
        &[Switched(
            LANE,
            "return AfterRefusal::Heal(row.version.next(), after);",
            "{
                self.park_at(row.version, Blocked { version: row.version.next(), reason: HOLE_REASON.to_owned(), payload: None });
                return AfterRefusal::Continue;
            }",
        )],
    ),
    mutant(
        "healed-events-dropped",
        "events read to fill a gap are dropped",
        &[Switched(LANE, "self.entries.extend(healed);", "drop(healed);")],
    ),
    mutant(
        "applied-part-kept",
        "the applied part of a span is not dropped",
        &[Text(
            LANE,
            "_ => self.finish_up_to(row.version, Outcome::Duplicate),",
            r#"_ if crate::mutant("applied-part-kept") => {}
            _ => self.finish_up_to(row.version, Outcome::Duplicate),"#,
        )],
    ),
    mutant(
        "parked-flag-ignored",
        "a lane does not see that its row is parked",
        &[Switched(
            LANE,
            "if row.parked_at.is_some() {
            self.finish_up_to(row.version, Outcome::Duplicate);
            self.wait_with(ParkedBy::Another);
            return AfterRefusal::Continue;
        }",
            "{}",
        )],
    ),
    mutant(
        "older-revision-not-seen",
        "a row of an older revision is not re-projected",
        &[Switched(LANE, "row.is_outdated(revision)", "{ let _ = revision; false }")],
    ),
    mutant(
        "innocent-taken-for-done",
        "an action without a cancellation reason counts as written",
        &[Text(
            WORKER,
            "Cause::Other => AfterRefusal::Continue,",
            r#"Cause::Other if crate::mutant("innocent-taken-for-done") => {
                            lane.written(&write);
                            AfterRefusal::Continue
                        }
                        Cause::Other => AfterRefusal::Continue,"#,
        )],
    ),
    mutant(
        "out-of-time-taken-for-parked",
        "a lane that could not be parked in time counts as parked",
        &[Switched(
            WORKER,
            "            lane.fail(error);
            return lane;",
            "            drop(error);
            lane.parked();
            return lane;",
        )],
    ),
    mutant(
        "parked-without-record",
        "the row is marked, but the event is not kept",
        &[Switched(
            ROWS,
            "std::iter::once(home).chain(self.parking_actions(aggregate.as_str(), rule.name(), parking)).collect()",
            "std::iter::once(home).collect()",
        )],
    ),
    mutant(
        "parked-without-mark",
        "the event is kept, but the row is not marked",
        &[Switched(
            ROWS,
            "std::iter::once(home).chain(self.parking_actions(aggregate.as_str(), rule.name(), parking)).collect()",
            "{ let _ = home; self.parking_actions(aggregate.as_str(), rule.name(), parking).collect() }",
        )],
    ),
    mutant(
        "stray-not-kept",
        "a stray is acknowledged and not kept",
        &[Switched(WORKER, "self.store.park_record(record_id, &parking, deadline).await?;", "let _ = (&parking, deadline);")],
    ),
    mutant(
        "response-loses-a-failure",
        "the highest failed record is reported instead of the lowest",
        &[Switched(REPORT, "Checkpoint::At(lowest.min(position))", "Checkpoint::At(lowest.max(position))")],
    ),
    mutant(
        "failures-not-reported",
        "a failed record is not reported",
        &[Switched(REPORT, "report.failed_at(position);", "drop(position);")],
    ),
    mutant(
        "redrive-forgets-first",
        "the entry is deleted before the aggregate is at the head",
        &[Switched(
            REDRIVE,
            "self.remove_mark(rule, &id).await?;",
            "{
                self.store().forget_parked(parked, deadline).await?;
                self.remove_mark(rule, &id).await?;
            }",
        )],
    ),
    mutant(
        "redrive-reads-before-it-unparks",
        "an event that arrives in between is lost",
        &[
            Text(
                REDRIVE,
                "let id = AggregateId::from(parked.aggregate.as_str());",
                r#"let id = AggregateId::from(parked.aggregate.as_str());
        if crate::mutant("redrive-reads-before-it-unparks") {
            return self.aggregate_as_first_read(rule, &id).await;
        }"#,
            ),
            Text(
                REDRIVE,
                "    async fn remove_mark(",
                r#"    async fn aggregate_as_first_read(
        &self,
        rule: &'static dyn DynProjection,
        id: &AggregateId,
    ) -> Result<Redriven, OperationError> {
        let row = self.store().home_row(rule, id, self.deadline).await?;
        let versions = row.version.next()..=projection_vocabulary::Version(u64::MAX);
        let read = self.store().load_page(id, versions, 1_000, self.deadline).await?;
        self.remove_mark(rule, id).await?;
        let mut lane = crate::engine::lane::Lane::new(rule, id.clone());
        lane.push_stored(row.version, row.version.next(), read);
        if lane.prepare() {
            for lane in self.worker.advance(vec![lane], crate::engine::worker::IfStuck::Park, self.deadline).await {
                if let Some(error) = lane.failure {
                    return Err(error.into());
                }
                if lane.parked.is_some() {
                    return Ok(Redriven::Parked(String::new()));
                }
            }
        }
        self.forget(0, false).await
    }

    async fn remove_mark("#,
            ),
        ],
    ),
    mutant(
        "entry-deleted-though-parked-again",
        "a redrive deletes an entry that was parked again meanwhile",
        &[Switched(
            PARKING,
            r#""attribute_not_exists(aggregateId) OR parkingId = :id""#,
            r#""attribute_not_exists(aggregateId) OR parkingId = :id OR parkingId <> :id""#,
        )],
    ),
    mutant(
        "hole-by-a-stale-read",
        "reads of the event store are not consistent",
        &[Text(
            EVENTS,
            ".consistent_read(true)
                    .limit",
            r#".consistent_read(!crate::mutant("hole-by-a-stale-read"))
                    .limit"#,
        )],
    ),
    mutant(
        "contributions-counted-twice",
        "a new revision does not take back the old revision's contributions",
        &[Switched(SHARES, "CellOp::Add(-amount)", "CellOp::Add(amount.clone())")],
    ),
    mutant(
        "maximum-lowered",
        "a maximum is set although the row holds a higher one",
        &[Switched(
            SHARED,
            r#"conditions.and(format_args!("(attribute_not_exists({name}) OR {name} <= {new})"))"#,
            r#"conditions.and(format_args!("(attribute_not_exists({name}) OR {name} <= {new} OR {name} > {new})"))"#,
        )],
    ),
    mutant(
        "high-enough-unchecked",
        "a maximum that was high enough once is not raised",
        &[Switched(
            SHARED,
            r#"conditions.and(format_args!("{name} >= {value}"))"#,
            r#"conditions.and(format_args!("({name} >= {value} OR {name} < {value} OR attribute_not_exists({name}))"))"#,
        )],
    ),
    mutant(
        "own-maximum-lowered",
        "a home row forgets the highest value that it has offered",
        &[Switched(
            HOME,
            r#"conditions.and(format_args!("(attribute_not_exists({name}) OR {name} <= {value})"))"#,
            r#"conditions.and(format_args!("(attribute_not_exists({name}) OR {name} <= {value} OR {name} > {value})"))"#,
        )],
    ),
    mutant(
        "kind-not-checked",
        "an attribute is combined in another way than an older revision did",
        &[Switched(
            SHARED,
            r#"format!("(attribute_not_exists({mark}) OR {})", is_combined(expression, mark, kind))"#,
            r#"format!("(attribute_not_exists({mark}) OR attribute_exists({mark}) OR {})", is_combined(expression, mark, kind))"#,
        )],
    ),
    mutant(
        "owner-not-checked",
        "a write to a shared row changes an attribute that the row's own aggregate owns",
        &[Switched(
            SHARED,
            r#"conditions.and(format_args!("NOT contains({owned}, {name})"))"#,
            r#"conditions.and(format_args!("(NOT contains({owned}, {name}) OR contains({owned}, {name}))"))"#,
        )],
    ),
    mutant(
        "left-overs-added-to",
        "an aggregate adds to what others had written to its attribute",
        &[Switched(HOME, "matches!(self.takes.get(name), Some(Some(_)))", "{ let _ = name; false }")],
    ),
    mutant(
        "owned-for-ever",
        "a row keeps the attributes that a new revision does not let it own",
        &[
            Switched(REPROJECT, "step.owned.retain(|name| fresh.owned.contains(name));", "{ let _ = &mut step; }"),
            Switched(REPROJECT, "step.own.retain(|name, _| fresh.owned.contains(name));", "{ let _ = &mut step; }"),
        ],
    ),
    mutant(
        "taken-back-without-a-mark",
        "nobody learns that a contribution was taken back",
        &[Switched(
            SHARES,
            "Self { unsettles: true, stays: false, ..Self::of(contribution.kind(), op) }",
            "Self { stays: false, ..Self::of(contribution.kind(), op) }",
        )],
    ),
    mutant(
        "left-over-kept",
        "an attribute to which nobody contributes any more stays",
        &[Switched(SETTLE, "contribution.map(Contribution::value)", "{ let _ = contribution; cell.value.clone() }")],
    ),
    mutant(
        "retraction-hides-a-sum",
        "an attribute goes although an aggregate had to do with it",
        &[Switched(HOME, "self.adds.insert(LEFT.to_owned(), Value::TextSet(left));", "{ let _ = &mut self.adds; drop(left); }")],
    ),
    mutant(
        "append-forgets-a-lost-answer",
        "an append whose answer was lost is reported as a conflict",
        &[
            Text(
                TRANSACTION,
                ".client_request_token(&token)",
                r#".client_request_token(if crate::mutant("append-forgets-a-lost-answer") { fresh_id() } else { token.clone() })"#,
            ),
            Switched(APPEND, "present.len() == events.len() && ours", "{ let _ = ours; false }"),
        ],
    ),
    mutant(
        "budget-taken-for-parked",
        "aggregates beyond the re-projection budget are acknowledged",
        &[Text(
            WORKER,
            "return failed(lane, AdvanceError::ReprojectionBudgetSpent { projection });",
            r#"let mut lane = failed(lane, AdvanceError::ReprojectionBudgetSpent { projection });
                    if crate::mutant("budget-taken-for-parked") {
                        lane.outcomes.iter_mut().for_each(|(_, outcome)| *outcome = crate::engine::report::Outcome::Parked);
                    }
                    return lane;"#,
        )],
    ),
    mutant(
        "cursor-behind-an-open-aggregate",
        "a resumed rebuild starts within a history or after it",
        &[Text(
            REBUILD_SEGMENT,
            "self.next = Some(next);",
            r#"if crate::mutant("cursor-behind-an-open-aggregate") {
            self.resume.cursor = Some(next.clone());
        }
        self.next = Some(next);"#,
        )],
    ),
    mutant(
        "piece-taken-for-a-history",
        "a rebuild takes a part of a history for the whole",
        &[Switched(REBUILD, "visit.is_partial()", "false")],
    ),
    mutant(
        "behind-not-seen",
        "a catch-up takes every row to be at the head",
        &[Switched(REBUILD, "outdated || visit.beyond > 0", "outdated")],
    ),
    mutant(
        "child-outside-the-transaction",
        "child rows are written before the home row, whose condition may fail",
        &[Text(
            ROWS,
            "let actions: Vec<_> = homes.chain(updates).chain(children).collect();",
            r#"let mut children = children;
        if crate::mutant("child-outside-the-transaction") {
            let actions: Vec<_> = children.by_ref().collect();
            if !actions.is_empty() {
                let apart = Transaction { operation: "child rows", homes: 0, actions, shared: &[], children: Vec::new() };
                self.transact(rule, &apart, false, deadline).await?;
            }
        }
        let actions: Vec<_> = homes.chain(updates).chain(children).collect();"#,
        )],
    ),
    mutant(
        "child-left-behind-by-a-rebuild",
        "a re-projection leaves child rows that the rule no longer makes",
        &[Switched(REPROJECT, "_ = writes.insert(sort, ChildOp::Remove)", "()")],
    ),
    mutant(
        "child-removal-dropped-from-a-span",
        "a span does not remove child rows",
        &[Text(
            HOME,
            "children: change.children().clone(),",
            r#"children: {
                let mut children = change.children().clone();
                children.retain(|_, op| !crate::mutant("child-removal-dropped-from-a-span") || *op != ChildOp::Remove);
                children
            },"#,
        )],
    ),
    mutant(
        "child-attributes-outlive-it",
        "a child row that is made again keeps the attributes that it had before",
        &[Switched(
            ROWS,
            "action.put(Put::builder().table_name(table).set_item(Some(item.collect())).build().expect(GIVEN))",
            "drop(item); return self.child_action(rule, home, sort, &ChildOp::Set(attributes.clone()))",
        )],
    ),
    mutant(
        "span-with-too-many-children",
        "a span is not cut, and what a transaction does not hold is left out",
        &[
            Text(
                LANE,
                "let children = change.children();",
                r#"let children = change.children();
    if crate::mutant("span-with-too-many-children") {
        return true;
    }"#,
            ),
            Switched(LANE, "rows >= TRANSACTION_ACTIONS_MAX", "false"),
            Text(
                ROWS,
                "homes: writes.len(),\n            actions,",
                r#"homes: writes.len(),
            actions: if crate::mutant("span-with-too-many-children") { actions.into_iter().take(100).collect() } else { actions },"#,
            ),
        ],
    ),
    mutant(
        "last-step-forgets-children",
        "a re-projection in steps ends when the contributions are done",
        &[Switched(REPROJECT, "first.len() == cells.len() && written.len() == children.len()", "first.len() == cells.len()")],
    ),
    mutant(
        "correction-made-twice",
        "a sum is corrected although another process has corrected it",
        &[Switched(
            VERIFICATION,
            r#"format!("{condition} AND {}", expression.unchanged(CORRECTED, corrected))"#,
            r#"{
                let (unchanged, name) = (expression.unchanged(CORRECTED, corrected), expression.name(CORRECTED));
                format!("{condition} AND {unchanged} OR attribute_exists({name}) OR attribute_not_exists({name})")
            }"#,
        )],
    ),
    mutant(
        "answer-left-out",
        "an accepted command keeps no answer",
        &[Text(
            RUN,
            "self.request.id.as_ref().map(|id| {",
            r#"self.request.id.as_ref().filter(|_| !crate::mutant("answer-left-out")).map(|id| {"#,
        )],
    ),
    mutant(
        "refusal-not-kept",
        "a refused command keeps no answer",
        &[Switched(
            RUN,
            "self.store.keep_answer(self.request.keeper(), id, &answer, self.deadline).await?",
            "self.store.first_answer(self.request.keeper(), id, self.deadline).await?",
        )],
    ),
    mutant(
        "old-decision-appended",
        "after a conflict, a command is decided on the old state",
        &[Switched(
            RUN,
            "history.advance(self.store, Version(u64::MAX), self.deadline).await?",
            "{
                let old = history.state.copy();
                let events = history.advance(self.store, Version(u64::MAX), self.deadline).await?;
                history.state = old;
                events
            }",
        )],
    ),
    mutant(
        "snapshot-of-another-revision",
        "a snapshot of another revision is used",
        &[Switched(HISTORY, "*revision == u64::from(decider.revision())", "*revision > 0")],
    ),
    mutant(
        "snapshot-before-its-events",
        "a snapshot is the state before the events that go with it",
        &[Switched(RUN, "after.state.snapshot()", "history.state.snapshot()")],
    ),
    mutant(
        "claim-taken-blindly",
        "a claim is taken although another aggregate has it",
        &[Switched(
            CLAIMS,
            r#"vec![expression.unchanged("PK", "").to_string()]"#,
            r#"vec![expression.unchanged("PK", "").to_string(), format!("attribute_exists({})", expression.name("PK"))]"#,
        )],
    ),
    mutant(
        "claim-released-too-early",
        "a command releases what its aggregate still holds",
        &[Text(
            RUN,
            "before.difference(&after)",
            r#"before.difference(if crate::mutant("claim-released-too-early") { const { &BTreeSet::new() } } else { &after })"#,
        )],
    ),
    mutant(
        "claim-kept",
        "a claim that is given up stays taken",
        &[Text(RUN, "!kept.foreign.contains(claim)", r#"!kept.foreign.contains(claim) && !crate::mutant("claim-kept")"#)],
    ),
    mutant(
        "answer-kept-with-the-first-named",
        "the order of commands decides where their answer is kept",
        &[Switched(
            RUN,
            r#"self.orders.iter().map(|order| &order.aggregate).min().expect("there is an order")"#,
            r#"self.orders.iter().map(|order| &order.aggregate).next().expect("there is an order")"#,
        )],
    ),
    mutant(
        "neighbour-unchecked",
        "a neighbour may change before the events are appended",
        &[Switched(RUN, "kept.required.iter().map(|history| (history.aggregate.clone(), history.version)).collect()", "Vec::new()")],
    ),
    mutant(
        "answer-of-another-command",
        "an id that was used answers another command",
        &[Switched(RUN, "first.command != self.digest", "first.command.is_empty()")],
    ),
    mutant(
        "repetition-not-told",
        "an answer that was given before is told as new",
        &[Text(
            RUN,
            "let replayed = first.attempt != self.attempt;",
            r#"let replayed = first.attempt != self.attempt && !crate::mutant("repetition-not-told");"#,
        )],
    ),
    mutant(
        "watermark-before-acting",
        "the row of a process moves past events that it has not acted on",
        &[Text(
            LANE,
            "if process && let Some(event) = self.run()",
            r#"if process && !crate::mutant("watermark-before-acting") && let Some(event) = self.run()"#,
        )],
    ),
    mutant(
        "failure-taken-for-acted",
        "what a process could not act on counts as acted on",
        &[Switched(WORKER, "lane.fail_to_act(error);\n                    return lane;", "drop(error);\n lane.acted();")],
    ),
    mutant(
        "poison-skipped",
        "what a process can never act on counts as acted on",
        &[Switched(WORKER, "lane.cannot_act(reason)", "{ drop(reason); lane.acted() }")],
    ),
    mutant(
        "gap-not-healed-before-acting",
        "a process acts on an event before those that its row lacks",
        &[Text(
            LANE,
            "if row.version == expected && current && row.parked_at.is_none() {",
            r#"let behind = crate::mutant("gap-not-healed-before-acting") && self.rule.process().is_some();
        if (row.version == expected || behind) && current && row.parked_at.is_none() {"#,
        )],
    ),
    mutant(
        "process-projected-to-the-head",
        "a row of a process is replaced by one that is past what it has acted on",
        &[Text(
            REPROJECT,
            "if rule.process().is_some() { row.version }",
            r#"if rule.process().is_some() && !crate::mutant("process-projected-to-the-head") { row.version }"#,
        )],
    ),
    mutant(
        "request-without-id",
        "a process sends a command without an id",
        &[Switched(ACT, "Some(request_id(&event.aggregate, event.version.0))", "None")],
    ),
    mutant(
        "answer-not-told",
        "an instance is not told how its command was answered",
        &[Text(
            ACT,
            "let answer = self.command(event, &kind, &aggregate, command).await?;",
            r#"let answer = self.command(event, &kind, &aggregate, command).await?;
                if crate::mutant("answer-not-told") {
                    return Ok(InstanceCounts::default());
                }"#,
        )],
    ),
    mutant(
        "called-by-an-older-revision",
        "an older revision of a process calls for an instance of a newer one",
        &[Text(
            ACT,
            "if instance.revision() > self.process.process_revision() {",
            r#"if instance.revision() > self.process.process_revision() && !crate::mutant("called-by-an-older-revision") {"#,
        )],
    ),
    mutant(
        "received-not-deduplicated",
        "an instance receives an event twice",
        &[Switched(INSTANCE, "self.instance.received.get(aggregate).is_some_and(|newest| newest >= version)", "false")],
    ),
    mutant(
        "older-event-received",
        "an instance receives an older event after a newer one",
        &[Text(INSTANCE, "newest >= version", r#"newest == version || !crate::mutant("older-event-received") && newest > version"#)],
    ),
    mutant(
        "answer-not-deduplicated",
        "an instance takes two answers to one request",
        &[Text(
            INSTANCE,
            "self.instance.requests.get(&of).filter(|request| request.outcome == Outcome::Waiting)",
            r#"self.instance.requests.get(&of).filter(|request| request.outcome == Outcome::Waiting || crate::mutant("answer-not-deduplicated"))"#,
        )],
    ),
    mutant(
        "stuck-although-answered",
        "an instance stays stuck at what was answered after all",
        &[Switched(INSTANCE, "self.stuck.remove(&of);", "{}")],
    ),
    mutant(
        "resumption-not-told",
        "an instance does not record that it is no longer stuck",
        &[Switched(INSTANCE, "self.add(ProcessEvent::ProcessResumed { undoing: true })?", "{}")],
    ),
    mutant(
        "oldest-undone-first",
        "what was done is undone in the order in which it was done",
        &[Text(
            INSTANCE,
            "let to_undo = requests.iter().rev().find_map(",
            r#"let newest_first = requests.iter().rev();
        let mut order: Vec<_> = newest_first.collect();
        if crate::mutant("oldest-undone-first") {
            order.reverse();
        }
        let to_undo = order.into_iter().find_map("#,
        )],
    ),
    mutant(
        "undone-while-waiting",
        "undoing begins while a request waits for its answer",
        &[Text(INSTANCE, "|| self.instance.waits() {", r#"|| self.instance.waits() && !crate::mutant("undone-while-waiting") {"#)],
    ),
    mutant(
        "undone-while-stuck",
        "undoing continues although an undo was refused or an outcome is unknown",
        &[Text(INSTANCE, "|| !stuck.is_empty() ||", r#"|| !stuck.is_empty() && !crate::mutant("undone-while-stuck") ||"#)],
    ),
    mutant(
        "unknown-taken-for-refused",
        "an unknown outcome of a call undoes what was done before",
        &[Switched(
            INSTANCE,
            r#"self.stick(of, format!("what became of {} is unknown after {tries}: {error}", request.title()))"#,
            "{ drop(tries); self.answer(of, &Answer::Refused { message: error.to_owned(), refusal: Value::Null }) }",
        )],
    ),
    mutant(
        "time-out-of-another-timer",
        "a late time-out ends a newer timer of the same name",
        &[Text(
            INSTANCE,
            ".filter(|(version, _)| *version == of)",
            r#".filter(|(version, _)| *version == of || crate::mutant("time-out-of-another-timer"))"#,
        )],
    ),
    mutant(
        "tries-forgotten",
        "an instance does not know how often a call was tried",
        &[Switched(INSTANCE, "request.tries = tries;", "let _ = tries;")],
    ),
    mutant(
        "retried-with-another-key",
        "a call is made again with another key",
        &[Text(
            INSTANCE,
            "before.outcome = Outcome::Repeated;
                    before.key",
            r#"before.outcome = Outcome::Repeated;
                    if crate::mutant("retried-with-another-key") { version } else { before.key }"#,
        )],
    ),
    mutant(
        "process-revision-not-compared",
        "an older revision of a process writes to an instance of a newer one",
        &[
            Text(
                INSTANCE,
                "if instance.revision > P::REVISION {
        // What",
                r#"if instance.revision > P::REVISION && !crate::mutant("process-revision-not-compared") {
        // What"#,
            ),
            Text(
                INSTANCE,
                "if instance.revision > P::REVISION {
        return Err(",
                r#"if instance.revision > P::REVISION && !crate::mutant("process-revision-not-compared") {
        return Err("#,
            ),
        ],
    ),
];

fn main() -> ExitCode {
    let begun = Instant::now();
    let root = root();
    let program = match build(&root) {
        Ok(program) => program,
        Err(error) => {
            println!("failed: {error}");
            return ExitCode::FAILURE;
        }
    };
    let search = |name: &str, schedules: u64| {
        let output = Command::new(&program).args(["--first", "--schedules", &schedules.to_string()]).env("MUTANT", name).output();
        output.map_or_else(|error| format!("seed 0: {error}"), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (mut killed, mut searched) = (0, PLAIN_SCHEDULES_MIN);
    println!("{:<34} {:>9}  killed by", "mutant", "schedules");
    let named: Vec<_> = std::env::args().skip(1).collect();
    let wanted: Vec<_> = ALL.iter().filter(|mutant| named.is_empty() || named.iter().any(|name| name == mutant.name)).collect();
    for Mutant { name, what, .. } in &wanted {
        let found = search(name, SCHEDULES_MAX);
        let Some((seed, why)) = found.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(": ")) else {
            println!("{name:<34} {:>9}  LIVES: {what}", "");
            continue;
        };
        killed += 1;
        let schedules = seed.parse::<u64>().map_or(0, |seed| seed + 1);
        searched = schedules.max(searched);
        let detail = found.lines().nth(1).filter(|_| why == "at rest:").map(str::trim).unwrap_or_default();
        let why = format!("{why} {detail}").chars().take(110).collect::<String>();
        println!("{name:<34} {schedules:>9}  {why}");
    }
    // A schedule that also fails the unbroken worker does not count as a kill.
    let plain = search("", searched);
    if !plain.contains("all holds") {
        println!("failed: the simulation rejects the unbroken worker: {plain}");
        return ExitCode::FAILURE;
    }
    let all = wanted.len();
    let verdict = if killed == all && all > 0 { "all holds" } else { "failed" };
    println!("{verdict}: {killed} of {all} mutants killed, {} s", begun.elapsed().as_secs());
    if killed == all && all > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The changed files with every mutant in them, by path.
fn mutated(tree: &Path) -> Result<BTreeMap<&'static str, String>, String> {
    let mut texts = BTreeMap::new();
    for Mutant { name, places, .. } in ALL {
        for place in *places {
            let (Switched(file, original, instead) | Text(file, original, instead)) = *place;
            let text = texts.entry(file).or_insert_with(|| fs::read_to_string(tree.join(file)).unwrap_or_default());
            if text.matches(original).count() != 1 {
                return Err(format!("{name}: {file} has changed: it must contain `{original}` exactly once"));
            }
            *text = match place {
                Switched(..) => text.replace(original, &format!("if crate::mutant(\"{name}\") {{ {instead} }} else {{ {original} }}")),
                Text(..) => text.replace(original, instead),
            };
        }
    }
    Ok(texts)
}

/// Copies the tree, puts every mutant into the copy and builds it. Returns the program.
fn build(root: &Path) -> Result<PathBuf, String> {
    let (target, tree) = (root.join("target"), root.join("target/mutants"));
    let failed = |error: io::Error| format!("the tree cannot be copied: {error}");
    match fs::remove_dir_all(&tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => copy(root, &tree).map_err(failed)?,
    }
    let mut texts = mutated(&tree)?;
    let read = |file: &str| fs::read_to_string(tree.join(file)).map_err(failed);
    let switch = "
/// Whether this mutant is on.
#[must_use]
pub fn mutant(name: &str) -> bool {
    static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var(\"MUTANT\").unwrap_or_default()) == name
}
";
    for file in CRATES {
        texts.insert(file, read(file)? + switch);
    }
    // The copy shares the target folder, so the AWS SDK is built once for it and for `cargo simulate`. Cargo tells two copies of a
    // workspace apart by name and version alone, hence another version for the crates and another name for the program.
    let manifest = read("Cargo.toml")?;
    let (before, version) = manifest.split_once("[workspace.package]\nversion = \"").ok_or("Cargo.toml: no version of the workspace")?;
    let (version, after) = version.split_once('"').ok_or("Cargo.toml: no version of the workspace")?;
    texts.insert("Cargo.toml", format!("{before}[workspace.package]\nversion = \"{version}+mutated\"{after}"));
    let program = "\n[[bin]]\nname = \"mutated\"\npath = \"src/main.rs\"\n";
    texts.insert("tests/simulation/Cargo.toml", read("tests/simulation/Cargo.toml")? + program);
    for (file, text) in texts {
        fs::write(tree.join(file), text).map_err(failed)?;
    }
    let built = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["build", "--quiet", "--profile", "simulate", "--package", "simulation", "--bin", "mutated"])
        .arg("--manifest-path")
        .arg(tree.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .output()
        .map_err(failed)?;
    // Only errors are worth showing: the code is broken on purpose, so warnings are expected.
    if built.status.success() {
        Ok(target.join("simulate/mutated"))
    } else {
        Err(format!("the mutants do not compile\n{}", String::from_utf8_lossy(&built.stderr)))
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(name))?;
        } else {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Building and killing the mutants takes minutes and runs at night. This finds a mutant that no longer fits within a second.
    #[test]
    fn every_mutant_fits_the_source() {
        let texts = mutated(&root()).unwrap_or_else(|error| panic!("{error}"));
        for Mutant { name, .. } in ALL {
            assert!(texts.values().any(|text| text.contains(&format!("crate::mutant(\"{name}\")"))), "{name} has no switch");
        }
    }
}
