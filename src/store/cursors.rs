//! Where a rebuild stands, kept in the parking table so that another machine can go on.
//!
//! | attribute | holds |
//! |---|---|
//! | `aggregateId` | `rebuild#<projection>`: partition key |
//! | `projection` | `cursor#<segments>#<segment>#<table>`, the numbers with 7 digits: sort key |
//! | `revision` | of the rule that rows are brought to: a cursor of another leads nowhere |
//! | `segments`, `segment` | into how many the event store is cut, and which this is |
//! | `target` | the table whose rows they are |
//! | `cursor` | where the scan goes on, as JSON; absent at the beginning |
//! | `counts` | what the segment came to so far, as JSON |
//! | `done` | whether nothing is left of the segment |
//! | `savedAt` | when it was saved |
//!
//! It has no `reason`, so whoever lists what is parked passes it over.

use aws_sdk_dynamodb::{
    operation::{put_item::PutItemInput, query::QueryInput},
    types::{AttributeValue, Delete, TransactWriteItem},
};
use projection_vocabulary::DynProjection;

use super::{
    Store, StoreError,
    limits::TRANSACTION_ACTIONS_MAX,
    now,
    segment::{Cursor, Segment},
};
use crate::{progress::Counts, retry::Deadline, store::item::SdkItem};

/// Digits of a number in a sort key: there are at most a million segments.
const SEGMENT_DIGITS: usize = 7;

/// Where one segment of a rebuild stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCursor {
    /// The segment.
    pub segment: Segment,
    /// Where the scan goes on; none at the beginning.
    pub cursor: Option<Cursor>,
    /// What it came to so far.
    pub counts: Counts,
    /// Whether nothing is left of it.
    pub done: bool,
    /// When it was saved; set by saving.
    pub saved_at: String,
}

impl SavedCursor {
    /// Of a segment that was not begun.
    #[must_use]
    pub fn beginning(segment: Segment) -> Self {
        Self { segment, cursor: None, counts: Counts::default(), done: false, saved_at: String::new() }
    }
}

impl Store {
    /// Keeps where a segment stands, in the place of what was kept of it before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn save_cursor(&self, rule: &dyn DynProjection, saved: &SavedCursor, deadline: Deadline) -> Result<(), StoreError> {
        let SavedCursor { segment, cursor, counts, done, .. } = saved;
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let number = |number: u32| AttributeValue::N(number.to_string());
        let json = |json: serde_json::Result<String>| AttributeValue::S(json.expect("texts and numbers serialise"));
        let mut item = self.cursor_key(rule, *segment);
        item.extend([
            ("revision".to_owned(), number(rule.revision())),
            ("segments".to_owned(), number(segment.count())),
            ("segment".to_owned(), number(segment.number())),
            ("target".to_owned(), text(self.table_of(rule))),
            ("counts".to_owned(), json(serde_json::to_string(counts))),
            ("done".to_owned(), AttributeValue::Bool(*done)),
            ("savedAt".to_owned(), text(now().as_str())),
        ]);
        item.extend(cursor.as_ref().map(|cursor| ("cursor".to_owned(), json(serde_json::to_string(cursor)))));
        let put = || self.dynamo.put_item(PutItemInput::builder().table_name(&self.names.parked).set_item(Some(item.clone())));
        self.send("PutItem of a rebuild's cursor", deadline, put).await.map(drop)
    }

    /// What is kept of rebuilds of a rule by its revision of today into the table that this store has for it, in the order of
    /// segments.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn saved_cursors(&self, rule: &dyn DynProjection, deadline: Deadline) -> Result<Vec<SavedCursor>, StoreError> {
        let items = self.cursor_items(rule, deadline).await?;
        let of_today = |item: &&SdkItem| whole(item, "revision") == Some(rule.revision());
        Ok(items.iter().filter(of_today).filter_map(saved_of).collect())
    }

    /// Forgets what is kept of rebuilds of a rule into the table that this store has for it, of older revisions too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_cursors(&self, rule: &dyn DynProjection, deadline: Deadline) -> Result<(), StoreError> {
        let deletes: Vec<_> = self.cursor_items(rule, deadline).await?.iter().filter_map(|item| self.delete_cursor(item)).collect();
        for deletes in deletes.chunks(TRANSACTION_ACTIONS_MAX) {
            self.write_parking(deletes.to_vec(), deadline).await?;
        }
        Ok(())
    }

    fn delete_cursor(&self, item: &SdkItem) -> Option<TransactWriteItem> {
        let mut delete = Delete::builder().table_name(&self.names.parked);
        for name in ["aggregateId", "projection"] {
            delete = delete.key(name, item.get(name)?.clone());
        }
        Some(TransactWriteItem::builder().delete(delete.build().expect("table and key are given")).build())
    }

    fn cursor_key(&self, rule: &dyn DynProjection, segment: Segment) -> SdkItem {
        let (segments, segment, table) = (segment.count(), segment.number(), self.table_of(rule));
        let sort = format!("cursor#{segments:0SEGMENT_DIGITS$}#{segment:0SEGMENT_DIGITS$}#{table}");
        SdkItem::from([("aggregateId".into(), AttributeValue::S(partition_key(rule))), ("projection".into(), AttributeValue::S(sort))])
    }

    /// The items of this rule and table.
    async fn cursor_items(&self, rule: &dyn DynProjection, deadline: Deadline) -> Result<Vec<SdkItem>, StoreError> {
        let (mut items, mut from) = (Vec::new(), None);
        loop {
            let query = || {
                let request = QueryInput::builder()
                    .table_name(&self.names.parked)
                    .key_condition_expression("aggregateId = :aggregate")
                    .expression_attribute_values(":aggregate", AttributeValue::S(partition_key(rule)))
                    .consistent_read(true)
                    .set_exclusive_start_key(from.clone());
                self.dynamo.query(request)
            };
            let page = self.send("Query of a rebuild's cursors", deadline, query).await?;
            // An aggregate that is called so may be parked, too.
            let is_cursor = |item: &SdkItem| {
                text(item, "projection").is_some_and(|sort| sort.starts_with("cursor#"))
                    && text(item, "target") == Some(self.table_of(rule))
            };
            items.extend(page.items.unwrap_or_default().into_iter().filter(is_cursor));
            from = page.last_evaluated_key;
            if from.is_none() {
                return Ok(items);
            }
        }
    }
}

fn partition_key(rule: &dyn DynProjection) -> String {
    format!("rebuild#{}", rule.name())
}

fn text<'a>(item: &'a SdkItem, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

fn whole(item: &SdkItem, name: &str) -> Option<u32> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// One that cannot be read is none: its segment begins again.
fn saved_of(item: &SdkItem) -> Option<SavedCursor> {
    Some(SavedCursor {
        segment: Segment::new(whole(item, "segment")?, whole(item, "segments")?).ok()?,
        cursor: text(item, "cursor").map(serde_json::from_str).transpose().ok()?,
        counts: serde_json::from_str(text(item, "counts")?).ok()?,
        done: *item.get("done")?.as_bool().ok()?,
        saved_at: text(item, "savedAt")?.to_owned(),
    })
}
