//! From bytes to the tower's numbers, rounded at the same places as in the reference.

use super::{Preprocess, RgbWhen};

/// The value of each byte in each channel, `[3][256]`.
///
/// transformers (PIL processors, NumPy): the byte times 1/255 in double precision, rounded to single, then minus mean
/// and divided by std in single precision. torchvision (`ToTensor`, `Normalize`): all in single precision.
pub(crate) fn table(preprocess: &Preprocess) -> [[f32; 256]; 3] {
    let scaled: [f32; 256] = std::array::from_fn(|byte| match preprocess.rgb {
        RgbWhen::First => (byte as f64 * (1.0 / 255.0)) as f32,
        RgbWhen::Last => byte as f32 / 255.0,
    });
    std::array::from_fn(|channel| scaled.map(|v| (v - preprocess.mean[channel]) / preprocess.std[channel]))
}
