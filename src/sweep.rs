//! Catching up with many aggregates: those that a pass has found behind, or those that the index by event type has events of.

use futures::{StreamExt as _, stream};
use projection_vocabulary::{AggregateId, Rule};

use crate::{
    catch_up::{CaughtUp, Failed, IfStuck, Standing},
    rebuild::Counts,
    retry::Deadline,
    worker::{CONCURRENCY, Worker},
};

/// Advances aggregates to the heads of their histories, and counts what came of it.
pub(crate) async fn sweep_all(
    worker: &Worker,
    rule: &'static dyn Rule,
    behind: &[AggregateId],
    if_stuck: IfStuck,
    counts: &mut Counts,
    deadline: Deadline,
) -> Result<(), Failed> {
    let each = behind.iter().map(|id| worker.sweep(rule, id, if_stuck, deadline));
    let swept: Vec<Result<CaughtUp, Failed>> = stream::iter(each).buffer_unordered(CONCURRENCY).collect().await;
    let mut failure = None;
    for swept in swept {
        match swept {
            // Another may have been quicker.
            Ok(CaughtUp { standing: Standing::Head, applied, reprojected }) => counts.caught_up += u64::from(applied > 0 || reprojected),
            Ok(_) if if_stuck == IfStuck::Leave => counts.stopped += 1,
            Ok(_) => counts.parked += 1,
            Err(failed) => failure = Some(failed),
        }
    }
    failure.map_or(Ok(()), Err)
}
