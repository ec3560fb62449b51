//! Multi-head scaled dot-product attention (Vaswani et al. 2017).
//!
//! The fused path works on one head of one item at a time, so that scores stay in cache, and its backward recomputes
//! them instead of keeping them.

use super::gemm::{Packed, View, matmul_serial};
use super::softmax::{row as softmax_row, row_backward as softmax_row_backward};
use super::{is_fused, pool, slice, softmax};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use std::cell::RefCell;
use std::sync::Arc;

/// Which keys a query may see.
#[derive(Clone, Debug)]
pub enum Mask {
    /// All of them.
    None,
    /// Those at its own position and before.
    Causal,
    /// The first so many of each item: the rest is padding.
    Lengths(Arc<Vec<usize>>),
    /// Those that are marked, and if `causal` none behind the query. Each query must see one key at least.
    Keys {
        /// One mark a key, item by item.
        marks: Arc<Vec<bool>>,
        /// Whether keys behind the query are hidden.
        causal: bool,
    },
}

impl Mask {
    /// How many keys query `i` of item `b` sees, of `keys`, holes among them included.
    fn visible(&self, b: usize, i: usize, keys: usize) -> usize {
        match self {
            Self::None => keys,
            Self::Causal => keys.min(i + 1),
            Self::Lengths(lengths) => keys.min(lengths[b]),
            Self::Keys { marks, causal } => {
                let marks = &marks[b * keys..][..if *causal { keys.min(i + 1) } else { keys }];
                marks.iter().rposition(|mark| *mark).map_or(0, |last| last + 1)
            }
        }
    }

    /// Writes `value` for the keys of item `b` that are hidden among the first ones.
    fn fill_holes(&self, b: usize, keys: usize, scores: &mut [f32], value: f32) {
        if let Self::Keys { marks, .. } = self {
            let holes = scores.iter_mut().zip(&marks[b * keys..]).filter(|(_, mark)| !**mark);
            holes.for_each(|(score, _)| *score = value);
        }
    }

    /// The mask as numbers to add to scores: 0 or −∞, shape (items or 1, 1, queries, keys).
    fn additive(&self, items: usize, queries: usize, keys: usize, like: &Tensor) -> Result<Option<Tensor>> {
        let items = match self {
            Self::None => return Ok(None),
            Self::Causal => 1,
            Self::Lengths(_) | Self::Keys { .. } => items,
        };
        let mut mask = vec![f32::NEG_INFINITY; items * queries * keys];
        for b in 0..items {
            for i in 0..queries {
                let seen = &mut mask[(b * queries + i) * keys..][..self.visible(b, i, keys)];
                seen.fill(0.0);
                self.fill_holes(b, keys, seen, f32::NEG_INFINITY);
            }
        }
        Tensor::from_vec(mask, (items, 1, queries, keys), like.device())?.to_dtype(like.dtype()).map(Some)
    }
}

/// Attention of a sequence to itself. `qkv` is (items, tokens, 3 · width) with queries, keys and values side by side;
/// returns (items, tokens, width), heads side by side.
pub fn self_attention(qkv: &Tensor, heads: usize, mask: &Mask) -> Result<Tensor> {
    let (items, tokens, width) = qkv.dims3()?;
    let width = width / 3;
    if is_fused(qkv) {
        let dims = Dims { items, queries: tokens, keys: tokens, heads, head: width / heads };
        return qkv.contiguous()?.apply_op1(Fused { dims, mask: mask.clone() });
    }
    let part = |i| qkv.narrow(2, i * width, width);
    composed(&part(0)?, &part(1)?, &part(2)?, heads, mask)
}

/// Attention of `q` (items, queries, width) to `k` and `v` (items, keys, width); returns (items, queries, width).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: &Mask) -> Result<Tensor> {
    if is_fused(q) {
        let (items, queries, width) = q.dims3()?;
        let dims = Dims { items, queries, keys: k.dim(1)?, heads, head: width / heads };
        let op = Fused { dims, mask: mask.clone() };
        return q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op);
    }
    composed(q, k, v, heads, mask)
}

/// The same function from candle's differentiable ops: the reference, and the path of other devices.
pub fn composed(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: &Mask) -> Result<Tensor> {
    let (items, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    let head = width / heads;
    let split = |x: &Tensor, n| x.reshape((items, n, heads, head))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q, queries)?, split(k, keys)?, split(v, keys)?);
    let scores = (q.matmul(&k.t()?.contiguous()?)? * (head as f64).powf(-0.5))?;
    let scores = match mask.additive(items, queries, keys, &scores)? {
        Some(mask) => scores.broadcast_add(&mask)?,
        None => scores,
    };
    softmax::composed(&scores)?.matmul(&v)?.transpose(1, 2)?.reshape((items, queries, width))
}

#[derive(Clone, Copy, Debug)]
struct Dims {
    items: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    head: usize,
}

impl Dims {
    fn scale(self) -> f32 {
        (self.head as f32).powf(-0.5)
    }
}

/// Queries, keys or values of all items and heads: (items, tokens, `stride`), of which `offset ..` are ours.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
    offset: usize,
}

impl<'a> Rows<'a> {
    fn head(self, dims: Dims, tokens: usize, b: usize, h: usize) -> &'a [f32] {
        &self.data[b * tokens * self.stride + self.offset + h * dims.head..]
    }
}

/// The same, to be written by several threads, each its own heads.
#[derive(Clone, Copy)]
struct RowsMut {
    data: *mut f32,
    stride: usize,
    offset: usize,
}

// SAFETY: every thread writes only the head that it was given, see `write`.
unsafe impl Sync for RowsMut {}

impl RowsMut {
    /// Copies (tokens, head) numbers to their place.
    ///
    /// # Safety
    /// `data` must point to (items, tokens, stride) numbers, and no other thread may touch this head of this item.
    unsafe fn write(self, dims: Dims, tokens: usize, b: usize, h: usize, from: &[f32]) {
        for (t, row) in from.chunks(dims.head).enumerate().take(tokens) {
            let start = (b * tokens + t) * self.stride + self.offset + h * dims.head;
            // SAFETY: within the allocation and this thread's own, by the contract above.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), self.data.add(start), dims.head) };
        }
    }
}

struct Scratch {
    packed: Packed,
    scores: Vec<f32>,
    grads: Vec<f32>,
    turned: Vec<f32>,
    out: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        packed: Packed::empty(),
        scores: Vec::new(),
        grads: Vec::new(),
        turned: Vec::new(),
        out: Vec::new(),
    });
}

#[derive(Clone)]
struct Fused {
    dims: Dims,
    mask: Mask,
}

fn view(data: &[f32], stride: usize) -> View<'_> {
    View { data, row_stride: stride, column_stride: 1 }
}

fn turned_view(data: &[f32], stride: usize) -> View<'_> {
    View { data, row_stride: 1, column_stride: stride }
}

impl Fused {
    /// The attention weights of one head: softmax(scale · q kᵀ) with hidden keys at 0, (queries, keys).
    fn weights(&self, q: Rows<'_>, k: Rows<'_>, b: usize, h: usize, s: &mut Packed, scores: &mut Vec<f32>) {
        let Dims { queries, keys, head, .. } = self.dims;
        s.refill(turned_view(k.head(self.dims, keys, b, h), k.stride), head, keys);
        scores.clear();
        scores.resize(queries * keys, 0.0);
        let q_head = view(q.head(self.dims, queries, b, h), q.stride);
        matmul_serial(q_head, queries, s, self.dims.scale(), scores, keys);
        for (i, row) in scores.chunks_mut(keys).enumerate() {
            let (seen, hidden) = row.split_at_mut(self.mask.visible(b, i, keys));
            if !seen.is_empty() {
                // So low that its exponential is 0, like that of −∞, which a kernel need not expect.
                self.mask.fill_holes(b, keys, seen, -1e30);
                softmax_row(seen);
            }
            hidden.fill(0.0);
        }
    }

    fn forward(&self, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>) -> (CpuStorage, Shape) {
        let Dims { items, queries, keys, heads, head } = self.dims;
        let width = heads * head;
        let mut out = vec![0.0; items * queries * width];
        let place = RowsMut { data: out.as_mut_ptr(), stride: width, offset: 0 };
        pool::run(items * heads, |part| {
            let (b, h) = (part / heads, part % heads);
            SCRATCH.with_borrow_mut(|s| {
                self.weights(q, k, b, h, &mut s.packed, &mut s.scores);
                s.packed.refill(view(v.head(self.dims, keys, b, h), v.stride), keys, head);
                s.out.resize(queries * head, 0.0);
                matmul_serial(view(&s.scores, keys), queries, &s.packed, 1.0, &mut s.out[..queries * head], head);
                // SAFETY: `out` has this shape, and part (b, h) is this thread's alone.
                unsafe { place.write(self.dims, queries, b, h, &s.out) };
            });
        });
        (CpuStorage::F32(out), (items, queries, width).into())
    }

    /// Writes the gradients of queries, keys and values.
    fn backward(&self, [q, k, v]: [Rows<'_>; 3], grad: Rows<'_>, into: [RowsMut; 3]) {
        let Dims { items, queries, keys, heads, head } = self.dims;
        pool::run(items * heads, |part| {
            let (b, h) = (part / heads, part % heads);
            SCRATCH.with_borrow_mut(|s| {
                let Scratch { packed, scores, grads, turned, out } = s;
                out.resize(queries.max(keys) * head, 0.0);
                self.weights(q, k, b, h, packed, scores);
                let out_grad = grad.head(self.dims, queries, b, h);
                // dV = Pᵀ dO
                transpose(scores, queries, keys, turned);
                packed.refill(view(out_grad, grad.stride), queries, head);
                matmul_serial(view(turned, queries), keys, packed, 1.0, &mut out[..keys * head], head);
                // SAFETY: here and below, head (b, h) is this thread's alone.
                unsafe { into[2].write(self.dims, keys, b, h, out) };
                // dP = dO Vᵀ, then through the softmax
                packed.refill(turned_view(v.head(self.dims, keys, b, h), v.stride), head, keys);
                grads.resize(queries * keys, 0.0);
                let grads = &mut grads[..queries * keys];
                matmul_serial(view(out_grad, grad.stride), queries, packed, 1.0, grads, keys);
                for (p, g) in scores.chunks(keys).zip(grads.chunks_mut(keys)) {
                    softmax_row_backward(p, g);
                }
                // dQ = scale · dS K
                packed.refill(view(k.head(self.dims, keys, b, h), k.stride), keys, head);
                let out_q = &mut out[..queries * head];
                matmul_serial(view(grads, keys), queries, packed, self.dims.scale(), out_q, head);
                // SAFETY: as above.
                unsafe { into[0].write(self.dims, queries, b, h, out) };
                // dK = scale · dSᵀ Q
                transpose(grads, queries, keys, turned);
                packed.refill(view(q.head(self.dims, queries, b, h), q.stride), queries, head);
                let out_k = &mut out[..keys * head];
                matmul_serial(view(turned, queries), keys, packed, self.dims.scale(), out_k, head);
                // SAFETY: as above.
                unsafe { into[1].write(self.dims, keys, b, h, out) };
            });
        });
    }
}

/// `to[j, i] = from[i, j]` for a (rows, columns) matrix.
fn transpose(from: &[f32], rows: usize, columns: usize, to: &mut Vec<f32>) {
    to.resize(rows * columns, 0.0);
    for (i, row) in from.chunks(columns).enumerate().take(rows) {
        for (j, &value) in row.iter().enumerate() {
            to[j * rows + i] = value;
        }
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
        let mut out = vec![0.0; qkv.elem_count()];
        let data = out.as_mut_ptr();
        let into = [0, 1, 2].map(|i| RowsMut { data, stride: 3 * width, offset: i * width });
        super::with_slice(qkv, |qkv| {
            super::with_slice(&grad.contiguous()?, |grad| {
                self.backward(thirds(qkv, width), Rows { data: grad, stride: width, offset: 0 }, into);
            })
        })??;
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
