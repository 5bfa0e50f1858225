//! YAML as a tree in which every value and every key knows its line and column, so that a setting which is refused
//! long after parsing can still be pointed at.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Location, Spanned};

use crate::error::{Error, Result};

/// A value with its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What was written.
    pub value: Value,
    /// 1-based line; 0 where there is no text to point at.
    pub line: u64,
    /// 1-based column, in characters.
    pub column: u64,
}

/// What a YAML node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing after the colon.
    Null,
    /// `true`, `false` and the YAML 1.1 spellings that PyYAML reads too (`yes`, `off`, ...).
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A number with a fraction or an exponent, `.inf` and `.nan` included.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the text.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping with its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The key.
    pub name: String,
    /// 1-based line; 0 where there is no text to point at.
    pub line: u64,
    /// 1-based column, in characters.
    pub column: u64,
}

impl Value {
    /// The value in words, for the "found" part of an error.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(b) => format!("the boolean {b}"),
            Self::Int(i) => format!("the integer {i}"),
            Self::Float(f) => format!("the number {f:?}"),
            Self::Text(text) => format!("the text \"{}\"", shorten(text)),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Map(entries) if entries.len() == 1 => "a mapping of one key".into(),
            Self::Map(entries) => format!("a mapping of {} keys", entries.len()),
        }
    }
}

impl Node {
    /// A node that stands in no file.
    pub fn unplaced(value: Value) -> Self {
        Self { value, line: 0, column: 0 }
    }
}

/// The first characters of a text that may be a whole file pasted into the wrong place.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// Parses one YAML document. `file` only names the text in errors.
///
/// # Errors
/// A user error with file, line and column where the text is not YAML, or repeats a key.
pub fn parse(file: &Path, text: &str) -> Result<Node> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    };
    serde_saphyr::from_str_with_options::<Node>(text, options).map_err(|e| syntax_error(file, &e))
}

/// Parses the value of a `--override`: YAML too, so that `0.5`, `true` and `pooled` mean what they mean in a file.
pub fn parse_scalar(text: &str) -> Option<Value> {
    parse(Path::new(""), text).ok().map(|node| node.value)
}

fn syntax_error(file: &Path, error: &serde_saphyr::Error) -> Error {
    let place = match error.location() {
        Some(at) => format!("{}:{}:{}", file.display(), at.line(), at.column()),
        None => file.display().to_string(),
    };
    let whole = error.to_string();
    // The parser's own words end in the position, which the place tells already, and speak of its options.
    let found = whole.split(" at line ").next().unwrap_or(&whole);
    match found.strip_prefix("duplicate mapping key: ").and_then(|rest| rest.split(',').next()) {
        Some(key) => Error::user(place, "each key once", format!("`{key}` again"), "remove one of the two"),
        None => {
            let remedy = "check the indentation (spaces, no tabs), colons and quotes there";
            Error::user(place, "valid YAML", reworded(found), remedy)
        }
    }
}

/// The parser's "while doing this, did not find that" as something that was found.
fn reworded(said: &str) -> String {
    let Some((doing, what)) = said.split_once(", ").filter(|(doing, _)| doing.starts_with("while ")) else {
        return said.to_string();
    };
    let what = match (what.strip_prefix("did not find expected "), what.strip_prefix("found ")) {
        (Some(missing), _) => format!("no {missing}"),
        (_, Some(found)) => found.to_string(),
        _ => what.to_string(),
    };
    format!("{what} {doing}")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Value>::deserialize(deserializer)?;
        let (line, column) = position(&referenced);
        Ok(Self { value, line, column })
    }
}

fn position(at: &Location) -> (u64, u64) {
    (at.line(), at.column())
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(Value::Int(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(Value::Int(v.into()))
    }

    fn visit_i128<E>(self, v: i128) -> std::result::Result<Value, E> {
        Ok(Value::Int(v))
    }

    fn visit_u128<E>(self, v: u128) -> std::result::Result<Value, E> {
        Ok(i128::try_from(v).map_or(Value::Float(v as f64), Value::Int))
    }

    fn visit_f64<E>(self, v: f64) -> std::result::Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(Value::Text(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let (line, column) = position(&key.referenced);
            entries.push((Key { name: key.value, line, column }, map.next_value()?));
        }
        Ok(Value::Map(entries))
    }
}
