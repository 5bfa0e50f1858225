//! Synthetic tissue: the same bytes for the same seed, and rosettes that are rosettes.

use std::collections::BTreeSet;

use rosette::cli::synth::{SynthArgs, run};
use rosette::data::sample::{Sample, discover, sample_path};
use rosette::data::synth::{
    Layout, SynthPlan, Tissue, encode_tissue, make_sample, sample_name, write_samples,
};

/// How near to one point the cells of a rosette come: membranes that segmentation left out keep them apart a little.
const MEETING_PX: usize = 5;

fn plan() -> SynthPlan {
    SynthPlan { samples: 6, size_px: 320, vary_size: true, seed: 11, layout: Layout::Separate }
}

fn tissues() -> Vec<Tissue> {
    (0..plan().samples).map(|index| make_sample(&plan(), index)).collect()
}

/// The labels 1.. in `values`, checked to be without gaps.
fn contiguous(values: impl Iterator<Item = u32>) -> BTreeSet<u32> {
    let mut labels: BTreeSet<u32> = values.collect();
    labels.remove(&0);
    assert!(labels.iter().copied().eq(1..=labels.len() as u32), "{labels:?}");
    labels
}

/// The cells of a rosette.
fn cells_of(tissue: &Tissue, rosette: u16) -> BTreeSet<i32> {
    let pixels = tissue.rosettes.iter().zip(&tissue.labels).filter(|&(&r, &label)| r == rosette && label > 0);
    pixels.map(|(_, &label)| label).collect()
}

/// The most cells of the set that come within `radius` px, in rows and columns, of one pixel.
fn most_meeting(tissue: &Tissue, cells: &BTreeSet<i32>, radius: usize) -> usize {
    let near = |y: usize, x: usize| {
        let rows = y.saturating_sub(radius)..(y + radius + 1).min(tissue.height);
        let columns = x.saturating_sub(radius)..(x + radius + 1).min(tissue.width);
        let labels = rows.flat_map(|y| columns.clone().map(move |x| tissue.labels[y * tissue.width + x]));
        labels.filter(|label| cells.contains(label)).collect::<BTreeSet<_>>().len()
    };
    (0..tissue.labels.len()).map(|at| near(at / tissue.width, at % tissue.width)).max().unwrap_or(0)
}

#[test]
fn rosettes_are_five_to_nine_cells_that_meet_in_a_point() {
    let mut counts = BTreeSet::new();
    for tissue in tissues() {
        let rosettes = contiguous(tissue.rosettes.iter().map(|&r| u32::from(r)));
        assert!(!rosettes.is_empty());
        for rosette in rosettes {
            let cells = cells_of(&tissue, rosette as u16);
            assert!((5..=9).contains(&cells.len()), "rosette {rosette} of {} cells", cells.len());
            assert_eq!(most_meeting(&tissue, &cells, MEETING_PX), cells.len(), "rosette {rosette}");
            counts.insert(cells.len());
        }
    }
    assert!(counts.len() >= 3, "only rosettes of {counts:?} cells");
}

#[test]
fn no_seed_leaves_an_image_without_rosettes() {
    for (size_px, seeds) in [(128, 150), (330, 40)] {
        for seed in 0..seeds {
            let tissue = make_sample(&SynthPlan { size_px, seed, ..plan() }, 0);
            let rosettes = contiguous(tissue.rosettes.iter().map(|&r| u32::from(r)));
            assert!(!rosettes.is_empty(), "{size_px} px, seed {seed}");
            for rosette in rosettes {
                let cells = cells_of(&tissue, rosette as u16).len();
                assert!((5..=9).contains(&cells), "{size_px} px, seed {seed}: {cells} cells");
            }
        }
    }
}

#[test]
fn elsewhere_few_cells_meet() {
    for tissue in tissues() {
        let others: BTreeSet<i32> = {
            let pairs = tissue.labels.iter().zip(&tissue.target);
            let inside: BTreeSet<i32> = pairs.clone().filter(|&(_, &t)| t > 0).map(|(&l, _)| l).collect();
            pairs.map(|(&l, _)| l).filter(|l| *l > 0 && !inside.contains(l)).collect()
        };
        assert!(others.len() > 40, "{} cells", others.len());
        assert!(most_meeting(&tissue, &others, 1) <= 4, "an unmarked rosette");
    }
}

#[test]
fn planes_agree_with_each_other() {
    for tissue in tissues() {
        let len = tissue.height * tissue.width;
        assert_eq!((tissue.labels.len(), tissue.target.len(), tissue.intensity.len()), (len, len, len));
        contiguous(tissue.labels.iter().map(|&l| u32::try_from(l).unwrap()));
        assert!(tissue.target.iter().zip(&tissue.rosettes).all(|(&t, &r)| t == u8::from(r > 0)));
        let share = tissue.target.iter().map(|&t| f64::from(t)).sum::<f64>() / len as f64;
        assert!((0.01..0.35).contains(&share), "{share} of the image is rosette");
    }
}

#[test]
fn membranes_are_bright() {
    for tissue in tissues() {
        let labels: Vec<u32> = tissue.labels.iter().map(|&l| l as u32).collect();
        let boundary = rosette::data::channels::boundaries(&labels, tissue.height, tissue.width);
        let mean = |at_boundary: u8| {
            let pixels = (0..labels.len()).filter(|&at| boundary[at] == at_boundary && labels[at] > 0);
            let (sum, n) =
                pixels.fold((0.0, 0.0), |(s, n), at| (s + f64::from(tissue.intensity[at]), n + 1.0));
            sum / n
        };
        assert!(mean(1) > 2.0 * mean(0), "membrane {}, cytoplasm {}", mean(1), mean(0));
    }
}

#[test]
fn cells_are_as_large_as_they_should_be() {
    for tissue in tissues() {
        let mut areas = vec![0.0; 1 + *tissue.labels.iter().max().unwrap() as usize];
        tissue.labels.iter().for_each(|&l| areas[l as usize] += 1.0_f64);
        let mut areas = areas.split_off(1);
        areas.sort_by(f64::total_cmp);
        let diameter = 2.0 * (areas[areas.len() / 2] / std::f64::consts::PI).sqrt();
        assert!((18.0..30.0).contains(&diameter), "median diameter {diameter} px");
    }
}

#[test]
fn the_same_plan_gives_the_same_bytes() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let plan = SynthPlan { samples: 3, size_px: 160, ..plan() };
    dirs.iter().for_each(|dir| assert_eq!(write_samples(dir.path(), &plan).unwrap().len(), 3));
    assert_eq!(discover(dirs[0].path()).unwrap(), ["T1_1", "T1_2", "T2_1"]);
    let bytes = |dir: usize, name: &str| std::fs::read(sample_path(dirs[dir].path(), name)).unwrap();
    for name in ["T1_1", "T1_2", "T2_1"] {
        assert!(bytes(0, name) == bytes(1, name), "{name}");
    }
    assert!(bytes(0, "T1_1") != bytes(0, "T1_2"));
    assert_ne!(make_sample(&plan, 0), make_sample(&SynthPlan { seed: 12, ..plan }, 0));
    // A longer run repeats the shorter one.
    assert_eq!(make_sample(&SynthPlan { samples: 9, ..plan }, 2), make_sample(&plan, 2));
}

#[test]
fn both_layouts_load_as_the_same_sample() {
    let tissue = make_sample(&plan(), 1);
    let load = |layout| {
        let bytes = encode_tissue(&tissue, layout).unwrap();
        let file = rosette::data::hdf5::File::from_bytes("T1_2.h5".as_ref(), bytes).unwrap();
        Sample::from_file(&file, "T1_2", true).unwrap()
    };
    let sample = load(Layout::Separate);
    assert_eq!(sample, load(Layout::Stacked));
    assert_eq!((sample.height, sample.width), (tissue.height, tissue.width));
    assert!(sample.labels.iter().zip(&tissue.labels).all(|(&a, &b)| i64::from(a) == i64::from(b)));
    assert_eq!(sample.target, tissue.target);
    assert!(sample.intensity.unwrap().iter().zip(&tissue.intensity).all(|(&a, &b)| a == f32::from(b)));
}

#[test]
fn names_and_sizes_follow_the_plan() {
    assert_eq!([0, 1, 2, 5].map(sample_name), ["T1_1", "T1_2", "T2_1", "T3_2"]);
    let even = make_sample(&SynthPlan { size_px: 130, vary_size: false, ..plan() }, 0);
    assert_eq!((even.height, even.width), (130, 130));
    let sizes: BTreeSet<(usize, usize)> = tissues().iter().map(|t| (t.height, t.width)).collect();
    assert!(
        sizes.len() > 3 && sizes.iter().all(|&(h, w)| (256..=400).contains(&h.min(w)) && h.max(w) <= 400)
    );
}

#[test]
fn the_command_refuses_what_it_cannot_make() {
    let dir = tempfile::tempdir().unwrap();
    let args = |samples, size| SynthArgs {
        output_dir: dir.path().to_path_buf(),
        samples,
        size,
        seed: 1,
        layout: Layout::Stacked,
        vary_size: false,
    };
    for (samples, size, text) in [(0, 256, "--samples"), (1, 20, "--size"), (1, 1 << 20, "--size")] {
        let error = run(&args(samples, size)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(text), "{error}");
    }
    run(&args(1, 128)).unwrap();
    assert_eq!(discover(dir.path()).unwrap(), ["T1_1"]);
}
