//! Helpers that the tests of this module share.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, StreamSpecification, StreamViewType,
};

pub fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub fn n(number: &str) -> AttributeValue {
    AttributeValue::N(number.into())
}

/// Creates a table with the string key `pk`, and with a stream if `images` is given.
pub async fn create_table(client: &Client, name: &str, images: Option<StreamViewType>) {
    let pk = AttributeDefinition::builder().attribute_name("pk").attribute_type(ScalarAttributeType::S);
    let hash = KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash);
    let stream = images.map(|images| StreamSpecification::builder().stream_enabled(true).stream_view_type(images).build().unwrap());
    client
        .create_table()
        .table_name(name)
        .attribute_definitions(pk.build().unwrap())
        .key_schema(hash.build().unwrap())
        .billing_mode(BillingMode::PayPerRequest)
        .set_stream_specification(stream)
        .send()
        .await
        .unwrap();
}

pub async fn item(client: &Client, table: &str, pk: &str) -> HashMap<String, AttributeValue> {
    let get = client.get_item().table_name(table).key("pk", s(pk));
    get.send().await.unwrap().item.unwrap()
}
