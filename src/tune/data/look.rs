//! Looking at images before they are drawn, so that one that cannot be read costs no shot.

use super::{Image, LeftOut};
use crate::error::{Error, ItemError, ItemKind};
use crate::image::{DecodeOptions, decode};
use crate::ops::pool;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What was seen of an image: the first sixteen bytes of its content's BLAKE3 hash, or why it is of no use.
pub type Seen = Result<u128, ItemError>;

/// Reads an image file and decodes it.
///
/// # Errors
/// If it cannot be read or is no image.
pub fn decoded(image: &Image, options: &DecodeOptions) -> Seen {
    let bytes = image.place.read(options.max_bytes)?;
    // A bug in there must cost one image, not the whole.
    let raster = catch_unwind(AssertUnwindSafe(|| decode(&bytes, options)));
    raster.unwrap_or_else(|_| Err(ItemError::new(ItemKind::Corrupt, "the image could not be decoded")))?;
    Ok(hash(&bytes))
}

/// Reads an image file, but does not decode it.
///
/// # Errors
/// If it cannot be read or is empty.
pub fn read(image: &Image, max_bytes: u64) -> Seen {
    let bytes = image.place.read(max_bytes)?;
    if bytes.is_empty() {
        return Err(ItemError::new(ItemKind::Empty, "the file is empty"));
    }
    Ok(hash(&bytes))
}

/// The images that are of use, with their content, and those that are not: for tests, of which every image counts.
///
/// # Errors
/// Those of `look`.
pub fn usable(
    images: Vec<Image>,
    look: &(dyn Fn(&Image) -> Result<Seen, Error> + Sync),
) -> Result<(Vec<Image>, LeftOut), Error> {
    let seen = pool::collect(images.len(), |at| look(&images[at]));
    let (mut kept, mut left_out) = (Vec::with_capacity(images.len()), LeftOut::default());
    for (image, seen) in images.into_iter().zip(seen) {
        match seen? {
            Ok(content) => kept.push(Image { content: Some(content), ..image }),
            Err(reason) => left_out.add(image.id, reason),
        }
    }
    Ok((kept, left_out))
}

fn hash(bytes: &[u8]) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    u128::from_be_bytes(first)
}
