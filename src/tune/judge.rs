//! A tuned method at work.

use super::{Method, Task};
use crate::error::{Error, Result};
use crate::ops::normalize::normalize_row;
use candle_core::{DType, Tensor};

/// Classes told apart by what was learnt.
pub struct Judge<'a> {
    task: &'a Task<'a>,
    method: Box<dyn Method>,
    /// The classes' rows, (classes, dim).
    texts: Tensor,
    /// Which class of the task each answer is for.
    order: Vec<usize>,
}

impl<'a> Judge<'a> {
    /// The method, with the answers in the order of the task's classes.
    pub fn new(task: &'a Task<'a>, method: Box<dyn Method>) -> Result<Self> {
        let texts = method.texts(task)?.detach();
        Ok(Self { task, method, texts, order: (0..task.classes()).collect() })
    }

    /// The same for some of the classes, in this order.
    ///
    /// # Errors
    /// Usage, when one of them is none of the task's.
    pub fn of_classes(self, names: &[String]) -> Result<Self> {
        let place = |name: &String| {
            let shown = name.replace('_', " ");
            self.task.names.iter().position(|known| *known == shown).ok_or_else(|| {
                Error::usage(format!("`{name}` is none of the {} classes that were tuned", self.task.classes()))
                    .hint(format!("they are {}", some(&self.task.names)))
            })
        };
        let order = names.iter().map(place).collect::<Result<_>>()?;
        Ok(Self { order, ..self })
    }

    /// Whether embeddings of unit length do, in place of those that the tower gives.
    pub fn takes_unit(&self) -> bool {
        self.method.takes_unit()
    }

    /// The rows of the classes that are answered, of unit length, one after another.
    pub fn rows(&self) -> Result<Vec<f32>> {
        let rows = self.texts.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let rows = self.order.iter().map(|&class| rows.get(class).cloned().unwrap_or_default());
        Ok(rows
            .flat_map(|mut row| {
                normalize_row(&mut row);
                row
            })
            .collect())
    }

    /// The logits of embeddings (items, dim), as the tower gives them: (items, classes of the task).
    pub fn all(&self, features: &Tensor) -> Result<Tensor> {
        Ok(self.method.logits(self.task, &self.texts, features)?.detach())
    }

    /// The logits of one embedding, one for each answer.
    pub fn logits(&self, embedding: &[f32]) -> Result<Vec<f64>> {
        let features = self.task.tensor(embedding.to_vec(), &[1, embedding.len()])?;
        let logits = self.all(&features)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(self.order.iter().map(|&class| logits[class]).collect())
    }
}

/// The first of some names.
fn some(names: &[String]) -> String {
    let first = names.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 10 { format!("{first}, …") } else { first }
}
