//! A forum whose rows fill many pages of a scan, and ways to damage rows behind the worker's back.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{Value, data};

use crate::{
    size,
    support::world::{World, recorded},
};

/// A world with the rows of 6 categories and 120 topics: `category-0`, `topic-000`. Topic n is in category n % 6 and has one post.
pub async fn world_of_large_rows() -> World {
    let world = World::new().await;
    // A page of a scan is 1 MB.
    let title = Value::from("x".repeat(size(16_000, 40_000)));
    let mut facts: Vec<(String, &str, Value)> = Vec::new();
    for category in 0..6 {
        facts.push((format!("category-{category}"), "CategoryCreated", data! { name: "c" }));
    }
    for topic in 0..120_usize {
        let id = format!("topic-{topic:03}");
        let category = Value::from(format!("category-{}", topic % 6));
        let created = [("categoryId", category.clone()), ("title", title.clone()), ("authorId", "a".into())];
        facts.push((id.clone(), "TopicCreated", Value::Map(created.map(|(name, value)| (name.into(), value)).into())));
        let post = [("postId", Value::from("p")), ("authorId", "a".into()), ("categoryId", category)];
        facts.push((id, "PostAdded", Value::Map(post.map(|(name, value)| (name.into(), value)).into())));
    }
    let events = recorded(facts.iter().map(|(id, kind, data)| (id.as_str(), *kind, data.clone())));
    world.append_all(&events).await;
    for batch in events.chunks(100) {
        assert_eq!(world.process(batch).await.total.failed, 0);
    }
    world
}

pub fn number(number: &str) -> AttributeValue {
    AttributeValue::N(number.to_owned())
}

/// Updates the attribute `#n` of a row with the value `:v`.
pub async fn tamper(world: &World, table: &str, key: (&str, &str), update: &str, name: &str, value: Option<AttributeValue>) {
    let request = world.embedded.client().update_item().table_name(table).key(key.0, AttributeValue::S(key.1.to_owned()));
    let request = request.update_expression(update).expression_attribute_names("#n", name);
    let values = value.map(|value| HashMap::from([(":v".to_owned(), value)]));
    request.set_expression_attribute_values(values).send().await.expect("updated");
}
