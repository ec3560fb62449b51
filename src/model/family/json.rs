//! Reading configuration files: sparse, with unknown keys, sometimes wrong.

use crate::error::{Error, Result};
use serde_json::Value;

/// A part of a configuration file. A missing part is one in which every key is missing.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    value: Option<&'a Value>,
    path: String,
}

impl<'a> Section<'a> {
    /// The whole of a file; `name` is for messages.
    pub fn root(name: &str, value: Option<&'a Value>) -> Self {
        Self { value, path: name.to_owned() }
    }

    /// The part under a key.
    #[must_use]
    pub fn sub(&self, key: &str) -> Self {
        Self { value: self.raw(key), path: format!("{}.{key}", self.path) }
    }

    /// Whether the key is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Whether the key is there and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.value.and_then(|value| value.get(key)).is_some_and(Value::is_null)
    }

    /// The value under a key, unless it is null.
    pub fn raw(&self, key: &str) -> Option<&'a Value> {
        self.value?.get(key).filter(|value| !value.is_null())
    }

    /// A whole number, if the key is there.
    pub fn whole(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number", |v| {
            v.as_u64().or_else(|| v.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64))
        })
        .map(|n| n.map(|n| n as usize))
    }

    /// A whole number, or what the reference assumes.
    pub fn whole_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.whole(key)?.unwrap_or(default))
    }

    /// A list of whole numbers, or what the reference assumes.
    pub fn wholes_or(&self, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        let list = self.typed(key, "a list of whole numbers", |v| {
            v.as_array()?.iter().map(|v| v.as_u64().map(|n| n as usize)).collect::<Option<Vec<usize>>>()
        })?;
        Ok(list.unwrap_or_else(|| default.to_vec()))
    }

    /// A number, or what the reference assumes.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.typed(key, "a number", Value::as_f64)?.unwrap_or(default))
    }

    /// True or false, or what the reference assumes.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A string, if the key is there.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Three numbers, one a channel.
    pub fn triple_or(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        let triple = self.typed(key, "three numbers", |v| {
            let numbers: Vec<f32> = v.as_array()?.iter().filter_map(|v| v.as_f64().map(|f| f as f32)).collect();
            numbers.try_into().ok()
        })?;
        Ok(triple.unwrap_or(default))
    }

    /// A height and a width in pixels: a number for both, or a list of two.
    pub fn size(&self, key: &str) -> Result<Option<[usize; 2]>> {
        self.typed(key, "a size in pixels", |v| match v {
            Value::Array(list) => match list.as_slice() {
                [h, w] => Some([h.as_u64()? as usize, w.as_u64()? as usize]),
                _ => None,
            },
            _ => v.as_u64().map(|n| [n as usize; 2]),
        })
    }

    /// An error about a key of this part.
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::run(format!("{}.{key}: {message}", self.path))
    }

    fn typed<T>(&self, key: &str, wanted: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.raw(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(key, format!("expected {wanted}, found {value}"))),
            },
        }
    }
}
