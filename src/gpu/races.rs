//! Races in a workgroup's memory, found: for tests ([`super::watch`]). A software adapter runs the subgroups of a workgroup one after
//! the other between barriers, and the lanes of one in step, so that a barrier that is missing shows on a GPU alone, now and then.
//!
//! Every element of an array in a workgroup's memory has a word beside it that says who accessed it since the last barrier. What
//! counts: an element that one invocation sets and another reads or sets without a barrier between, in whatever order they come;
//! one that several set only where it is read before it is set again, since what nobody reads may be anything. Indices beyond the
//! end are counted as those of storage are ([`super::bounds`]).

use super::wide::{assignment, next_element, part_end};

/// The upper half of a word says since which barrier it holds; of the lower, the first ten bits are the number of the invocation that
/// set the element, or else of the first that read it.
const COUNTING: &str = "
var<private> races: u32 = 0u;
var<private> unset_reads: u32 = 0u;
var<private> lane_here: u32;
var<private> since: u32 = 65536u;

const SEVERAL_READ: u32 = 1024u;
const IS_SET: u32 = 2048u;
const SEVERAL_SET: u32 = 4096u;
const WAS_SET: u32 = 8192u;
const IS_READ: u32 = 16384u;

fn is_another(before: u32) -> bool {
    return (before & 1023u) != lane_here;
}
";

/// What stands for that where races are not looked for.
pub(super) const NOT_COUNTING: &str = "
const races: u32 = 0u;
const unset_reads: u32 = 0u;
var<private> lane_here: u32;
";

/// What is written for an array; each has functions of its own, as none can be handed an array of atomics. Where lanes in step read an
/// element, the last of them alone is remembered, and may set it unnoticed; so may, on a GPU, who comes between a read's two accesses to
/// the word. To exchange it would miss neither, and takes a software adapter twice as long.
const COUNTING_ONE: &str = "
var<workgroup> seen_NAME: array<atomic<u32>, LENGTH>;

fn within_NAME(index: u32) -> u32 {
    return counted_index(index, u32(LENGTH));
}

fn read_of_NAME(wanted: u32) -> u32 {
    let index = within_NAME(wanted);
    let before = atomicLoad(&seen_NAME[index]);
    let is_now = before >> 16u == since >> 16u;
    let set_now = is_now && (before & IS_SET) > 0u;
    let several = select(0u, SEVERAL_READ, is_now && !set_now && is_another(before));
    let first = since | lane_here | (before & (WAS_SET | SEVERAL_SET));
    atomicStore(&seen_NAME[index], select(first, before | several, is_now) | IS_READ);
    races += select(0u, 1u, (before & SEVERAL_SET) > 0u || (set_now && is_another(before)));
    unset_reads += select(0u, 1u, (before & WAS_SET) == 0u);
    return index;
}

fn set_of_NAME(wanted: u32) -> u32 {
    let index = within_NAME(wanted);
    let mine = since | WAS_SET | IS_SET | lane_here;
    let before = atomicExchange(&seen_NAME[index], mine);
    if (before >> 16u == since >> 16u) {
        let several = select(0u, SEVERAL_SET, (before & IS_SET) > 0u && is_another(before));
        atomicStore(&seen_NAME[index], mine | several | (before & (IS_READ | SEVERAL_READ | SEVERAL_SET)));
        let others_read = (before & SEVERAL_READ) > 0u || ((before & IS_READ) > 0u && is_another(before));
        races += select(0u, 1u, others_read);
    }
    return index;
}
";

const LOAD: &str = "workgroupUniformLoad(";

/// The code with every access to an array in a workgroup's memory looked at, but for those that matrix units load and store by
/// themselves.
///
/// # Panics
/// Where it cannot be told who accesses an array, or when.
pub(super) fn counted(code: &str) -> String {
    let is_pointed_at = |(name, _): &(&str, &str)| code.contains(&format!("&{name}["));
    let arrays: Vec<(&str, &str)> =
        code.lines().filter_map(declaration).filter(|array| !is_pointed_at(array)).collect();
    for (entry, _) in code.match_indices("@compute") {
        let signature = &code[entry..entry + code[entry..].find('{').expect("a body")];
        let is_known = signature.contains(": Invocation") || signature.contains("@workgroup_size(1)");
        assert!(arrays.is_empty() || is_known, "an Invocation says who accesses what: {signature}");
    }
    assert!(!code.contains(&format!("return {LOAD}")), "what follows it would not be reached");
    let names: Vec<&str> = arrays.iter().map(|(name, _)| *name).collect();
    let mut text =
        rewritten(code, &names).replace("workgroupBarrier();", "workgroupBarrier(); since += 65536u;");
    // It has a barrier before and after.
    let loads: Vec<usize> = text.match_indices(LOAD).map(|(at, _)| at).collect();
    for load in loads.into_iter().rev() {
        let end = load + text[load..].find(';').expect("a statement has an end");
        text.insert_str(end + 1, " since += 65536u;");
    }
    text.push_str(COUNTING);
    for (name, length) in arrays {
        text.push_str(&COUNTING_ONE.replace("NAME", name).replace("LENGTH", length));
    }
    text
}

/// Name and length of the array in a workgroup's memory that a line declares.
fn declaration(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("var<workgroup> ")?.split_once(": array<")?;
    Some((name, rest.strip_suffix(">;")?.rsplit_once(", ")?.1))
}

fn rewritten(code: &str, arrays: &[&str]) -> String {
    let mut text = String::new();
    let mut done = 0;
    while let Some((at, word, element)) = next_element(code, done, |word| arrays.contains(&word)) {
        text.push_str(&code[done..at]);
        let index = format!("u32({})", rewritten(&code[element.index.clone()], arrays));
        let part = part_end(code, element.end);
        let steps = ["++", "--"].iter().any(|step| code[part..].starts_with(step));
        done = element.end;
        match assignment(&code[part..]) {
            None if steps => text.push_str(&format!("{word}[set_of_{word}(read_of_{word}({index}))]")),
            None => text.push_str(&format!("{word}[read_of_{word}({index})]")),
            Some(("", value)) => {
                let end = code.len() - value.len() + value.find(';').expect("a statement has an end");
                let value = rewritten(code[code.len() - value.len()..end].trim(), arrays);
                let part = &code[element.end..part];
                let target = format!("{word}[set_of_{word}({index})]{part}");
                // What is read is read first: the language looks at the target before.
                let reads = value.contains("read_of_");
                text.push_str(&if reads {
                    format!("{{ let value_read = {value}; {target} = value_read; }}")
                } else {
                    format!("{target} = {value}")
                });
                done = end + usize::from(reads);
            }
            Some(_) => text.push_str(&format!("{word}[set_of_{word}(read_of_{word}({index}))]")),
        }
    }
    text + &code[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(statements: &str) -> String {
        let text = format!(
            "struct Invocation {{\n    @builtin(local_invocation_index) lane: u32,\n}}\nvar<workgroup> a: array<vec2<f32>, 8u>;\n\
             @compute @workgroup_size(8)\nfn f(id: Invocation) {{\n{statements}\n}}\n"
        );
        let watched = crate::gpu::watch::watched(&text, crate::gpu::Watched::BoundsAndRaces);
        if let Err(e) = naga::front::wgsl::parse_str(&watched) {
            panic!("{}", e.emit_to_string(&watched));
        }
        let (_, body) = watched.split_once("lane_here = id.lane;\n").expect("the function");
        body.split_once("\n    tell_faults();").expect("its end").0.to_owned()
    }

    #[test]
    fn what_is_read_and_what_is_set_is_told_apart() {
        assert_eq!(body("let x = a[1u].y;"), "let x = a[read_of_a(u32(1u))].y;");
        assert_eq!(
            body("a[u32(a[0u].x)].y = 2.0;"),
            "a[set_of_a(u32(u32(a[read_of_a(u32(0u))].x)))].y = 2.0;"
        );
        assert_eq!(body("a[3] *= a[2];"), "a[set_of_a(read_of_a(u32(3)))] *= a[read_of_a(u32(2))];");
    }

    #[test]
    fn what_an_element_is_made_of_is_read_before_it_is_set() {
        let found = body("a[id.lane] = a[id.lane] + a[0];");
        let value = "a[read_of_a(u32(id.lane))] + a[read_of_a(u32(0))]";
        assert_eq!(found, format!("{{ let value_read = {value}; a[set_of_a(u32(id.lane))] = value_read; }}"));
    }

    #[test]
    fn barriers_are_counted_also_those_of_a_uniform_load() {
        let found = body("workgroupBarrier();\nlet x = workgroupUniformLoad(&a)[0];");
        assert_eq!(
            found,
            "workgroupBarrier(); since += 65536u;\nlet x = workgroupUniformLoad(&a)[0]; since += 65536u;"
        );
    }

    #[test]
    #[should_panic(expected = "an Invocation says who accesses what")]
    fn a_kernel_that_cannot_tell_its_invocations_apart_is_refused() {
        counted("var<workgroup> a: array<f32, 8>;\n@compute @workgroup_size(8)\nfn f() {\n}\n");
    }
}
