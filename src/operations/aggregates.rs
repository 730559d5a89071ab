//! Whether snapshots and claims are what the events of their aggregates say, and their repair.
//!
//! Commands may be carried out meanwhile. An aggregate's snapshot and claims change only in transactions that move or check its version:
//! what is read between two reads of one version belongs together. An aggregate that moves is read again.
//!
//! A wrong snapshot would let commands decide on a state that never was. A claim that is missing would let two aggregates have the
//! same value, and one that is left over would keep it from all.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{Aggregate, AggregateId, Deciders, DynDecider, Version};

use crate::{
    commands::{
        error::Unhandled,
        history::{History, resumed},
    },
    operations::{error::OperationError, footing::are_too_many},
    retry::Deadline,
    store::{
        Store, StoreError,
        claims::{ClaimKey, ClaimMove},
        commands::{Commit, Part, Snapshot},
        events::{PAGE_EVENTS, Stored},
        item::SKIPPED_TYPE,
        segment::Segment,
    },
};

/// How many aggregates are read at the same time.
const CONCURRENCY: usize = 16;
/// How often an aggregate is read that moves meanwhile.
const LOOKS_MAX: usize = 5;

/// What is wrong with an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// It cannot be loaded, so no command to it can be carried out.
    Unreadable {
        /// The version of the event.
        version: Version,
        /// What is wrong with it.
        reason: String,
    },
    /// The snapshot of this version is not the state that the events up to there make.
    Snapshot(Version),
    /// Nobody holds a claim of its state.
    NotHeld(ClaimKey),
    /// Another aggregate holds a claim of its state.
    HeldBy(AggregateId, ClaimKey),
    /// It holds a claim that is not of its state.
    LeftOver(ClaimKey),
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Verified {
    /// Aggregates read.
    pub aggregates: u64,
    /// Usable snapshots compared.
    pub snapshots: u64,
    /// Claims that are held.
    pub claims: u64,
    /// Aggregates that none of the deciders knows.
    pub unknown: u64,
    /// Aggregates that moved whenever they were read.
    pub moving: u64,
    /// What was wrong.
    pub findings: BTreeMap<AggregateId, BTreeSet<Finding>>,
    /// Of these aggregates, how many a repair has put right.
    pub repaired: u64,
}

impl Verified {
    /// The number of claims that a repair would give up.
    #[must_use]
    pub fn left_over(&self) -> u64 {
        self.findings.values().flatten().filter(|finding| matches!(finding, Finding::LeftOver(_))).count() as u64
    }

    /// Whether they are too many to be given up without an operator's word: a program with other deciders may hold them.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        are_too_many(self.left_over(), self.claims)
    }

    /// Each finding, with its aggregate.
    pub fn each(&self) -> impl Iterator<Item = (&AggregateId, &Finding)> {
        self.findings.iter().flat_map(|(aggregate, findings)| findings.iter().map(move |finding| (aggregate, finding)))
    }

    /// Whether everything was compared, and nothing is wrong any more.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.moving == 0 && self.findings.len() as u64 == self.repaired
    }
}

/// What was seen of an aggregate at one version.
#[derive(Default)]
struct Seen {
    version: Version,
    mark: String,
    /// What replaces its snapshot, if that is wrong.
    snapshot: Option<Snapshot>,
    has_snapshot: bool,
    is_unknown: bool,
    findings: BTreeSet<Finding>,
}

/// Compares the snapshots and claims of all aggregates with their events.
///
/// # Errors
/// [`OperationError`].
pub async fn verify_all(store: &Store, deciders: Deciders, segments: u32, deadline: Deadline) -> Result<Verified, OperationError> {
    let each = Segment::all(segments.max(1)).map(|segment| verify_segment(store, deciders, segment, deadline));
    let parts: Vec<_> = stream::iter(each).buffer_unordered(segments.max(1) as usize).try_collect().await?;
    Ok(parts.into_iter().fold(Verified::default(), |mut all, part| {
        all.aggregates += part.aggregates;
        all.snapshots += part.snapshots;
        all.claims += part.claims;
        all.unknown += part.unknown;
        all.moving += part.moving;
        for (aggregate, findings) in part.findings {
            all.findings.entry(aggregate).or_default().extend(findings);
        }
        all
    }))
}

async fn verify_segment(store: &Store, deciders: Deciders, segment: Segment, deadline: Deadline) -> Result<Verified, OperationError> {
    let (mut verified, mut last, mut next) = (Verified::default(), None, None);
    loop {
        let (mut kept, after) = store.scan_kept(segment, next.as_ref(), deadline).await?;
        // The first may have begun on the page before.
        let begun = kept.aggregates.first().is_some_and(|first| last.as_ref() == Some(first));
        last = kept.aggregates.last().cloned().or(last);
        kept.aggregates.drain(..usize::from(begun));
        let aggregates = kept.aggregates.into_iter().map(|aggregate| (aggregate, None));
        let looks = aggregates.chain(kept.claims.into_iter().map(|(holder, claim)| (holder, Some(claim))));
        let looks = looks.map(|(aggregate, claim)| async move {
            let seen = look(store, deciders, &aggregate, claim.as_ref(), deadline).await?;
            Ok::<_, OperationError>((aggregate, claim.is_some(), seen))
        });
        let looks: Vec<_> = stream::iter(looks).buffer_unordered(CONCURRENCY).try_collect().await?;
        for (aggregate, of_claim, seen) in looks {
            *(if of_claim { &mut verified.claims } else { &mut verified.aggregates }) += 1;
            let Some(seen) = seen else {
                verified.moving += 1;
                continue;
            };
            if !of_claim {
                verified.snapshots += u64::from(seen.has_snapshot);
                verified.unknown += u64::from(seen.is_unknown);
            }
            if !seen.findings.is_empty() {
                verified.findings.entry(aggregate).or_default().extend(seen.findings);
            }
        }
        next = after;
        if next.is_none() {
            return Ok(verified);
        }
    }
}

/// Puts right what can be: snapshots are made anew, claims given up and taken. The others are left as they are, and stay findings.
///
/// # Errors
/// [`OperationError`].
pub async fn repair(store: &Store, deciders: Deciders, verified: &mut Verified, deadline: Deadline) -> Result<(), OperationError> {
    // What is left over comes first: another aggregate may wait for it.
    for gives_up in [true, false] {
        for (aggregate, findings) in &verified.findings {
            let left_over: Vec<_> = findings.iter().filter_map(Finding::left_over).collect();
            if gives_up && left_over.is_empty() {
                continue;
            }
            // One after the other: these are few.
            for claim in left_over.into_iter().map(Some).chain([None]) {
                if let Some(seen) = look(store, deciders, aggregate, claim, deadline).await? {
                    put_right(store, aggregate, seen, deadline).await?;
                }
            }
        }
    }
    verified.repaired = 0;
    for (aggregate, findings) in &verified.findings {
        let mut is_right = true;
        for claim in findings.iter().filter_map(Finding::left_over).map(Some).chain([None]) {
            let seen = look(store, deciders, aggregate, claim, deadline).await?;
            is_right &= seen.is_some_and(|seen| seen.findings.is_empty());
        }
        verified.repaired += u64::from(is_right);
    }
    Ok(())
}

impl Finding {
    fn left_over(&self) -> Option<&ClaimKey> {
        if let Self::LeftOver(claim) = self { Some(claim) } else { None }
    }

    fn repair(&self, aggregate: &AggregateId) -> Option<ClaimMove> {
        match self {
            Self::NotHeld(claim) => Some(ClaimMove { claim: claim.clone(), from: None, to: Some(aggregate.clone()) }),
            Self::LeftOver(claim) => Some(ClaimMove { claim: claim.clone(), from: Some(aggregate.clone()), to: None }),
            Self::Unreadable { .. } | Self::Snapshot(_) | Self::HeldBy(..) => None,
        }
    }
}

/// One transaction, on condition that the aggregate is still at the version that was seen.
async fn put_right(store: &Store, aggregate: &AggregateId, seen: Seen, deadline: Deadline) -> Result<(), OperationError> {
    let Seen { version, mark, snapshot, findings, .. } = seen;
    let claims: Vec<_> = findings.iter().filter_map(|finding| finding.repair(aggregate)).collect();
    if claims.is_empty() && snapshot.is_none() {
        return Ok(());
    }
    let part = Part { aggregate: aggregate.clone(), expected: version, mark: Some(mark), events: Vec::new(), snapshot };
    // If it is refused, a second look says so.
    store.commit_command(&Commit { parts: vec![part], claims, ..Commit::default() }, deadline).await?;
    Ok(())
}

/// Looks at an aggregate, and at a claim that it holds; `None` if it moved each time.
async fn look(
    store: &Store,
    deciders: Deciders,
    aggregate: &AggregateId,
    held: Option<&ClaimKey>,
    deadline: Deadline,
) -> Result<Option<Seen>, OperationError> {
    for _ in 0..LOOKS_MAX {
        let before = store.version_and_mark(aggregate, deadline).await?;
        let mut seen = read(store, deciders, aggregate, before.0, held, deadline).await?;
        if store.version_and_mark(aggregate, deadline).await? == before {
            (seen.version, seen.mark) = before;
            return Ok(Some(seen));
        }
    }
    Ok(None)
}

async fn read(
    store: &Store,
    deciders: Deciders,
    aggregate: &AggregateId,
    version: Version,
    held: Option<&ClaimKey>,
    deadline: Deadline,
) -> Result<Seen, OperationError> {
    let mut seen = Seen::default();
    let snapshot = store.snapshot(aggregate, deadline).await?;
    let claims = if version == Version::NONE {
        BTreeSet::new()
    } else {
        let mut candidates = candidates(store, deciders, aggregate, deadline).await?;
        // Several kinds may have an event type in common: the snapshot tells which it is, or else the events that fit.
        candidates.sort_by_key(|decider| snapshot.as_ref().is_none_or(|snapshot| snapshot.kind != decider.kind()));
        let mut first_error = None;
        let mut state = None;
        for decider in candidates {
            match fold(store, decider, aggregate, version, snapshot.as_ref(), deadline).await {
                Ok(folded) => {
                    state = Some(folded);
                    break;
                }
                Err(Unhandled::Unreadable { version, reason, .. }) => {
                    _ = first_error.get_or_insert(Finding::Unreadable { version, reason });
                }
                Err(Unhandled::Store(error)) => return Err(error.into()),
                Err(other) => unreachable!("reading ends in no other error: {other}"),
            }
        }
        let Some(Folded { history, snapshot_is_right }) = state else {
            seen.is_unknown = first_error.is_none();
            seen.findings.extend(first_error);
            return Ok(seen);
        };
        seen.has_snapshot = snapshot_is_right.is_some();
        if let Some(snapshot) = snapshot.filter(|_| snapshot_is_right == Some(false)) {
            seen.findings.insert(Finding::Snapshot(snapshot.version));
            seen.snapshot = history.state.snapshot().ok().map(|state| Snapshot { version, state, ..snapshot });
        }
        history.state.claims().iter().map(ClaimKey::from).collect()
    };
    if let Some(held) = held {
        let holder = store.holder_of(held, deadline).await?;
        if holder.as_ref() == Some(aggregate) && !claims.contains(held) {
            seen.findings.insert(Finding::LeftOver(held.clone()));
        }
        return Ok(seen);
    }
    for claim in claims {
        match store.holder_of(&claim, deadline).await? {
            None => _ = seen.findings.insert(Finding::NotHeld(claim)),
            Some(holder) if holder != *aggregate => _ = seen.findings.insert(Finding::HeldBy(holder, claim)),
            Some(_) => {}
        }
    }
    Ok(seen)
}

/// The deciders that have the type of the aggregate's first event.
async fn candidates(
    store: &Store,
    deciders: Deciders,
    aggregate: &AggregateId,
    deadline: Deadline,
) -> Result<Vec<&'static dyn DynDecider>, StoreError> {
    // Nearly always the first event tells; it may have been skipped.
    for limit in [1, PAGE_EVENTS] {
        let page = store.load_page(aggregate, Version(1)..=Version(u64::MAX), limit, deadline).await?;
        let first = page.iter().find_map(|stored| match stored {
            Stored::Event(event) if &*event.event_type != SKIPPED_TYPE => Some(&*event.event_type),
            _ => None,
        });
        if let Some(first) = first {
            return Ok(deciders.all().iter().copied().filter(|decider| decider.event_types().contains(&first)).collect());
        }
    }
    Ok(Vec::new())
}

/// An aggregate at its version.
struct Folded {
    history: History,
    /// Whether its snapshot is right; `None` if there is none, or one of no use.
    snapshot_is_right: Option<bool>,
}

async fn fold(
    store: &Store,
    decider: &'static dyn DynDecider,
    aggregate: &AggregateId,
    version: Version,
    snapshot: Option<&Snapshot>,
    deadline: Deadline,
) -> Result<Folded, Unhandled> {
    let resumed = snapshot.and_then(|snapshot| Some((snapshot.version, resumed(decider, snapshot)?)));
    let from = resumed.as_ref().map_or(Version::NONE, |(at, _)| (*at).min(version));
    let mut history = History::load_at(store, decider, aggregate, from, deadline).await?;
    // Both are written anew, since a snapshot may say `1.50` for `1.5`.
    let is_right = |(at, resumed): (Version, Box<dyn Aggregate>)| {
        let states = (resumed.snapshot().ok(), history.state.snapshot().ok());
        at <= version && states.0.is_some() && states.0 == states.1
    };
    let snapshot_is_right = resumed.map(is_right);
    history.reach(store, version, deadline).await?;
    Ok(Folded { history, snapshot_is_right })
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{Decider, data};
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::operations::fixture::{happened, stayed, worker};

    #[test]
    fn it_is_clean_if_nothing_moved_and_everything_found_is_repaired() {
        let verified = |moving, found: u64, repaired| {
            let finding = |at: u64| (format!("guest-{at}").as_str().into(), BTreeSet::from([Finding::Snapshot(Version(1))]));
            Verified { moving, findings: (0..found).map(finding).collect(), repaired, ..Verified::default() }
        };
        assert!(verified(0, 0, 0).is_clean() && verified(0, 2, 2).is_clean());
        assert!(!verified(1, 0, 0).is_clean() && !verified(0, 2, 1).is_clean() && !verified(1, 2, 1).is_clean());
    }

    #[test]
    fn many_claims_that_are_left_over_are_doubtful() {
        let doubtful = |left_over: usize, claims| {
            let claim = |at| Finding::LeftOver(ClaimKey { kind: "email".to_owned(), value: format!("{at}@example.com") });
            let findings = [("ann".into(), (0..left_over).map(claim).collect())].into();
            Verified { claims, findings, ..Verified::default() }.is_doubtful()
        };
        assert!(!doubtful(0, 9) && !doubtful(1, 9) && doubtful(5, 9));
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Stays {
        nights: u64,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Event {
        Stayed { room: String, nights: u64 },
    }

    #[derive(Serialize, Deserialize)]
    enum Command {
        Stay {},
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
    #[error("never")]
    struct Never;

    /// Two kinds of aggregates to which the same happens.
    macro_rules! decider {
        ($name:ident $kind:literal) => {
            struct $name;

            impl Decider for $name {
                type State = Stays;
                type Command = Command;
                type Event = Event;
                type Refusal = Never;
                const KIND: &str = $kind;

                fn decide(&self, _: &Stays, Command::Stay {}: &Command) -> Result<Vec<Event>, Never> {
                    Ok(Vec::new())
                }

                fn evolve(&self, state: &mut Stays, event: &Event) {
                    let Event::Stayed { nights, .. } = event;
                    state.nights += nights;
                }
            }
        };
    }
    decider!(Guest "guest");
    decider!(Crew "crew");

    #[tokio::test]
    async fn of_two_kinds_with_the_same_events_a_snapshot_tells_which_it_is() {
        let worker = worker().await;
        let store = worker.store();
        happened(&worker, "ann", [stayed(3)]).await;
        let verified = async |kind: &str, nights: u64| {
            let state = if nights == 3 {
                data! { nights: 3 }
            } else {
                data! { nights: 4 }
            };
            let snapshot = Snapshot { kind: kind.to_owned(), revision: 1, version: Version(1), state };
            let part = Part { aggregate: "ann".into(), expected: Version(1), mark: None, events: Vec::new(), snapshot: Some(snapshot) };
            let kept = store.commit_command(&Commit { parts: vec![part], ..Commit::default() }, Deadline::NONE).await;
            assert_eq!(kept, Ok(crate::store::commands::Committed::Done));
            let verified = verify_all(store, Deciders::new(&[&Guest, &Crew]), 1, Deadline::NONE).await.expect("read");
            (verified.snapshots, verified.findings.len())
        };
        for kind in ["guest", "crew"] {
            assert_eq!((verified(kind, 3).await, verified(kind, 4).await), ((1, 0), (1, 1)), "{kind}");
        }
        assert_eq!(verified("nobody", 4).await, (0, 0));
    }
}
