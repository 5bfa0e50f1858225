//! Recordings of whole training steps: what a device would refuse or silently get wrong, found without one.

#[path = "common/step.rs"]
mod step;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use rosette::config::{Recompute, Skip};
use rosette::gpu::{BindingKind, Limits};
use rosette::model::{AttentionUNet, Spec};
use rosette::ops::activation::{Add, Relu, add};
use rosette::ops::gate::Gate;
use rosette::ops::max_pool2d::MaxPool2d;
use rosette::ops::resize::Resize;
use rosette::tape::{
    Arg, Dispatch, Home, Layout, MemoryPlan, Mode, Phase, Program, Shape, Store, Tape, TensorId,
};
use rosette::train::{StepSettings, record_training};
use step::Settings;

/// A storage binding of at most that much, on a GPU and on the processor.
fn limits(storage_binding_bytes: u64) -> [Limits; 2] {
    [false, true].map(|software| Limits {
        storage_binding_bytes,
        software,
        subgroup_lanes: 8,
        ..Limits::WEBGPU
    })
}

/// Small steps with both skips, once whole and once with the batch in slices, and the pipeline's.
fn programs() -> Vec<(String, Program)> {
    let small = [Settings::new(8, 64, 3, Skip::Full), Settings::new(8, 128, 4, Skip::Pooled)];
    let small = small.map(|s| [128 << 20, 1 << 20].map(|most| (s, most))).into_iter().flatten();
    small
        .chain([(Settings::pipeline(), 128 << 20)])
        .flat_map(|(settings, most)| limits(most).map(|limits| (settings, limits)))
        .map(|(settings, limits)| (format!("{settings:?} {limits:?}"), settings.record(limits)))
        .collect()
}

/// How a dispatch uses each of its arguments.
fn uses(dispatch: &Dispatch) -> impl Iterator<Item = (&Arg, BindingKind)> {
    dispatch.args.iter().zip(dispatch.kernel.tensor_bindings().map(|binding| binding.kind))
}

/// A device buffer: a slot or a flat one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Buffer {
    Slot(usize),
    Flat(Store),
}

/// Where an argument lies: its buffer and the bytes of it.
fn place(program: &Program, slots: &HashMap<TensorId, usize>, arg: &Arg) -> (Buffer, Range<u64>) {
    let (buffer, start) = match program.tensor(arg.tensor).home {
        Home::Transient => (Buffer::Slot(slots[&arg.tensor]), 0),
        Home::Stored { store, offset_bytes } => (Buffer::Flat(store), offset_bytes),
    };
    (buffer, start + arg.offset_bytes..start + arg.offset_bytes + arg.size_bytes)
}

/// Byte ranges, joined where they touch.
#[derive(Debug, Default)]
struct Ranges(Vec<Range<u64>>);

impl Ranges {
    fn add(&mut self, mut range: Range<u64>) {
        self.0.retain(|other| {
            let meets = other.start <= range.end && range.start <= other.end;
            if meets {
                range = range.start.min(other.start)..range.end.max(other.end);
            }
            !meets
        });
        self.0.push(range);
    }

    fn contain(&self, range: &Range<u64>) -> bool {
        self.0.iter().any(|other| other.start <= range.start && range.end <= other.end)
    }
}

fn meet(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[test]
fn a_dispatch_uses_a_buffer_in_one_way() {
    for (label, program) in programs() {
        let plan = MemoryPlan::new(&program);
        let slots = plan.lifetimes.iter().map(|life| (life.tensor, life.slot)).collect();
        for dispatch in &program.dispatches {
            let places: Vec<(Buffer, Range<u64>, bool)> = uses(dispatch)
                .map(|(arg, kind)| (arg, kind == BindingKind::ReadWrite))
                .map(|(arg, writes)| (place(&program, &slots, arg), writes))
                .map(|((buffer, range), writes)| (buffer, range, writes))
                .collect();
            for (index, (buffer, range, writes)) in places.iter().enumerate() {
                for (other, other_range, other_writes) in &places[index + 1..] {
                    let at = format!("{label}: {} of {}", dispatch.kernel, dispatch.node);
                    assert!(buffer != other || writes == other_writes, "{at} reads and writes {buffer:?}");
                    let aliased = buffer == other && *writes && meet(range, other_range);
                    assert!(!aliased, "{at} writes {range:?} of {buffer:?} through two bindings");
                }
            }
        }
    }
}

#[test]
fn nothing_is_read_before_it_is_written() {
    for (label, program) in programs() {
        let mut written: HashMap<TensorId, Ranges> = HashMap::new();
        for dispatch in &program.dispatches {
            for (arg, kind) in uses(dispatch) {
                let info = program.tensor(arg.tensor);
                let range = arg.offset_bytes..arg.offset_bytes + arg.size_bytes;
                let known = written.entry(arg.tensor).or_default();
                if kind == BindingKind::ReadWrite {
                    known.add(range);
                } else if matches!(info.home, Home::Transient | Home::Stored { store: Store::Outputs, .. }) {
                    let at = format!("{label}: {} of {}", dispatch.kernel, dispatch.node);
                    assert!(known.contain(&range), "{at} reads {range:?} of {}: {known:?}", info.name);
                }
            }
        }
    }
}

/// What is wrong with an argument of a dispatch on a device with those limits, if anything.
fn fault(program: &Program, limits: &Limits, arg: &Arg, kind: BindingKind) -> Option<String> {
    let info = program.tensor(arg.tensor);
    let most = match kind {
        // The least that every device binds as uniform.
        BindingKind::Uniform => 64 << 10,
        BindingKind::Read | BindingKind::ReadWrite => limits.storage_binding_bytes,
    };
    let faults = [
        (arg.size_bytes > most, "more than a binding holds"),
        (arg.size_bytes == 0, "nothing"),
        (!arg.offset_bytes.is_multiple_of(limits.offset_alignment_bytes), "an offset that is not aligned"),
        (arg.offset_bytes + arg.size_bytes > info.shape.bytes(), "bytes beyond its end"),
    ];
    let (_, what) = faults.into_iter().find(|(wrong, _)| *wrong)?;
    Some(format!("{} {}: {what}: {} bytes at {}", info.name, info.shape, arg.size_bytes, arg.offset_bytes))
}

#[test]
fn bindings_keep_to_the_limits() {
    let mut slices = 0;
    for (settings, most) in [
        (Settings::new(8, 64, 4, Skip::Full), 1 << 20),
        (Settings::new(8, 128, 4, Skip::Full), 1 << 20),
        (Settings::new(8, 128, 4, Skip::Pooled), 1 << 20),
        (Settings::pipeline(), 128 << 20),
        // Twelve slices, and a partial sum of the weights' gradients from each.
        (Settings { batch: 24, ..Settings::pipeline() }, 128 << 20),
    ] {
        for limits in limits(most) {
            let program = settings.record(limits);
            for dispatch in &program.dispatches {
                for (arg, kind) in uses(dispatch) {
                    let fault = fault(&program, &limits, arg, kind);
                    assert_eq!(
                        fault, None,
                        "{settings:?} {limits:?}: {} of {}",
                        dispatch.kernel, dispatch.node
                    );
                    slices += usize::from(arg.offset_bytes > 0 && kind == BindingKind::ReadWrite);
                }
            }
        }
    }
    assert!(slices > 100, "the limits cut the batch: {slices} slices");
}

#[test]
fn every_trained_parameter_gets_its_gradient() {
    for settings in [Settings::new(8, 64, 2, Skip::Full), Settings::new(8, 64, 2, Skip::Pooled)] {
        let program = settings.record(Limits::WEBGPU);
        let mut written: Vec<Range<u64>> = Vec::new();
        for (arg, kind) in program.dispatches.iter().flat_map(uses) {
            if let (Home::Stored { store: Store::Gradients, offset_bytes }, BindingKind::ReadWrite) =
                (program.tensor(arg.tensor).home, kind)
            {
                let start = offset_bytes + arg.offset_bytes;
                written.push(start..start + arg.size_bytes);
            }
        }
        let net = settings.net();
        for entry in net.weights().entries() {
            let range = entry.offset_bytes..entry.offset_bytes + entry.shape.bytes();
            // A batch norm takes the mean away, and with it the bias before it: its gradient is zero, and stays it.
            let convolution = entry.name.ends_with(".0.bias") || entry.name.ends_with(".3.bias");
            // That of psi is summed where the signal is a plain projection, which knows of no norm.
            let plain = settings.skip == Skip::Pooled && entry.name.contains("psi");
            let is_centred =
                convolution && !plain && !["upconv", "final"].iter().any(|n| entry.name.contains(n));
            assert_eq!(written.contains(&range), !is_centred, "{settings:?}: gradient of {}", entry.name);
            let strange = written.iter().find(|w| meet(w, &range) && **w != range);
            assert_eq!(strange, None, "{settings:?}: something else is written over {}", entry.name);
        }
    }
}

/// What gates and poolings write forward, but for convolutions: by node, how many tensors of more than one channel.
fn stored_between(skip: Skip) -> BTreeMap<String, usize> {
    let program = Settings::new(8, 64, 2, skip).record(Limits::WEBGPU);
    let mut stored: BTreeMap<String, BTreeSet<TensorId>> = BTreeMap::new();
    for dispatch in program.dispatches.iter().filter(|d| d.phase == Phase::Forward) {
        let is_ours = dispatch.node.starts_with("att")
            || (dispatch.node.starts_with("enc") && dispatch.node.ends_with(".4"));
        if !is_ours || dispatch.kernel.name().starts_with("conv") {
            continue;
        }
        for (arg, kind) in uses(dispatch) {
            let dims = program.tensor(arg.tensor).shape.dims();
            if kind == BindingKind::ReadWrite && dims.len() == 4 && dims[3] > 1 {
                stored.entry(dispatch.node.clone()).or_default().insert(arg.tensor);
            }
        }
    }
    stored.into_iter().map(|(node, tensors)| (node, tensors.len())).collect()
}

#[test]
fn gates_and_poolings_store_nothing_that_lies_between() {
    let whole = (1..=4).flat_map(|i| [(format!("enc{i}.4"), 2), (format!("att{i}.product"), 1)]);
    assert_eq!(stored_between(Skip::Full), whole.collect());
    // Nobody reads what was not pooled.
    let pooled = stored_between(Skip::Pooled);
    assert!((1..=4).all(|i| pooled[&format!("enc{i}.4")] == 1), "{pooled:?}");
}

/// Shape of the tensors of the recordings below.
fn shape() -> Shape {
    Shape::nhwc(2, 4, 4, 4)
}

#[test]
fn a_tensor_used_twice_gets_the_sum_of_its_gradients() {
    let mut tape = Tape::new(Limits::WEBGPU, Mode::Train { accumulate: false });
    let (x, seed) = (tape.input("x", shape()), tape.input("seed", shape()));
    tape.set_differentiable(x, true);
    let (a, b) = (tape.apply1("a", Relu, &[x]), tape.apply1("b", Relu, &[x]));
    let y = tape.apply1("y", Add, &[a, b]);
    tape.backward(y, seed, add);
    let (dx, da) = (tape.gradient(x).expect("x has a gradient"), tape.gradient(a));
    assert_eq!(da, Some(seed), "a sum hands its gradient through");
    let program = tape.finish();
    let last = program.dispatches.last().expect("something was recorded");
    assert_eq!(last.kernel.name(), "activation/add");
    assert_eq!(last.args[2].tensor, dx);
}

#[test]
fn a_gradient_is_added_to_in_place_unless_another_tensor_has_it_too() {
    let mut tape = Tape::new(Limits::WEBGPU, Mode::Train { accumulate: false });
    let (x, seed) = (tape.input("x", shape()), tape.input("seed", shape()));
    tape.set_differentiable(x, true);
    let [_, height, width, _] = shape().as_nhwc();
    let pooled = tape.apply1("pooled", MaxPool2d, &[x]);
    let large = tape.apply1("large", Resize { height, width }, &[pooled]);
    let sum = tape.apply1("sum", Add, &[large, x]);
    let y = tape.apply1("y", Relu, &[sum]);
    tape.backward(y, seed, add);
    // The sum's gradient is that of both its terms, so that pooling must leave it as it is.
    assert_eq!(tape.gradient(large), tape.gradient(sum));
    assert_ne!(tape.gradient(x), tape.gradient(sum));
    assert_eq!(tape.gradient_so_far(large), None);
    assert_eq!(tape.gradient_so_far(x), tape.gradient(x), "the total is x's alone");

    let mut tape = Tape::new(Limits::WEBGPU, Mode::Train { accumulate: false });
    let (x, seed) = (tape.input("x", shape()), tape.input("seed", shape()));
    tape.set_differentiable(x, true);
    let pooled = tape.apply1("pooled", MaxPool2d, &[x]);
    let large = tape.apply1("large", Resize { height, width }, &[pooled]);
    let other = tape.apply1("other", Relu, &[x]);
    let y = tape.apply1("y", Add, &[large, other]);
    tape.backward(y, seed, add);
    let dx = tape.gradient(x).expect("x has a gradient");
    let program = tape.finish();
    let sums = program.dispatches.iter().filter(|d| d.kernel.name() == "activation/add").count();
    assert_eq!(sums, 1, "the forward pass's");
    let last = program.dispatches.last().expect("something was recorded");
    assert_eq!((last.kernel.name().as_str(), last.args[2].tensor), ("max_pool2d/backward", dx));
    assert!(last.kernel.variant().to_string().contains("ADD=true"));
}

#[test]
fn what_needs_no_gradient_costs_nothing() {
    let dispatches = |differentiable: [bool; 2]| {
        let mut tape = Tape::new(Limits::WEBGPU, Mode::Train { accumulate: false });
        let psi = tape.input("psi", Shape::nhwc(2, 4, 4, 1));
        let (x, seed) = (tape.input("x", shape()), tape.input("seed", shape()));
        tape.set_differentiable(x, differentiable[0]);
        tape.set_differentiable(psi, differentiable[1]);
        let y = tape.apply1("gate", Gate, &[x, psi]);
        tape.backward(y, seed, add);
        assert_eq!([x, psi].map(|id| tape.gradient(id).is_some()), differentiable);
        tape.finish().dispatches.len()
    };
    let counts = [[false, false], [true, false], [false, true], [true, true]].map(dispatches);
    assert_eq!(counts, [1, 2, 2, 3]);
}

#[test]
fn slices_cover_the_batch_and_fit() {
    for (batch, images_that_fit) in [(1, 1), (4, 4), (4, 3), (5, 2), (7, 3), (16, 5), (3, 100)] {
        let shape = Shape::nhwc(batch, 8, 8, 4);
        let image_bytes = shape.bytes() / batch as u64;
        let storage_binding_bytes = image_bytes * images_that_fit as u64 + 255;
        let mut tape = Tape::new(Limits { storage_binding_bytes, ..Limits::WEBGPU }, Mode::Evaluate);
        let x = tape.input("x", shape);
        let slices = tape.image_slices(&[x]);
        let images: Vec<usize> = slices.iter().cloned().flatten().collect();
        assert_eq!(images, (0..batch).collect::<Vec<_>>(), "{slices:?}");
        assert!(slices.iter().all(|s| (1..=images_that_fit).contains(&s.len())), "{slices:?}");
        assert_eq!(slices.len(), batch.div_ceil(images_that_fit), "as few as can be: {slices:?}");
    }
}

#[test]
fn ranges_of_a_layout_are_aligned_and_apart() {
    let mut layout = Layout::default();
    for len in [1, 64, 65, 3, 1000] {
        layout.push(format!("{len}"), Shape::new([len]));
    }
    let ranges: Vec<Range<u64>> =
        layout.entries().iter().map(|e| e.offset_bytes..e.offset_bytes + e.shape.bytes()).collect();
    assert!(ranges.iter().all(|range| range.start.is_multiple_of(Layout::ALIGNMENT)));
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    assert!(layout.total_bytes() >= ranges[4].end && layout.total_bytes().is_multiple_of(Layout::ALIGNMENT));
    assert_eq!(layout.get("65").map(|entry| entry.offset_bytes), Some(512));
}

/// `psi` fits one binding whole and was cut where `x` had to be, at offsets that no binding may have.
#[test]
fn slices_end_on_boundaries_of_every_tensor_that_is_cut() {
    for limits in limits(110_000) {
        let mut tape = Tape::new(limits, Mode::Train { accumulate: false });
        let x = tape.input("x", Shape::nhwc(5, 20, 20, 16));
        let psi = tape.input("psi", Shape::nhwc(5, 20, 20, 1));
        tape.apply("gate", Gate, &[x, psi]);
        let dispatches = tape.finish().dispatches;
        assert!(dispatches.len() > 1, "the batch is cut");
        for arg in dispatches.iter().flat_map(|dispatch| &dispatch.args) {
            assert_eq!(arg.offset_bytes % limits.offset_alignment_bytes, 0);
        }
    }
}

/// A short last batch fitted without recomputing, kept everything, and took more slots than the plan had promised.
#[test]
fn recomputing_is_decided_by_the_full_batch_and_holds_for_a_short_one() {
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 64, skip: Skip::Full });
    let auto = StepSettings::new(512);
    let [limits, _] = limits(128 << 20);
    let decided = auto.decided(&net, limits, 4);
    assert_eq!(decided.recompute, Recompute::Always);
    let slots = |settings: &StepSettings| {
        MemoryPlan::new(&record_training(&net, limits, settings, 1).program).slot_bytes()
    };
    assert!(slots(&decided) < slots(&auto), "one patch alone would keep everything");
}
