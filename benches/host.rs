//! What runs on the processor beside the device: preparing patches, recording and planning a step, writing weights.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rosette::config::{Recompute, Skip};
use rosette::data::channels::Prepared;
use rosette::data::patches::{CHANNELS, draw_crop, write_patch};
use rosette::data::sample::Sample;
use rosette::data::synth::{Layout, SynthPlan, write_samples};
use rosette::gpu::Limits;
use rosette::model::{AttentionUNet, Spec};
use rosette::tape::MemoryPlan;
use rosette::train::{StepSettings, record_training, save_weights};

const PATCH_PX: usize = 512;

fn sample() -> Sample {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let plan = SynthPlan { samples: 1, size_px: 1024, vary_size: false, seed: 1, layout: Layout::Separate };
    write_samples(dir.path(), &plan).expect("synthetic tissue");
    Sample::load(dir.path(), "T1_1", false).expect("the sample just written")
}

fn patches(c: &mut Criterion) {
    let sample = sample();
    c.bench_function("channels of a 1024 px sample", |b| b.iter(|| Prepared::new(black_box(sample.clone()))));
    let image = Prepared::new(sample);
    let (mut x, mut y) = (vec![0.0; PATCH_PX * PATCH_PX * CHANNELS], vec![0.0; PATCH_PX * PATCH_PX]);
    let mut draw = 0;
    c.bench_function("one 512 px patch", |b| {
        b.iter(|| {
            draw += 1;
            let crop = draw_crop(&image, PATCH_PX, 0.7, 42, [0, 0, draw]);
            write_patch(&image, crop, PATCH_PX, &mut x, &mut y);
        });
    });
}

fn step(c: &mut Criterion) {
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 64, skip: Skip::Full });
    let settings = StepSettings {
        patch_px: PATCH_PX,
        dice_weight: 0.5,
        weight_decay: 0.01,
        winograd: true,
        recompute: Recompute::Never,
    };
    c.bench_function("record the default step", |b| {
        b.iter(|| record_training(&net, Limits::WEBGPU, &settings, 4));
    });
    let program = record_training(&net, Limits::WEBGPU, &settings, 4).program;
    c.bench_function("plan the default step", |b| b.iter(|| MemoryPlan::new(black_box(&program))));
    let small = AttentionUNet::new(Spec { in_channels: 2, base_channels: 16, skip: Skip::Full });
    let (tensors, dir) = (small.initial(1), tempfile::tempdir().expect("a temporary directory"));
    let path = dir.path().join("model.pth");
    c.bench_function("write weights of 2 million parameters", |b| {
        b.iter(|| save_weights(&path, &tensors, 1).expect("room for the file"));
    });
}

criterion_group!(host, patches, step);
criterion_main!(host);
