//! Feeds: every record once, in order, whoever holds the store meanwhile.

use swarmkeep::FeedItem;

/// Where a reader stands, over all its subscriptions.
#[derive(Debug, Default, Clone, Copy)]
pub struct Place {
    /// The last record it got.
    pub seq: u64,
}

/// The next item of a feed.
///
/// # Errors
/// A gap or a repeat.
pub fn follows(place: &mut Place, item: &FeedItem) -> Result<u64, String> {
    let seq = item.record.seq.0;
    if seq != place.seq + 1 {
        return Err(format!("record {seq} after {}", place.seq));
    }
    place.seq = seq;
    Ok(1)
}
