//! Images with classes, and what a frozen tower makes of them.

use super::Task;
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::image::augment::Augment;
use crate::image::{DecodeOptions, decode};
use crate::train::data::Place;
use crate::train::random::keyed;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Images with their classes.
#[derive(Clone, Debug, Default)]
pub struct Photos {
    /// What each is called.
    pub ids: Vec<String>,
    /// Where each is.
    pub places: Vec<Place>,
    /// The class of each.
    pub labels: Vec<u32>,
    /// How files are decoded.
    pub decode: DecodeOptions,
}

/// Features of images with their classes.
#[derive(Clone, Debug, Default)]
pub struct Support {
    /// The class of each image.
    pub labels: Vec<u32>,
    /// What the tower makes of each view of the images: (images, dim), not normalised. The first view is the plain image,
    /// unless there are augmented ones.
    pub views: Vec<Tensor>,
}

/// An augmented view of all images.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// How an image is changed.
    pub augment: &'a Augment,
    /// What the change follows from, with the image's number.
    pub seed: [u64; 2],
}

impl Photos {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Normalised pixels (items, 3, height, width) of the images of these numbers, changed as `view` says.
    ///
    /// # Errors
    /// Run, when an image cannot be read.
    pub fn pixels(&self, task: &Task<'_>, index: &[u32], view: Option<View<'_>>) -> Result<Tensor> {
        let preprocess = task.clip.preprocess();
        let images: Vec<Vec<f32>> = index
            .par_iter()
            .map(|&i| {
                let bytes = self.bytes(task, i as usize, view);
                let bytes = bytes.map_err(|e| Error::run(e.to_string()).at(&self.ids[i as usize]))?;
                Ok(preprocess.normalize(&bytes))
            })
            .collect::<Result<_>>()?;
        let ([height, width], store) = (preprocess.size, task.clip.store());
        let pixels = Tensor::from_vec(images.concat(), (index.len(), 3, height, width), &Device::Cpu)?;
        Ok(pixels.to_device(store.device())?.to_dtype(store.dtype())?)
    }

    /// What `tower` makes of all images, (images, dim), so many at a time; `tick` hears how many are done.
    pub fn embed(
        &self,
        task: &Task<'_>,
        view: Option<View<'_>>,
        batch: usize,
        tick: &dyn Fn(usize) -> Result<()>,
        tower: &dyn Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut rows = Vec::new();
        let index: Vec<u32> = (0..self.len() as u32).collect();
        for index in index.chunks(batch.max(1)) {
            rows.push(tower(&self.pixels(task, index, view)?)?.detach());
            tick(index.len())?;
        }
        Ok(Tensor::cat(&rows, 0)?)
    }

    fn bytes(&self, task: &Task<'_>, i: usize, view: Option<View<'_>>) -> Result<Vec<u8>, ItemError> {
        let file = self.places[i].read(self.decode.max_bytes)?;
        let work = || {
            let raster = decode(&file, &self.decode)?;
            let bytes = match view {
                None => task.clip.preprocess().bytes(&raster)?,
                Some(View { augment, seed: [seed, epoch] }) => {
                    let (seed, epoch) = (seed.to_le_bytes(), epoch.to_le_bytes());
                    let mut rng = keyed("clip-cli augmented view", &[&seed, &epoch, self.ids[i].as_bytes()]);
                    augment.run(&raster, task.clip.preprocess(), &mut rng)?
                }
            };
            Ok(bytes.values)
        };
        // A bug in there must not take the run with it without a word.
        catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(ItemError::new(ItemKind::Corrupt, "the image could not be preprocessed")))
    }
}

impl Support {
    /// The features of all images in the view that an epoch (from 0) sees.
    pub fn view(&self, epoch: usize) -> Result<&Tensor> {
        let views = self.views.len().max(1);
        self.views.get(epoch % views).ok_or_else(|| Error::run("there are no features"))
    }

    /// The mean over views of each image's features, (images, dim), not normalised.
    pub fn mean(&self) -> Result<Tensor> {
        Ok(Tensor::stack(&self.views, 0)?.mean(0)?)
    }

    /// Which images each class has.
    pub fn of_class(&self, classes: usize) -> Vec<Vec<u32>> {
        let mut all = vec![Vec::new(); classes];
        self.labels.iter().zip(0..).for_each(|(&label, i)| all[label as usize].push(i));
        all
    }
}
