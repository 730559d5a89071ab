//! A deployment whose rules are broken.

use projection_vocabulary::{AggregateId, Attributes, Change, DynProjection, Index, RecordedEvent, Refusal, Registry, process::DynProcess};

/// A rule that refuses every event.
struct Broken(&'static dyn DynProjection);

/// The same projections with rules that refuse every event. Processes stay as they are.
///
/// It is never freed: the projections of a registry live as long as the program. Make one of each registry.
pub fn broken(registry: Registry) -> Registry {
    let rules = registry.projections().iter().map(|rule| match rule.process() {
        Some(_) => *rule,
        None => &*Box::leak(Box::new(Broken(*rule))) as &dyn DynProjection,
    });
    Registry::new(Vec::leak(rules.collect()))
}

impl DynProjection for Broken {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn key(&self) -> &'static str {
        self.0.key()
    }

    fn children(&self) -> Option<&'static str> {
        self.0.children()
    }

    fn revision(&self) -> u32 {
        self.0.revision()
    }

    fn indexes(&self) -> &'static [Index] {
        self.0.indexes()
    }

    fn reads_row(&self) -> bool {
        self.0.reads_row()
    }

    fn event_types(&self) -> &'static [&'static str] {
        self.0.event_types()
    }

    fn concerns(&self, aggregate: &AggregateId, event_type: &str) -> bool {
        self.0.concerns(aggregate, event_type)
    }

    fn process(&'static self) -> Option<&'static dyn DynProcess> {
        None
    }

    fn change(&self, _: &RecordedEvent, _: &Attributes) -> Result<Change, Refusal> {
        Err(Refusal::Rule("this deployment's rule is broken on purpose"))
    }
}
