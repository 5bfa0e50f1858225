//! Races in a workgroup's memory, found: for tests ([`super::watch`]). A software adapter runs the subgroups of a workgroup one after
//! the other between barriers, and the lanes of one in step, so that a barrier that is missing shows on a GPU alone, now and then.
//!
//! Every element of an array in a workgroup's memory has a word beside it that says who accessed it since the last barrier. What
//! counts: an element that one invocation sets and another reads or sets without a barrier between, in whatever order they come;
//! one that several set only where it is read before it is set again, since what nobody reads may be anything. Indices beyond the
//! end are counted as those of storage are ([`super::bounds`]).

use super::wide::{Element, assignment, is_member, part_end, words};

/// `since` counts barriers in its upper half; of the lower, the first ten bits are an invocation's number.
const COUNTING: &str = "
var<private> races: u32 = 0u;
var<private> unset_reads: u32 = 0u;
var<private> lane_here: u32;
var<private> since: u32 = 65536u;

const SEVERAL_READ: u32 = 1024u;
const IS_SET: u32 = 2048u;
const SEVERAL_SET: u32 = 4096u;
const WAS_SET: u32 = 8192u;

fn is_another(before: u32) -> bool {
    return (before & 1023u) != lane_here;
}
";

/// What is told where nothing is looked at.
pub(super) const NOT_COUNTING: &str = "
const races: u32 = 0u;
const unset_reads: u32 = 0u;
var<private> lane_here: u32;
";

/// What is written for an array; each has functions of its own, as none can be handed an array of atomics.
const COUNTING_ONE: &str = "
var<workgroup> seen_NAME: array<atomic<u32>, LENGTH>;

fn within_NAME(index: u32) -> u32 {
    return counted_index(index, u32(LENGTH));
}

fn read_of_NAME(wanted: u32) -> u32 {
    let index = within_NAME(wanted);
    let before = atomicLoad(&seen_NAME[index]);
    let is_now = before >> 16u == since >> 16u;
    let is_set = is_now && (before & IS_SET) > 0u;
    let is_read = is_now && !is_set && (is_another(before) || (before & SEVERAL_READ) > 0u);
    // Lanes in step that read the same one leave the last of them.
    atomicStore(&seen_NAME[index], select((before & WAS_SET) | since | lane_here | select(0u, SEVERAL_READ, is_read), before, is_set));
    races += select(0u, 1u, (before & SEVERAL_SET) > 0u || (is_set && is_another(before)));
    unset_reads += select(0u, 1u, (before & WAS_SET) == 0u);
    return index;
}

fn set_of_NAME(wanted: u32) -> u32 {
    let index = within_NAME(wanted);
    let mine = since | WAS_SET | IS_SET | lane_here;
    let before = atomicExchange(&seen_NAME[index], mine);
    let is_now = before >> 16u == since >> 16u;
    let is_set = (before & IS_SET) > 0u;
    let others = is_now && (is_another(before) || (before & (SEVERAL_READ | SEVERAL_SET)) > 0u);
    if (others && is_set) {
        atomicStore(&seen_NAME[index], mine | SEVERAL_SET);
    }
    races += select(0u, 1u, others && !is_set);
    return index;
}
";

/// The code with every access to an array in a workgroup's memory looked at.
pub(super) fn counted(code: &str) -> String {
    let arrays: Vec<(&str, &str)> = code.lines().filter_map(declaration).collect();
    assert!(arrays.is_empty() || code.contains(": Invocation"), "who accesses it is what an Invocation says");
    let names: Vec<&str> = arrays.iter().map(|(name, _)| *name).collect();
    let mut text = rewritten(code, &names);
    text = text.replace("workgroupBarrier();", "workgroupBarrier(); since += 65536u;");
    // It has a barrier before and after.
    for load in
        text.match_indices("workgroupUniformLoad(").map(|(at, _)| at).collect::<Vec<_>>().into_iter().rev()
    {
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
    for (at, word) in words(code) {
        if at < done || is_member(code, at) || !arrays.contains(&word) {
            continue;
        }
        let Some(element) = Element::at(code, at + word.len()) else { continue };
        // Matrix units load and store by themselves.
        if code[..at].ends_with('&') {
            continue;
        }
        let index = rewritten(&code[element.index.clone()], arrays);
        let index = format!("u32({index})");
        let index = match assignment(&code[part_end(code, element.end)..]) {
            None => format!("read_of_{word}({index})"),
            Some(("", _)) => format!("set_of_{word}({index})"),
            Some(_) => format!("set_of_{word}(read_of_{word}({index}))"),
        };
        text.push_str(&code[done..element.index.start]);
        text.push_str(&index);
        done = element.index.end;
    }
    text + &code[done..]
}
