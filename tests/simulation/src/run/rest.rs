//! The end of a run: all faults end, discarded records are delivered, operators redrive and catch up, and the oracle checks the rows.

use std::{collections::BTreeMap, time::Duration};

use projection_vocabulary::{AggregateId, DynProjection, Registry};
use projection_worker::internals::{
    engine::reproject::Trust,
    operations::{
        catch_up::catch_up,
        rebuild::Task,
        redrive::redrive,
        settle::settle,
        verify::{Options, Repair, RowFinding, SharedFinding, verify},
    },
    retry::Deadline,
    store::{parking::NO_PROJECTION, segment::Segment},
};

use super::{
    Result, Run,
    processes::{Ended, Role, rebuild},
};
use crate::{
    far,
    network::lock,
    oracle::SHELVES as SHARED,
    plan::{GIVERS, SHELVES},
};

/// More steps than any run needs: a run that takes more does not come to rest.
const STEPS_MAX: usize = 60_000;

impl Run {
    pub(super) async fn finish_all(&mut self) -> Result {
        for _ in 0..STEPS_MAX {
            self.poll_all()?;
            if !lock(&self.network).under_way.is_empty() {
                self.network_step(false)?;
            } else if !far::lock(&self.far).under_way.is_empty() {
                self.far_step(false)?;
            } else if self.processes.is_empty() {
                return Ok(());
            } else {
                tokio::time::advance(Duration::from_millis(300)).await;
            }
        }
        Err(format!("it does not come to rest: {}", self.processes.iter().map(|process| &*process.name).collect::<Vec<_>>().join(", ")))
    }

    pub(super) async fn come_to_rest(&mut self) -> Result {
        self.note(|| "== all faults end".to_owned());
        self.parking_down = false;
        self.plan.working_time = Duration::from_mins(1);
        self.deploy(self.plan.last_deployment);
        self.finish_all().await?;
        while self.plan.fixes_all() && !self.malformed.is_empty() {
            self.fix(self.malformed.len() - 1)?;
        }
        self.deliver_all().await?;
        if !self.given_up.is_empty() && self.choices.per_mille(500) {
            self.left_behind = true;
            self.given_up.clear();
        }
        for records in std::mem::take(&mut self.given_up) {
            let worker = self.worker(self.deployed);
            let name = self.name("replay");
            self.note(|| format!("{name} delivers the discarded records"));
            let delivered = records.clone();
            self.start(
                &name,
                Role::Replay(records),
                async move { Ended::Report(Box::new(worker.process(&delivered, Deadline::NONE).await)) },
            );
            self.finish_all().await?;
        }
        self.list_and_redrive().await?;
        self.end_processes().await?;
        let by_tables = self.choices.per_mille(300);
        self.fix_rows(by_tables, |run, aggregate, rule| {
            run.left_behind || (run.oracle.revised && rule == SHARED) || run.oracle.disturbed.contains(aggregate)
        })
        .await?;
        if self.oracle.restored {
            // Records of the old history may have parked aggregates that are caught up now.
            self.list_and_redrive().await?;
            self.fix_rows(by_tables, |run, aggregate, _| run.oracle.disturbed.contains(aggregate)).await?;
        }
        self.settle().await?;
        if self.choices.per_mille(300) {
            self.verify_all().await?;
        }
        let network = self.network.clone();
        let network = lock(&network);
        self.oracle.at_rest(&network.database, Registry::new(self.rules(self.deployed)))
    }

    /// Delivers what the stream has, and what comes to it meanwhile.
    pub(super) async fn deliver_all(&mut self) -> Result {
        for _ in 0..STEPS_MAX {
            let ready = self.shards.iter().enumerate().find_map(|(at, shard)| Some((at, shard.ready().next()?)));
            let Some((shard, partition)) = ready else { break };
            let batch = self.shards[shard].start(partition);
            self.invoke(shard, batch.id, batch.records);
            self.finish_all().await?;
        }
        match self.shards.iter().find(|shard| !shard.is_idle()) {
            Some(shard) => Err(format!("a shard never becomes idle: {:?}", shard.ready().collect::<Vec<_>>())),
            None => Ok(()),
        }
    }

    /// Like `projector parked redrive --all`: aggregates first, because a record whose event is in the event store by now waits for its
    /// aggregate. One after the other, because a redrive that reads the row could park what another one takes back.
    async fn list_and_redrive(&mut self) -> Result {
        self.operator("lists what is parked", |worker| async move {
            match worker.store().parked().await {
                Ok(parked) => Ended::Parked(parked),
                Err(error) => Ended::Failed(error.to_string()),
            }
        });
        self.finish_all().await?;
        let (records, aggregates): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.parked).into_iter().partition(|parked| parked.projection == NO_PROJECTION);
        for parked in aggregates.into_iter().chain(records) {
            let doubted = self.oracle.disturbed.contains(&parked.aggregate) || parked.projection == NO_PROJECTION && self.oracle.restored;
            let trust = if doubted { Trust::Store } else { Trust::Row };
            self.operator(&format!("redrives {}/{}", parked.projection, parked.aggregate), |worker| async move {
                match redrive(&worker, &parked, trust, Deadline::NONE).await {
                    Ok(redriven) => Ended::Redriven(redriven),
                    Err(failed) => Ended::Failed(failed.to_string()),
                }
            });
            self.finish_all().await?;
        }
        Ok(())
    }

    /// Brings every row to the head, by scans of whole tables or one by one.
    async fn fix_rows(&mut self, by_tables: bool, needs_it: impl Fn(&Self, &str, &str) -> bool) -> Result {
        if !by_tables {
            return self.catch_up(needs_it).await;
        }
        // Only a repair trusts the event store alone.
        let repair = !self.oracle.disturbed.is_empty() || self.choices.per_mille(500);
        for rule in self.rules(self.deployed).iter().filter(|rule| rule.process().is_none()) {
            let segments = 1 + u32::try_from(self.choices.below(3)).expect("few");
            let steps = 1 + self.choices.below(3);
            for task in [Task::Rebuild, Task::CatchUp] {
                for segment in Segment::all(segments) {
                    self.operator(&format!("does {task:?} of {} in {segment:?}", rule.name()), move |worker| async move {
                        match rebuild(&worker, *rule, task, segment, steps).await {
                            Ok(()) => Ended::Quiet,
                            Err(failed) => Ended::Failed(failed.to_string()),
                        }
                    });
                }
                self.finish_all().await?;
            }
            if repair {
                self.verify(*rule, true).await?;
            }
            if !self.oracle.disturbed.is_empty() && rule.name() == SHARED {
                self.oracle.corrected()?;
            }
        }
        Ok(())
    }

    /// Brings shared rows down to what is contributed to them. Only a repair finds what a lost row had contributed.
    async fn settle(&mut self) -> Result {
        let rule = *self.rules(self.deployed).iter().find(|rule| rule.name() == SHARED).expect("it is in every deployment");
        if !self.oracle.tainted.is_empty() {
            self.verify(rule, true).await?;
            return self.oracle.corrected();
        }
        self.operator("settles shared rows", move |worker| async move {
            match settle(worker.store(), rule, Deadline::NONE).await {
                Ok(_) => Ended::Quiet,
                Err(failed) => Ended::Failed(failed.to_string()),
            }
        });
        self.finish_all().await
    }

    async fn verify(&mut self, rule: &'static dyn DynProjection, repair: bool) -> Result {
        let segments = 1 + u32::try_from(self.choices.below(3)).expect("few");
        // A history that is set back, or lost rows, may be most of a simulation's few.
        let options = Options { segments, sample: None, repair: if repair { Repair::AllOrphans } else { Repair::Nothing } };
        self.operator(&format!("verifies {}{}", rule.name(), if repair { " and repairs it" } else { "" }), move |worker| async move {
            match verify(&worker, rule, options, Deadline::NONE).await {
                Ok(verified) => Ended::Verified(Box::new(verified)),
                Err(failed) => Ended::Failed(failed.to_string()),
            }
        });
        self.finish_all().await
    }

    /// A verification must find exactly what the oracle knows.
    async fn verify_all(&mut self) -> Result {
        for rule in self.rules(self.deployed) {
            self.verify(*rule, false).await?;
            let home: Vec<_> = self.verified.home.iter().filter(|(_, finding)| **finding != RowFinding::Parked).collect();
            if !home.is_empty() {
                return Err(format!("at rest, {} is not clean: {home:?}", rule.name()));
            }
            if !self.verified.children.is_empty() {
                return Err(format!("at rest, child rows of {} are not clean: {:?}", rule.name(), self.verified.children));
            }
            let sums = self.verified.shared.iter().map(|((row, attribute), finding)| match finding {
                SharedFinding::Sum(sum) => Ok(((row.to_string(), attribute.clone()), sum.to_string())),
                other => Err(format!("at rest, {attribute} of {row} is {other:?}")),
            });
            let sums = sums.collect::<Result<BTreeMap<_, _>>>()?;
            let lost = if rule.name() == SHARED { self.oracle.lost() } else { BTreeMap::new() };
            if sums != lost {
                return Err(format!("at rest, verification finds {sums:?} but must find {lost:?}"));
            }
        }
        Ok(())
    }

    /// Catches up the aggregates that the stream alone does not bring to the head.
    async fn catch_up(&mut self, needs_it: impl Fn(&Self, &str, &str) -> bool) -> Result {
        for aggregate in GIVERS.iter().take(self.plan.givers).chain(&SHELVES) {
            let id = AggregateId::from(*aggregate);
            let trust = if self.oracle.disturbed.contains(*aggregate) { Trust::Store } else { Trust::Row };
            for rule in self.rules(self.deployed) {
                if !needs_it(self, aggregate, rule.name()) {
                    continue;
                }
                let id = id.clone();
                self.operator(&format!("lets {aggregate} catch up in {}", rule.name()), |worker| async move {
                    match catch_up(&worker, *rule, &id, trust, Deadline::NONE).await {
                        Ok(_) => Ended::Quiet,
                        Err(failed) => Ended::Failed(failed.to_string()),
                    }
                });
                self.finish_all().await?;
            }
        }
        Ok(())
    }
}
