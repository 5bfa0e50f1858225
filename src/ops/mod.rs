//! The operations: one file here, one or more shaders of the same name in `shaders/`, one line in [`OPS`].

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod attention_product;
pub mod batch_norm;
pub mod batch_norm_pool;
pub mod check;
pub mod choice;
pub mod clip_norm;
mod common;
pub mod conv2d;
pub mod conv_transpose2d;
mod convolution;
mod direct;
mod filtering;
pub mod gate;
mod gradient_product;
pub mod loss_scale;
mod matrix;
pub mod max_pool2d;
pub mod moving_average;
pub mod project;
pub mod resize;
pub mod segmentation_loss;
pub mod tune;
pub mod warp;
mod winograd;
mod winograd_product;

use crate::tape::OpEntry;

/// The one list of all operations: shader validation, comparisons with the references, gradient checks, benches and
/// the kernel list walk it.
pub const OPS: &[OpEntry] = &[
    OpEntry { name: "conv2d", cases: conv2d::cases },
    OpEntry { name: "conv_transpose2d", cases: conv_transpose2d::cases },
    OpEntry { name: "batch_norm", cases: batch_norm::cases },
    OpEntry { name: "batch_norm_pool", cases: batch_norm_pool::cases },
    OpEntry { name: "attention", cases: attention::cases },
    OpEntry { name: "attention_product", cases: attention_product::cases },
    OpEntry { name: "relu", cases: activation::relu_cases },
    OpEntry { name: "sigmoid", cases: activation::sigmoid_cases },
    OpEntry { name: "add", cases: activation::add_cases },
    OpEntry { name: "max_pool2d", cases: max_pool2d::cases },
    OpEntry { name: "gate", cases: gate::cases },
    OpEntry { name: "project", cases: project::cases },
    OpEntry { name: "resize", cases: resize::cases },
    OpEntry { name: "segmentation_loss", cases: segmentation_loss::cases },
    OpEntry { name: "loss_scale", cases: loss_scale::cases },
    OpEntry { name: "loss_seed", cases: loss_scale::seed_cases },
    OpEntry { name: "clip_norm", cases: clip_norm::cases },
    OpEntry { name: "moving_average", cases: moving_average::cases },
    OpEntry { name: "adamw", cases: adamw::cases },
];

#[cfg(test)]
mod tests {
    use super::{OPS, check};
    use std::collections::BTreeSet;

    use crate::gpu::{Limits, MatrixUnits, Watched, watch, wide};
    use crate::tape::Element;

    /// A parameter that had an array's name kept that array as it was, unseen.
    #[test]
    fn what_a_processor_accesses_by_fours_is_accessed_by_64_bits() {
        let limits = Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU };
        let mut kernels = 0;
        for case in OPS.iter().flat_map(|op| (op.cases)()) {
            for dispatch in check::record(case, limits, Element::F32).0.program.dispatches {
                let left = wide::left_as_they_are(dispatch.kernel.text());
                assert!(left.is_empty(), "{}: {left:?}", dispatch.kernel);
                kernels += 1;
            }
        }
        assert!(kernels > 500, "{kernels}");
    }

    /// Accesses are watched by their text: one that is written in a way that is not seen would go unwatched.
    #[test]
    fn every_access_to_shared_memory_is_watched() {
        let software = Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU };
        let gpu = Limits {
            subgroup_lanes: 32,
            f16: true,
            matrix: MatrixUnits::Sixteen,
            workgroup_bytes: 48 << 10,
            ..Limits::WEBGPU
        };
        let emulated = Limits { matrix: MatrixUnits::Emulated, ..gpu };
        let few_registers = Limits { few_registers: true, ..Limits::WEBGPU };
        let (f32, f16) = (Element::F32, Element::F16);
        let mut texts = BTreeSet::new();
        let mut shaders = BTreeSet::new();
        for (limits, element) in
            [(software, f32), (gpu, f32), (gpu, f16), (emulated, f16), (few_registers, f32)]
        {
            for case in OPS.iter().flat_map(|op| (op.cases)()) {
                for dispatch in check::record(case, limits, element).0.program.dispatches {
                    let text = dispatch.kernel.text().to_owned();
                    if text.contains("var<workgroup>") {
                        shaders.insert(dispatch.kernel.name().split('/').next().expect("a name").to_owned());
                    }
                    texts.insert(text);
                }
            }
        }
        assert!(texts.len() > 400, "{}", texts.len());
        for shader in
            ["conv2d_tiled", "conv2d_rows_matrix16", "conv2d_matrix_emulated", "attention", "batch_norm"]
        {
            assert!(shaders.contains(shader), "{shader} is not among {shaders:?}");
        }
        for text in texts {
            assert!(!watch::unwatched(&text).is_empty(), "no access at all: {text}");
            for text in
                [text.clone(), wide::widen(&text)].map(|text| watch::watched(&text, Watched::BoundsAndRaces))
            {
                let left = watch::unwatched(&text);
                assert!(left.is_empty(), "{left:?} in {text}");
                let untold = watch::untold(&text);
                assert!(untold.is_empty(), "{untold:?} can be left without telling: {text}");
            }
        }
    }
}
