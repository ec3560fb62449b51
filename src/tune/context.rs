//! Learnt vectors among the tokens of class names (CoOp, Zhou et al. 2022).

use super::Task;
use crate::error::{Error, Result};
use crate::model::TextTower;
use candle_core::{Device, Tensor};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Where the class name stands among the learnt vectors (CoOp's `CLASS_TOKEN_POSITION`).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Behind them.
    #[default]
    End,
    /// Between the first half and the second.
    Middle,
    /// Before them.
    Front,
}

/// The prompts of all classes, with room for learnt vectors. [`Task::context`] keeps them.
pub struct Context {
    /// Token ids (classes × `len`); in the places of learnt vectors stands some ordinary token.
    ids: Vec<u32>,
    len: usize,
    /// The embeddings of all tokens, (classes · len, width): constants.
    tokens: Tensor,
    /// For each place of `ids` which learnt vector stands there.
    slots: Vec<Option<u32>>,
    count: usize,
    place: Place,
    /// Where deep prompts stand.
    at: usize,
}

impl Context {
    /// Room for `count` vectors around the names of a task's classes; `fixed` are tokens of words between them and
    /// the name (MaPLe's `of a`).
    ///
    /// # Errors
    /// Usage, when a prompt does not fit into the context length, or a name has no token.
    pub fn new(task: &Task<'_>, count: usize, fixed: &[u32], place: Place) -> Result<Self> {
        let tokenizer = task.clip.tokenizer()?;
        let (tokenizer, spec) = (&tokenizer.0, &tokenizer.1);
        let encode = |text: &str| tokenizer.encode(&spec.clean.apply(text));
        // Words behind others: some tokenizers give a word another token at the beginning of a text.
        let first_word = encode("a")?;
        let behind = |text: &str| -> Result<Vec<u32>> {
            let tokens = encode(&format!("a {text}"))?;
            tokens.strip_prefix(first_word.as_slice()).map_or_else(|| encode(text), |tokens| Ok(tokens.to_vec()))
        };
        let mut rows = Vec::new();
        let mut learnt = Vec::new();
        let before = spec.frame.before.len();
        for name in &task.names {
            let (name_tokens, mut body) = match place {
                Place::Front => (encode(name)?, encode(&format!("{name}."))?),
                _ => (behind(name)?, behind(&format!("{name}."))?),
            };
            let mut name_end = name_tokens.len().min(body.len());
            if name_end == 0 {
                return Err(Error::usage(format!("the class `{name}` has no token")).hint("name it with --classnames"));
            }
            let ordinary = body[0];
            name_end += fixed.len();
            body = [fixed, &body].concat();
            // How many vectors stand in front of which part of the body.
            let (first, cut) = match place {
                Place::End => (count, body.len()),
                Place::Middle => (count / 2, name_end),
                Place::Front => (0, name_end),
            };
            let row = [&vec![ordinary; first], &body[..cut], &vec![ordinary; count - first], &body[cut..]].concat();
            let room = spec.context_length.saturating_sub(before + spec.frame.after.len());
            if row.len() > room {
                let message = format!(
                    "{count} learnt vectors and the class `{name}` make {} tokens, the context has room for {room}",
                    row.len()
                );
                return Err(Error::usage(message).hint("fewer vectors (--n-ctx), or shorter names (--classnames)"));
            }
            let vectors = (0..first).chain(first + cut..cut + count).map(|at| before + at);
            learnt.push(vectors.collect::<Vec<_>>());
            rows.push(row);
        }
        let batch = spec.batch(&rows);
        let mut slots = vec![None; batch.ids.len()];
        for (class, places) in learnt.iter().enumerate() {
            places.iter().zip(0..).for_each(|(place, vector)| slots[class * batch.len + place] = Some(vector));
        }
        let tokens = task.text()?.embed(&batch.ids, batch.len)?.detach();
        let (items, len, width) = tokens.dims3()?;
        let tokens = tokens.reshape((items * len, width))?;
        Ok(Self { ids: batch.ids, len, tokens, slots, count, place, at: before })
    }

    /// The embeddings of a phrase's tokens, (tokens, width): what vectors begin as.
    pub fn phrase(task: &Task<'_>, phrase: &str) -> Result<Tensor> {
        let ids = Self::tokens(task, phrase)?;
        Ok(task.text()?.embed(&ids, ids.len())?.squeeze(0)?.detach())
    }

    /// A phrase's tokens.
    pub fn tokens(task: &Task<'_>, phrase: &str) -> Result<Vec<u32>> {
        let tokenizer = task.clip.tokenizer()?;
        let ids = tokenizer.0.encode(&tokenizer.1.clean.apply(phrase))?;
        match ids.is_empty() {
            true => Err(Error::usage(format!("the phrase `{phrase}` has no token"))),
            false => Ok(ids),
        }
    }

    /// How long the tower's token vectors are.
    pub fn width(task: &Task<'_>) -> Result<usize> {
        Ok(task.text()?.embed(&[0], 1)?.dim(2)?)
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.slots.len() / self.len.max(1)
    }

    /// The same for parts of at most `most` classes, in their order.
    pub fn parts(&self, most: usize) -> Result<Vec<Self>> {
        let part = |from: usize| {
            let places = from * self.len..(from + most.max(1)).min(self.classes()) * self.len;
            Ok(Self {
                ids: self.ids[places.clone()].to_vec(),
                slots: self.slots[places.clone()].to_vec(),
                tokens: self.tokens.narrow(0, places.start, places.len())?,
                ..*self
            })
        };
        (0..self.classes()).step_by(most.max(1)).map(part).collect()
    }

    /// How many learnt vectors there are in each prompt.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The prompts with these vectors in their places: (classes, len, width). `vectors` are (count, width) for all classes,
    /// or (classes, count, width), own ones for each.
    pub fn fill(&self, vectors: &Tensor) -> Result<Tensor> {
        let (rows, width) = self.tokens.dims2()?;
        let own = vectors.rank() == 3;
        let row = |(at, slot): (usize, &Option<u32>)| match slot {
            Some(vector) if own => (rows + at / self.len * self.count) as u32 + vector,
            Some(vector) => rows as u32 + vector,
            None => at as u32,
        };
        let index: Vec<u32> = self.slots.iter().enumerate().map(row).collect();
        let index = Tensor::from_vec(index, rows, &Device::Cpu)?.to_device(self.tokens.device())?;
        let all = Tensor::cat(&[&self.tokens, &vectors.reshape(((), width))?], 0)?;
        Ok(all.index_select(&index, 0)?.reshape((rows / self.len, self.len, width))?)
    }

    /// The prompts' embeddings (classes, dim), not normalised; `deep[i]` (count, width) takes the learnt vectors' places in
    /// front of block `i + 1`.
    ///
    /// # Errors
    /// Usage, when deep prompts are to stand elsewhere than at the beginning.
    pub fn encode(&self, tower: &TextTower, vectors: &Tensor, deep: &[Tensor]) -> Result<Tensor> {
        if !deep.is_empty() && self.place != Place::End {
            return Err(Error::usage("deep prompts stand in front of the class name: nowhere else"));
        }
        tower.forward_prompted(&self.fill(vectors)?, &self.ids, deep, self.at)
    }

    /// The same for own vectors for each of some images, (images, count, width): (images · classes, dim), the classes of an
    /// image one after another.
    pub fn encode_each(&self, tower: &TextTower, vectors: &Tensor) -> Result<Tensor> {
        let images = vectors.dim(0)?;
        let filled = (0..images).map(|i| self.fill(&vectors.get(i)?)).collect::<Result<Vec<_>>>()?;
        tower.forward_prompted(&Tensor::cat(&filled, 0)?, &self.ids.repeat(images), &[], self.at)
    }
}
