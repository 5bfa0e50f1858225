//! The architecture, held by text: which folder may import which, who names wgpu, how long things may grow.
//! No GPU, no compiler: sources are read with their comments and literals blanked out.

mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use text::{code_only, first_word, functions, is_word, line_of, word_places};

/// Folders from the top down: a file imports only from rows below its own folder's row (and from its own folder).
const LAYERS: [&[&str]; 8] = [
    &["cli"],
    &["exchange"],
    &["matrix", "inference"],
    &["train"],
    &["data", "model", "report", "interop"],
    &["ops"],
    &["tape"],
    &["gpu"],
];
/// What anybody may import; these import only each other.
const LEAVES: [&str; 3] = ["config", "error", "files"];
/// The crate's two roots name the folders and belong to none.
const ROOTS: [&str; 2] = ["lib", "main"];
const MAX_FUNCTION_LINES: usize = 80;
const MAX_SHADER_LINES: usize = 220;

/// One file: its path relative to the crate, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// The module path of a file under src: `src/train/step.rs` is `["train", "step"]`.
    fn module(&self) -> Vec<String> {
        let relative = self.path.strip_prefix("src").unwrap_or(&self.path).with_extension("");
        let parts = relative.iter().map(|part| part.to_string_lossy().into_owned());
        parts.filter(|part| part != "mod").collect()
    }

    /// The folder under src (or the leaf's own name) that decides what this file may import.
    fn layer(&self) -> String {
        self.module().first().cloned().unwrap_or_default()
    }
}

/// Every file below `folder` with this extension, in a stable order. An absent folder holds none.
fn sources(folder: &str, extension: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(dir) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = std::fs::read_to_string(&path).expect("a readable text file");
                let path = path.strip_prefix(root).expect("below the crate").to_path_buf();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The crate's own modules that a file reaches, with their lines: `crate::a`, `crate::{a, b::c}` and `super` chains
/// long enough to leave the file's folder.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let code = code_only(&source.text);
    let mut found = Vec::new();
    for at in word_places(&code, "crate") {
        collect_roots(&code[at + "crate".len()..], line_of(&code, at), &mut found);
    }
    let depth = source.module().len();
    for at in word_places(&code, "super") {
        if !code[..at].trim_end().ends_with("::") {
            let (supers, rest) = super_chain(&code[at..]);
            if supers >= depth {
                collect_roots(rest, line_of(&code, at), &mut found);
            }
        }
    }
    found
}

/// Counts the `super`s of a path; the rest starts with what follows the last one.
fn super_chain(code: &str) -> (usize, &str) {
    let (mut count, mut rest) = (0, code);
    while first_word(rest) == "super" {
        let after = rest.trim_start()["super".len()..].trim_start();
        count += 1;
        match after.strip_prefix("::") {
            Some(next) if first_word(next) == "super" => rest = next,
            _ => return (count, after),
        }
    }
    (count, rest)
}

/// The first names after a path's root: one, or those of a group in braces.
fn collect_roots(after: &str, line: usize, found: &mut Vec<(usize, String)>) {
    let Some(path) = after.trim_start().strip_prefix("::") else { return };
    let path = path.trim_start();
    let Some(group) = path.strip_prefix('{') else {
        found.push((line, first_word(path).to_string()));
        return;
    };
    let mut depth = 0;
    let mut starts_name = true;
    for (at, c) in group.char_indices() {
        if starts_name && is_word(c) {
            found.push((line, first_word(&group[at..]).to_string()));
            starts_name = false;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' => starts_name = depth == 0,
            _ => {}
        }
    }
}

fn row(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&layer))
}

/// Whether a file of folder `from` may name `crate::to`.
fn may_import(from: &str, to: &str) -> bool {
    if from == to || LEAVES.contains(&to) {
        return true;
    }
    matches!((row(from), row(to)), (Some(above), Some(below)) if above < below)
}

/// Every import that runs against the layers, as `path:line: from -> to`.
fn upward_imports(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|s| !ROOTS.contains(&s.layer().as_str())) {
        let from = source.layer();
        for (line, to) in imports(source) {
            let known = row(&to).is_some() || LEAVES.contains(&to.as_str());
            if known && !may_import(&from, &to) {
                violations.push(format!("{}:{line}: {from} -> {to}", source.path.display()));
            }
        }
    }
    violations
}

/// Every place outside `home` whose code names `word`.
fn named_outside(sources: &[Source], word: &str, home: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|s| s.layer() != home) {
        let code = code_only(&source.text);
        let places = word_places(&code, word);
        violations
            .extend(places.map(|at| format!("{}:{}: {word}", source.path.display(), line_of(&code, at))));
    }
    violations
}

fn long_functions(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let long = functions(&source.text).into_iter().filter(|(_, _, lines)| *lines > MAX_FUNCTION_LINES);
        violations.extend(
            long.map(|(name, line, lines)| {
                format!("{}:{line}: {name}, {lines} lines", source.path.display())
            }),
        );
    }
    violations
}

/// What is wrong with the form of the shader files: length, missing head comment, conditional compilation.
fn shader_faults(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let mut fault = |what: String| violations.push(format!("{}: {what}", source.path.display()));
        let lines = source.text.lines().count();
        if lines > MAX_SHADER_LINES {
            fault(format!("{lines} lines, at most {MAX_SHADER_LINES}"));
        }
        if !source.text.starts_with("//") {
            fault("no comment at the head".into());
        }
        let conditional = |line: &&str| {
            let word = line.trim_start();
            ["#if", "#else", "#endif", "#define"].iter().any(|directive| word.starts_with(directive))
        };
        if let Some(line) = source.text.lines().find(conditional) {
            fault(format!("conditional compilation: {}", line.trim()));
        }
    }
    violations
}

fn assert_none(violations: &[String], rule: &str) {
    assert!(violations.is_empty(), "{rule}\n{}", violations.join("\n"));
}

fn rust_sources() -> Vec<Source> {
    let found = sources("src", "rs");
    assert!(found.len() > 5, "src holds {} Rust files: is this test run in the crate?", found.len());
    found
}

#[test]
fn every_folder_has_a_layer() {
    let placed: BTreeSet<&str> =
        LAYERS.concat().into_iter().chain(LEAVES).chain(ROOTS).collect::<BTreeSet<_>>();
    let layers: BTreeSet<String> = rust_sources().iter().map(Source::layer).collect();
    let unplaced: Vec<String> = layers.into_iter().filter(|layer| !placed.contains(layer.as_str())).collect();
    assert_none(&unplaced, "give these a place in LAYERS or LEAVES");
}

#[test]
fn imports_run_one_way() {
    assert_none(
        &upward_imports(&rust_sources()),
        "cli -> train -> {data, model, report, interop} -> ops -> tape -> gpu",
    );
}

#[test]
fn only_gpu_names_wgpu() {
    assert_none(&named_outside(&rust_sources(), "wgpu", "gpu"), "only src/gpu may name wgpu");
}

#[test]
fn tape_names_no_concrete_operation() {
    let tape: Vec<Source> = rust_sources().into_iter().filter(|s| s.layer() == "tape").collect();
    assert!(!tape.is_empty(), "no src/tape");
    let named: Vec<_> = tape.iter().filter(|s| imports(s).iter().any(|(_, to)| to == "ops")).collect();
    let paths: Vec<String> = named.iter().map(|s| s.path.display().to_string()).collect();
    assert_none(&paths, "the tape knows `dyn Op`, no concrete operation");
}

#[test]
fn functions_are_short() {
    assert_none(&long_functions(&rust_sources()), "functions of at most 80 lines");
}

#[test]
fn shaders_are_short_commented_and_unconditional() {
    assert_none(&shader_faults(&sources("shaders", "wgsl")), "see ARCHITECTURE.md, shaders");
}

#[test]
fn upward_imports_are_found_in_every_spelling() {
    let broken = [
        ("src/tape/plan.rs", "use crate::ops::Conv;"),
        ("src/ops/conv.rs", "fn f() { crate :: model::build(); }"),
        ("src/gpu/mod.rs", "use crate::{error::{Error, Result}, tape};"),
        ("src/gpu/mod.rs", "pub(crate) use super::train::step;"),
        ("src/gpu/device.rs", "use super::super::{cli};"),
        ("src/data/mod.rs", "use crate::report;"),
        ("src/config/mod.rs", "use crate::gpu;"),
        ("src/error.rs", "use crate::data::Sample;"),
        ("src/train/mod.rs", "/* crate::x */ const A: char = '\"'; use crate::cli;"),
    ];
    for (path, text) in broken {
        assert_eq!(upward_imports(&[Source::new(path, text)]).len(), 1, "{path}: {text}");
    }
}

#[test]
fn downward_imports_and_mere_mentions_pass() {
    let sound = [
        ("src/cli/train.rs", "use crate::{train::{self, data}, gpu};"),
        ("src/gpu/device.rs", "use super::kernel; use crate::gpu::shader; use crate::files;"),
        ("src/gpu/mod.rs", "//! See [`crate::train`].\n/* /* crate::ops */ crate::ops */"),
        ("src/gpu/mod.rs", "const A: &str = r#\"use crate::ops \" ;\"#; const B: &str = \"\\\"crate::ops\";"),
        ("src/tape/mod.rs", "fn f<'a>(x: &'a str) {} mod tests { use super::*; }"),
        ("src/lib.rs", "pub use crate::train::train;"),
    ];
    for (path, text) in sound {
        assert_eq!(upward_imports(&[Source::new(path, text)]), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn wgpu_outside_its_folder_is_found() {
    let broken = [Source::new("src/tape/mod.rs", "// wgpu\nlet wgpu_like = 0;\nuse wgpu::Buffer;")];
    assert_eq!(named_outside(&broken, "wgpu", "gpu"), ["src/tape/mod.rs:3: wgpu"]);
    assert!(named_outside(&[Source::new("src/gpu/a.rs", "use wgpu;")], "wgpu", "gpu").is_empty());
}

#[test]
fn function_lengths_are_counted_from_signature_to_brace() {
    let text = "trait T {\n fn declared(&self, a: [f32; 3]) -> [f32; 2];\n}\n\
                fn two(a: [f32; 3]) { let s = \"}\";\n}\ntype F = fn(u8);\nfn one() -> char { '}' }\n";
    let lengths: Vec<_> = functions(text).into_iter().map(|(name, _, lines)| (name, lines)).collect();
    assert_eq!(lengths, [("two".to_string(), 2), ("one".to_string(), 1)]);
    let body = "    let x = 1;\n".repeat(MAX_FUNCTION_LINES - 2);
    let fits = Source::new("src/a.rs", &format!("fn f() {{\n{body}}}\n"));
    let long = Source::new("src/a.rs", &format!("fn f() {{\n{body}\n}}\n"));
    assert!(long_functions(&[fits]).is_empty());
    assert_eq!(long_functions(&[long]), ["src/a.rs:1: f, 81 lines"]);
}

#[test]
fn shader_faults_are_found() {
    let broken = [
        Source::new("shaders/a.wgsl", "@compute fn f() {}"),
        Source::new("shaders/b.wgsl", "// head\n  #ifdef F16\n"),
        Source::new("shaders/c.wgsl", &"// line\n".repeat(MAX_SHADER_LINES + 1)),
    ];
    assert_eq!(shader_faults(&broken).len(), 3);
    assert!(shader_faults(&[Source::new("shaders/d.wgsl", "// y = x\n#import grid\n")]).is_empty());
}
