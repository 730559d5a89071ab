//! Made-up, valid histories of a forum.

use projection_vocabulary::{
    AggregateId,
    sample::{Fact, Pick},
};

use crate::samples::{below, fields};

/// A history of about this many categories and topics: `facts` facts in the order in which they happen.
pub(crate) fn history(pick: &mut Pick<'_>, facts: usize, aggregates: usize) -> Vec<Fact> {
    struct Topic {
        id: AggregateId,
        /// `None` until the topic is created.
        category: Option<usize>,
        /// The numbers of the posts in it now.
        posts: Vec<u64>,
    }

    let categories = (aggregates / 20).max(2);
    let category_id = |at: usize| format!("category-{:04}", at + 1);
    let mut created = vec![false; categories];
    let (mut topics_made, mut posts_made) = (0, 0);
    let mut fresh = || {
        topics_made += 1;
        Topic { id: format!("topic-{topics_made:06}").as_str().into(), category: None, posts: Vec::new() }
    };
    let mut topics: Vec<Topic> = (0..aggregates.saturating_sub(categories).max(1)).map(|_| fresh()).collect();
    let mut history = Vec::with_capacity(facts);
    while history.len() < facts {
        let (topic_at, category_at) = (below(pick, topics.len()), below(pick, categories));
        if !created[category_at] {
            created[category_at] = true;
            let name = format!("Category {}", category_at + 1);
            let data = fields([("name", name.into()), ("description", "What people say".into())]);
            history.push(Fact { aggregate: category_id(category_at).as_str().into(), event_type: "CategoryCreated", data });
            continue;
        }
        let topic = &mut topics[topic_at];
        let author = format!("author-{}", 1 + pick(50));
        let (event_type, data) = match (topic.category, pick(100)) {
            (None, _) => {
                topic.category = Some(category_at);
                let title = format!("About {}", topic.id);
                (
                    "TopicCreated",
                    fields([("categoryId", category_id(category_at).into()), ("title", title.into()), ("authorId", author.into())]),
                )
            }
            (Some(category), 0..5) => {
                topic.category = Some(category_at);
                (
                    "TopicMoved",
                    fields([("fromCategoryId", category_id(category).into()), ("toCategoryId", category_id(category_at).into())]),
                )
            }
            (Some(category), 5..7) => {
                let deleted = std::mem::replace(topic, fresh());
                let data = fields([("categoryId", category_id(category).into())]);
                history.push(Fact { aggregate: deleted.id, event_type: "TopicDeleted", data });
                continue;
            }
            (Some(category), 7..20) if !topic.posts.is_empty() => {
                let post = topic.posts.swap_remove(below(pick, topic.posts.len()));
                ("PostRemoved", fields([("postId", format!("post-{post}").into()), ("categoryId", category_id(category).into())]))
            }
            (Some(category), _) => {
                posts_made += 1;
                topic.posts.push(posts_made);
                let post = format!("post-{posts_made}");
                ("PostAdded", fields([("postId", post.into()), ("authorId", author.into()), ("categoryId", category_id(category).into())]))
            }
        };
        history.push(Fact { aggregate: topic.id.clone(), event_type, data });
    }
    history
}
