//! One checkpoint's safetensors: a single file, shards with an index, or bytes in the binary.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// The bytes of a file, wherever they live.
#[derive(Debug)]
pub enum Bytes {
    /// A file mapped into memory.
    Mapped(Mmap),
    /// Part of this binary.
    Static(&'static [u8]),
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
    bytes: Bytes,
    data_start: usize,
    metadata: Metadata,
}

impl Files {
    /// Opens one safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_shards(vec![Shard::open(path)?])
    }

    /// Opens the shards that a `*.safetensors.index.json` lists; they lie beside it.
    pub fn open_index(path: &Path) -> Result<Self> {
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
            shards.push(Shard::open(&path.with_file_name(name))?);
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

    fn from_shards(shards: Vec<Shard>) -> Result<Self> {
        let mut place = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.metadata.tensors().into_keys() {
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
        self.info(name).map(|(_, info)| info.shape.clone())
    }

    /// How many bytes the tensors take on disk.
    pub fn byte_len(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes.len()).sum()
    }

    /// A hash over the content of all files: 64 hexadecimal digits.
    pub fn content_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.shards.iter().for_each(|shard| {
            hasher.update_rayon(&shard.bytes);
        });
        hasher.finalize().to_hex().to_string()
    }

    /// Reads a tensor as `dtype`. Half precision is widened exactly; int8 with a `NAME.scale` beside it (one scale a
    /// row) is multiplied out.
    pub fn read(&self, name: &str, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
        let Some((shard, info)) = self.info(name) else { return Ok(None) };
        let bytes = &shard.bytes[shard.data_start + info.data_offsets.0..shard.data_start + info.data_offsets.1];
        let at = |e: candle_core::Error| Error::run(e).at(format!("{}: tensor `{name}`", shard.name));
        let tensor = match info.dtype {
            Dtype::I8 => return self.read_int8(name, bytes, info, dtype, device).map(Some),
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I64 => DType::I64,
            other => {
                let message = format!("tensor `{name}` is stored as {other:?}, which is no weight");
                return Err(Error::run(message).at(&shard.name));
            }
        };
        let tensor = Tensor::from_raw_buffer(bytes, tensor, &info.shape, &Device::Cpu).map_err(at)?;
        Ok(Some(tensor.to_dtype(dtype).and_then(|t| t.to_device(device)).map_err(at)?))
    }

    fn read_int8(&self, name: &str, bytes: &[u8], info: &TensorInfo, dtype: DType, device: &Device) -> Result<Tensor> {
        let scales = self
            .read(&format!("{name}.scale"), DType::F32, &Device::Cpu)?
            .ok_or_else(|| Error::run(format!("the int8 tensor `{name}` has no `{name}.scale`")))?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let rows = info.shape.first().copied().unwrap_or(1);
        if scales.len() != rows || rows == 0 {
            return Err(Error::run(format!("`{name}.scale` has {} numbers for {rows} rows", scales.len())));
        }
        let mut values = Vec::with_capacity(bytes.len());
        for (row, scale) in bytes.chunks((bytes.len() / rows).max(1)).zip(scales) {
            values.extend(row.iter().map(|&q| f32::from(q.cast_signed()) * scale));
        }
        Ok(Tensor::from_vec(values, info.shape.as_slice(), device)?.to_dtype(dtype)?)
    }

    fn info(&self, name: &str) -> Option<(&Shard, &TensorInfo)> {
        let shard = &self.shards[*self.place.get(name)?];
        Some((shard, shard.metadata.info(name)?))
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::run(e).at(path.display()))?;
        // SAFETY: the usual bargain of mapped weights: whoever truncates a checkpoint while it is read gets a crash.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::run(e).at(path.display()))?;
        Self::parse(path.display().to_string(), Bytes::Mapped(map))
    }

    fn parse(name: String, bytes: Bytes) -> Result<Self> {
        let broken = |e: &dyn std::fmt::Display| {
            Error::run(format!("not a sound safetensors file: {e}")).at(&name).hint(
                "download or export the file again; `.bin` and `.pt` files must be converted to safetensors first",
            )
        };
        // This also holds the header against the length of the file.
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(&e))?;
        let data_start = header + 8;
        Ok(Self { name, bytes, data_start, metadata })
    }
}
