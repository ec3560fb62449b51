//! The first frame of a GIF on Pillow's canvas.
//!
//! Our own reader because palette and canvas matter: Pillow keeps the palette (mode `P`), or finds it to be a grey ramp
//! (mode `L`), enlarges the canvas to the frame, and fills the rest with the transparent colour, else with colour 0.

use super::{Cutout, DecodeOptions, Mode, Raster, check_size, corrupt, truncated};
use crate::error::ItemError;

/// A table of 2 to 256 colours.
type Palette<'a> = &'a [u8];

/// Decodes the first frame.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Raster, ItemError> {
    let mut reader = Reader { bytes };
    let screen = reader.take(13)?;
    let (mut width, mut height) = (word(screen, 6), word(screen, 8));
    let mut palette = reader.palette(screen[10])?;
    let mut transparent = None;
    loop {
        match reader.take(1)?[0] {
            0x21 => {
                let label = reader.take(1)?[0];
                let block = reader.block()?;
                if let (0xf9, [flags, _, _, index, ..]) = (label, block) {
                    transparent = (flags & 1 != 0).then_some(*index);
                }
                // An extension ends with an empty block, which may be its first.
                let mut last = block;
                while !last.is_empty() {
                    last = reader.block()?;
                }
            }
            0x2c => break,
            0x3b => return Err(corrupt("GIF: there is no image in the file")),
            _ => {}
        }
    }
    let frame = reader.take(9)?;
    let (x, y, w, h) = (word(frame, 0), word(frame, 2), word(frame, 4), word(frame, 6));
    if let Some(local) = reader.palette(frame[8])? {
        palette = Some(local);
    }
    width = width.max(x + w);
    height = height.max(y + h);
    check_size(width as u64, height as u64, options)?;

    let mut canvas = vec![transparent.unwrap_or(0); width * height];
    let interlaced = frame[8] & 0x40 != 0;
    let bits = reader.take(1)?[0];
    let rows: Box<dyn Iterator<Item = usize>> = if interlaced {
        Box::new([(0, 8), (4, 8), (2, 4), (1, 2)].into_iter().flat_map(move |(from, by)| (from..h).step_by(by)))
    } else {
        Box::new(0..h)
    };
    if w > 0 && h > 0 {
        let mut pixels = Lzw::new(bits, reader)?;
        for row in rows {
            let start = (y + row) * width + x;
            pixels.fill(&mut canvas[start..start + w])?;
        }
    }

    let Some(palette) = palette.filter(|p| !is_grey_ramp(p)) else {
        let cutout = transparent.map_or(Cutout::None, |index| Cutout::Color([index; 3]));
        return Ok(Raster { cutout, ..Raster::bytes(width, height, Mode::L, canvas) });
    };
    // A palette that is too short goes on as a grey ramp in Pillow.
    let color = |i: u8| match palette.get(usize::from(i) * 3..usize::from(i) * 3 + 3) {
        Some(rgb) => [rgb[0], rgb[1], rgb[2]],
        None => [i; 3],
    };
    let colors: Vec<[u8; 3]> = (0..=255).map(color).collect();
    let data = canvas.iter().flat_map(|&i| colors[usize::from(i)]).collect();
    let cutout = transparent.map_or(Cutout::None, |index| {
        Cutout::Pixels(canvas.iter().map(|&i| if i == index { 0 } else { 255 }).collect())
    });
    Ok(Raster { background: colors[0], cutout, ..Raster::bytes(width, height, Mode::P, data) })
}

/// Whether each colour is the grey of its own index.
fn is_grey_ramp(palette: Palette<'_>) -> bool {
    palette.chunks_exact(3).enumerate().all(|(i, rgb)| rgb.iter().all(|&v| usize::from(v) == i))
}

/// A little-endian number of two bytes.
fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// What is left of the file.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], ItemError> {
        let (taken, rest) =
            self.bytes.split_at_checked(n).ok_or_else(|| truncated("GIF: the image file is truncated"))?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A data block; empty at the end of a run of them.
    fn block(&mut self) -> Result<&'a [u8], ItemError> {
        let len = self.take(1)?[0];
        self.take(usize::from(len))
    }

    /// The colour table that the flags announce.
    fn palette(&mut self, flags: u8) -> Result<Option<Palette<'a>>, ItemError> {
        if flags & 0x80 == 0 { Ok(None) } else { self.take(3 << ((flags & 7) + 1)).map(Some) }
    }
}

/// The pixels of a frame, unpacked.
struct Lzw<'a> {
    reader: Reader<'a>,
    block: &'a [u8],
    /// Bits that are read but not used, lowest first.
    buffer: u32,
    available: u32,
    /// Bits of a pixel.
    root: u32,
    /// Bits of the next code.
    width: u32,
    /// The next code to be defined.
    next: usize,
    prefix: Box<[u16; 4096]>,
    suffix: Box<[u8; 4096]>,
    /// Pixels of the last code that are not handed out yet, last first.
    stack: Vec<u8>,
    /// The code before.
    previous: Option<u16>,
    /// The first pixel of the code before.
    first: u8,
}

impl<'a> Lzw<'a> {
    fn new(bits: u8, reader: Reader<'a>) -> Result<Self, ItemError> {
        if bits > 11 {
            return Err(corrupt(format!("GIF: {bits} bits per pixel")));
        }
        let root = u32::from(bits);
        Ok(Self {
            reader,
            block: &[],
            buffer: 0,
            available: 0,
            root,
            width: root + 1,
            next: (1 << root) + 2,
            prefix: Box::new([0; 4096]),
            suffix: Box::new(std::array::from_fn(|i| i as u8)),
            stack: Vec::new(),
            previous: None,
            first: 0,
        })
    }

    /// The next pixels.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), ItemError> {
        for pixel in out {
            while self.stack.is_empty() {
                self.unpack()?;
            }
            *pixel = self.stack.pop().unwrap_or_default();
        }
        Ok(())
    }

    /// Reads one code and stacks its pixels.
    fn unpack(&mut self) -> Result<(), ItemError> {
        while self.available < self.width {
            if self.block.is_empty() {
                self.block = self.reader.block()?;
            }
            let Some((&byte, rest)) = self.block.split_first() else {
                return Err(truncated("GIF: the image file is truncated"));
            };
            self.block = rest;
            self.buffer |= u32::from(byte) << self.available;
            self.available += 8;
        }
        let code = (self.buffer & ((1 << self.width) - 1)) as u16;
        self.buffer >>= self.width;
        self.available -= self.width;

        let clear = 1_u16 << self.root;
        if code == clear {
            self.width = self.root + 1;
            self.next = usize::from(clear) + 2;
            self.previous = None;
            return Ok(());
        }
        if code == clear + 1 {
            return Err(truncated("GIF: the image ends too early"));
        }
        let Some(previous) = self.previous else {
            // The first code after a reset is a pixel.
            if code > clear {
                return Err(corrupt("GIF: a code that is not defined"));
            }
            self.first = code as u8;
            self.stack.push(self.first);
            self.previous = Some(code);
            return Ok(());
        };
        let mut at = code;
        if usize::from(code) >= self.next {
            if usize::from(code) > self.next || self.next == 4096 {
                return Err(corrupt("GIF: a code that is not defined"));
            }
            self.stack.push(self.first);
            at = previous;
        }
        // Each prefix is smaller than its code, so this ends.
        while at >= clear {
            self.stack.push(self.suffix[usize::from(at)]);
            at = self.prefix[usize::from(at)];
        }
        self.first = at as u8;
        self.stack.push(self.first);
        if self.next < 4096 {
            self.prefix[self.next] = previous;
            self.suffix[self.next] = self.first;
            self.next += 1;
            if self.next == 1 << self.width && self.width < 12 {
                self.width += 1;
            }
        }
        self.previous = Some(code);
        Ok(())
    }
}
