//! Where patches are cut, what is written into them, and which tile owns which pixel.

use std::collections::HashMap;

use proptest::prelude::*;
use rosette::data::channels::Prepared;
use rosette::data::patches::{CHANNELS, Crop, draw_crop, write_patch};
use rosette::data::tiles::{IGNORE, tiles, write_tile};

/// An image whose planes tell each pixel apart, with rosettes at the given pixels.
fn image(height: usize, width: usize, rosettes: &[(usize, usize)]) -> Prepared {
    let len = height * width;
    let mut target = vec![0; len];
    rosettes.iter().for_each(|(y, x)| target[y * width + x] = 1);
    let rosette_pixels = (0..len as u32).filter(|&at| target[at as usize] == 1).collect();
    Prepared {
        name: "T1_1".to_string(),
        height,
        width,
        boundary: (0..len).map(|at| u8::from(at % 3 == 0)).collect(),
        cells: (0..len).map(|at| u8::from(at % 5 < 3)).collect(),
        intensity: Some((0..len).map(|at| 1.0 + at as f32).collect()),
        target,
        rosette_pixels,
    }
}

fn draws(image: &Prepared, patch_px: usize, count: u64) -> Vec<Crop> {
    (0..count).map(|draw| draw_crop(image, patch_px, 0.7, 42, [0, 0, draw])).collect()
}

/// Five standard deviations of a count of `n` trials.
fn close(count: usize, n: usize, p: f64) -> bool {
    let n = n as f64;
    (count as f64 - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt()
}

#[test]
fn seven_of_ten_crops_are_centred_on_a_rosette_pixel() {
    let image = image(100, 80, &[(50, 40), (30, 60)]);
    let n = 20_000;
    let centres = draws(&image, 16, n as u64);
    let at = |y, x| centres.iter().filter(|c| (c.top + 8, c.left + 8) == (y, x)).count();
    let chance = 1.0 / (85.0 * 65.0);
    assert!(close(at(50, 40), n, 0.35 + 0.3 * chance), "{}", at(50, 40));
    assert!(close(at(30, 60), n, 0.35 + 0.3 * chance), "{}", at(30, 60));
}

#[test]
fn without_rosettes_every_crop_is_equally_likely() {
    let image = image(20, 19, &[]);
    let n = 40_000;
    let mut counts: HashMap<Crop, usize> = HashMap::new();
    draws(&image, 16, n as u64).into_iter().for_each(|crop| *counts.entry(crop).or_default() += 1);
    assert_eq!(counts.len(), 5 * 4);
    assert!(counts.values().all(|&count| close(count, n, 1.0 / 20.0)), "{counts:?}");
}

#[test]
fn crops_are_clamped_to_the_image() {
    for (pixel, corner) in [((0, 0), (0, 0)), ((99, 79), (84, 64)), ((50, 79), (42, 64)), ((5, 40), (0, 32))]
    {
        let image = image(100, 80, &[pixel]);
        let centred = draws(&image, 16, 400);
        let hits = centred.iter().filter(|c| (c.top, c.left) == corner).count();
        assert!(close(hits, 400, 0.7), "{hits} of 400 at {corner:?}");
    }
}

#[test]
fn a_draw_depends_on_its_numbers_alone() {
    let image = image(300, 300, &[]);
    let crop = |seed, epoch, sample, draw| draw_crop(&image, 16, 0.7, seed, [epoch, sample, draw]);
    assert_eq!(crop(1, 2, 3, 4), crop(1, 2, 3, 4));
    let others = [crop(0, 2, 3, 4), crop(1, 0, 3, 4), crop(1, 2, 0, 4), crop(1, 2, 3, 0), crop(2, 1, 3, 4)];
    assert!(others.iter().all(|&other| other != crop(1, 2, 3, 4)), "{others:?}");
}

/// What a patch must hold at a pixel of the image, or beyond it.
fn expected(image: &Prepared, y: usize, x: usize) -> ([f32; CHANNELS], f32) {
    if y >= image.height || x >= image.width {
        return ([0.0; CHANNELS], 0.0);
    }
    let at = y * image.width + x;
    let intensity = image.intensity.as_ref().map_or(0.0, |plane| plane[at]);
    let channels = [f32::from(image.boundary[at]), f32::from(image.cells[at]), intensity, 0.0];
    (channels, f32::from(image.target[at]))
}

fn check_patch(image: &Prepared, crop: Crop, patch_px: usize) {
    // Whatever was there before must be gone.
    let mut x = vec![f32::NAN; patch_px * patch_px * CHANNELS];
    let mut y = vec![f32::NAN; patch_px * patch_px];
    write_patch(image, crop, patch_px, &mut x, &mut y);
    for row in 0..patch_px {
        for column in 0..patch_px {
            let at = row * patch_px + column;
            let (channels, target) = expected(image, crop.top + row, crop.left + column);
            assert_eq!((&x[at * CHANNELS..][..CHANNELS], y[at]), (&channels[..], target), "{row}, {column}");
        }
    }
}

#[test]
fn a_patch_holds_the_image_and_zeros_beyond_it() {
    let large = image(12, 9, &[(3, 4), (11, 8)]);
    check_patch(&large, Crop { top: 4, left: 1 }, 8);
    let small = image(5, 3, &[(4, 2)]);
    check_patch(&small, draw_crop(&small, 8, 0.7, 1, [0, 0, 0]), 8);
    let narrow = image(20, 3, &[(19, 2)]);
    check_patch(&narrow, draw_crop(&narrow, 8, 0.7, 1, [0, 0, 0]), 8);
    let mut two_channels = image(12, 9, &[(3, 4)]);
    two_channels.intensity = None;
    check_patch(&two_channels, Crop { top: 2, left: 1 }, 8);
}

#[test]
fn windows_lie_inside_and_the_last_is_shifted() {
    let all = tiles(20, 8, 8);
    let rows: Vec<(usize, usize, usize)> =
        all.iter().map(|t| (t.crop.top, t.owned.top, t.owned.height)).collect();
    assert_eq!(rows, [(0, 0, 8), (8, 8, 8), (12, 16, 4)]);
    assert!(all.iter().all(|t| (t.crop.left, t.owned.left, t.owned.width) == (0, 0, 8)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tiles_own_each_pixel_once_and_score_its_target(
        height in 1usize..50,
        width in 1usize..50,
        patch_px in 1usize..24,
        pixel in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let image = image(height, width, &[(pixel.0.index(height), pixel.1.index(width))]);
        let mut owned = vec![0; height * width];
        for tile in tiles(height, width, patch_px) {
            prop_assert!(tile.crop.top <= height.saturating_sub(patch_px));
            prop_assert!(tile.crop.left <= width.saturating_sub(patch_px));
            let mut x = vec![f32::NAN; patch_px * patch_px * CHANNELS];
            let mut y = vec![f32::NAN; patch_px * patch_px];
            write_tile(&image, &tile, patch_px, &mut x, &mut y);
            for at in 0..patch_px * patch_px {
                let (row, column) = (tile.crop.top + at / patch_px, tile.crop.left + at % patch_px);
                let (channels, target) = expected(&image, row, column);
                prop_assert_eq!(&x[at * CHANNELS..][..CHANNELS], &channels[..]);
                if y[at] != IGNORE {
                    prop_assert!(row < height && column < width);
                    owned[row * width + column] += 1;
                    prop_assert_eq!(y[at], target);
                }
            }
        }
        prop_assert!(owned.iter().all(|&times| times == 1), "{:?}", owned);
    }
}
