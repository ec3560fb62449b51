//! Hands parameters to the towers and keeps account of every tensor.

use super::mapped::Stacked;
use super::trained::{self, Trained, View};
use super::{Files, Form, Layout, Recipe};
use crate::error::{Error, Result};
use crate::ops::gemm::Packed;
use crate::ops::{LayerNorm, Linear, LowRank};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// A checkpoint seen under our parameter names.
#[derive(Debug)]
pub struct Store {
    files: Files,
    layout: Layout,
    dtype: DType,
    device: Device,
    int8: bool,
    account: Mutex<Account>,
    trained: Option<Trained>,
}

#[derive(Debug, Default)]
struct Account {
    /// Tensors on disk that a tower took.
    used: BTreeSet<String>,
    /// What was wrong with parameters that a tower asked for.
    problems: Vec<String>,
}

impl Store {
    /// Reads parameters from `files`, whose names follow `layout`, as `dtype` on `device`.
    pub fn new(files: Files, layout: Layout, dtype: DType, device: Device) -> Self {
        Self { files, layout, dtype, device, int8: false, account: Mutex::default(), trained: None }
    }

    /// The files behind the store.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// What names the files have for our parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How many numbers belong to parameters below `prefix.`.
    pub fn parameters(&self, prefix: &str) -> usize {
        let below = |ours: &str| ours.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
        let ours = self.files.names().filter(|name| self.layout.ours(name).is_some_and(|ours| below(&ours)));
        // The scales of int8 rows are part of how a parameter is stored.
        let ours = ours.filter(|name| !name.strip_suffix(".scale").is_some_and(|of| self.files.contains(of)));
        ours.filter_map(|name| self.files.shape(name)).map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// The kind of numbers that the towers compute with.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The same store, whose larger maps compute in 8-bit integers: for towers that nothing trains.
    #[must_use]
    pub fn with_int8(self, int8: bool) -> Self {
        Self { int8, ..self }
    }

    /// Whether the larger maps compute in 8-bit integers.
    pub fn is_int8(&self) -> bool {
        self.int8 && self.trained.is_none()
    }

    /// The name of what the towers compute with: `f32`, `f16`, `bf16`, `f64` or `int8`.
    pub fn precision(&self) -> &'static str {
        if self.is_int8() { "int8" } else { self.dtype.as_str() }
    }

    /// Where the towers compute.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The parameters whose names begin with `prefix.`.
    pub fn params(&self, prefix: &str) -> Params<'_> {
        self.view(prefix, View::Tracked)
    }

    /// The same, seen in another way.
    pub fn view<'a>(&'a self, prefix: &str, view: View<'a>) -> Params<'a> {
        Params { store: self, prefix: prefix.to_owned(), view }
    }

    /// What is trained, if anything is.
    pub fn trained(&self) -> Option<&Trained> {
        self.trained.as_ref()
    }

    /// Makes variables of the tensors of these names on disk, and prepares for towers to be built again and again.
    pub fn train<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> Result<&mut Trained> {
        let mut all = Trained::default();
        for name in names {
            let tensor = self.files.read(name, self.dtype, &self.device)?;
            let tensor = tensor.ok_or_else(|| Error::run(format!("the checkpoint has no tensor `{name}`")))?;
            all.vars.insert(name.to_owned(), trained::variable(&tensor, self.dtype, &self.device)?);
        }
        Ok(self.trained.insert(all))
    }

    /// The tensors on disk that belong to a parameter of ours: both names and the shape.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, String, Vec<usize>)> {
        let scale = |name: &str| name.strip_suffix(".scale").is_some_and(|of| self.files.contains(of));
        let names = self.files.names().filter(move |name| !scale(name) && !self.layout.ignores(name));
        names.filter_map(|name| Some((name, self.layout.ours(name)?, self.files.shape(name)?)))
    }

    /// Our name for a tensor on disk, and for the factors of its low-rank change.
    pub fn ours(&self, name: &str) -> Option<String> {
        let tensor = name.strip_suffix(".lora_A").or_else(|| name.strip_suffix(".lora_B")).unwrap_or(name);
        self.layout.ours(tensor)
    }

    /// A tensor on disk as it is now: trained, changed by its adapter, or as it was.
    pub fn current(&self, name: &str, view: View<'_>) -> Result<Option<Tensor>> {
        let Some(tensor) = self.tensor(name, view)? else { return Ok(None) };
        let tensor = tensor.detach();
        Ok(Some(match self.trained.as_ref().and_then(|trained| trained.adapter(name, view)) {
            Some((a, b, scale)) => (tensor + (b.matmul(&a)? * scale)?.detach())?,
            None => tensor,
        }))
    }

    /// A tensor on disk, without the change that its adapter makes.
    fn tensor(&self, name: &str, view: View<'_>) -> Result<Option<Tensor>> {
        if let Some(tensor) = self.trained.as_ref().and_then(|trained| trained.get(name, view)) {
            return Ok(Some(tensor));
        }
        let tensor = self.files.read(name, self.dtype, &self.device)?;
        if let (Some(trained), Some(tensor)) = (&self.trained, &tensor) {
            trained.keep(name, tensor);
        }
        Ok(tensor)
    }

    /// Fails when a tensor of the files belongs to no parameter that a rule knows, and when one that belongs below
    /// `prefix.` was asked for and not found, has another shape, or was not asked for. Call it after a tower has taken
    /// its parameters.
    pub fn check(&self, prefix: &str) -> Result<()> {
        let mut account = self.account.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut problems = std::mem::take(&mut account.problems);
        for name in self.files.names() {
            let scaled = name.strip_suffix(".scale").is_some_and(|of| self.files.contains(of));
            if account.used.contains(name) || scaled || self.layout.ignores(name) {
                continue;
            }
            match self.layout.ours(name) {
                Some(ours) if !ours.starts_with(prefix) => {}
                _ => problems
                    .push(format!("unexpected tensor `{name}` {:?}", self.files.shape(name).unwrap_or_default())),
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        let count = problems.len();
        problems.truncate(20);
        if count > problems.len() {
            problems.push(format!("… and {} more", count - problems.len()));
        }
        Err(Error::run(format!("the weights do not fit the configuration:\n  {}", problems.join("\n  ")))
            .hint("check that the weights and the configuration file belong together"))
    }

    /// The tensor on disk for our parameter, in our form but of any shape.
    fn read(&self, ours: &str, view: View<'_>) -> Result<Option<(Tensor, String)>> {
        let Some(recipe) = self.layout.recipe(ours) else { return Ok(None) };
        let mut parts = Vec::new();
        for name in &recipe.names {
            match self.tensor(name, view)? {
                Some(part) => parts.push(part),
                None => return Ok(None),
            }
        }
        let label = recipe.names.join("` + `");
        self.account.lock().unwrap_or_else(std::sync::PoisonError::into_inner).used.extend(recipe.names);
        let tensor = match recipe.form {
            Form::Plain => parts.swap_remove(0),
            Form::Stacked => Tensor::cat(&parts, 0).map_err(|e| Error::run(e).at(format!("`{label}`")))?,
            Form::Transposed => parts[0].t().and_then(|t| t.contiguous()).map_err(|e| Error::run(e).at(&label))?,
        };
        Ok(Some((tensor, label)))
    }

    fn problem(&self, text: String) {
        self.account.lock().unwrap_or_else(std::sync::PoisonError::into_inner).problems.push(text);
    }
}

/// The parameters below one name.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    store: &'a Store,
    prefix: String,
    view: View<'a>,
}

impl Params<'_> {
    /// The parameters below a longer name.
    #[must_use]
    pub fn sub(&self, name: impl std::fmt::Display) -> Self {
        Self { store: self.store, prefix: self.full(name), view: self.view }
    }

    /// The parameter of this name and shape. If it is missing or misshapen, that is noted for [`Store::check`] and
    /// zeros take its place, so that all problems are reported at once.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        match self.optional(name, shape)? {
            Some(tensor) => Ok(tensor),
            None => {
                let full = self.full(name);
                let theirs = match self.store.layout.recipe(&full) {
                    Some(recipe) => recipe.names.join("` + `"),
                    None => full,
                };
                self.store.problem(format!("missing tensor `{theirs}` {shape:?}"));
                self.zeros(shape)
            }
        }
    }

    /// Like [`Params::get`], but what is missing or misshapen is an error at once: for parameters that are computed with
    /// when a tower loads, which made-up zeros would only make slow.
    pub fn require(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let theirs = || match self.store.layout.recipe(&self.full(name)) {
            Some(recipe) => recipe.names.join("` + `"),
            None => self.full(name),
        };
        let fit =
            |message| Error::run(message).hint("check that the weights and the configuration file belong together");
        match self.any_shape(name)? {
            None => Err(fit(format!("missing tensor `{}` {shape:?}", theirs()))),
            Some(tensor) if squeezed(tensor.dims()) == squeezed(shape) => Ok(tensor.reshape(shape)?),
            Some(tensor) => {
                let message = format!("tensor `{}` has shape {:?}, not {shape:?}", theirs(), tensor.dims());
                Err(fit(message))
            }
        }
    }

    /// The parameter of this name, if the checkpoint has it; its shape must fit all the same.
    pub fn optional(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let Some((tensor, label)) = self.store.read(&self.full(name), self.view)? else { return Ok(None) };
        if squeezed(tensor.dims()) == squeezed(shape) {
            return Ok(Some(tensor.reshape(shape)?));
        }
        self.store
            .problem(format!("tensor `{label}` has shape {:?}, the configuration asks for {shape:?}", tensor.dims()));
        self.zeros(shape).map(Some)
    }

    /// Whether the checkpoint has the parameter.
    pub fn has(&self, name: &str) -> bool {
        let recipe = self.store.layout.recipe(&self.full(name));
        recipe.is_some_and(|recipe| recipe.names.iter().all(|name| self.store.files.contains(name)))
    }

    /// The shape that the checkpoint gives to a parameter which is one tensor there.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.store.layout.recipe(&self.full(name))?.names.as_slice() {
            [name] => self.store.files.shape(name),
            _ => None,
        }
    }

    /// The parameter of this name in whatever shape it has.
    pub fn any_shape(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.store.read(&self.full(name), self.view)?.map(|(tensor, _)| tensor))
    }

    /// `NAME.weight` (outputs, inputs) and `NAME.bias`, which must be there if `bias` says so.
    pub fn linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear> {
        let bias = || if bias { self.get(&format!("{name}.bias"), &[outputs]).map(Some) } else { Ok(None) };
        self.linear_with(name, outputs, inputs, bias)
    }

    /// `NAME.weight` (outputs, inputs), with its low-rank changes, and this bias.
    pub fn linear_with(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        bias: impl FnOnce() -> Result<Option<Tensor>>,
    ) -> Result<Linear> {
        let name = format!("{name}.weight");
        let full = self.full(&name);
        let make = || Ok(Linear::new(self.get(&name, &[outputs, inputs])?, None));
        let (Some(trained), Some(recipe)) = (&self.store.trained, self.store.layout.recipe(&full)) else {
            return Ok(make()?.with_bias(bias()?));
        };
        let linear = match recipe.names.iter().any(|name| trained.vars.contains_key(name)) {
            true => match self.parts(&recipe, outputs, inputs)? {
                Some(parts) => Linear::stacked(parts)?,
                None => make()?,
            },
            // Packed once, though towers are built at each step.
            false => trained.frozen_linear(&full, make)?,
        };
        Ok(linear.with_bias(bias()?).with_low_rank(self.low_rank(&recipe, trained)?))
    }

    /// The parameters that make up a weight one below the other, if it is made of several and they fit.
    fn parts(&self, recipe: &Recipe, outputs: usize, inputs: usize) -> Result<Option<Vec<Tensor>>> {
        if recipe.form != Form::Stacked {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for name in &recipe.names {
            parts.extend(self.store.tensor(name, self.view)?);
        }
        let rows: usize =
            parts.iter().filter(|part| part.dims().last() == Some(&inputs)).map(|part| part.dims()[0]).sum();
        if parts.len() != recipe.names.len() || rows != outputs || parts.iter().any(|part| part.rank() != 2) {
            // The whole weight says what is wrong with it.
            return Ok(None);
        }
        self.store.account.lock().unwrap_or_else(std::sync::PoisonError::into_inner).used.extend(recipe.names.clone());
        Ok(Some(parts))
    }

    /// The same for a map that many rows go through: see [`Params::compact`].
    pub fn compact_linear(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        bias: impl FnOnce() -> Result<Option<Tensor>>,
    ) -> Result<Linear> {
        match self.packed(&format!("{name}.weight"), outputs, inputs) {
            Some(packed) => Ok(Linear::of_packed(packed, bias()?)?),
            None => self.compact(self.linear_with(name, outputs, inputs, bias)?),
        }
    }

    /// A weight that is read where it lies in the files, where it lies there as the kernel takes it, and nothing trains it.
    fn packed(&self, name: &str, outputs: usize, inputs: usize) -> Option<Packed> {
        let store = self.store;
        if store.trained.is_some() || store.int8 || store.dtype != DType::F32 || !store.device.is_cpu() {
            return None;
        }
        let recipe = store.layout.recipe(&self.full(name)).filter(|recipe| match recipe.form {
            Form::Plain => recipe.names.len() == 1,
            Form::Stacked => true,
            _ => false,
        })?;
        let part = |name: &String| match store.files.shape(name)?.as_slice() {
            [_, k] if *k == inputs => store.files.mapped_f32(name),
            _ => None,
        };
        let parts = Stacked(recipe.names.iter().map(part).collect::<Option<_>>()?);
        let packed = Packed::of_source(Arc::new(parts), inputs).filter(|packed| packed.shape() == (inputs, outputs))?;
        store.account.lock().unwrap_or_else(std::sync::PoisonError::into_inner).used.extend(recipe.names);
        Some(packed)
    }

    /// A map that many rows go through, in the kernel's layout alone unless it is trained, and in 8-bit integers if the
    /// towers compute with them. Maps of one row an item stay as they are: they cost little, and the embedding is what
    /// they give.
    pub fn compact(&self, linear: Linear) -> Result<Linear> {
        if self.store.trained.is_some() {
            return Ok(linear);
        }
        // Files are let go at once, so that a weight is in memory once, and not twice.
        self.store.files.release();
        Ok(if self.store.int8 { linear.quantized()?.compact()? } else { linear.compact()? })
    }

    /// The low-rank changes of a map that is made of these tensors.
    fn low_rank(&self, recipe: &Recipe, trained: &Trained) -> Result<Vec<LowRank>> {
        let mut changes = Vec::new();
        let mut first = 0;
        for name in &recipe.names {
            let rows = self.store.files.shape(name).and_then(|shape| shape.first().copied()).unwrap_or(0);
            if let Some((a, b, scale)) = trained.adapter(name, self.view) {
                let dropout = trained.dropout_of(name);
                if recipe.form == Form::Transposed {
                    // So is the change of a matrix that is stored transposed: (B A)ᵀ = Aᵀ Bᵀ.
                    let (a, b) = (b.t()?.contiguous()?, a.t()?.contiguous()?);
                    changes.push(LowRank { rows: 0..b.dim(0)?, a, b, scale, dropout });
                    continue;
                }
                changes.push(LowRank { rows: first..first + rows, a, b, scale, dropout });
            }
            first += rows;
        }
        Ok(changes)
    }

    /// `NAME.weight` and `NAME.bias` of a layer norm.
    pub fn layer_norm(&self, name: &str, width: usize, eps: f64) -> Result<LayerNorm> {
        let get = |part| self.get(&format!("{name}.{part}"), &[width]);
        Ok(LayerNorm { weight: get("weight")?, bias: get("bias")?, eps })
    }

    /// Whether activations are to be computed again in the backward pass instead of being kept.
    pub fn checkpointing(&self) -> bool {
        self.store.trained.as_ref().is_some_and(|trained| trained.checkpointing)
    }

    /// Where the towers compute.
    pub fn device(&self) -> &Device {
        &self.store.device
    }

    /// The kind of numbers that the towers compute with.
    pub fn dtype(&self) -> DType {
        self.store.dtype
    }

    fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        // A parameter of gigabytes that is not there need not be made up.
        if shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n)).is_none_or(|all| all > 1 << 30) {
            return Err(Error::run(format!("the configuration asks for a parameter {} of {shape:?}", self.prefix)));
        }
        Ok(Tensor::zeros(shape, self.store.dtype, &self.store.device)?)
    }

    fn full(&self, name: impl std::fmt::Display) -> String {
        format!("{}.{name}", self.prefix)
    }
}

/// A shape without its ones: a bias of (1, 1, width) is one of (width).
fn squeezed(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&n| n != 1).collect()
}
