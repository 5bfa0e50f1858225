//! Tensors: names, static shapes, element types, and where their bytes live.

use std::fmt;

/// A tensor of one tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(super) u32);

/// How a tensor's elements are stored. Arithmetic is in f32 whatever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the memory and the traffic, 11 bits of precision, up to 65504.
    F16,
}

impl Element {
    /// Its size.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Its name in settings and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// How an activation of that shape is stored where activations are stored as `self`: single channels stay f32, since
    /// they take next to nothing, decide most, and f16 numbers could not be bound one by one.
    pub fn of_activation(self, shape: &Shape) -> Self {
        let in_fours = shape.dims().len() == 4 && shape.dims()[3].is_multiple_of(4);
        if in_fours { self } else { Self::F32 }
    }
}

/// A static shape. Activations are `[N, H, W, C]`; parameters have shapes of their operation's choice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// A shape of any rank.
    pub fn new(dims: impl Into<Vec<usize>>) -> Self {
        Self(dims.into())
    }

    /// The shape of an activation.
    pub fn nhwc(n: usize, h: usize, w: usize, c: usize) -> Self {
        Self(vec![n, h, w, c])
    }

    /// Its dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// `[N, H, W, C]` of an activation.
    ///
    /// # Panics
    /// Where the rank is not four.
    pub fn as_nhwc(&self) -> [usize; 4] {
        self.0.as_slice().try_into().unwrap_or_else(|_| panic!("{self} is not [N, H, W, C]"))
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.0.iter().product()
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes as f32.
    pub fn bytes(&self) -> u64 {
        self.len() as u64 * 4
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(usize::to_string).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

/// The flat buffers that outlive a program's transient slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Store {
    /// Parameters.
    Weights,
    /// Their gradients, at the same offsets.
    Gradients,
    /// AdamW's first moments, at the same offsets.
    Moment1,
    /// AdamW's second moments, at the same offsets.
    Moment2,
    /// What is neither trained nor transient: running statistics.
    State,
    /// The state of loss scaling, and the step sizes that come of it.
    Scaling,
    /// Training samples; there may be several such buffers.
    Samples(usize),
    /// What the host uploads before a step, all in one piece.
    Inputs,
    /// What the host reads back after a step, all in one piece.
    Outputs,
}

/// Where a tensor's bytes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In a slot that other tensors share before and after its lifetime.
    Transient,
    /// In a range of a flat buffer.
    Stored {
        /// Which buffer.
        store: Store,
        /// Start of the range, a multiple of the binding alignment.
        offset_bytes: u64,
    },
}

/// What the tape knows of a tensor.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// For plans, labels and panics.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// How its elements are stored.
    pub element: Element,
    /// Where it lives.
    pub home: Home,
    /// Whether gradients flow to it.
    pub differentiable: bool,
}

impl TensorInfo {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.shape.len() as u64 * self.element.bytes()
    }
}

/// Named ranges of one flat buffer, each on a 256-byte boundary.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    entries: Vec<LayoutEntry>,
    total_bytes: u64,
}

/// One range of a [`Layout`].
#[derive(Debug, Clone)]
pub struct LayoutEntry {
    /// The state-dict name, or a name of our own.
    pub name: String,
    /// The shape as the kernels see it.
    pub shape: Shape,
    /// Start of the range.
    pub offset_bytes: u64,
}

impl Layout {
    /// Boundary of the ranges: the strictest binding alignment of any device.
    pub const ALIGNMENT: u64 = 256;

    /// Appends a range and returns its start.
    pub fn push(&mut self, name: impl Into<String>, shape: Shape) -> u64 {
        self.push_as(name, shape, Element::F32)
    }

    /// [`Layout::push`] of elements other than f32.
    pub fn push_as(&mut self, name: impl Into<String>, shape: Shape, element: Element) -> u64 {
        let offset_bytes = self.total_bytes;
        let bytes = shape.len() as u64 * element.bytes();
        self.total_bytes = (offset_bytes + bytes).next_multiple_of(Self::ALIGNMENT);
        self.entries.push(LayoutEntry { name: name.into(), shape, offset_bytes });
        offset_bytes
    }

    /// The ranges in order.
    pub fn entries(&self) -> &[LayoutEntry] {
        &self.entries
    }

    /// The range of that name.
    pub fn get(&self, name: &str) -> Option<&LayoutEntry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Size of the buffer.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}
