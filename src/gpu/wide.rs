//! Storage in fewer pieces, for llvmpipe: it makes of every access a loop over the lanes, with a test and a copy through memory
//! for each component, so that two components of 64 bits take 0.8 of the time of four of 32, and four 0.6 to 0.75 of that of
//! eight.
//!
//! An array of `vec4<f32>` becomes one of `vec2<u64>`, one of `mat2x4<f32>` one of `vec4<u64>`; elements are converted where
//! they are read and written whole. The same bytes, and the same bits.

use std::collections::HashMap;
use std::iter::successors;
use std::ops::Range;

/// An element, what takes its place, and the functions that convert it.
const ELEMENTS: [(&str, &str, [&str; 2]); 2] = [
    ("vec4<f32>", "vec2<u64>", ["from_wide", "to_wide"]),
    ("mat2x4<f32>", "vec4<u64>", ["from_wide_pair", "to_wide_pair"]),
];

pub(crate) const CONVERSIONS: &str = "
fn from_wide(a: vec2<u64>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(u32(a.x), u32(a.x >> 32u), u32(a.y), u32(a.y >> 32u)));
}

fn to_wide(value: vec4<f32>) -> vec2<u64> {
    let bits = bitcast<vec4<u32>>(value);
    return vec2<u64>(u64(bits.x) | (u64(bits.y) << 32u), u64(bits.z) | (u64(bits.w) << 32u));
}

fn from_wide_pair(a: vec4<u64>) -> mat2x4<f32> {
    return mat2x4<f32>(from_wide(a.xy), from_wide(a.zw));
}

fn to_wide_pair(value: mat2x4<f32>) -> vec4<u64> {
    return vec4<u64>(to_wide(value[0]), to_wide(value[1]));
}
";

/// A shader's text with its storage in fewer pieces. Arrays that are used otherwise than by whole elements stay as they are.
pub(crate) fn widen(text: &str) -> String {
    let code = code(text);
    let arrays = arrays(&code);
    let declared: Vec<String> = code.iter().map(|line| redeclared(line, &arrays)).collect();
    rewritten(&declared.join("\n"), &arrays) + CONVERSIONS
}

/// The lines without comments.
pub(super) fn code(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end()).collect()
}

/// Storage arrays of numbers by fours or eights that stay as they are, since they are used otherwise than by whole elements.
#[cfg(test)]
pub(crate) fn left_as_they_are(text: &str) -> Vec<String> {
    let wide = widen(text);
    let code = code(&wide);
    let by_fours = |(_, element): &(&str, &str)| matches!(meant(&code, element), "vec4<f32>" | "mat2x4<f32>");
    code.iter()
        .filter_map(|line| declaration(line))
        .filter(by_fours)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// What an alias stands for, or the type itself.
fn meant<'a>(code: &[&'a str], element: &'a str) -> &'a str {
    let alias = |name: &str| {
        let stands_for = |line: &&'a str| {
            let (known, meant) = line.strip_prefix("alias ")?.strip_suffix(';')?.split_once(" = ")?;
            (known == name).then_some(meant)
        };
        code.iter().find_map(stands_for)
    };
    successors(Some(element), |name| alias(name)).last().expect("itself at least")
}

/// What converts the elements of each array that can be accessed in fewer pieces.
type Arrays<'a> = HashMap<&'a str, (&'static str, [&'static str; 2])>;

fn arrays<'a>(code: &[&'a str]) -> Arrays<'a> {
    // Members of structs have names of their own.
    let mut in_struct = false;
    let is_code = |line: &&&str| {
        in_struct |= line.starts_with("struct ");
        let is_inside = in_struct;
        in_struct &= !line.contains('}');
        !is_inside
    };
    let outside: Vec<&str> = code.iter().filter(is_code).copied().collect();
    let outside = outside.join("\n");
    let wide = |(name, element)| {
        let (_, wide, conversions) =
            ELEMENTS.into_iter().find(|(known, ..)| meant(code, element) == *known)?;
        is_indexed_everywhere(&outside, name).then_some((name, (wide, conversions)))
    };
    code.iter().filter_map(|line| declaration(line)).filter_map(wide).collect()
}

/// Name and element of the storage array that a line declares.
pub(super) fn declaration(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once("var<storage")?;
    let (name, rest) = rest.split_once("> ")?.1.split_once(": array<")?;
    Some((name, rest.trim_end().strip_suffix(">;")?))
}

fn redeclared(line: &str, arrays: &Arrays) -> String {
    let known = declaration(line).and_then(|(name, element)| Some((element, arrays.get(name)?.0)));
    known.map_or_else(
        || line.to_owned(),
        |(element, wide)| line.replace(&format!("array<{element}>"), &format!("array<{wide}>")),
    )
}

/// Whether the name stands for nothing else, and every use of it is an element that is read, or set whole.
fn is_indexed_everywhere(code: &str, name: &str) -> bool {
    let mut uses = words(code).filter(|(at, word)| *word == name && !is_member(code, *at));
    uses.all(|(at, _)| {
        let is_declaration = code[..at].ends_with("> ") && code[at + name.len()..].starts_with(": array<");
        let Some(element) = Element::at(code, at + name.len()) else { return is_declaration };
        let is_pointed_at = code[..at].ends_with('&') && !code[..at].ends_with("&&");
        let part = part_end(code, element.end);
        let is_part_set = part > element.end && assignment(&code[part..]).is_some();
        !is_pointed_at
            && !is_part_set
            && assignment(&code[element.end..]).is_none_or(|(operator, _)| operator.len() < 2)
    })
}

/// The end of what follows an element to name a part of it: members and indices.
pub(super) fn part_end(code: &str, mut at: usize) -> usize {
    loop {
        let next = Element::at(code, at).map(|element| element.end);
        let member = code[at..].strip_prefix('.').and_then(|rest| words(rest).next());
        match next.or(member.map(|(_, word)| at + 1 + word.len())) {
            Some(end) => at = end,
            None => return at,
        }
    }
}

/// Where something is set here: the operator that its old value goes through, none or one like `+`, and what follows.
pub(super) fn assignment(rest: &str) -> Option<(&str, &str)> {
    let (operator, value) = rest.trim_start().split_once('=')?;
    let compares = ["<", ">", "!"].contains(&operator) || (operator.is_empty() && value.starts_with('='));
    (!compares && operator.chars().all(|c| "+-*/%&|^<>".contains(c))).then_some((operator, value))
}

fn is_member(code: &str, at: usize) -> bool {
    code[..at].ends_with('.')
}

/// Place and text of every identifier, keyword and number.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    code.split(move |c| !is_part(c)).filter_map(move |word| {
        let start = at;
        at += word.len() + 1;
        (!word.is_empty()).then_some((start, word))
    })
}

/// `[index]`: where the index is, and where it ends.
pub(super) struct Element {
    pub(super) index: Range<usize>,
    pub(super) end: usize,
}

impl Element {
    fn at(code: &str, at: usize) -> Option<Self> {
        let mut depth = 0;
        for (place, c) in code[at..].char_indices() {
            match c {
                '[' => depth += 1,
                ']' => depth -= 1,
                _ => (),
            }
            if depth == 0 {
                return (place > 0).then_some(Self { index: at + 1..at + place, end: at + place + 1 });
            }
        }
        None
    }
}

/// The first access from there on to an element of what `is_meant` says by its name: where the name begins, the name, the element.
pub(super) fn next_element(
    code: &str,
    from: usize,
    is_meant: impl Fn(&str) -> bool,
) -> Option<(usize, &str, Element)> {
    words(&code[from..]).find_map(|(at, word)| {
        let at = from + at;
        let element = || Element::at(code, at + word.len());
        (!is_member(code, at) && is_meant(word)).then(element)?.map(|element| (at, word, element))
    })
}

fn rewritten(code: &str, arrays: &Arrays) -> String {
    let mut text = String::new();
    let mut done = 0;
    while let Some((at, word, element)) = next_element(code, done, |word| arrays.contains_key(word)) {
        let (_, [from_wide, to_wide]) = arrays[word];
        text.push_str(&code[done..at]);
        done = element.end;
        let index = rewritten(&code[element.index], arrays);
        if let Some((operator, value)) = assignment(&code[done..]) {
            let end = value.find(';').expect("a statement has an end");
            let set = rewritten(value[..end].trim(), arrays);
            let set = match operator {
                "" => set,
                _ => format!("{from_wide}({word}[{index}]) {operator} ({set})"),
            };
            text.push_str(&format!("{word}[{index}] = {to_wide}({set})"));
            done = code.len() - value.len() + end;
        } else {
            text.push_str(&format!("{from_wide}({word}[{index}])"));
        }
    }
    text + &code[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text after its declarations, lines trimmed.
    fn body(declarations: &str, statements: &str) -> String {
        let text = format!(
            "alias Stored = vec4<f32>;\nalias V = Stored;\n{declarations}\n@compute @workgroup_size(1)\nfn f() {{\n{statements}\n}}\n"
        );
        let wide = widen(&text);
        for text in [&text, &wide] {
            let module =
                naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
            let capabilities = naga::valid::Capabilities::all();
            let mut validator =
                naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
            validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
        }
        let (_, body) = wide.split_once("fn f() {\n").expect("the function");
        body.split_once("\n}").expect("its end").0.to_owned()
    }

    const X: &str = "@group(0) @binding(0) var<storage, read> x: array<V>;";
    const Y: &str = "@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;";
    const PAIRS: &str = "@group(0) @binding(2) var<storage, read_write> pairs: array<mat2x4<f32>>;";

    #[test]
    fn elements_are_converted_where_they_are_read_and_set() {
        let found = body(&format!("{X}\n{Y}"), "y[1u] = 2.0 * x[u32(x[0u].y)] + y[2u]; // y[3u]");
        assert_eq!(found, "y[1u] = to_wide(2.0 * from_wide(x[u32(from_wide(x[0u]).y)]) + from_wide(y[2u]));");
        let found = body(PAIRS, "let p = pairs[0u][1];\npairs[1u] = mat2x4<f32>(p, p);");
        assert_eq!(
            found,
            "let p = from_wide_pair(pairs[0u])[1];\npairs[1u] = to_wide_pair(mat2x4<f32>(p, p));"
        );
    }

    #[test]
    fn comparisons_and_members_are_no_stores() {
        let within = format!("struct S {{\n    x: f32,\n}}\n{X}\n{Y}");
        let found = body(&within, "var s: S;\nif (x[0u].x == s.x) { y[0u] = x[0u]; }");
        assert!(found.contains("from_wide(x[0u]).x == s.x"), "{found}");
    }

    #[test]
    fn what_is_added_to_is_read_and_set() {
        let found = body(&format!("{X}\n{Y}"), "y[0u] += x[1u] * 2.0;");
        assert_eq!(found, "y[0u] = to_wide(from_wide(y[0u]) + (from_wide(x[1u]) * 2.0));");
    }

    #[test]
    fn arrays_that_are_used_otherwise_stay_as_they_are() {
        for statement in [
            "y[0u].x = 1.0;",
            "y[0u].x += 1.0;",
            "y[0u][1u + 1u] = 1.0;",
            "let n = arrayLength(&y);",
            "let p = &y[0u];",
            "let y = array<f32, 2>(1.0, 2.0);\nlet s = y[0];",
        ] {
            assert_eq!(body(Y, statement), statement);
        }
        let sum = "fn sum(y: array<f32, 2>) -> f32 {\n    return y[0] + y[1];\n}";
        let found = body(&format!("{sum}\n{Y}"), "y[0u] = vec4<f32>(sum(array<f32, 2>(1.0, 2.0)));");
        assert!(!found.contains("to_wide"), "{found}");
    }

    #[test]
    fn a_struct_on_one_line_hides_nothing_after_it() {
        let found = body(
            &format!("struct S {{ a: f32, }}\nfn f_of(y: f32) -> f32 {{ return y; }}\n{Y}"),
            "y[0u] = vec4<f32>(1.0);",
        );
        assert!(!found.contains("to_wide"), "a parameter has the array's name: {found}");
    }
}
