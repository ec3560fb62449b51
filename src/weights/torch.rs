//! Checkpoints that `torch.save` wrote: the zip format, the older one (before torch 1.6), and TorchScript archives, of
//! which only the tensors are taken. Nothing in them is run: see [`pickle`](super::pickle).

use super::archive;
use super::entry::{Entry, Stretch, byte_size};
use super::pickle::{Pickle, Value};
use crate::error::{Error, Result};
use safetensors::tensor::Dtype;
use std::collections::{BTreeMap, HashMap};

/// The tensors of a checkpoint by name.
pub type Tensors = BTreeMap<String, Entry>;

/// How deep the modules of a TorchScript archive may be nested, and how many of its attributes are looked at.
const DEEPEST: usize = 64;
const MOST_ATTRIBUTES: usize = 1 << 20;

/// What is before the pickles of the older format: `0x1950a86a20f9469cfc6c`, lowest byte first.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The functions and classes that a checkpoint may name. None of them is ever called.
fn allowed(module: &str, name: &str) -> bool {
    match module {
        "collections" => matches!(name, "OrderedDict" | "defaultdict" | "Counter"),
        "torch" => storage_dtype(name).is_some() || is_dtype(name) || matches!(name, "Size" | "device" | "Tensor"),
        "torch._utils" => {
            matches!(
                name,
                "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_parameter" | "_rebuild_parameter_with_state"
            )
        }
        "torch.nn.parameter" => name == "Parameter",
        "torch.serialization" => name == "_get_layout",
        "torch.jit._pickle" => {
            matches!(name, "build_intlist" | "build_tensorlist" | "build_doublelist" | "build_boollist")
        }
        "_codecs" => name == "encode",
        "__builtin__" | "builtins" => {
            matches!(name, "set" | "bytearray" | "complex" | "int" | "float" | "dict" | "list")
        }
        // Single numbers, as training loops leave them beside the weights.
        "numpy.core.multiarray" | "numpy._core.multiarray" => name == "scalar",
        "numpy" => name == "dtype",
        // The classes of a TorchScript archive: here they are names with attributes.
        _ => module.starts_with("__torch__"),
    }
}

fn is_dtype(name: &str) -> bool {
    ["float", "bfloat", "int", "uint", "half", "double", "long", "short", "bool"]
        .iter()
        .any(|kind| name.starts_with(kind))
}

/// The numbers of a kind of storage.
fn storage_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

/// The tensors of a zip archive, and whether it is a TorchScript archive.
pub fn read_archive(bytes: &[u8], members: &BTreeMap<String, Stretch>) -> Result<(Tensors, bool)> {
    let top = members.keys().find_map(|name| name.strip_suffix("data.pkl").filter(|top| top.matches('/').count() <= 1));
    let top = top.ok_or_else(|| Error::run("a zip archive without a data.pkl, so no checkpoint of torch"))?;
    if let Some(order) = members.get(&format!("{top}byteorder"))
        && archive::start(bytes, order, 16)? != b"little"
    {
        return Err(Error::run("the numbers were saved on a big-endian machine, which is not supported"));
    }
    let script = members.contains_key(&format!("{top}constants.pkl"));
    let member = &members[&format!("{top}data.pkl")];
    let pickle = archive::start(bytes, member, member.len())?;
    let pickle = Pickle::read(&pickle, allowed).map_err(|e| e.at(format!("{top}data.pkl")))?;
    let stretch = |storage: &Storage<'_>| {
        let name = format!("{top}data/{}", storage.key);
        members.get(&name).cloned().ok_or_else(|| Error::run(format!("the archive has no member {name}")))
    };
    let reader = Reader { pickle: &pickle, stretch: &stretch };
    Ok((reader.tensors()?, script))
}

/// Whether these are the first bytes of a file in the older format.
pub fn is_legacy(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && bytes.get(2..4) == Some(&[0x8a, 10]) && bytes.get(4..14) == Some(&MAGIC)
}

/// The tensors of a file in the older format: five pickles, then the storages behind each other.
pub fn read_legacy(bytes: &[u8]) -> Result<Tensors> {
    let mut at = 0;
    let mut next = || -> Result<Pickle<'_>> {
        let pickle = Pickle::read(&bytes[at..], allowed)?;
        at += pickle.len;
        Ok(pickle)
    };
    let (_magic, protocol, system) = (next()?, next()?, next()?);
    if *protocol.root() != Value::Int(1001) {
        return Err(Error::run(format!("protocol {:?} of torch is unknown", protocol.root())));
    }
    if system.item(system.root(), "little_endian") == Some(&Value::Bool(false)) {
        return Err(Error::run("the numbers were saved on a big-endian machine, which is not supported"));
    }
    let (pickle, keys) = (next()?, next()?);
    let sizes = storages(&pickle)?;
    let keys = keys.parts(keys.root()).ok_or_else(|| Error::run("the list of storages is no list"))?;
    let mut place = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else { return Err(Error::run("a storage is named by something that is no text")) };
        let size = sizes.get(key).ok_or_else(|| Error::run(format!("nothing is known about storage {key:?}")))?;
        let head = bytes.get(at..at + 8).and_then(|head| head.try_into().ok()).map(u64::from_le_bytes);
        let length = head.and_then(|count| usize::try_from(count).ok()).and_then(|count| count.checked_mul(*size));
        let end = length.and_then(|length| length.checked_add(at + 8)).filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(|| Error::run(format!("storage {key:?} reaches beyond the end of the file")))?;
        place.insert(*key, at + 8..end);
        at = end;
    }
    let stretch = |storage: &Storage<'_>| {
        let range = place.get(storage.key).cloned();
        let range = range.ok_or_else(|| Error::run(format!("the file has no storage {:?}", storage.key)))?;
        Ok(Stretch { range, inflated: None })
    };
    Reader { pickle: &pickle, stretch: &stretch }.tensors()
}

/// The size of a number in each storage that a pickle speaks of.
fn storages<'a>(pickle: &Pickle<'a>) -> Result<HashMap<&'a str, usize>> {
    let outside = pickle.values().filter(|value| matches!(value, Value::Outside(_)));
    outside.map(|value| Storage::read(pickle, value).map(|storage| (storage.key, byte_size(storage.dtype)))).collect()
}

/// What a pickle says of numbers outside it.
struct Storage<'a> {
    dtype: Dtype,
    key: &'a str,
    /// How many numbers.
    count: usize,
    /// Where they begin in the storage of that key, in numbers (views of the older format).
    skip: usize,
}

impl<'a> Storage<'a> {
    fn read(pickle: &Pickle<'a>, value: &Value<'a>) -> Result<Self> {
        let broken = || Error::run("a storage is described in a form that is unknown");
        let Value::Outside(id) = value else { return Err(broken()) };
        let parts = pickle.parts(pickle.get(*id)).ok_or_else(broken)?;
        let [Value::Text("storage"), Value::Name("torch", kind), Value::Text(key), _, Value::Int(count), rest @ ..] =
            &parts[..]
        else {
            return Err(broken());
        };
        let view = rest.first().and_then(|view| pickle.parts(view));
        let (skip, count) = match view.as_deref() {
            None => (0, *count),
            Some([_, Value::Int(skip), Value::Int(count)]) => (*skip, *count),
            Some(_) => return Err(broken()),
        };
        let whole = |number: i64| usize::try_from(number).map_err(|_| broken());
        let dtype = storage_dtype(kind).ok_or_else(broken)?;
        Ok(Self { dtype, key, count: whole(count)?, skip: whole(skip)? })
    }
}

struct Reader<'p, 'a> {
    pickle: &'p Pickle<'a>,
    stretch: &'p dyn Fn(&Storage<'_>) -> Result<Stretch>,
}

impl<'a> Reader<'_, 'a> {
    /// The tensors of the state dict that the pickle holds, under their plain names.
    fn tensors(&self) -> Result<Tensors> {
        let mut root = self.pickle.root();
        // Training loops put the weights beside the optimiser's state.
        for key in ["state_dict", "model_state_dict", "model"] {
            if let Some(inner @ Value::Dict(_)) = self.pickle.item(root, key) {
                root = inner;
                break;
            }
        }
        let mut tensors = Tensors::new();
        match root {
            Value::Dict(items) => {
                for (name, value) in items {
                    let Value::Text(name) = self.pickle.get(*name) else { continue };
                    if let Some(entry) = self.tensor(self.pickle.get(*value)).map_err(|e| e.at(format!("`{name}`")))? {
                        tensors.insert((*name).to_owned(), entry);
                    }
                }
            }
            Value::Object { .. } => self.attributes(root, "", 0, &mut 0, &mut tensors)?,
            _ => {}
        }
        if tensors.is_empty() {
            return Err(Error::run("there is no state dict with tensors in this file"));
        }
        Ok(without_wrappers(tensors))
    }

    /// The tensors among the attributes of a TorchScript module and of the modules in it.
    fn attributes(
        &self,
        module: &Value<'a>,
        path: &str,
        depth: usize,
        seen: &mut usize,
        out: &mut Tensors,
    ) -> Result<()> {
        let Value::Object { state: Some(state), .. } = module else { return Ok(()) };
        let Value::Dict(items) = self.pickle.get(*state) else { return Ok(()) };
        for (name, value) in items {
            *seen += 1;
            if depth > DEEPEST || *seen > MOST_ATTRIBUTES {
                return Err(Error::run("modules are nested deeper than any model's"));
            }
            let Value::Text(name) = self.pickle.get(*name) else { continue };
            let (path, value) = (format!("{path}{name}"), self.pickle.get(*value));
            match value {
                Value::Object { .. } => self.attributes(value, &format!("{path}."), depth + 1, seen, out)?,
                _ => {
                    if let Some(entry) = self.tensor(value).map_err(|e| e.at(format!("`{path}`")))? {
                        out.insert(path, entry);
                    }
                }
            }
        }
        Ok(())
    }

    /// The tensor that a value describes, if it is one.
    fn tensor(&self, value: &Value<'a>) -> Result<Option<Entry>> {
        let Some((mut function, mut arguments)) = self.pickle.call(value) else { return Ok(None) };
        if function.starts_with("torch._utils._rebuild_parameter") {
            // A parameter around a tensor.
            let inner = arguments.first().and_then(|inner| self.pickle.call(inner));
            (function, arguments) = inner.ok_or_else(|| Error::run("a parameter without a tensor"))?;
        }
        if !function.starts_with("torch._utils._rebuild_tensor") {
            return Ok(None);
        }
        let [storage, Value::Int(skip), shape, strides, ..] = &arguments[..] else {
            return Err(Error::run("a tensor is described in a form that is unknown"));
        };
        let storage = Storage::read(self.pickle, storage)?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        let stretch = (self.stretch)(&storage)?;
        // The storage may be part of a longer one; what belongs to it is what the pickle says.
        let size = byte_size(storage.dtype);
        let end = storage.skip.checked_add(storage.count).and_then(|end| end.checked_mul(size));
        if end.is_none_or(|end| end > stretch.len()) {
            return Err(Error::run(format!("its storage {:?} is shorter than the file says", storage.key)));
        }
        let skip = usize::try_from(*skip).ok().and_then(|skip| skip.checked_add(storage.skip));
        let start = skip.and_then(|skip| skip.checked_mul(size)).ok_or_else(|| Error::run("it begins nowhere"))?;
        Entry::new(storage.dtype, shape, strides, start, stretch).map(Some)
    }

    fn sizes(&self, value: &Value<'a>) -> Result<Vec<usize>> {
        let whole = |value: &&Value<'a>| match value {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let nested = self.pickle.call(value);
        let parts = match &nested {
            // torch.Size(…)
            Some((_, arguments)) => arguments.first().and_then(|inner| self.pickle.parts(inner)),
            None => self.pickle.parts(value),
        };
        let sizes = parts.filter(|parts| parts.len() <= 16).and_then(|parts| parts.iter().map(whole).collect());
        sizes.ok_or_else(|| Error::run("a shape is described in a form that is unknown"))
    }
}

/// Tensors without what parallel training and compilation put before every name.
fn without_wrappers(mut tensors: Tensors) -> Tensors {
    for wrapper in ["module.", "_orig_mod.", "module."] {
        if tensors.keys().all(|name| name.starts_with(wrapper)) {
            tensors = tensors.into_iter().map(|(name, entry)| (name[wrapper.len()..].to_owned(), entry)).collect();
        }
    }
    tensors
}
