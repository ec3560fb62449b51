//! timm's SigLIP trunks: what their names stand for (timm 1.0.31, `vision_transformer.py`).

/// A trunk that timm knows by name. open_clip builds it from the name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Its name, without the input size at the end.
    name: &'static str,
    /// The length of a token.
    pub width: usize,
    /// How many blocks.
    pub layers: usize,
    /// How many attention heads.
    pub heads: usize,
    /// The length of the hidden layer of the MLP.
    pub mlp: usize,
    /// The side of a patch, in pixels.
    pub patch: usize,
    /// The sides of the inputs that there are, in pixels, and whether GELU is its tanh approximation there. The two
    /// ways grew with the releases: the first SigLIP's were made with the exact function.
    sizes: &'static [(usize, bool)],
}

const fn trunk(
    name: &'static str,
    [width, layers, heads, mlp]: [usize; 4],
    patch: usize,
    sizes: &'static [(usize, bool)],
) -> Trunk {
    Trunk { name, width, layers, heads, mlp, patch, sizes }
}

const BASE: [usize; 4] = [768, 12, 12, 3072];
const LARGE: [usize; 4] = [1024, 24, 16, 4096];
const SO400M: [usize; 4] = [1152, 27, 16, 4304];
const GIANTOPT: [usize; 4] = [1536, 40, 16, 6144];

/// All of them.
pub static TRUNKS: &[Trunk] = &[
    trunk("vit_base_patch32_siglip", BASE, 32, &[(256, true)]),
    trunk("vit_base_patch16_siglip", BASE, 16, &[(224, false), (256, false), (384, false), (512, false)]),
    trunk("vit_large_patch16_siglip", LARGE, 16, &[(256, false), (384, false), (512, true)]),
    trunk("vit_so400m_patch14_siglip", SO400M, 14, &[(224, false), (378, false), (384, false)]),
    trunk("vit_so400m_patch16_siglip", SO400M, 16, &[(256, true), (384, true), (512, true)]),
    trunk("vit_giantopt_patch16_siglip", GIANTOPT, 16, &[(256, true), (384, true)]),
];

impl Trunk {
    /// Whether the trunk for this input uses the tanh approximation of GELU; none if there is no such trunk.
    pub fn tanh(&self, side: usize) -> Option<bool> {
        self.sizes.iter().find(|(size, _)| *size == side).map(|(_, tanh)| *tanh)
    }

    /// The name of the trunk for an input of this side.
    pub fn named(&self, side: usize) -> String {
        format!("{}_{side}", self.name)
    }
}

/// What a trunk's full name stands for, and whether GELU is its tanh approximation there. The trunks without attention
/// pooling (`gap`) are built alike.
pub fn find(name: &str) -> Option<(&'static Trunk, bool)> {
    let name = name.replace("_siglip_gap_", "_siglip_");
    let (stem, side) = name.rsplit_once('_')?;
    let trunk = TRUNKS.iter().find(|trunk| trunk.name == stem)?;
    Some((trunk, trunk.tanh(side.parse().ok()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_activation() {
        let tanh = |name| find(name).map(|(_, tanh)| tanh);
        assert_eq!(tanh("vit_base_patch16_siglip_224"), Some(false));
        assert_eq!(tanh("vit_base_patch32_siglip_256"), Some(true));
        assert_eq!(tanh("vit_so400m_patch14_siglip_gap_378"), Some(false));
        assert_eq!(tanh("vit_giantopt_patch16_siglip_384"), Some(true));
        assert_eq!(tanh("vit_small_patch14_dinov2"), None);
    }
}
