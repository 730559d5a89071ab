//! `category`: a category of a forum.

use projection_vocabulary::Decider;
use serde::{Deserialize, Serialize};

use super::Event;

/// The decider.
pub struct Category;

/// What a category needs to know.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct State {
    /// Whether it exists.
    pub exists: bool,
}

/// What a category can be told.
#[derive(Debug, Deserialize, Serialize)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Command {
    Create {
        name: String,
        #[serde(default)]
        description: Option<String>,
    },
}

/// Why a category refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum Refusal {
    #[error("this id is in use")]
    InUse,
    #[error("a category needs a name")]
    NoName,
}

impl Decider for Category {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "category";

    fn decide(&self, category: &State, Command::Create { name, description }: &Command) -> Result<Vec<Event>, Refusal> {
        if category.exists {
            return Err(Refusal::InUse);
        }
        if name.trim().is_empty() {
            return Err(Refusal::NoName);
        }
        Ok(vec![Event::CategoryCreated { name: name.clone(), description: description.clone() }])
    }

    fn evolve(&self, category: &mut State, _: &Event) {
        // An event of a topic makes it exist as well: its id is in use.
        category.exists = true;
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::testkit::{decider, laws};

    use super::*;

    fn create(name: &str) -> Command {
        Command::Create { name: name.to_owned(), description: None }
    }

    #[test]
    fn a_category_is_created_once_and_has_a_name() {
        let created = Event::CategoryCreated { name: "News".to_owned(), description: None };
        decider(&Category).when(&create("News")).then([created.clone()]);
        decider(&Category).when(&create(" ")).refused(Refusal::NoName);
        decider(&Category).given([created]).when(&create("News")).refused(Refusal::InUse);
    }

    #[test]
    fn the_laws_hold() {
        laws(&Category, ["News", ""].map(create));
    }
}
