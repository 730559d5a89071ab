//! `user`: a user of the shop, who alone has an email address.

use projection_vocabulary::{Claim, Decider};
use serde::{Deserialize, Serialize};

use super::Event;

/// The decider.
pub struct User;

/// What a user needs to know.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub enum State {
    /// Nobody registered with this id.
    #[default]
    Unknown,
    /// Registered, with this email address as it was given.
    Registered {
        /// The address.
        email: String,
    },
    /// The id belongs to an order.
    Order,
}

/// What a user can be told.
#[derive(Debug, Deserialize, Serialize)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Command {
    Register { email: String, name: String },
    ChangeEmail { email: String },
}

/// Why a user refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum Refusal {
    #[error("this id is in use")]
    InUse,
    #[error("there is no such user")]
    Unknown,
    #[error("this is not an email address")]
    NotAnEmail,
    #[error("a user needs a name")]
    NoName,
    #[error("this is the user's address already")]
    SameEmail,
}

impl Decider for User {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "user";

    fn decide(&self, user: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        let (Command::Register { email, .. } | Command::ChangeEmail { email }) = command;
        let valid = is_email(email);
        match (user, command) {
            (State::Registered { .. } | State::Order, Command::Register { .. }) => Err(Refusal::InUse),
            (State::Unknown | State::Order, Command::ChangeEmail { .. }) => Err(Refusal::Unknown),
            _ if !valid => Err(Refusal::NotAnEmail),
            (State::Unknown, Command::Register { name, .. }) if name.trim().is_empty() => Err(Refusal::NoName),
            (State::Unknown, Command::Register { email, name }) => {
                Ok(vec![Event::UserRegistered { email: email.clone(), name: name.clone() }])
            }
            (State::Registered { email: present }, Command::ChangeEmail { email }) if email == present => Err(Refusal::SameEmail),
            (State::Registered { .. }, Command::ChangeEmail { email }) => Ok(vec![Event::EmailChanged { email: email.clone() }]),
        }
    }

    fn evolve(&self, user: &mut State, event: &Event) {
        match event {
            Event::UserRegistered { email, .. } | Event::EmailChanged { email } => *user = State::Registered { email: email.clone() },
            Event::OrderPlaced { .. } | Event::OrderStatusChanged { .. } => *user = State::Order,
        }
    }

    /// Two addresses that differ in case only reach the same mailbox nearly everywhere.
    fn claims(&self, user: &State) -> Vec<Claim> {
        match user {
            State::Registered { email } => vec![Claim::new("email", email.to_lowercase())],
            State::Unknown | State::Order => vec![],
        }
    }
}

/// Whether mail can be sent there is known when it was answered; this only catches slips. At most 254 bytes (RFC 5321).
fn is_email(text: &str) -> bool {
    let parts = text.split_once('@');
    let plain = text.len() <= 254 && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    plain && parts.is_some_and(|(local, host)| !local.is_empty() && !host.is_empty() && !host.contains('@'))
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::testkit::{decider, laws};

    use super::*;

    fn register(email: &str) -> Command {
        Command::Register { email: email.to_owned(), name: "Ann".to_owned() }
    }

    fn change(email: &str) -> Command {
        Command::ChangeEmail { email: email.to_owned() }
    }

    fn registered() -> Event {
        Event::UserRegistered { email: "Ann@example.org".to_owned(), name: "Ann".to_owned() }
    }

    #[test]
    fn a_user_registers_once_with_an_address() {
        decider(&User).when(&register("Ann@example.org")).then([registered()]);
        for not_an_email in ["", "ann", "@example.org", "ann@", "a nn@example.org", "a@b@c"] {
            decider(&User).when(&register(not_an_email)).refused(Refusal::NotAnEmail);
        }
        decider(&User).given([registered()]).when(&register("ann@example.org")).refused(Refusal::InUse);
        decider(&User).when(&change("ann@example.org")).refused(Refusal::Unknown);
        decider(&User).given([registered()]).when(&change("Ann@example.org")).refused(Refusal::SameEmail);
    }

    #[test]
    fn a_user_holds_the_present_address_alone() {
        let user = decider(&User).given([registered()]);
        assert_eq!(User.claims(user.state()), [Claim::new("email", "ann@example.org")]);
        let user = user.given([Event::EmailChanged { email: "ann@example.com".to_owned() }]);
        assert_eq!(User.claims(user.state()), [Claim::new("email", "ann@example.com")]);
        assert_eq!(User.claims(&State::default()), []);
    }

    #[test]
    fn the_laws_hold() {
        laws(&User, [register("ann@example.org"), change("ann@example.com"), change("")]);
    }
}
