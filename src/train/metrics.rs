//! Metrics of a validation: each image's counts over all of its tiles, then the averages over images.

use crate::ops::segmentation_loss::{SUMS, SegmentationLoss};

const SMOOTH: f64 = 1e-6;

/// The sums of one image, added up over its tiles in f64.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    images: Vec<[f64; SUMS]>,
}

/// What a validation comes to; the averages are over images at threshold 0.5, `pooled_*` over all pixels at once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Metrics {
    /// The loss, with its overlap over whole images.
    pub loss: f64,
    /// Intersection over union.
    pub iou: f64,
    /// F1, the Dice coefficient of the thresholded prediction.
    pub f1: f64,
    /// Share of the predicted pixels that are right.
    pub precision: f64,
    /// Share of the rosettes' pixels that are found.
    pub recall: f64,
    /// Intersection over union of all pixels.
    pub pooled_iou: f64,
    /// F1 of all pixels.
    pub pooled_f1: f64,
}

impl Tally {
    /// No tile seen yet of so many images.
    pub fn new(images: usize) -> Self {
        Self { images: vec![[0.0; SUMS]; images] }
    }

    /// Adds the sums of a tile of an image.
    pub fn add(&mut self, image: usize, sums: &[f32; SUMS]) {
        for (total, value) in self.images[image].iter_mut().zip(sums) {
            *total += f64::from(*value);
        }
    }

    /// The metrics of all images.
    pub fn metrics(&self, loss: &SegmentationLoss) -> Metrics {
        let count = self.images.len().max(1) as f64;
        let mean = |of: fn(&[f64; SUMS]) -> f64| self.images.iter().map(of).sum::<f64>() / count;
        let mut all = [0.0; SUMS];
        for image in &self.images {
            all.iter_mut().zip(image).for_each(|(total, value)| *total += value);
        }
        Metrics {
            loss: loss.of_sums(&self.images),
            iou: mean(iou),
            f1: mean(f1),
            precision: mean(|s| (s[4] + SMOOTH) / (s[4] + s[5] + SMOOTH)),
            recall: mean(|s| (s[4] + SMOOTH) / (s[4] + s[6] + SMOOTH)),
            pooled_iou: iou(&all),
            pooled_f1: f1(&all),
        }
    }
}

fn iou(s: &[f64; SUMS]) -> f64 {
    (s[4] + SMOOTH) / (s[4] + s[5] + s[6] + SMOOTH)
}

fn f1(s: &[f64; SUMS]) -> f64 {
    (2.0 * s[4] + SMOOTH) / (2.0 * s[4] + s[5] + s[6] + SMOOTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn tiles_of_an_image_add_up_and_images_average() {
        let mut tally = Tally::new(2);
        //                BCE  pt   p    t   tp   fp   fn   px
        tally.add(0, &[1.0, 2.0, 3.0, 4.0, 2.0, 1.0, 2.0, 8.0]);
        tally.add(0, &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 8.0]);
        tally.add(1, &[0.0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0, 16.0]);
        let m = tally.metrics(&SegmentationLoss::bce_dice(0.5));
        assert_relative_eq!(m.iou, (2.0 / 6.0 + 1.0) / 2.0, epsilon = 1e-6);
        assert_relative_eq!(m.f1, (4.0 / 8.0 + 1.0) / 2.0, epsilon = 1e-6);
        assert_relative_eq!(m.precision, (2.0 / 4.0 + 1.0) / 2.0, epsilon = 1e-6);
        assert_relative_eq!(m.recall, (2.0 / 4.0 + 1.0) / 2.0, epsilon = 1e-6);
        assert_relative_eq!(m.pooled_iou, 7.0 / 11.0, epsilon = 1e-6);
        assert_relative_eq!(m.loss, 0.5 * 2.0 / 32.0 + 0.5 * (1.0 - (0.5 + 1.0) / 2.0), epsilon = 1e-6);
    }
}
