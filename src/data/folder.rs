//! The images below a folder.

use super::{Item, Items, Kind, lossy};
use crate::error::{ItemError, ItemKind};
use std::ffi::OsStr;
use std::path::Path;
use walkdir::{DirEntry, WalkDir};

/// Which files of a folder count as images; a file that is named on the command line is always tried.
pub const IMAGE_EXTENSIONS: &[&str] = &[
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "ico", "pnm", "pbm", "pgm", "ppm",
    "tga",
];

/// The images below a folder, sorted by name within each folder. Hidden files and folders are left out, symbolic links
/// are followed; a link that leads in a circle, and a folder that cannot be read, become items that say so.
pub fn folder(path: &Path) -> Items {
    let walk = WalkDir::new(path).min_depth(1).follow_links(true).sort_by_file_name();
    Box::new(walk.into_iter().filter_entry(|entry| !is_hidden(entry.file_name())).filter_map(|entry| match entry {
        Ok(entry) => is_image(&entry).then(|| Ok(Item::file(entry.into_path()))),
        Err(error) => failure(&error).map(Ok),
    }))
}

fn is_image(entry: &DirEntry) -> bool {
    let known = |extension: &OsStr| IMAGE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known));
    entry.file_type().is_file() && entry.path().extension().is_some_and(known)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn failure(error: &walkdir::Error) -> Option<Item> {
    let path = error.path()?;
    if error.depth() > 0 && path.file_name().is_some_and(is_hidden) {
        return None;
    }
    let reason = match (error.loop_ancestor(), error.io_error()) {
        (Some(ancestor), _) => {
            let message = format!("this symbolic link leads back to {}; it is not followed", ancestor.display());
            ItemError::new(ItemKind::Unreadable, message)
        }
        (None, Some(io)) if io.kind() == std::io::ErrorKind::NotFound => {
            ItemError::new(ItemKind::NotFound, "this symbolic link leads nowhere")
        }
        (None, Some(io)) => ItemError::new(ItemKind::Unreadable, io),
        (None, None) => ItemError::new(ItemKind::Unreadable, error),
    };
    Some(Item::failed(lossy(path), Kind::Image, reason))
}
