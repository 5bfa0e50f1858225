//! A reader for the part of Python's pickle that state dicts are made of. It interprets data and calls nothing: a
//! name other than those of [`Global`] is an error, and so is an instruction other than those of [`op`].
//!
//! Values live in one list and refer to each other by index: however a pickle nests or repeats them, reading and
//! dropping them needs no recursion and no more memory than the pickle's length warrants.

use std::collections::HashMap;

use super::op;
use crate::interop::Element;

/// Values that a pickle may make: enough for twenty thousand tensors.
const MAX_VALUES: usize = 1 << 18;

/// Axes of a tensor, and bytes of a storage's key: both are copied wherever they are referred to.
const MAX_AXES: usize = 16;
const MAX_KEY_BYTES: usize = 32;

/// The index of a value in [`Pickle::values`].
pub(super) type Id = usize;

/// Why a pickle is refused, in words that follow "found".
pub(super) type Refusal = String;

type Read<T> = std::result::Result<T, Refusal>;

/// The names that a pickle may mention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch.FloatStorage` and its like
    Storage(Element),
}

impl Global {
    fn named(module: &str, name: &str) -> Read<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "HalfStorage") => Self::Storage(Element::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Element::BF16),
            ("torch", "FloatStorage") => Self::Storage(Element::F32),
            ("torch", "DoubleStorage") => Self::Storage(Element::F64),
            ("torch", "IntStorage") => Self::Storage(Element::I32),
            ("torch", "LongStorage") => Self::Storage(Element::I64),
            _ => return Err(format!("`{module}.{name}`, which is not needed for weights and was not run")),
        })
    }
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    /// The type of the elements.
    pub element: Element,
    /// The entry of the archive, `data/<key>`.
    pub key: String,
    /// Elements in the storage.
    pub storage_len: usize,
    /// The first element.
    pub offset: usize,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Distances between neighbours along each axis, in elements.
    pub strides: Vec<usize>,
}

/// What a pickle is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `None`, a boolean or a float: of no use here.
    Other,
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage {
        element: Element,
        key: String,
        len: usize,
    },
    Tensor(View),
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle {
    /// All its values.
    pub values: Vec<Value>,
    /// The one that it stands for.
    pub root: Id,
}

/// Reads a pickle.
pub(super) fn parse(bytes: &[u8]) -> Read<Pickle> {
    let mut machine = Machine {
        bytes,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let start = machine.at;
        let code = machine.byte()?;
        if code == op::STOP {
            let root = machine.pop()?;
            return Ok(Pickle { values: machine.values, root });
        }
        machine.step(code).map_err(|e| format!("{e} (byte {start} of its pickle)"))?;
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    fn step(&mut self, code: u8) -> Read<()> {
        match code {
            op::PROTO => self.protocol(),
            op::MARK => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::BINPUT | op::LONG_BINPUT | op::BINGET | op::LONG_BINGET => self.remember(code),
            op::APPEND | op::APPENDS | op::SETITEM | op::SETITEMS => self.fill(code),
            op::BUILD => self.build(),
            _ => {
                let value = self.make(code)?;
                self.push(value)
            }
        }
    }

    /// The value that an instruction makes.
    fn make(&mut self, code: u8) -> Read<Value> {
        Ok(match code {
            op::NONE | op::NEWTRUE | op::NEWFALSE => Value::Other,
            op::BININT => Value::Int(i32::from_le_bytes(self.array()?).into()),
            op::BININT1 => Value::Int(self.byte()?.into()),
            op::BININT2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            op::LONG1 => self.long()?,
            op::BINFLOAT => {
                self.take(8)?;
                Value::Other
            }
            op::BINUNICODE => self.text()?,
            op::EMPTY_TUPLE => Value::Tuple(Vec::new()),
            op::TUPLE => Value::Tuple(self.pop_to_mark()?),
            op::TUPLE1 => Value::Tuple(self.pop_many(1)?),
            op::TUPLE2 => Value::Tuple(self.pop_many(2)?),
            op::TUPLE3 => Value::Tuple(self.pop_many(3)?),
            op::EMPTY_LIST => Value::List(Vec::new()),
            op::EMPTY_DICT => Value::Dict(Vec::new()),
            op::GLOBAL => self.global()?,
            op::REDUCE => self.reduce()?,
            op::BINPERSID => self.storage()?,
            _ => return Err(format!("the pickle instruction {code:#04x}, which is not needed for weights")),
        })
    }

    fn protocol(&mut self) -> Read<()> {
        match self.byte()? {
            2 => Ok(()),
            other => Err(format!("pickle protocol {other} in place of 2")),
        }
    }

    fn remember(&mut self, code: u8) -> Read<()> {
        let key = match code {
            op::BINPUT | op::BINGET => self.byte()?.into(),
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(code, op::BINPUT | op::LONG_BINPUT) {
            let top = *self.stack.last().ok_or("an empty stack")?;
            self.memo.insert(key, top);
        } else {
            let id = *self.memo.get(&key).ok_or("a reference to nothing")?;
            self.push_id(id)?;
        }
        Ok(())
    }

    /// Appends to a list or sets items of a dictionary, one or all since the last mark.
    fn fill(&mut self, code: u8) -> Read<()> {
        let items = match code {
            op::APPEND => self.pop_many(1)?,
            op::SETITEM => self.pop_many(2)?,
            _ => self.pop_to_mark()?,
        };
        let target = *self.stack.last().ok_or("an empty stack")?;
        match (&mut self.values[target], code) {
            (Value::List(list), op::APPEND | op::APPENDS) => list.extend(items),
            (Value::Dict(dict), op::SETITEM | op::SETITEMS) if items.len() % 2 == 0 => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err("items for something that takes none".into()),
        }
        Ok(())
    }

    /// Attributes: those of a state dict (`_metadata`) are of no use here, and nothing else may have any.
    fn build(&mut self) -> Read<()> {
        self.pop()?;
        match self.stack.last().map(|&id| &self.values[id]) {
            Some(Value::Dict(_)) => Ok(()),
            _ => Err("attributes of something that is no dictionary".into()),
        }
    }

    fn global(&mut self) -> Read<Value> {
        let module = self.line()?;
        let name = self.line()?;
        Global::named(&module, &name).map(Value::Global)
    }

    /// A call: the only three that are known are carried out here.
    fn reduce(&mut self) -> Read<Value> {
        let args = self.pop_tuple()?;
        let callee = self.pop()?;
        match (&self.values[callee], args.as_slice()) {
            (Value::Global(Global::OrderedDict), []) => Ok(Value::Dict(Vec::new())),
            (Value::Global(Global::RebuildTensor), [storage, offset, shape, strides, ..])
                if args.len() <= 7 =>
            {
                self.tensor(*storage, *offset, *shape, *strides)
            }
            (Value::Global(Global::RebuildParameter), [data, ..]) if args.len() == 3 => {
                match &self.values[*data] {
                    Value::Tensor(view) => Ok(Value::Tensor(view.clone())),
                    _ => Err("a parameter without a tensor".into()),
                }
            }
            _ => Err("a call that is not needed for weights and was not run".into()),
        }
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Read<Value> {
        let Value::Storage { element, key, len } = &self.values[storage] else {
            return Err("a tensor without a storage".into());
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(format!("a tensor of {} axes with {} strides", shape.len(), strides.len()));
        }
        let (offset, key) = (self.size(offset)?, key.clone());
        Ok(Value::Tensor(View { element: *element, key, storage_len: *len, offset, shape, strides }))
    }

    /// `('storage', torch.FloatStorage, '0', 'cpu', 54)`: any device will do, the data is in the archive.
    fn storage(&mut self) -> Read<Value> {
        let parts = self.pop_tuple()?;
        let refused = || Refusal::from("a reference to something that is no storage");
        let [tag, kind, key, _device, len] = parts.as_slice() else { return Err(refused()) };
        match (&self.values[*tag], &self.values[*kind], &self.values[*key]) {
            (Value::Text(tag), Value::Global(Global::Storage(element)), Value::Text(key))
                if tag == "storage" && key.len() <= MAX_KEY_BYTES =>
            {
                Ok(Value::Storage { element: *element, key: key.clone(), len: self.size(*len)? })
            }
            _ => Err(refused()),
        }
    }

    fn sizes(&self, tuple: Id) -> Read<Vec<usize>> {
        match &self.values[tuple] {
            Value::Tuple(ids) if ids.len() > MAX_AXES => Err(format!("a tensor of {} axes", ids.len())),
            Value::Tuple(ids) => ids.iter().map(|&id| self.size(id)).collect(),
            _ => Err("sizes that are no tuple".into()),
        }
    }

    fn size(&self, id: Id) -> Read<usize> {
        match self.values[id] {
            Value::Int(n) => usize::try_from(n).map_err(|_| format!("the size {n}")),
            _ => Err("a size that is no integer".into()),
        }
    }

    fn long(&mut self) -> Read<Value> {
        let len = usize::from(self.byte()?);
        let bytes = self.take(len)?;
        if len > 8 {
            return Ok(Value::Other);
        }
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..len].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self) -> Read<Value> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "text that is no UTF-8")?;
        Ok(Value::Text(text.to_string()))
    }

    fn push(&mut self, value: Value) -> Read<()> {
        self.values.push(value);
        self.push_id(self.values.len() - 1)
    }

    fn push_id(&mut self, id: Id) -> Read<()> {
        if self.values.len().max(self.stack.len()) > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Read<Id> {
        Ok(self.pop_many(1)?[0])
    }

    /// The top `n` values, which must lie above the last mark, in the order of their pushing.
    fn pop_many(&mut self, n: usize) -> Read<Vec<Id>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start =
            self.stack.len().checked_sub(n).filter(|&s| s >= floor).ok_or("too few values on the stack")?;
        Ok(self.stack.split_off(start))
    }

    fn pop_to_mark(&mut self) -> Read<Vec<Id>> {
        let mark = self.marks.pop().ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_tuple(&mut self) -> Read<Vec<Id>> {
        let id = self.pop()?;
        match &self.values[id] {
            Value::Tuple(ids) => Ok(ids.clone()),
            _ => Err("arguments that are no tuple".into()),
        }
    }

    fn line(&mut self) -> Read<String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&b| b == b'\n').ok_or("a name without an end")?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end.min(200)]).into_owned())
    }

    fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("taken to size"))
    }

    fn take(&mut self, n: usize) -> Read<&[u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("a pickle that is cut off")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}
