//! Training practice on a device: what clipping, accumulation, averaged weights and micro-batches do to a step, against the
//! same computed on the host; and what the command line says of a batch that does not fit.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::sync::Arc;

use rosette::config::{AugmentationConfig, Skip};
use rosette::data::augment::Place as At;
use rosette::data::loader::{Dataset, PatchPlan, ValBatches, patch_of};
use rosette::data::residency::Residency;
use rosette::gpu::Gpu;
use rosette::model::{AttentionUNet, NamedTensor, Spec};
use rosette::ops::moving_average::rates;
use rosette::ops::warp::Patch;
use rosette::report::RunRecord;
use rosette::tape::Element;
use rosette::train::{Buffers, Place, Session, StepSettings};

use workshop::Workshop;

const PATCH_PX: usize = 32;

/// A session on the tissue of a workshop, and patches of it.
struct Trial {
    session: Session,
    patches: Vec<Patch>,
}

fn trial(workshop: &Workshop, settings: StepSettings) -> Option<Trial> {
    common::device()?;
    let gpu = Gpu::open(None).expect("the device of the tests");
    let names = ["A".to_string()];
    let dataset = Dataset::load(&workshop.path("data"), &names, false, 1).expect("a sample");
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full });
    let mut session = Session::new(gpu, net, settings).expect("memory");
    session.set_tensors(&session.net().initial(3));
    let residency = Residency::plan(dataset.samples(), usize::MAX, usize::MAX, 1).expect("it fits");
    session.make_patches(&residency, None).expect("memory");
    residency.first_uploads(dataset.samples()).for_each(|upload| session.upload(&upload));
    let off = AugmentationConfig {
        elastic_transform: 0.0,
        affine_transform: 0.0,
        coarse_dropout: 0.0,
        ..AugmentationConfig::default()
    };
    let plan = PatchPlan {
        patch_px: PATCH_PX,
        batch_size: 1,
        patches_per_sample: 8,
        foreground_share: 0.5,
        augmentation: off,
        seed: 5,
        epoch: 1,
    };
    let at = At { chunk: 0, first_word: 0 };
    let patches = (0..8).map(|draw| patch_of(&dataset, &plan, at, (0, draw))).collect();
    Some(Trial { session, patches })
}

fn settings() -> StepSettings {
    StepSettings::new(PATCH_PX)
}

impl Trial {
    fn step(&mut self, patches: std::ops::Range<usize>) -> Option<f32> {
        let started = self.session.start_patch_step(&self.patches[patches], 1e-3).expect("it runs");
        self.session.finish(started).expect("it runs").norm
    }

    fn micro(&mut self, patches: std::ops::Range<usize>, weight: f32, opens: bool, closes: bool) {
        let place = Place { weight, opens, closes };
        let started = self.session.start_micro_batch(&self.patches[patches], place, 1e-3).expect("it runs");
        self.session.finish(started).expect("it runs");
    }

    fn gradients(&self) -> Vec<f64> {
        values(&self.session.gradients().expect("it runs"))
    }

    fn buffers(&self) -> Buffers {
        self.session.buffers().expect("it runs")
    }
}

fn values(tensors: &[NamedTensor]) -> Vec<f64> {
    tensors.iter().flat_map(|tensor| tensor.values.iter().map(|v| f64::from(*v))).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Largest difference over the largest magnitude.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-30_f64, |most, v| most.max(v.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f64::max)
}

#[test]
fn clipping_scales_what_the_moments_take_and_tells_the_norm() {
    let workshop = Workshop::new();
    for element in [Element::F32, Element::F16] {
        for most in [0.05, 1e5] {
            let Some(mut trial) = trial(&workshop, StepSettings { element, clip_norm: most, ..settings() })
            else {
                return;
            };
            if element == Element::F16 && !trial.session.gpu().limits().f16 {
                continue;
            }
            let told = f64::from(trial.step(0..4).expect("a norm"));
            let scale = if element == Element::F16 { 65536.0 } else { 1.0 };
            let found = norm(&trial.gradients()) / scale;
            assert!((told - found).abs() < 1e-5 * found, "{told} told, {found} found");
            assert!(found > 0.1, "there is something to clip: {found}");
            // The first moment is a tenth of the first gradient.
            let moment: Vec<f64> = trial.buffers()["first moments"].iter().map(|m| f64::from(*m)).collect();
            let expected = found.min(f64::from(most)) * 0.1;
            assert!((norm(&moment) - expected).abs() < 1e-5 * expected, "{} {expected}", norm(&moment));
        }
    }
}

#[test]
fn the_same_batch_twice_is_the_batch_once_to_the_bit() {
    let workshop = Workshop::new();
    let plain = StepSettings { clip_norm: 0.1, ..settings() };
    let Some(mut once) = trial(&workshop, plain) else { return };
    let mut twice = trial(&workshop, StepSettings { accumulates: true, ..plain }).expect("a device");
    for patches in [0..3, 3..6] {
        once.step(patches.clone());
        twice.micro(patches.clone(), 0.5, true, false);
        twice.micro(patches, 0.5, false, true);
    }
    let (once_buffers, twice_buffers) = (once.buffers(), twice.buffers());
    for name in ["weights", "first moments", "second moments"] {
        assert!(once_buffers[name] == twice_buffers[name], "{name}");
    }
    assert!(once_buffers["running statistics"] != twice_buffers["running statistics"], "moved twice");
    assert_eq!((twice.session.steps(), twice.session.batches()), (2, 4));
}

#[test]
fn a_scaled_loss_is_scaled_once_however_many_micro_batches_there_are() {
    let workshop = Workshop::new();
    let plain = StepSettings { element: Element::F16, ..settings() };
    match common::device() {
        Some(gpu) if gpu.limits().f16 => {}
        _ => return,
    }
    let mut once = trial(&workshop, plain).expect("a device");
    let mut twice = trial(&workshop, StepSettings { accumulates: true, ..plain }).expect("a device");
    once.step(0..3);
    twice.micro(0..3, 0.5, true, false);
    twice.micro(0..3, 0.5, false, true);
    let error = distance(&twice.gradients(), &once.gradients());
    assert!(error < 2e-3, "{error:e}");
    let moments =
        |trial: &Trial| trial.buffers()["first moments"].iter().map(|m| f64::from(*m)).collect::<Vec<_>>();
    let error = distance(&moments(&twice), &moments(&once));
    assert!(error < 2e-3, "{error:e}");
    let scaling = twice.buffers().remove("loss scaling").expect("kept");
    assert_eq!(scaling[..3], [65536.0, 1.0, 0.0], "one good step");
}

#[test]
fn gradients_of_a_step_are_the_weighted_mean_of_its_micro_batches() {
    let workshop = Workshop::new();
    let Some(mut whole) = trial(&workshop, StepSettings { accumulates: true, ..settings() }) else { return };
    whole.micro(0..3, 0.75, true, false);
    let half_way = whole.buffers();
    whole.micro(3..4, 0.25, false, true);
    let single = |patches: std::ops::Range<usize>| {
        let mut trial = trial(&workshop, settings()).expect("a device");
        trial.step(patches);
        trial.gradients()
    };
    let mean: Vec<f64> = single(0..3).iter().zip(single(3..4)).map(|(a, b)| 0.75 * a + 0.25 * b).collect();
    let error = distance(&whole.gradients(), &mean);
    assert!(error < 1e-5, "{error:e}");
    // A step in progress goes on from its gradients, elsewhere, to the same bits.
    assert!(half_way.contains_key("gradients"));
    let mut resumed = trial(&workshop, StepSettings { accumulates: true, ..settings() }).expect("a device");
    resumed.session.restore(&half_way, 0, 1).expect("its own buffers");
    resumed.micro(3..4, 0.25, false, true);
    assert!(resumed.buffers() == whole.buffers());
    assert!(!whole.buffers().contains_key("gradients"), "none are needed between steps");
}

#[test]
fn averages_follow_weights_and_statistics_and_are_what_is_evaluated() {
    let workshop = Workshop::new();
    let decay = 0.3;
    let Some(mut trial) = trial(&workshop, StepSettings { ema_decay: decay, ..settings() }) else { return };
    let mut average = values(&trial.session.tensors().expect("it runs"));
    for step in 1..=4 {
        trial.step(2 * (step - 1)..2 * step);
        let now = values(&trial.session.tensors().expect("it runs"));
        let rate = f64::from(rates(decay, step as u64)[0]);
        average.iter_mut().zip(now).for_each(|(average, now)| *average += rate * (now - *average));
    }
    let found = trial.session.evaluated_tensors().expect("it runs");
    let error = distance(&values(&found), &average);
    assert!(error < 1e-6, "{error:e}");
    assert!(distance(&values(&trial.session.tensors().expect("it runs")), &average) > 1e-4);

    let mut plain = self::trial(&workshop, settings()).expect("a device");
    plain.session.set_tensors(&found);
    let losses = [&mut trial, &mut plain].map(|trial| evaluated(&workshop, &mut trial.session));
    assert_eq!(losses[0], losses[1]);
}

fn evaluated(workshop: &Workshop, session: &mut Session) -> f32 {
    let dataset = Dataset::load(&workshop.path("data"), &["C".to_string()], false, 1).expect("a sample");
    let batch = ValBatches::start(Arc::new(dataset), PATCH_PX, 2).next().expect("tiles");
    let pending = session.start_evaluation(&batch.x, &batch.y, false).expect("it runs");
    session.finish(pending).expect("it runs").loss
}

/// `--plan` says how much a batch of two takes; the smallest limit that it keeps, and one below, in GiB.
fn limits_around_a_batch(workshop: &Workshop) -> (String, String) {
    let output = workshop.train(&["--plan"]).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let total = said.lines().find_map(|line| line.strip_prefix("total: ")).expect("a total");
    let gib: f64 = total.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    (format!("memory_limit={}", gib + 0.001), format!("memory_limit={}", gib - 0.001))
}

#[test]
fn a_batch_that_does_not_fit_is_cut_or_refused_and_both_are_told() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", workshop::CONFIG.replace("patch_size: 32", "patch_size: 64"));
    let (enough, short) = limits_around_a_batch(&workshop);
    let plan = |limit: &str| workshop.train(&["--plan", "--override", limit]).output().expect("it runs");
    let told = "it is trained in micro-batches of 1 + 1 patches";
    assert!(!String::from_utf8_lossy(&plan(&enough).stdout).contains("micro-batches"));
    assert!(String::from_utf8_lossy(&plan(&short).stdout).contains(told));

    let refused = ["--no-timestamp", "--override", &short, "--override", "batch_fit=error"];
    let refused = workshop.train(&refused).assert().code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("a batch of 2 takes 0.") && said.contains("set batch_size to 1 (0."), "{said}");
    assert!(!workshop.path("out").exists());

    let done = workshop.train(&["--json", "--no-timestamp", "--override", &short]).assert().success();
    let events = String::from_utf8_lossy(&done.get_output().stdout).into_owned();
    assert!(events.contains("\"event\":\"micro_batch\",\"patches\":1,\"planned_bytes\":"), "{events}");
    let log = std::fs::read_to_string(workshop.path("out/training.log")).expect("a log");
    assert!(log.contains(told), "{log}");
    let cut =
        RunRecord::read(&workshop.path("out/config.json")).expect("a record").micro_batch.expect("it is cut");
    assert_eq!(cut.patches, 1);
    assert!(cut.reason.contains("memory_limit is") && cut.planned_bytes > 0, "{cut:?}");

    // Two patches in two parts are what two batches of one are, whose gradients are averaged.
    let cut = std::fs::read(workshop.path("out/best_model.pth")).expect("weights");
    let halves = ["--no-timestamp", "--override", "batch_size=1", "--override", "accumulation=2"];
    workshop.train(&halves).assert().success();
    assert!(std::fs::read(workshop.path("out/best_model.pth")).expect("weights") == cut);
}

#[test]
fn each_loss_trains_and_validates_by_its_own_formula() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let mut losses = Vec::new();
    for setting in ["loss=bce_dice", "loss=dice", "loss=focal", "loss=tversky", "pos_weight=4"] {
        workshop.train(&["--no-timestamp", "--override", setting]).assert().success();
        let best =
            RunRecord::read(&workshop.path("out/config.json")).expect("a record").best.expect("an epoch");
        losses.push(best.val_loss);
    }
    let distinct = |at: usize| losses.iter().filter(|loss| (**loss - losses[at]).abs() < 1e-6).count() == 1;
    assert!((0..losses.len()).all(distinct), "{losses:?}");
}

#[test]
fn settings_without_effect_are_told_where_somebody_set_them() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    // `tversky_alpha` stands there with its default: nothing is lost by it.
    let shared = "  seed: 7\n  focal_gamma: 3.0\n  tversky_alpha: 0.3\n  weight_decay: 0.1\n";
    workshop.write("config.yaml", workshop::CONFIG.replace("  seed: 7\n", shared));
    let told = |settings: &[&str]| {
        let overrides: Vec<&str> = settings.iter().flat_map(|setting| ["--override", *setting]).collect();
        let done =
            workshop.train(&[&["--no-timestamp", "--restart"], &overrides[..]].concat()).assert().success();
        let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        let lines = |text: &str| -> Vec<String> {
            let found = text.lines().filter_map(|line| Some(line.split_once("has no effect here")?.0.trim()));
            found.map(|line| line.rsplit("WARN ").next().unwrap_or(line).to_string()).collect()
        };
        let log = std::fs::read_to_string(workshop.path("out/training.log")).expect("a log");
        let from = log.rfind("INFO kernels by").expect("a start");
        let (terminal, file) = (lines(&said), lines(&log[from..]));
        assert_eq!(terminal.len(), file.len(), "{said}{log}");
        file
    };
    assert_eq!(told(&[]), ["focal_gamma: 3.0 (default_training, line 9)"]);
    let focal = told(&["loss=focal", "pos_weight=4", "poly_power=2", "augmentation.intensity_gain=0.5"]);
    let expected = [
        "poly_power: 2.0 (--override poly_power=2)",
        "pos_weight: 4.0 (--override pos_weight=4)",
        "augmentation.intensity_gain: 0.5 (--override augmentation.intensity_gain=0.5)",
    ];
    assert_eq!(focal, expected);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let workshop = Workshop::new();
    let cases = [
        (
            "min_learning_rate=0.01",
            "min_learning_rate: expected at most the learning_rate, 0.001, found 0.01",
        ),
        // Two epochs of rising in a training of one.
        ("warmup_epochs=2", "warmup_epochs: expected at most num_epochs, 1, found 2"),
        ("seeds=[3,4,3]", "seeds: expected every seed once, found 3 twice"),
        ("seeds=[1,-2]", "seeds[2]: expected an integer from 0 to 4294967295"),
        ("seeds=7", "expected a list of integers, found the integer 7"),
        ("ema_decay=1", "expected a number from 0 to below 1"),
        ("scheduler=cosin", "did you mean `cosine`?"),
        ("batch_fit=off", "\"auto\" or \"error\""),
    ];
    for (setting, expected) in cases {
        let refused = workshop.train(&["--plan", "--override", setting]).assert().code(2);
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(said.contains(expected), "{setting}: {said}");
    }
    let both = ["loss=tversky", "tversky_alpha=0", "tversky_beta=0"];
    let arguments: Vec<&str> = both.iter().flat_map(|setting| ["--override", *setting]).collect();
    workshop.train(&[&["--plan"], &arguments[..]].concat()).assert().code(2);
}
