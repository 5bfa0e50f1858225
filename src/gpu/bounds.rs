//! Accesses beyond the end of an array, found: for tests ([`super::watch`]). A device opened for training has neither wgpu nor its
//! driver check bounds ([`super::vulkan`]), so that a kernel has to stay within its buffers by itself; a check that makes an access
//! harmless would hide that it does not.

use super::wide::{declaration, next_element};

/// An invocation counts for itself, without a branch: with an atomic at every access the driver worked on kernels for two or three times
/// as long.
const COUNTING: &str = "
var<private> beyond_end: u32 = 0u;

fn counted_index(index: u32, length: u32) -> u32 {
    beyond_end += select(0u, 1u, index >= length);
    return min(index, length - 1u);
}
";

/// The code with every index of an array in storage going through a function that counts those beyond the end, and gives the last
/// element's instead.
pub(super) fn counted(code: &str) -> String {
    let arrays: Vec<&str> = code.lines().filter_map(|line| declaration(line)).map(|(name, _)| name).collect();
    rewritten(code, &arrays) + COUNTING
}

fn rewritten(code: &str, arrays: &[&str]) -> String {
    let mut text = String::new();
    let mut done = 0;
    while let Some((_, word, element)) = next_element(code, done, |word| arrays.contains(&word)) {
        let index = rewritten(&code[element.index.clone()], arrays);
        text.push_str(&code[done..element.index.start]);
        text.push_str(&format!("counted_index(u32({index}), arrayLength(&{word}))"));
        done = element.index.end;
    }
    text + &code[done..]
}

#[cfg(test)]
mod tests {
    use crate::gpu::watch::{Watched, watched};

    fn body(statement: &str) -> String {
        let text = format!("{X}\n{Y}\n@compute @workgroup_size(1)\nfn f() {{\n{statement}\n}}\n");
        let watched = watched(&text, Watched::Bounds);
        if let Err(e) = naga::front::wgsl::parse_str(&watched) {
            panic!("{}", e.emit_to_string(&watched));
        }
        let (_, body) = watched.split_once("fn f() {").expect("the function");
        body.split_once("\n}").expect("its end").0.to_owned()
    }

    const X: &str = "@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;";
    const Y: &str = "@group(0) @binding(1) var<storage, read_write> y: array<f32>;";
    #[test]
    fn every_index_is_counted_also_one_within_another() {
        let found = body("y[u32(x[2].y)] = x[1u].x; // y[3u]");
        assert_eq!(
            found,
            "\ny[counted_index(u32(u32(x[counted_index(u32(2), arrayLength(&x))].y)), arrayLength(&y))] = \
             x[counted_index(u32(1u), arrayLength(&x))].x;\n    tell_faults();"
        );
    }
}
