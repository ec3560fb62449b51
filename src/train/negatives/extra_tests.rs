use super::*;
use crate::ops::normalize;
use rand::{Rng, SeedableRng};

const DIM: usize = 6;

fn unit(rows: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let numbers: Vec<f64> = (0..rows * DIM).map(|_| rng.random::<f64>() - 0.5).collect();
    normalize(&Tensor::from_vec(numbers, (rows, DIM), &Device::Cpu).unwrap()).unwrap()
}

fn keys(images: &[i64]) -> Vec<PairKeys> {
    images.iter().map(|&id| [id, 100 + id, -1, -1]).collect()
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

/// The columns of a batch whose images and captions follow from the seed.
fn columns(extra: &mut Extra, ids: &[i64], seed: u64, step: u64, rng: &mut ChaCha8Rng) -> [Columns; 2] {
    let (images, texts) = (unit(ids.len(), seed), unit(ids.len(), seed + 50));
    extra.columns(Seen { sides: [&images, &texts], keys: &keys(ids), scale: 10.0, step }, rng).unwrap()
}

fn rows(x: &Tensor) -> Vec<Vec<f64>> {
    x.reshape(((), DIM)).unwrap().to_vec2().unwrap()
}

#[test]
fn a_queue_gives_the_pairs_of_earlier_batches() {
    let mut extra = Extra::new(Sources { queue: 5, ..Sources::default() }, 0).unwrap();
    let first = columns(&mut extra, &[1, 2, 3], 1, 0, &mut rng());
    assert!(first.iter().all(|side| side.shared.is_none() && side.there.is_empty()));
    assert!(first[0].products(&unit(3, 9)).unwrap().is_none());
    let [of_images, of_texts] = columns(&mut extra, &[3, 4], 2, 1, &mut rng());
    // Images meet captions, and captions meet images.
    assert_eq!(rows(of_images.shared.as_ref().unwrap()), rows(&unit(3, 51)));
    assert_eq!(rows(of_texts.shared.as_ref().unwrap()), rows(&unit(3, 1)));
    // Not of their own image.
    for side in [&of_images, &of_texts] {
        assert_eq!(side.there, [true, true, false, true, true, true]);
    }
    let products = of_images.products(&unit(2, 9)).unwrap().unwrap();
    let want = unit(2, 9).matmul(&unit(3, 51).t().unwrap()).unwrap();
    assert_eq!(products.to_vec2::<f64>().unwrap(), want.to_vec2::<f64>().unwrap());
    // The oldest leaves for the sixth.
    columns(&mut extra, &[6], 3, 2, &mut rng());
    let [of_images, _] = columns(&mut extra, &[7], 4, 3, &mut rng());
    let queue = rows(of_images.shared.as_ref().unwrap());
    assert!(queue.len() == 5 && queue[0] == rows(&unit(1, 53))[0] && queue[1] == rows(&unit(3, 51))[1]);
    // No larger than the data.
    assert_eq!(Extra::new(Sources { queue: 5, ..Sources::default() }, 3).unwrap().sources().queue, 3);
    assert!(Extra::new(Sources::default(), 0).is_err());
}

#[test]
fn what_is_the_same_is_no_negative() {
    let pair: PairKeys = [1, 2, 3, 4];
    for (other, want) in
        [([1, 9, 9, 9], true), ([9, 2, 9, 9], true), ([9, 9, 3, 9], true), ([9, 9, 9, 4], true), ([2, 1, 4, 3], false)]
    {
        assert_eq!(same(&pair, &other), want, "{other:?}");
    }
    // Not knowing the class is no class.
    assert!(!same(&[1, 2, -1, -1], &[3, 4, -1, -1]));
}

#[test]
fn drawn_negatives_are_of_batch_and_queue_and_each_once() {
    let sources = Sources { queue: 8, sample: 3, mochi: None };
    let mut extra = Extra::new(sources, 0).unwrap();
    columns(&mut extra, &[1, 2], 1, 0, &mut rng());
    let [of_images, _] = columns(&mut extra, &[2, 3, 4], 2, 1, &mut rng());
    assert!(of_images.shared.is_none() && of_images.there == [true; 9]);
    let pool = [rows(&unit(3, 52)), rows(&unit(2, 51))].concat();
    let ids = [2, 3, 4, 1, 2];
    for (drawn, own) in rows(of_images.own.as_ref().unwrap()).chunks(3).zip([2, 3, 4]) {
        let mut at: Vec<_> = drawn.iter().map(|row| pool.iter().position(|other| other == row).unwrap()).collect();
        assert!(at.iter().all(|&at| ids[at] != own), "{at:?} for {own}");
        at.sort_unstable();
        at.dedup();
        assert_eq!(at.len(), 3);
    }
    // Where there are fewer, the rest does not count.
    let mut extra = Extra::new(sources, 0).unwrap();
    let [of_images, _] = columns(&mut extra, &[1, 1, 2], 3, 0, &mut rng());
    assert_eq!(of_images.there, [true, false, false, true, false, false, true, true, false]);
}

#[test]
fn mixes_come_after_their_warm_up_and_beside_the_queue() {
    let mochi = Mochi { hardest: 2, of_negatives: 2, of_query: 1, negatives_after: 1, query_after: 2 };
    let mut extra = Extra::new(Sources { queue: 4, sample: 0, mochi: Some(mochi) }, 0).unwrap();
    let widths: Vec<_> = (0..3)
        .map(|step| {
            let [of_images, _] = columns(&mut extra, &[step, step + 10], step as u64, step as u64, &mut rng());
            let width = |x: &Option<Tensor>, at| x.as_ref().map_or(0, |x| x.dims()[at]);
            assert_eq!(of_images.there.len(), 2 * (width(&of_images.shared, 0) + width(&of_images.own, 1)));
            (width(&of_images.shared, 0), width(&of_images.own, 1))
        })
        .collect();
    assert_eq!(widths, [(0, 0), (2, 2), (4, 3)]);
}

#[test]
fn what_is_restored_goes_on_exactly() {
    let mochi = Mochi { hardest: 3, of_negatives: 2, of_query: 2, ..Mochi::default() };
    let sources = Sources { queue: 5, sample: 2, mochi: Some(mochi) };
    let (mut whole, mut random) = (Extra::new(sources, 0).unwrap(), rng());
    for step in 0..3 {
        columns(&mut whole, &[step, step + 5, step + 9], step as u64, step as u64, &mut random);
    }
    let mut resumed = Extra::new(sources, 0).unwrap();
    resumed.restore(&whole.state().unwrap()).unwrap();
    let mut again = random.clone();
    let one = columns(&mut whole, &[3, 8, 20], 7, 3, &mut random);
    let other = columns(&mut resumed, &[3, 8, 20], 7, 3, &mut again);
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one.there, other.there);
        assert_eq!(rows(one.own.as_ref().unwrap()), rows(other.own.as_ref().unwrap()));
    }
    let mut smaller = Extra::new(Sources { queue: 4, ..sources }, 0).unwrap();
    assert!(smaller.restore(&whole.state().unwrap()).unwrap_err().to_string().contains("the saved queue is"));
}
