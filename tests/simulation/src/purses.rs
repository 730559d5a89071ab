//! A decider that uses every feature of deciders, in two revisions, and what must hold of its aggregates.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{AggregateId, Claim, Decider, RecordedEvent, read_event, read_value};
use projection_worker::internals::store::item::{attributes, decode_event, partition_key};
use serde::{Deserialize, Serialize};
use serde_dynamo::Item as StreamItem;

use crate::{database::Database, oracle::EVENTS, transfers};

/// The aggregates.
pub const PURSES: [&str; 3] = ["purse-a", "purse-b", "purse-c"];
/// The names that they compete for.
pub const NAMES: [&str; 2] = ["red", "blue"];

/// A purse. The two revisions have the same rules, but states that cannot stand in for each other.
pub struct Purse<const REVISION: u32>;

/// What a purse needs to know. The second revision has debts in place of coins, so a state of the first gives it more than there is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct State {
    sum: i64,
    name: Option<String>,
}

/// What a purse can be told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum Command {
    Gain { coins: i64 },
    Spend { coins: i64 },
    Name { name: String },
    Look,
}

/// What happens to a purse. No projection handles it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum Event {
    Gained { coins: i64 },
    Spent { coins: i64 },
    Named { name: String },
}

/// Why a purse refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum Refusal {
    Poor,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too few coins")
    }
}

impl std::error::Error for Refusal {}

impl<const REVISION: u32> Purse<REVISION> {
    /// The coins in a purse of this state.
    #[must_use]
    pub fn coins(state: &State) -> i64 {
        if REVISION == 2 { -state.sum } else { state.sum }
    }
}

impl<const REVISION: u32> Decider for Purse<REVISION> {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "purse";
    const REVISION: u32 = REVISION;
    const SNAPSHOT_EVERY: Option<u64> = Some(2);

    fn decide(&self, purse: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        match command {
            Command::Gain { coins } => Ok(vec![Event::Gained { coins: *coins }]),
            Command::Spend { coins } if *coins > Self::coins(purse) => Err(Refusal::Poor),
            // Two events, so that a transaction has more of one aggregate than one.
            Command::Spend { coins } => Ok(vec![Event::Spent { coins: coins / 2 }, Event::Spent { coins: coins - coins / 2 }]),
            Command::Name { name } => Ok(vec![Event::Named { name: name.clone() }]),
            Command::Look => Ok(vec![]),
        }
    }

    fn evolve(&self, purse: &mut State, event: &Event) {
        let sign = if REVISION == 2 { -1 } else { 1 };
        match event {
            Event::Gained { coins } => purse.sum += sign * coins,
            Event::Spent { coins } => purse.sum -= sign * coins,
            Event::Named { name } => purse.name = Some(name.clone()),
        }
    }

    fn claims(&self, purse: &State) -> Vec<Claim> {
        purse.name.iter().map(|name| Claim::new("name", name)).collect()
    }
}

/// A command as a client sends it, perhaps more than once.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Its id.
    pub id: String,
    /// The commands, by purse. Two are sent together.
    pub orders: Vec<(&'static str, Command)>,
    /// What another purse must have at least when the events are appended.
    pub required: Option<(&'static str, i64)>,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// Accepted: the version of each purse, and how many events it got.
    Accepted(BTreeMap<String, (u64, usize)>),
    /// Refused by a rule.
    Refused(String),
    /// The name is another's.
    Taken,
    /// The id is another command's.
    IdReused,
}

/// What clients were told, by id.
#[derive(Default)]
pub struct Answers {
    /// More than one if a client had used an id before.
    sent: BTreeMap<String, Vec<Sent>>,
    /// The commands that got an answer of their own.
    carried_out: BTreeMap<String, Sent>,
    told: BTreeMap<String, Told>,
    first: BTreeSet<String>,
}

impl Answers {
    /// Takes note of a command before it is sent.
    pub fn sending(&mut self, sent: &Sent) {
        self.sent.entry(sent.id.clone()).or_default().push(sent.clone());
    }

    /// Takes an answer; `replayed` is whether it was said to have been given before.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn told(&mut self, sent: &Sent, told: Told, replayed: bool) -> Result<(), String> {
        let id = &sent.id;
        let others = self.sent.get(id).into_iter().flatten().any(|other| !same_command(other, sent));
        if told == Told::IdReused {
            let own = self.carried_out.get(id).is_some_and(|first| same_command(first, sent));
            return if own || !others { Err(format!("{id}: its own id was refused")) } else { Ok(()) };
        }
        if !same_command(self.carried_out.entry(id.clone()).or_insert_with(|| sent.clone()), sent) {
            return Err(format!("{id}: the id of an answered command was taken for another one"));
        }
        if !replayed && !self.first.insert(id.clone()) {
            return Err(format!("{id} was carried out twice"));
        }
        match self.told.get(id) {
            Some(before) if *before != told => Err(format!("{id} was answered {before:?} and then {told:?}")),
            _ => {
                self.told.insert(id.clone(), told);
                Ok(())
            }
        }
    }

    /// Whether the purses, their claims, snapshots and events are right, and each command had the effect that its sender was told.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn check(&self, database: &Database) -> Result<(), String> {
        let mut effects: BTreeMap<String, BTreeMap<String, (u64, usize)>> = BTreeMap::new();
        let mut claims: BTreeMap<String, String> = BTreeMap::new();
        for purse in PURSES {
            let mut states = vec![State::default()];
            for event in events(database, purse) {
                let version = states.len() as u64;
                if event.version.0 != version {
                    return Err(format!("{purse} has a hole at version {version}"));
                }
                let mut state = states.last().expect("there is one").clone();
                let fact = read_event(&event.event_type, &event.data).map_err(|misfit| format!("{purse}/{version}: {misfit}"))?;
                Purse::<1>.evolve(&mut state, &fact);
                if Purse::<1>::coins(&state) < 0 {
                    return Err(format!("{purse} is overdrawn at version {version}"));
                }
                states.push(state);
                let id = event.metadata.as_ref().and_then(command_id).ok_or("an event without its command's id")?;
                if id.starts_with(transfers::NAME) {
                    // The books know what a process does.
                    continue;
                }
                let effect = effects.entry(id).or_default().entry(purse.to_owned()).or_default();
                *effect = (version, effect.1 + 1);
            }
            let last = states.len() as u64 - 1;
            check_items(database, purse, last, &states)?;
            claims.extend(states[states.len() - 1].name.iter().map(|name| (name.clone(), purse.to_owned())));
        }
        self.check_effects(&effects)?;
        let held = database.items(EVENTS).filter_map(|((partition, _), item)| {
            let name = partition.strip_prefix("CLAIM#name#")?;
            Some((name.to_owned(), item.get("aggregateId")?.as_s().ok()?.clone()))
        });
        let held: BTreeMap<_, _> = held.collect();
        if held == claims { Ok(()) } else { Err(format!("the claims are {held:?}, must be {claims:?}")) }
    }

    fn check_effects(&self, effects: &BTreeMap<String, BTreeMap<String, (u64, usize)>>) -> Result<(), String> {
        for (id, effect) in effects {
            let events = |command: &Command| if matches!(command, Command::Spend { .. }) { 2 } else { 1 };
            let due = |sent: &Sent| -> BTreeMap<String, usize> {
                sent.orders.iter().map(|(purse, command)| ((*purse).to_owned(), events(command))).collect()
            };
            let had: BTreeMap<_, _> = effect.iter().map(|(purse, (_, events))| (purse.clone(), *events)).collect();
            let sent = self.sent.get(id).into_iter().flatten();
            if !sent.into_iter().any(|sent| due(sent) == had && self.carried_out.get(id).is_none_or(|own| same_command(own, sent))) {
                return Err(format!("{id} has the events {had:?}, which no command with this id makes once"));
            }
        }
        for (id, told) in &self.told {
            match (told, effects.get(id)) {
                (Told::Accepted(accepted), Some(effect)) if accepted == effect => {}
                (Told::Accepted(accepted), None) if accepted.values().all(|(_, events)| *events == 0) => {}
                (Told::Refused(_) | Told::Taken, None) => {}
                (told, effect) => return Err(format!("{id} was answered {told:?}, and its effect is {effect:?}")),
            }
        }
        Ok(())
    }

    /// What a purse must have when this command's events are appended, if every command with this id requires it.
    #[must_use]
    pub fn required(&self, id: &str) -> Option<(&'static str, i64)> {
        let sent = self.sent.get(id)?;
        sent.iter().map(|sent| sent.required).reduce(|all, one| all.filter(|_| one.is_some()))?
    }
}

fn same_command(one: &Sent, other: &Sent) -> bool {
    let sorted = |sent: &Sent| {
        let mut orders: Vec<_> = sent.orders.iter().map(|(purse, command)| (*purse, format!("{command:?}"))).collect();
        orders.sort();
        orders
    };
    sorted(one) == sorted(other)
}

/// The VERSION item and the snapshot.
fn check_items(database: &Database, purse: &str, last: u64, states: &[State]) -> Result<(), String> {
    let item = |sort: &str| database.item(EVENTS, &(partition_key(&AggregateId::from(purse)), sort.to_owned()));
    let number = |item: &crate::expression::Item, name: &str| item.get(name)?.as_n().ok()?.parse::<u64>().ok();
    let version = item("VERSION").and_then(|item| number(item, "version")).unwrap_or_default();
    if version != last {
        return Err(format!("{purse} has {last} events, and its VERSION item says {version}"));
    }
    let Some(kept) = item("SNAPSHOT") else { return Ok(()) };
    let (of, revision) = (number(kept, "version").ok_or("no version")?, number(kept, "revision").ok_or("no revision")?);
    let state = attributes(kept.clone()).ok().and_then(|mut item| read_value::<State>(&item.remove("state")?).ok());
    let mut expected = states.get(usize::try_from(of).expect("few")).ok_or("a snapshot of a version that there is not")?.clone();
    if revision == 2 {
        expected.sum = -expected.sum;
    }
    if state.as_ref() == Some(&expected) { Ok(()) } else { Err(format!("{purse} has a wrong snapshot of version {of}: {state:?}")) }
}

/// The events of a purse.
fn events(database: &Database, purse: &str) -> impl Iterator<Item = RecordedEvent> {
    let partition = partition_key(&AggregateId::from(purse));
    database.items(EVENTS).filter_map(move |((of, sort), item)| {
        let event = *of == partition && sort.starts_with("EVENT#");
        event.then(|| decode_event(&StreamItem::from(item.clone())).expect("the engine writes events that can be read"))
    })
}

/// The coins in a purse now.
#[must_use]
pub fn coins_in(database: &Database, purse: &str) -> i64 {
    let mut state = State::default();
    for event in events(database, purse) {
        Purse::<1>.evolve(&mut state, &read_event(&event.event_type, &event.data).expect("an event of a purse"));
    }
    Purse::<1>::coins(&state)
}

/// The id of the command that made an event.
#[must_use]
pub fn command_id(metadata: &projection_vocabulary::Value) -> Option<String> {
    let projection_vocabulary::Value::Map(members) = metadata else { return None };
    members.get("commandId")?.as_text().map(str::to_owned)
}
