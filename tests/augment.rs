//! What training patches are drawn to be: their statistics, what they depend on, and that image and target stay
//! together.

use rosette::config::{AugmentationConfig, MagnitudeConfig};
use rosette::data::augment::{Place, draw_patch, smoothing_weights};
use rosette::data::channels::Prepared;
use rosette::data::patches::{CHANNELS, Crop, draw_crop, write_patch};
use rosette::data::residency::pack;
use rosette::ops::warp::{self, Patch, Reference};

const SIDE: usize = 64;
const DRAWS: u64 = 10_000;
/// Draws of a disc for each composition.
const DISCS: u64 = 40;
const PLACE: Place = Place { chunk: 0, first_word: 0 };

fn nothing() -> AugmentationConfig {
    AugmentationConfig {
        horizontal_flip: 0.0,
        vertical_flip: 0.0,
        rotation: 0.0,
        elastic_transform: 0.0,
        affine_transform: 0.0,
        coarse_dropout: 0.0,
        ..AugmentationConfig::default()
    }
}

/// A transform's name and a configuration in which it alone has a probability.
fn each_alone(probability: f64) -> Vec<(&'static str, AugmentationConfig)> {
    let with = |set: fn(&mut AugmentationConfig, f64)| {
        let mut config = nothing();
        set(&mut config, probability);
        config
    };
    vec![
        ("horizontal_flip", with(|c, p| c.horizontal_flip = p)),
        ("vertical_flip", with(|c, p| c.vertical_flip = p)),
        ("rotation", with(|c, p| c.rotation = p)),
        ("elastic_transform", with(|c, p| c.elastic_transform = p)),
        ("affine_transform", with(|c, p| c.affine_transform = p)),
        ("coarse_dropout", with(|c, p| c.coarse_dropout = p)),
        ("random_scale", with(|c, p| c.random_scale = p)),
        ("intensity_gain", with(|c, p| c.intensity_gain = p)),
        ("intensity_gamma", with(|c, p| c.intensity_gamma = p)),
        ("intensity_noise", with(|c, p| c.intensity_noise = p)),
        ("intensity_blur", with(|c, p| c.intensity_blur = p)),
    ]
}

/// An image with a disc that is cell, rosette and bright, at (row, column).
fn disc(height: usize, width: usize, [row, column]: [usize; 2], radius: usize) -> Prepared {
    let inside = |at: usize| {
        (at / width).abs_diff(row).pow(2) + (at % width).abs_diff(column).pow(2) <= radius * radius
    };
    let plane: Vec<u8> = (0..height * width).map(|at| u8::from(inside(at))).collect();
    Prepared {
        name: "disc".into(),
        height,
        width,
        boundary: vec![0; plane.len()],
        intensity: Some(plane.iter().map(|v| f32::from(*v)).collect()),
        rosette_pixels: (0..).zip(&plane).filter(|(_, v)| **v > 0).map(|(at, _)| at).collect(),
        cells: plane.clone(),
        target: plane,
    }
}

/// A quarter of the draws of [`DRAWS`] stays within five standard deviations of it.
fn close(count: usize, p: f64) -> bool {
    let n = DRAWS as f64;
    (count as f64 - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt()
}

fn draws(augmentation: &AugmentationConfig, side: usize) -> Vec<Patch> {
    let image = disc(3 * side, 3 * side, [side, side], 9);
    let crop = Crop { top: side, left: side / 2 };
    (0..DRAWS).map(|draw| draw_patch(&image, PLACE, crop, side, augmentation, 7, [1, 2, draw])).collect()
}

#[test]
fn each_transform_is_applied_as_often_as_its_probability_says() {
    let plain = draws(&nothing(), SIDE);
    let identity = Patch { seed: [0; 2], ..plain[0] };
    assert!(plain.iter().all(|patch| Patch { seed: [0; 2], ..*patch } == identity), "nothing is drawn");
    assert_eq!(identity.map, [[1.0, 0.0, 95.5], [0.0, 1.0, 63.5]]);
    for (name, config) in each_alone(0.3) {
        let changed = draws(&config, SIDE).into_iter().filter(|p| Patch { seed: [0; 2], ..*p } != identity);
        // A quarter of the turns is none.
        let expected = if name == "rotation" { 0.3 * 0.75 } else { 0.3 };
        let count = changed.count();
        assert!(close(count, expected), "{name}: {count} of {DRAWS}");
    }
}

/// Everything at once, with certainty.
fn everything() -> AugmentationConfig {
    AugmentationConfig {
        horizontal_flip: 1.0,
        vertical_flip: 1.0,
        rotation: 1.0,
        elastic_transform: 1.0,
        affine_transform: 1.0,
        coarse_dropout: 1.0,
        random_scale: 1.0,
        intensity_gain: 1.0,
        intensity_gamma: 1.0,
        intensity_noise: 1.0,
        intensity_blur: 1.0,
        magnitudes: MagnitudeConfig::default(),
    }
}

/// The values lie in the range, reach to its ends, and have the mean of a uniform distribution.
fn uniform_within(name: &str, values: impl Iterator<Item = f64> + Clone, low: f64, high: f64) {
    let (least, most) =
        values.clone().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    let slack = 1e-5 * (high - low).max(high.abs());
    assert!(least >= low - slack && most <= high + slack, "{name}: {least} to {most}");
    assert!(
        least < low + 0.01 * (high - low) && most > high - 0.01 * (high - low),
        "{name}: {least} to {most}"
    );
    let mean = values.sum::<f64>() / DRAWS as f64;
    let deviation = (high - low) / (12.0 * DRAWS as f64).sqrt();
    assert!((mean - (low + high) / 2.0).abs() < 5.0 * deviation, "{name}: mean {mean}");
}

#[test]
fn magnitudes_are_drawn_from_their_whole_range() {
    let affine = draws(&AugmentationConfig { affine_transform: 1.0, ..nothing() }, SIDE);
    let entries = |patch: &Patch| patch.map.map(|row| row.map(f64::from));
    // Rows of rotation over scale: their length is one over the scale, their angle the rotation's.
    let scale = |p: &Patch| 1.0 / entries(p)[0][0].hypot(entries(p)[0][1]);
    uniform_within("scale", affine.iter().map(scale), 0.9, 1.1);
    let angle = |p: &Patch| entries(p)[1][0].atan2(entries(p)[1][1]).to_degrees();
    uniform_within("angle", affine.iter().map(angle), -15.0, 15.0);
    // The patch's middle shows what lay against the shift, turned and scaled: turn it back.
    let shift = |p: &Patch| {
        let [[a, b, y], [c, d, x]] = entries(p);
        let (y, x, square) = (y - 95.5, x - 63.5, a * a + b * b);
        [-(a * y + c * x) / square, -(b * y + d * x) / square]
    };
    uniform_within("down", affine.iter().map(|p| shift(p)[0]), -6.4, 6.4);
    uniform_within("right", affine.iter().map(|p| shift(p)[1]), -6.4, 6.4);

    let zoomed = draws(&AugmentationConfig { random_scale: 1.0, ..nothing() }, SIDE);
    uniform_within("zoom", zoomed.iter().map(|p| 1.0 / entries(p)[0][0]), 0.75, 1.25);
    let all = draws(&everything(), SIDE);
    uniform_within("gain", all.iter().map(|p| f64::from(p.gain)), 0.8, 1.2);
    uniform_within("gamma", all.iter().map(|p| f64::from(p.gamma)), 0.7, 1.3);
    uniform_within("noise", all.iter().map(|p| f64::from(p.noise)), 0.0, 0.05);
    uniform_within("blur", all.iter().map(|p| f64::from(p.blur)), 0.0, 1.5);
    assert!(all.iter().all(|p| p.displacement == 120.0 / 64.0), "alpha for 64 of 512 px");
}

#[test]
fn holes_have_their_number_and_their_sides() {
    let patches = draws(&AugmentationConfig { coarse_dropout: 1.0, ..nothing() }, 512);
    let mut counts = [0; 6];
    let mut sides = [0; 513];
    for patch in &patches {
        let holes: Vec<_> = patch.holes.iter().filter(|hole| hole[2] > 0).collect();
        counts[holes.len()] += 1;
        for [top, left, bottom, right] in holes {
            assert!(*bottom <= 512 && *right <= 512);
            sides[(bottom - top) as usize] += 1;
            sides[(right - left) as usize] += 1;
        }
    }
    assert_eq!(counts[0], 0);
    assert!(counts[1..].iter().all(|&count| close(count, 0.2)), "{counts:?}");
    let seen: Vec<usize> = (0..513).filter(|side| sides[*side] > 0).collect();
    assert_eq!(seen, (10..=40).collect::<Vec<_>>());
}

#[test]
fn one_transform_does_not_change_what_another_draws() {
    let (alone, all) = (draws(&AugmentationConfig { coarse_dropout: 0.4, ..nothing() }, SIDE), {
        draws(&AugmentationConfig { coarse_dropout: 0.4, ..everything() }, SIDE)
    });
    assert!(alone.iter().zip(&all).all(|(a, b)| a.holes == b.holes && a.seed == b.seed));
}

/// The patch as the device would make it.
fn made(image: &Prepared, crop: Crop, augmentation: &AugmentationConfig, draw: u64) -> (Patch, Reference) {
    let patch = draw_patch(image, PLACE, crop, SIDE, augmentation, 3, [1, 0, draw]);
    let weights = smoothing_weights(augmentation, SIDE).unwrap_or_default();
    (patch, warp::reference(&patch, &pack(image), &weights, SIDE))
}

#[test]
fn without_augmentation_a_patch_is_the_plain_crop() {
    for (height, width) in [(150, 131), (SIDE, SIDE), (40, 90), (33, 21)] {
        let image = disc(height, width, [20, 15], 11);
        for draw in 0..4 {
            let crop = draw_crop(&image, SIDE, 0.7, 1, [0, 0, draw]);
            let (mut x, mut y) = (vec![0.0; SIDE * SIDE * CHANNELS], vec![0.0; SIDE * SIDE]);
            write_patch(&image, crop, SIDE, &mut x, &mut y);
            let (_, found) = made(&image, crop, &nothing(), draw);
            assert!(found.x.iter().zip(&x).all(|(a, b)| *a == f64::from(*b)), "{height} x {width}");
            assert!(found.y.iter().zip(&y).all(|(a, b)| *a == f64::from(*b)), "{height} x {width}");
        }
    }
}

fn centroid(weights: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let (mut total, mut sum) = (0.0, [0.0; 2]);
    for (at, weight) in weights.enumerate() {
        total += weight;
        sum[0] += weight * (at / SIDE) as f64;
        sum[1] += weight * (at % SIDE) as f64;
    }
    (total > 20.0).then(|| sum.map(|s| s / total))
}

/// A disc stays where its target is, and both lie where the map says, under every transform and all of them.
#[test]
fn image_and_target_stay_aligned() {
    let image = disc(200, 190, [100, 95], 8);
    let crop = Crop { top: 70, left: 60 };
    let visible = AugmentationConfig { coarse_dropout: 0.0, ..everything() };
    let compositions = each_alone(1.0).into_iter().filter(|(name, _)| *name != "coarse_dropout");
    for (name, config) in compositions.chain([("all", visible)]) {
        let mut sum = [0.0; 2];
        for draw in 0..DISCS {
            let (patch, found) = made(&image, crop, &config, draw);
            let cells = centroid(found.x.chunks(CHANNELS).map(|pixel| pixel[1]));
            let target = centroid(found.y.iter().copied());
            let (Some(cells), Some(target)) = (cells, target) else {
                panic!("{name} {draw}: the disc left the patch: {patch:?}");
            };
            // The nearest pixel's disc has a jagged edge: half a pixel off for one, but not for all of them.
            let apart = [0, 1].map(|axis: usize| cells[axis] - target[axis]);
            assert!(apart[0].hypot(apart[1]) < 0.5, "{name} {draw}: {cells:?} and {target:?}");
            sum = [0, 1].map(|axis: usize| sum[axis] + apart[axis]);
            let shown = found.at[target[0].round() as usize * SIDE + target[1].round() as usize];
            let off = (shown[0] - 100.0).hypot(shown[1] - 95.0);
            assert!(off < 2.0, "{name} {draw}: the middle of the disc shows {shown:?}");
        }
        let mean = sum[0].hypot(sum[1]) / DISCS as f64;
        assert!(mean < 0.08, "{name}: image and target are {mean} px apart");
    }
}

#[test]
fn turned_patches_show_tissue_instead_of_black_corners() {
    let mut image = disc(200, 200, [100, 100], 8);
    image.cells.fill(1);
    let turned = AugmentationConfig { affine_transform: 1.0, ..nothing() };
    for draw in 0..50 {
        let (_, found) = made(&image, Crop { top: 70, left: 70 }, &turned, draw);
        assert!(found.x.chunks(CHANNELS).all(|pixel| pixel[1] > 0.999), "draw {draw}");
    }
}
