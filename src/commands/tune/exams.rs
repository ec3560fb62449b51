//! What a run is judged by.

use super::job::Job;
use super::judged::{Exam, Judged, embed};
use crate::error::{Error, Result};
use crate::image::DecodeOptions;
use crate::text::describe::canonical;
use crate::tune::Task;
use crate::tune::data::{Split, Subset, Test, photos, usable};
use crate::tune::method::{Method, Sees};
use crate::tune::photos::{Photos, Support};
use candle_core::Tensor;
use std::collections::HashSet;

impl Job<'_> {
    /// Everything to judge by: what was learnt, and where the method can, the new half of the classes. Also what people should
    /// know, and how many images cannot be read.
    pub(super) fn exams(&self, task: &Task<'_>, split: &Split) -> Result<(Vec<String>, Vec<Exam>, usize)> {
        let own = match &self.set.test {
            Some(_) => Some(("test".to_owned(), self.set.tested().clone())),
            None if self.others.is_empty() => {
                let rest = split.rest(&self.set);
                (!rest.images.is_empty()).then(|| ("the rest".to_owned(), rest))
            }
            None => None,
        };
        let of_others = self.others.iter().map(|(name, set)| (name.clone(), set.tested().clone()));
        let (mut notes, mut exams, mut unread) = (Vec::new(), Vec::new(), 0);
        let halves: &[(Subset, bool)] = match self.args.protocol.split {
            Subset::Base if self.entry.new_classes => &[(Subset::Base, false), (Subset::New, true)],
            Subset::Base => &[(Subset::Base, false)],
            Subset::New => &[(Subset::New, false)],
            Subset::All => &[(Subset::All, false)],
        };
        for (name, part) in own.into_iter().chain(of_others) {
            for &(subset, new) in halves {
                // What was not drawn has images of the learnt half alone, in its own numbers.
                let (classes, subset) = match name == "the rest" {
                    true if new => continue,
                    true => (&split.classes, Subset::All),
                    false => (&self.set.train.classes, subset),
                };
                // Of other classes altogether, where the method can tell them apart.
                let other = name != "test" && classes_differ(&part.classes, classes) && self.entry.new_classes;
                let (classes, subset, new) =
                    if other { (&part.classes, Subset::All, true) } else { (classes, subset, new) };
                let mut test = Test::new(&part, classes, subset)?;
                let (images, left_out) = usable(test.images, &self.look())?;
                test.images = images;
                notes.extend(test.notes().into_iter().map(|note| format!("{name}: {note}")));
                unread += left_out.count;
                if let Some((id, reason)) = left_out.first.first() {
                    notes.push(format!("{name}: {} images cannot be read: {id}: {reason} …", left_out.count));
                }
                let twice = split.overlap(&test.images).len();
                if twice > 0 {
                    notes.push(format!("{name}: {twice} images are among those that are learnt from or chosen by"));
                }
                match test.images.is_empty() {
                    // What was not drawn may be nothing but what cannot be read.
                    true if name == "the rest" => continue,
                    true => return Err(Error::run("none of the images can be read").at(&name)),
                    false => {}
                }
                let name = if subset == Subset::All { name.clone() } else { format!("{name}, {subset} classes") };
                let photos = photos(&test.images, &DecodeOptions::default());
                let frozen = self.frozen(task, &name, new, &photos)?;
                exams.push(Exam::new(task, name, new, (test, photos, frozen))?);
            }
        }
        if exams.is_empty() {
            notes.push("nothing to judge by: --eval-data names images".to_owned());
        }
        notes.iter().for_each(|note| self.app.warn(note));
        Ok((notes, exams, unread))
    }

    fn frozen(&self, task: &Task<'_>, name: &str, new: bool, photos: &Photos) -> Result<Tensor> {
        let key = (name.to_owned(), new);
        // The rest differs from seed to seed.
        if let Some(rows) = self.seen.borrow().get(&key).filter(|_| name != "the rest") {
            return Ok(rows.clone());
        }
        let rows = embed(self.app, task, photos)?;
        self.seen.borrow_mut().insert(key, rows.clone());
        Ok(rows)
    }

    pub(super) fn judge(
        &self,
        exam: Exam,
        task: &Task<'_>,
        method: &dyn Method,
        support: &Support,
        validation: &Support,
    ) -> Result<Option<Judged>> {
        let other;
        let task = match exam.new {
            false => task,
            true => {
                other = Task::new(task.clip, &exam.test.classes, &task.templates)?;
                &other
            }
        };
        let features = match self.sees {
            Sees::Pixels => self.features(task, method, &exam.photos)?,
            _ => exam.frozen.clone(),
        };
        let own = exam.answers(task, method, &features)?;
        let probe = if exam.new { None } else { exam.probe(task, support, validation)? };
        let (Some(method), Some(zero_shot)) = (own, exam.zero_shot) else { return Ok(None) };
        Ok(Some(Judged { name: exam.name, method, zero_shot, probe }))
    }
}

/// Whether two sets have no class in common.
fn classes_differ(a: &[String], b: &[String]) -> bool {
    let known: HashSet<String> = b.iter().map(|name| canonical(name)).collect();
    !a.iter().any(|name| known.contains(&canonical(name)))
}
