//! Where to compute, and with which numbers.

use crate::error::{Error, Result};
use candle_core::{DType, Device};
use std::str::FromStr;

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU that was compiled in and is there, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cuda = |number: &str| number.parse().map(Self::Cuda).ok();
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            "metal" => Some(Self::Metal),
            _ => text.strip_prefix("cuda:").and_then(cuda),
        }
        .ok_or_else(|| "expected auto, cpu, cuda, cuda:N or metal".to_owned())
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// A usage error that names the cargo feature if the device was not compiled in; a run error if it is not there.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(automatic()),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(not_compiled_in("CUDA", "cuda")),
            Self::Metal if !cfg!(feature = "metal") => Err(not_compiled_in("Metal", "metal")),
            Self::Cuda(number) => {
                Device::new_cuda(number).map_err(|e| Error::run(e).at(format!("--device cuda:{number}")))
            }
            Self::Metal => Device::new_metal(0).map_err(|e| Error::run(e).at("--device metal")),
        }
    }
}

fn automatic() -> Device {
    if cfg!(feature = "cuda")
        && let Ok(device) = Device::new_cuda(0)
    {
        return device;
    }
    if cfg!(feature = "metal")
        && let Ok(device) = Device::new_metal(0)
    {
        return device;
    }
    Device::Cpu
}

fn not_compiled_in(name: &str, feature: &str) -> Error {
    Error::usage(format!("this program was built without {name}"))
        .at(format!("--device {feature}"))
        .hint(format!("build with `cargo install --path . --features {feature}`, or use --device cpu"))
}

/// What `--precision` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32, in which results are exact.
    Auto,
    /// 32-bit floating point.
    F32,
    /// 8-bit integers in the larger maps, and f32 between them.
    Int8,
    /// 16-bit floating point.
    F16,
    /// 16-bit floating point with the range of f32.
    Bf16,
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "f32" => Self::F32,
            "int8" => Self::Int8,
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            _ => return Err("expected auto, f32, int8, f16 or bf16".to_owned()),
        })
    }
}

impl Precision {
    /// The kind of numbers on this device.
    ///
    /// # Errors
    /// A usage error for half precision on the CPU, which would be slower there and less exact, and for 8-bit integers
    /// anywhere else.
    pub fn resolve(self, device: &Device) -> Result<DType> {
        let (dtype, name) = match self {
            Self::Int8 if !device.is_cpu() => {
                return Err(Error::usage("8-bit integers are for the CPU")
                    .at("--precision int8")
                    .hint("add --device cpu, or use --precision f16 or bf16"));
            }
            Self::Int8 | Self::Auto | Self::F32 => return Ok(DType::F32),
            Self::F16 => (DType::F16, "f16"),
            Self::Bf16 => (DType::BF16, "bf16"),
        };
        if device.is_cpu() {
            return Err(Error::usage("the CPU computes in f32 or int8; half precision needs a GPU")
                .at(format!("--precision {name}"))
                .hint("weights stored in half precision are read on the CPU all the same"));
        }
        Ok(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn names() {
        let parse = |text: &str| text.parse::<DeviceChoice>().ok();
        assert_eq!(parse("auto"), Some(DeviceChoice::Auto));
        assert_eq!(parse("cuda"), Some(DeviceChoice::Cuda(0)));
        assert_eq!(parse("cuda:3"), Some(DeviceChoice::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_device_that_is_not_compiled_in() {
        let error = DeviceChoice::Cuda(0).open().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.advice().unwrap().contains("--features cuda"));
    }

    #[test]
    fn half_precision_needs_a_gpu() {
        assert_eq!(Precision::Auto.resolve(&Device::Cpu).unwrap(), DType::F32);
        assert_eq!(Precision::Int8.resolve(&Device::Cpu).unwrap(), DType::F32);
        assert_eq!(Precision::Bf16.resolve(&Device::Cpu).unwrap_err().kind(), Kind::Usage);
    }
}
