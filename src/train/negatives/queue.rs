//! Features of earlier batches, kept as negatives: first in, first out (MoCo, ALBEF).
//!
//! As in ALBEF (salesforce/ALBEF, models/model_retrieval.py, commit 69e9225) the ids of the samples are kept beside them, and
//! empty slots have the id −100. There the batch must divide the queue; here it need not.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// The id in an empty slot of a saved queue.
const EMPTY: i64 = -100;

/// A ring of features.
#[derive(Clone, Debug)]
pub struct Queue {
    features: Tensor,
    ids: Vec<i64>,
    /// The slot that is written next.
    next: usize,
    /// How many slots are filled, from the first one on.
    filled: usize,
}

impl Queue {
    /// An empty queue of so many features of `dim` numbers.
    ///
    /// # Errors
    /// If there is no memory for it, or it could hold nothing.
    pub fn new(capacity: usize, dim: usize, dtype: DType, device: &Device) -> Result<Self> {
        if capacity == 0 || dim == 0 {
            return Err(Error::usage("a queue holds at least one feature"));
        }
        let features = Tensor::zeros((capacity, dim), dtype, device)?;
        Ok(Self { features, ids: vec![EMPTY; capacity], next: 0, filled: 0 })
    }

    /// How many features it can hold.
    pub fn capacity(&self) -> usize {
        self.ids.len()
    }

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// All slots (capacity, dim), constant; empty ones hold zeros. A copy: what is pushed later does not change it, so a
    /// backward pass may follow a push.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn features(&self) -> Result<Tensor> {
        Ok(self.features.copy()?.detach())
    }

    /// Those that are filled (n, dim), by slot; a copy like [`Queue::features`].
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn filled(&self) -> Result<Tensor> {
        Ok(self.features.narrow(0, 0, self.filled)?.copy()?.detach())
    }

    /// Which slots are negatives of samples with these ids: (samples, capacity), u8, 0 for empty slots and the same id.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn allowed(&self, ids: &[i64]) -> Result<Tensor> {
        let slot = |id: i64| move |(slot, other): (usize, &i64)| u8::from(slot < self.filled && *other != id);
        let mask: Vec<u8> = ids.iter().flat_map(|&id| self.ids.iter().enumerate().map(slot(id))).collect();
        Ok(Tensor::from_vec(mask, (ids.len(), self.capacity()), self.features.device())?)
    }

    /// The ids, by slot; -100 in empty ones.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// Puts features (n, dim) in, over the oldest. Of more than there are slots the last ones stay.
    ///
    /// # Errors
    /// If there are not as many ids, or the features are of another length or kind.
    pub fn push(&mut self, features: &Tensor, ids: &[i64]) -> Result<()> {
        let (count, dim) = features.dims2()?;
        let (capacity, own) = self.features.dims2()?;
        if count != ids.len() || dim != own || features.dtype() != self.features.dtype() {
            let kind = features.dtype().as_str();
            return Err(Error::run(format!(
                "{count} features of {dim} numbers ({kind}) and {} ids do not fit a queue of features of {own} numbers ({})",
                ids.len(),
                self.features.dtype().as_str(),
            )));
        }
        let mut at = count.saturating_sub(capacity);
        let features = features.detach();
        while at < count {
            let part = (count - at).min(capacity - self.next);
            self.features.slice_set(&features.narrow(0, at, part)?.contiguous()?, 0, self.next)?;
            self.ids[self.next..self.next + part].copy_from_slice(&ids[at..at + part]);
            at += part;
            self.filled = self.filled.max(self.next + part);
            self.next = (self.next + part) % capacity;
        }
        Ok(())
    }

    /// What a checkpoint keeps: `features`, `ids` and `place` (the next slot, how many are filled).
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let place = vec![self.next as i64, self.filled as i64];
        Ok(HashMap::from([
            ("features".to_owned(), self.features()?),
            ("ids".to_owned(), Tensor::from_vec(self.ids.clone(), self.capacity(), &Device::Cpu)?),
            ("place".to_owned(), Tensor::from_vec(place, 2, &Device::Cpu)?),
        ]))
    }

    /// Takes up what [`Queue::state`] gave.
    ///
    /// # Errors
    /// If it is that of a queue of another size, or none; the queue is as it was then.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let get = |name: &str| state.get(name).ok_or_else(|| Error::run(format!("a saved queue without `{name}`")));
        let (features, ids, place) = (get("features")?, get("ids")?, get("place")?);
        if features.dims() != self.features.dims() || features.dtype() != self.features.dtype() {
            let (theirs, own) = (features.dims(), self.features.dims());
            return Err(Error::run(format!("the saved queue is {theirs:?}, this one {own:?}"))
                .hint("go on with the same queue size and model"));
        }
        let ids = ids.flatten_all()?.to_vec1::<i64>()?;
        let place = place.flatten_all()?.to_vec1::<i64>()?;
        let capacity = self.capacity();
        match place.iter().map(|&x| usize::try_from(x)).collect::<Result<Vec<_>, _>>().as_deref() {
            // Slots are filled in order, so it is full or the next one is the first empty one.
            Ok(&[next, filled])
                if ids.len() == capacity && next < capacity && (filled == capacity || filled == next) =>
            {
                (self.next, self.filled) = (next, filled);
            }
            _ => return Err(Error::run("the saved queue contradicts itself")),
        }
        self.features = features.to_device(self.features.device())?.copy()?.detach();
        self.ids = ids;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn rows(ids: &[i64]) -> Tensor {
        let numbers: Vec<f32> = ids.iter().flat_map(|&id| [id as f32, 0.5]).collect();
        Tensor::from_vec(numbers, (ids.len(), 2), &Device::Cpu).unwrap()
    }

    fn content(queue: &Queue) -> Vec<i64> {
        let features = queue.features().unwrap().to_vec2::<f32>().unwrap();
        let filled = features.iter().zip(queue.ids()).take(queue.len());
        filled.map(|(row, &id)| if row == &[id as f32, 0.5] { id } else { panic!("{row:?} for {id}") }).collect()
    }

    proptest! {
        #[test]
        fn the_oldest_leave_first(sizes in proptest::collection::vec(1usize..12, 0..12), capacity in 1usize..9, cut in 0usize..12) {
            let new = || Queue::new(capacity, 2, DType::F32, &Device::Cpu).unwrap();
            let (mut queue, mut want, mut next) = (new(), VecDeque::new(), 0);
            for (step, size) in sizes.into_iter().enumerate() {
                let ids: Vec<i64> = (next..next + size as i64).collect();
                next += size as i64;
                queue.push(&rows(&ids), &ids).unwrap();
                want.extend(ids);
                want.drain(..want.len().saturating_sub(capacity));
                let mut content = content(&queue);
                content.sort_unstable();
                prop_assert_eq!(content, Vec::from(want.clone()));
                if step == cut {
                    // A run that goes on from a checkpoint has the same queue.
                    let mut other = new();
                    other.restore(&queue.state().unwrap()).unwrap();
                    queue = other;
                }
            }
        }
    }

    #[test]
    fn empty_slots_and_the_same_id_are_no_negatives() {
        let mut queue = Queue::new(4, 2, DType::F32, &Device::Cpu).unwrap();
        queue.push(&rows(&[7, -100]), &[7, -100]).unwrap();
        let before = queue.features().unwrap();
        let allowed = |queue: &Queue, ids: &[i64]| queue.allowed(ids).unwrap().to_vec2::<u8>().unwrap();
        assert_eq!(allowed(&queue, &[7, 1, -100]), [[0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]);
        queue.push(&rows(&[1, 7, 8]), &[1, 7, 8]).unwrap();
        assert_eq!(queue.ids(), [8, -100, 1, 7]);
        assert_eq!(allowed(&queue, &[7]), [[1, 1, 1, 0]]);
        // What was read before is as it was.
        assert_eq!(before.to_vec2::<f32>().unwrap()[0], [7.0, 0.5]);
    }

    #[test]
    fn what_does_not_fit() {
        let mut queue = Queue::new(4, 2, DType::F32, &Device::Cpu).unwrap();
        assert!(queue.push(&rows(&[1, 2]), &[1]).is_err());
        assert!(queue.push(&rows(&[1]).to_dtype(DType::F64).unwrap(), &[1]).is_err());
        let state = Queue::new(5, 2, DType::F32, &Device::Cpu).unwrap().state().unwrap();
        assert_eq!(queue.restore(&state).unwrap_err().to_string(), "the saved queue is [5, 2], this one [4, 2]");
        for place in [[4i64, 4], [-1, 0], [1, 2], [0, 5]] {
            let mut state = queue.state().unwrap();
            state.insert("place".to_owned(), Tensor::new(&place, &Device::Cpu).unwrap());
            assert!(queue.restore(&state).is_err(), "{place:?}");
        }
        assert!(queue.restore(&HashMap::new()).is_err());
        assert!(Queue::new(0, 2, DType::F32, &Device::Cpu).is_err());
    }
}
