//! One checkpoint's tensors: a single file, shards with an index, or bytes in the binary.

use super::entry::{Entry, Stretch};
use super::mapped::Mapped;
use super::{archive, kept_hash, npz, torch};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The bytes of a file, wherever they live.
#[derive(Debug)]
pub enum Bytes {
    /// A file mapped into memory.
    Mapped(Mmap),
    /// Part of this binary.
    Static(&'static [u8]),
}

impl Bytes {
    /// Lets the system take back the memory of some of them, if they are a file's: what is asked for again is read again.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: the mapping is shared, of a file, and never written to: its pages come back as they were. Where
            // the system refuses, they stay.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

/// The tensors of a checkpoint by the names that its files give them.
#[derive(Debug)]
pub struct Files {
    shards: Vec<Shard>,
    place: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    name: String,
    bytes: Arc<Bytes>,
    kind: Kind,
    tensors: BTreeMap<String, Entry>,
    /// What tells the file's content from what it was, if that is known.
    stamp: Option<String>,
    /// The stretch that was inflated last, and its place: layers that are stacked in one array are read one by one.
    inflated: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

/// What kind of file tensors come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// safetensors.
    Safetensors,
    /// What `torch.save` wrote.
    Torch,
    /// What `torch.jit.save` wrote; only its tensors are taken.
    TorchScript,
    /// numpy's archive of arrays.
    Npz,
}

/// A tensor's numbers as they are on disk, row by row.
#[derive(Clone, Debug)]
pub struct Raw<'a> {
    /// The kind of its numbers.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

/// How many bytes of a file are hashed at a time.
const HASHED: usize = 64 << 20;

impl Files {
    /// Opens one safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_shards(vec![Shard::open(path, Shard::parse)?])
    }

    /// Opens one file of any [`Kind`]. Pickles are read as data; nothing in them is run.
    pub fn open_any(path: &Path) -> Result<Self> {
        Self::from_shards(vec![Shard::open(path, Shard::parse_any)?])
    }

    /// Opens the shards that a `*.safetensors.index.json` lists; they lie beside it.
    pub fn open_index(path: &Path) -> Result<Self> {
        Self::open_shards(path, Shard::parse)
    }

    /// Like [`Files::open_index`], for shards of any [`Kind`].
    pub fn open_any_index(path: &Path) -> Result<Self> {
        Self::open_shards(path, Shard::parse_any)
    }

    fn open_shards(path: &Path, parse: fn(String, Bytes) -> Result<Shard>) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::run(e).at(path.display()))?;
        let index: Index = serde_json::from_str(&text).map_err(|e| Error::run(e).at(path.display()))?;
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort();
        names.dedup();
        let mut shards = Vec::new();
        for name in names {
            // A shard is a plain file name: an index must not make us open files elsewhere.
            let plain = Path::new(name).file_name().is_some_and(|file| file == name.as_str());
            if !plain {
                return Err(Error::run(format!("the shard name {name:?} leaves the directory")).at(path.display()));
            }
            shards.push(Shard::open(&path.with_file_name(name), parse)?);
        }
        let files = Self::from_shards(shards)?;
        if let Some(name) = index.weight_map.keys().find(|name| !files.place.contains_key(*name)) {
            let shard = &index.weight_map[name];
            return Err(Error::run(format!("the index promises tensor `{name}` in {shard}, which does not hold it"))
                .at(path.display())
                .hint("download the model again: its files do not belong together"));
        }
        Ok(files)
    }

    /// Takes the bytes of a safetensors file that is part of this binary.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::from_shards(vec![Shard::parse(name.to_owned(), Bytes::Static(bytes))?])
    }

    /// Tensors of which only names and shapes are known, before there is a file: what a configuration is read with when
    /// its weights are still to be made. Reading one is an error.
    ///
    /// # Errors
    /// If a shape has more numbers than can be counted.
    pub fn outline(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Result<Self> {
        let entry = |(name, shape): (String, Vec<usize>)| {
            let stretch = Stretch { range: 0..usize::MAX, inflated: None };
            Ok((name, Entry::contiguous(Dtype::F32, shape, 0, stretch)?))
        };
        let tensors = tensors.into_iter().map(entry).collect::<Result<_>>()?;
        Self::from_shards(vec![Shard::new("outline".to_owned(), Bytes::Static(&[]), Kind::Safetensors, tensors)])
    }

    fn from_shards(shards: Vec<Shard>) -> Result<Self> {
        let mut place = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.tensors.keys() {
                if let Some(other) = place.insert(name.clone(), i) {
                    let other: &Shard = &shards[other];
                    return Err(Error::run(format!("tensor `{name}` is in {} and in {}", other.name, shard.name)));
                }
            }
        }
        Ok(Self { shards, place })
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.entry(name).map(|(_, entry)| entry.shape().to_vec())
    }

    /// The kind of numbers of a tensor on disk.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.entry(name).map(|(_, entry)| entry.dtype())
    }

    /// The kind of the files.
    pub fn kind(&self) -> Kind {
        self.shards.first().map_or(Kind::Safetensors, |shard| shard.kind)
    }

    /// The bytes of the files, with their names.
    pub fn contents(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.shards.iter().map(|shard| (shard.name.as_str(), &**shard.bytes))
    }

    /// Where a tensor lies in its file.
    pub fn place_of(&self, name: &str) -> Option<&Entry> {
        self.entry(name).map(|(_, entry)| entry)
    }

    /// The same numbers under other names: `views` are made of what [`Files::place_of`] says about the tensors that
    /// they are parts of.
    pub fn with_views(mut self, views: Vec<(String, String, Entry)>) -> Self {
        let mut place = BTreeMap::new();
        let mut tensors: Vec<BTreeMap<String, Entry>> = self.shards.iter().map(|_| BTreeMap::new()).collect();
        for (name, of, entry) in views {
            let Some(&shard) = self.place.get(&of) else { continue };
            place.insert(name.clone(), shard);
            tensors[shard].insert(name, entry);
        }
        self.shards.iter_mut().zip(tensors).for_each(|(shard, tensors)| shard.tensors = tensors);
        self.place = place;
        self
    }

    /// Leaves out the tensors that `keep` says no to.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.place.retain(|name, _| keep(name));
    }

    /// A tensor's numbers as they are on disk.
    pub fn raw(&self, name: &str) -> Result<Option<Raw<'_>>> {
        let Some((shard, entry)) = self.entry(name) else { return Ok(None) };
        let bytes = shard.read(entry).map_err(|e| e.at(format!("{}: tensor `{name}`", shard.name)))?;
        Ok(Some(Raw { dtype: entry.dtype(), shape: entry.shape().to_vec(), bytes }))
    }

    /// A tensor's numbers where they lie in the file, if they are f32 and lie there one after the other.
    pub fn mapped_f32(&self, name: &str) -> Option<Mapped> {
        let (shard, entry) = self.entry(name)?;
        let Ok(Cow::Borrowed(bytes)) = shard.read(entry) else { return None };
        if entry.dtype() != Dtype::F32 {
            return None;
        }
        let start = bytes.as_ptr().addr() - shard.bytes.as_ptr().addr();
        Mapped::new(shard.bytes.clone(), start..start + bytes.len())
    }

    /// Lets the system take back the memory of files that were read: what is asked for again is read again.
    pub fn release(&self) {
        self.shards.iter().for_each(Shard::release);
    }

    /// How many bytes the tensors take on disk.
    pub fn byte_len(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes.len()).sum()
    }

    /// A hash over the content of all files: 64 hexadecimal digits.
    pub fn content_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.shards.iter().for_each(|shard| {
            // In parts, so that no more of a mapped file need be in memory.
            for part in shard.bytes.chunks(HASHED) {
                hasher.update_rayon(part);
                shard.release();
            }
        });
        hasher.finalize().to_hex().to_string()
    }

    /// The same, kept in a directory between runs for files that have not changed since.
    pub fn content_hash_kept(&self, directory: &Path) -> String {
        let stamps: Option<Vec<String>> = self.shards.iter().map(|shard| shard.stamp.clone()).collect();
        match stamps {
            Some(stamps) => kept_hash::kept(directory, &stamps, || self.content_hash()),
            None => self.content_hash(),
        }
    }

    /// Reads a tensor as `dtype`. Half precision is widened exactly; int8 with a `NAME.scale` beside it (one scale a
    /// row) is multiplied out.
    pub fn read(&self, name: &str, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
        let Some(raw) = self.raw(name)? else { return Ok(None) };
        let place = || self.entry(name).map_or("", |(shard, _)| &shard.name);
        let at = |e: candle_core::Error| Error::run(e).at(format!("{}: tensor `{name}`", place()));
        let tensor = match raw.dtype {
            Dtype::I8 => return self.read_int8(name, &raw, dtype, device).map(Some),
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I64 => DType::I64,
            other => {
                let message = format!("tensor `{name}` is stored as {other:?}, which is no weight");
                return Err(Error::run(message).at(place()));
            }
        };
        let tensor = Tensor::from_raw_buffer(&raw.bytes, tensor, &raw.shape, &Device::Cpu).map_err(at)?;
        Ok(Some(tensor.to_dtype(dtype).and_then(|t| t.to_device(device)).map_err(at)?))
    }

    fn read_int8(&self, name: &str, raw: &Raw<'_>, dtype: DType, device: &Device) -> Result<Tensor> {
        let (bytes, shape) = (&*raw.bytes, &raw.shape);
        let scales = self
            .read(&format!("{name}.scale"), DType::F32, &Device::Cpu)?
            .ok_or_else(|| Error::run(format!("the int8 tensor `{name}` has no `{name}.scale`")))?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let rows = shape.first().copied().unwrap_or(1);
        if scales.len() != rows || rows == 0 {
            return Err(Error::run(format!("`{name}.scale` has {} numbers for {rows} rows", scales.len())));
        }
        let mut values = Vec::with_capacity(bytes.len());
        for (row, scale) in bytes.chunks((bytes.len() / rows).max(1)).zip(scales) {
            values.extend(row.iter().map(|&q| f32::from(q.cast_signed()) * scale));
        }
        Ok(Tensor::from_vec(values, shape.as_slice(), device)?.to_dtype(dtype)?)
    }

    fn entry(&self, name: &str) -> Option<(&Shard, &Entry)> {
        let shard = &self.shards[*self.place.get(name)?];
        Some((shard, shard.tensors.get(name)?))
    }
}

impl Shard {
    fn release(&self) {
        self.bytes.release(0..self.bytes.len());
    }

    fn open(path: &Path, parse: fn(String, Bytes) -> Result<Self>) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::run(e).at(path.display()))?;
        // SAFETY: the usual bargain of mapped weights: whoever truncates a checkpoint while it is read gets a crash.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::run(e).at(path.display()))?;
        let stamp = file.metadata().ok().and_then(|metadata| kept_hash::stamp(path, &metadata));
        Ok(Self { stamp, ..parse(path.display().to_string(), Bytes::Mapped(map))? })
    }

    fn new(name: String, bytes: Bytes, kind: Kind, tensors: BTreeMap<String, Entry>) -> Self {
        Self { name, bytes: Arc::new(bytes), kind, tensors, stamp: None, inflated: Mutex::default() }
    }

    /// Reads safetensors.
    fn parse(name: String, bytes: Bytes) -> Result<Self> {
        let broken = |e: &dyn std::fmt::Display| {
            Error::run(format!("not a sound safetensors file: {e}")).at(&name).hint(
                "download or export the file again; `clip-cli models convert` makes safetensors of `.bin`, `.pt` and `.npz`",
            )
        };
        // This also holds the header against the length of the file.
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(&e))?;
        let mut tensors = BTreeMap::new();
        for (tensor, info) in metadata.tensors() {
            let stretch = Stretch { range: header + 8..bytes.len(), inflated: None };
            let entry = Entry::contiguous(info.dtype, info.shape.clone(), info.data_offsets.0, stretch);
            tensors.insert(tensor, entry.map_err(|e| broken(&e))?);
        }
        Ok(Self::new(name, bytes, Kind::Safetensors, tensors))
    }

    /// Reads whatever kind of file it is.
    fn parse_any(name: String, bytes: Bytes) -> Result<Self> {
        // Behind the length of its header, which may begin with any byte.
        if bytes.get(8) == Some(&b'{') {
            return Self::parse(name, bytes);
        }
        let (kind, tensors) = if bytes.starts_with(b"PK") {
            let members = archive::members(&bytes).map_err(|e| e.at(&name))?;
            if npz::is_npz(&members) {
                (Kind::Npz, npz::read(&bytes, &members).map_err(|e| e.at(&name))?)
            } else {
                let (tensors, script) = torch::read_archive(&bytes, &members).map_err(|e| e.at(&name))?;
                (if script { Kind::TorchScript } else { Kind::Torch }, tensors)
            }
        } else if torch::is_legacy(&bytes) {
            (Kind::Torch, torch::read_legacy(&bytes).map_err(|e| e.at(&name))?)
        } else if bytes.first() == Some(&0x80) || bytes.get(257..262) == Some(b"ustar") {
            return Err(Error::run("a pickle or an archive from before torch 1.0, which is not read").at(&name).hint(
                "open it with a torch of its time, in a place where it can do no harm, and save its state dict",
            ));
        } else {
            return Self::parse(name, bytes);
        };
        Ok(Self::new(name, bytes, kind, tensors))
    }

    /// The numbers of a tensor, row by row.
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [u8]>> {
        let stretch = entry.stretch();
        let packed = self.bytes.get(stretch.range.clone()).ok_or_else(|| Error::run("its numbers are not there"))?;
        let Some(size) = stretch.inflated else { return Ok(entry.take(packed)) };
        let mut last = self.inflated.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match &*last {
            Some((place, bytes)) if *place == stretch.range.start => bytes.clone(),
            _ => {
                // Let go of the last one before making the next.
                *last = None;
                let mut bytes = Vec::new();
                let mut inflater = flate2::read::DeflateDecoder::new(packed).take(size as u64);
                inflater.read_to_end(&mut bytes).map_err(Error::run)?;
                if bytes.len() != size {
                    return Err(Error::run(format!("it inflates to {} bytes, not {size}", bytes.len())));
                }
                last.insert((stretch.range.start, Arc::new(bytes))).1.clone()
            }
        };
        Ok(Cow::Owned(entry.take(&bytes).into_owned()))
    }
}
