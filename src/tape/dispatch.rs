//! A dispatch as an operation puts it together: checked against its kernel when it is recorded.

use std::ops::Range;

use super::program::{Arg, Dispatch, Flops};
use super::reading::Read;
use super::record::Tape;
use super::tensor::TensorId;
use crate::gpu::{Kernel, Params};

/// A dispatch being put together: tensors in the order of the kernel's bindings, then parameters, then the grid.
pub struct DispatchBuilder<'a> {
    tape: &'a mut Tape,
    kernel: Kernel,
    args: Vec<Arg>,
    params: Vec<u8>,
    flops: Flops,
    reread_bytes: u64,
}

impl<'a> DispatchBuilder<'a> {
    pub(super) fn new(tape: &'a mut Tape, kernel: Kernel) -> Self {
        Self { tape, kernel, args: Vec::new(), params: Vec::new(), flops: Flops::default(), reread_bytes: 0 }
    }
}

impl DispatchBuilder<'_> {
    /// Binds a whole tensor.
    pub fn tensor(self, tensor: TensorId) -> Self {
        let size_bytes = self.tape.info(tensor).bytes();
        self.range(tensor, 0, size_bytes)
    }

    /// Binds some images of a tensor whose first dimension is the batch.
    pub fn images(self, tensor: TensorId, images: &Range<usize>) -> Self {
        let info = self.tape.info(tensor);
        let image_bytes = info.bytes() / info.shape.dims()[0] as u64;
        self.range(tensor, images.start as u64 * image_bytes, images.len() as u64 * image_bytes)
    }

    /// Binds a range of a tensor.
    pub fn range(mut self, tensor: TensorId, offset_bytes: u64, size_bytes: u64) -> Self {
        self.args.push(Arg { tensor, offset_bytes, size_bytes });
        self
    }

    /// Says whether what was bound last is read before it is written, as sums are that go on: it then moves twice.
    pub fn read_and_written(mut self, is_read: bool) -> Self {
        let last = self.args.last().expect("something was bound");
        self.reread_bytes += if is_read { last.size_bytes } else { 0 };
        self
    }

    /// Gives the parameter block.
    ///
    /// # Panics
    /// Where its fields differ from the shader's.
    pub fn params<P: Params>(mut self, params: &P) -> Self {
        self.kernel.check_params(P::FIELDS);
        self.params = bytemuck::bytes_of(params).to_vec();
        self
    }

    /// Binds the coefficients of what is normalised as it is read; else, since something must be bound, the beginning of
    /// `instead`, which nothing reads.
    pub fn coefficients(self, read: Read, instead: TensorId) -> Self {
        match read.normalisation {
            Some(normalisation) => self.tensor(normalisation.coefficients),
            None => self.nothing(instead),
        }
    }

    /// Binds what nothing reads, since something must be bound: the beginning of `instead`.
    pub fn nothing(self, instead: TensorId) -> Self {
        // A vec4 of f32: the least that an array of them may be.
        const SOMETHING_BYTES: u64 = 16;
        self.range(instead, 0, SOMETHING_BYTES)
    }

    /// Binds a whole tensor where there is one.
    pub fn also(self, tensor: Option<TensorId>) -> Self {
        match tensor {
            Some(tensor) => self.tensor(tensor),
            None => self,
        }
    }

    /// Says how many floating-point operations the dispatch does.
    pub fn flops(mut self, flops: impl Into<Flops>) -> Self {
        self.flops = flops.into();
        self
    }

    /// Records it with enough workgroups for that many invocations.
    pub fn invocations(self, invocations: usize) {
        let size = self.kernel.reflection().workgroup_size as usize;
        self.groups(invocations.div_ceil(size));
    }

    /// Records it with that many workgroups.
    ///
    /// # Panics
    /// Where the tensors do not fit the kernel's bindings.
    pub fn groups(self, groups: usize) {
        let wanted = self.kernel.tensor_bindings().count();
        assert_eq!(self.args.len(), wanted, "{}: tensors bound and bindings of the shader", self.kernel);
        let takes_params = !self.kernel.reflection().params.is_empty();
        assert_eq!(!self.params.is_empty(), takes_params, "{}: parameters", self.kernel);
        let dispatch = Dispatch {
            kernel: self.kernel,
            args: self.args,
            params: self.params,
            groups: u32::try_from(groups).expect("a grid of at most 2^32 workgroups"),
            node: self.tape.node_name.clone(),
            operation: self.tape.operation.clone(),
            phase: self.tape.phase,
            flops: self.flops,
            unread_bytes: 0,
            reread_bytes: self.reread_bytes,
        };
        self.tape.dispatches.push(dispatch);
    }
}
