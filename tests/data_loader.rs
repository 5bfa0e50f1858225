//! Datasets and batches: whole, in order, and the same whatever the threads do.

use std::path::Path;
use std::sync::Arc;

use rosette::config::AugmentationConfig;
use rosette::data::augment::Place;
use rosette::data::channels::Prepared;
use rosette::data::loader::{
    Batch, Dataset, PatchBatch, PatchPlan, TrainBatches, ValBatches, epoch_order, patch_of,
};
use rosette::data::residency::{Residency, SampleSize, Upload, pack};
use rosette::data::sample::{Sample, discover, sample_path};
use rosette::data::synth::{Layout, SynthPlan, write_samples};

const PATCH_PX: usize = 96;

/// Five small samples on disk.
fn tissue() -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let plan = SynthPlan { samples: 5, size_px: 150, vary_size: true, seed: 3, layout: Layout::Separate };
    write_samples(dir.path(), &plan).unwrap();
    let names = discover(dir.path()).unwrap();
    (dir, names)
}

fn plan() -> PatchPlan {
    PatchPlan {
        patch_px: PATCH_PX,
        batch_size: 4,
        patches_per_sample: 3,
        foreground_share: 0.7,
        augmentation: AugmentationConfig::default(),
        seed: 9,
        epoch: 2,
    }
}

fn dataset() -> Arc<Dataset> {
    let (dir, names) = tissue();
    Arc::new(Dataset::load(dir.path(), &names, true, 2).unwrap())
}

/// Words of the largest sample of [`tissue`], and more.
const SLOT: usize = 40_000;

/// All samples on the device, or as few at a time as can be.
fn residency(dataset: &Dataset, budget_words: usize) -> Arc<Residency> {
    let batch = plan().batch_size;
    Arc::new(Residency::plan(dataset.samples(), budget_words, 2 * SLOT, batch).expect("small samples"))
}

fn epoch(dataset: &Arc<Dataset>, budget_words: usize, first: usize) -> TrainBatches {
    TrainBatches::start(Arc::clone(dataset), residency(dataset, budget_words), plan(), first)
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (dir, mut names) = tissue();
    names.reverse();
    let load = |threads| Dataset::load(dir.path(), &names, true, threads).unwrap();
    let one = load(1);
    let order: Vec<&str> = one.samples().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(order, names);
    for threads in [0, 2, 3, 16] {
        assert_eq!(load(threads).samples(), one.samples(), "{threads} threads");
    }
    let direct = Prepared::new(Sample::load(dir.path(), &names[1], true).unwrap());
    assert_eq!(one.samples()[1], direct);
    assert_eq!(one.samples()[1].channels(), 3);
    let without = Dataset::load(dir.path(), &names, false, 2).unwrap();
    assert_eq!(without.samples()[1], Prepared { intensity: None, ..direct });
}

#[test]
fn the_first_error_in_the_list_wins() {
    let (dir, names) = tissue();
    for broken in [1, 3] {
        std::fs::write(sample_path(dir.path(), &names[broken]), "no HDF5").unwrap();
    }
    for threads in [1, 2, 5, 5, 5, 5] {
        let error = Dataset::load(dir.path(), &names, false, threads).unwrap_err().to_string();
        assert!(error.contains(&format!("processed_data_{}.h5", names[1])), "{threads} threads: {error}");
    }
    let empty = Dataset::load(dir.path(), &[], false, 2).unwrap_err();
    assert_eq!(empty.exit_code(), 2);
}

#[test]
fn an_epoch_gives_each_sample_its_patches() {
    let dataset = dataset();
    let batches: Vec<PatchBatch> = epoch(&dataset, usize::MAX, 0).collect();
    let counts: Vec<usize> = batches.iter().map(|b| b.patches.len()).collect();
    assert_eq!(counts, [4, 4, 4, 3], "15 patches, the last batch short");
    assert_eq!(TrainBatches::batches_per_epoch(5, &plan()), 4);
    let uploads: Vec<_> = residency(&dataset, usize::MAX).first_uploads(dataset.samples()).collect();
    assert_eq!(uploads.len(), 5);
    let order = epoch_order(5, &plan());
    let mut seen = vec![0; 5];
    for (batch, entries) in batches.iter().zip(order.chunks(4)) {
        assert!(batch.uploads.is_empty(), "they are on the device already");
        for (place, &(sample, draw)) in entries.iter().enumerate() {
            assert_eq!(batch.samples[place], sample);
            assert_eq!(
                batch.patches[place],
                patch_of(&dataset, &plan(), uploads[sample].place, (sample, draw))
            );
            seen[sample] += 1;
        }
    }
    assert_eq!(seen, [3; 5]);
}

/// What a step finds on the device: each patch with the words of its sample, wherever these lie.
fn found_by_steps(dataset: &Arc<Dataset>, budget_words: usize, first: usize) -> Vec<(Vec<u32>, Vec<u8>)> {
    let plan = residency(dataset, budget_words);
    let mut device = vec![vec![0; plan.chunk_words]; plan.chunks];
    let put = |device: &mut [Vec<u32>], upload: &Upload| {
        let Place { chunk, first_word } = upload.place;
        device[chunk][first_word..][..upload.words.len()].copy_from_slice(&upload.words);
    };
    plan.first_uploads(dataset.samples()).for_each(|upload| put(&mut device, &upload));
    let mut found = Vec::new();
    for batch in epoch(dataset, budget_words, first) {
        batch.uploads.iter().for_each(|upload| put(&mut device, upload));
        for (patch, sample) in batch.patches.iter().zip(&batch.samples) {
            let len = pack(&dataset.samples()[*sample]).len();
            let words = device[patch.chunk as usize][patch.planes as usize..][..len].to_vec();
            let mut moved = *patch;
            moved.intensity -= moved.planes;
            (moved.chunk, moved.planes) = (0, 0);
            found.push((words, bytemuck::bytes_of(&moved).to_vec()));
        }
    }
    found
}

#[test]
fn streamed_samples_give_the_same_patches_as_resident_ones() {
    let dataset = dataset();
    let resident = found_by_steps(&dataset, usize::MAX, 0);
    let order = epoch_order(5, &plan());
    for (found, (sample, _)) in resident.iter().zip(&order) {
        assert!(found.0 == pack(&dataset.samples()[*sample]), "the words of another sample");
    }
    assert!(residency(&dataset, usize::MAX).is_resident());
    assert_eq!((residency(&dataset, usize::MAX).chunks, residency(&dataset, 0).chunks), (3, 2));
    assert!(
        !residency(&dataset, 0).is_resident()
            && residency(&dataset, 0).bytes() < residency(&dataset, usize::MAX).bytes()
    );
    assert!(found_by_steps(&dataset, 0, 0) == resident);
    assert!(found_by_steps(&dataset, 0, 2) == resident[8..], "resumed within the epoch");
}

#[test]
fn a_sample_that_no_buffer_holds_is_told() {
    let dataset = dataset();
    let error = Residency::plan(dataset.samples(), usize::MAX, 100, 4).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("sample 'T"), "{error}");
    // A dry run knows the sizes alone; where samples take turns, it divided by zero.
    let sizes: Vec<SampleSize> = dataset.samples().iter().map(SampleSize::of).collect();
    for budget_words in [0, usize::MAX] {
        let told = Residency::of_sizes(&sizes, budget_words, 100, 1).unwrap_err();
        assert_eq!(told.to_string(), error.to_string());
    }
}

#[test]
fn a_later_start_gives_the_rest_of_the_same_epoch() {
    let dataset = dataset();
    let whole: Vec<PatchBatch> = epoch(&dataset, usize::MAX, 0).collect();
    for first in 0..=5 {
        let rest: Vec<PatchBatch> = epoch(&dataset, usize::MAX, first).collect();
        assert!(rest == whole[first.min(whole.len())..], "from batch {first}");
    }
}

#[test]
fn orders_depend_on_seed_and_epoch() {
    let order = |seed, epoch| epoch_order(20, &PatchPlan { seed, epoch, ..plan() });
    assert_eq!(order(1, 1), order(1, 1));
    assert_ne!(order(1, 1), order(1, 2));
    assert_ne!(order(1, 1), order(2, 1));
    let mut sorted = order(1, 1);
    sorted.sort_unstable();
    assert_eq!(sorted, (0..20).flat_map(|s| (0..3).map(move |d| (s, d))).collect::<Vec<_>>());
}

#[test]
fn an_epoch_can_be_left_early() {
    let dataset = dataset();
    let mut batches = epoch(&dataset, usize::MAX, 0);
    assert_eq!(batches.next().unwrap().patches.len(), 4);
    drop(batches);
    // The thread has ended and let go of the data.
    assert_eq!(Arc::strong_count(&dataset), 1);
}

#[test]
fn validation_scores_every_pixel_once() {
    let dataset = dataset();
    let batches: Vec<Batch> = ValBatches::start(Arc::clone(&dataset), PATCH_PX, 3).collect();
    assert!(batches.iter().rev().skip(1).all(|b| b.count == 3));
    let (mut scored, mut positive) = (vec![0; 5], vec![0; 5]);
    for batch in &batches {
        for (place, &sample) in batch.samples.iter().enumerate() {
            let y = &batch.y[place * PATCH_PX * PATCH_PX..][..PATCH_PX * PATCH_PX];
            scored[sample] += y.iter().filter(|&&t| t >= 0.0).count();
            positive[sample] += y.iter().filter(|&&t| t == 1.0).count();
        }
    }
    let samples = dataset.samples();
    assert_eq!(scored, samples.iter().map(|s| s.height * s.width).collect::<Vec<_>>());
    assert_eq!(positive, samples.iter().map(|s| s.rosette_pixels.len()).collect::<Vec<_>>());
    assert!(ValBatches::start(dataset, PATCH_PX, 3).eq(batches), "two passes are alike");
}

/// A sample of 2 x 2 px, all of it a rosette or none.
fn tiny(name: &str, target: u8) -> Prepared {
    Prepared::new(Sample {
        name: name.to_string(),
        path: Path::new(name).to_path_buf(),
        height: 2,
        width: 2,
        labels: vec![1, 1, 2, 0],
        target: vec![target; 4],
        intensity: None,
    })
}

#[test]
fn data_that_cannot_teach_is_warned_of() {
    let none = Dataset::new(vec![tiny("T1_1", 0), tiny("T1_2", 0)]);
    assert!(none.warnings()[0].contains("no sample of 2"), "{:?}", none.warnings());
    let some = Dataset::new(vec![tiny("T1_1", 0), tiny("T1_2", 1)]);
    assert!(some.warnings()[0].contains("T1_1") && !some.warnings()[0].contains("T1_2"));
    assert!(Dataset::new(vec![tiny("T1_2", 1)]).warnings().is_empty());
    let cell_less = Prepared::new(Sample {
        labels: vec![0; 4],
        name: "T9_1".to_string(),
        path: Path::new("T9_1").to_path_buf(),
        height: 2,
        width: 2,
        target: vec![1; 4],
        intensity: None,
    });
    assert!(Dataset::new(vec![cell_less]).warnings()[0].contains("T9_1 has no cell"));
}
