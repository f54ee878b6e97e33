//! Bytes packed for a column: zstd where it pays.

use crate::error::{Result, SqliteError};

/// Stored as they are.
const PLAIN: i64 = 0;
/// One zstd frame.
const ZSTD: i64 = 1;

/// Below this, a frame's header and tables eat what is saved.
const WORTH_BYTES: usize = 512;
/// The fastest of zstd's usual levels. Records are half hashes and salts, which no level compresses.
const LEVEL: i32 = 1;
/// Nothing stored is longer than this unpacked; a length beyond it is damage, and nothing is allocated for it.
const RAW_BYTES_MAX: usize = 80 * 1024 * 1024;

/// Packed bytes.
pub(crate) struct Packed<'a> {
    pub(crate) codec: i64,
    pub(crate) bytes: std::borrow::Cow<'a, [u8]>,
}

impl<'a> Packed<'a> {
    pub(crate) fn plain(raw: &'a [u8]) -> Self {
        Self { codec: PLAIN, bytes: raw.into() }
    }
}

/// Packs; keeps its working memory from call to call.
pub(crate) struct Packer(Option<zstd::bulk::Compressor<'static>>);

impl Packer {
    pub(crate) fn new() -> Self {
        Self(None)
    }

    pub(crate) fn pack<'a>(&mut self, raw: &'a [u8]) -> Result<Packed<'a>> {
        let plain = Packed::plain(raw);
        if raw.len() < WORTH_BYTES {
            return Ok(plain);
        }
        let compressor = match &mut self.0 {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(LEVEL)?),
        };
        let packed = compressor.compress(raw)?;
        // A tenth saved is worth unpacking for.
        if packed.len() >= raw.len() - raw.len() / 10 {
            return Ok(plain);
        }
        Ok(Packed { codec: ZSTD, bytes: packed.into() })
    }
}

/// Unpacks; an error is a sentence for a [`swarmkeep_core::log::Damage`].
pub(crate) fn unpack(codec: i64, raw_len: usize, bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let raw = match codec {
        PLAIN => bytes.to_vec(),
        ZSTD if raw_len <= RAW_BYTES_MAX => {
            decompress(bytes, raw_len).map_err(|error| format!("does not unpack: {error}"))?
        }
        ZSTD => return Err(format!("unpacked length {raw_len} is beyond any limit")),
        other => return Err(format!("codec {other} is not known")),
    };
    if raw.len() != raw_len {
        return Err(format!("{} bytes where {raw_len} were written", raw.len()));
    }
    Ok(raw)
}

/// Unpacks what looks like a zstd frame, up to a length; for bytes whose row cannot be believed.
pub(crate) fn unpack_unsure(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    decompress(bytes, most).ok()
}

std::thread_local! {
    /// A decompressor costs more to make than a chunk costs to unpack: each thread keeps one.
    static DECOMPRESSOR: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { std::cell::RefCell::new(None) };
}

fn decompress(bytes: &[u8], raw_len: usize) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress(bytes, raw_len)
    })
}

/// A stored length.
pub(crate) fn length(value: i64) -> Result<usize> {
    usize::try_from(value).map_err(|_| SqliteError::damaged(None, None, format!("length {value}")))
}
