//! Memory plans of whole training steps: tensors that are needed at once never share a slot, every tensor fits its
//! slot, and the slots together are little more than what is alive at once.

#[path = "common/step.rs"]
mod step;
#[path = "common/units.rs"]
mod units;

use std::collections::{HashMap, HashSet};

use rosette::config::Skip;
use rosette::gpu::Limits;
use rosette::model::{AttentionUNet, Spec};
use rosette::ops::activation::Relu;
use rosette::ops::choice::{Form, Question};
use rosette::tape::{
    Arg, Dispatch, Element, Home, MemoryPlan, Mode, Phase, Program, Shape, Tape, TensorId, Tuning,
};
use rosette::train::{StepSettings, record_training};
use step::Settings;
use units::UNITS;

/// The most that a plan may take beyond what is alive at once: measured 22 MiB for the partial sums of small networks,
/// 20 MiB of 4.4 GiB for the pipeline's defaults.
const MOST_BEYOND_BYTES: u64 = 24 << 20;

fn steps() -> Vec<(Settings, Limits)> {
    let settings = [
        Settings::new(8, 64, 1, Skip::Full),
        Settings::new(8, 64, 4, Skip::Pooled),
        Settings::new(16, 96, 3, Skip::Full),
        Settings::new(32, 256, 2, Skip::Pooled),
        Settings::pipeline(),
        Settings { skip: Skip::Pooled, ..Settings::pipeline() },
    ];
    let limits = [Limits::WEBGPU, Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU }];
    settings.into_iter().flat_map(|s| limits.map(|l| (s, l))).collect()
}

/// The arguments of a dispatch that live in slots.
fn transient<'a>(program: &'a Program, dispatch: &'a Dispatch) -> impl Iterator<Item = &'a Arg> {
    dispatch.args.iter().filter(|arg| program.tensor(arg.tensor).home == Home::Transient)
}

/// Replays a program over its slots and says where a tensor is no longer in the slot that it was put into.
fn first_lost(program: &Program, plan: &MemoryPlan) -> Option<String> {
    let slot_of: HashMap<TensorId, usize> = plan.lifetimes.iter().map(|l| (l.tensor, l.slot)).collect();
    let mut holds: Vec<Option<TensorId>> = vec![None; plan.slots.len()];
    let mut placed = HashSet::new();
    let name = |id: TensorId| program.tensor(id).name.clone();
    for dispatch in &program.dispatches {
        for arg in transient(program, dispatch).filter(|arg| placed.insert(arg.tensor)) {
            holds[slot_of[&arg.tensor]] = Some(arg.tensor);
        }
        for arg in transient(program, dispatch) {
            let held = holds[slot_of[&arg.tensor]];
            if held != Some(arg.tensor) {
                return Some(format!("{}: {} holds {}", dispatch.node, name(arg.tensor), held.map(name)?));
            }
        }
    }
    let lost = program.kept.iter().find(|id| slot_of.get(id).is_some_and(|slot| holds[*slot] != Some(**id)));
    lost.map(|id| format!("{} is not kept", name(*id)))
}

/// The most bytes of tensors between their first and last use at any dispatch.
fn most_alive_bytes(program: &Program) -> u64 {
    let mut uses: HashMap<TensorId, (usize, usize)> = HashMap::new();
    for (place, dispatch) in program.dispatches.iter().enumerate() {
        for arg in transient(program, dispatch) {
            uses.entry(arg.tensor).or_insert((place, place)).1 = place;
        }
    }
    let bytes = |id: &TensorId| program.tensor(*id).shape.bytes();
    let alive =
        |at: usize| uses.iter().filter(|(_, (a, b))| (*a..=*b).contains(&at)).map(|(id, _)| bytes(id)).sum();
    (0..program.dispatches.len()).map(alive).max().unwrap_or(0)
}

#[test]
fn no_tensor_is_overwritten_between_its_first_and_its_last_use() {
    for (settings, limits) in steps() {
        let program = settings.record(limits);
        let plan = MemoryPlan::new(&program);
        assert_eq!(first_lost(&program, &plan), None, "{settings:?}");
    }
}

#[test]
fn every_tensor_fits_its_slot_and_the_slots_are_close_to_the_least() {
    for (settings, limits) in steps() {
        let program = settings.record(limits);
        let plan = MemoryPlan::new(&program);
        for life in &plan.lifetimes {
            let bytes = program.tensor(life.tensor).shape.bytes();
            assert_eq!(life.bytes, bytes);
            assert!(plan.slots[life.slot] >= bytes, "{}", program.tensor(life.tensor).name);
        }
        let least = most_alive_bytes(&program);
        assert_eq!(plan.lower_bound_bytes(), least);
        let total = plan.slot_bytes();
        println!("{settings:?}: {:.2} MiB for {:.2}", total as f64 / 1048576.0, least as f64 / 1048576.0);
        assert!((least..least + MOST_BEYOND_BYTES).contains(&total), "{settings:?}: {total} for {least}");
    }
}

/// ReLUs one after another, of [1, 4, 4, 4] each, where `keep` says which of them stay.
fn chain(length: usize, keep: &[usize]) -> Program {
    let mut tape = Tape::new(Limits::WEBGPU, Mode::Evaluate);
    let mut x = tape.input("x", Shape::nhwc(1, 4, 4, 4));
    for place in 0..length {
        x = tape.apply1("relu", Relu, &[x]);
        if keep.contains(&place) {
            tape.keep(x);
        }
    }
    tape.finish()
}

#[test]
fn a_chain_takes_two_slots_and_one_more_for_each_tensor_that_is_kept() {
    for (keep, slots) in [(&[][..], 2), (&[0], 3), (&[0, 3], 4), (&[9], 2)] {
        let program = chain(10, keep);
        let plan = MemoryPlan::new(&program);
        assert_eq!(plan.slots, vec![256; slots], "kept {keep:?}");
        assert_eq!(first_lost(&program, &plan), None, "kept {keep:?}");
    }
}

#[test]
fn the_table_names_every_tensor_that_takes_memory() {
    let program = Settings::new(8, 64, 1, Skip::Full).record(Limits::WEBGPU);
    let plan = MemoryPlan::new(&program);
    let table = plan.table(&program);
    for life in &plan.lifetimes {
        let name = &program.tensor(life.tensor).name;
        assert!(table.lines().any(|line| line.starts_with(name.as_str())), "{name}");
    }
    assert!(table.contains(&format!("{} slots", plan.slots.len())), "the table ends with the slots");
}

/// Of 18 convolutions four have two sources; the first has few channels, and no input gradient.
#[test]
fn transformed_inputs_are_kept_where_memory_is_not_short_and_shared_between_sources() {
    let limits = Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU };
    for (recompute, in_backward) in [(false, 17), (true, 17 + 21)] {
        let mut tape = Tape::new(limits, Mode::Train { accumulate: false });
        tape.set_recompute(recompute);
        let program = Settings::new(16, 64, 4, Skip::Full).record_on(tape);
        let transforms =
            program.dispatches.iter().filter(|d| d.kernel.name() == "conv2d_winograd/transform_input");
        let (backward, forward): (Vec<_>, Vec<_>) = transforms.partition(|d| d.phase == Phase::Backward);
        assert_eq!((forward.len(), backward.len()), (21, in_backward), "recompute: {recompute}");
    }
}

/// Which form computes a convolution is the tuner's choice: whatever it takes, the defaults fit what is promised.
#[test]
fn the_defaults_fit_whatever_the_tuner_chooses() {
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 64, skip: Skip::Full });
    let persistent_bytes = 4 * net.weights().total_bytes() + net.state().total_bytes();
    for (element, most_gib) in [(Element::F32, 4.5), (Element::F16, 2.5)] {
        for form in Form::ALL.into_iter().filter(|form| form.runs_on(element == Element::F16, UNITS)) {
            let settings = StepSettings { element, ..StepSettings::new(512) };
            let asked = record_training(&net, UNITS, &settings, 4).program.questions;
            let can = |key: &&String| Question::from_key(key).is_some_and(|asked| asked.allows(form, UNITS));
            let answers = asked.iter().filter(can).map(|key| (key.clone(), form.name().to_owned()));
            let settings = StepSettings { tuning: Tuning::new(answers.collect(), Vec::new()), ..settings };
            let program = record_training(&net, UNITS, &settings, 4).program;
            let bytes = MemoryPlan::new(&program).slot_bytes() + program.input_bytes + program.output_bytes;
            let gib = (persistent_bytes + bytes) as f64 / f64::from(1 << 30);
            println!("{element:?} {}: {gib:.3} GiB", form.name());
            assert!(gib <= most_gib, "{element:?} {}: {gib:.3} GiB, at most {most_gib}", form.name());
        }
    }
}
