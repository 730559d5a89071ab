//! What a registry refuses of a process.

use super::*;
use crate::{
    DynProjection, Registry,
    process::{ProcessRule, ProcessStatus},
};

/// A process that is wrong in one thing.
macro_rules! wrong {
    ($($process:ident: $input:ty, $fact:ty, $name:literal, $revision:literal, $hops:literal, $commanded:expr;)*) => {
        $(struct $process;

        impl Process for $process {
            type Input = $input;
            type Fact = $fact;
            type State = ();
            const NAME: &str = $name;
            const REVISION: u32 = $revision;
            const HOPS_MAX: u32 = $hops;
            const COMMANDED: &[&dyn DynDecider] = $commanded;

            fn route(&self, _: &Recorded<'_, $input>) -> Option<String> {
                None
            }

            fn evolve(&self, (): &mut (), _: &$fact) {}

            fn decide(&self, _: &Instance<()>, _: Input<'_, $input>) -> Result<Outputs<$fact>, Refusal> {
                Ok(outputs())
            }
        })*
    };
}

#[derive(Clone, Serialize, Deserialize)]
enum Nothing {}

#[derive(Clone, Serialize, Deserialize)]
enum Reserved {
    ProcessPaused {},
}

#[derive(Clone, Serialize, Deserialize)]
enum Same {
    Do {},
}

#[derive(Clone, Serialize, Deserialize)]
enum OfAnother {
    ProcessSent {},
}

#[derive(Clone, Serialize, Deserialize)]
enum Completed {
    ProcessCompleted {},
}

wrong! {
    Good: Completed, Nothing, "good", 1, 1, &[];
    Unrevised: Same, Fact, "unrevised", 0, 1, &[];
    Hopless: Same, Fact, "hopless", 1, 0, &[];
    Twice: Same, Fact, "twice", 1, 1, &[&Lamp, &Stray, &Lamp];
    Taking: Same, Reserved, "taking", 1, 1, &[];
    Feeding: Same, Same, "feeding", 1, 1, &[];
    Sending: OfAnother, Fact, "sending", 1, 1, &[];
    Deaf: Nothing, Fact, "deaf", 1, 1, &[];
    Shouting: Same, Fact, "Shouting", 1, 1, &[];
}

#[test]
fn a_process_is_registered_beside_the_projection_that_lists_it() {
    static RULES: &[&dyn DynProjection] = &[&ProcessRule(Good), &ProcessRule(Script), &ProcessStatus];
    let registry = Registry::new(RULES);
    assert_eq!(registry.processes().map(DynProjection::name).collect::<Vec<_>>(), ["good", "script"]);
    assert_eq!(registry.get("script").expect("registered").event_types(), ["Do", "Unrouted", "Unnamed", "Lost", "ProcessSent"]);
    assert!(registry.get("process-status").expect("registered").process().is_none());
}

#[test]
fn a_mistake_in_a_process_is_named() {
    static MISTAKES: &[(&[&dyn DynProjection], &str)] = &[
        (&[&ProcessRule(Unrevised), &ProcessStatus], "the revision of `unrevised` is 0: revisions start at 1"),
        (&[&ProcessRule(Hopless), &ProcessStatus], "`hopless` has a limit of 0 hops, so that it could do nothing"),
        (&[&ProcessRule(Twice), &ProcessStatus], "`twice` commands two deciders of the kind `lamp`"),
        (&[&ProcessRule(Taking), &ProcessStatus], "`taking` records `ProcessPaused`: event types that begin with `Process` are reserved"),
        (&[&ProcessRule(Feeding), &ProcessStatus], "`feeding` records `Do` and reacts to it: it would feed itself"),
        (&[&ProcessRule(Sending), &ProcessStatus], "`sending` reacts to `ProcessSent`, which is for the process that sent it alone"),
        (&[&ProcessRule(Deaf), &ProcessStatus], "`deaf` handles no event: its `Event` must be an enum with one variant per event type"),
        (&[&ProcessRule(Shouting), &ProcessStatus], "`Shouting` is not a valid name: use kebab-case, with at least three characters"),
        (
            &[&ProcessRule(Script)],
            "`script` is a process, and `process-status` lists its instances and timers: add `&ProcessStatus` to the projections",
        ),
        (&[&ProcessRule(Script), &ProcessStatus, &ProcessRule(Script)], "two projections are named `script`"),
    ];
    for (rules, message) in MISTAKES {
        assert_eq!(panic_of(|| Registry::new(rules)), *message);
    }
}
