//! `topic`: a topic of a forum, with its posts.

use std::collections::BTreeSet;

use projection_vocabulary::Decider;
use serde::{Deserialize, Serialize};

use super::Event;

/// The decider.
pub struct Topic;

/// What a topic needs to know.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub enum State {
    /// It was never created.
    #[default]
    Absent,
    /// It can be written to.
    Open {
        /// Its category.
        category: String,
        /// The ids of its posts.
        posts: BTreeSet<String>,
    },
    /// It was deleted.
    Deleted,
    /// The id belongs to a category.
    Category,
}

/// What a topic can be told.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Command {
    Create { category_id: String, title: String, author_id: String },
    Post { post_id: String, author_id: String, text: String },
    RemovePost { post_id: String },
    Move { to_category_id: String },
    Delete,
}

/// Why a topic refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum Refusal {
    #[error("this id is in use")]
    InUse,
    #[error("there is no such topic")]
    NoTopic,
    #[error("the topic was deleted")]
    Deleted,
    #[error("a topic needs a category, a title and an author")]
    Incomplete,
    #[error("a post needs an id, an author and a text")]
    IncompletePost,
    #[error("a post has this id already")]
    PostExists,
    #[error("the topic has no such post")]
    NoPost,
    #[error("the topic is in that category already")]
    NotMoved,
}

impl Decider for Topic {
    type State = State;
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;
    const KIND: &str = "topic";
    const SNAPSHOT_EVERY: Option<u64> = Some(100);

    fn decide(&self, topic: &State, command: &Command) -> Result<Vec<Event>, Refusal> {
        let (category, posts) = match (topic, command) {
            (State::Absent, Command::Create { category_id, title, author_id }) => {
                let complete = [category_id, title, author_id].iter().all(|text| !text.trim().is_empty());
                let (category_id, title, author_id) = (category_id.clone(), title.clone(), author_id.clone());
                return if complete { Ok(vec![Event::TopicCreated { category_id, title, author_id }]) } else { Err(Refusal::Incomplete) };
            }
            (_, Command::Create { .. }) => return Err(Refusal::InUse),
            (State::Absent | State::Category, _) => return Err(Refusal::NoTopic),
            (State::Deleted, _) => return Err(Refusal::Deleted),
            (State::Open { category, posts }, _) => (category, posts),
        };
        let category_id = category.clone();
        let event = match command {
            Command::Post { post_id, author_id, text } => {
                if [post_id, author_id, text].iter().any(|text| text.trim().is_empty()) {
                    return Err(Refusal::IncompletePost);
                }
                if posts.contains(post_id) {
                    return Err(Refusal::PostExists);
                }
                let (post_id, author_id, text) = (Some(post_id.clone()), Some(author_id.clone()), Some(text.clone()));
                Event::PostAdded { post_id, author_id, category_id, text }
            }
            Command::RemovePost { post_id } if !posts.contains(post_id) => return Err(Refusal::NoPost),
            Command::RemovePost { post_id } => Event::PostRemoved { post_id: Some(post_id.clone()), category_id },
            Command::Move { to_category_id } if to_category_id == category => return Err(Refusal::NotMoved),
            Command::Move { to_category_id } if to_category_id.trim().is_empty() => return Err(Refusal::Incomplete),
            Command::Move { to_category_id } => Event::TopicMoved { from_category_id: category_id, to_category_id: to_category_id.clone() },
            Command::Delete => Event::TopicDeleted { category_id: Some(category_id) },
            Command::Create { .. } => unreachable!("decided above"),
        };
        Ok(vec![event])
    }

    fn evolve(&self, topic: &mut State, event: &Event) {
        match (event, &mut *topic) {
            (Event::TopicCreated { category_id, .. }, _) => *topic = State::Open { category: category_id.clone(), posts: BTreeSet::new() },
            (Event::PostAdded { post_id: Some(post), .. }, State::Open { posts, .. }) => _ = posts.insert(post.clone()),
            (Event::PostRemoved { post_id: Some(post), .. }, State::Open { posts, .. }) => _ = posts.remove(post),
            (Event::TopicMoved { to_category_id, .. }, State::Open { category, .. }) => category.clone_from(to_category_id),
            (Event::TopicDeleted { .. }, State::Open { .. }) => *topic = State::Deleted,
            (Event::CategoryCreated { .. }, _) => *topic = State::Category,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::testkit::{Told, decider, laws};

    use super::*;

    fn text(text: &str) -> String {
        text.to_owned()
    }

    fn create(title: &str) -> Command {
        Command::Create { category_id: text("news"), title: text(title), author_id: text("ann") }
    }

    fn post(id: &str, content: &str) -> Command {
        Command::Post { post_id: text(id), author_id: text("bob"), text: text(content) }
    }

    fn posted(id: &str) -> Event {
        Event::PostAdded { post_id: Some(text(id)), author_id: Some(text("bob")), category_id: text("news"), text: Some(text("Hello")) }
    }

    fn created() -> Event {
        Event::TopicCreated { category_id: text("news"), title: text("Hello"), author_id: text("ann") }
    }

    fn topic() -> Told<'static, Topic> {
        decider(&Topic).given([created(), posted("p1")])
    }

    #[test]
    fn a_topic_takes_posts_and_gives_them_up() {
        decider(&Topic).when(&create("Hello")).then([created()]);
        topic().when(&post("p2", "Hello")).then([posted("p2")]);
        topic().when(&post("p1", "Hello")).refused(Refusal::PostExists);
        topic().when(&post("p2", "")).refused(Refusal::IncompletePost);
        topic().when(&Command::RemovePost { post_id: text("p9") }).refused(Refusal::NoPost);
        let removed = Event::PostRemoved { post_id: Some(text("p1")), category_id: text("news") };
        topic().when(&Command::RemovePost { post_id: text("p1") }).then([removed.clone()]);
        topic().given([removed]).when(&Command::RemovePost { post_id: text("p1") }).refused(Refusal::NoPost);
    }

    #[test]
    fn a_moved_topic_knows_its_category() {
        let to = |category: &str| Command::Move { to_category_id: text(category) };
        let moved = Event::TopicMoved { from_category_id: text("news"), to_category_id: text("archive") };
        topic().when(&to("archive")).then([moved.clone()]);
        topic().when(&to("news")).refused(Refusal::NotMoved);
        topic().given([moved]).when(&to("archive")).refused(Refusal::NotMoved);
    }

    #[test]
    fn only_a_topic_that_exists_can_be_told_anything() {
        decider(&Topic).when(&create(" ")).refused(Refusal::Incomplete);
        decider(&Topic).when(&Command::Delete).refused(Refusal::NoTopic);
        topic().when(&create("Hello")).refused(Refusal::InUse);
        let deleted = Event::TopicDeleted { category_id: Some(text("news")) };
        topic().when(&Command::Delete).then([deleted.clone()]);
        topic().given([deleted]).when(&post("p2", "Hello")).refused(Refusal::Deleted);
        let category = decider(&Topic).given([Event::CategoryCreated { name: text("News"), description: None }]);
        category.when(&post("p2", "Hello")).refused(Refusal::NoTopic);
    }

    #[test]
    fn the_laws_hold() {
        let to = Command::Move { to_category_id: text("archive") };
        let remove = Command::RemovePost { post_id: text("p1") };
        laws(&Topic, [create("Hello"), post("p1", "Hello"), post("p2", "Hi"), to, remove, Command::Delete, Command::Delete]);
    }
}
