//! A forum: categories that contain topics, which contain posts; and how they are counted.

pub mod category;
pub mod forum_counters;
pub(crate) mod sample;
pub mod topic;
pub mod topic_posts;

use serde::{Deserialize, Serialize};

/// What happens in a forum. Each aggregate is a category or a topic. [`category`] and [`topic`] write it, and the projections read it.
///
/// The fields that are `Option` are not in all events of earlier writers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Event {
    CategoryCreated {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
    },
    TopicCreated {
        category_id: String,
        title: String,
        author_id: String,
    },
    PostAdded {
        #[serde(skip_serializing_if = "Option::is_none")]
        post_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        author_id: Option<String>,
        category_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    PostRemoved {
        #[serde(skip_serializing_if = "Option::is_none")]
        post_id: Option<String>,
        category_id: String,
    },
    TopicMoved {
        from_category_id: String,
        to_category_id: String,
    },
    TopicDeleted {
        #[serde(skip_serializing_if = "Option::is_none")]
        category_id: Option<String>,
    },
}
