//! Every operation in the list: its kernels lower to every backend's language, its outputs equal the f64 reference on
//! the device, its gradients equal central differences of the reference.

mod common;

use std::collections::HashSet;

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use rosette::gpu::{Gpu, Kernel, Limits, MatrixUnits, ceiling_kernels};
use rosette::ops::choice::Form;
use rosette::ops::{OPS, check, warp};
use rosette::tape::{Element, OpEntry};
use rosette::train::examine_operation;

const PRECISIONS: [Element; 2] = [Element::F32, Element::F16];

/// Every distinct kernel that the cases record in both precisions, on a GPU's limits and on the software adapter's.
fn kernels() -> Vec<Kernel> {
    let gpu = Limits { subgroup_lanes: 32, f16: true, workgroup_bytes: 48 << 10, ..Limits::WEBGPU };
    let limits = [
        Limits::WEBGPU,
        Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU },
        Limits { matrix: MatrixUnits::Eight, ..gpu },
        Limits { matrix: MatrixUnits::Sixteen, ..gpu },
        Limits { matrix: MatrixUnits::Emulated, ..gpu },
    ];
    let cases = |limits: Limits, stored: Element| {
        OPS.iter().flat_map(|op| (op.cases)()).map(move |case| check::record(case, limits, stored))
    };
    let kernels: HashSet<Kernel> = limits
        .into_iter()
        .flat_map(|limits| PRECISIONS.map(|stored| (limits, stored)))
        .flat_map(|(limits, stored)| cases(limits, stored))
        .flat_map(|(recorded, _)| recorded.program.dispatches.into_iter().map(|d| d.kernel))
        .collect();
    kernels.into_iter().chain(warp::kernels()).chain(ceiling_kernels()).collect()
}

#[test]
fn every_kernel_lowers_to_every_language() {
    let kernels = kernels();
    let halves = kernels.iter().filter(|kernel| kernel.text().starts_with("enable f16")).count();
    assert!(halves > 20 && kernels.len() - halves > 20, "the cases record kernels of both precisions");
    for kernel in kernels {
        let module = naga::front::wgsl::parse_str(kernel.text()).expect("parsed once already");
        // Only Vulkan and Metal have matrix units, and Metal those of 8 x 8 alone.
        let [any, eight] =
            ["enable wgpu_cooperative_matrix", "coop_mat8x8"].map(|word| kernel.text().contains(word));
        let (metal, direct_x) = (!any || eight, !any);
        let matrix = if any { Capabilities::COOPERATIVE_MATRIX } else { Capabilities::empty() };
        let capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16 | matrix;
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .unwrap_or_else(|e| panic!("{kernel} needs more than WebGPU with subgroups and f16: {e:?}"));
        spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|e| panic!("{kernel}: SPIR-V: {e}"));
        if metal {
            let options =
                msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
            msl::write_string(&module, &info, &options, &Default::default())
                .unwrap_or_else(|e| panic!("{kernel}: MSL: {e}"));
        }
        if !direct_x {
            continue;
        }
        let options = hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = hlsl::PipelineOptions::default();
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{kernel}: HLSL: {e}"));
    }
}

#[test]
fn every_operation_agrees_with_its_reference_and_its_gradient_with_differences() {
    all_agree(Element::F32);
}

#[test]
fn every_operation_agrees_with_its_reference_in_half_precision() {
    all_agree(Element::F16);
}

/// Shaders for matrix units, with the units replaced by what they stand for: any device can check all the rest.
#[test]
fn matrix_units_agree_with_the_reference_where_they_are_emulated() {
    matrix_units_agree(|_| MatrixUnits::Emulated);
}

/// Those that the driver offers, on a software adapter too, which does not use them by itself (Mesa's has them from 25.2 on).
#[test]
#[ignore = "takes minutes on a software adapter"]
fn matrix_units_agree_with_the_reference() {
    matrix_units_agree(|gpu| gpu.summary().matrix_units);
}

fn matrix_units_agree(units: impl Fn(&Gpu) -> MatrixUnits) {
    let Some(gpu) = common::device() else { return };
    let matrix = units(&gpu);
    if !gpu.limits().f16 || matrix == MatrixUnits::None {
        return println!("SKIPPED: {} has no 16-bit floats, or no matrix units", gpu.summary());
    }
    let limits = Limits { matrix, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    let convolutions = OPS.iter().filter(|op| op.name.starts_with("conv"));
    let checked: usize = convolutions.map(|op| agree(&gpu, op, Element::F16, Form::is_matrix)).sum();
    assert!(checked >= 8, "{checked} cases");
}

/// Winograd's products go through workgroup memory on a GPU.
#[test]
fn winograd_as_gpus_compute_it_agrees_with_the_reference() {
    let Some(gpu) = common::device() else { return };
    let limits = Limits { software: false, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    if limits.subgroup_lanes < 8 {
        return println!("SKIPPED: {} has no subgroups", gpu.summary());
    }
    let conv2d = OPS.iter().find(|op| op.name == "conv2d").expect("in the list");
    let cases = (conv2d.cases)().into_iter().filter(|case| case.label.starts_with("Winograd"));
    let dispatches = cases.flat_map(|case| check::record(case, limits, Element::F32).0.program.dispatches);
    let names: HashSet<String> = dispatches.map(|dispatch| dispatch.kernel.name()).collect();
    for entry in ["multiply", "multiply_gradient"] {
        assert!(names.contains(&format!("conv2d_winograd_product/{entry}")), "{names:?}");
    }
    assert!(agree(&gpu, conv2d, Element::F32, |form| form == Form::Winograd) >= 8);
}

/// A form that does not fit a case gives way to another one, which would then be checked in its place.
#[test]
fn cases_for_matrix_units_are_computed_by_them() {
    let limits = Limits {
        subgroup_lanes: 32,
        f16: true,
        matrix: MatrixUnits::Sixteen,
        workgroup_bytes: 48 << 10,
        ..Limits::WEBGPU
    };
    for op in OPS {
        for case in (op.cases)().into_iter().filter(|case| case.label.starts_with("Matrix")) {
            let label = case.label.clone();
            let (recorded, _) = check::record(case, limits, Element::F16);
            let names: Vec<String> =
                recorded.program.dispatches.iter().map(|dispatch| dispatch.kernel.name()).collect();
            assert!(names.iter().any(|name| name.starts_with("conv2d_matrix16/")), "{label}: {names:?}");
        }
    }
}

fn all_agree(stored: Element) {
    let Some(gpu) = common::device() else { return };
    if stored == Element::F16 && !gpu.limits().f16 {
        return println!("SKIPPED: {} has no 16-bit floats", gpu.summary());
    }
    for op in OPS {
        assert!(agree(&gpu, op, stored, |_| true) > 0, "{} has cases", op.name);
    }
}

/// Every case of an operation passes; how many there are.
fn agree(gpu: &Gpu, op: &OpEntry, stored: Element, wanted: impl Fn(Form) -> bool) -> usize {
    let examined = examine_operation(gpu, op, stored, wanted).expect("the device works");
    for entry in &examined {
        println!(
            "{:<24} {} passed, forward {:.1e} backward {:.1e}",
            entry.what, entry.passed, entry.forward, entry.backward
        );
        assert!(entry.failures.is_empty(), "{}: {}", entry.what, entry.failures.join("\n"));
    }
    examined.iter().map(|entry| entry.passed).sum()
}
