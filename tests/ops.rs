//! Every operation in the list: its kernels lower to every backend's language, its outputs equal the f64 reference on
//! the device, its gradients equal central differences of the reference.

mod common;
#[path = "common/units.rs"]
mod units;

use std::collections::{HashMap, HashSet};

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use rosette::gpu::{Gpu, Kernel, Limits, MatrixUnits, ceiling_kernels};
use rosette::ops::batch_norm::BatchNorm;
use rosette::ops::choice::Form;
use rosette::ops::conv2d::{Conv2d, Packing};
use rosette::ops::{OPS, check, warp};
use rosette::tape::{Case, CaseInput, Element, Fill, OpEntry, Phase, Program, Shape, Store};
use rosette::train::{examine_operation, representative_cases};
use units::UNITS;

const PRECISIONS: [Element; 2] = [Element::F32, Element::F16];

/// Every distinct kernel that the cases record in both precisions, on a GPU's limits and on the software adapter's.
fn kernels() -> Vec<Kernel> {
    let limits = [
        Limits::WEBGPU,
        Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU },
        Limits { few_registers: true, ..Limits::WEBGPU },
        UNITS,
        Limits { matrix: MatrixUnits::Eight, ..UNITS },
        Limits { matrix: MatrixUnits::Emulated, ..UNITS },
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
        let module = naga::front::wgsl::parse_str(kernel.text()).unwrap_or_else(|e| panic!("{kernel}: {e}"));
        // Only Vulkan and Metal have matrix units, and Metal those of 8 x 8 alone.
        let [any, eight] =
            ["enable wgpu_cooperative_matrix", "coop_mat8x8"].map(|word| kernel.text().contains(word));
        let (metal, direct_x) = (!any || eight, !any);
        let matrix = if any { Capabilities::COOPERATIVE_MATRIX } else { Capabilities::empty() };
        let capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16 | matrix;
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .unwrap_or_else(|e| panic!("{kernel} needs more than WebGPU with subgroups and f16: {e:?}"));
        // It was read before its loops were unrolled.
        let uses = info.get_entry_point(entry_of(&module, &kernel));
        let mut bound: Vec<u32> = module
            .global_variables
            .iter()
            .filter(|(at, _)| !uses[*at].is_empty())
            .filter_map(|(_, global)| Some(global.binding.as_ref()?.binding))
            .collect();
        bound.sort_unstable();
        let read: Vec<u32> = kernel.reflection().bindings.iter().map(|binding| binding.index).collect();
        assert_eq!(bound, read, "{kernel}");
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
        // DXC has a namespace of that name, and naga writes the name of a global as it is.
        let is_reserved = |global: &naga::GlobalVariable| global.name.as_deref() == Some("dx");
        assert!(!module.global_variables.iter().any(|(_, global)| is_reserved(global)), "{kernel}: dx");
        let options = hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = hlsl::PipelineOptions::default();
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{kernel}: HLSL: {e}"));
        // Outside of an entry point naga's HLSL has the workgroup's own number for it: AdamW of a large network, whose grid was folded
        // into rows, would have updated some weights twice and others never.
        assert!(!kernel.text().contains("@builtin(num_workgroups)"), "{kernel}");
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
    assert!(Form::MATRIX.iter().any(|form| form.runs_on(true, limits)), "one form at least fits everywhere");
    for op in OPS.iter().filter(|op| op.name.starts_with("conv")) {
        for form in Form::MATRIX {
            if !form.runs_on(true, limits) {
                println!("SKIPPED: {} has no memory for workgroups of {}", gpu.summary(), form.name());
                continue;
            }
            if op.name == "conv2d" || !form.is_for_3x3_alone() {
                assert!(agree(&gpu, op, Element::F16, |other| other == form) >= 2, "{} {form:?}", op.name);
            }
        }
    }
}

/// A 3x3 convolution to 8 channels, by one form.
fn convolution(form: Form, image: [usize; 4]) -> Case {
    convolution_to(8, form, image)
}

fn convolution_to(out_channels: usize, form: Form, [n, h, w, in_channels]: [usize; 4]) -> Case {
    let packing = Packing { out_channels, in_channels, kernel: 3 };
    let inputs = vec![
        CaseInput::activation(Shape::nhwc(n, h, w, in_channels)),
        CaseInput::weight(packing.shape(), 1.0 / ((9 * in_channels) as f64).sqrt()),
        CaseInput::weight(Shape::new([out_channels]), 1.0),
    ];
    Case::new("a convolution", Conv2d { form: Some(form), ..Conv2d::new(3, out_channels) }, inputs)
}

fn compare(gpu: &Gpu, element: Element, case: impl Fn() -> Case) {
    let report = check::compare(gpu, element, &case).expect("the device works");
    let rounding = if element == Element::F16 { check::F16_ROUNDING } else { 0.0 };
    let tolerance = case().tolerance + rounding;
    let backward = report.backward.expect("it has a gradient");
    assert!(report.forward <= tolerance && backward <= 10.0 * tolerance, "{} {backward}", report.forward);
}

#[test]
fn matrix_units_agree_with_the_reference_in_slices() {
    let Some(gpu) = common::device() else { return };
    if !gpu.limits().f16 {
        return println!("SKIPPED: {} has no 16-bit floats", gpu.summary());
    }
    // Of three images of 256 KiB two fit a binding, and the sums of the widest tile's weight gradient. Not more pixels: Mesa's
    // software adapter ends loops after 65,535 rounds of an invocation in all, and emulation has a thousand times as many.
    let limits = Limits { matrix: MatrixUnits::Emulated, storage_binding_bytes: 540_672, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    for form in Form::MATRIX {
        let case = || convolution(form, [3, 64, 64, 32]);
        let (recorded, _) = check::record(case(), limits, Element::F16);
        let of = |entry: &str| {
            recorded.program.dispatches.iter().filter(|d| d.kernel.name().ends_with(entry)).count()
        };
        let rows = if form.is_for_3x3_alone() { "rows_" } else { "" };
        let [forward, gradient] = [
            format!("conv2d_{rows}matrix_emulated/forward"),
            format!("gradient_{rows}matrix_emulated/multiply"),
        ];
        assert_eq!([of(&forward), of(&gradient)], [4, 2], "{form:?}");
        compare(&gpu, Element::F16, case);
    }
}

/// Winograd's products go through workgroup memory on a GPU.
#[test]
fn winograd_as_gpus_compute_it_agrees_with_the_reference() {
    let Some(gpu) = common::device_for_races() else { return };
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
    for filtering in [Form::Winograd, Form::WinogradTwo] {
        assert!(agree(&gpu, conv2d, Element::F32, |form| form == filtering) >= 8);
    }
    // Tiles enough for several splits.
    compare(&gpu, Element::F32, || convolution(Form::Winograd, [2, 68, 64, 8]));
}

/// Kernels of one workgroup whatever there is to do, whose grid is never folded.
const ONE_WORKGROUP: [&str; 1] = ["loss_scale/update"];

/// A grid that is folded into rows has up to 1,023 workgroups more than it needs: these must change nothing. (The weight gradients of matrix
/// units, and of Winograd's on GPUs, wrote beyond the end of their sums.)
#[test]
fn workgroups_beyond_the_last_change_nothing() {
    let Some(gpu) = common::device() else { return };
    let software = gpu.limits();
    let as_a_gpu = Limits { software: false, matrix: MatrixUnits::Emulated, ..software };
    let mut gpu = gpu;
    let mut wrong: Vec<String> = Vec::new();
    let halves = software.f16.then_some((as_a_gpu, Element::F16));
    for (limits, stored) in [(software, Element::F32), (as_a_gpu, Element::F32)].into_iter().chain(halves) {
        gpu = gpu.with_limits(limits);
        for op in OPS {
            for place in representative_cases(op, stored, limits) {
                let make = || (op.cases)().swap_remove(place);
                let more = |program: &mut Program| {
                    let of_any = |name: String| !ONE_WORKGROUP.contains(&&*name);
                    let grids = program.dispatches.iter_mut().filter(|d| of_any(d.kernel.name()));
                    grids.for_each(|dispatch| dispatch.groups = 2 * dispatch.groups + 3);
                };
                let report = check::compare_changed(&gpu, stored, make, more).expect("the device works");
                let Case { label, tolerance, .. } = make();
                let allowed = tolerance + if stored == Element::F16 { check::F16_ROUNDING } else { 0.0 };
                if !(report.forward <= allowed && report.backward.unwrap_or(0.0) <= 5.0 * allowed) {
                    wrong.push(format!("{} {label} {stored:?} {}: {report:?}", op.name, limits.software));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Kernels kept more in registers than Intel's and Apple's GPUs have: those have forms of their own, two channels an invocation
/// of Winograd's tiles among them.
#[test]
fn what_gpus_with_few_registers_compute_agrees_with_the_reference() {
    let Some(gpu) = common::device() else { return };
    let limits = Limits { software: false, few_registers: true, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    let mut variants: HashSet<String> = HashSet::new();
    for op in OPS.iter().filter(|op| op.name.starts_with("conv")) {
        for stored in PRECISIONS.into_iter().filter(|stored| *stored == Element::F32 || limits.f16) {
            for case in (op.cases)() {
                let dispatches = check::record(case, limits, stored).0.program.dispatches;
                variants.extend(dispatches.iter().map(|d| d.kernel.to_string()));
            }
            let is_meant =
                |form: Form| !form.is_matrix() && (form != Form::Direct || limits.subgroup_lanes >= 8);
            assert!(agree(&gpu, op, stored, is_meant) > 0, "{} has cases", op.name);
        }
    }
    let of_halves = [
        ("conv2d_winograd/transform_input", "Channels=vec2<f16>,NORMALISED=true"),
        ("conv2d_winograd_output/transform_output", "V_FLOATS=2u,Y=vec2<f16>"),
    ];
    let of_any = [
        ("conv2d_tiled/forward", "PRODUCT_AHEAD=false,PRODUCT_TOGETHER=1u,PRODUCT_USED=12u"),
        ("conv2d_winograd/transform_input", "NORMALISED_RELU=true,TILE=4u,V_FLOATS=2u"),
        ("conv2d_winograd_flipped/transform_flipped", "INPUTS=1u"),
        ("conv2d_winograd_output/transform_output_moments", "TILE=4u,V_FLOATS=2u"),
        ("conv2d_winograd_finish/finish", "TILE=4u,V_FLOATS=2u"),
        ("conv2d_winograd_product/multiply_gradient", "PRODUCT_AHEAD=false,PRODUCT_TOGETHER=1u"),
        ("conv2d_gradient_product/multiply", "TILES=1u"),
        ("conv2d_weight_gradient/weight_gradient", "HALVES=1u"),
    ];
    for (kernel, choice) in of_any.into_iter().chain(of_halves.into_iter().filter(|_| limits.f16)) {
        let is_it = |name: &String| name.starts_with(kernel) && name.contains(choice);
        assert!(variants.iter().any(is_it), "{kernel} with {choice}");
    }
}

/// One invocation added up thousands of partial sums, while a GPU had nothing else to do: now many share such a sum there.
#[test]
fn sums_that_gpus_share_among_invocations_agree_with_the_reference() {
    let Some(gpu) = common::device_for_races() else { return };
    let limits = Limits { software: false, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    let others = || OPS.iter().filter(|op| !op.name.starts_with("conv"));
    let mut shared: HashSet<String> = HashSet::new();
    for op in others() {
        for case in (op.cases)() {
            let dispatches = check::record(case, limits, Element::F32).0.program.dispatches;
            let is_shared = |kernel: &&Kernel| {
                let variant = kernel.variant().to_string();
                variant.contains("SUM_LANES") && !variant.contains("SUM_LANES=1u")
            };
            shared.extend(dispatches.iter().map(|d| &d.kernel).filter(is_shared).map(Kernel::name));
        }
        assert!(agree(&gpu, op, Element::F32, |_| true) > 0, "{} has cases", op.name);
    }
    let mut shared: Vec<&str> = shared.iter().map(String::as_str).collect();
    shared.sort_unstable();
    let wanted = [
        "batch_norm_gradient/affine_gradient",
        "clip_norm/clip",
        "loss_scale/update",
        "segmentation_loss/finish_images",
        "split_sum/sum",
    ];
    assert_eq!(shared, wanted);
    // As many splits as the widest workgroups are for, and one invocation more than they have.
    compare(&gpu, Element::F32, || {
        let channels = Shape::new([1]);
        let state = |low| CaseInput::constant(channels.clone(), Store::State, Fill::Uniform(low, 2.0));
        let inputs = vec![
            CaseInput::activation(Shape::nhwc(1, 259, 256, 1)).filled(Fill::Normal(0.5, 2.0)),
            CaseInput::weight(channels.clone(), 1.0),
            CaseInput::weight(channels.clone(), 1.0),
            state(-1.0),
            state(0.5),
        ];
        Case::new("many splits", BatchNorm::new(true, true), inputs)
    });
}

/// The same of the splits of a weight's gradient on matrix units.
#[test]
fn splits_that_gpus_share_among_invocations_agree_with_the_reference() {
    let Some(gpu) = common::device_for_races() else { return };
    if !gpu.limits().f16 {
        return println!("SKIPPED: {} has no 16-bit floats", gpu.summary());
    }
    let limits = Limits { software: false, matrix: MatrixUnits::Emulated, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    let case = || convolution(Form::MatrixTall, [1, 64, 64, 8]);
    let program = check::record(case(), limits, Element::F16).0.program;
    let mut gathers =
        program.dispatches.iter().filter(|dispatch| dispatch.kernel.name() == "conv2d_matrix_gather/gather");
    let variant = gathers.next().expect("a gradient").kernel.variant().to_string();
    assert!(variant.contains("SUM_LANES=4u"), "{variant}");
    compare(&gpu, Element::F16, case);
}

/// Else y would be written, read and rounded once more.
#[test]
fn two_sources_that_share_a_patch_take_one_dispatch() {
    let conv2d = OPS.iter().find(|op| op.name == "conv2d").expect("in the list");
    for (label, wanted) in [
        ("MatrixRows 3x3 [1, 2, 3] [40, 72] to 72", 1),
        ("Matrix 3x3 [2, 5, 7] [8, 16] to 24 with moments", 2),
    ] {
        let case = (conv2d.cases)().into_iter().find(|case| case.label == label).expect(label);
        let program = check::record(case, UNITS, Element::F16).0.program;
        let of_forward = program.dispatches.iter().filter(|dispatch| dispatch.phase == Phase::Forward);
        let sums = of_forward.filter(|dispatch| dispatch.kernel.name().contains("matrix16/forward"));
        assert_eq!(sums.count(), wanted, "{label}");
    }
}

/// A device that runs 256 workgroups at once would need twice the time for 288.
#[test]
fn a_weight_gradient_does_not_end_in_a_round_of_few_workgroups() {
    let limits = Limits { storage_binding_bytes: 1 << 31, ..UNITS };
    for form in Form::MATRIX {
        for (side, channels) in [(512, 64), (256, 128), (64, 512), (32, 1024)] {
            let case = convolution_to(channels, form, [4, side, side, channels]);
            let program = check::record(case, limits, Element::F16).0.program;
            let sums = program.dispatches.iter().find(|d| d.kernel.name().ends_with("matrix16/multiply"));
            let sums = sums.expect("a gradient");
            let groups = sums.groups;
            assert!(groups >= 512, "{form:?} {channels}: {groups} workgroups");
            // Written and read again at 100 operations a byte, they take half as long as the products at most.
            let bytes = sums.args[2].size_bytes;
            assert!(
                2 * bytes * 100 < sums.flops.counted / 2,
                "{form:?} {channels}: {bytes} bytes for {} operations",
                sums.flops.counted
            );
        }
    }
}

/// No layer between us and the driver looks at it: what does not fit is undefined behaviour there.
#[test]
fn no_kernel_is_recorded_whose_workgroup_memory_exceeds_the_limit() {
    let gpu = Limits { subgroup_lanes: 32, f16: true, ..Limits::WEBGPU };
    let mut largest = 0;
    let mut known = HashMap::new();
    for matrix in [MatrixUnits::Eight, MatrixUnits::Sixteen, MatrixUnits::Emulated] {
        for kib in [16, 20, 24, 28, 32, 36, 40, 48] {
            let limits = Limits { matrix, workgroup_bytes: kib << 10, ..gpu };
            for case in OPS.iter().filter(|op| op.name.starts_with("conv")).flat_map(|op| (op.cases)()) {
                for dispatch in check::record(case, limits, Element::F16).0.program.dispatches {
                    let kernel = dispatch.kernel;
                    let bytes = *known.entry(kernel.to_string()).or_insert_with(|| workgroup_bytes(&kernel));
                    assert!(bytes <= kib << 10, "{kernel} takes {bytes} bytes of {kib} KiB");
                    largest = largest.max(bytes);
                }
            }
        }
    }
    // The tall tile of matrices of 16, with moments: where it fits it is recorded.
    assert!(largest > 40 << 10, "{largest}");
}

fn workgroup_bytes(kernel: &Kernel) -> u32 {
    let module = naga::front::wgsl::parse_str(kernel.text()).expect("every_kernel_lowers_to_every_language");
    let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module).expect("valid");
    let uses = info.get_entry_point(entry_of(&module, kernel));
    let mut layouts = naga::proc::Layouter::default();
    layouts.update(module.to_ctx()).expect("sizes are known");
    let shared = module
        .global_variables
        .iter()
        .filter(|(at, global)| global.space == naga::AddressSpace::WorkGroup && !uses[*at].is_empty());
    shared.map(|(_, global)| layouts[global.ty].size).sum()
}

fn entry_of(module: &naga::Module, kernel: &Kernel) -> usize {
    module.entry_points.iter().position(|point| point.name == kernel.entry()).expect("its entry")
}

/// A form that does not fit a case gives way to another one, which would then be checked in its place.
#[test]
fn cases_for_matrix_units_are_computed_by_them() {
    for op in OPS {
        for case in (op.cases)().into_iter().filter(|case| case.label.starts_with("Matrix")) {
            let (label, forward_only) = (case.label.clone(), case.forward_only);
            let (recorded, _) = check::record(case, UNITS, Element::F16);
            let names: Vec<String> =
                recorded.program.dispatches.iter().map(|dispatch| dispatch.kernel.name()).collect();
            let rows = label.starts_with("MatrixRows");
            let rows = if rows { "rows_" } else { "" };
            let forward = format!("conv2d_{rows}matrix16/forward");
            let gradient = format!("conv2d_gradient_{rows}matrix16/multiply");
            for (name, wanted) in [(forward, true), (gradient, !forward_only)] {
                assert_eq!(names.iter().any(|found| found.starts_with(&name)), wanted, "{label}: {names:?}");
            }
        }
    }
}

fn all_agree(stored: Element) {
    // Of races, what is stored makes no difference but to kernels for matrix units.
    let device = if stored == Element::F32 { common::device_for_races } else { common::device };
    let Some(gpu) = device() else { return };
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
