//! What runs on the processor beside the device: preparing patches, recording and planning a step, writing weights.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rosette::config::{AugmentationConfig, Recompute, Skip};
use rosette::data::augment::Place;
use rosette::data::channels::Prepared;
use rosette::data::loader::{Dataset, PatchPlan, patch_of};
use rosette::data::residency::pack;
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
    let dataset = Dataset::new(vec![Prepared::new(sample)]);
    c.bench_function("pack a 1024 px sample", |b| b.iter(|| pack(black_box(&dataset.samples()[0]))));
    let plan = PatchPlan {
        patch_px: PATCH_PX,
        batch_size: 4,
        patches_per_sample: 1,
        foreground_share: 0.7,
        augmentation: AugmentationConfig::default(),
        seed: 42,
        epoch: 1,
    };
    let mut draw = 0;
    c.bench_function("draw what a patch is made of", |b| {
        b.iter(|| {
            draw += 1;
            patch_of(&dataset, &plan, Place { chunk: 0, first_word: 0 }, (0, draw))
        });
    });
}

fn step(c: &mut Criterion) {
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 64, skip: Skip::Full });
    let settings = StepSettings { recompute: Recompute::Never, ..StepSettings::new(PATCH_PX) };
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
