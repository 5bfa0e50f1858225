//! Synthetic epithelia with planted rosettes, in the pipeline's own layout: something to try everything on without data,
//! and a task that is solved by the geometry of the cells alone.
//!
//! Cells are those of a power diagram over jittered, relaxed points, seen through a smooth warp that bends membranes
//! and stretches cells. A rosette is five to nine points on one circle: their cells are wedges that meet at its centre,
//! and the warp keeps them meeting. Four-cell vertices, which are no rosettes, stand between them.

mod cells;
mod diagram;
mod microscope;
mod warp;

use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use crate::data::hdf5::{Attribute, Plane, encode};
use crate::data::random::{Purpose, generator};
use crate::data::sample::sample_path;
use crate::error::{Error, Result};
use crate::files::write_atomic;

use cells::Cells;
use diagram::{Diagram, Owner};
use warp::Warp;

/// The smallest and the largest side of an image: below, no rosette fits.
pub const SIZE_RANGE_PX: std::ops::RangeInclusive<usize> = 128..=8192;
/// By how much `vary_size` shrinks or stretches each side.
const SIZE_FACTORS: std::ops::RangeInclusive<f64> = 0.8..=1.25;

/// How a sample's planes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Layout {
    /// One dataset per plane.
    #[default]
    Separate,
    /// The older layout: one dataset `data` [4, height, width].
    Stacked,
}

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynthPlan {
    /// How many samples.
    pub samples: usize,
    /// Side of an image.
    pub size_px: usize,
    /// Whether each side varies from sample to sample.
    pub vary_size: bool,
    /// The seed: the same plan gives the same bytes.
    pub seed: u64,
    /// How to store them.
    pub layout: Layout,
}

/// One synthetic image. All planes are row-major [height, width].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tissue {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Cell labels: 0 background, then 1.. without gaps.
    pub labels: Vec<i32>,
    /// 1 in rosettes, else 0.
    pub target: Vec<u8>,
    /// Rosette labels: 0 none, then 1.. without gaps.
    pub rosettes: Vec<u16>,
    /// Camera counts of a membrane marker.
    pub intensity: Vec<u16>,
}

/// Sample names as the pipeline has them: T1_1, T1_2, T2_1 ...
pub fn sample_name(index: usize) -> String {
    format!("T{}_{}", 1 + index / 2, 1 + index % 2)
}

/// Makes `plan.samples` samples below `dir` and returns their files' paths.
///
/// # Errors
/// A user error where the plan asks for no sample or for images too small or large, or where `dir` cannot be written.
pub fn write_samples(dir: &Path, plan: &SynthPlan) -> Result<Vec<PathBuf>> {
    if plan.samples == 0 {
        return Err(Error::user("--samples", "at least 1", 0, "give the number of samples to make"));
    }
    if !SIZE_RANGE_PX.contains(&plan.size_px) {
        let expected = format!("{} to {} px", SIZE_RANGE_PX.start(), SIZE_RANGE_PX.end());
        return Err(Error::user("--size", expected, plan.size_px, "a rosette is about 60 px across"));
    }
    (0..plan.samples)
        .map(|index| {
            let path = sample_path(dir, &sample_name(index));
            write_atomic(&path, &encode_tissue(&make_sample(plan, index), plan.layout)?)?;
            Ok(path)
        })
        .collect()
}

/// Makes sample number `index` of a plan.
pub fn make_sample(plan: &SynthPlan, index: usize) -> Tissue {
    let mut rng = generator(Purpose::Tissue, plan.seed, [index as u64, 0, 0]);
    let mut side = || match plan.vary_size {
        true => (plan.size_px as f64 * rng.random_range(SIZE_FACTORS)).round() as usize,
        false => plan.size_px,
    };
    let (height, width) = (side(), side());
    grow(height, width, &mut rng)
}

/// One image of tissue.
fn grow(height: usize, width: usize, rng: &mut ChaCha8Rng) -> Tissue {
    let warp = Warp::draw(height, width, rng);
    let cells = Cells::place(&warp, height, width, rng);
    let diagram = Diagram::new(&cells.seeds, cells.spacing_px);
    let owners = owners(&diagram, &warp, height, width);
    let gap_px = if rng.random_bool(0.5) { rng.random_range(0.4..0.9) } else { 0.0 };
    let rosettes: Vec<u16> = owners.iter().map(|owner| cells.rosette_at(owner, gap_px)).collect();
    Tissue {
        height,
        width,
        labels: labels(&cells, &owners, gap_px),
        target: rosettes.iter().map(|&r| u8::from(r > 0)).collect(),
        rosettes,
        intensity: microscope::image(&cells, &owners, &warp, height, width, rng),
    }
}

/// For each pixel the cell it lies in, [height, width].
fn owners(diagram: &Diagram, warp: &Warp, height: usize, width: usize) -> Vec<Owner> {
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    pixels.map(|(y, x)| diagram.owner(warp.tissue_point(x as f64, y as f64))).collect()
}

/// Labels 1.. in the order in which the cells appear, row by row. Pixels of a membrane stay 0 where there is a gap.
fn labels(cells: &Cells, owners: &[Owner], gap_px: f64) -> Vec<i32> {
    let mut label_of = vec![0; cells.seeds.len()];
    let mut last = 0;
    let mut label = |owner: &Owner| {
        if owner.border_px < gap_px || !cells.seeds[owner.seed].segmented {
            return 0;
        }
        if label_of[owner.seed] == 0 {
            last += 1;
            label_of[owner.seed] = last;
        }
        label_of[owner.seed]
    };
    owners.iter().map(&mut label).collect()
}

/// The file's bytes.
///
/// # Errors
/// A failure where the planes do not fit the shape.
pub fn encode_tissue(tissue: &Tissue, layout: Layout) -> Result<Vec<u8>> {
    let image = [tissue.height, tissue.width];
    let about = [("source", Attribute::Text("synthetic epithelium with planted rosettes"))];
    if layout == Layout::Stacked {
        let mut stack: Vec<f32> = tissue.labels.iter().map(|&v| v as f32).collect();
        stack.extend(tissue.target.iter().map(|&v| f32::from(v)));
        stack.extend(tissue.rosettes.iter().chain(&tissue.intensity).map(|&v| f32::from(v)));
        return encode(&[("data", &[4, tissue.height, tissue.width], Plane::F32(&stack))], &about);
    }
    let planes: [(&str, &[usize], Plane); 4] = [
        ("segmentation_outlines", &image, Plane::I32(&tissue.labels)),
        ("rosettes_binary", &image, Plane::U8(&tissue.target)),
        ("rosettes_individual", &image, Plane::U16(&tissue.rosettes)),
        ("raw_image", &image, Plane::U16(&tissue.intensity)),
    ];
    encode(&planes, &about)
}
