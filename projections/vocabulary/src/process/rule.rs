//! A process behind `dyn`: a rule without changes, whose instances are aggregates.

use std::{
    any::{Any, TypeId},
    collections::{BTreeSet, HashMap},
    sync::{LazyLock, Mutex, PoisonError},
};

use super::{Instance, Process, ProcessEvent, Told, guarded, instance};
use crate::{
    Aggregate, AggregateId, Attributes, Change, Claim, Decided, DynDecider, DynProjection, Index, Misfit, Recorded, RecordedEvent, Refusal,
    Undecided, Unwritable, Value, de, nothing, ser,
};

/// Puts a [`Process`] into the list of projections: `&ProcessRule(OrderFulfilment)`. Its table has a watermark for each aggregate, and
/// nothing else.
pub struct ProcessRule<P>(pub P);

/// A [`Process`] behind `dyn`, for the engine.
pub trait DynProcess: DynProjection {
    /// The instance that an event is for; `None` if it is for none.
    ///
    /// # Errors
    /// [`Refusal`]: park the aggregate.
    fn route(&self, event: &RecordedEvent) -> Result<Option<AggregateId>, Refusal>;
    /// Whether an aggregate is an instance of it.
    fn is_instance(&self, aggregate: &str) -> bool {
        aggregate.strip_prefix(self.name()).is_some_and(|rest| rest.starts_with('/'))
    }
    /// See [`Process::REVISION`].
    fn process_revision(&self) -> u32;
    /// See [`Process::HOPS_MAX`].
    fn hops_max(&self) -> u32;
    /// See [`Process::COMMANDED`].
    fn commanded(&self) -> &'static [&'static dyn DynDecider];
    /// The decider of its instances. Its commands are [`Told`].
    fn instances(&'static self) -> &'static dyn DynDecider;
    /// What it records for itself: see [`Process::Fact`].
    fn fact_types(&self) -> &'static [&'static str];
    /// The instance behind the state of one of [`DynProcess::instances`], with its own state as a value; `None` if it is of another
    /// process, or its state cannot be written.
    fn instance(&self, state: &dyn Any) -> Option<Instance<Value>>;
}

/// The event type that the engine itself follows up.
pub const SENT: &str = "ProcessSent";

impl<P: Process> DynProjection for ProcessRule<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn key(&self) -> &'static str {
        "aggregateId"
    }

    /// Always the same: a row has nothing that another revision would write differently.
    fn revision(&self) -> u32 {
        1
    }

    fn indexes(&self) -> &'static [Index] {
        &[]
    }

    fn reads_row(&self) -> bool {
        false
    }

    fn event_types(&self) -> &'static [&'static str] {
        /// By process. Static data cannot be generic.
        static TYPES: LazyLock<Mutex<HashMap<TypeId, &'static [&'static str]>>> = LazyLock::new(Mutex::default);
        let mut types = TYPES.lock().unwrap_or_else(PoisonError::into_inner);
        types.entry(TypeId::of::<P>()).or_insert_with(|| {
            let inputs = de::variants_of::<P::Input>();
            // An enum without variants is a mistake that the registry reports.
            let sent = (!inputs.is_empty()).then_some(SENT);
            inputs.iter().copied().chain(sent).collect::<Vec<_>>().leak()
        })
    }

    fn concerns(&self, aggregate: &AggregateId, event_type: &str) -> bool {
        if event_type == SENT { self.is_instance(aggregate.as_str()) } else { de::variants_of::<P::Input>().contains(&event_type) }
    }

    fn change(&self, _: &RecordedEvent, _: &Attributes) -> Result<Change, Refusal> {
        Ok(nothing())
    }

    fn process(&'static self) -> Option<&'static dyn DynProcess> {
        Some(self)
    }
}

impl<P: Process> DynProcess for ProcessRule<P> {
    fn route(&self, event: &RecordedEvent) -> Result<Option<AggregateId>, Refusal> {
        let typed = de::event::<P::Input>(&event.event_type, &event.data)?;
        let recorded = Recorded::new(event, typed, None);
        let instance = guarded(|| self.0.route(&recorded)).ok_or(Refusal::Panicked)?;
        match instance {
            Some(instance) if instance.is_empty() => Err(Refusal::Rule("the process routes this event to an instance with an empty name")),
            instance => Ok(instance.map(|instance| instance::aggregate_of(P::NAME, &instance))),
        }
    }

    fn process_revision(&self) -> u32 {
        P::REVISION
    }

    fn hops_max(&self) -> u32 {
        P::HOPS_MAX
    }

    fn commanded(&self) -> &'static [&'static dyn DynDecider] {
        P::COMMANDED
    }

    fn instances(&'static self) -> &'static dyn DynDecider {
        self
    }

    fn fact_types(&self) -> &'static [&'static str] {
        de::variants_of::<P::Fact>()
    }

    fn instance(&self, state: &dyn Any) -> Option<Instance<Value>> {
        state.downcast_ref::<Instance<P::State>>()?.with_value().ok()
    }
}

impl<P: Process> DynDecider for ProcessRule<P> {
    fn kind(&self) -> &'static str {
        P::NAME
    }

    fn revision(&self) -> u32 {
        P::REVISION
    }

    fn snapshot_every(&self) -> Option<u64> {
        None
    }

    fn commands(&self) -> Vec<(&'static str, &'static [&'static str])> {
        de::variants_of::<Told>().iter().map(|name| (*name, de::fields_of::<Told>(name))).collect()
    }

    fn event_types(&self) -> &'static [&'static str] {
        de::variants_of::<ProcessEvent>()
    }

    fn start(&'static self) -> Box<dyn Aggregate> {
        Box::new(Of { process: &self.0, instance: Instance::default() })
    }

    /// No snapshots are kept.
    fn resume(&'static self, _: &Value) -> Result<Box<dyn Aggregate>, Misfit> {
        Err(serde::de::Error::custom("instances of processes have no snapshots"))
    }
}

struct Of<P: Process> {
    process: &'static P,
    instance: Instance<P::State>,
}

impl<P: Process> Aggregate for Of<P> {
    fn evolve(&mut self, event: &RecordedEvent) -> Result<(), Misfit> {
        instance::evolve(self.process, &mut self.instance, event)
    }

    fn decide(&self, command: &Value) -> Result<Vec<Decided>, Undecided> {
        instance::decide(self.process, &self.instance, &de::value(command)?)
    }

    fn claims(&self) -> BTreeSet<Claim> {
        BTreeSet::new()
    }

    /// What whoever sent a command is shown.
    fn snapshot(&self) -> Result<Value, Unwritable> {
        let members = [("status", self.instance.status().as_str().into()), ("state", ser::to_value(self.instance.state())?)];
        Ok(Value::Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }

    fn state(&self) -> &dyn Any {
        &self.instance
    }

    fn copy(&self) -> Box<dyn Aggregate> {
        Box::new(Self { process: self.process, instance: self.instance.clone() })
    }
}
