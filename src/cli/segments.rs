//! How many parts of a table a command scans at once.

use clap::Args;

use super::StoreOptions;
use crate::store::segment::Segment;

/// The most segments that one process scans at once: each holds a page of a megabyte and its results.
const AT_ONCE_MAX: i64 = 128;
/// Segments scanned at once over a network, unless told.
const REMOTE_DEFAULT: u32 = 4;

/// Into how many segments to cut a scan.
#[derive(Args)]
pub struct Segments {
    /// Scan the event store in N segments at once [default: 1 inside this process, else 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=AT_ONCE_MAX))]
    segments: Option<u32>,
}

impl Segments {
    /// The number asked for, if any was.
    pub fn asked_for(&self) -> Option<u32> {
        self.segments
    }

    /// The number asked for, or the default for this store.
    pub fn number(&self, store: &StoreOptions) -> u32 {
        self.segments.unwrap_or_else(|| default_for(store))
    }

    /// The segments themselves.
    pub fn all(&self, store: &StoreOptions) -> impl Iterator<Item = Segment> + use<> {
        Segment::all(self.number(store))
    }
}

/// One segment inside this process, where nothing is gained by more; a few over a network.
pub fn default_for(store: &StoreOptions) -> u32 {
    if store.is_remote() { REMOTE_DEFAULT } else { 1 }
}
