//! NumPy arrays of pixels: `(N, height, width, 3)` or `(N, 3, height, width)`, bytes.
//!
//! The file is read from front to end, not mapped: a mapped file that another program shortens ends the process.

use super::{Input, Source, SourceOptions};
use crate::data::{Content, Sample, Samples};
use crate::error::{ItemError, ItemKind, Result};
use crate::image::{DEFAULT_MAX_PIXELS, Mode, Raster};
use std::io::{BufReader, Read};

/// A header longer than this is none.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// Arrays of pixels.
pub(super) struct Npy;

impl Source for Npy {
    fn name(&self) -> &'static str {
        "npy"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["npy"]
    }

    fn about(&self) -> &'static str {
        "pixels: bytes of shape (N, height, width, 3) or (N, 3, height, width)"
    }

    fn open(&self, input: Input, options: &SourceOptions) -> Result<Samples> {
        let mut reader = match input.reader() {
            Ok(reader) => BufReader::with_capacity(1 << 16, reader),
            Err(error) => return Ok(input.failed(error)),
        };
        let shape = match header(&mut reader).and_then(|header| Shape::parse(&header)) {
            Ok(shape) => shape,
            Err(error) => return Ok(input.failed(error)),
        };
        let (name, wanted) = (input.name(), options.parts.image);
        let (mut number, mut ended) = (0, false);
        Ok(Box::new(std::iter::from_fn(move || {
            if ended || number == shape.images {
                return None;
            }
            let id = format!("{name}#{number}");
            number += 1;
            let image = if wanted { image(&mut reader, &shape) } else { Ok(Content::Bytes(Vec::new())) };
            Some(Ok(match image {
                Ok(image) => Sample::image(id, image),
                Err(error) => {
                    ended = true;
                    Sample::failed(id, error)
                }
            }))
        })))
    }
}

/// The next image.
fn image(reader: &mut impl Read, shape: &Shape) -> Result<Content, ItemError> {
    let mut pixels = Vec::new();
    reader.take(shape.bytes() as u64).read_to_end(&mut pixels)?;
    if pixels.len() < shape.bytes() {
        return Err(ItemError::new(ItemKind::Truncated, "the array ends in this image"));
    }
    if shape.planes {
        let plane = shape.height * shape.width;
        pixels = (0..plane).flat_map(|at| [pixels[at], pixels[plane + at], pixels[2 * plane + at]]).collect();
    }
    Ok(Content::Pixels(Raster::bytes(shape.width, shape.height, Mode::Rgb, pixels)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    images: u64,
    height: usize,
    width: usize,
    /// Whether each colour is a plane of its own.
    planes: bool,
}

impl Shape {
    /// How many bytes an image has.
    fn bytes(&self) -> usize {
        3 * self.height * self.width
    }

    /// Reads the description of an array.
    fn parse(header: &str) -> Result<Self, ItemError> {
        let unsupported = |message| Err(ItemError::new(ItemKind::Unsupported, message));
        let value = |key: &str| {
            let rest = &header[header.find(&format!("'{key}'"))? + key.len() + 2..];
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        };
        let (Some(kind), Some(order), Some(shape)) = (value("descr"), value("fortran_order"), value("shape")) else {
            return Err(ItemError::new(ItemKind::Corrupt, "the array's header makes no sense"));
        };
        let sides = shape.strip_prefix('(').and_then(|shape| shape.split_once(')')).map(|(sides, _)| sides);
        let sides: Option<Vec<u64>> = sides.map_or(Some(Vec::new()), |sides| {
            sides.split(',').map(str::trim).filter(|side| !side.is_empty()).map(|side| side.parse().ok()).collect()
        });
        let kind = kind.trim_start_matches('\'').split('\'').next().unwrap_or_default();
        let expected = "images are bytes (u8) of shape (N, height, width, 3) or (N, 3, height, width)";
        let (images, height, width, planes) = match sides.as_deref() {
            Some(&[n, height, width, 3]) => (n, height, width, false),
            Some(&[n, 3, height, width]) => (n, height, width, true),
            Some(&[n, dim]) => {
                return unsupported(format!("a matrix of shape ({n}, {dim}), embeddings perhaps; {expected}"));
            }
            _ => {
                let shape = shape.split_inclusive(')').next().unwrap_or_default();
                return unsupported(format!("an array of shape {}; {expected}", shape.get(..80).unwrap_or(shape)));
            }
        };
        if !matches!(kind, "|u1" | "<u1" | ">u1" | "=u1" | "u1") {
            return unsupported(format!("an array of {}; {expected}", kind.get(..20).unwrap_or(kind)));
        }
        if !order.starts_with("False") {
            return unsupported("an array in Fortran order; write it with numpy.ascontiguousarray".to_owned());
        }
        let pixels = height.saturating_mul(width);
        if pixels == 0 || pixels > DEFAULT_MAX_PIXELS {
            let message = format!("images of {height} times {width} pixels, the limit is {DEFAULT_MAX_PIXELS}");
            return Err(ItemError::new(ItemKind::TooLarge, message));
        }
        Ok(Self { images, height: height as usize, width: width as usize, planes })
    }
}

/// The description of an array, a Python dictionary.
fn header(reader: &mut impl Read) -> Result<String, ItemError> {
    let mut start = [0; 8];
    reader.read_exact(&mut start)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(ItemError::new(ItemKind::Unsupported, "not a NumPy array"));
    }
    let mut length = [0; 4];
    let wide = usize::from(start[6] > 1);
    reader.read_exact(&mut length[..2 + 2 * wide])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(ItemError::new(ItemKind::Corrupt, format!("a header of {length} bytes")));
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header)?;
    String::from_utf8(header).map_err(|_| ItemError::new(ItemKind::Corrupt, "the array's header is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(kind: &str, order: &str, shape: &str) -> Result<Shape, String> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}      \n");
        Shape::parse(&header).map_err(|error| error.message)
    }

    #[test]
    fn shapes() {
        let expected = Shape { images: 5, height: 4, width: 6, planes: false };
        assert_eq!(shape("|u1", "False", "(5, 4, 6, 3)"), Ok(expected));
        assert_eq!(shape("|u1", "False", "(5, 3, 4, 6)"), Ok(Shape { planes: true, ..expected }));
        assert!(!shape("|u1", "False", "(5, 3, 4, 3)").unwrap().planes);
        for (refused, message) in [
            (shape("<f4", "False", "(5, 4, 6, 3)"), "an array of <f4; "),
            (shape("<f4", "False", "(5, 512)"), "a matrix of shape (5, 512), embeddings perhaps"),
            (shape("|u1", "True", "(5, 4, 6, 3)"), "an array in Fortran order"),
            (shape("|u1", "False", "(4, 6, 3)"), "an array of shape (4, 6, 3); "),
            (shape("|u1", "False", "()"), "an array of shape (); "),
            (shape("|u1", "False", "(1, 999999999999, 99999999999, 3)"), "images of 999999999999 times"),
            (shape("|u1", "False", "(1, 99999999999999999999999, 1, 3)"), "an array of shape "),
            (Shape::parse("{}").map_err(|error| error.message), "the array's header makes no sense"),
        ] {
            assert!(refused.as_ref().unwrap_err().starts_with(message), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn headers_never_panic(bytes: Vec<u8>, text in "\\PC*", version in 0u8..4) {
            let _ = header(&mut &bytes[..]);
            let _ = Shape::parse(&text);
            let mut file = b"\x93NUMPY".to_vec();
            file.extend([version, 0]);
            file.extend(&bytes);
            let _ = header(&mut &file[..]).and_then(|header| Shape::parse(&header));
        }
    }
}
