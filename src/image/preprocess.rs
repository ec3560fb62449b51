//! What a checkpoint wants done to an image before its tower sees it.

/// How pixels become the image tower's input. Read from `preprocessor_config.json` (HF layout) or `preprocess_cfg` (open_clip layout).
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Height and width of the tower's input, in pixels.
    pub size: [usize; 2],
    /// How the image is brought to that size.
    pub resize: Resize,
    /// The interpolation between pixels.
    pub filter: Filter,
    /// When the image is converted to RGB.
    pub rgb: RgbWhen,
    /// Which way an odd crop margin falls.
    pub crop: CropRounding,
    /// Subtracted from each channel after scaling to 0..1.
    pub mean: [f32; 3],
    /// Each channel is divided by it.
    pub std: [f32; 3],
}

/// How an image is brought to the tower's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The shortest side becomes `edge`, then the centre is cropped (open_clip's `shortest`).
    Shortest {
        /// The length that the shortest side gets, in pixels.
        edge: usize,
    },
    /// The longest side becomes the size, then the rest is padded with black (open_clip's `longest`).
    Longest,
    /// Both sides become the size; the aspect ratio is lost (open_clip's `squash`).
    Squash,
}

/// An interpolation, as Pillow defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Pillow's `NEAREST` (0).
    Nearest,
    /// Pillow's `LANCZOS` (1), a = 3.
    Lanczos,
    /// Pillow's `BILINEAR` (2).
    Bilinear,
    /// Pillow's `BICUBIC` (3), a = −0.5.
    Bicubic,
}

/// When an image is converted to RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RgbWhen {
    /// Before the resize, as transformers' processors do.
    First,
    /// After resize and crop, as open_clip's transform does.
    Last,
}

/// Which way an odd crop margin falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CropRounding {
    /// `(n - c) / 2` rounded down (transformers).
    Floor,
    /// `(n - c) / 2` rounded half to even (torchvision, so open_clip).
    HalfEven,
}
