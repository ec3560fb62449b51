//! Zip archives as torch and numpy write them: which members there are and where they lie.

use super::entry::Stretch;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use zip::{CompressionMethod, ZipArchive};

/// How many times its own length an archive may unpack to, and what is always allowed. Weights hardly shrink.
const MOST_INFLATED: (usize, usize) = (64, 64 << 20);

/// The members of the archive that these bytes are, by name.
///
/// # Errors
/// If the archive is damaged, encrypted, compressed other than by deflate, or a bomb.
pub fn members(bytes: &[u8]) -> Result<BTreeMap<String, Stretch>> {
    let broken = |e: zip::result::ZipError| Error::run(format!("not a sound zip archive: {e}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let mut members = BTreeMap::new();
    let mut budget = bytes.len().saturating_mul(MOST_INFLATED.0).saturating_add(MOST_INFLATED.1);
    for index in 0..archive.len() {
        let member = archive.by_index_raw(index).map_err(broken)?;
        let name = member.name().map_err(broken)?.into_owned();
        if member.encrypted() {
            return Err(Error::run(format!("the member {name} is encrypted")));
        }
        let [stored, size] =
            [member.compressed_size(), member.size()].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let start = member.data_start().and_then(|start| usize::try_from(start).ok());
        let end = start.and_then(|start| start.checked_add(stored)).filter(|&end| end <= bytes.len());
        let (Some(start), Some(end)) = (start, end) else {
            return Err(Error::run(format!("the member {name} reaches beyond the end of the archive")));
        };
        budget =
            budget.checked_sub(size).ok_or_else(|| Error::run("the archive unpacks to far more than weights do"))?;
        let inflated = match member.compression() {
            CompressionMethod::Stored => None,
            CompressionMethod::Deflated => Some(size),
            other => return Err(Error::run(format!("the member {name} is compressed with {other}"))),
        };
        members.insert(name, Stretch { range: start..end, inflated });
    }
    Ok(members)
}

/// The first `most` bytes of a member, or all of them.
pub fn start(bytes: &[u8], member: &Stretch, most: usize) -> Result<Vec<u8>> {
    let packed = &bytes[member.range.clone()];
    let Some(size) = member.inflated else { return Ok(packed[..most.min(packed.len())].to_vec()) };
    let most = most.min(size);
    let mut out = Vec::new();
    flate2::read::DeflateDecoder::new(packed)
        .take(most as u64)
        .read_to_end(&mut out)
        .map_err(|e| Error::run(format!("a member does not inflate: {e}")))?;
    if out.len() < most {
        return Err(Error::run("a member is shorter than the archive says"));
    }
    Ok(out)
}
