//! Every operation in the list: its kernels lower to every backend's language, its outputs equal the f64 reference on
//! the device, its gradients equal central differences of the reference.

mod common;

use std::collections::HashSet;

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use rosette::gpu::{Kernel, Limits};
use rosette::ops::{OPS, check};
use rosette::tape::Case;

/// Every distinct kernel that the cases record, on a GPU's limits and on the software adapter's.
fn kernels() -> Vec<Kernel> {
    let limits = [Limits::WEBGPU, Limits { software: true, ..Limits::WEBGPU }];
    let cases =
        |limits: Limits| OPS.iter().flat_map(|op| (op.cases)()).map(move |case| check::record(case, limits));
    let kernels: HashSet<Kernel> = limits
        .into_iter()
        .flat_map(cases)
        .flat_map(|(recorded, _)| recorded.program.dispatches.into_iter().map(|d| d.kernel))
        .collect();
    kernels.into_iter().collect()
}

#[test]
fn every_kernel_lowers_to_every_language() {
    let kernels = kernels();
    assert!(kernels.len() > 4, "the cases record kernels");
    for kernel in kernels {
        let module = naga::front::wgsl::parse_str(kernel.text()).expect("parsed once already");
        let info = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP)
            .validate(&module)
            .unwrap_or_else(|e| panic!("{kernel} needs more than WebGPU with subgroups: {e:?}"));
        spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|e| panic!("{kernel}: SPIR-V: {e}"));
        msl::write_string(
            &module,
            &info,
            &msl::Options { fake_missing_bindings: true, ..Default::default() },
            &Default::default(),
        )
        .unwrap_or_else(|e| panic!("{kernel}: MSL: {e}"));
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
    let Some(gpu) = common::device() else { return };
    let mut failures = Vec::new();
    for op in OPS {
        let count = (op.cases)().len();
        assert!(count > 0, "{} has cases", op.name);
        for index in 0..count {
            let make = || -> Case { (op.cases)().swap_remove(index) };
            let (label, tolerance) = (make().label, make().tolerance);
            let report = check::compare(&gpu, make).expect("the device works");
            println!(
                "{:<16} {label:<48} forward {:.1e} backward {:?}",
                op.name, report.forward, report.backward
            );
            if report.forward > tolerance || report.backward.is_some_and(|worst| worst > 5.0 * tolerance) {
                failures.push(format!("{} {label}: {report:?}", op.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
