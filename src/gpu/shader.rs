//! Shader text: composition does three things only. It pastes `#import`s, it sets the value of a declared top-level
//! `const` or `alias`, and it writes the rounds of an `#unroll`ed loop one after the other ([`super::unroll`]). A
//! structural difference is another entry point, never an `#ifdef`.

use std::fmt;

use naga::Module;

use super::unroll::{rolled, unroll};

/// One WGSL file of `shaders/`, embedded in the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShaderSource {
    /// The file's name without its extension, as labels and errors say it.
    pub name: &'static str,
    /// The file's text, imports not yet pasted.
    pub text: &'static str,
}

/// The files of `shaders/shared/`, by the name that `#import` gives.
const SHARED: &[(&str, &str)] = &[
    ("add_inputs", include_str!("../../shaders/shared/add_inputs.wgsl")),
    ("attention", include_str!("../../shaders/shared/attention.wgsl")),
    ("depth_to_space", include_str!("../../shaders/shared/depth_to_space.wgsl")),
    ("grid", include_str!("../../shaders/shared/grid.wgsl")),
    ("jobs", include_str!("../../shaders/shared/jobs.wgsl")),
    ("lane2", include_str!("../../shaders/shared/lane2.wgsl")),
    ("lane4", include_str!("../../shaders/shared/lane4.wgsl")),
    ("lane8", include_str!("../../shaders/shared/lane8.wgsl")),
    ("matrix16", include_str!("../../shaders/shared/matrix16.wgsl")),
    ("matrix8", include_str!("../../shaders/shared/matrix8.wgsl")),
    ("matrix_emulated", include_str!("../../shaders/shared/matrix_emulated.wgsl")),
    ("matrix_parts", include_str!("../../shaders/shared/matrix_parts.wgsl")),
    ("matrix_pixels", include_str!("../../shaders/shared/matrix_pixels.wgsl")),
    ("matrix_shares", include_str!("../../shaders/shared/matrix_shares.wgsl")),
    ("normalise", include_str!("../../shaders/shared/normalise.wgsl")),
    ("normalised_eight", include_str!("../../shaders/shared/normalised_eight.wgsl")),
    ("normalised_read", include_str!("../../shaders/shared/normalised_read.wgsl")),
    ("ordered_sum", include_str!("../../shaders/shared/ordered_sum.wgsl")),
    ("patch", include_str!("../../shaders/shared/patch.wgsl")),
    ("pixel_place", include_str!("../../shaders/shared/pixel_place.wgsl")),
    ("pooled_square", include_str!("../../shaders/shared/pooled_square.wgsl")),
    ("random", include_str!("../../shaders/shared/random.wgsl")),
    ("read2", include_str!("../../shaders/shared/read2.wgsl")),
    ("read4", include_str!("../../shaders/shared/read4.wgsl")),
    ("read8", include_str!("../../shaders/shared/read8.wgsl")),
    ("source_pixels", include_str!("../../shaders/shared/source_pixels.wgsl")),
    ("stored4", include_str!("../../shaders/shared/stored4.wgsl")),
    ("stored8", include_str!("../../shaders/shared/stored8.wgsl")),
    ("tile_moments", include_str!("../../shaders/shared/tile_moments.wgsl")),
    ("tile_product", include_str!("../../shaders/shared/tile_product.wgsl")),
    ("weights_round", include_str!("../../shaders/shared/weights_round.wgsl")),
    ("winograd2", include_str!("../../shaders/shared/winograd2.wgsl")),
    ("winograd4", include_str!("../../shaders/shared/winograd4.wgsl")),
    ("winograd_job", include_str!("../../shaders/shared/winograd_job.wgsl")),
    ("winograd_tile", include_str!("../../shaders/shared/winograd_tile.wgsl")),
];

/// The values a kernel gives to its shader's constants and aliases: the substitution, the cache key and the
/// profiler's label in one object. Sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant(Vec<(&'static str, String)>);

impl Variant {
    /// A variant that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a declared top-level `const` or `alias`.
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value.to_string()));
        self.0.sort();
        self
    }

    fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&parts.join(","))
    }
}

/// A shader in one variant.
pub struct Composed {
    /// The text that goes to the compiler.
    pub text: String,
    /// The same with every loop as it is: it declares and binds the same, with less to read.
    pub rolled: String,
    /// What naga reads from `rolled`; nothing has validated it.
    pub module: Module,
}

/// Composes a shader.
///
/// # Panics
/// On an import or a constant that the shader does not declare, a loop that cannot be unrolled, or what is not WGSL: mistakes
/// in this program.
pub fn compose(source: ShaderSource, variant: &Variant) -> Composed {
    let lines = lines(source, variant);
    let rolled = rolled(&lines);
    let module = naga::front::wgsl::parse_str(&rolled)
        .unwrap_or_else(|e| panic!("shader {}: {}", source.name, e.emit_to_string(&rolled)));
    let text = unroll(source.name, lines, &module);
    Composed { text, rolled, module }
}

/// The text with its imports, before anything is set or unrolled.
pub fn with_imports(source: ShaderSource) -> String {
    lines(source, &Variant::new()).join("\n")
}

fn lines(source: ShaderSource, variant: &Variant) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // A directive of the language, which has to come before everything else.
    if variant.iter().any(|(_, value)| value.contains("f16")) {
        lines.push("enable f16;".to_owned());
    }
    for line in source.text.lines() {
        match line.trim().strip_prefix("#import ") {
            Some(name) => lines.extend(shared(source.name, name.trim()).lines().map(str::to_owned)),
            None => lines.push(line.to_owned()),
        }
    }
    for (name, value) in variant.iter() {
        substitute(source.name, &mut lines, name, value);
    }
    lines
}

fn shared(shader: &str, name: &str) -> &'static str {
    SHARED
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("shader {shader}: no shared file '{name}' to import"))
        .1
}

fn substitute(shader: &str, lines: &mut [String], name: &str, value: &str) {
    let declares = |line: &str| {
        ["const ", "alias "].iter().any(|keyword| {
            line.strip_prefix(keyword)
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with([':', ' ', '=']))
        })
    };
    let line = lines
        .iter_mut()
        .find(|line| declares(line))
        .unwrap_or_else(|| panic!("shader {shader}: no top-level const or alias '{name}' to set"));
    let (head, _) = line.split_once('=').expect("a declaration has a value");
    *line = format!("{head}= {value};");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: ShaderSource = ShaderSource {
        name: "sample",
        text: "#import grid\nconst TILE: u32 = 4u;\nconst TILES = 2u;\nalias V = vec4<f32>;\n",
    };

    #[test]
    fn sets_exactly_the_named_constant_and_alias() {
        let text = compose(SOURCE, &Variant::new().with("TILE", "8u").with("V", "f32")).text;
        assert!(text.contains("const TILE: u32 = 8u;\nconst TILES = 2u;\nalias V = f32;"), "{text}");
        assert!(text.contains("fn linear_group"), "the import is pasted: {text}");
    }

    #[test]
    fn half_precision_is_enabled_where_a_type_needs_it() {
        let text = compose(SOURCE, &Variant::new().with("V", "vec4<f16>")).text;
        assert!(text.starts_with("enable f16;\n"), "{text}");
        assert!(!compose(SOURCE, &Variant::new()).text.contains("enable"), "and only there");
    }

    #[test]
    fn a_variant_is_one_sorted_list() {
        let variant = Variant::new().with("B", 1).with("A", 2).with("B", 3);
        assert_eq!(variant.to_string(), "A=2,B=3");
    }

    #[test]
    #[should_panic(expected = "no top-level const or alias 'NOPE'")]
    fn an_unknown_constant_is_an_error() {
        compose(SOURCE, &Variant::new().with("NOPE", 1));
    }
}
