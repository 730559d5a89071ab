//! The sample domains: `projector generate` writes histories of them, and tests project them at random.

use projection_vocabulary::{
    Value,
    sample::{Pick, Sample},
    variants_of, write_event,
};

use crate::{bank, forum, shop};

/// Every domain that `projector generate` knows; the first is the default.
pub const ALL: &[Sample] = &[
    Sample { name: "bank", facts: bank::sample::history }, //
    Sample { name: "forum", facts: forum::sample::history },
    Sample { name: "shop", facts: shop::sample::history },
];

/// A number below `bound`.
pub(crate) fn below(pick: &mut Pick<'_>, bound: usize) -> usize {
    usize::try_from(pick(bound as u64)).expect("less than a usize")
}

/// The type and the data of an event.
pub(crate) fn written<E: serde::Serialize + serde::de::DeserializeOwned>(event: &E) -> (&'static str, Value) {
    let (event_type, data) = write_event(event).expect("events of this repository can be written");
    let name = variants_of::<E>().iter().find(|name| **name == event_type).expect("it is a variant");
    (name, data)
}

/// An event's data.
pub(crate) fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{Rows, fold::concerns, sample::record};

    use super::ALL;

    #[test]
    fn the_projections_of_a_sample_domain_apply_every_fact_of_it_and_no_process_takes_one() {
        for sample in ALL {
            let mut state = 7_u64;
            let mut pick = |bound| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % bound
            };
            let facts = (sample.facts)(&mut pick, 2_000, 60);
            assert_eq!(facts.len(), 2_000);
            let kinds: std::collections::BTreeSet<_> = facts.iter().map(|fact| fact.event_type).collect();
            for rule in crate::ALL {
                let mut rows = Rows::default();
                for event in record(facts.clone()) {
                    rows.fold(*rule, &event).expect("a valid event");
                    // Whoever replays a made-up history commands nothing by it.
                    if let Some(process) = rule.process().filter(|_| concerns(*rule, &event)) {
                        assert_eq!(process.route(&event), Ok(None), "`{}` takes {}", rule.name(), event.event_type);
                    }
                }
                let concerned = rule.event_types().iter().any(|name| kinds.contains(name));
                assert_eq!(rows.home.is_empty(), !concerned);
                // A process also reacts to what is far behind the first step.
                assert!(
                    !concerned || rule.process().is_some() || rule.event_types().iter().all(|name| kinds.contains(name)),
                    "{} generates every event type",
                    sample.name
                );
            }
        }
    }
}
