//! PRE: learnt words that an encoder relates to each other (Pham Minh Anh et al. 2023).

use super::coop::{CoOp, EMBEDDED_ONCE};
use super::{Entry, Method, Needs, Options, SGD, Sees, Setting};
use crate::error::{Error, Result};
use crate::ops::{Activation, Linear, normalize};
use crate::train::init::draw::Draw;
use crate::tune::Task;
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "pre",
    trains: "the words around a class name, and a small recurrent net that relates them",
    source: "arXiv 2309.07760; minhanh151/PRE: trainers/pre.py, scripts/base2new_train.sh",
    differs: EMBEDDED_ONCE,
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[Setting {
        name: "mlp",
        default: 0.0,
        range: (0.0, 1.0),
        help: "1: a net that sees each word for itself",
    }],
    recipe: SGD,
    prepare: None,
    build: |task, options| Ok(Box::new(Pre::new(task, options)?)),
};

/// What lies between the two layers of the net that sees each word for itself.
const HIDDEN: usize = 64;

struct Pre {
    words: CoOp,
    mlp: bool,
    /// The encoder's parameters, named as torch names them.
    encoder: BTreeMap<String, Var>,
}

impl Pre {
    fn new(task: &Task<'_>, options: &Options) -> Result<Self> {
        let words = CoOp::new(task, options, 4, "a photo of a")?;
        let width = words.ctx.dim(words.ctx.rank() - 1)?;
        let (mlp, half) = (options.count("mlp") == 1, width / 2);
        if !mlp && half * 2 != width {
            return Err(Error::usage(format!("pre halves the token width, which is {width}"))
                .hint("its setting mlp=1 asks for another net"));
        }
        let mut shapes = Vec::new();
        if mlp {
            for (name, outputs, inputs) in [("mlp.0", HIDDEN, width), ("mlp.2", width, HIDDEN)] {
                shapes.push((format!("{name}.weight"), vec![outputs, inputs], inputs));
                shapes.push((format!("{name}.bias"), vec![outputs], inputs));
            }
        } else {
            for way in ["", "_reverse"] {
                shapes.push((format!("lstm.weight_ih_l0{way}"), vec![4 * half, width], half));
                shapes.push((format!("lstm.weight_hh_l0{way}"), vec![4 * half, half], half));
                shapes.push((format!("lstm.bias_ih_l0{way}"), vec![4 * half], half));
                shapes.push((format!("lstm.bias_hh_l0{way}"), vec![4 * half], half));
            }
        }
        let draw = |(name, shape, inputs): (String, Vec<usize>, usize)| -> Result<_> {
            let var = options.draw(task, Draw::torch(inputs), &name, &shape)?;
            Ok((name, var))
        };
        Ok(Self { words, mlp, encoder: shapes.into_iter().map(draw).collect::<Result<_>>()? })
    }

    fn part(&self, name: &str) -> Result<Tensor> {
        let var = self.encoder.get(name).ok_or_else(|| Error::run(format!("`{name}` is missing")))?;
        Ok(var.as_tensor().clone())
    }

    /// The words and what the encoder makes of them, `V + E(V)`: in the shape of `ctx`.
    fn vectors(&self) -> Result<Tensor> {
        let ctx = self.words.ctx.as_tensor();
        if self.mlp {
            let layer = |name: &str| -> Result<Linear> {
                Ok(Linear::new(self.part(&format!("{name}.weight"))?, Some(self.part(&format!("{name}.bias"))?)))
            };
            let hidden = layer("mlp.0")?.forward(ctx, Activation::Relu)?;
            return Ok((ctx + layer("mlp.2")?.forward(&hidden, Activation::Identity)?)?);
        }
        let sequences = if ctx.rank() == 2 { ctx.unsqueeze(0)? } else { ctx.clone() };
        let both = Tensor::cat(&[&self.lstm(&sequences, false)?, &self.lstm(&sequences, true)?], 2)?;
        Ok((ctx + both.reshape(ctx.shape())?)?)
    }

    /// One way of `torch.nn.LSTM` over sequences (items, steps, width): (items, steps, width / 2).
    fn lstm(&self, x: &Tensor, reverse: bool) -> Result<Tensor> {
        let way = if reverse { "_reverse" } else { "" };
        let part = |name: &str| self.part(&format!("lstm.{name}_l0{way}"));
        let inputs = Linear::new(part("weight_ih")?, Some(part("bias_ih")?)).forward(x, Activation::Identity)?;
        let recurrent = Linear::new(part("weight_hh")?, Some(part("bias_hh")?));
        let (items, steps, gates) = inputs.dims3()?;
        let half = gates / 4;
        let mut hidden = Tensor::zeros((items, half), x.dtype(), x.device())?;
        let mut cell = hidden.clone();
        let mut out = Vec::with_capacity(steps);
        for step in 0..steps {
            let at = if reverse { steps - 1 - step } else { step };
            let all = (inputs.narrow(1, at, 1)?.squeeze(1)? + recurrent.forward(&hidden, Activation::Identity)?)?;
            let gate = |i: usize| all.narrow(1, i * half, half);
            let (input, forget, candidate, output) =
                (sigmoid(&gate(0)?)?, sigmoid(&gate(1)?)?, gate(2)?.tanh()?, sigmoid(&gate(3)?)?);
            cell = ((forget * &cell)? + (input * candidate)?)?;
            hidden = (output * cell.tanh()?)?;
            out.push(hidden.clone());
        }
        if reverse {
            out.reverse();
        }
        Ok(Tensor::stack(&out, 1)?)
    }
}

/// `1 / (1 + exp(-x))`, which is `(tanh(x / 2) + 1) / 2`.
fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    (x * 0.5)?.tanh()?.affine(0.5, 0.5)
}

impl Method for Pre {
    fn params(&self) -> BTreeMap<String, Var> {
        self.words.params().into_iter().chain(self.encoder.clone()).collect()
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        Ok(normalize(&self.words.rows(task, &self.vectors()?)?)?)
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![("ctx".to_owned(), self.vectors()?.detach())])
    }
}
