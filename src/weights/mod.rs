//! Weights on disk: safetensors files in whatever layout, seen under our own parameter names.
//!
//! [`files`] reads tensors, [`layout`] translates names, [`store`] hands parameters to the towers and keeps account of
//! what was missing, misshapen or left over.

pub mod files;
pub mod layout;
pub mod store;

pub use files::{Bytes, Files};
pub use layout::{Form, Layout, Rule};
pub use store::{Params, Store};
