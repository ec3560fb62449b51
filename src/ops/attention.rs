//! Multi-head scaled dot-product attention (Vaswani et al. 2017).
//!
//! The fused path works on one head of one item at a time, so that scores stay in cache, and its backward recomputes
//! them instead of keeping them.

use super::attend::{self, Sides, Sight};
use super::gemm::{Packed, Product, View};
#[cfg(target_arch = "x86_64")]
use super::half;
use super::heads::{Dims, Rows, RowsMut};
use super::transpose::transpose;
use super::{Mask, is_fused, pool, slice, softmax};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Device, Layout, Result, Shape, Tensor};
use std::cell::RefCell;
use std::sync::Arc;

/// One token of each item, by its place in the item.
pub type Places = Arc<Vec<usize>>;

/// These tokens of `x` (items, tokens, width), (items, width).
pub fn at_places(x: &Tensor, places: &Places) -> Result<Tensor> {
    let (items, tokens, width) = x.dims3()?;
    let rows = places.iter().enumerate().map(|(b, place)| (b * tokens + place) as u32).collect();
    let rows = Tensor::from_vec(rows, items, &Device::Cpu)?.to_device(x.device())?;
    x.contiguous()?.reshape((items * tokens, width))?.index_select(&rows, 0)
}

/// Attention of a sequence to itself. `qkv` is (items, tokens, 3 · width) with queries, keys and values side by side;
/// returns (items, tokens, width), heads side by side.
pub fn self_attention(qkv: &Tensor, heads: usize, mask: &Mask) -> Result<Tensor> {
    let (items, tokens, width) = qkv.dims3()?;
    let width = width / 3;
    let dims = Dims { items, queries: tokens, keys: tokens, heads, head: width / heads };
    if is_fused(qkv) {
        return qkv.contiguous()?.apply_op1(Fused { dims, mask: mask.clone(), places: None, coarse: false });
    }
    let part = |i| qkv.narrow(2, i * width, width);
    composed(&part(0)?, &part(1)?, &part(2)?, heads, mask)
}

/// The same for towers that compute in 8-bit integers: on processors that multiply tiles of bf16 numbers, products have
/// such inputs where every token sees all others and they are many. Its gradient is that of products in f32.
pub fn coarse_self_attention(qkv: &Tensor, heads: usize, mask: &Mask) -> Result<Tensor> {
    let (items, tokens, width) = qkv.dims3()?;
    let dims = Dims { items, queries: tokens, keys: tokens, heads, head: width / 3 / heads };
    if !is_fused(qkv) || !matches!(mask, Mask::None) || tokens < MANY || !has_tiles() {
        return self_attention(qkv, heads, mask);
    }
    qkv.contiguous()?.apply_op1(Fused { dims, mask: Mask::None, places: None, coarse: true })
}

/// With fewer tokens products in f32 take no longer.
const MANY: usize = 128;

/// The same for one query of each item: returns (items, width).
pub fn self_attention_at(qkv: &Tensor, heads: usize, mask: &Mask, places: &Places) -> Result<Tensor> {
    let (items, tokens, width) = qkv.dims3()?;
    let width = width / 3;
    let dims = Dims { items, queries: 1, keys: tokens, heads, head: width / heads };
    if places.len() != items || places.iter().any(|place| *place >= tokens) {
        candle_core::bail!("{} places among {items} items of {tokens} tokens", places.len());
    }
    let y = if is_fused(qkv) {
        qkv.contiguous()?.apply_op1(Fused { dims, mask: mask.clone(), places: Some(places.clone()), coarse: false })?
    } else {
        let part = |i| qkv.narrow(2, i * width, width);
        compose(dims, Some(places), &at_places(&part(0)?, places)?.unsqueeze(1)?, &part(1)?, &part(2)?, mask)?
    };
    y.squeeze(1)
}

/// Attention of `q` (items, queries, width) to `k` and `v` (items, keys, width); returns (items, queries, width).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: &Mask) -> Result<Tensor> {
    if is_fused(q) {
        let (items, queries, width) = q.dims3()?;
        let dims = Dims { items, queries, keys: k.dim(1)?, heads, head: width / heads };
        let op = Fused { dims, mask: mask.clone(), places: None, coarse: false };
        return q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op);
    }
    composed(q, k, v, heads, mask)
}

/// The same function from candle's differentiable ops: the reference, and the path of other devices.
pub fn composed(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: &Mask) -> Result<Tensor> {
    let (items, queries, width) = q.dims3()?;
    compose(Dims { items, queries, keys: k.dim(1)?, heads, head: width / heads }, None, q, k, v, mask)
}

fn compose(dims: Dims, places: Option<&Places>, q: &Tensor, k: &Tensor, v: &Tensor, mask: &Mask) -> Result<Tensor> {
    let Dims { items, queries, keys, heads, head } = dims;
    let split = |x: &Tensor, n| x.reshape((items, n, heads, head))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q, queries)?, split(k, keys)?, split(v, keys)?);
    let scores = (q.matmul(&k.t()?.contiguous()?)? * (head as f64).powf(-0.5))?;
    let scores = match mask.additive([items, queries, keys], places, &scores)? {
        Some(mask) => scores.broadcast_add(&mask)?,
        None => scores,
    };
    softmax::composed(&scores)?.matmul(&v)?.transpose(1, 2)?.reshape((items, queries, heads * head))
}

/// Whether this processor multiplies tiles of bf16 numbers.
fn has_tiles() -> bool {
    #[cfg(target_arch = "x86_64")]
    return half::is_available();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[derive(Default)]
struct Scratch {
    attend: attend::Scratch,
    packed: Packed,
    scores: Vec<f32>,
    grads: Vec<f32>,
    turned: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Clone)]
struct Fused {
    dims: Dims,
    mask: Mask,
    /// The one query of each item, if there is one.
    places: Option<Places>,
    /// Whether products have inputs in bf16.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    coarse: bool,
}

/// Writes `scale · (a · b)`, the rows of `out` so far apart as those of `a`'s product are long.
fn multiply(a: View<'_>, rows: usize, b: &Packed, scale: f32, out: &mut [f32]) {
    Product { scale, ..Product::new(a, rows, b) }.run_here(out, b.shape().1);
}

impl Fused {
    /// The row of an item's first query among the inputs.
    fn query_row(&self, b: usize) -> usize {
        match &self.places {
            Some(places) => b * self.dims.keys + places[b],
            None => b * self.dims.queries,
        }
    }

    /// How many of the first keys query `i` of an item sees.
    fn seen(&self, b: usize, i: usize) -> usize {
        self.mask.visible(b, self.places.as_ref().map_or(i, |places| places[b]), self.dims.keys)
    }

    /// The attention weights of one head: softmax(scale · q kᵀ) with hidden keys at 0, (queries, keys).
    fn weights(&self, q: Rows<'_>, k: Rows<'_>, b: usize, h: usize, s: &mut Packed, scores: &mut Vec<f32>) {
        let Dims { queries, keys, head, .. } = self.dims;
        s.refill(View::turned(k.head(self.dims, b * keys, h), k.stride), head, keys);
        scores.resize(queries * keys, 0.0);
        let q_head = View::rows(q.head(self.dims, self.query_row(b), h), q.stride);
        multiply(q_head, queries, s, self.dims.scale(), scores);
        let seen = |i| self.seen(b, i);
        for (i, row) in scores.chunks_mut(keys.max(1)).enumerate() {
            self.mask.fill_holes(b, keys, &mut row[..seen(i)], softmax::HIDDEN);
        }
        softmax::rows(scores, keys, seen);
    }

    fn forward(&self, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>) -> (CpuStorage, Shape) {
        let Dims { items, queries, keys, heads, head } = self.dims;
        let width = heads * head;
        let mut out = Vec::with_capacity(items * queries * width);
        let place = RowsMut { data: out.as_mut_ptr(), stride: width, offset: 0 };
        self.each_head(
            |b, h| {
                q.fetch(self.dims, [self.query_row(b), queries], h);
                [k, v].into_iter().for_each(|x| x.fetch(self.dims, [b * keys, keys], h));
            },
            |b, h, s| {
                #[cfg(target_arch = "x86_64")]
                if self.coarse {
                    let sides =
                        [q, k, v].map(|x| half::Rows { data: x.head(self.dims, b * keys, h), stride: x.stride });
                    return half::attend(sides, [queries, keys, head], self.dims.scale(), |rows, apart| {
                        // SAFETY: `out` has this shape, and head (b, h) is this thread's alone.
                        unsafe { place.copy(self.dims, [b * queries, queries], h, rows, apart) };
                    });
                }
                let [q, k, v] = [(q, self.query_row(b)), (k, b * keys), (v, b * keys)]
                    .map(|(x, row)| View::rows(x.head(self.dims, row, h), x.stride));
                let sight = Sight { seen: |i| self.seen(b, i), marks: self.mask.marks(b, keys) };
                let (sides, start) = (Sides { q, k, v, queries, keys, head }, place.at(self.dims, b * queries, h));
                // SAFETY: `out` has this shape, and head (b, h) is this thread's alone.
                unsafe { s.attend.attend(sides, self.dims.scale(), &sight, start, width) };
            },
        );
        // SAFETY: every head of every item was written.
        unsafe { out.set_len(items * queries * width) };
        (CpuStorage::F32(out), (items, queries, width).into())
    }

    /// Calls `work` for each head of each item on the pool, and `fetch` for the one that the same thread works at next.
    fn each_head(
        &self,
        fetch: impl Fn(usize, usize) + Sync + Send,
        work: impl Fn(usize, usize, &mut Scratch) + Sync + Send,
    ) {
        let Dims { items, heads, .. } = self.dims;
        let (count, at) = (items * heads, |i: usize| (i / heads, i % heads));
        let part = (count / (4 * pool::threads())).clamp(1, heads);
        pool::run(count.div_ceil(part), |first| {
            let end = count.min((first + 1) * part);
            SCRATCH.with_borrow_mut(|s| {
                for i in first * part..end {
                    if i + 1 < end {
                        let (b, h) = at(i + 1);
                        fetch(b, h);
                    }
                    let (b, h) = at(i);
                    work(b, h, s);
                }
            });
        });
    }

    /// Writes the gradients of queries, keys and values.
    fn backward(&self, [q, k, v]: [Rows<'_>; 3], grad: Rows<'_>, into: [RowsMut; 3]) {
        let Dims { queries, keys, head, .. } = self.dims;
        let work = |b: usize, h: usize, s: &mut Scratch| {
            let Scratch { packed, scores, grads, turned, .. } = s;
            self.weights(q, k, b, h, packed, scores);
            let out_grad = grad.head(self.dims, b * queries, h);
            // dV = Pᵀ dO
            turned.resize(queries * keys, 0.0);
            transpose(scores, keys, [queries, keys], turned, queries);
            packed.refill(View::rows(out_grad, grad.stride), queries, head);
            // SAFETY: here and below, head (b, h) is this thread's alone, and `into` has its rows.
            unsafe { into[2].write(self.dims, [b * keys, keys], h, (View::rows(turned, queries), packed, 1.0)) };
            // dP = dO Vᵀ, then through the softmax
            packed.refill(View::turned(v.head(self.dims, b * keys, h), v.stride), head, keys);
            grads.resize(queries * keys, 0.0);
            multiply(View::rows(out_grad, grad.stride), queries, packed, 1.0, grads);
            for (p, g) in scores.chunks(keys).zip(grads.chunks_mut(keys)) {
                softmax::row_backward(p, g);
            }
            // dQ = scale · dS K
            packed.refill(View::rows(k.head(self.dims, b * keys, h), k.stride), keys, head);
            let (query, product) = (self.query_row(b), (View::rows(grads, keys), &*packed, self.dims.scale()));
            // SAFETY: as above.
            unsafe { into[0].write(self.dims, [query, queries], h, product) };
            // dK = scale · dSᵀ Q
            transpose(grads, keys, [queries, keys], turned, queries);
            packed.refill(View::rows(q.head(self.dims, query, h), q.stride), queries, head);
            let product = (View::rows(turned, queries), &*packed, self.dims.scale());
            // SAFETY: as above.
            unsafe { into[1].write(self.dims, [b * keys, keys], h, product) };
        };
        self.each_head(|_, _| (), work);
    }
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "self_attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let [q, k, v] = thirds(slice(storage, layout)?, self.dims.heads * self.dims.head);
        Ok(self.forward(q, k, v))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = self.dims.heads * self.dims.head;
        // Queries that were not asked have no gradient; all others are written below.
        let mut out =
            if self.places.is_some() { vec![0.0; qkv.elem_count()] } else { Vec::with_capacity(qkv.elem_count()) };
        let data = out.as_mut_ptr();
        let into = [0, 1, 2].map(|i| RowsMut { data, stride: 3 * width, offset: i * width });
        super::with_slice(qkv, |qkv| {
            super::with_slice(&grad.contiguous()?, |grad| {
                self.backward(thirds(qkv, width), Rows { data: grad, stride: width, offset: 0 }, into);
            })
        })??;
        // SAFETY: queries, keys and values of every head of every item were written.
        unsafe { out.set_len(qkv.elem_count()) };
        Ok(Some(Tensor::from_vec(out, qkv.shape(), qkv.device())?))
    }
}

fn thirds(data: &[f32], width: usize) -> [Rows<'_>; 3] {
    [0, 1, 2].map(|i| Rows { data, stride: 3 * width, offset: i * width })
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = |data| Rows { data, stride: self.dims.heads * self.dims.head, offset: 0 };
        Ok(self.forward(rows(slice(q, lq)?), rows(slice(k, lk)?), rows(slice(v, lv)?)))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let stride = self.dims.heads * self.dims.head;
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0.0; x.elem_count()]);
        let into = [&mut dq, &mut dk, &mut dv].map(|x| RowsMut { data: x.as_mut_ptr(), stride, offset: 0 });
        let vectors = [super::to_vec(q)?, super::to_vec(k)?, super::to_vec(v)?, super::to_vec(grad)?];
        let [q_rows, k_rows, v_rows, grad] = [0, 1, 2, 3].map(|i| Rows { data: &vectors[i], stride, offset: 0 });
        self.backward([q_rows, k_rows, v_rows], grad, into);
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device()).map(Some);
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}
