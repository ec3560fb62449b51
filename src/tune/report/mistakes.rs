//! Images with wrong answers.

use super::page::{share, text};
use super::{Mistake, Report};
use crate::output::html::base64;
use std::fmt::Write;

pub(super) fn cards(mistakes: &[Mistake]) -> String {
    if mistakes.is_empty() {
        return String::new();
    }
    let mut out = String::from("<div class=\"cards\">\n");
    for mistake in mistakes.iter().take(Report::MISTAKES) {
        let source = mistake.picture.as_deref().and_then(source);
        let picture = match source {
            Some(source) => format!("<img src=\"{source}\" alt=\"{}\" loading=\"lazy\">", text(&mistake.truth)),
            None => "<div class=\"none\">no picture</div>".to_owned(),
        };
        let [of_answer, of_truth] = match mistake.scores {
            Some((answer, truth)) => [answer, truth].map(|score| format!(" <small>{}&#160;%</small>", share(score))),
            None => Default::default(),
        };
        let _ = writeln!(
            out,
            "<div class=\"card\">{picture}<p><span class=\"bad\">{}</span>{of_answer}<br>is {}{of_truth}</p><p class=\"id\">{}</p></div>",
            text(&mistake.answer),
            text(&mistake.truth),
            text(&mistake.id).replace('/', "/<wbr>"),
        );
    }
    out + "</div>\n"
}

/// The picture as a `data:` address, if it is one and not too large.
fn source(bytes: &[u8]) -> Option<String> {
    let kinds: [(&[u8], &str); 4] =
        [(b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF8", "gif"), (b"RIFF", "webp")];
    let kind = kinds.iter().find(|(start, _)| bytes.starts_with(start))?.1;
    (bytes.len() <= Report::PICTURE_BYTES).then(|| format!("data:image/{kind};base64,{}", base64(bytes)))
}
