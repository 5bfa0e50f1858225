//! Work on weights ahead of their readers: what a kernel makes of the weights of several layers is done by one dispatch before the
//! first of them. A dispatch costs as much as the work on a small layer's weights, and on a GPU none begins before the one before has
//! ended.

use std::ops::Range;

use super::dispatch::DispatchBuilder;
use super::program::{Arg, Dispatch, Flops, Phase};
use super::record::Tape;
use super::tensor::{Element, Home, Layout, Shape, Store, TensorId};
use crate::gpu::{Kernel, Params};

/// Jobs of a dispatch, as `shared/jobs.wgsl` has room for.
const MOST_JOBS: usize = 64;
/// Fields of `Params` before the jobs.
const HEAD: [&str; 4] = ["count", "unused_0", "unused_1", "unused_2"];
/// Fields of a job that the tape fills in: its first workgroup, and where its weight and its result start, in elements.
const PLACE: [&str; 3] = ["first_group", "weight_at", "result_at"];
/// Results of one dispatch, but for a single larger one: they are there from the first one's reader to the last one's.
const GPU_BYTES: u64 = 16 << 20;
/// The same on a processor, whose caches should still hold them when they are read.
const SOFTWARE_BYTES: u64 = 4 << 20;

/// What a job leaves: a range of a tensor that it shares with others.
#[derive(Debug, Clone, Copy)]
pub struct Prepared {
    /// Which tensor.
    pub tensor: TensorId,
    offset_bytes: u64,
    size_bytes: u64,
}

/// A dispatch that takes further jobs.
pub(super) struct Ahead {
    kernel: Kernel,
    phase: Phase,
    element: Element,
    /// Its place in the recording.
    dispatch: usize,
    result: TensorId,
    /// Elements of the result so far.
    len: usize,
    /// The range of the weights' buffer that the jobs read.
    weights: Range<u64>,
    /// What they read of it.
    read_bytes: u64,
    groups: usize,
    jobs: Vec<Vec<u32>>,
}

impl Tape {
    /// Has `kernel` make `len` elements of a weight, with so many invocations in workgroups of 64.
    ///
    /// # Panics
    /// Where the kernel is none of `shared/jobs.wgsl`, or its `Job` differs from this one.
    pub fn prepare<J: Params>(
        &mut self,
        kernel: Kernel,
        weight: TensorId,
        job: &J,
        (len, element): (usize, Element),
        invocations: usize,
    ) -> Prepared {
        assert_eq!(J::FIELDS[..3], PLACE, "{kernel}: what the tape fills in");
        let fields: Vec<String> = HEAD
            .iter()
            .map(|field| (*field).to_owned())
            .chain(J::FIELDS.iter().map(|field| format!("jobs.{field}")))
            .collect();
        kernel.check_params(&fields.iter().map(String::as_str).collect::<Vec<_>>());
        let Home::Stored { store: Store::Weights, offset_bytes } = self.info(weight).home else {
            panic!("{} is no weight", self.info(weight).name)
        };
        let read = offset_bytes..offset_bytes + self.info(weight).bytes();
        let size_bytes = len as u64 * element.bytes();
        let open = self.ahead.iter().rposition(|ahead| ahead.kernel == kernel && ahead.phase == self.phase);
        let open = open.filter(|open| self.has_room(&self.ahead[*open], element, size_bytes, &read));
        let place = open.unwrap_or_else(|| self.open_ahead(kernel, element, read.start));
        let ahead = &mut self.ahead[place];
        let mut words: Vec<u32> = bytemuck::cast_slice(bytemuck::bytes_of(job)).to_vec();
        let weight_at = u32::try_from(read.start / 4).expect("weights of less than 16 GiB");
        words[..3].copy_from_slice(&[ahead.groups as u32, weight_at, ahead.len as u32]);
        ahead.jobs.push(words);
        ahead.groups += invocations.div_ceil(64);
        ahead.read_bytes += read.end - read.start;
        ahead.weights = ahead.weights.start.min(read.start)..ahead.weights.end.max(read.end);
        let offset_bytes = ahead.len as u64 * element.bytes();
        ahead.len += (size_bytes.next_multiple_of(Layout::ALIGNMENT) / element.bytes()) as usize;
        Prepared { tensor: ahead.result, offset_bytes, size_bytes }
    }

    /// Whether a dispatch takes a job more: with room for it, and all it reads within one binding.
    fn has_room(&self, ahead: &Ahead, element: Element, size_bytes: u64, read: &Range<u64>) -> bool {
        let limits = self.limits();
        let most = if limits.software { SOFTWARE_BYTES } else { GPU_BYTES };
        let span = ahead.weights.end.max(read.end) - ahead.weights.start.min(read.start);
        ahead.element == element
            && ahead.jobs.len() < MOST_JOBS
            && ahead.len as u64 * element.bytes() + size_bytes <= most.min(limits.storage_binding_bytes)
            && span <= limits.storage_binding_bytes
    }

    /// Records a dispatch without its jobs.
    fn open_ahead(&mut self, kernel: Kernel, element: Element, weights_from: u64) -> usize {
        let result = self.push("prepared weights", Shape::new([1]), element, Home::Transient, false);
        let dispatch = Dispatch {
            kernel: kernel.clone(),
            args: Vec::new(),
            params: Vec::new(),
            groups: 0,
            node: self.node_name.clone(),
            operation: self.operation.clone(),
            phase: self.phase,
            flops: Flops::default(),
            unread_bytes: 0,
            reread_bytes: 0,
        };
        self.ahead.push(Ahead {
            kernel,
            phase: self.phase,
            element,
            dispatch: self.dispatches.len(),
            result,
            len: 0,
            weights: weights_from..weights_from,
            read_bytes: 0,
            groups: 0,
            jobs: Vec::new(),
        });
        self.dispatches.push(dispatch);
        self.ahead.len() - 1
    }

    /// Gives every dispatch its jobs, once all are known.
    pub(super) fn close_ahead(&mut self) {
        for mut ahead in std::mem::take(&mut self.ahead) {
            let (from, size_bytes) = (ahead.weights.start, ahead.weights.end - ahead.weights.start);
            let shape = Shape::new([(size_bytes / 4) as usize]);
            let weights = self.stored("prepared from", shape, Store::Weights, from, false);
            self.tensors[ahead.result.0 as usize].shape = Shape::new([ahead.len]);
            let mut params = vec![ahead.jobs.len() as u32, 0, 0, 0];
            for job in &mut ahead.jobs {
                job[1] -= (from / 4) as u32;
                params.extend_from_slice(job);
            }
            params.resize(HEAD.len() + MOST_JOBS * ahead.jobs[0].len(), 0);
            let whole = |tensor: TensorId, size_bytes| Arg { tensor, offset_bytes: 0, size_bytes };
            let result_bytes = ahead.len as u64 * ahead.element.bytes();
            let dispatch = &mut self.dispatches[ahead.dispatch];
            dispatch.args = vec![whole(weights, size_bytes), whole(ahead.result, result_bytes)];
            // Several jobs may read one weight.
            dispatch.unread_bytes = size_bytes.saturating_sub(ahead.read_bytes);
            dispatch.params = bytemuck::cast_slice(&params).to_vec();
            dispatch.groups = u32::try_from(ahead.groups).expect("a grid of at most 2^32 workgroups");
        }
    }
}

impl DispatchBuilder<'_> {
    /// Binds what a job has left.
    pub fn prepared(self, prepared: Prepared) -> Self {
        self.range(prepared.tensor, prepared.offset_bytes, prepared.size_bytes)
    }
}
