//! Winograd's minimal filterings, F(2x2, 3x3) and F(4x4, 3x3), and the shaders of their passes ([`super::winograd`]).

use super::choice::Form;
use super::common::u;
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::tape::Flops;

/// A shader by outputs of a tile, two or four a side, and by channels of an invocation, two, four or eight.
pub(super) type Family = [[ShaderSource; 3]; 2];

macro_rules! family {
    ($name:literal, $($lanes:literal),+) => {
        [
            [$(family!(@one $name, "winograd2", $lanes)),+],
            [$(family!(@one $name, "winograd4", $lanes)),+],
        ]
    };
    (@one $name:literal, $filtering:literal, $lanes:literal) => {
        ShaderSource {
            name: $name,
            text: concat!(
                "#import ", $filtering, "\n#import ", $lanes, "\n", include_str!(concat!("../../shaders/", $name, ".wgsl"))
            ),
        }
    };
}

pub(super) const INPUT: Family =
    family!("conv2d_winograd", "lane2\n#import read2", "lane4\n#import read4", "lane8\n#import read8");
pub(super) const OUTPUT: Family = family!("conv2d_winograd_output", "lane2", "lane4", "lane8");
pub(super) const GRADIENT: Family = family!("conv2d_winograd_gradient", "lane2", "lane4", "lane8");
pub(super) const WEIGHT: Family = family!("conv2d_winograd_weight", "lane2", "lane4", "lane8");
pub(super) const FLIPPED: Family = family!("conv2d_winograd_flipped", "lane4", "lane4", "lane4");
pub(super) const FINISH: Family = family!("conv2d_winograd_finish", "lane2", "lane4", "lane8");
/// One of Winograd's minimal filterings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filtering {
    /// F(2x2, 3x3): 2.25 times fewer multiplications; a weight becomes 16 numbers.
    Two,
    /// F(4x4, 3x3): four times fewer; a weight becomes 36.
    Four,
}

impl Filtering {
    /// Which one a form is.
    pub(super) fn of(form: Form) -> Option<Self> {
        match form {
            Form::WinogradTwo => Some(Self::Two),
            Form::Winograd => Some(Self::Four),
            _ => None,
        }
    }

    /// Outputs of a tile, a side.
    pub(super) fn tile(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Products a tile.
    pub(super) fn products(self) -> usize {
        (self.tile() + 2).pow(2)
    }

    /// Operations of the products of so many tiles by channels, counted as those of the convolution that they stand for.
    pub(super) fn flops(self, tiles: usize, in_channels: usize, out_channels: usize) -> Flops {
        let flops = |factors: usize| (2 * tiles * factors * in_channels * out_channels) as u64;
        Flops { counted: flops(9 * self.tile().pow(2)), executed: flops(self.products()) }
    }

    /// Bytes of a block of 8 outputs among the transformed weights, or their gradient's partial sums.
    pub(super) fn block_bytes(self, groups: usize) -> u64 {
        (self.products() * groups * 32 * 4) as u64
    }

    /// The kernel for invocations of so many channels. The variant repeats what the imports say, so that a family's shaders are told
    /// apart.
    pub(super) fn kernel(
        self,
        family: Family,
        entry: &'static str,
        channels: usize,
        variant: Variant,
    ) -> Kernel {
        let variant = variant.with("TILE", u(self.tile())).with("V_FLOATS", u(channels));
        Kernel::new(family[usize::from(self == Self::Four)][channels.ilog2() as usize - 1], entry, variant)
    }
}
