//! Images as methods take them.

use super::Image;
use crate::image::DecodeOptions;
use crate::tune::photos::Photos;

/// Images with the classes that they have here.
pub fn photos(images: &[Image], decode: &DecodeOptions) -> Photos {
    Photos {
        ids: images.iter().map(|image| image.id.clone()).collect(),
        places: images.iter().map(|image| image.place.clone()).collect(),
        // There are fewer classes than images, and those are in memory.
        labels: images.iter().map(|image| image.class as u32).collect(),
        decode: decode.clone(),
    }
}
