//! A contact sheet: one HTML file with small pictures, which opens anywhere, without a network and without scripts.
//!
//! Names, texts and queries are other people's: all of them are escaped, links are percent-encoded, and the page's own
//! policy forbids everything but styles and pictures.

use super::Target;
use crate::app::WORKER;
use crate::data::Kind;
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::image::{DecodeOptions, Samples, decode, thumbnail};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use std::fmt::Write as _;
use std::io::{BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The longer side of a picture, in pixels: twice its place on the page, for dense screens.
const SIDE: usize = 320;

/// JPEG's quality.
const QUALITY: u8 = 80;

/// How many pictures are in memory at a time.
const AT_ONCE: usize = 64;

/// Longer names and texts are cut.
const MAX_LETTERS: usize = 300;

/// How a sheet is made.
#[derive(Clone, Debug)]
pub struct SheetOptions {
    /// Show the files themselves, where they lie, in place of small copies inside the sheet.
    pub link: bool,
    /// The directory in which relative paths begin.
    pub root: PathBuf,
    /// How many threads decode.
    pub workers: usize,
}

/// A sheet in the making.
#[derive(Debug)]
pub struct Sheet {
    target: BufWriter<Target>,
    options: SheetOptions,
    /// Where the sheet will lie, so that links can begin there.
    directory: PathBuf,
}

/// What stands above some pictures.
#[derive(Clone, Debug)]
pub struct Heading<'a> {
    /// A query, or the name of a group.
    pub title: &'a str,
    /// Where the query is a picture: its path.
    pub image: Option<&'a str>,
    /// A line below.
    pub note: &'a str,
}

/// One item.
#[derive(Clone, Debug)]
pub struct Card<'a> {
    /// The path, or the text.
    pub id: &'a str,
    /// What it is.
    pub kind: Kind,
    /// A caption.
    pub text: Option<&'a str>,
    /// How near it is.
    pub score: Option<f32>,
    /// A word or two in the corner.
    pub badge: &'a str,
}

/// What is shown of a file.
enum Picture {
    /// The address of a picture, and where the file is.
    Shown { source: String, link: String },
    /// Why there is none.
    Missing(String),
    /// There is nothing to see.
    None,
}

impl Sheet {
    /// Starts a sheet.
    ///
    /// # Errors
    /// If it cannot be written there.
    pub fn open(path: &Path, title: &str, note: &str, options: SheetOptions) -> Result<Self> {
        let target = Target::open(path)?;
        if target.path().is_none() {
            return Err(Error::usage("the sheet needs a file of its own").at(path.display()));
        }
        let directory = std::path::absolute(path)?.parent().map(Path::to_owned).unwrap_or_default();
        let mut sheet = Self { target: BufWriter::new(target), options, directory };
        let title = escaped(title);
        sheet.put(&format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\
             \"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data: {}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"referrer\" \
             content=\"no-referrer\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n\
             <h1>{title}</h1>\n<p>{}</p>\n</header>\n",
            if sheet.options.link { "'self' file:" } else { "" },
            escaped(note),
        ))?;
        Ok(sheet)
    }

    /// Adds a heading with its pictures.
    ///
    /// # Errors
    /// If the sheet cannot be written.
    pub fn section(&mut self, heading: &Heading<'_>, cards: &[Card<'_>]) -> Result<()> {
        let asked = heading.image.map(|path| Card { id: path, kind: Kind::Image, text: None, score: None, badge: "" });
        let mut html = String::from("<section>\n<div class=\"query\">\n");
        if let Some(card) = asked {
            let pictures = self.pictures(std::slice::from_ref(&card));
            html += &picture(&pictures[0], &card);
        }
        let _ =
            write!(html, "<div><h2>{}</h2>\n<p>{}</p></div>\n</div>\n", escaped(heading.title), escaped(heading.note));
        html += "<div class=\"cards\">\n";
        self.put(&html)?;
        let best = cards.iter().filter_map(|card| card.score).fold(f32::MIN_POSITIVE, f32::max);
        for cards in cards.chunks(AT_ONCE) {
            for (card, picture) in cards.iter().zip(self.pictures(cards)) {
                self.put(&figure(card, &picture, best))?;
            }
        }
        self.put("</div>\n</section>\n")
    }

    /// Completes the sheet, which gets its name.
    ///
    /// # Errors
    /// If the sheet cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.put("</body>\n</html>\n")?;
        let target = self.target.into_inner().map_err(|error| {
            let (error, writer) = error.into_parts();
            writer.get_ref().error(error)
        })?;
        target.commit()
    }

    fn put(&mut self, html: &str) -> Result<()> {
        self.target.write_all(html.as_bytes()).map_err(|error| self.target.get_ref().error(error))
    }

    /// The pictures of some items, made on several threads.
    fn pictures(&self, cards: &[Card<'_>]) -> Vec<Picture> {
        let made: Vec<Mutex<Picture>> = cards.iter().map(|_| Mutex::new(Picture::None)).collect();
        let jobs: Vec<_> = cards.iter().zip(&made).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((card, made)) = jobs.get(next.fetch_add(1, Relaxed)) {
                *made.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = self.picture(card);
            }
        };
        std::thread::scope(|scope| {
            for index in 1..self.options.workers.min(cards.len()) {
                // Without another thread it only takes longer.
                let _ = std::thread::Builder::new().name(format!("{WORKER}sheet-{index}")).spawn_scoped(scope, work);
            }
            work();
        });
        made.into_iter().map(|made| made.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)).collect()
    }

    fn picture(&self, card: &Card<'_>) -> Picture {
        if card.kind == Kind::Text {
            return Picture::None;
        }
        let path = self.options.root.join(card.id);
        let link = || link(&self.directory, &path);
        let shown = |source: Result<String, ItemError>| match source {
            Ok(source) => Picture::Shown { source, link: link() },
            Err(error) => Picture::Missing(error.message),
        };
        match readable(&path) {
            Err(error) => Picture::Missing(error.message),
            Ok(()) if self.options.link => shown(Ok(link())),
            Ok(()) => shown(small(&path)),
        }
    }
}

/// Refuses what is no regular file: a path that comes from a file of embeddings may name anything.
fn readable(path: &Path) -> Result<(), ItemError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ItemError::new(ItemKind::NotFound, "no such file here"));
        }
        Err(error) => return Err(error.into()),
    };
    if !metadata.is_file() {
        return Err(ItemError::new(ItemKind::Unreadable, "no regular file"));
    }
    Ok(())
}

/// A small copy of a picture, as a `data:` address.
fn small(path: &Path) -> Result<String, ItemError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(DecodeOptions::default().max_bytes + 1).read_to_end(&mut bytes)?;
    Ok(format!("data:image/jpeg;base64,{}", base64(&jpeg(&bytes, SIDE)?)))
}

/// A copy of an image file as JPEG, no side longer than `side` pixels.
pub(crate) fn jpeg(bytes: &[u8], side: usize) -> Result<Vec<u8>, ItemError> {
    // People want to see pictures the right way up.
    let options = DecodeOptions { exif: true, ..DecodeOptions::default() };
    let small = thumbnail(&decode(bytes, &options)?, side);
    let Samples::Bytes(pixels) = &small.samples else {
        return Err(ItemError::new(ItemKind::Unsupported, "no picture in colours"));
    };
    let mut jpeg = Vec::new();
    // No side is longer than asked.
    let (width, height) = (small.width as u32, small.height as u32);
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode(pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| ItemError::new(ItemKind::Unsupported, error))?;
    Ok(jpeg)
}

fn figure(card: &Card<'_>, shown: &Picture, best: f32) -> String {
    let mut html = format!("<figure>\n{}", picture(shown, card));
    if !card.badge.is_empty() || card.score.is_some() {
        let score = card.score.map(|score| format!("{score:.4}")).unwrap_or_default();
        let _ = write!(html, "<p class=\"score\"><span>{}</span><span>{score}</span></p>", escaped(card.badge));
    }
    if let Some(score) = card.score {
        let share = (score / best * 100.0).clamp(0.0, 100.0);
        let _ = writeln!(html, "<p class=\"bar\"><i style=\"width:{share:.0}%\"></i></p>");
    }
    if card.kind == Kind::Image {
        // Long paths should break behind a directory.
        let name = escaped(&cut(card.id));
        let _ = writeln!(html, "<figcaption title=\"{name}\">{}</figcaption>", name.replace('/', "/<wbr>"));
    }
    if let Some(text) = card.text {
        let _ = writeln!(html, "<p class=\"text\">{}</p>", escaped(&cut(text)));
    }
    html + "</figure>\n"
}

fn picture(shown: &Picture, card: &Card<'_>) -> String {
    let name = escaped(&cut(card.id));
    match shown {
        Picture::Shown { source, link } => format!(
            "<a href=\"{}\"><img src=\"{}\" alt=\"{name}\" loading=\"lazy\"></a>\n",
            escaped(link),
            escaped(source)
        ),
        Picture::Missing(why) => format!("<div class=\"missing\"><p>{}</p></div>\n", escaped(&cut(why))),
        Picture::None => format!("<blockquote>{name}</blockquote>\n"),
    }
}

/// Text that stands for itself in HTML, in quotes too. Control characters, which could turn a line around, are left
/// out.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The address of a file, seen from a directory: relative, so that both can move together.
fn link(directory: &Path, path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (from, to): (Vec<_>, Vec<_>) = (directory.components().collect(), whole.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[common..].iter().map(|_| "..".to_owned());
    let down = to[common..].iter().map(|part| match part {
        Component::ParentDir => "..".to_owned(),
        part => percent(part.as_os_str().as_encoded_bytes()),
    });
    // A first step of our own: what follows can then be no other scheme, such as `javascript:`.
    std::iter::once(".".to_owned()).chain(up).chain(down).collect::<Vec<_>>().join("/")
}

/// Percent-encodes what is no letter, digit, `-`, `.`, `_` or `~` (RFC 3986, section 2.3).
fn percent(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, &byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// RFC 4648, section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let value = part.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte)) << (8 * (3 - part.len()));
        for digit in 0..4 {
            let known = digit <= part.len();
            out.push(if known { char::from(DIGITS[(value >> (18 - 6 * digit) & 63) as usize]) } else { '=' });
        }
    }
    out
}

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#f6f6f4;--card:#fff;--ink:#1d1d1b;--dim:#6b6b66;--line:#dcdcd6;--mark:#2f6fb3}
@media(prefers-color-scheme:dark){:root{--back:#161617;--card:#222224;--ink:#ececea;--dim:#9a9a95;--line:#363638;\
--mark:#6aa5e3}}
*{box-sizing:border-box;margin:0}
body{font:15px/1.4 system-ui,sans-serif;background:var(--back);color:var(--ink);max-width:1500px;margin:auto;\
padding:16px}
h1{font-size:1.35rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;overflow-wrap:anywhere}
header p,.query p{color:var(--dim);font-size:.9rem}
section{border-top:1px solid var(--line);margin-top:16px;padding-top:14px}
.query{display:flex;gap:14px;align-items:center;margin-bottom:12px}
.query>a{flex:none}
.query img{display:block;height:96px;max-width:40vw;border-radius:6px}
.query>.missing{width:96px;flex:none}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:12px}
figure{background:var(--card);border:1px solid var(--line);border-radius:8px;overflow:hidden;padding-bottom:8px;\
min-width:0}
figure>a{display:block}
figure img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--back)}
.missing{aspect-ratio:1;display:grid;place-items:center;padding:10px;text-align:center;color:var(--dim);\
background:repeating-linear-gradient(45deg,transparent 0 9px,var(--line) 9px 10px)}
.missing p{background:var(--card);padding:2px 6px;border-radius:4px;font-size:.85rem;overflow-wrap:anywhere}
blockquote{padding:14px 12px 6px;font-size:1rem;overflow-wrap:anywhere}
blockquote::before{content:'\\201C'}
blockquote::after{content:'\\201D'}
.score{display:flex;justify-content:space-between;padding:7px 10px 3px;font-variant-numeric:tabular-nums;\
font-weight:600}
.score span:first-child{color:var(--dim);font-weight:400}
.bar{margin:0 10px 5px;height:3px;border-radius:2px;background:var(--line)}
.bar i{display:block;height:100%;border-radius:2px;background:var(--mark)}
figcaption,.text{padding:0 10px;font-size:.82rem;color:var(--dim);overflow-wrap:anywhere}
figcaption{display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden}
.text{color:var(--ink)}
@media(max-width:480px){body{padding:10px}.cards{grid-template-columns:1fr 1fr;gap:8px}}
@media print{body{max-width:none}figure{break-inside:avoid}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        let all = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    #[cfg(unix)]
    fn links_are_relative_and_harmless() {
        let link = |path: &str| link(Path::new("/home/me/out"), Path::new(path));
        assert_eq!(link("/home/me/photos/a b#1?.jpg"), "./../photos/a%20b%231%3F.jpg");
        assert_eq!(link("/home/me/out/é.jpg"), "./%C3%A9.jpg");
        assert_eq!(link("/home/me/out/javascript:alert(1)"), "./javascript%3Aalert%281%29");
        assert_eq!(link("/x/../y.jpg"), "./../../../x/../y.jpg");
    }

    #[test]
    fn nothing_of_a_name_is_markup() {
        let expected = "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp; &lt;/b&gt;";
        assert_eq!(escaped("<b a='1' c=\"2\">&\u{202e}\n</b>"), expected);
        assert_eq!(cut(&"é".repeat(400)).chars().count(), MAX_LETTERS + 1);
    }
}
