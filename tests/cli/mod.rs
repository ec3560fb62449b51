//! The program as its users see it.

mod doctor;
#[cfg(feature = "hub")]
mod fake_hub;
mod hub;
mod models;
