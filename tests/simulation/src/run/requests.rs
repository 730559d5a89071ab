//! The fate of requests.

use aws_sdk_dynamodb::types::CancellationReason;

use super::{Result, Run};
use crate::{
    database::Refused,
    faults::Fault,
    network::{Loss, Outcome, Request, lock},
    oracle::PARKED,
    plan::Subject,
};

impl Run {
    /// Whether a request is on its way while whole operations begin and end.
    pub(super) fn is_slow(&self, request: &Request) -> bool {
        self.plan.is_about(Subject::OneMaximum) && request.relies_on_a_maximum()
            || self.plan.is_about(Subject::OneEntry) && request.deletes_from(PARKED)
            || self.plan.is_about(Subject::OneSum) && request.corrects_sums()
    }

    pub(super) fn network_step(&mut self, error: bool) -> Result {
        let network = self.network.clone();
        let mut network = lock(&network);
        let quick: Vec<_> = (0..network.under_way.len()).filter(|at| !(error && self.is_slow(&network.under_way[*at]))).collect();
        let at = if quick.is_empty() { self.choices.below(network.under_way.len()) } else { quick[self.choices.below(quick.len())] };
        let request = &network.under_way[at];
        let (zombie, writes) = (request.is_zombie(), request.writes());
        if request.outcome.is_some() {
            let lost = error && writes && !zombie && self.plan.has(Fault::AnswerLost) && self.choices.per_mille(self.plan.request_faults);
            if lost {
                self.count(Fault::AnswerLost, || format!("{}: applied, its answer lost", request.text()));
                network.lose(at, if self.choices.per_mille(500) { Loss::Server } else { Loss::Timeout });
                return Ok(());
            }
            if !writes && request.answered_at != network.database.written() {
                let call = network.under_way[at].call.clone();
                if Some(call.apply(&mut network.database)) != network.under_way[at].outcome {
                    self.count(Fault::StaleRead, || format!("{}: answered as it was", network.under_way[at].text()));
                }
            }
            network.deliver(at);
            return Ok(());
        }
        if zombie {
            if error && self.choices.per_mille(300) {
                let request = &network.under_way[at];
                self.note(|| format!("{}: never arrived", request.text()));
                network.lose(at, Loss::Timeout);
                return Ok(());
            }
            if writes {
                let request = &network.under_way[at];
                self.count(Fault::Zombie, || format!("{}: arrives after its caller gave up", request.text()));
            }
        } else if error {
            if self.parking_down && request.writes_to(PARKED) {
                self.count(Fault::ParkingDown, || format!("{}: refused", request.text()));
                network.lose(at, [Loss::Server, Loss::Denied][self.choices.below(2)]);
                return Ok(());
            }
            if self.choices.per_mille(self.plan.request_faults)
                && let Some((fault, loss)) = self.request_fault(writes)
            {
                if fault == Fault::Zombie {
                    self.note(|| format!("{}: given up while on its way", network.under_way[at].text()));
                    network.delay(at);
                } else {
                    self.count(fault, || format!("{}: {loss:?}, not applied", network.under_way[at].text()));
                    if fault == Fault::Conflict {
                        network.conflict(at, self.choices.below(2));
                    } else {
                        network.lose(at, loss);
                    }
                }
                return Ok(());
            }
        }
        self.requests += 1;
        if error && network.under_way[at].is_eventual() && self.choices.per_mille(500) {
            network.arrive_at_replica(at);
        } else {
            network.arrive(at);
        }
        let request = &mut network.under_way[at];
        if let Some(Refused::Canceled(reasons)) = request.outcome.as_mut().and_then(Outcome::refused)
            && error
            && self.plan.has(Fault::MixedCancellation)
            && reasons.iter().any(|reason| reason.code() == Some("None"))
            && self.choices.per_mille(500)
        {
            let innocent = reasons.iter_mut().find(|reason| reason.code() == Some("None")).expect("there is one");
            *innocent = CancellationReason::builder().code("TransactionConflict").build();
            self.counts.add(Fault::MixedCancellation);
        }
        if request.outcome.as_ref().is_some_and(Outcome::is_partial) {
            self.counts.add(Fault::ShortPage);
        }
        self.note(|| {
            let refused = request.outcome.as_mut().and_then(Outcome::refused).map(|refused| format!("{refused:?}"));
            format!("{}: {}", request.text(), refused.unwrap_or_else(|| "done".to_owned()))
        });
        let changes = std::mem::take(&mut network.database.changes);
        self.look_at(&network.database, changes, false)?;
        // Without faults, the network answers at once.
        if !self.choices.per_mille(400) && at < network.under_way.len() {
            network.deliver(at);
        }
        Ok(())
    }

    /// Chooses a fault for a request that has not arrived, and the error that its caller gets.
    pub(super) fn request_fault(&mut self, writes: bool) -> Option<(Fault, Loss)> {
        let mut kinds =
            vec![(Fault::Throttled, Loss::Throttled), (Fault::TimeoutBefore, Loss::Timeout), (Fault::ServerError, Loss::Server)];
        if writes {
            kinds.extend([(Fault::Conflict, Loss::Conflict), (Fault::Zombie, Loss::Timeout)]);
        }
        kinds.retain(|(fault, _)| self.plan.has(*fault));
        if kinds.is_empty() {
            return None;
        }
        Some(kinds[self.choices.below(kinds.len())])
    }

    pub(super) fn count(&mut self, fault: Fault, line: impl FnOnce() -> String) {
        self.counts.add(fault);
        self.note(line);
    }
}
