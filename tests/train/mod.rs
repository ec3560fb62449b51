//! Training.

mod assemble;
mod data;
#[cfg(feature = "mpi")]
mod group;
mod init;
mod lora;
mod memory;
mod merge;
mod objectives;
mod trajectory;
