//! Tensors: names, static shapes, and where their bytes live. Everything is f32.

use std::fmt;

/// A tensor of one tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(super) u32);

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
    /// Where it lives.
    pub home: Home,
    /// Whether gradients flow to it.
    pub differentiable: bool,
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
        let offset_bytes = self.total_bytes;
        self.total_bytes = (offset_bytes + shape.bytes()).next_multiple_of(Self::ALIGNMENT);
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
