//! JPEG through libjpeg's arithmetic: the bytes that Pillow gives.
//!
//! libjpeg reports a fatal error through a function that must not return. Ours unwinds through the C frames, which
//! are compiled for that (`-fexceptions`, ABI `C-unwind`), and is caught in [`decode`].

use super::{DecodeOptions, Mode, Raster, check_size, corrupt, truncated, unsupported};
use crate::error::{ItemError, ItemKind};
use mozjpeg_sys as sys;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A progressive file can ask for the whole image to be worked through once per scan; a few kilobytes can hold
/// thousands of empty scans. Encoders write about ten.
const MAX_SCANS: c_int = 1000;

/// The error that travels through libjpeg's frames.
struct Stop(ItemError);

/// Decodes a JPEG file; `L`, `RGB` or `CMYK`. Of a file with several images (MPO), the first.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Raster, ItemError> {
    match catch_unwind(AssertUnwindSafe(|| Decoder::new(bytes).run(options))) {
        Ok(result) => result,
        Err(payload) => match payload.downcast::<Stop>() {
            Ok(stop) => Err(stop.0),
            Err(payload) => resume_unwind(payload),
        },
    }
}

/// libjpeg's state. The structs point at each other, so they live in boxes that nobody moves out of.
struct Decoder<'a> {
    cinfo: Box<sys::jpeg_decompress_struct>,
    _err: Box<sys::jpeg_error_mgr>,
    progress: Box<sys::jpeg_progress_mgr>,
    bytes: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        // SAFETY: all-zero is a valid value of these C structs: integers, null pointers and `Option`s of functions.
        let (mut cinfo, mut err, mut progress) = unsafe {
            (
                Box::new(std::mem::zeroed::<sys::jpeg_decompress_struct>()),
                Box::new(std::mem::zeroed::<sys::jpeg_error_mgr>()),
                Box::new(std::mem::zeroed::<sys::jpeg_progress_mgr>()),
            )
        };
        // SAFETY: `err` is a live error manager, which is all that the function asks for.
        unsafe { sys::jpeg_std_error(&mut err) };
        err.error_exit = Some(on_error);
        err.emit_message = Some(on_message);
        progress.progress_monitor = Some(on_progress);
        cinfo.common.err = &raw mut *err;
        // SAFETY: `cinfo` is zeroed but for its error manager, as the library wants it; both outlive the library's use
        // of them because `Drop` destroys the decompressor before the boxes go.
        unsafe { sys::jpeg_create_decompress(&raw mut *cinfo) };
        Self { cinfo, _err: err, progress, bytes }
    }

    fn run(mut self, options: &DecodeOptions) -> Result<Raster, ItemError> {
        let Ok(len) = self.bytes.len().try_into() else {
            return Err(ItemError::new(ItemKind::TooLarge, "the file is too long for libjpeg"));
        };
        // Creation clears the struct but for the error manager.
        self.cinfo.common.progress = &raw mut *self.progress;
        let cinfo = &mut *self.cinfo;
        // SAFETY: the decompressor is created, and `bytes` lives longer than it.
        unsafe {
            sys::jpeg_mem_src(cinfo, self.bytes.as_ptr(), len);
            sys::jpeg_read_header(cinfo, 1);
        }
        check_size(cinfo.image_width.into(), cinfo.image_height.into(), options)?;
        let (mode, space) = match cinfo.num_components {
            1 => (Mode::L, sys::J_COLOR_SPACE::JCS_GRAYSCALE),
            3 => (Mode::Rgb, sys::J_COLOR_SPACE::JCS_RGB),
            4 => (Mode::Cmyk, sys::J_COLOR_SPACE::JCS_CMYK),
            n => return Err(unsupported(format!("a JPEG image with {n} channels"))),
        };
        cinfo.out_color_space = space;
        // SAFETY: the header is read.
        unsafe { sys::jpeg_start_decompress(cinfo) };
        let (width, height) = (cinfo.output_width as usize, cinfo.output_height as usize);
        if cinfo.output_components as usize != mode.channels() {
            return Err(corrupt("libjpeg gives another number of channels than it said"));
        }
        let stride = width * mode.channels();
        let mut data = vec![0; stride * height];
        while let Some(row) = data.get_mut(cinfo.output_scanline as usize * stride..).filter(|rest| !rest.is_empty()) {
            let mut row = row.as_mut_ptr();
            // SAFETY: `row` points at one whole row of `output_components × output_width` bytes: `output_scanline` is
            // below `height` here, and `data` holds `height` rows.
            if unsafe { sys::jpeg_read_scanlines(cinfo, &raw mut row, 1) } != 1 {
                return Err(truncated("the image file is truncated"));
            }
        }
        // Reads on to the end marker, whose absence Pillow counts as truncation too.
        // SAFETY: all rows are read.
        unsafe { sys::jpeg_finish_decompress(cinfo) };
        if mode == Mode::Cmyk {
            // As Adobe writes ink: 0 is full. Pillow assumes it whatever the markers say.
            for v in &mut data {
                *v = 255 - *v;
            }
        }
        Ok(Raster::bytes(width, height, mode, data))
    }
}

impl Drop for Decoder<'_> {
    fn drop(&mut self) {
        // SAFETY: the decompressor was created in `new`; destroying it is allowed in any state, also after an error.
        unsafe { sys::jpeg_destroy_decompress(&mut self.cinfo) };
    }
}

/// libjpeg's text for the error or warning that it just raised.
fn message(cinfo: &mut sys::jpeg_common_struct) -> String {
    // The library writes up to JMSG_LENGTH_MAX = 200 bytes; the binding's type says 80.
    type Format = unsafe extern "C-unwind" fn(*mut sys::jpeg_common_struct, *mut c_char);
    let mut text = [0_u8; 200];
    // SAFETY: `err` is the error manager that `Decoder::new` set. The transmute only changes pointer types, to what
    // the C prototype (`j_common_ptr`, `char *`) says.
    unsafe {
        if let Some(format) = (*cinfo.err).format_message {
            let format: Format = std::mem::transmute::<*const c_void, Format>(format as *const c_void);
            format(cinfo, text.as_mut_ptr().cast());
        }
    }
    String::from_utf8_lossy(text.split(|&b| b == 0).next().unwrap_or_default()).into_owned()
}

/// A fatal error: what Pillow calls a broken data stream.
unsafe extern "C-unwind" fn on_error(cinfo: &mut sys::jpeg_common_struct) {
    // SAFETY: `err` is the error manager that `Decoder::new` set.
    let code = unsafe { (*cinfo.err).msg_code };
    let message = message(cinfo);
    let error = match code {
        sys::JERR_SOF_UNSUPPORTED | sys::JERR_BAD_PRECISION => unsupported(format!("JPEG: {message}")),
        sys::JERR_INPUT_EOF | sys::JERR_INPUT_EMPTY => truncated("the image file is truncated"),
        sys::JERR_OUT_OF_MEMORY => ItemError::new(ItemKind::TooLarge, format!("JPEG: {message}")),
        _ => corrupt(format!("JPEG: {message}")),
    };
    resume_unwind(Box::new(Stop(error)));
}

/// A warning (negative level) or a trace. Pillow goes on after all of them but one: at the end of the data it has
/// nothing to feed libjpeg with and raises.
unsafe extern "C-unwind" fn on_message(cinfo: &mut sys::jpeg_common_struct, level: c_int) {
    // SAFETY: `err` is the error manager that `Decoder::new` set.
    if level < 0 && unsafe { (*cinfo.err).msg_code } == sys::JWRN_JPEG_EOF {
        resume_unwind(Box::new(Stop(truncated("the image file is truncated"))));
    }
}

/// Called now and then while libjpeg works.
unsafe extern "C-unwind" fn on_progress(cinfo: &mut sys::jpeg_common_struct) {
    let cinfo = (&raw mut *cinfo).cast::<sys::jpeg_decompress_struct>();
    // SAFETY: the only objects with this monitor are decompressors, which begin with the common part.
    if unsafe { (*cinfo).input_scan_number } > MAX_SCANS {
        resume_unwind(Box::new(Stop(corrupt(format!("JPEG: more than {MAX_SCANS} scans")))));
    }
}
