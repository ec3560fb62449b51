//! `dedup`: what is there twice.

use super::ending::left_behind;
use super::search::{KindArg, finite, summary, warn_broken, warn_unusable};
use super::sheet::SheetArgs;
use super::{Command, Status};
use crate::app::App;
use crate::data::{Kind, is_stdin};
use crate::error::{Error, Result};
use crate::index::{Collection, Duplicate, Id, duplicates};
use crate::output::html::{Card, Heading, Sheet};
use crate::output::{Group, Groups, ListFormat, Member, Target};
use clap::Args;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Find images and texts that are there twice, or nearly so
#[derive(Args, Debug)]
#[command(after_help = "\
EMBEDDINGS are what `embed` wrote, as for `search`. They are looked at in order: one whose cosine with an earlier \
one that is kept reaches the threshold belongs to the nearest such one, any other is kept. So each duplicate is \
near to what stays, and the first of a group is the one that stays. Images are never duplicates of texts.

Nothing is deleted. JSON Lines records are {\"keep\",\"duplicates\":[{\"id\",\"score\"}],\"model\"}; --format paths \
prints the duplicates alone. An image is not its own duplicate: what is named twice, or by two paths, is left out.

How near copies in another size or quality are depends on the model: look at what is found (--html) before \
anything goes.

Examples:
  clip-cli dedup photos.npy --threshold 0.95
  clip-cli dedup photos.npy --html twice.html > groups.jsonl
  clip-cli dedup photos.npy --threshold 0.98 --format paths --null --output twice.txt")]
pub(super) struct Dedup {
    /// Files of embeddings, or `-`
    #[arg(value_name = "EMBEDDINGS", required = true)]
    embeddings: Vec<PathBuf>,

    /// The cosine from which on two are the same
    #[arg(long, value_name = "SCORE", default_value = "0.95", value_parser = finite)]
    threshold: f32,

    /// Look at images or texts alone
    #[arg(long, value_name = "KIND")]
    kind: Option<KindArg>,

    /// Where to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", help_heading = "Output")]
    output: PathBuf,

    /// The output's format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: ListFormat,

    /// End paths with a NUL byte, for `xargs -0`
    #[arg(long = "null", short = '0', help_heading = "Output")]
    null: bool,

    #[command(flatten)]
    sheet: SheetArgs,
}

impl Command for Dedup {
    const NAME: &'static str = "dedup";

    fn run(self, app: &App) -> Result<Status> {
        if self.embeddings.iter().filter(|path| is_stdin(path)).count() > 1 {
            return Err(Error::usage("standard input cannot be read twice"));
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err(Error::usage("--threshold is a cosine from 0 to 1"));
        }
        let target = Target::open(&self.output)?;
        let format = self.format.resolve(&self.output);
        let collection = Collection::open(app, &self.embeddings)?;
        let failed = warn_unusable(app, &collection);
        let note = format!("{}; cosine {} and more", summary(&collection), self.threshold);
        let sheet = self.sheet.open(app, "Duplicates", &note)?;
        let progress = app.progress("embeddings");
        progress.expect(collection.len() as u64);
        let kind = self.kind.map(Kind::from);
        let found = duplicates(&collection, self.threshold, kind, app.interrupt, &progress);
        progress.finish();
        let found = found?;
        let mut groups = found.duplicates;
        drop_same(&collection, &mut groups)?;
        // By the one to keep; stable, so that duplicates stay in order.
        groups.sort_by_key(|duplicate| duplicate.keeper);

        let paths = format == ListFormat::Paths;
        let mut out =
            Output { collection: &collection, groups: Groups::open(target, format, self.null)?, paths, sheet };
        let written = groups.chunk_by(|a, b| a.keeper == b.keeper).try_for_each(|group| out.write(group));
        if let Err(error) = written {
            left_behind(app, out.groups.abandon());
            return Err(error);
        }
        out.groups.finish()?;
        if let Some(sheet) = out.sheet {
            sheet.finish()?;
        }
        let keepers = groups.chunk_by(|a, b| a.keeper == b.keeper).count();
        app.note(format_args!("{} duplicates of {keepers} among {} embeddings", groups.len(), collection.len()));
        let failed = warn_broken(app, &collection, found.broken)? || failed;
        Ok(if failed { Status::SomeFailed } else { Status::Done })
    }
}

struct Output<'a> {
    collection: &'a Collection,
    groups: Groups,
    /// Whether paths alone are written.
    paths: bool,
    sheet: Option<Sheet>,
}

impl Output<'_> {
    /// Writes the duplicates of one keeper.
    fn write(&mut self, group: &[Duplicate]) -> Result<()> {
        let keep = self.collection.get(group[0].keeper)?.id;
        let ids = group.iter().map(|duplicate| Ok(self.collection.get(duplicate.position)?.id));
        let ids: Vec<_> = ids.collect::<Result<_>>()?;
        // A caption's name is that of its image, which need not be there twice: no path to delete.
        let listed = |id: &Id| !self.paths || id.kind == Kind::Image || id.text.is_none();
        let members = ids.iter().zip(group).filter(|(id, _)| listed(id));
        let members = members.map(|(id, duplicate)| Member { id: &id.id, score: duplicate.score });
        self.groups.write(&Group { keep: &keep.id, duplicates: members.collect(), model: self.collection.model() })?;
        let Some(sheet) = &mut self.sheet else { return Ok(()) };
        let kept = Card { id: &keep.id, kind: keep.kind, text: keep.text.as_deref(), score: None, badge: "kept" };
        let others = ids.iter().zip(group).map(|(id, duplicate)| Card {
            id: &id.id,
            kind: id.kind,
            text: id.text.as_deref(),
            score: Some(duplicate.score),
            badge: "duplicate",
        });
        let cards: Vec<_> = std::iter::once(kept).chain(others).collect();
        let note = if group.len() == 1 { "1 duplicate".to_owned() } else { format!("{} duplicates", group.len()) };
        sheet.section(&Heading { title: &keep.id, image: None, note: &note }, &cards)
    }
}

/// Leaves out images that are kept under the same name elsewhere, and paths to the very file that is kept: whoever deletes
/// the duplicates must not lose the last copy.
fn drop_same(collection: &Collection, duplicates: &mut Vec<Duplicate>) -> Result<()> {
    let is_image = |position| collection.kind(position) == Kind::Image;
    let positions: HashSet<usize> = duplicates.iter().map(|duplicate| duplicate.position).collect();
    let mut names = HashSet::new();
    for &position in positions.iter().filter(|&&position| is_image(position)) {
        names.insert(collection.get(position)?.id.id);
    }
    let mut first = 0;
    for part in collection.parts() {
        if !names.is_empty() {
            part.ids.for_each(|row, id| {
                if part.ids.kind(row) == Kind::Image && !positions.contains(&(first + row)) {
                    names.remove(id);
                }
                Ok(())
            })?;
        }
        first += part.matrix.rows();
    }
    let mut kept = Vec::with_capacity(duplicates.len());
    for duplicate in duplicates.drain(..) {
        let keep = if is_image(duplicate.position) {
            let id = collection.get(duplicate.position)?.id.id;
            // Taken out, so that a name comes once.
            names.remove(&id) && !is_same_file(&id, &collection.get(duplicate.keeper)?.id.id)
        } else {
            true
        };
        if keep {
            kept.push(duplicate);
        }
    }
    *duplicates = kept;
    Ok(())
}

/// Whether two paths lead to one file.
fn is_same_file(a: &str, b: &str) -> bool {
    let real = |path: &str| std::fs::canonicalize(Path::new(path)).ok();
    real(a).is_some_and(|a| real(b) == Some(a))
}
