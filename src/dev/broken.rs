//! A deployment whose rules are broken.

use projection_vocabulary::{Attributes, Change, DynProjection, RecordedEvent, Refusal, Registry, WithChange};

/// The same projections with rules that refuse every event. Processes stay as they are.
///
/// It is never freed: the projections of a registry live as long as the program. Make one of each registry.
pub fn broken(registry: Registry) -> Registry {
    let rules = registry.projections().iter().map(|rule| match rule.process() {
        Some(_) => *rule,
        None => &*Box::leak(Box::new(WithChange { rule: *rule, change: refused })) as &dyn DynProjection,
    });
    Registry::new(Vec::leak(rules.collect()))
}

fn refused(_: &RecordedEvent, _: &Attributes) -> Result<Change, Refusal> {
    Err(Refusal::Rule("this deployment's rule is broken on purpose"))
}
