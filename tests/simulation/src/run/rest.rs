//! The end of a run: all trouble ends, what was given up is delivered, operators redrive and catch up, and the oracle looks.

use std::time::Duration;

use projection_vocabulary::{AggregateId, Registry};
use projection_worker::{catch_up::Trust, retry::Deadline, store::parking::NO_PROJECTION};

use super::{
    Result, Run,
    processes::{Ended, Role},
};
use crate::{
    network::lock,
    plan::{GIVERS, SHELVES},
    rules::DEPLOYMENTS,
};

/// So many steps are never needed: a run that takes more does not come to rest.
const STEPS_MAX: usize = 60_000;

impl Run {
    pub(super) async fn finish_all(&mut self) -> Result {
        for _ in 0..STEPS_MAX {
            self.poll_all()?;
            if !lock(&self.network).under_way.is_empty() {
                self.network_step(false)?;
            } else if self.processes.is_empty() {
                return Ok(());
            } else {
                tokio::time::advance(Duration::from_millis(300)).await;
            }
        }
        Err(format!("it does not come to rest: {}", self.processes.iter().map(|process| &*process.name).collect::<Vec<_>>().join(", ")))
    }

    pub(super) async fn come_to_rest(&mut self) -> Result {
        self.note(|| "== all trouble ends".to_owned());
        self.parking_down = false;
        self.plan.working_time = Duration::from_mins(1);
        self.deploy(self.plan.last_deployment);
        self.finish_all().await?;
        while self.plan.mends() && !self.malformed.is_empty() {
            self.mend(self.malformed.len() - 1)?;
        }
        for _ in 0..STEPS_MAX {
            let ready = self.shards.iter().enumerate().find_map(|(at, shard)| Some((at, shard.ready().next()?)));
            let Some((shard, partition)) = ready else { break };
            let batch = self.shards[shard].start(partition);
            self.invoke(shard, batch.id, batch.records);
            self.finish_all().await?;
        }
        if let Some(shard) = self.shards.iter().find(|shard| !shard.is_idle()) {
            return Err(format!("a shard never ends: {:?}", shard.ready().collect::<Vec<_>>()));
        }
        if !self.given_up.is_empty() && self.choices.per_mille(500) {
            self.left_behind = true;
            self.given_up.clear();
        }
        for records in std::mem::take(&mut self.given_up) {
            let worker = self.worker(self.deployed);
            let name = self.name("replay");
            self.note(|| format!("{name} delivers what was given up"));
            let delivered = records.clone();
            self.start(
                &name,
                Role::Replay(records),
                async move { Ended::Report(Box::new(worker.process(&delivered, Deadline::NONE).await)) },
            );
            self.finish_all().await?;
        }
        self.list_and_redrive().await?;
        self.catch_up(|run, aggregate, rule| {
            run.left_behind || (run.oracle.revised && rule == "shelves") || run.oracle.disturbed.contains(aggregate)
        })
        .await?;
        if self.oracle.restored {
            // Records of the history that is no more may have parked what is caught up now.
            self.list_and_redrive().await?;
            self.catch_up(|run, aggregate, _| run.oracle.disturbed.contains(aggregate)).await?;
        }
        let network = self.network.clone();
        let network = lock(&network);
        self.oracle.at_rest(&network.database, Registry::new(DEPLOYMENTS[self.deployed]))
    }

    /// As an operator does with `projector parked redrive --all`: aggregates first, for a record whose event the event store has by
    /// now waits for its aggregate. One after the other, or one that goes by the row parks what another takes back.
    async fn list_and_redrive(&mut self) -> Result {
        self.operator("lists what is parked", |worker| async move {
            match worker.store().parked().await {
                Ok(parked) => Ended::Parked(parked),
                Err(trouble) => Ended::Failed(trouble.to_string()),
            }
        });
        self.finish_all().await?;
        let (records, aggregates): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.parked).into_iter().partition(|parked| parked.projection == NO_PROJECTION);
        for parked in aggregates.into_iter().chain(records) {
            let doubted = self.oracle.disturbed.contains(&parked.aggregate) || parked.projection == NO_PROJECTION && self.oracle.restored;
            let trust = if doubted { Trust::Store } else { Trust::Row };
            self.operator(&format!("redrives {}/{}", parked.projection, parked.aggregate), |worker| async move {
                match worker.redrive(&parked, trust, Deadline::NONE).await {
                    Ok(redriven) => Ended::Redriven(redriven),
                    Err(failed) => Ended::Failed(failed.to_string()),
                }
            });
            self.finish_all().await?;
        }
        Ok(())
    }

    /// Those whom the stream alone does not bring to the head.
    async fn catch_up(&mut self, needs_it: impl Fn(&Self, &str, &str) -> bool) -> Result {
        for aggregate in GIVERS.iter().take(self.plan.givers).chain(&SHELVES) {
            let id = AggregateId::from(*aggregate);
            let trust = if self.oracle.disturbed.contains(*aggregate) { Trust::Store } else { Trust::Row };
            for rule in DEPLOYMENTS[self.deployed] {
                if !needs_it(self, aggregate, rule.name()) {
                    continue;
                }
                let id = id.clone();
                self.operator(&format!("lets {aggregate} catch up in {}", rule.name()), |worker| async move {
                    match worker.catch_up(*rule, &id, trust, Deadline::NONE).await {
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
