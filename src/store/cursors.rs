//! The cursors of rebuilds: saved positions, kept in the parking table so that another machine can resume.
//!
//! | attribute | holds |
//! |---|---|
//! | `aggregateId` | `rebuild#<projection>`: partition key |
//! | `projection` | `cursor#<segments>#<segment>#<table>`, the numbers with 7 digits: sort key |
//! | `revision` | the revision of the rule that is being applied; a cursor of another revision is not used |
//! | `segments`, `segment` | the number of segments of the event store, and this one's number |
//! | `target` | the table whose rows are rebuilt |
//! | `cursor` | where the scan continues, as JSON; absent at the beginning |
//! | `counts` | the segment's counts so far, as JSON |
//! | `done` | whether the segment is finished |
//! | `savedAt` | when it was saved |
//!
//! A cursor has no `reason`, so lists of parked entries skip it.

use aws_sdk_dynamodb::{
    operation::{put_item::PutItemInput, query::QueryInput},
    types::{AttributeValue, Delete, TransactWriteItem},
};
use projection_vocabulary::DynProjection;

use super::{
    Store, StoreError,
    limits::TRANSACTION_ACTIONS_MAX,
    now,
    parking::WRITE,
    segment::{Cursor, Segment},
};
use crate::{
    progress::Counts,
    retry::Deadline,
    store::item::{self, SdkItem},
};

/// The digits of a number in a sort key, enough for a million segments.
const SEGMENT_DIGITS: usize = 7;

/// The saved position of a rebuild in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCursor {
    /// The segment.
    pub segment: Segment,
    /// Where the scan continues; `None` at the beginning.
    pub cursor: Option<Cursor>,
    /// The segment's counts so far.
    pub counts: Counts,
    /// Whether the segment is finished.
    pub done: bool,
    /// When the cursor was saved. [`Store::save_cursor`] sets it.
    pub saved_at: String,
}

impl SavedCursor {
    /// The cursor of a segment that has not been started.
    #[must_use]
    pub fn beginning(segment: Segment) -> Self {
        Self { segment, cursor: None, counts: Counts::default(), done: false, saved_at: String::new() }
    }
}

impl Store {
    /// Saves a segment's cursor, and overwrites the one saved before.
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

    /// The cursors of rebuilds by the rule's current revision into the table that this store uses for it, in the order of segments.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn saved_cursors(&self, rule: &dyn DynProjection, deadline: Deadline) -> Result<Vec<SavedCursor>, StoreError> {
        let items = self.cursor_items(rule, deadline).await?;
        let of_today = |item: &&SdkItem| whole(item, "revision") == Some(rule.revision());
        Ok(items.iter().filter(of_today).filter_map(saved_of).collect())
    }

    /// Deletes the cursors of rebuilds into the table that this store uses for a rule, including those of older revisions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_cursors(&self, rule: &dyn DynProjection, deadline: Deadline) -> Result<(), StoreError> {
        let deletes: Vec<_> = self.cursor_items(rule, deadline).await?.iter().filter_map(|item| self.delete_cursor(item)).collect();
        for deletes in deletes.chunks(TRANSACTION_ACTIONS_MAX) {
            self.write_all(WRITE, deletes.to_vec(), deadline).await?;
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

    /// The items of the cursors for this rule and table.
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
            // An aggregate with this id may be parked, too.
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
    item::whole(item.get(name)?.as_n().ok()?)?.try_into().ok()
}

/// `None` if the cursor cannot be read: its segment then starts from the beginning.
fn saved_of(item: &SdkItem) -> Option<SavedCursor> {
    Some(SavedCursor {
        segment: Segment::new(whole(item, "segment")?, whole(item, "segments")?).ok()?,
        cursor: text(item, "cursor").map(serde_json::from_str).transpose().ok()?,
        counts: serde_json::from_str(text(item, "counts")?).ok()?,
        done: *item.get("done")?.as_bool().ok()?,
        saved_at: text(item, "savedAt")?.to_owned(),
    })
}
