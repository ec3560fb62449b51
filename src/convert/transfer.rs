//! Tensors from one layout to another: what each one is made of, and making it when its turn has come.

use super::numbers::{self, is_float};
use super::parameters::Parameters;
use crate::error::{Error, Result};
use crate::image::Resize;
use crate::model::positions;
use crate::model::spec::{ImageSpec, Spec, VitSpec};
use crate::weights::layout::Recipe;
use crate::weights::{Files, Form, Layout, Raw};
use safetensors::tensor::Dtype;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::writer::Header;

/// The tensors that will be written, and how each is made.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    files: &'a Files,
    /// The grid that positions are brought to.
    resized: Option<Resized>,
    dtype: Option<Dtype>,
    outputs: BTreeMap<String, Output>,
}

/// New positions for another input.
#[derive(Debug)]
pub(crate) struct Resized {
    vit: VitSpec,
    /// Their tensor in the source.
    pub(crate) name: String,
}

#[derive(Debug)]
struct Output {
    header: Header,
    make: Make,
}

#[derive(Debug)]
enum Make {
    /// A tensor of the source as it is.
    Copy,
    /// A tensor of the source that was made smaller as int8, multiplied out.
    Widen,
    /// Rows of a parameter of ours, in the form of the target.
    Parameter { recipe: Recipe, rows: Option<Range<usize>>, form: Form },
}

impl<'a> Transfer<'a> {
    /// All tensors under their own names.
    ///
    /// # Errors
    /// If the positions are to be resized and are not there.
    pub(super) fn same(files: &'a Files, layout: &Layout, spec: &Spec, dtype: Option<Dtype>) -> Result<Self> {
        let resized = Resized::new(files, layout, spec)?;
        let mut transfer = Self { files, resized, dtype, outputs: BTreeMap::new() };
        for name in files.names() {
            let (Some(kind), Some(mut shape)) = (files.dtype(name), files.shape(name)) else { continue };
            let has_scale = files.contains(&format!("{name}.scale"));
            let is_scale = name.strip_suffix(".scale").is_some_and(|of| files.contains(of));
            let make = match (kind, dtype) {
                (_, Some(_)) if is_scale => continue,
                (Dtype::I8, Some(_)) if has_scale => Make::Widen,
                _ => Make::Copy,
            };
            if let Some(resized) = &transfer.resized {
                if resized.name == name {
                    shape = resized.shape(&shape);
                } else if resized.outdates(name) {
                    continue;
                }
            }
            let kind = if matches!(make, Make::Widen) { dtype.unwrap_or(kind) } else { transfer.kind(kind) };
            transfer.push(Header { name: name.to_owned(), dtype: kind, shape }, make);
        }
        Ok(transfer)
    }

    /// All parameters under the names of another layout; `shaped` gives a tensor the shape that it has there.
    ///
    /// # Errors
    /// With every tensor that is missing, misshapen or unexpected.
    pub(super) fn between(
        files: &'a Files,
        [from, to]: [&Layout; 2],
        parameters: &Parameters,
        spec: &Spec,
        shaped: fn(&str, Vec<usize>) -> Vec<usize>,
        dtype: Option<Dtype>,
    ) -> Result<Self> {
        let resized = Resized::new(files, from, spec)?;
        let mut transfer = Self { files, resized, dtype, outputs: BTreeMap::new() };
        let (mut used, mut problems) = (BTreeSet::new(), Vec::new());
        for (ours, shape) in parameters {
            let unknown = || Error::run(format!("no rule for our parameter `{ours}`"));
            let (source, target) = (from.recipe(ours).ok_or_else(unknown)?, to.recipe(ours).ok_or_else(unknown)?);
            let kind = match transfer.inspect(&source, shape) {
                Ok(kind) => transfer.kind(kind),
                Err(problem) => {
                    problems.push(problem);
                    used.extend(source.names);
                    continue;
                }
            };
            let shape = match &transfer.resized {
                Some(resized) if source.names.contains(&resized.name) => resized.shape(shape),
                _ => shape.clone(),
            };
            for (name, rows) in target.names.iter().zip(parts(&shape, target.names.len())) {
                let mut part = shape.clone();
                if let (Some(rows), Some(first)) = (&rows, part.first_mut()) {
                    *first = rows.len();
                }
                if target.form == Form::Transposed {
                    part.reverse();
                }
                let header = Header { name: name.clone(), dtype: kind, shape: shaped(ours, part) };
                let make = Make::Parameter { recipe: source.clone(), rows, form: target.form };
                transfer.push(header, make);
            }
            used.extend(source.names);
        }
        for name in files.names().filter(|name| !used.contains(*name) && !from.ignores(name)) {
            problems.push(format!("unexpected tensor `{name}` {:?}", files.shape(name).unwrap_or_default()));
        }
        if problems.is_empty() {
            return Ok(transfer);
        }
        let count = problems.len();
        problems.truncate(20);
        if count > problems.len() {
            problems.push(format!("… and {} more", count - problems.len()));
        }
        Err(Error::run(format!("the weights do not fit the configuration:\n  {}", problems.join("\n  ")))
            .hint("check that the weights and the configuration file belong together"))
    }

    /// The tensors that will be written.
    pub(super) fn headers(&self) -> Vec<Header> {
        self.outputs.values().map(|output| output.header.clone()).collect()
    }

    /// The numbers of one of them.
    pub(super) fn bytes(&self, header: &Header) -> Result<Cow<'a, [u8]>> {
        let output = &self.outputs[&header.name];
        let raw = match &output.make {
            Make::Copy => self.tensor(&header.name)?,
            Make::Widen => self.widened(&header.name)?,
            Make::Parameter { recipe, rows, form } => {
                let mut raw = self.parameter(recipe)?;
                if let Some(rows) = rows {
                    raw = numbers::rows(raw, rows.start, rows.len())?;
                }
                if *form == Form::Transposed { numbers::transposed(&raw)? } else { raw }
            }
        };
        let cast = if is_float(raw.dtype) { numbers::cast(raw, header.dtype) } else { Ok(raw) };
        cast.map(|raw| raw.bytes).map_err(|e| e.at(format!("`{}`", header.name)))
    }

    fn push(&mut self, header: Header, make: Make) {
        self.outputs.insert(header.name.clone(), Output { header, make });
    }

    /// The kind that numbers of a kind are written as.
    fn kind(&self, kind: Dtype) -> Dtype {
        self.dtype.filter(|_| is_float(kind)).unwrap_or(kind)
    }

    /// The kind of a parameter's numbers, if the source has it in this shape.
    fn inspect(&self, recipe: &Recipe, shape: &[usize]) -> Result<Dtype, String> {
        let (mut kinds, mut sum) = (BTreeSet::new(), 0);
        let mut have = Vec::new();
        for name in &recipe.names {
            let (Some(kind), Some(part)) = (self.files.dtype(name), self.files.shape(name)) else {
                return Err(format!("missing tensor `{}` {shape:?}", recipe.names.join("` + `")));
            };
            kinds.insert(kind);
            sum += part.first().copied().unwrap_or_default();
            have = part;
        }
        match recipe.form {
            Form::Plain => {}
            Form::Stacked => have.splice(0..have.len().min(1), [sum]).for_each(drop),
            Form::Transposed => have.reverse(),
        }
        let squeezed = |shape: &[usize]| shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
        if squeezed(&have) != squeezed(shape) {
            let names = recipe.names.join("` + `");
            return Err(format!("tensor `{names}` has shape {have:?}, the configuration asks for {shape:?}"));
        }
        match kinds.iter().copied().collect::<Vec<_>>()[..] {
            [kind] if is_float(kind) => Ok(kind),
            [kind] => Err(format!("tensor `{}` is stored as {kind:?}, which is no weight", recipe.names.join("` + `"))),
            _ if kinds.contains(&Dtype::F64) => Ok(Dtype::F64),
            _ => Ok(Dtype::F32),
        }
    }

    /// A parameter in our form.
    fn parameter(&self, recipe: &Recipe) -> Result<Raw<'a>> {
        match (recipe.form, &recipe.names[..]) {
            (Form::Stacked, names) => {
                numbers::stacked(names.iter().map(|name| self.tensor(name)).collect::<Result<_>>()?)
            }
            (Form::Transposed, [name, ..]) => numbers::transposed(&self.tensor(name)?),
            (_, [name, ..]) => self.tensor(name),
            (_, []) => Err(Error::run("a parameter that is made of nothing")),
        }
    }

    /// A tensor of the source, resized if it is the one that is.
    fn tensor(&self, name: &str) -> Result<Raw<'a>> {
        let raw = self.files.raw(name)?.ok_or_else(|| Error::run(format!("missing tensor `{name}`")))?;
        match &self.resized {
            Some(resized) if resized.name == name => resized.run(raw),
            _ => Ok(raw),
        }
    }

    fn widened(&self, name: &str) -> Result<Raw<'a>> {
        let cpu = candle_core::Device::Cpu;
        let tensor = self.files.read(name, candle_core::DType::F32, &cpu)?;
        let tensor = tensor.ok_or_else(|| Error::run(format!("missing tensor `{name}`")))?;
        let bytes = tensor.flatten_all()?.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(Raw { dtype: Dtype::F32, shape: tensor.dims().to_vec(), bytes: Cow::Owned(bytes) })
    }
}

impl Resized {
    /// None if the towers see the input that they were made for.
    pub(crate) fn new(files: &Files, layout: &Layout, spec: &Spec) -> Result<Option<Self>> {
        let ImageSpec::Vit(vit) = &spec.image else { return Ok(None) };
        // NaFlex resizes positions for each image; the table stays as it is.
        if vit.input_size == vit.image_size || matches!(spec.preprocess.resize, Resize::Patches { .. }) {
            return Ok(None);
        }
        let recipe = layout.recipe("image.positions").filter(|recipe| recipe.form == Form::Plain);
        let name = recipe.and_then(|recipe| recipe.names.into_iter().next()).filter(|name| files.contains(name));
        let name = name.ok_or_else(|| Error::run("the image tower has no learnt positions that could be resized"))?;
        Ok(Some(Self { vit: vit.clone(), name }))
    }

    /// Whether this is a buffer that old versions saved, of the old length.
    pub(crate) fn outdates(&self, name: &str) -> bool {
        name.ends_with("position_ids") && !name.starts_with("text")
    }

    fn grids(&self) -> [[usize; 2]; 2] {
        [self.vit.image_size, self.vit.input_size].map(|size| size.map(|side| side / self.vit.patch))
    }

    /// The shape of the new table, in the style of the old one.
    pub(crate) fn shape(&self, old: &[usize]) -> Vec<usize> {
        let [_, [rows, columns]] = self.grids();
        let mut shape = old.to_vec();
        if let [.., count, _] = &mut shape[..] {
            *count = usize::from(self.vit.class_token) + rows * columns;
        }
        shape
    }

    /// The new table in f32, by the arithmetic of the source's layout.
    pub(crate) fn run<'a>(&self, raw: Raw<'_>) -> Result<Raw<'a>> {
        let ([from, to], width) = (self.grids(), self.vit.blocks.width);
        let shape = self.shape(&raw.shape);
        let single = numbers::cast(raw, Dtype::F32)?;
        let table: Vec<f32> =
            single.bytes.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
        let lead = usize::from(self.vit.class_token) * width;
        if table.len() != lead + from[0] * from[1] * width {
            return Err(Error::run(format!("`{}` does not have the positions of {from:?} patches", self.name)));
        }
        let grid = positions::resize(&table[lead..], from, to, width, self.vit.interpolation);
        let bytes = table[..lead].iter().chain(&grid).flat_map(|x| x.to_le_bytes()).collect();
        Ok(Raw { dtype: Dtype::F32, shape, bytes: Cow::Owned(bytes) })
    }
}

/// The rows of each of `count` tensors that a parameter is cut into.
pub(super) fn parts(shape: &[usize], count: usize) -> Vec<Option<Range<usize>>> {
    let all = shape.first().copied().unwrap_or_default();
    match count {
        1 => vec![None],
        // Queries, and keys with values.
        2 => vec![Some(0..all / 3), Some(all / 3..all)],
        _ => (0..count).map(|part| Some(part * all / count..(part + 1) * all / count)).collect(),
    }
}
