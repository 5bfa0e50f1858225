//! Datasets and batches: whole, in order, and the same whatever the threads do.

use std::path::Path;
use std::sync::Arc;

use rosette::data::channels::Prepared;
use rosette::data::loader::{Batch, Dataset, PatchPlan, TrainBatches, ValBatches, epoch_order};
use rosette::data::patches::{draw_crop, write_patch};
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
        seed: 9,
        epoch: 2,
    }
}

fn dataset() -> Arc<Dataset> {
    let (dir, names) = tissue();
    Arc::new(Dataset::load(dir.path(), &names, true, 2).unwrap())
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
    let batches: Vec<Batch> = TrainBatches::start(Arc::clone(&dataset), plan(), 0).collect();
    let counts: Vec<usize> = batches.iter().map(|b| b.count).collect();
    assert_eq!(counts, [4, 4, 4, 3], "15 patches, the last batch short");
    assert_eq!(TrainBatches::batches_per_epoch(5, &plan()), 4);
    let order = epoch_order(5, &plan());
    let mut seen = vec![0; 5];
    let pixels = PATCH_PX * PATCH_PX;
    for (batch, entries) in batches.iter().zip(order.chunks(4)) {
        assert_eq!((batch.x.len(), batch.y.len()), (batch.count * pixels * 4, batch.count * pixels));
        for (place, &(sample, draw)) in entries.iter().enumerate() {
            let image = &dataset.samples()[sample];
            let crop = draw_crop(image, PATCH_PX, 0.7, 9, [2, sample as u64, draw as u64]);
            let (mut x, mut y) = (vec![0.0; pixels * 4], vec![0.0; pixels]);
            write_patch(image, crop, PATCH_PX, &mut x, &mut y);
            assert_eq!((batch.samples[place], batch.crops[place]), (sample, crop));
            assert!(batch.x[place * pixels * 4..][..pixels * 4] == x);
            assert!(batch.y[place * pixels..][..pixels] == y);
            seen[sample] += 1;
        }
    }
    assert_eq!(seen, [3; 5]);
}

#[test]
fn a_later_start_gives_the_rest_of_the_same_epoch() {
    let dataset = dataset();
    let whole: Vec<Batch> = TrainBatches::start(Arc::clone(&dataset), plan(), 0).collect();
    for first in 0..=5 {
        let rest: Vec<Batch> = TrainBatches::start(Arc::clone(&dataset), plan(), first).collect();
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
    let mut batches = TrainBatches::start(Arc::clone(&dataset), plan(), 0);
    assert_eq!(batches.next().unwrap().count, 4);
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
