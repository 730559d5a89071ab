//! A part of a table that is scanned separately, and the position at which its scan continues.

use aws_sdk_dynamodb::{operation::scan::builders::ScanInputBuilder, types::AttributeValue};
use projection_vocabulary::{AggregateId, Version};
use serde::{Deserialize, Serialize};

use super::item::{SdkItem, partition_key, sort_key, text_of};

/// One of the parts into which a parallel scan divides a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    number: u32,
    of: u32,
}

/// A segment's number is not below the number of segments, or there are too many segments.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no segment {number} of {of}: segments are numbered from 0, and a table has at most {SEGMENTS_MAX}")]
pub struct NoSegment {
    number: u32,
    of: u32,
}

/// The most segments of a parallel scan.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_Scan.html>
pub const SEGMENTS_MAX: u32 = 1_000_000;

impl Segment {
    /// The whole table.
    pub const ALL: Self = Self { number: 0, of: 1 };

    /// The segment with this number, counted from 0, of a table divided into `of` segments.
    ///
    /// # Errors
    /// [`NoSegment`].
    pub fn new(number: u32, of: u32) -> Result<Self, NoSegment> {
        if number < of && of <= SEGMENTS_MAX { Ok(Self { number, of }) } else { Err(NoSegment { number, of }) }
    }

    /// All segments of a table divided into `of` segments.
    pub fn all(of: u32) -> impl Iterator<Item = Self> {
        (0..of).map(move |number| Self { number, of })
    }

    /// Its number, from 0.
    #[must_use]
    pub fn number(self) -> u32 {
        self.number
    }

    /// The number of segments that the table is divided into.
    #[must_use]
    pub fn count(self) -> u32 {
        self.of
    }

    pub(super) fn of(self, request: ScanInputBuilder) -> ScanInputBuilder {
        if self.of == 1 {
            return request;
        }
        let whole = |number| i32::try_from(number).expect("at most a million");
        request.segment(whole(self.number)).total_segments(whole(self.of))
    }
}

/// The position at which a scan of the event store continues: after the item with these keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Its partition key.
    #[serde(rename = "PK")]
    partition: String,
    /// Its sort key.
    #[serde(rename = "SK")]
    sort: String,
}

impl Cursor {
    /// The position after an event.
    #[must_use]
    pub fn after(aggregate: &AggregateId, version: Version) -> Self {
        Self { partition: partition_key(aggregate), sort: sort_key(version) }
    }

    pub(super) fn of(key: &SdkItem) -> Self {
        let text = |name: &str| text_of(key, name).unwrap_or_default().to_owned();
        Self { partition: text("PK"), sort: text("SK") }
    }

    pub(super) fn key(&self) -> SdkItem {
        let Self { partition, sort } = self;
        SdkItem::from([("PK".into(), AttributeValue::S(partition.clone())), ("SK".into(), AttributeValue::S(sort.clone()))])
    }
}
