//! Weights on disk: files in whatever layout, seen under our own parameter names.
//!
//! [`files`] reads tensors, [`layout`] translates names, [`store`] hands parameters to the towers and keeps account of
//! what was missing, misshapen or left over. Models are used from safetensors; what `torch.save` and numpy wrote
//! ([`torch`], [`npz`]) is read to be converted.

pub mod archive;
pub mod entry;
pub mod files;
mod kept_hash;
pub mod layout;
mod mapped;
pub mod npz;
pub mod pickle;
pub mod store;
pub mod torch;
pub mod trained;

pub use entry::Entry;
pub use files::{Bytes, Files, Kind, Raw};
pub use layout::{Form, Layout, Recipe, Rule};
pub use store::{Params, Store};
pub use trained::{Adapter, Trained, View};
