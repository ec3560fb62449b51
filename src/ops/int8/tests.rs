use super::rows::with_strips;
use super::{Path, Product, Weight};
use crate::ops::Activation;
use crate::ops::gemm::Onto;

/// Numbers between -1 and 1, more of them small than large.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let draw = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 8;
    (0..count as u32).map(|i| (draw(i) as f32 / (1 << 23) as f32 - 1.0).powi(3)).collect()
}

fn run(path: Path, x: &[f32], weight: &Weight, bias: Option<&[f32]>, act: Activation) -> Vec<f32> {
    let (k, n) = weight.shape();
    let mut out = vec![f32::NAN; x.len() / k * n];
    Product { bias, act, ..Product::new(x, weight) }.run_with(path, &mut out);
    out
}

fn paths() -> impl Iterator<Item = Path> {
    Path::ALL.into_iter().filter(|path| path.is_available())
}

/// Shapes at and around the sizes of lines, panels and tiles: rows, outputs, inputs.
const SHAPES: [(usize, usize, usize); 10] = [
    (1, 1, 1),
    (2, 3, 64),
    (3, 5, 7),
    (13, 32, 65),
    (16, 33, 63),
    (17, 31, 128),
    (33, 64, 200),
    (50, 100, 331),
    (77, 48, 96),
    (270, 70, 190),
];

/// A row times `H / 4`, sixteen inputs at a time, by the definition of Hadamard's matrix.
fn turned(row: &[f32]) -> Vec<f64> {
    let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 0.25 } else { -0.25 };
    let part = |part: &[f32]| {
        let sum = |i| part.iter().enumerate().map(|(j, x)| sign(i, j) * f64::from(*x)).sum();
        (0..16).map(sum).collect::<Vec<f64>>()
    };
    row.chunks(16).flat_map(part).collect()
}

/// The largest magnitude.
fn most(numbers: &[f64]) -> f64 {
    numbers.iter().fold(0.0, |most, x| most.max(x.abs()))
}

/// The product that the integers stand for, by exact integers and one rounding each where the kernel has one.
fn reference(x: &[f32], weight: &Weight, bias: &[f32]) -> Vec<f32> {
    let (k, n) = weight.shape();
    let integers = |row: &[f32]| -> (f64, Vec<i64>) {
        let row = turned(row);
        let scale = most(&row) / 127.0;
        (scale, row.iter().map(|w| if scale > 0.0 { (w / scale).round() as i64 } else { 0 }).collect())
    };
    let weights: Vec<(f64, Vec<i64>)> = weight.dequantized().chunks(k).map(integers).collect();
    let mut out = Vec::new();
    for row in x.chunks(k) {
        let row = turned(row);
        let most = most(&row);
        let mean = row.iter().map(|x| x.abs()).sum::<f64>() / k as f64;
        let near = row.iter().map(|x| x.abs()).filter(|&x| x <= 2.0 * mean).sum::<f64>() / k as f64;
        let limit = if most > 6.0 * mean { (13.0 * near).max(mean).min(most) } else { most };
        let step = (limit / 127.0).max(most / 16256.0);
        let q: Vec<i64> = row.iter().map(|x| (x / step).round() as i64).collect();
        for (n, (scale, w)) in weights.iter().enumerate() {
            let sum: i64 = q.iter().zip(w).map(|(q, w)| q * w).sum();
            out.push((sum as f64 * step * scale) as f32 + bias[n]);
        }
    }
    assert_eq!(out.len(), x.len() / k * n);
    out
}

#[test]
fn sums_are_those_of_exact_integers_at_odd_shapes() {
    for (m, n, k) in SHAPES {
        for outliers in [false, true] {
            let (mut x, w, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3));
            if outliers {
                x.iter_mut().step_by(37).for_each(|x| *x *= 200.0);
            }
            let Some(weight) = Weight::new(&w, n, k) else { panic!("a weight") };
            let out = run(Path::Portable, &x, &weight, Some(&bias), Activation::Identity);
            let most = x.chunks(k).map(|row| most(&turned(row))).fold(0.0, f64::max) as f32;
            for (got, want) in out.iter().zip(reference(&x, &weight, &bias)) {
                // A number between two integers may round to either.
                let tolerance = 1e-5 * want.abs() + most / 100.0;
                assert!((got - want).abs() <= tolerance, "{m}x{n}x{k}: {got} for {want}");
            }
        }
    }
}

#[test]
fn every_path_gives_the_same_bytes() {
    for (m, n, k) in SHAPES {
        for every in [0, 5, 190, 1000] {
            let (mut x, w, bias) = (numbers(m * k, 4), numbers(n * k, 5), numbers(n, 6));
            if every > 0 {
                x.iter_mut().step_by(every).for_each(|x| *x *= 300.0);
            }
            let Some(weight) = Weight::new(&w, n, k) else { panic!("a weight") };
            let want = run(Path::Portable, &x, &weight, Some(&bias), Activation::QuickGelu);
            for path in paths() {
                assert_eq!(run(path, &x, &weight, Some(&bias), Activation::QuickGelu), want, "{path:?} {m}x{n}x{k}");
            }
        }
    }
}

#[test]
fn the_largest_integers_do_not_overflow() {
    let (m, n, k) = (18, 40, 5120);
    for sign in [1.0, -1.0] {
        // One number of sixteen, which turned is the same in all of them.
        let same =
            |count: usize, x: f32| (0..count).map(|i| if i % 16 == 0 { 4.0 * x } else { 0.0 }).collect::<Vec<_>>();
        let (x, w) = (same(m * k, sign), same(n * k, 1.0));
        let Some(weight) = Weight::new(&w, n, k) else { panic!("a weight") };
        for path in paths() {
            let out = run(path, &x, &weight, None, Activation::Identity);
            assert!(out.iter().all(|y| (y - sign * k as f32).abs() < 0.01), "{path:?}: {}", out[0]);
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (m, n, k) = (530, 96, 200);
    let (mut x, w) = (numbers(m * k, 7), numbers(n * k, 8));
    x.iter_mut().step_by(431).for_each(|x| *x *= 100.0);
    let Some(weight) = Weight::new(&w, n, k) else { panic!("a weight") };
    for path in paths() {
        let all = run(path, &x, &weight, None, Activation::GeluErf);
        for count in [1, 19] {
            for (rows, want) in x.chunks(count * k).zip(all.chunks(count * n)) {
                assert_eq!(run(path, rows, &weight, None, Activation::GeluErf), want);
            }
        }
    }
}

#[test]
fn outliers_leave_the_other_channels_their_precision() {
    let (n, k) = (64, 768);
    let (mut x, w) = (numbers(k, 9), numbers(n * k, 10));
    for channel in [3, 200, 201, 555] {
        x[channel] = 150.0 + channel as f32 / 10.0;
    }
    let Some(weight) = Weight::new(&w, n, k) else { panic!("a weight") };
    let dequantized = weight.dequantized();
    let out = run(Path::best(), &x, &weight, None, Activation::Identity);
    let (mut errors, mut norm) = (0.0, 0.0);
    for (got, w) in out.iter().zip(dequantized.chunks(k)) {
        let part = |of: &dyn Fn(usize) -> bool| -> f64 {
            (0..k).filter(|&i| of(i)).map(|i| f64::from(x[i]) * f64::from(w[i])).sum()
        };
        let far = |i: usize| x[i] > 100.0;
        errors += (f64::from(*got) - part(&|_| true)).powi(2);
        norm += part(&|i| !far(i)).powi(2);
    }
    assert!(errors < 0.03f64.powi(2) * norm, "{}", (errors / norm).sqrt());
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (n, k) = (33, 70);
    let weight = Weight::new(&numbers(n * k, 11), n, k).unwrap_or_else(|| panic!("a weight"));
    let mut x = numbers(3 * k, 12);
    let want = run(Path::best(), &x, &weight, None, Activation::Identity);
    for bad in [f32::NAN, f32::INFINITY] {
        x[k + 3] = bad;
        let out = run(Path::best(), &x, &weight, None, Activation::Identity);
        assert!(out[n..2 * n].iter().all(|y| y.is_nan()));
        assert_eq!((&out[..n], &out[2 * n..]), (&want[..n], &want[2 * n..]));
    }
    x[k..2 * k].fill(0.0);
    assert!(run(Path::best(), &x, &weight, None, Activation::Identity)[n..2 * n].iter().all(|&y| y == 0.0));
    x[k..2 * k].fill(1e-44);
    assert!(run(Path::best(), &x, &weight, None, Activation::Identity)[n..2 * n].iter().all(|&y| y == 0.0));
}

#[test]
fn weights_come_back_within_the_errors_of_their_integers() {
    let (n, k) = (35, 67);
    let mut w = numbers(n * k, 13);
    w[..k].fill(0.0);
    let weight = Weight::new(&w, n, k).unwrap_or_else(|| panic!("a weight"));
    for (row, back) in w.chunks(k).zip(weight.dequantized().chunks(k)) {
        let step = most(&turned(row)) / 127.0;
        let errors: Vec<f32> = row.iter().zip(back).map(|(w, b)| w - b).collect();
        // What is added to fill the last sixteen is lost, of which errors share.
        let whole = &errors[..k / 16 * 16];
        assert!(most(&turned(whole)) <= 0.5001 * step, "{} of {step}", most(&turned(whole)));
        assert!(errors.iter().all(|e| f64::from(e.abs()) <= 2.001 * step));
    }
    assert!(Weight::new(&[1.0, f32::NAN], 1, 2).is_none());
}

#[test]
fn buffers_of_another_product_leave_no_trace() {
    let (n, k) = (32, 40);
    let weight = Weight::new(&numbers(n * k, 14), n, k).unwrap_or_else(|| panic!("a weight"));
    let x = numbers(20 * k, 15);
    let first = run(Path::best(), &x, &weight, None, Activation::Identity);
    let mut loud = numbers(40 * 300, 16);
    loud.iter_mut().step_by(97).for_each(|x| *x = 1e6);
    with_strips(&loud, 300, None, |strips| assert!(strips.iter().all(|strip| !strip.groups.is_empty())));
    assert_eq!(run(Path::best(), &x, &weight, None, Activation::Identity), first);
}

#[test]
fn two_products_strip_by_strip_are_one_behind_the_other() {
    let (k, between, n) = (70, 130, 40);
    let weight =
        |n: usize, k: usize, seed| Weight::new(&numbers(n * k, seed), n, k).unwrap_or_else(|| panic!("a weight"));
    let (first, second, bias) = (weight(between, k, 17), weight(n, between, 18), numbers(between, 19));
    for rows in [1, 31, 300, 1025] {
        let (x, onto) = (numbers(rows * k, 20), numbers(rows * n, 21));
        let start = Product { bias: Some(&bias), act: Activation::QuickGelu, ..Product::new(&x, &first) };
        let hidden = start.make();
        let end = Product { onto: Onto::Numbers(&onto), ..Product::new(&hidden, &second) };
        assert_eq!(start.make_through(Product { x: &[], ..end }), end.make(), "{rows} rows");
    }
}
