//! How one setting takes a YAML value: its type, its range, and what is said when either is wrong.

use std::fmt::Display;

use crate::config::reads::Read;
use crate::config::yaml::{Key, Node, Value};
use crate::error::{Error, Result};

/// Where a value came from: the file or the argument, and the dotted path of the setting.
#[derive(Clone, Debug)]
pub struct Place {
    /// The configuration file, or `--override key=value`.
    source: String,
    /// Dotted, e.g. `default_training.augmentation.rotation`; empty at the root.
    path: String,
}

impl Place {
    /// The root of a file or of an argument.
    pub fn root(source: impl Display) -> Self {
        Self { source: source.to_string(), path: String::new() }
    }

    /// The place of `key` below this one.
    pub fn below(&self, key: impl Display) -> Self {
        let path = if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) };
        Self { source: self.source.clone(), path }
    }

    /// The place of an element of a list, in brackets.
    pub fn element(&self, label: impl Display) -> Self {
        Self { source: self.source.clone(), path: format!("{}[{label}]", self.path) }
    }

    /// `file:line:column: path`, with the parts that are known.
    fn show(&self, line: u64, column: u64) -> String {
        let mut text = self.source.clone();
        if line > 0 {
            text += &format!(":{line}:{column}");
        }
        if !self.path.is_empty() {
            text += &format!(": {}", self.path);
        }
        text
    }

    /// A mistake in the value `node` of this place.
    pub fn mistake(&self, node: &Node, expected: impl Display, remedy: impl Display) -> Error {
        if let Value::Text(text) = &node.value
            && is_placeholder(text)
        {
            let found = format!("the placeholder \"{text}\"");
            let remedy = "the pipeline fills such placeholders in the sections that it reads itself, and this one \
                          reaches rosette as it stands: write the value";
            return Error::user(self.show(node.line, node.column), expected, found, remedy);
        }
        Error::user(self.show(node.line, node.column), expected, node.value.describe(), remedy)
    }

    /// A value of another type than the setting's; one that is missing has a remedy of its own.
    fn wrong_type(&self, node: &Node, expected: impl Display, remedy: &str) -> Error {
        let remedy = match node.value {
            Value::Null => "write a value after the colon, or remove the line for the default",
            _ => remedy,
        };
        self.mistake(node, expected, remedy)
    }

    /// A key of another section of the file.
    pub fn key_of_section(&self, key: &Key, home: &str) -> Error {
        let found = format!("the unknown key `{}`", key.name);
        let remedy = format!("`{}` belongs under `{home}`", key.name);
        Error::user(self.show(key.line, key.column), "a key that is known here", found, remedy)
    }

    /// A key that is not known here; `known` are those that are, dotted where they belong further down.
    pub fn unknown_key(&self, key: &Key, known: &[String]) -> Error {
        let remedy = match misplaced(&key.name, known) {
            Some(home) => format!("`{key}` belongs under `{home}`", key = key.name),
            None => nearest(&key.name, &level(known)),
        };
        let expected = "a key that is known here";
        let found = format!("the unknown key `{}`", key.name);
        Error::user(self.show(key.line, key.column), expected, found, remedy)
    }
}

/// Whether a text is of the form `{global[results_dir]}`, which the pipeline's own reader of the file replaces.
fn is_placeholder(text: &str) -> bool {
    let Some((_, rest)) = text.split_once('{') else { return false };
    let Some((inner, _)) = rest.split_once('}') else { return false };
    let name = inner.split('[').next().unwrap_or_default();
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    !name.is_empty() && name.chars().all(is_word) && inner.contains('[') == inner.ends_with(']')
}

/// The section in which a key of this very name is known, where that is not the one it was found in.
fn misplaced<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    known.iter().filter_map(|k| k.rsplit_once('.')).find(|(_, last)| *last == key).map(|(home, _)| home)
}

/// The keys and the sections among `known`, without what is in the sections.
fn level(known: &[String]) -> Vec<&str> {
    let mut keys: Vec<&str> = known.iter().map(|k| k.split('.').next().unwrap_or(k)).collect();
    keys.dedup();
    keys
}

/// "did you mean" the most alike of `known`, or the whole list where nothing is alike.
pub fn nearest<S: AsRef<str>>(given: &str, known: &[S]) -> String {
    const ALIKE: f64 = 0.55;
    let lower = given.to_lowercase();
    let scored =
        known.iter().map(|k| (strsim::normalized_damerau_levenshtein(&lower, k.as_ref()), k.as_ref()));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, best)) if score >= ALIKE => format!("did you mean `{best}`?"),
        _ => format!("known are: {}", known.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")),
    }
}

/// The values that a setting may take, and when it is read.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    min: f64,
    max: f64,
    min_excluded: bool,
    max_excluded: bool,
    multiple_of: u32,
    why: &'static str,
    /// When the setting is read.
    pub(super) read: Read,
}

impl Rule {
    /// Every value of the type.
    pub const fn any() -> Self {
        Self::within(f64::NEG_INFINITY, f64::INFINITY)
    }

    /// Both ends included.
    pub const fn within(min: f64, max: f64) -> Self {
        let (min_excluded, max_excluded) = (false, false);
        Self { min, max, min_excluded, max_excluded, multiple_of: 1, why: "", read: Read::Always }
    }

    /// The lower end is excluded.
    pub const fn above(mut self) -> Self {
        self.min_excluded = true;
        self
    }

    /// The upper end is excluded.
    pub const fn below(mut self) -> Self {
        self.max_excluded = true;
        self
    }

    /// Only multiples of `n`.
    pub const fn multiple_of(mut self, n: u32) -> Self {
        self.multiple_of = n;
        self
    }

    /// What a user should know who breaks the rule.
    pub const fn because(mut self, why: &'static str) -> Self {
        self.why = why;
        self
    }

    /// The setting is not read always.
    pub const fn read(mut self, read: Read) -> Self {
        self.read = read;
        self
    }

    fn admits(&self, x: f64) -> bool {
        let low = if self.min_excluded { x > self.min } else { x >= self.min };
        let high = if self.max_excluded { x < self.max } else { x <= self.max };
        let divides = self.multiple_of == 1 || x % f64::from(self.multiple_of) == 0.0;
        low && high && divides && x.is_finite()
    }

    fn describe(&self, kind: &str) -> String {
        let kind = match self.multiple_of {
            1 => kind.to_string(),
            n => format!("a multiple of {n}"),
        };
        match (self.min_excluded, self.max_excluded) {
            (false, false) if self.min == self.max => format!("{} (nothing else is supported)", self.min),
            (false, false) => format!("{kind} from {} to {}", self.min, self.max),
            (true, false) => format!("{kind} above {} and at most {}", self.min, self.max),
            (false, true) => format!("{kind} from {} to below {}", self.min, self.max),
            (true, true) => format!("{kind} above {} and below {}", self.min, self.max),
        }
    }

    fn remedy(&self, at: &Place) -> String {
        match self.why {
            "" => format!("give `{}` such a value, or leave it out for the default", at.path),
            why => why.to_string(),
        }
    }

    /// Adds the range to the JSON schema of a number of this kind (`integer` or `number`).
    fn schema(&self, kind: &str, default: impl Into<serde_json::Value>) -> serde_json::Value {
        let mut schema = serde_json::json!({"type": kind, "default": default.into()});
        let number = |x: f64| match kind {
            "integer" => serde_json::json!(x as i64),
            _ => serde_json::json!(x),
        };
        if self.min.is_finite() {
            schema[if self.min_excluded { "exclusiveMinimum" } else { "minimum" }] = number(self.min);
        }
        if self.max.is_finite() {
            schema[if self.max_excluded { "exclusiveMaximum" } else { "maximum" }] = number(self.max);
        }
        if self.multiple_of != 1 {
            schema["multipleOf"] = serde_json::json!(self.multiple_of);
        }
        schema
    }

    fn check(&self, x: f64, kind: &str, node: &Node, at: &Place) -> Result<()> {
        if self.admits(x) { Ok(()) } else { Err(at.mistake(node, self.describe(kind), self.remedy(at))) }
    }
}

/// Something that a YAML value can be put into.
pub trait Setting {
    /// Takes `node`, or says what is wrong with it. A mapping merges into what is there; all else replaces it.
    fn update(&mut self, node: &Node, rule: &Rule, at: &Place) -> Result<()>;

    /// Appends the dotted names of the settings in here with their rules; `name` and `rule` are this one's own.
    fn list(&self, name: &str, rule: Rule, out: &mut Vec<(String, Rule)>) {
        out.push((name.to_string(), rule));
    }

    /// The JSON schema of the values that it takes, with the value that it has as the default.
    fn schema(&self, rule: &Rule) -> serde_json::Value;
}

macro_rules! integer_setting {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn update(&mut self, node: &Node, rule: &Rule, at: &Place) -> Result<()> {
                const KIND: &str = "an integer";
                let Value::Int(i) = node.value else {
                    return Err(at.wrong_type(node, rule.describe(KIND), "write it without quotes and without a fraction"));
                };
                rule.check(i as f64, KIND, node, at)?;
                *self = <$type>::try_from(i).map_err(|_| at.mistake(node, rule.describe(KIND), rule.remedy(at)))?;
                Ok(())
            }

            fn schema(&self, rule: &Rule) -> serde_json::Value {
                rule.schema("integer", *self)
            }
        }
    )*};
}
integer_setting!(u32, usize);

impl Setting for f64 {
    fn update(&mut self, node: &Node, rule: &Rule, at: &Place) -> Result<()> {
        const KIND: &str = "a number";
        let x = match node.value {
            Value::Int(i) => i as f64,
            Value::Float(x) => x,
            _ => {
                let remedy = "write it without quotes, e.g. 0.001 or 1e-3";
                return Err(at.wrong_type(node, rule.describe(KIND), remedy));
            }
        };
        rule.check(x, KIND, node, at)?;
        *self = x;
        Ok(())
    }

    fn schema(&self, rule: &Rule) -> serde_json::Value {
        rule.schema("number", *self)
    }
}

impl Setting for bool {
    fn update(&mut self, node: &Node, _: &Rule, at: &Place) -> Result<()> {
        let Value::Bool(b) = node.value else {
            return Err(at.wrong_type(node, "true or false", "write true or false, without quotes"));
        };
        *self = b;
        Ok(())
    }

    fn schema(&self, _: &Rule) -> serde_json::Value {
        serde_json::json!({"type": "boolean", "default": self})
    }
}

impl Setting for String {
    fn update(&mut self, node: &Node, _: &Rule, at: &Place) -> Result<()> {
        let Value::Text(text) = &node.value else {
            return Err(at.wrong_type(node, "text", "put it in quotes"));
        };
        self.clone_from(text);
        Ok(())
    }

    fn schema(&self, _: &Rule) -> serde_json::Value {
        serde_json::json!({"type": "string", "default": self})
    }
}

/// A list in brackets or with one element a line; it takes the place of what was there. The rule is its elements'.
impl Setting for Vec<u32> {
    fn update(&mut self, node: &Node, rule: &Rule, at: &Place) -> Result<()> {
        let Value::List(items) = &node.value else {
            return Err(at.wrong_type(node, "a list of integers", "write it in brackets, e.g. [42, 43, 44]"));
        };
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let mut element = 0_u32;
            element.update(item, rule, &at.element(index + 1))?;
            list.push(element);
        }
        *self = list;
        Ok(())
    }

    fn schema(&self, rule: &Rule) -> serde_json::Value {
        let mut items = rule.schema("integer", 0);
        items.as_object_mut().expect("a schema is an object").remove("default");
        serde_json::json!({"type": "array", "items": items, "default": self})
    }
}

/// Takes one of a few words.
pub fn choose<T: Copy>(choices: &[(&str, T)], node: &Node, at: &Place) -> Result<T> {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let expected = words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" or ");
    let Value::Text(given) = &node.value else {
        return Err(at.wrong_type(node, expected, "write one of these words"));
    };
    let found = choices.iter().find(|(word, _)| word == given);
    found.map(|(_, value)| *value).ok_or_else(|| at.mistake(node, expected, nearest(given, &words)))
}

/// A mapping of settings.
pub trait Section {
    /// The setting of that name, with the values it may take.
    fn field(&mut self, name: &str) -> Option<(&mut dyn Setting, Rule)>;

    /// The dotted names of every setting in here, with their rules.
    fn rules(&self) -> Vec<(String, Rule)>;

    /// The dotted names of every setting in here.
    fn names(&self) -> Vec<String> {
        self.rules().into_iter().map(|(name, _)| name).collect()
    }

    /// The JSON schemas of its keys.
    fn properties(&self) -> serde_json::Map<String, serde_json::Value>;

    /// Merges a mapping into this section, key by key. An empty value changes nothing.
    fn merge(&mut self, node: &Node, at: &Place) -> Result<()> {
        for (key, value) in entries(node, at)? {
            match self.field(&key.name) {
                Some((setting, rule)) => setting.update(value, &rule, &at.below(&key.name))?,
                None => return Err(at.unknown_key(key, &self.names())),
            }
        }
        Ok(())
    }
}

/// The entries of a mapping; none where nothing was written.
pub fn entries<'a>(node: &'a Node, at: &Place) -> Result<&'a [(Key, Node)]> {
    match &node.value {
        Value::Map(entries) => Ok(entries),
        Value::Null => Ok(&[]),
        _ if node.line == 0 => {
            let remedy = format!("name a key in it: {}.KEY=VALUE", at.path);
            Err(at.mistake(node, "a key of this section", remedy))
        }
        _ => Err(at.mistake(node, "a mapping of keys to values", "indent `key: value` lines below it")),
    }
}
