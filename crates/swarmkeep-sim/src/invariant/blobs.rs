//! A blob that was acknowledged is there, and its bytes are those that its name says; one that rotted is said to be damaged,
//! and nothing else is served in its place.

use bytes::Bytes;
use swarmkeep::{Error, ErrorKind};
use swarmkeep_core::BlobId;

use super::Evidence;

/// One that was asked for.
///
/// # Errors
/// When it is gone, or another.
pub fn is_there(blob: BlobId, found: &Result<Bytes, Error>) -> Result<u64, String> {
    match found {
        Ok(bytes) if blake3::hash(bytes).as_bytes() == &blob.0 => Ok(1),
        Ok(bytes) => Err(format!("{} bytes are served as {blob}, and are not", bytes.len())),
        Err(error) => Err(format!("LOST: {blob} was acknowledged: {error:?}")),
    }
}

/// All that were asked for; one of them rotted.
///
/// # Errors
/// As [`is_there`].
pub fn check(evidence: &Evidence, rotten: Option<(usize, BlobId)>) -> Result<u64, String> {
    let said = |blob: BlobId, found: &Result<Bytes, Error>| {
        let is_damaged = found.as_ref().is_err_and(|error| error.kind == ErrorKind::Corrupt);
        is_damaged && rotten == Some((evidence.session, blob))
    };
    let there =
        evidence.blobs.iter().map(|(blob, found)| if said(*blob, found) { Ok(1) } else { is_there(*blob, found) });
    there.sum()
}
