//! What other models make of a batch: the start, a teacher, a moving average.

use super::passes::chunks;
use super::{Batch, Stepper, split};
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::train::objective::Embeddings;
use crate::train::towers::{Stream, Tower};
use crate::weights::View;
use candle_core::{DType, Tensor};

impl Stepper<'_> {
    /// What another model gives to the batch.
    pub(super) fn others(&self, model: Option<&Clip>, batch: &Batch) -> Result<Option<Embeddings>> {
        let Some(clip) = model else { return Err(Error::run("the objective needs a model that is not there")) };
        let ids = self.own_ids(&self.ids(clip, batch)?, batch);
        let (image, text) = (Tower::Image((*clip.image()?).clone()), Tower::Text((*clip.text()?).clone()));
        let images = Stream::Images { bytes: &batch.pixels, preprocess: clip.preprocess() };
        let scale = f64::from(clip.head()?.scale);
        self.constants(clip, [&image, &text], [&images, &Stream::Texts(&ids)], batch, scale).map(Some)
    }

    /// What the moving average of the weights gives to the batch.
    pub(super) fn averaged(
        &self,
        batch: &Batch,
        images: &Stream<'_>,
        texts: &Stream<'_>,
    ) -> Result<Option<Embeddings>> {
        let view = match self.average {
            Some(average) => View::Instead(average),
            None => View::Constant,
        };
        let image = Tower::build(self.clip, images, view)?;
        let text = Tower::build(self.clip, texts, view)?;
        let scale = self.clip.head_tensors(view)?.0.exp()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        self.constants(self.clip, [&image, &text], [images, texts], batch, scale).map(Some)
    }

    fn constants(
        &self,
        clip: &Clip,
        towers: [&Tower; 2],
        streams: [&Stream<'_>; 2],
        batch: &Batch,
        scale: f64,
    ) -> Result<Embeddings> {
        let embed = |i: usize| -> Result<Tensor> {
            let mut parts = Vec::new();
            for range in chunks(streams[i].len(), self.micro_batch) {
                parts.push(towers[i].forward(clip, streams[i], range, false)?.embeddings.detach());
            }
            let own = Tensor::cat(&parts, 0)?.to_dtype(self.clip.store().dtype())?;
            Ok(self.gather(&own)?.0)
        };
        let images = split(&embed(0)?, 1 + batch.neg_images)?.0;
        let (texts, neg_texts) = split(&embed(1)?, 1 + batch.negatives())?;
        Ok(Embeddings { images, texts, neg_texts, scale })
    }
}
