//! Clients that send commands, and send them again with the same id.

use std::{collections::BTreeMap, sync::Arc};

use projection_worker::{CommandError, Commands};

use super::{
    Result, Run,
    processes::{Ended, Role},
};
use crate::{
    database::{Database, Written},
    faults::Fault,
    network::lock,
    oracle::EVENTS,
    purses::{Command, NAMES, PURSES, Purse, Sent, Told, coins_in},
};

/// How many clients may be under way at once.
pub(super) const CLIENTS_MAX: usize = 3;
/// How many spend from one purse at the same moment, in a run that has a rush.
const RUSH: usize = 64;

impl Run {
    /// Starts a client, with a new command or one that was sent before.
    pub(super) fn command(&mut self) {
        let again = !self.sent.is_empty() && self.choices.per_mille(400);
        let sent = if again {
            self.counts.add(Fault::CommandResent);
            let mut sent = self.sent[self.choices.below(self.sent.len())].clone();
            // The order of commands that go together means nothing.
            if self.choices.per_mille(500) {
                sent.orders.reverse();
            }
            if self.choices.per_mille(100) {
                // A client that has a bug: another command with an id that was used.
                sent.orders[0].1 = Command::Gain { coins: 1_000 };
                sent.required = None;
            }
            sent
        } else {
            let sent = self.new_command();
            self.sent.push(sent.clone());
            sent
        };
        self.send(sent);
    }

    fn new_command(&mut self) -> Sent {
        let at = self.choices.below(PURSES.len());
        let (purse, other) = (PURSES[at], PURSES[(at + 1) % PURSES.len()]);
        let coins = 1 + i64::try_from(self.choices.below(4)).expect("few");
        let name = || NAMES[0].to_owned();
        let id = format!("command-{}", self.sent.len() + 1);
        let alone = |command| Sent { id: id.clone(), orders: vec![(purse, command)], required: None };
        match self.choices.weighted(&[(6, 0), (5, 1), (4, 2), (4, 3), (1, 4), (2, 5)]) {
            0 => alone(Command::Gain { coins }),
            1 => alone(Command::Spend { coins }),
            2 => {
                let name = if self.choices.per_mille(500) { name() } else { NAMES[1].to_owned() };
                alone(Command::Name { name })
            }
            3 => Sent { orders: vec![(purse, Command::Spend { coins }), (other, Command::Gain { coins })], ..alone(Command::Look) },
            4 => alone(Command::Look),
            _ => Sent { required: Some((other, coins)), ..alone(Command::Gain { coins }) },
        }
    }

    /// Many clients spend from one purse at once, which has enough for a few. Others require that it has something.
    pub(super) fn rush(&mut self) {
        let rich = Sent { id: "rich".to_owned(), orders: vec![(PURSES[0], Command::Gain { coins: 20 })], required: None };
        self.send(rich.clone());
        self.sent.push(rich);
        for at in 0..RUSH {
            let spend = Sent { id: format!("rush-{at}"), orders: vec![(PURSES[0], Command::Spend { coins: 3 })], required: None };
            self.sent.push(spend.clone());
            self.send(spend);
            if at % 4 == 0 {
                let orders = vec![(PURSES[1 + at % 2], Command::Gain { coins: 1 })];
                self.send(Sent { id: format!("rush-on-{at}"), orders, required: Some((PURSES[0], 3)) });
            }
        }
    }

    pub(super) fn send(&mut self, sent: Sent) {
        self.answers.sending(&sent);
        let name = self.name("client");
        let store = Arc::new(self.store(&name));
        let second = self.choices.per_mille(300);
        self.note(|| format!("{name} sends {sent:?} to revision {}", if second { 2 } else { 1 }));
        self.start(&name, Role::Client, async move {
            let commands = Commands::new(&store);
            let outcome =
                if second { carry_out(commands, &Purse::<2>, &sent).await } else { carry_out(commands, &Purse::<1>, &sent).await };
            match outcome {
                Ok(Some((told, replayed))) => Ended::Told(sent, told, replayed),
                Ok(None) => Ended::Quiet,
                Err(error) => Ended::Failed(error),
            }
        });
    }

    /// What a client was told, and whether it is true.
    pub(super) fn take_answer(&mut self, sent: &Sent, told: Told, replayed: bool) -> Result {
        self.answers.told(sent, told, replayed)?;
        self.answers.check(&lock(&self.network).database)
    }

    /// Checks the purses after a write to the event store, and whether what a command requires of a neighbour holds.
    pub(super) fn check_purses(&self, database: &Database, written: &Written) -> Result {
        let purses: Vec<_> = written
            .items
            .iter()
            .filter(|(table, (partition, _), ..)| {
                table == EVENTS && (partition.starts_with("AGGREGATE#purse") || partition.starts_with("CLAIM#"))
            })
            .collect();
        if purses.is_empty() {
            return Ok(());
        }
        for (.., after) in &purses {
            let metadata = after.as_ref().and_then(|item| item.get("metadata")?.as_m().ok()?.get("commandId")?.as_s().ok());
            if let Some((neighbour, coins)) = metadata.and_then(|id| self.answers.required(id))
                && coins_in(database, neighbour) < coins
            {
                return Err(format!("{neighbour} has fewer coins than a command requires"));
            }
        }
        self.answers.check(database)
    }
}

/// Sends a command until it is answered, or a few times. Returns `None` if it is not.
async fn carry_out<const REVISION: u32>(
    commands: Commands<'_>,
    purse: &'static Purse<REVISION>,
    sent: &Sent,
) -> std::result::Result<Option<(Told, bool)>, String> {
    for _ in 0..3 {
        let mut together = commands.together().id(&sent.id);
        for (aggregate, command) in &sent.orders {
            together = together.command(purse, aggregate, command);
        }
        if let Some((neighbour, coins)) = sent.required {
            together = together.requires(purse, neighbour, move |state| {
                if Purse::<REVISION>::coins(state) >= coins { Ok(()) } else { Err("the neighbour is poor".to_owned()) }
            });
        }
        return match together.handle().await {
            Ok(handled) => {
                let mut versions = BTreeMap::new();
                for (aggregate, _) in &sent.orders {
                    let one = handled.of(purse, aggregate).map_err(|error| error.to_string())?;
                    if Purse::<REVISION>::coins(&one.state) < 0 {
                        return Err(format!("{aggregate} is shown overdrawn"));
                    }
                    versions.insert((*aggregate).to_owned(), (one.version.0, one.events.len()));
                }
                Ok(Some((Told::Accepted(versions), handled.replayed())))
            }
            Err(CommandError::Refused { refusal, replayed }) => Ok(Some((Told::Refused(refusal.message), replayed))),
            Err(CommandError::Taken { replayed, .. }) => Ok(Some((Told::Taken, replayed))),
            Err(CommandError::IdReused) => Ok(Some((Told::IdReused, false))),
            Err(CommandError::Contended { .. } | CommandError::Store(_)) => continue,
            Err(error) => Err(error.to_string()),
        };
    }
    Ok(None)
}
