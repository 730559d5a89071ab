//! `topic-posts`: the posts of each topic of a forum.
//!
//! | attribute | topic's row | post (child row) |
//! |---|---|---|
//! | `topicId` | the topic: the key | the topic: the key |
//! | `postId` | `!` | the post: the sort key |
//! | `title`, `deletedAt` | as created; when the topic was deleted | |
//! | `authorId`, `text` | | as posted; not every post has a text |
//! | `at` | | when it was posted |
//!
//! Posts sort by their ids, since that is all that the event of a removal names: ids that begin with the time, such as UUIDs of version 7,
//! give the oldest first. A removed post vanishes. The posts of a deleted topic stay, because one event cannot remove any number of them:
//! readers look at the topic's `deletedAt` first.

use projection_vocabulary::{Change, Index, IndexKey, IndexOf, Projection, Recorded, Refusal, child, nothing, own};
use serde::Deserialize;

/// The rule. A topic may have any number of posts.
pub struct TopicPosts;

impl TopicPosts {
    /// The posts of an author, by time.
    pub const POSTS_BY_AUTHOR: IndexOf<Self> = IndexOf::new(Index {
        name: "posts-by-author",
        partition: &[IndexKey::Text("authorId")],
        sort: &[IndexKey::Text("at"), IndexKey::Text("postId")],
        include: &["text"],
    });
}

/// What happens to a topic.
#[derive(Deserialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Event {
    TopicCreated {
        title: String,
    },
    PostAdded {
        post_id: String,
        author_id: String,
        text: Option<String>,
    },
    PostRemoved {
        post_id: String,
    },
    /// Changes nothing here.
    TopicMoved {},
    TopicDeleted {},
}

impl Projection for TopicPosts {
    type Event = Event;
    const NAME: &str = "topic-posts";
    const KEY: &str = "topicId";
    const CHILDREN: Option<&str> = Some("postId");
    const INDEXES: &[Index] = &[Self::POSTS_BY_AUTHOR.index()];

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        Ok(match &event.event {
            Event::TopicCreated { title } => own().set("title", title).into(),
            Event::PostAdded { post_id, author_id, text } => {
                let post = child(post_id).set("authorId", author_id).set("at", event.timestamp);
                text.iter().fold(post, |post, text| post.set("text", text)).into()
            }
            Event::PostRemoved { post_id } => child(post_id).remove(),
            Event::TopicMoved {} => nothing(),
            Event::TopicDeleted {} => own().set("deletedAt", event.timestamp).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use projection_vocabulary::{data, testkit::given};

    use super::TopicPosts;

    #[test]
    fn a_topic_lists_its_posts_until_they_are_removed() {
        let rows = given(&TopicPosts)
            .event("t1", "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" })
            .event("t1", "PostAdded", data! { postId: "p1", authorId: "ann", categoryId: "news", text: "First!" })
            .event("t1", "PostAdded", data! { postId: "p2", authorId: "bob", categoryId: "news" })
            .event("t1", "PostRemoved", data! { postId: "p1", categoryId: "news" })
            .event("t1", "PostRemoved", data! { postId: "p9", categoryId: "news" })
            .rows();
        expect![[r#"
            t1: title=Hello version=5
            t1/p2: at=2026-01-01T00:00:03.000Z authorId=bob
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn a_deleted_topic_says_so_and_keeps_its_posts() {
        let rows = given(&TopicPosts)
            .event("t1", "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" })
            .event("t1", "PostAdded", data! { postId: "p1", authorId: "ann", categoryId: "news" })
            .event("t1", "TopicDeleted", data! { categoryId: "news" })
            .rows();
        expect![[r#"
            t1: deletedAt=2026-01-01T00:00:03.000Z title=Hello version=3
            t1/p1: at=2026-01-01T00:00:02.000Z authorId=ann
        "#]]
        .assert_eq(&rows);
    }
}
