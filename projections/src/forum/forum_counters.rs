//! `forum-counters`: one row for each category and one for each topic of a forum.
//!
//! | attribute | category's row | topic's row |
//! |---|---|---|
//! | `id` | the category's id: the key | the topic's id: the key |
//! | `name`, `description` | as created | |
//! | `categoryId` | | the category that the topic is in now |
//! | `title`, `authorId` | | as created |
//! | `topicCount` | topics in it now | |
//! | `postCount` | posts in the topics that are in it now | posts in it now |
//! | `lastPostAt` | time of the latest post ever made in it | time of its latest post |
//!
//! A category's row is the home row of the category and a shared row of its topics, which own the counters on it. A deleted
//! topic leaves an empty row, whose watermark stops a late redelivery from counting the topic again. The index
//! `topics-by-category` and `topics-by-author` contain no attribute that a post changes, so a post does not rewrite an index entry.

use projection_vocabulary::{Change, Index, IndexKey, IndexOf, Own, Projection, Recorded, Refusal, own, retract, shared, transfer};

use super::Event;

/// The rule. A topic's contribution to its category is written in the same transaction as the topic's watermark.
pub struct ForumCounters;

impl ForumCounters {
    /// The topics of a category, by their ids.
    pub const TOPICS_BY_CATEGORY: IndexOf<Self> = IndexOf::new(Index {
        name: "topics-by-category",
        partition: &[IndexKey::Text("categoryId")],
        sort: &[IndexKey::Text("id")],
        include: &["title", "authorId"],
    });
    /// The topics of an author, by their ids.
    pub const TOPICS_BY_AUTHOR: IndexOf<Self> = IndexOf::new(Index {
        name: "topics-by-author",
        partition: &[IndexKey::Text("authorId")],
        sort: &[IndexKey::Text("id")],
        include: &["title", "categoryId"],
    });
}

impl Projection for ForumCounters {
    type Event = Event;
    const NAME: &str = "forum-counters";
    const KEY: &str = "id";
    const INDEXES: &[Index] = &[Self::TOPICS_BY_CATEGORY.index(), Self::TOPICS_BY_AUTHOR.index()];

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        let at = event.timestamp;
        Ok(match &event.event {
            Event::CategoryCreated { name, description: Some(text) } => own().set("name", name).set("description", text).into(),
            Event::CategoryCreated { name, description: None } => own().set("name", name).into(),
            Event::TopicCreated { category_id, title, author_id } => own()
                .set("categoryId", category_id)
                .set("title", title)
                .set("authorId", author_id)
                .add("postCount", 0)
                .and(shared(category_id).add("topicCount", 1).add("postCount", 0)),
            Event::PostAdded { category_id, .. } => {
                own().add("postCount", 1).set("lastPostAt", at).and(shared(category_id).add("postCount", 1).max("lastPostAt", at))
            }
            Event::PostRemoved { category_id, .. } => own().add("postCount", -1).and(shared(category_id).add("postCount", -1)),
            Event::TopicMoved { from_category_id, to_category_id } => {
                own().set("categoryId", to_category_id).and(transfer(from_category_id, to_category_id))
            }
            Event::TopicDeleted { .. } => {
                let emptied = ["categoryId", "title", "authorId", "postCount", "lastPostAt"].into_iter().fold(own(), Own::remove);
                emptied.and(retract())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use projection_vocabulary::{
        data,
        testkit::{Given, given},
    };

    use super::ForumCounters;

    fn topic_with_two_posts() -> Given<'static> {
        given(&ForumCounters)
            .event("news", "CategoryCreated", data! { name: "News", description: "What happened" })
            .event("t1", "TopicCreated", data! { categoryId: "news", title: "Hello", authorId: "ann" })
            .event("t1", "PostAdded", data! { postId: "p1", authorId: "ann", categoryId: "news" })
            .event("t1", "PostAdded", data! { postId: "p2", authorId: "bob", categoryId: "news" })
    }

    #[test]
    fn a_topic_counts_for_itself_and_for_its_category() {
        let rows = topic_with_two_posts().event("t1", "PostRemoved", data! { postId: "p1", categoryId: "news" }).rows();
        expect![[r#"
            news: description=What happened lastPostAt=2026-01-01T00:00:04.000Z name=News postCount=1 topicCount=1 version=1
            t1: authorId=ann categoryId=news lastPostAt=2026-01-01T00:00:04.000Z postCount=1 title=Hello version=4
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn a_moved_topic_takes_its_posts_with_it() {
        let rows = topic_with_two_posts()
            .event("t1", "TopicMoved", data! { fromCategoryId: "news", toCategoryId: "archive" })
            .event("t1", "PostAdded", data! { postId: "p3", authorId: "ann", categoryId: "archive" })
            .rows();
        expect![[r#"
            archive: lastPostAt=2026-01-01T00:00:06.000Z postCount=3 topicCount=1
            news: description=What happened lastPostAt=2026-01-01T00:00:04.000Z name=News postCount=0 topicCount=0 version=1
            t1: authorId=ann categoryId=archive lastPostAt=2026-01-01T00:00:06.000Z postCount=3 title=Hello version=5
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn a_deleted_topic_takes_back_its_contributions_and_leaves_an_empty_row() {
        let rows = topic_with_two_posts().event("t1", "TopicDeleted", data! { categoryId: "news" }).rows();
        expect![[r#"
            news: description=What happened lastPostAt=2026-01-01T00:00:04.000Z name=News postCount=0 topicCount=0 version=1
            t1: version=4
        "#]]
        .assert_eq(&rows);
    }
}
